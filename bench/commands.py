"""How long `scai list` and `scai diff` take: `make bench-commands`.

A directory of 1,000 checkpoints, and pairs of checkpoints of 1 MiB and of 1 GiB that differ in one
tensor, all in the page cache; without `--digests-only` all are read. Each command is a process of
its own, from start to end; they take turns, and medians are printed, beside those of a command that
does nothing.
"""

from __future__ import annotations

import argparse
import random
import statistics
import subprocess
import tempfile
from pathlib import Path

import torch
from rivals import seconds
from scai.utils.checkpoint import CheckpointManager

TENSORS = 64


def pair(directory: Path, nbytes: int) -> list[str]:
    """Two checkpoints of so many bytes; one tensor of 64 differs."""
    size = nbytes // 4 // TENSORS
    model = {f"layer.{i}.weight": torch.randn(size) for i in range(TENSORS)}
    manager = CheckpointManager(directory)
    paths = []
    for iteration in (1, 2):
        paths.append(manager.save_checkpoint(model, iteration=iteration, rng=False))
        model["layer.7.weight"] += 1
    return paths


def run(command: list[str]) -> None:
    # Two files that differ are an exit status of 1.
    subprocess.run(command, stdout=subprocess.DEVNULL, check=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scai", default="target/release/scai", help="the command")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--directory", type=Path, default=Path("."), help="on the disk to measure")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-", dir=args.directory) as base:
        many = Path(base) / "many"
        manager = CheckpointManager(many)
        for iteration in range(1000):
            manager.save_checkpoint({"weight": torch.randn(64)}, iteration=iteration, rng=False)
        commands = {"--version": ["--version"], "list of 1,000 checkpoints": ["list", str(many)]}
        for name, nbytes in {"1 MiB": 1 << 20, "1 GiB": 1 << 30}.items():
            paths = pair(Path(base) / name, nbytes)
            commands[f"diff of {name}"] = ["diff", *paths]
            commands[f"diff --digests-only of {name}"] = ["diff", "--digests-only", *paths]
        times: dict[str, list[float]] = {name: [] for name in commands}
        for round_ in range(args.rounds + 1):
            for name, command in random.sample(sorted(commands.items()), len(commands)):
                took = seconds(lambda command=command: run([args.scai, *command]))
                # The first round brings everything into the page cache.
                if round_:
                    times[name].append(took)
    for name, measured in times.items():
        print(f"scai {name:<28} {statistics.median(measured) * 1e3:8.1f} ms")


if __name__ == "__main__":
    main()
