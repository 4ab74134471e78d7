"""The garbage collector stands still during a load, and runs again after it."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest
import scai
import torch
from nets import training
from scai.utils.checkpoint import CheckpointManager


@pytest.fixture
def collections() -> Iterator[list[str]]:
    """Names of the collections that begin from here on."""
    begun: list[str] = []

    def note(phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            begun.append(f"generation {info['generation']}")

    gc.callbacks.append(note)
    yield begun
    gc.callbacks.remove(note)


def test_a_load_of_many_tensors_is_not_looked_through(
    tmp_path: Path, collections: list[str]
) -> None:
    scai.save({str(i): torch.zeros(1) for i in range(3000)}, tmp_path / "many.pt")
    collections.clear()
    loaded = scai.load(tmp_path / "many.pt")
    assert len(loaded) == 3000
    assert len(collections) <= 1
    assert gc.isenabled()


def test_the_collector_runs_again_after_a_load_whether_it_fails_or_not(tmp_path: Path) -> None:
    model, optimizer = training()
    manager = CheckpointManager(tmp_path)
    path = manager.save_checkpoint(model, optimizer, iteration=1)
    manager.load_checkpoint(path, model)
    assert gc.isenabled()
    with pytest.raises(FileNotFoundError):
        manager.load_checkpoint(tmp_path / "none.pt", model)
    assert gc.isenabled()


def test_a_collector_that_is_off_stays_off(tmp_path: Path) -> None:
    scai.save({"x": torch.zeros(1)}, tmp_path / "one.pt")
    gc.disable()
    try:
        scai.load(tmp_path / "one.pt")
        assert not gc.isenabled()
    finally:
        gc.enable()
