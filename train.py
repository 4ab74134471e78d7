"""Train with the settings of a file: the same as ``scai train``.

    python train.py --config config.yaml [--resume auto|never|FILE] [--iterations N]

Without ``--resume``, where there are checkpoints, it asks whether to go on from the newest; where
nobody can be asked, it goes on. ``--help`` lists all options.
"""

import sys

try:
    from scai.__main__ import main
except ImportError as error:
    sys.exit(f"train.py: {error}; install the package in this directory: pip install .")

main("train", *sys.argv[1:])
