"""The calls that people type without reading: by iteration, the latest, the best, delete, whether to save."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scai
import torch
from same import ANSWERS
from scai import CheckpointManager, _native
from test_cuda import Device, state

THREE = {100: 0.5, 200: 0.1, 300: 0.9}
"""Iterations and losses."""


@pytest.fixture
def three(manager: CheckpointManager) -> CheckpointManager:
    """A manager of the iterations 100, 200 and 300."""
    for iteration, loss in THREE.items():
        stats = {"loss": loss, "a:b": iteration, "text": "x", "nan": float("nan")}
        manager.save_checkpoint(
            {"w": torch.full((3,), iteration)}, iteration=iteration, training_stats=stats
        )
    return manager


def name(path: str | None) -> str | None:
    return None if path is None else os.path.basename(path)


def test_the_package_has_what_everybody_needs() -> None:
    from scai import CheckpointManager, SaveHandle, load, save, verify
    from scai.utils import checkpoint

    assert CheckpointManager is checkpoint.CheckpointManager
    assert SaveHandle is checkpoint.SaveHandle
    assert all(map(callable, (load, save, verify)))
    for each in scai.__all__:
        assert getattr(scai, each) is not None, each
    for each in checkpoint.__all__:
        assert getattr(checkpoint, each) is not None, each
    assert scai.__version__ == importlib.metadata.version("scai")


# Paths


def test_paths_are_strings_without_a_leading_dot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    manager = CheckpointManager("./run/", keep_last=2)
    assert manager.checkpoint_dir == "run"
    paths = [manager.save_checkpoint({}, iteration=i) for i in (1, 2)]
    assert paths == [f"run/checkpoint_iter_{i}.pt" for i in (1, 2)]
    assert all(type(path) is str for path in (*paths, manager.checkpoint_dir))
    assert manager.list_checkpoints() == paths
    assert manager.get_latest_checkpoint() == paths[1]
    assert manager.load_checkpoint().path == manager.load_checkpoint(2).path == paths[1]
    handle = manager.save_checkpoint({}, iteration=3, wait=False)
    assert handle.path == handle.result() == "run/checkpoint_iter_3.pt"
    assert handle.info is not None and handle.info.path == handle.path
    assert handle.info.removed == paths[:1]
    assert [verdict.path for verdict in manager.prune()] == manager.list_checkpoints()
    resumed = manager.resume()
    assert resumed is not None and resumed.path == resumed.checkpoint.path == handle.path


@pytest.mark.parametrize("directory", [".", "./"])
def test_paths_in_the_working_directory_are_names(
    directory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    manager = CheckpointManager(directory)
    assert manager.save_checkpoint({}, iteration=1) == "checkpoint_iter_1.pt"
    assert manager.list_checkpoints() == ["checkpoint_iter_1.pt"]


def test_errors_call_a_file_as_the_calls_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    manager = CheckpointManager("./run")
    with pytest.raises(FileNotFoundError) as raised:
        manager.load_checkpoint(7)
    assert str(raised.value) == "checkpoint `run/checkpoint_iter_7.pt` does not exist"


# By iteration

INTEGERS = [200, np.int64(200), np.uint8(200), np.array(200), torch.tensor(200)]


@pytest.mark.parametrize("iteration", INTEGERS, ids=repr)
def test_a_checkpoint_is_called_by_its_iteration(iteration: Any, three: CheckpointManager) -> None:
    checkpoint = three.load_checkpoint(iteration)
    assert checkpoint["iteration"] == 200 and checkpoint.path == three.list_checkpoints()[1]
    model = {"w": torch.zeros(3, dtype=torch.int64)}
    three.load_checkpoint(iteration, model)
    assert model["w"].tolist() == [200] * 3
    assert three.verify_checkpoint(iteration) == ANSWERS
    three.pin(iteration)
    verdicts = three.prune(dry_run=False, keep_last=1)
    assert [verdict.removed for verdict in verdicts] == [True, False, False]
    three.unpin(iteration)
    three.prune(dry_run=False, keep_last=1)
    assert three.all_iterations() == [300]


CALLS: dict[str, Callable[[CheckpointManager, Any], object]] = {
    "load_checkpoint": lambda manager, which: manager.load_checkpoint(which),
    "verify_checkpoint": lambda manager, which: manager.verify_checkpoint(which),
    "pin": lambda manager, which: manager.pin(which),
    "unpin": lambda manager, which: manager.unpin(which),
    "delete": lambda manager, which: manager.delete(which),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    ("which", "error", "message"),
    [
        (200.0, TypeError, "`checkpoint_path`.* float"),
        (np.float32(200), TypeError, "`checkpoint_path`.* float32"),
        (True, TypeError, "`checkpoint_path`.* bool"),
        (torch.nn.Linear(1, 1), TypeError, "`checkpoint_path`.* Linear"),
        ({"w": torch.ones(3)}, TypeError, "`checkpoint_path`.* dict"),
        (torch.tensor([1, 2]), TypeError, "`checkpoint_path`.* Tensor"),
        (torch.tensor(2.0), TypeError, "`checkpoint_path`.* Tensor"),
        ([200], TypeError, "`checkpoint_path`.* list"),
        (b"checkpoint_iter_200.pt", TypeError, "`checkpoint_path`.* bytes"),
        (-1, ValueError, "`checkpoint_path` is -1"),
        (2**63, ValueError, "`checkpoint_path` is 9223372036854775808"),
    ],
    ids=repr,
)
def test_what_is_neither_a_path_nor_an_iteration_is_refused(
    call: str, which: Any, error: type[Exception], message: str, three: CheckpointManager
) -> None:
    with pytest.raises(error, match=message):
        CALLS[call](three, which)
    assert three.all_iterations() == [100, 200, 300]


@pytest.mark.parametrize("call", ["load_checkpoint", "pin", "unpin", "delete"])
@pytest.mark.parametrize(
    "which",
    [
        lambda directory: 250,
        lambda directory: "checkpoint_iter_250.pt",
        lambda directory: f"{directory}/checkpoint_iter_250.pt",
    ],
    ids=["iteration", "name", "path"],
)
def test_a_checkpoint_that_is_missing_is_named(
    call: str, which: Callable[[str], Any], three: CheckpointManager
) -> None:
    with pytest.raises(FileNotFoundError, match="checkpoint_iter_250.pt` does not exist"):
        CALLS[call](three, which(three.checkpoint_dir))


@pytest.mark.parametrize("which", [250, "checkpoint_iter_250.pt"])
def test_a_checkpoint_that_is_missing_does_not_exist_for_verify(
    which: Any, three: CheckpointManager
) -> None:
    assert three.verify_checkpoint(which) == dict.fromkeys(ANSWERS, False)


# Which there are


def test_an_empty_directory_has_no_iterations(manager: CheckpointManager) -> None:
    assert manager.all_iterations() == []
    assert manager.latest_iteration() is None
    assert manager.best_checkpoint("loss:min") is None
    with pytest.raises(FileNotFoundError):
        manager.load_checkpoint(0)


def test_iterations_are_integers_in_order(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path)
    for iteration in (1000, 0, 9, 2**63 - 1, 10):
        manager.save_checkpoint({}, iteration=iteration)
    (tmp_path / "checkpoint_iter_x.pt").write_text("?")
    (tmp_path / "other.pt").write_text("?")
    assert manager.all_iterations() == [0, 9, 10, 1000, 2**63 - 1]
    assert {type(iteration) for iteration in manager.all_iterations()} == {int}
    assert manager.latest_iteration() == 2**63 - 1
    assert CheckpointManager(tmp_path).all_iterations() == manager.all_iterations()


def test_iterations_are_those_of_checkpoints_that_may_be_damaged(three: CheckpointManager) -> None:
    Path(three.list_checkpoints()[2]).write_bytes(b"nothing")
    assert three.all_iterations() == [100, 200, 300]
    assert three.latest_iteration() == 300


def test_superseded_checkpoints_are_listed_and_not_the_latest(three: CheckpointManager) -> None:
    three.rollback(100)
    assert three.all_iterations() == [100, 200, 300]
    assert three.latest_iteration() == 100
    assert name(three.get_latest_checkpoint()) == "checkpoint_iter_100.pt"
    assert name(three.best_checkpoint("loss:min")) == "checkpoint_iter_100.pt"
    assert three.should_save(101)
    three.save_checkpoint({}, iteration=101)
    assert three.latest_iteration() == 101


def test_the_latest_iteration_is_that_of_latest_pt_if_that_is_all_there_is(
    three: CheckpointManager,
) -> None:
    for path in three.list_checkpoints():
        os.unlink(path)
    assert three.all_iterations() == []
    assert name(three.get_latest_checkpoint()) == "latest.pt"
    assert three.latest_iteration() == 300
    assert not three.should_save(300) and three.should_save(301)


def test_a_save_in_the_background_is_the_latest(manager: CheckpointManager) -> None:
    manager.save_checkpoint({}, iteration=1)
    handle = manager.save_checkpoint({}, iteration=2, wait=False)
    handle.result()
    assert (manager.latest_iteration(), manager.all_iterations()) == (2, [1, 2])


# The best


def test_the_best_is_by_a_statistic(three: CheckpointManager) -> None:
    paths = three.list_checkpoints()
    assert three.best_checkpoint("loss:min") == paths[1]
    assert three.best_checkpoint("loss:max") == paths[2]
    assert three.best_checkpoint(by="a:b:max") == paths[2]
    # As a reader that has saved nothing sees it.
    reader = CheckpointManager(three.checkpoint_dir)
    assert reader.best_checkpoint("loss:min") == paths[1]


@pytest.mark.parametrize("by", ["other:min", "text:max", "nan:min", "nan:max"])
def test_nothing_is_the_best_by_a_statistic_that_is_not_a_number(by: str, three: CheckpointManager) -> None:
    assert three.best_checkpoint(by) is None


def test_those_without_the_statistic_and_damaged_ones_are_not_the_best(
    three: CheckpointManager,
) -> None:
    three.save_checkpoint({}, iteration=400, training_stats={"accuracy": 1})
    three.save_checkpoint({}, iteration=500)
    assert name(three.best_checkpoint("loss:min")) == "checkpoint_iter_200.pt"
    assert name(three.best_checkpoint("accuracy:min")) == "checkpoint_iter_400.pt"
    Path(three.list_checkpoints()[1]).write_bytes(b"nothing")
    assert name(three.best_checkpoint("loss:min")) == "checkpoint_iter_100.pt"


@pytest.mark.parametrize("by", ["loss", "loss:", "loss:least", "loss:MIN", ":min", "", "min", "loss:max:x"])
def test_a_statistic_without_a_goal_is_refused(by: str, three: CheckpointManager) -> None:
    with pytest.raises(ValueError, match="`by` is .* must be a statistic and a goal") as raised:
        three.best_checkpoint(by)
    assert repr(by) in str(raised.value)


@pytest.mark.parametrize("by", [5, None, b"loss:min", ["loss:min"]], ids=repr)
def test_best_checkpoint_refuses_what_is_not_a_string(by: Any, three: CheckpointManager) -> None:
    with pytest.raises(TypeError, match='`by` must be a string such as "loss:min", got'):
        three.best_checkpoint(by)


def test_the_failure_of_a_save_is_not_taken_for_a_wrong_statistic(three: CheckpointManager) -> None:
    device = Device(RuntimeError("no kernel"))
    tree = _native.Tree.encode(state(), _native.Pool(), False, device)
    three._native.save_in_background(tree).wait()
    with pytest.raises(ValueError, match="cannot copy from the device: no kernel"):
        three.best_checkpoint("loss:min")


# Delete


@pytest.mark.parametrize(
    "which",
    [
        *(lambda directory, each=each: each for each in INTEGERS),
        lambda directory: "checkpoint_iter_200.pt",
        lambda directory: f"{directory}/checkpoint_iter_200.pt",
        lambda directory: Path(directory, "checkpoint_iter_200.pt"),
    ],
)
def test_one_checkpoint_is_deleted(which: Callable[[str], Any], three: CheckpointManager) -> None:
    assert three.delete(which(three.checkpoint_dir)) is None  # type: ignore[func-returns-value]
    assert three.all_iterations() == [100, 300]
    assert scai.load(Path(three.checkpoint_dir, "latest.pt"))["iteration"] == 300
    with pytest.raises(FileNotFoundError):
        three.load_checkpoint(200)


def test_delete_does_not_ask_the_rules_of_retention(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path, keep_last=3, keep_every=1)
    for iteration in (1, 2, 3):
        manager.save_checkpoint({}, iteration=iteration)
    manager.delete(2)
    assert manager.all_iterations() == [1, 3]


def test_latest_leads_to_the_newest_that_is_left_and_goes_with_the_last(
    three: CheckpointManager,
) -> None:
    latest = Path(three.checkpoint_dir, "latest.pt")
    for iteration, left in [(300, 200), (100, 200), (200, None)]:
        three.delete(iteration)
        assert three.latest_iteration() == left
        assert latest.exists() == (left is not None)
        assert left is None or scai.load(latest)["iteration"] == left
    assert [p for p in os.listdir(three.checkpoint_dir) if p.endswith(".pt")] == []
    assert three.resume() is None
    # And the next one is one like any other.
    three.save_checkpoint({}, iteration=1)
    assert three.latest_iteration() == 1


def test_a_pinned_checkpoint_is_not_deleted(three: CheckpointManager) -> None:
    three.pin(200)
    with pytest.raises(ValueError, match="checkpoint_iter_200.pt` is pinned") as raised:
        three.delete(200)
    assert not isinstance(raised.value, FileNotFoundError)
    assert three.all_iterations() == [100, 200, 300] and three.verify_checkpoint(200) == ANSWERS
    three.unpin(200)
    three.delete(200)
    assert three.all_iterations() == [100, 300]


def test_a_file_that_is_not_called_like_a_checkpoint_is_not_deleted(
    three: CheckpointManager,
) -> None:
    other = Path(three.checkpoint_dir, "other.pt")
    other.write_text("mine")
    for file in ("latest.pt", "other.pt", other):
        with pytest.raises(ValueError, match="not named like|an alias of the newest"):
            three.delete(file)
    assert other.read_text() == "mine" and three.latest_iteration() == 300


@pytest.mark.parametrize("call", ["delete", "pin", "unpin"])
def test_a_path_in_another_directory_never_means_a_file_of_this_one(
    call: str, three: CheckpointManager, tmp_path: Path
) -> None:
    other = CheckpointManager(tmp_path / "other")
    theirs = other.save_checkpoint({}, iteration=200)
    if call == "unpin":
        three.pin(200)
    for path in (theirs, str(tmp_path / "missing" / "checkpoint_iter_200.pt")):
        with pytest.raises((ValueError, OSError)):
            CALLS[call](three, path)
    assert three.all_iterations() == [100, 200, 300]
    assert other.all_iterations() == [200]
    verdicts = three.prune(keep_last=1)
    reasons = {verdict.path: verdict.reasons for verdict in verdicts}[three.list_checkpoints()[1]]
    assert reasons == (["pinned"] if call == "unpin" else [])


def test_delete_waits_for_saves_in_the_background(manager: CheckpointManager) -> None:
    manager.save_checkpoint({"w": torch.ones(1 << 20)}, iteration=1, wait=False)
    manager.save_checkpoint({"w": torch.ones(1 << 20)}, iteration=2, wait=False)
    manager.delete(2)
    assert manager.all_iterations() == [1]


# Whether to save


@pytest.mark.parametrize("interval", [None, 1, 100, np.int64(100), torch.tensor(100)], ids=repr)
def test_without_checkpoints_every_multiple_of_the_interval_is_saved(
    interval: Any, tmp_path: Path
) -> None:
    options = {} if interval is None else {"save_interval": interval}
    manager = CheckpointManager(tmp_path, **options)
    every = 1 if interval is None else int(interval)
    for iteration in (0, 1, 50, 99, 100, 101, 200, 2**63 - 1):
        assert manager.should_save(iteration) is (iteration % every == 0)


def test_what_is_not_later_than_the_latest_checkpoint_is_not_saved_again(
    three: CheckpointManager,
) -> None:
    manager = CheckpointManager(three.checkpoint_dir, save_interval=100)
    expected = {0: False, 100: False, 300: False, 301: False, 350: False, 400: True, 500: True}
    for iteration, is_due in expected.items():
        for each in (iteration, np.int64(iteration), torch.tensor(iteration)):
            assert manager.should_save(each) is is_due
    assert three.should_save(300) is False and three.should_save(301) is True
    three.close()
    manager.save_checkpoint({}, iteration=400)
    assert manager.should_save(400) is False and manager.should_save(500) is True


def test_a_training_that_asks_each_time_saves_at_the_interval(tmp_path: Path) -> None:
    with CheckpointManager(tmp_path, save_interval=5) as manager:
        for iteration in range(1, 18):
            if manager.should_save(iteration):
                manager.save_checkpoint({}, iteration=iteration, wait=iteration % 2 == 0)
    assert manager.all_iterations() == [5, 10, 15]


def test_a_save_under_way_counts_for_should_save(manager: CheckpointManager) -> None:
    handle = manager.save_checkpoint({"w": torch.ones(1 << 20)}, iteration=3, wait=False)
    assert manager.should_save(3) is False and manager.should_save(4) is True
    handle.result()


@pytest.mark.parametrize(
    ("iteration", "error"),
    [
        (1.0, TypeError),
        (True, TypeError),
        ("1", TypeError),
        (None, TypeError),
        (torch.tensor([1, 2]), TypeError),
        (-1, ValueError),
        (2**63, ValueError),
    ],
    ids=repr,
)
def test_should_save_refuses_what_is_not_an_iteration(
    iteration: Any, error: type[Exception], manager: CheckpointManager
) -> None:
    with pytest.raises(error, match="`iteration`"):
        manager.should_save(iteration)


@pytest.mark.parametrize(
    ("interval", "error"),
    [(0, ValueError), (-1, ValueError), (2**63, ValueError), (1.5, TypeError), (True, TypeError), ("5", TypeError)],
    ids=repr,
)
def test_an_interval_that_is_not_a_positive_integer_is_refused(
    interval: Any, error: type[Exception], tmp_path: Path
) -> None:
    with pytest.raises(error, match="`save_interval`"):
        CheckpointManager(tmp_path / "new", save_interval=interval)
    assert not (tmp_path / "new").exists()
