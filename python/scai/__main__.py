"""The command ``scai``: the same as the Rust binary."""

from __future__ import annotations

import signal
import sys

from scai import _native


def main(*args: str) -> None:
    """Run the command line, by default with the program's arguments, and exit with its code."""
    # The command has its own ways with Ctrl-C; Python's would only act once it has returned.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.exit(_native.main(["scai", *(args or sys.argv[1:])]))


if __name__ == "__main__":
    main()
