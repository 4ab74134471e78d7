"""Run Lightning's own tests of checkpoints with its class, and with scai's in its place.

    python tests/upstream_lightning.py CHECKOUT [--only trainer|fabric] [--class stock|scai|scai-wait] \
        [pytest options]

CHECKOUT is a clone of Lightning's repository at tag 2.6.5 (the folders `tests` and `requirements`, and
`pyproject.toml`); the tests need `pytest-rerunfailures pytest-timeout pytest-random-order cloudpickle
scikit-learn jsonargparse[signatures] tensorboard`. Prints how often scai was called: without a call
nothing was judged.
"""

from __future__ import annotations

import argparse
import collections
import functools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

SUITES = {
    "trainer": [
        "tests_pytorch/checkpointing",
        "tests_pytorch/callbacks/test_model_checkpoint_additional_cases.py",
        "tests_pytorch/callbacks/test_model_checkpoint_edge_cases.py",
        "tests_pytorch/callbacks/test_model_checkpoint_manual_opt.py",
        "tests_pytorch/callbacks/test_model_checkpoint_step_interval_val_metric.py",
        "tests_pytorch/trainer/connectors/test_checkpoint_connector.py",
        "tests_pytorch/plugins/test_checkpoint_io_plugin.py",
        "tests_pytorch/plugins/test_async_checkpoint.py",
    ],
    "fabric": [
        "tests_fabric/utilities/test_cloud_io.py",
        "tests_fabric/utilities/test_load.py",
        "tests_fabric/test_fabric.py",
        "tests_fabric/strategies/test_strategy.py",
        "tests_fabric/strategies/test_single_device.py",
    ],
}
# The last one is scai's with ``wait=True``.
CLASSES = ["stock", "scai", "scai-wait"]
# They need an archive of old checkpoints that is not in the repository.
WITHOUT = "not legacy"

calls: collections.Counter[str] = collections.Counter()


def pytest_configure() -> None:
    """As a plug-in of pytest: put scai's class where Lightning takes its own."""
    if os.environ.get("SCAI_UPSTREAM", "").startswith("scai"):
        import lightning.fabric.strategies.strategy as fabric
        import lightning.pytorch.strategies.strategy as pytorch

        fabric.TorchCheckpointIO = pytorch.TorchCheckpointIO = counting()  # type: ignore[misc]


def counting() -> type:
    """scai's class, which also counts its calls."""
    from scai.integrations.lightning import ScaiCheckpointIO

    defaults: Any = ScaiCheckpointIO.__init__.__kwdefaults__
    defaults["wait"] = os.environ["SCAI_UPSTREAM"] == "scai-wait"
    for name in ("save_checkpoint", "remove_checkpoint", "load_checkpoint"):
        method = getattr(ScaiCheckpointIO, name)

        @functools.wraps(method)
        def counted(*args: Any, method: Any = method, **kwargs: Any) -> Any:
            calls[method.__name__] += 1
            return method(*args, **kwargs)

        setattr(ScaiCheckpointIO, name, counted)
    return ScaiCheckpointIO


def pytest_terminal_summary(terminalreporter: Any) -> None:
    counts = {
        kind: len(terminalreporter.stats.get(kind, []))
        for kind in ("passed", "skipped", "failed", "error")
    }
    print(f"\nrun {sum(counts.values())}, {counts}, calls of scai: {dict(calls)}")


def run(checkout: Path, suite: str, name: str, options: list[str]) -> int:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        Path(__file__).stem,
    ]
    command += ["--color=no", "--timeout", "240", "-k", WITHOUT, *options, *SUITES[suite]]
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    print(f"\n## {suite}, {name}: {' '.join(command[1:])}", flush=True)
    environment = os.environ | {"PYTHONPATH": path, "SCAI_UPSTREAM": name, "HF_HUB_OFFLINE": "1"}
    return subprocess.run(command, cwd=checkout / "tests", env=environment, check=False).returncode


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--only", choices=list(SUITES), action="append")
    parser.add_argument("--class", dest="name", choices=CLASSES, action="append")
    arguments, options = parser.parse_known_args()
    codes = [
        run(arguments.checkout.absolute(), suite, name, options)
        for suite in arguments.only or SUITES
        for name in arguments.name or CLASSES
    ]
    sys.exit(any(codes))


if __name__ == "__main__":
    main()
