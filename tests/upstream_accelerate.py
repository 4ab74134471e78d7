"""Run accelerate's own tests of `save_state` and `load_state` with its class, and with scai's in its place.

    python tests/upstream_accelerate.py SOURCE [--class stock|scai] [pytest options]

SOURCE is accelerate's source distribution, unpacked: `pip download --no-deps --no-binary :all:
accelerate==1.15.0`; the tests need `parameterized`. Prints how often scai was called: without a call
nothing was judged.
"""

from __future__ import annotations

import argparse
import collections
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

calls: collections.Counter[str] = collections.Counter()


def pytest_configure() -> None:
    """As a plug-in of pytest: put scai's class where the tests take Accelerate's."""
    if os.environ.get("SCAI_UPSTREAM") != "scai":
        return
    import accelerate
    from scai.integrations.accelerate import ScaiAccelerator

    class Counting(ScaiAccelerator):
        def save_state(self, *args: Any, **kwargs: Any) -> Path:
            calls["saves"] += 1
            return super().save_state(*args, **kwargs)

        def load_state(self, *args: Any, **kwargs: Any) -> None:
            calls["loads"] += 1
            super().load_state(*args, **kwargs)

    accelerate.Accelerator = Counting


def pytest_terminal_summary(terminalreporter: Any) -> None:
    counts = {
        kind: len(terminalreporter.stats.get(kind, []))
        for kind in ("passed", "skipped", "failed", "error")
    }
    print(f"\nrun {sum(counts.values())}, {counts}, calls of scai: {dict(calls)}")


def run(source: Path, name: str, options: list[str]) -> int:
    command = [sys.executable, "-m", "pytest", "-q", "--color=no", "-p", "no:cacheprovider"]
    command += ["-p", Path(__file__).stem, *options, "tests/test_state_checkpointing.py"]
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    print(f"\n## {name}: {' '.join(command[1:])}", flush=True)
    environment = os.environ | {"PYTHONPATH": path, "SCAI_UPSTREAM": name, "HF_HUB_OFFLINE": "1"}
    return subprocess.run(command, cwd=source, env=environment, check=False).returncode


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("source", type=Path)
    parser.add_argument("--class", dest="name", choices=["stock", "scai"], action="append")
    arguments, options = parser.parse_known_args()
    names = arguments.name or ["stock", "scai"]
    sys.exit(any([run(arguments.source.absolute(), name, options) for name in names]))


if __name__ == "__main__":
    main()
