"""A save that runs while the program ends, forks or is interrupted; see `endings.py`."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import endings
import pytest
import torch
from scai.utils.checkpoint import CheckpointManager
from test_live import differing


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The directory of all programs, and the exit status of each."""
    directory = tmp_path_factory.mktemp("endings")
    command = [sys.executable, endings.__file__, str(directory)]
    run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=600)
    return directory, json.loads(run.stdout)


def output(directory: Path, name: str) -> str:
    return (directory / name / "output").read_text()


@pytest.mark.parametrize(
    ("name", "status"),
    [("end", 0), ("exit_with_3", 3), ("uncaught", 1), ("end_of_a_thread", 0)]
    + [("without_a_manager", 0)],
)
def test_a_program_that_ends_waits_for_its_saves(ended: Any, name: str, status: int) -> None:
    directory, statuses = ended
    assert statuses[name] == status, output(directory, name)
    expected = torch.load(directory / name / "expected.pt")
    assert differing(expected, directory / name / "run/checkpoint_iter_2.pt") == []


@pytest.mark.parametrize(("name", "status"), [("at_once", 0), ("killed", -signal.SIGKILL)])
def test_a_program_that_is_gone_leaves_the_earlier_checkpoint(
    ended: Any, name: str, status: int
) -> None:
    directory, statuses = ended
    assert statuses[name] == status, output(directory, name)
    manager = CheckpointManager(directory / name / "run")
    expected = torch.load(directory / name / "expected.pt")
    names = [Path(path).name for path in manager.list_checkpoints()]
    assert "checkpoint_iter_1.pt" in names
    # The later one may be there, but not half.
    for iteration in (1, 2):
        path = directory / name / f"run/checkpoint_iter_{iteration}.pt"
        assert path.name not in names or differing(expected, path) == []
    manager.save_checkpoint({}, iteration=3)


def test_a_save_that_fails_at_the_end_is_told(ended: Any) -> None:
    directory, statuses = ended
    assert statuses["changed"] == 0
    assert "changed" in output(directory, "changed")
    assert not (directory / "changed/run/checkpoint_iter_2.pt").exists()


@pytest.mark.parametrize("name", ["interrupted", "fork", "workers"])
def test_nobody_hangs_and_every_save_is_right(ended: Any, name: str) -> None:
    directory, statuses = ended
    assert statuses[name] == 0, output(directory, name)
