"""What cannot be saved, a file system that refuses, and several processes at once."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
import types
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import scai
import torch
from nets import training
from programs import run_python
from same import ANSWERS, assert_same
from scai.utils.checkpoint import CheckpointManager
from torch import nn

# What cannot be saved


@pytest.mark.parametrize(
    ("arguments", "path"),
    [
        ({"metadata": {"config": {"fn": lambda: None}}}, "metadata.config.fn"),
        ({"training_stats": {"best": [1, object()]}}, "training_stats.best.1"),
        ({"extra": {"model": nn.Linear(1, 1)}}, "model"),
        ({"model": {"a.b": open}}, "model_state_dict.a.b"),
        (
            {
                "dataloader": types.SimpleNamespace(
                    state_dict=lambda: {"it": iter([])}, load_state_dict=print
                )
            },
            "dataloader_state_dict.it",
        ),
        ({"metadata": {1.5: {("a", 2): print}}}, r"metadata.1.5.('a', 2)"),
    ],
)
def test_what_cannot_be_saved_is_named(
    arguments: dict[str, object], path: str, manager: CheckpointManager
) -> None:
    for wait in (True, False):
        with pytest.raises(TypeError) as raised:
            manager.save_checkpoint(**{"model": {}, "iteration": 1, **arguments}, wait=wait)
        assert str(raised.value).startswith(f"cannot save `{path}`: ")
    assert manager.list_checkpoints() == []
    assert os.listdir(manager.checkpoint_dir) in ([], [".lock"])


def test_what_holds_itself_is_refused(manager: CheckpointManager) -> None:
    loop: list[object] = []
    loop.append(loop)
    with pytest.raises(TypeError, match="it contains itself"):
        manager.save_checkpoint({}, iteration=0, metadata={"loop": loop})


@pytest.mark.parametrize("iteration", [1.0, "1", torch.tensor(1.5), [1]])
def test_an_iteration_must_be_a_whole_number(iteration: object, manager: CheckpointManager) -> None:
    with pytest.raises(TypeError, match="`iteration` is a .*, not a whole number"):
        manager.save_checkpoint({}, iteration=iteration)


def test_a_save_without_an_iteration_is_refused(manager: CheckpointManager) -> None:
    with pytest.raises(TypeError, match="`iteration` is missing"):
        manager.save_checkpoint({})
    assert manager.list_checkpoints() == []


def test_a_model_and_an_optimizer_in_the_wrong_order_are_refused(
    manager: CheckpointManager,
) -> None:
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    path = manager.save_checkpoint(model, optimizer, 1)
    with pytest.raises(TypeError, match=r"`model` is an optimizer \(SGD\); the model comes first"):
        manager.save_checkpoint(optimizer, model, 2)
    with pytest.raises(TypeError, match=r"`optimizer` is a model \(Linear\); the model comes first"):
        manager.save_checkpoint(model, model, 2)
    with pytest.raises(TypeError, match="the model comes first"):
        manager.load_checkpoint(path, optimizer, model)
    assert manager.list_checkpoints() == [path]


def test_a_model_without_values_is_refused(manager: CheckpointManager) -> None:
    with pytest.raises(ValueError, match="`weight` of `model` is on the meta device"):
        manager.save_checkpoint(torch.nn.Linear(2, 2, device="meta"), None, 1)
    with pytest.raises(ValueError, match="`1.weight` of `model` is on the meta device"):
        partly = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2, device="meta"))
        manager.save_checkpoint(partly, None, 1, wait=False)
    assert manager.list_checkpoints() == []


def test_a_remap_that_is_no_dict_is_refused(manager: CheckpointManager) -> None:
    path = manager.save_checkpoint({}, None, 1)
    with pytest.raises(TypeError, match="`remap` is a str; write a dict of regular expressions"):
        manager.load_checkpoint(path, {}, remap="module.")  # type: ignore[arg-type]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is such a device")
def test_a_device_that_is_not_there_is_named_with_what_to_do(manager: CheckpointManager) -> None:
    path = manager.save_checkpoint({"a": torch.ones(2)}, None, 1)
    for load in (
        lambda: manager.load_checkpoint(path, device="cuda"),
        lambda: scai.load(path, map_location="cuda"),
    ):
        with pytest.raises(RuntimeError, match="`cuda`, and there is none of its kind here; choose"):
            load()


def test_a_path_that_is_long_is_cut_in_the_message(manager: CheckpointManager) -> None:
    deep: dict = {}
    for _ in range(300):
        deep = {"d": deep}
    with pytest.raises(TypeError, match=r"`e\.(d\.){7}…(\.d){8}`: nested deeper"):
        manager.save_checkpoint({}, None, 1, extra={"e": deep})


def test_an_iteration_out_of_range_is_refused(manager: CheckpointManager) -> None:
    with pytest.raises(ValueError, match="`iteration` is -1; iterations count from 0"):
        manager.save_checkpoint({}, iteration=-1)
    with pytest.raises(ValueError, match="`iteration` is 9223372036854775808"):
        manager.save_checkpoint({}, iteration=2**63)
    path = manager.save_checkpoint({}, iteration=torch.tensor(3))
    assert os.path.basename(path) == "checkpoint_iter_3.pt"
    assert os.path.exists(manager.save_checkpoint({}, iteration=2**63 - 1))


def test_an_extra_part_must_not_be_called_as_a_field(manager: CheckpointManager) -> None:
    for name in ("iteration", "model_state_dict", "rng_state"):
        with pytest.raises(ValueError, match=f"`extra` has a part `{name}`, which is the name of a field"):
            manager.save_checkpoint({}, iteration=0, extra={name: 1})
    path = manager.save_checkpoint({}, iteration=0, rng=False, extra={"rng_state": 5, "more": [1]})
    assert torch.load(path)["rng_state"] == 5


# What the file system refuses


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    place = tmp_path / "tiny"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(place)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("a file system can be mounted only by root, with the right to")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_disk_is_an_error_and_what_was_saved_stays(tiny: Path) -> None:
    large = {"w": torch.rand(200, 1000)}
    manager = CheckpointManager(tiny)
    first = manager.save_checkpoint(large, iteration=1)
    with pytest.raises(OSError, match="no space") as raised:
        manager.save_checkpoint(large, iteration=2)
    assert raised.value.errno == 28
    assert manager.list_checkpoints() == [first]
    assert manager.verify_checkpoint(first) == ANSWERS
    assert os.path.exists(manager.save_checkpoint({}, iteration=3))
    with pytest.raises(OSError, match="no space"):
        scai.save(large, tiny / "other.pt")
    assert not (tiny / "other.pt").exists()


@pytest.mark.parametrize(
    "call",
    [
        lambda manager: manager.save_checkpoint({}, iteration=9),
        lambda manager: manager.save_checkpoint({}, iteration=9, wait=False),
        lambda manager: manager.load_checkpoint(),
        lambda manager: manager.list_checkpoints(),
        lambda manager: manager.get_latest_checkpoint(),
        lambda manager: manager.verify_checkpoint("checkpoint_iter_1.pt"),
        lambda manager: manager.prune(),
        lambda manager: manager.pin("checkpoint_iter_1.pt"),
        lambda manager: manager.resume(),
        lambda manager: manager.flush(),
        lambda manager: manager.close(),
        lambda manager: manager.__exit__(None, None, None),
    ],
)
def test_what_failed_in_the_background_comes_out_of_the_next_call(
    call: Callable[[CheckpointManager], object], tiny: Path
) -> None:
    manager = CheckpointManager(tiny)
    large = {"w": torch.rand(200, 1000)}
    manager.save_checkpoint({}, iteration=1)
    handles = [manager.save_checkpoint(large, iteration=i, wait=False) for i in (2,)]
    handles += [manager.save_checkpoint(large, iteration=3, wait=False)]
    deadline = time.monotonic() + 60
    while not all(handle.done() for handle in handles):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    with pytest.raises(OSError, match="checkpoint_iter_3.pt.*no space"):
        call(manager)
    # Once is enough.
    assert len(manager.list_checkpoints()) == 2
    assert os.path.exists(manager.save_checkpoint({}, iteration=4))


def test_a_handle_that_was_asked_has_told_the_error(tiny: Path) -> None:
    manager = CheckpointManager(tiny)
    handle = manager.save_checkpoint({"w": torch.rand(400, 1000)}, iteration=1, wait=False)
    for _ in range(2):
        with pytest.raises(OSError, match="no space"):
            handle.wait()
    assert manager.list_checkpoints() == []


def test_a_directory_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path / "run")
    path = manager.save_checkpoint({}, iteration=1)
    if os.geteuid() == 0:
        freeze, thaw = (["chattr", sign, str(tmp_path / "run")] for sign in ("+i", "-i"))
        if subprocess.run(freeze, check=False, capture_output=True).returncode:
            pytest.skip("this file system has no directories that are immutable")
    else:
        freeze, thaw = (["chmod", mode, str(tmp_path / "run")] for mode in ("a-w", "u+w"))
        subprocess.run(freeze, check=True)
    try:
        with pytest.raises(PermissionError, match="checkpoint_iter_2.pt"):
            manager.save_checkpoint({}, iteration=2)
        assert manager.load_checkpoint()["iteration"] == 1
        assert manager.list_checkpoints() == [path]
    finally:
        subprocess.run(thaw, check=True)
    manager.save_checkpoint({}, iteration=2)


# Several processes


LOCKED = """
import sys
from scai.errors import LockedError
from scai.utils.checkpoint import CheckpointManager
manager = CheckpointManager(sys.argv[1])
print(manager.load_checkpoint()["iteration"], len(manager.list_checkpoints()))
print(manager.verify_checkpoint("checkpoint_iter_1.pt")["readable"], manager.resume().iteration)
calls = [
    lambda: manager.save_checkpoint({}, iteration=2),
    lambda: manager.save_checkpoint({}, iteration=2, wait=False).wait(),
    lambda: manager.prune(dry_run=False, keep_last=1),
    lambda: manager.delete(1),
]
for call in calls:
    try:
        call()
    except LockedError as error:
        print(error)
"""


def test_one_process_writes_and_others_read(manager: CheckpointManager) -> None:
    manager.save_checkpoint({}, iteration=1)
    lines = run_python(LOCKED, manager.checkpoint_dir).splitlines()
    assert lines[:2] == ["1 1", "True 1"]
    assert len(lines) == 6 and len(set(lines[2:])) == 1
    assert manager.checkpoint_dir in lines[2] and str(os.getpid()) in lines[2]
    assert len(manager.list_checkpoints()) == 1


def forked(function: Callable[[], object], seconds: float = 60) -> str:
    """What a forked child makes of a function; an error where it hangs or dies."""
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        try:
            said = str(function())
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        os.write(writer, said.encode())
        os._exit(0)
    os.close(writer)
    deadline = time.monotonic() + seconds
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            pytest.fail("the child hangs")
        time.sleep(0.01)
    with os.fdopen(reader) as file:
        return file.read()


def test_a_fork_in_the_midst_of_a_save_reads_and_never_hangs(
    manager: CheckpointManager, tmp_path: Path
) -> None:
    model, optimizer = training()
    big = {"w": torch.rand(4_000_000)}
    manager.save_checkpoint(model, optimizer, 1)

    def elsewhere() -> bool:
        other = CheckpointManager(tmp_path / "other")
        return os.path.exists(other.save_checkpoint({}, iteration=1))

    for iteration in range(2, 6):
        handle = manager.save_checkpoint(big, iteration=iteration, wait=False)
        assert forked(lambda: manager.load_checkpoint("checkpoint_iter_1.pt")["iteration"]) == "1"
        assert forked(lambda: manager.save_checkpoint({}, iteration=9)).startswith("LockedError: ")
        assert forked(elsewhere) == "True"
        assert "by the process that this one was forked from" in forked(handle.wait)
        assert forked(handle.done) == "False"
        assert forked(manager.flush) == "None"
        handle.wait()
    child = CheckpointManager(tmp_path / "unused")
    saved = forked(lambda: child.save_checkpoint(model, optimizer, 3, wait=False).wait())
    assert saved == str(tmp_path / "unused" / "checkpoint_iter_3.pt")
    assert_same(torch.load(child.list_checkpoints()[0])["model_state_dict"], model.state_dict())


@pytest.mark.parametrize("name", ["training_stats", "metadata", "extra"])
@pytest.mark.parametrize("value", ["text", [1, 2], 3.5])
def test_what_must_be_a_mapping_is_named_with_its_type(
    name: str, value: Any, tmp_path: Path
) -> None:
    manager = CheckpointManager(tmp_path)
    with pytest.raises(TypeError, match=f"`{name}` must be a mapping, got {type(value).__name__}"):
        manager.save_checkpoint({}, iteration=1, **{name: value})


def test_a_bool_is_no_iteration(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="`iteration` is a bool"):
        CheckpointManager(tmp_path).save_checkpoint({}, iteration=True)


def test_the_package_says_its_version() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+.*", scai.__version__)
