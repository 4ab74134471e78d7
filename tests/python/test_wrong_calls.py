"""Calls that mean something else than they say: each is refused, or said, and nothing is lost."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import pytest
import scai
import torch
from scai import CheckpointManager
from torch import nn


def small() -> tuple[nn.Linear, torch.optim.Optimizer]:
    model = nn.Linear(2, 2)
    return model, torch.optim.SGD(model.parameters(), momentum=0.9)


def test_a_path_into_another_directory_never_means_a_file_of_this_one(tmp_path: Path) -> None:
    mine, other = (CheckpointManager(tmp_path / name) for name in ("mine", "other"))
    paths = {
        manager: [manager.save_checkpoint({}, iteration=i) for i in (1, 2)]
        for manager in (mine, other)
    }
    for call in (mine.delete, mine.pin, mine.unpin):
        for path in (paths[other][0], "/nonexistent/checkpoint_iter_1.pt"):
            with pytest.raises(ValueError, match="is not in this manager's directory"):
                call(path)
    assert mine.list_checkpoints() == paths[mine] and other.list_checkpoints() == paths[other]


def test_a_relative_path_that_was_returned_can_be_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    manager = CheckpointManager("./run")
    path = manager.save_checkpoint({}, iteration=1)
    manager.save_checkpoint({}, iteration=2)
    assert path == "run/checkpoint_iter_1.pt"
    manager.pin(path)
    manager.unpin(Path(path))
    manager.delete(path)
    assert manager.all_iterations() == [2]


def test_a_bare_name_is_a_file_of_the_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    scai.save({"iteration": 99}, "checkpoint_iter_1.pt")
    manager = CheckpointManager("run")
    manager.save_checkpoint({}, iteration=1)
    assert manager.load_checkpoint("checkpoint_iter_1.pt")["iteration"] == 1
    scai.save(torch.load(manager.list_checkpoints()[0]), "elsewhere.pt")
    assert manager.load_checkpoint("elsewhere.pt")["iteration"] == 1


def test_another_name_of_the_newest_is_neither_pinned_nor_deleted(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path)
    manager.save_checkpoint({}, iteration=1)
    for call in (manager.pin, manager.delete):
        with pytest.raises(ValueError, match="an alias of the newest checkpoint"):
            call("latest.pt")
    assert not (tmp_path / "latest.pt.pinned").exists()


@pytest.mark.parametrize("given", ["model", 1.5, True, object()])
def test_what_is_neither_a_path_nor_an_iteration_is_named(tmp_path: Path, given: Any) -> None:
    manager = CheckpointManager(tmp_path)
    given = small()[0] if given == "model" else given
    with pytest.raises(TypeError, match="must be a path or an iteration, got ") as raised:
        manager.load_checkpoint(given, small()[1])
    assert ("pass what is to be loaded by keyword" in str(raised.value)) == isinstance(given, nn.Module)


def test_a_scheduler_is_no_optimizer(tmp_path: Path) -> None:
    model, optimizer = small()
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    manager = CheckpointManager(tmp_path)
    for arguments in ((model, scheduler), (scheduler, optimizer)):
        with pytest.raises(TypeError, match=r"is a scheduler \(StepLR\); pass it as `scheduler`"):
            manager.save_checkpoint(*arguments, 1)
    with pytest.raises(TypeError, match="is a scheduler"):
        manager.resume(model, scheduler)


@pytest.mark.parametrize("flag", ["rng", "wait"])
def test_what_is_neither_true_nor_false_is_refused_by_saves(tmp_path: Path, flag: str) -> None:
    wrong: dict[str, Any] = {flag: "no"}
    with pytest.raises(TypeError, match=f"`{flag}` must be True or False, got str"):
        CheckpointManager(tmp_path).save_checkpoint({}, iteration=1, **wrong)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("flag", ["strict", "rng", "cast", "mmap"])
def test_what_is_neither_true_nor_false_is_refused_by_loads(tmp_path: Path, flag: str) -> None:
    manager = CheckpointManager(tmp_path)
    manager.save_checkpoint({}, iteration=1)
    wrong: dict[str, Any] = {flag: torch.Generator()}
    for call in (manager.load_checkpoint, manager.resume):
        with pytest.raises(TypeError, match=f"`{flag}` must be True or False, got Generator"):
            call(**wrong)


def test_a_part_that_a_resume_leaves_out_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model, optimizer = small()
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    manager = CheckpointManager(tmp_path)
    manager.save_checkpoint(model, optimizer, 1, scheduler=scheduler, parts={"target": model})
    with caplog.at_level(logging.WARNING, "scai"):
        manager.resume(model)
        assert "also holds optimizer_state_dict, scheduler_state_dict, target_state_dict" in caplog.text
        caplog.clear()
        manager.resume(model, optimizer, scheduler=scheduler, parts={"target": model})
        # Looking at what there is restores nothing.
        manager.resume()
        manager.save_checkpoint(model, iteration=2)
        manager.resume(model)
        assert caplog.text == ""


def test_an_empty_directory_name_is_not_the_working_directory() -> None:
    with pytest.raises(ValueError, match="`checkpoint_dir` is empty"):
        CheckpointManager("")


def test_a_file_is_not_given_the_name_of_another_format(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="scai convert"):
        scai.save({"w": torch.ones(2)}, tmp_path / "w.safetensors")
    assert os.listdir(tmp_path) == []


def test_what_is_best_needs_a_goal(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path)
    for wrong in ("loss", "", "loss:least", "loss:min:2x"):
        with pytest.raises(ValueError, match="`by` is .*must be a statistic and a goal"):
            manager.best_checkpoint(wrong)


def test_a_cast_that_was_asked_for_is_not_advised(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path)
    manager.save_checkpoint({"n": torch.arange(3)}, iteration=1)
    with pytest.raises(scai.errors.MismatchError, match="floating-point types can be converted"):
        manager.load_checkpoint(1, {"n": torch.zeros(3)}, cast=True)


class OnlySaves:
    """An object whose state can be saved, and not loaded."""

    def state_dict(self) -> dict[str, Any]:
        return {}


@pytest.mark.parametrize("name", ["scheduler", "scaler", "dataloader", "ema", "replay"])
@pytest.mark.parametrize("part", [OnlySaves(), 3, {"w": torch.ones(1)}])
def test_what_cannot_be_loaded_is_refused_when_it_is_saved(
    tmp_path: Path, name: str, part: Any
) -> None:
    if name == "ema" and isinstance(part, dict):
        # Averaged tensors are loaded in place.
        return
    arguments: dict[str, Any] = {"parts": {name: part}} if name == "replay" else {name: part}
    manager = CheckpointManager(tmp_path)
    for call in (
        lambda: manager.save_checkpoint({}, iteration=1, **arguments),
        lambda: manager.resume(**arguments),  # also in an empty directory
    ):
        with pytest.raises(TypeError, match=f"`{name}` is a .*, which has no (load_)?state_dict"):
            call()
    if isinstance(part, dict):
        with pytest.raises(TypeError, match="go into `extra`"):
            manager.save_checkpoint({}, iteration=1, **arguments)
    assert manager.list_checkpoints() == []


def test_tensors_that_are_stepped_and_not_saved_are_warned_of_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model, optimizer = small()
    alpha = nn.Parameter(torch.zeros(1))
    stray = torch.optim.Adam([alpha])
    manager = CheckpointManager(tmp_path)
    with caplog.at_level(logging.WARNING, "scai"):
        for iteration in (1, 2):
            manager.save_checkpoint({"m": model}, {"m": optimizer, "alpha": stray}, iteration)
        assert caplog.text.count("`optimizer['alpha']` steps 1 tensors that are in no model") == 1
        caplog.clear()
        # Whoever saves it in one of these ways is not warned.
        held = nn.ParameterDict({"alpha": alpha})
        for saved in ({"parts": {"alpha": held}}, {"extra": {"alpha": alpha}}):
            again = torch.optim.Adam([alpha])
            arguments: dict[str, Any] = saved
            manager.save_checkpoint(
                {"m": model}, {"m": optimizer, "alpha": again}, 3, **arguments
            )
        manager.save_checkpoint({"m": model, "alpha": held}, torch.optim.Adam([alpha]), 4)
        manager.save_checkpoint(model.state_dict(), torch.optim.Adam([alpha]), 5)
        assert caplog.text == ""
