"""Whatever tree of values: torch and scai read the same from a file, whoever wrote it.

`SCAI_PROOFS=full` tries 100,000 trees; a few minutes.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import scai
import torch
import trees

TREES = 100_000 if os.environ.get("SCAI_PROOFS") == "full" else 1_000
IN_A_FILE = 40
"""Trees that go into one file, and share objects with each other."""
PARTS = 10


@pytest.fixture
def path(tmp_path: Path) -> Path:
    memory = Path("/dev/shm")
    return (memory if memory.is_dir() else tmp_path) / f"{os.getpid()}-{tmp_path.name}.pt"


def batches(part: int, tagged: bool = False) -> object:
    count = TREES // IN_A_FILE // PARTS
    for seed in range(part * count, (part + 1) * count):
        source = trees.Trees(seed, tagged)
        yield seed, [source.tree() for _ in range(IN_A_FILE)]


def check(seed: int, what: str, a: object, b: object) -> None:
    found = trees.difference(a, b)
    assert found is None, f"seed {seed}, {what}: {found}"


@pytest.mark.parametrize("part", range(PARTS))
def test_what_torch_saves_scai_loads_as_torch_does(path: Path, part: int) -> None:
    for seed, tree in batches(part):
        torch.save(tree, path)
        check(seed, "torch.load and scai.load", torch.load(path), scai.load(path))
    path.unlink()


@pytest.mark.parametrize("part", range(PARTS))
def test_what_scai_saves_both_load_as_it_was(path: Path, part: int) -> None:
    for seed, tree in batches(part):
        scai.save(tree, path)
        check(seed, "scai.load", tree, scai.load(path))
        check(seed, "torch.load", tree, torch.load(path))
    path.unlink()


@pytest.mark.parametrize("part", range(PARTS))
def test_values_that_are_made_plain_come_back_as_the_objects_they_were(
    path: Path, part: int
) -> None:
    for seed, tree in batches(part, tagged=True):
        scai.save(tree, path)
        check(seed, "scai.load", tree, scai.load(path))
    path.unlink()
