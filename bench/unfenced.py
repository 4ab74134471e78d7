"""How often a write beside a live save is noticed that PyTorch does not count.

A save is held back behind another one; meanwhile some elements of a parameter are written through
NumPy; then it is seen whether the save fails. Writes that PyTorch counts are always noticed.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from collections.abc import Callable

import numpy as np
import torch
from scai.errors import ChangedError
from scai.utils.checkpoint import CheckpointManager

SIDE = 1024
BUSY = torch.zeros(24 << 20, dtype=torch.uint8)


Place = tuple[object, ...]


def at(*indices: object) -> Callable[[], Place]:
    return lambda: indices


def scattered(count: int) -> Callable[[], Place]:
    def choose() -> Place:
        return np.unravel_index(
            np.random.choice(SIDE * SIDE, count, replace=False), (SIDE, SIDE)
        )

    return choose


WRITES: dict[str, Callable[[], Place]] = {
    "one element": scattered(1),
    "64 elements in a row": at(7, slice(64)),
    "a row, 4 KiB": at(7),
    "a column, 1,024 elements": at(slice(None), 7),
    "10 elements anywhere": scattered(10),
    "100 elements anywhere": scattered(100),
    "1,000 elements anywhere": scattered(1000),
    "all": at(slice(None)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--saves", type=int, default=200, help="for each kind of write")
    saves = parser.parse_args().saves
    warnings.simplefilter("ignore")
    model = torch.nn.Linear(SIDE, SIDE, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    print(f"{SIDE} x {SIDE} float32, {saves} saves each")
    for name, choose in WRITES.items():
        noticed, tried = 0, 0
        with tempfile.TemporaryDirectory() as directory:
            manager = CheckpointManager(directory, keep_last=1, threads=1)
            for iteration in range(saves):
                place = choose()
                manager.save_checkpoint({"busy": BUSY}, iteration=2 * iteration, wait=False)
                handle = manager.save_checkpoint(model, optimizer, 2 * iteration + 1, wait=False)
                assert not handle._save.is_captured(), "the save was not held back"
                model.weight.detach().numpy()[place] += 1.0
                # Otherwise the write may have come after everything was read.
                is_beside = not handle._save.is_captured()
                tried += is_beside
                try:
                    handle.wait()
                except ChangedError:
                    noticed += is_beside
        print(f"{name:<28} noticed {noticed / tried:6.1%} of {tried}", flush=True)


if __name__ == "__main__":
    main()
