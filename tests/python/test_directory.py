"""The checkpoints of a directory: listed, verified, pinned, kept, resumed from."""

from __future__ import annotations

import datetime
import os
from pathlib import Path

import numpy as np
import pytest
import scai
import torch
from nets import training
from same import ANSWERS, assert_same
from scai.errors import (
    DamagedError,
    NotACheckpointError,
    NothingToResumeError,
)
from scai.utils.checkpoint import CheckpointManager, SaveInfo


def test_checkpoints_are_listed_by_iteration_and_the_newest_is_the_latest(
    manager: CheckpointManager,
) -> None:
    assert manager.list_checkpoints() == []
    assert manager.get_latest_checkpoint() is None
    assert manager.resume() is None
    with pytest.raises(FileNotFoundError) as raised:
        manager.load_checkpoint()
    assert str(raised.value) == f"there is no checkpoint in `{manager.checkpoint_dir}`"
    paths = [manager.save_checkpoint({"i": torch.tensor(i)}, iteration=i) for i in (10, 9, 100)]
    Path(manager.checkpoint_dir, "checkpoint_iter_x.pt").write_text("?")
    Path(manager.checkpoint_dir, "other.pt").write_text("?")
    assert manager.list_checkpoints() == [paths[1], paths[0], paths[2]]
    assert manager.get_latest_checkpoint() == paths[2]
    assert manager.load_checkpoint()["iteration"] == 100
    assert manager.load_checkpoint("checkpoint_iter_9.pt")["iteration"] == 9
    assert manager.load_checkpoint(Path(paths[0]))["iteration"] == 10


def test_latest_is_loaded_where_that_is_all_there_is(manager: CheckpointManager) -> None:
    content = Path(manager.save_checkpoint({}, iteration=4)).read_bytes()
    directory = Path(manager.checkpoint_dir)
    for each in directory.iterdir():
        each.unlink()
    (directory / "latest.pt").write_bytes(content)
    assert manager.get_latest_checkpoint() == str(directory / "latest.pt")
    assert manager.load_checkpoint()["iteration"] == 4


def test_a_file_that_is_not_there_is_named(manager: CheckpointManager, tmp_path: Path) -> None:
    missing = tmp_path / "nothing.pt"
    for path in (missing, str(missing)):
        with pytest.raises(FileNotFoundError) as raised:
            manager.load_checkpoint(path)
        assert str(raised.value) == f"checkpoint `{missing}` does not exist"
    for call in (manager.pin, manager.unpin):
        with pytest.raises(FileNotFoundError):
            call(Path(manager.checkpoint_dir, "nothing.pt"))
    with pytest.raises(NotACheckpointError, match="a directory without"):
        manager.load_checkpoint(tmp_path)


def test_a_checkpoint_is_replaced_by_one_of_the_same_iteration(manager: CheckpointManager) -> None:
    first = manager.save_checkpoint({"w": torch.zeros(3)}, iteration=1)
    second = manager.save_checkpoint({"w": torch.ones(3)}, iteration=1)
    handles = [
        manager.save_checkpoint({"w": torch.full((3,), float(i))}, iteration=1, wait=False)
        for i in range(2, 5)
    ]
    assert {first, second, *(handle.path for handle in handles)} == {first}
    assert manager.load_checkpoint(first)["model_state_dict"]["w"].tolist() == [4, 4, 4]
    assert manager.list_checkpoints() == [first]


def test_verify_answers_the_eight_questions(manager: CheckpointManager, tmp_path: Path) -> None:
    path = Path(manager.save_checkpoint(*training(), 3))
    assert manager.verify_checkpoint(path) == ANSWERS
    assert list(manager.verify_checkpoint(path)) == list(ANSWERS)
    verified = scai.verify(path)
    assert verified and verified.damage == [] and verified.iteration == 3
    missing = manager.verify_checkpoint("checkpoint_iter_9.pt")
    assert missing == dict.fromkeys(ANSWERS, False)
    assert not scai.verify(tmp_path / "missing.pt")
    foreign = tmp_path / "foreign.pt"
    torch.save({"model_state_dict": {}, "epoch": 3}, foreign)
    answers = manager.verify_checkpoint(foreign)
    assert answers == {
        **dict.fromkeys(ANSWERS, False),
        "exists": True,
        "readable": True,
        "has_model_state": True,
    }
    torch.save([1, 2], foreign)
    assert manager.verify_checkpoint(foreign)["readable"] is True
    foreign.write_text("no checkpoint at all")
    answers = manager.verify_checkpoint(foreign)
    assert answers == {**dict.fromkeys(ANSWERS, False), "exists": True}
    content = bytearray(path.read_bytes())
    content[content.index(torch.load(path)["model_state_dict"]["0.weight"].numpy().tobytes())] ^= 1
    path.write_bytes(content)
    answers = manager.verify_checkpoint(path)
    assert answers == {**ANSWERS, "readable": False}
    damage = scai.verify(path).damage
    assert damage and all(isinstance(each, DamagedError) for each in damage)


def test_a_damaged_checkpoint_is_skipped_and_set_aside(manager: CheckpointManager) -> None:
    model, optimizer = training()
    paths = [manager.save_checkpoint(model, optimizer, i) for i in (10, 20, 30)]
    for path in map(Path, paths[1:]):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    fresh, own = training(steps=0)
    resumed = manager.resume(fresh, own)
    assert (resumed.path, resumed.iteration, resumed.iterations_lost) == (paths[0], 10, 20)
    assert resumed.checkpoint.report.complete
    assert_same(fresh.state_dict(), model.state_dict())
    assert [skipped.path for skipped in resumed.skipped] == [paths[2], paths[1]]
    for skipped in resumed.skipped:
        assert isinstance(skipped.reason, DamagedError)
        assert os.path.exists(skipped.set_aside) and not os.path.exists(skipped.path)
    assert manager.list_checkpoints() == [paths[0]]
    Path(paths[0]).write_bytes(b"nothing")
    with pytest.raises(NothingToResumeError):
        manager.resume()


def test_pinned_checkpoints_stay(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path, keep_last=2)
    first = manager.save_checkpoint({}, iteration=1)
    manager.pin(first)
    manager.pin("checkpoint_iter_1.pt")
    paths = [manager.save_checkpoint({}, iteration=i) for i in range(2, 6)]
    assert manager.list_checkpoints() == [first, *paths[-2:]]
    manager.unpin(first)
    verdicts = manager.prune()
    assert [verdict.removed for verdict in verdicts] == [False] * 3
    assert {verdict.path: bool(verdict.reasons) for verdict in verdicts} == {
        first: False,
        paths[2]: True,
        paths[3]: True,
    }
    assert os.path.exists(first)
    verdicts = manager.prune(dry_run=False)
    assert [verdict.path for verdict in verdicts if verdict.removed] == [first]
    assert manager.list_checkpoints() == paths[-2:]


def test_retention_keeps_what_its_rules_say(tmp_path: Path) -> None:
    infos: list[SaveInfo] = []
    manager = CheckpointManager(
        tmp_path,
        keep_last=1,
        keep_every=10,
        keep_best=["loss:min", "accuracy:max"],
        on_commit=infos.append,
    )
    losses = {5: 0.1, 10: 0.9, 15: 0.8, 17: 0.7, 18: 0.6}
    for iteration, loss in losses.items():
        stats = {"loss": loss, "accuracy": iteration % 9}
        manager.save_checkpoint({}, iteration=iteration, training_stats=stats)
    kept = [int(Path(path).stem.rpartition("_")[2]) for path in manager.list_checkpoints()]
    assert kept == [5, 10, 17, 18]
    removed = [path for info in infos for path in info.removed]
    assert [Path(path).name for path in removed] == ["checkpoint_iter_15.pt"]
    verdicts = manager.prune(keep_best="loss:min:2")
    stay = [Path(verdict.path).name for verdict in verdicts if verdict.reasons]
    assert {"checkpoint_iter_5.pt", "checkpoint_iter_18.pt"} <= set(stay)
    assert "checkpoint_iter_17.pt" not in stay
    for within in (3600, 0.5, datetime.timedelta(hours=1), np.float64(5), "12h"):
        CheckpointManager(tmp_path / "other", keep_within=within)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"keep_last": 0}, ValueError, "`keep_last`: `last:0` is not a retention rule: the number"),
        ({"keep_last": -3}, ValueError, "`keep_last`: `last:-3` is not a retention rule: `-3` is"),
        ({"keep_last": "3"}, TypeError, "`keep_last` is a str, not a whole number"),
        ({"keep_every": 1.5}, TypeError, "`keep_every` is a float, not a whole number"),
        ({"keep_every": 0}, ValueError, "`keep_every`: `every:0` is not a retention rule"),
        ({"keep_best": "loss"}, ValueError, "`keep_best`: `best:loss` is not a retention rule"),
        ({"keep_best": "loss:least"}, ValueError, "`keep_best`: `best:loss:least` is not a"),
        ({"keep_best": "loss:min:0"}, ValueError, "`keep_best`: `best:loss:min:0` is not a"),
        ({"keep_best": ":min"}, ValueError, "`keep_best`: `best::min` is not a retention rule"),
        ({"keep_best": ["loss:min", "a:b:c:d"]}, ValueError, "`keep_best`: `best:a:b:c:d` is not"),
        ({"keep_best": 5}, TypeError, "`keep_best` must be a string such as \"loss:min\", or a list"),
        ({"keep_best": [5]}, TypeError, "`keep_best` must be a string such as \"loss:min\", or a"),
        ({"keep_within": -1}, ValueError, "`keep_within` is -1 seconds; it must be more than 0"),
        ({"keep_within": float("nan")}, ValueError, "`keep_within` is nan seconds"),
        ({"keep_within": "1y"}, ValueError, "`keep_within`: `within:1y` is not a retention rule"),
        ({"keep_within": [1]}, TypeError, "`keep_within` must be a time such as \"12h\", seconds"),
        ({"keep": "last:0"}, ValueError, "`keep`: `last:0` is not a retention rule: the number"),
        ({"keep": "all, last:1"}, ValueError, "`keep`: `all` is not a retention rule: it keeps"),
        ({"keep": 3}, TypeError, "`keep` must be a string such as \"last:3, every:1000\""),
    ],
)
def test_rules_that_make_no_sense_are_refused(
    arguments: dict[str, object], error: type[Exception], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error) as raised:
        CheckpointManager(tmp_path / "new", **arguments)
    assert str(raised.value).startswith(message)
    assert not (tmp_path / "new").exists()
    with pytest.raises(error) as raised:
        CheckpointManager(tmp_path).prune(**arguments)
    assert str(raised.value).startswith(message)


def test_arguments_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    for arguments in ({"snapshot": "later"}, {"threads": 0}, {"threads": -1}):
        with pytest.raises(ValueError):
            CheckpointManager(tmp_path, **arguments)
    for arguments in ({"threads": 1.5}, {"on_commit": 5}, {"on_commit": [5]}):
        with pytest.raises(TypeError):
            CheckpointManager(tmp_path, **arguments)
    manager = CheckpointManager(tmp_path)
    with pytest.raises(
        ValueError, match='`snapshot` is \'x\'; it is one of "live", "copy", "sync"'
    ):
        manager.save_checkpoint({}, iteration=0, wait=False, snapshot="x")
    with pytest.raises(ValueError, match="`snapshot` is 'x'"):
        manager.save_checkpoint({}, iteration=0, snapshot="x")
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(OSError, match=str(file)):
        CheckpointManager(file)


def test_what_is_durable_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    infos: list[SaveInfo] = []

    def fails(info: SaveInfo) -> None:
        raise RuntimeError("no more")

    with CheckpointManager(tmp_path, on_commit=[fails, infos.append]) as manager:
        path = manager.save_checkpoint({"w": torch.ones(5)}, iteration=1)
        assert [info.path for info in infos] == [path]
        handle = manager.save_checkpoint({"w": torch.ones(5)}, iteration=2, wait=False)
        manager.flush()
        assert [info.iteration for info in infos] == [1, 2]
    assert infos[0].bytes == os.stat(path).st_size and infos[0].seconds > 0
    assert infos[0].removed == [] and infos[0].warnings == []
    assert handle.done() and handle.wait() == infos[1].path
    assert caplog.text.count(f"a callback for {path} failed") == 1


def test_the_timeline_of_a_save_says_where_its_time_went(tmp_path: Path) -> None:
    infos: list[SaveInfo] = []
    with CheckpointManager(tmp_path, keep_last=1, on_commit=infos.append) as manager:
        for iteration, wait in [(1, True), (2, False)]:
            manager.save_checkpoint({"w": torch.ones(300_000)}, iteration=iteration, wait=wait)
    assert [info.iteration for info in infos] == [1, 2]
    for info in infos:
        time = info.timeline
        stages = (time.plan, time.write, time.sync, time.commit, time.after)
        assert all(stage >= 0 for stage in stages) and time.write > 0
        assert time.total == pytest.approx(sum(stages))
        assert time.total <= info.seconds and 0 < time.waited <= info.seconds
        assert info.rate == pytest.approx(info.bytes / (time.total - time.after))
    assert infos[0].timeline.waited == infos[0].seconds


def test_a_manager_is_a_context_that_ends_when_all_is_durable(tmp_path: Path) -> None:
    with CheckpointManager(tmp_path) as manager:
        handles = [
            manager.save_checkpoint({"w": torch.full((1000,), i)}, iteration=i, wait=False)
            for i in range(5)
        ]
    assert all(handle.done() for handle in handles)
    assert manager.list_checkpoints() == [handle.path for handle in handles]
    with pytest.raises(ZeroDivisionError), CheckpointManager(tmp_path) as manager:
        handle = manager.save_checkpoint({}, iteration=7, wait=False)
        raise ZeroDivisionError
    assert handle.done() and os.path.exists(handle.path)
    manager.close()
    assert os.path.exists(manager.save_checkpoint({}, iteration=8))
