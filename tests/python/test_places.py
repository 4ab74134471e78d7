"""A directory behaves as people expect: going back, what was not read, where files go."""

import logging
import os
import shutil
import stat
from pathlib import Path

import numpy as np
import pytest
import scai
import torch
from scai.utils.checkpoint import CheckpointManager
from torch import nn


@pytest.fixture
def model() -> nn.Module:
    return nn.Linear(2, 2)


def iterations(manager: CheckpointManager) -> list[int]:
    return [int(Path(path).stem.rsplit("_", 1)[1]) for path in manager.list_checkpoints()]


def test_a_step_back_that_was_not_declared_is_logged_once_and_deletes_nothing(
    tmp_path, model, caplog
) -> None:
    with CheckpointManager(tmp_path) as old:
        for iteration in (118, 119, 120):
            old.save_checkpoint(model, iteration=iteration)
    manager = CheckpointManager(tmp_path, keep_last=3)
    with caplog.at_level(logging.WARNING, "scai"):
        manager.save_checkpoint(model, iteration=50)
        manager.save_checkpoint(model, iteration=51, wait=False)
        manager.flush()
    assert iterations(manager) == [50, 51, 118, 119, 120]
    warned = [record for record in caplog.records if "was saved below" in record.getMessage()]
    assert len(warned) == 1


def test_a_warning_of_a_save_in_the_background_is_logged_though_nobody_asks(
    tmp_path, model, caplog
) -> None:
    manager = CheckpointManager(tmp_path, keep_last=3)
    manager.save_checkpoint(model, iteration=5)
    with caplog.at_level(logging.WARNING, "scai"):
        manager.save_checkpoint(model, iteration=4, wait=False)
        manager.flush()
        manager.flush()
    assert sum("was saved below" in record.getMessage() for record in caplog.records) == 1


def test_going_back_on_purpose_holds_in_later_managers(tmp_path, model) -> None:
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with CheckpointManager(tmp_path, keep_last=3) as manager:
        for iteration in (1, 2, 3):
            model.bias.data.fill_(iteration)
            manager.save_checkpoint(model, optimizer, iteration)
        resumed = manager.resume(model, optimizer, at=1)
        assert resumed is not None and (resumed.iteration, model.bias[0].item()) == (1, 1.0)
    manager = CheckpointManager(tmp_path, keep_last=3)
    resumed = manager.resume(model, optimizer)
    assert resumed is not None and resumed.iteration == 1
    latest = manager.get_latest_checkpoint()
    assert latest is not None and Path(latest).name == "checkpoint_iter_1.pt"
    assert torch.load(tmp_path / "latest.pt")["iteration"] == 1
    verdicts = manager.prune(False, superseded=True)
    gone = [Path(verdict.path).name for verdict in verdicts if verdict.removed]
    assert gone == ["checkpoint_iter_2.pt", "checkpoint_iter_3.pt"]
    with pytest.raises(FileNotFoundError):
        manager.resume(model, at=7)
    with pytest.raises(ValueError, match="superseded"):
        manager.prune(superseded=True, keep_last=1)


def test_a_newest_checkpoint_that_needs_code_is_raised_or_skipped_and_never_replaced(
    tmp_path, model, caplog
) -> None:
    manager = CheckpointManager(tmp_path)
    manager.save_checkpoint(model, iteration=1)
    newest = tmp_path / "checkpoint_iter_2.pt"
    torch.save(
        {"iteration": 2, "model_state_dict": model, "optimizer_state_dict": {}}, newest
    )
    before = newest.read_bytes()
    with pytest.raises(scai.errors.UnsupportedError):
        manager.resume(model)
    with caplog.at_level(logging.WARNING, "scai"):
        resumed = manager.resume(model, on_unreadable="skip")
    assert resumed is not None and resumed.iteration == 1
    assert [skipped.path for skipped in resumed.skipped] == [str(newest)]
    assert any(str(newest) in record.getMessage() for record in caplog.records)
    manager.save_checkpoint(model, iteration=2)
    assert (tmp_path / "checkpoint_iter_2.pt.earlier").read_bytes() == before
    with pytest.raises(ValueError, match="on_unreadable"):
        manager.resume(model, on_unreadable="ignore")  # type: ignore[arg-type]


def test_what_load_checkpoint_read_may_be_replaced(tmp_path, model) -> None:
    CheckpointManager(tmp_path).save_checkpoint(model, iteration=1)
    manager = CheckpointManager(tmp_path)
    manager.load_checkpoint(tmp_path / "checkpoint_iter_1.pt", model)
    manager.save_checkpoint(model, iteration=1)
    assert not list(tmp_path.glob("*.earlier"))


def test_a_latest_that_is_all_there_is_is_resumed_from(tmp_path, model) -> None:
    (tmp_path / "a").mkdir()
    CheckpointManager(tmp_path / "b").save_checkpoint(model, iteration=7)
    shutil.copy(tmp_path / "b" / "latest.pt", tmp_path / "a")
    manager = CheckpointManager(tmp_path / "a")
    resumed = manager.resume(model)
    assert resumed is not None and (resumed.iteration, Path(resumed.path).name) == (7, "latest.pt")
    manager.save_checkpoint(model, iteration=8)
    assert iterations(manager) == [7, 8]


@pytest.mark.parametrize(
    "number",
    [np.array(0.1), np.array([0.1]), np.float32(0.1), torch.tensor([0.1]), torch.tensor(0.1)],
    ids=repr,
)
def test_a_number_in_an_array_is_compared_by_keep_best(tmp_path, model, number) -> None:
    manager = CheckpointManager(tmp_path, keep_last=1, keep_best="loss:min")
    for iteration, loss in [(1, 0.5), (2, number), (3, 0.4), (4, 0.3)]:
        manager.save_checkpoint(model, iteration=iteration, training_stats={"loss": loss})
    assert iterations(manager) == [2, 4]


@pytest.mark.parametrize("value", [np.zeros(2), torch.zeros(2), "0.1", [0.1], {}, 1j], ids=repr)
def test_what_keep_best_cannot_compare_is_an_error_of_the_save(tmp_path, model, value) -> None:
    manager = CheckpointManager(tmp_path, keep_best="loss:min")
    with pytest.raises(TypeError, match="loss.*keep_best"):
        manager.save_checkpoint(model, iteration=1, training_stats={"loss": value})
    assert not manager.list_checkpoints()
    manager.save_checkpoint(model, iteration=1, training_stats={"other": value, "loss": None})


@pytest.mark.parametrize("loss", [{}, {"loss": float("nan")}], ids=repr)
def test_a_statistic_that_nobody_has_is_warned_of_once(tmp_path, model, caplog, loss) -> None:
    manager = CheckpointManager(tmp_path, keep_last=1, keep_best="loss:min")
    with caplog.at_level(logging.WARNING, "scai"):
        for iteration in (1, 2, 3):
            manager.save_checkpoint(model, iteration=iteration, training_stats=loss)
    assert iterations(manager) == [1, 2, 3]
    assert sum("number `loss`" in record.getMessage() for record in caplog.records) == 1


def test_a_relative_directory_is_the_same_one_after_a_chdir(tmp_path, model, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    manager = CheckpointManager("run")
    assert manager.save_checkpoint(model, iteration=1) == "run/checkpoint_iter_1.pt"
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    path = manager.save_checkpoint(model, iteration=2)
    assert path == str(tmp_path / "run" / "checkpoint_iter_2.pt") and os.path.exists(path)
    manager.close()
    manager.save_checkpoint(model, iteration=3)
    assert all(map(os.path.exists, manager.list_checkpoints()))
    assert len(manager.list_checkpoints()) == 3 and not os.listdir(tmp_path / "elsewhere")


def test_a_directory_that_moved_is_said(tmp_path, model) -> None:
    manager = CheckpointManager(tmp_path / "run")
    manager.save_checkpoint(model, iteration=1)
    (tmp_path / "run").rename(tmp_path / "moved")
    with pytest.raises(OSError, match="renamed"):
        manager.save_checkpoint(model, iteration=2)


def test_urls_are_refused_at_every_door(tmp_path, model, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    doors = [
        lambda: CheckpointManager("ftp://host/run"),
        lambda: scai.save({}, "ftp://host/a.pt"),
        lambda: scai.load("hf://bucket/a.pt"),
        lambda: scai.verify("https://host/a.pt"),
        lambda: CheckpointManager(tmp_path).load_checkpoint("ftp://host/a.pt", model),
    ]
    for door in doors:
        with pytest.raises(OSError, match="not supported"):
            door()
    assert not any(":" in name for name in os.listdir(tmp_path))
    scai.save({"a": 1}, f"file://{tmp_path}/a.pt")
    assert scai.load(tmp_path / "a.pt") == {"a": 1}
    monkeypatch.setenv("HOME", str(tmp_path))
    assert scai.load("~/a.pt") == {"a": 1}


def test_devices_are_not_replaced_and_permissions_are_kept(tmp_path) -> None:
    with pytest.raises((OSError, ValueError), match="device"):
        scai.save({}, "/dev/null")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    path = tmp_path / "a.pt"
    scai.save({}, path)
    path.chmod(0o600)
    (tmp_path / "link.pt").symlink_to("a.pt")
    scai.save({"b": 2}, tmp_path / "link.pt")
    assert (tmp_path / "link.pt").is_symlink() and scai.load(path) == {"b": 2}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_directory_that_is_a_file_is_called_one(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="is a file, not a directory"):
        CheckpointManager(tmp_path / "file")
