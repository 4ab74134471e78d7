"""Memory that changes while it is being saved: it is noticed, or it does no harm."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import trainings
from scai.errors import ChangedError
from scai.utils.checkpoint import CheckpointManager, SaveHandle
from test_live import differing, save
from trainings import Training

BUSY = torch.zeros(96 << 20, dtype=torch.uint8)


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[CheckpointManager]:
    manager = CheckpointManager(tmp_path, threads=1)
    yield manager
    with contextlib.suppress(ChangedError):
        manager.flush()
    manager.flush()


def training_of(kind: str = "AdamW-fused") -> Training:
    training = trainings.KINDS[kind]()
    for _ in range(2):
        training.before()
        training.step()
    return training


def held_back(
    manager: CheckpointManager, training: Training, iteration: int = 2, **options: Any
) -> SaveHandle:
    """A save that does not begin to read yet, because another one is under way."""
    manager.save_checkpoint({"busy": BUSY}, iteration=0, wait=False)
    handle = save(manager, training, iteration, **options)
    assert not handle._save.is_captured()
    return handle


def no_grad_add(training: Training) -> None:
    with torch.no_grad():
        for p in training.model.parameters():
            p.add_(1.0)


def data_write(training: Training) -> None:
    for p in training.model.parameters():
        p.data.mul_(1.5)


def numpy_write(training: Training) -> None:
    training.model[0].weight.detach().numpy()[:] = 7.0


def unhooked_step(training: Training) -> None:
    type(training.optimizer).step.__wrapped__(training.optimizer)


def state_write(training: Training) -> None:
    for state in training.optimizer.state.values():
        state["exp_avg"].data.add_(1.0)


def weights_of_the_average(training: Training) -> None:
    for p in training.model.parameters():
        p.data.copy_(torch.zeros_like(p))


@pytest.mark.parametrize(
    "violate",
    [no_grad_add, data_write, numpy_write, unhooked_step, state_write, weights_of_the_average],
)
@pytest.mark.parametrize("told_by", ["handle", "manager"])
def test_a_write_outside_of_a_step_is_noticed(
    violate: Callable[[Training], None], told_by: str, manager: CheckpointManager
) -> None:
    training = training_of()
    training.before()
    earlier = training.state()
    path = Path(manager.save_checkpoint(training.model, training.optimizer, 1))
    handle = held_back(manager, training)
    violate(training)
    with pytest.raises(ChangedError, match=r"_state_dict.*snapshot=\"copy\""):
        if told_by == "handle":
            handle.wait()
        else:
            manager.flush()
    assert not os.path.exists(handle.path)
    assert manager.get_latest_checkpoint() == str(path)
    assert differing(earlier, path) == []
    # Training goes on, and so do saves.
    training.step()
    state = training.state()
    handle = save(manager, training, 3)
    training.before()
    training.step()
    assert differing(state, handle.wait()) == []
    assert not [p for p in path.parent.iterdir() if not p.name.endswith((".pt", "lock"))]


def one_element(tensor: torch.Tensor) -> None:
    with torch.no_grad():
        tensor.view(-1)[1] = 7.5


def last_element(tensor: torch.Tensor) -> None:
    with torch.no_grad():
        tensor.view(-1)[-1:].fill_(7.5)


def a_column(tensor: torch.Tensor) -> None:
    with torch.no_grad():
        tensor[:, 3].mul_(2)


def scattered(tensor: torch.Tensor) -> None:
    tensor.detach().index_put_((torch.tensor([0, 3]), torch.tensor([1, 5])), torch.tensor(9.0))


def through_numpy_and_counted(tensor: torch.Tensor) -> None:
    tensor.detach().numpy()[0, 1] = 7.5
    torch.autograd.graph.increment_version(tensor)


def parameter(training: Training) -> torch.Tensor:
    return training.model[0].weight


def moment(training: Training) -> torch.Tensor:
    return training.optimizer.state[training.model[0].weight]["exp_avg"]


def frozen(training: Training) -> torch.Tensor:
    return training.model.frozen


SMALL_WRITES = [one_element, last_element, a_column, scattered, through_numpy_and_counted]


@pytest.mark.parametrize("write", SMALL_WRITES)
@pytest.mark.parametrize("of", [parameter, moment, frozen])
def test_a_write_that_torch_counts_is_noticed_whatever_its_size(
    of: Callable[[Training], torch.Tensor],
    write: Callable[[torch.Tensor], None],
    manager: CheckpointManager,
) -> None:
    training = training_of()
    side = trainings.SIDE
    training.model.frozen = torch.nn.Parameter(torch.ones(side, side), requires_grad=False)
    save(manager, training, 1).wait()
    handle = held_back(manager, training)
    write(of(training))
    with pytest.raises(ChangedError, match=r"_state_dict"):
        handle.wait()
    assert not os.path.exists(handle.path)


@pytest.mark.parametrize("write", SMALL_WRITES)
def test_a_small_write_is_noticed_before_the_step_that_would_hide_it(
    write: Callable[[torch.Tensor], None], manager: CheckpointManager
) -> None:
    training = training_of()
    training.before()
    handle = held_back(manager, training)
    write(parameter(training))
    # From here on whatever is counted is the step's.
    training.step()
    with pytest.raises(ChangedError, match=r"`model_state_dict.0.weight`"):
        handle.wait()


def test_a_write_by_a_step_is_none_of_these(manager: CheckpointManager) -> None:
    training = training_of()
    for iteration in range(1, 6):
        training.before()
        state = training.state()
        handle = held_back(manager, training, iteration)
        training.step()
        one_element(parameter(training))
        assert differing(state, handle.wait()) == []


def test_what_torch_does_not_count_is_looked_for_at_other_places_each_time(
    manager: CheckpointManager,
) -> None:
    # A line of 64 bytes in 4096 is looked at, so that 45 elements far apart are noticed by every
    # other save.
    training = training_of()
    caught = 0
    for iteration in range(20):
        handle = held_back(manager, training, iteration)
        flat = parameter(training).detach().numpy().reshape(-1)
        flat[:: len(flat) // 45] += 1.0
        with contextlib.suppress(ChangedError):
            handle.wait()
        caught += not os.path.exists(handle.path)
    assert 0 < caught < 20
    manager.flush()
    handle = held_back(manager, training, 100)
    parameter(training).detach().numpy().reshape(-1)[1024:3072] += 1.0
    with pytest.raises(ChangedError):
        handle.wait()


def test_a_write_by_another_thread_while_copies_are_made_is_noticed(
    manager: CheckpointManager,
) -> None:
    large = torch.zeros(64 << 20, dtype=torch.uint8)
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            large[:1].add_(1)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        with pytest.raises(ChangedError, match="model_state_dict.large"):
            for iteration in range(100):
                manager.save_checkpoint({"large": large}, iteration=iteration, wait=False).wait()
    finally:
        stop.set()
        thread.join()


def new_data(training: Training) -> None:
    for p in training.model.parameters():
        p.data = torch.full_like(p, 3.0)


def double(training: Training) -> None:
    training.model.double()


def share_memory(training: Training) -> None:
    training.model.share_memory()
    gc.collect()
    # What was freed is used for something else.
    [torch.full((trainings.SIDE, trainings.SIDE), 9.0) for _ in range(8)]


def resize(training: Training) -> None:
    for p in training.model.parameters():
        p.untyped_storage().resize_(0)
    [torch.full((trainings.SIDE, trainings.SIDE), 9.0) for _ in range(8)]


def resize_and_back(training: Training) -> None:
    for p in training.model.parameters():
        size = p.untyped_storage().nbytes()
        p.untyped_storage().resize_(0)
        p.untyped_storage().resize_(size)
        p.data.fill_(5.0)


def delete(training: Training) -> None:
    del training.model, training.optimizer, training.before, training.step
    gc.collect()
    [torch.full((trainings.SIDE, trainings.SIDE), 9.0) for _ in range(8)]


def swap(training: Training) -> None:
    for p in training.model.parameters():
        torch.utils.swap_tensors(p, torch.nn.Parameter(torch.zeros_like(p)))


@pytest.mark.parametrize(
    "move", [new_data, double, share_memory, resize, resize_and_back, delete, swap]
)
def test_memory_that_moves_does_no_harm(
    move: Callable[[Training], None], manager: CheckpointManager
) -> None:
    training = training_of()
    training.optimizer.zero_grad()
    earlier = training.state()
    path = Path(manager.save_checkpoint(training.model, training.optimizer, 1))
    handle = held_back(manager, training)
    move(training)
    try:
        handle.wait()
    except ChangedError:
        assert not os.path.exists(handle.path)
        assert move in (share_memory, resize, resize_and_back)
    else:
        assert differing(earlier, handle.path) == []
    assert differing(earlier, path) == []


def test_memory_that_was_unmapped_is_an_error(manager: CheckpointManager) -> None:
    training = training_of()
    # So large that the allocator gives it back.
    training.model.big = torch.nn.Parameter(torch.ones(40 << 20, dtype=torch.uint8), False)
    training.optimizer.add_param_group({"params": [training.model.big]})
    handle = held_back(manager, training)
    training.model.big.untyped_storage().resize_(0)
    with pytest.raises(ChangedError, match=r"`model_state_dict.big`"):
        handle.wait()


def test_an_embedding_that_keeps_its_norm_is_copied(manager: CheckpointManager) -> None:
    training = training_of("max_norm")
    state = training.state()
    handle = held_back(manager, training)
    training.before()
    assert differing(state, handle.wait()) == []


def test_loads_wait(manager: CheckpointManager) -> None:
    training = training_of()
    other = training_of().state()
    no_grad_add(training)
    for load in (
        lambda: training.model.load_state_dict(other["model_state_dict"]),
        lambda: training.optimizer.load_state_dict(other["optimizer_state_dict"]),
    ):
        state = training.state()
        handle = held_back(manager, training)
        load()
        assert handle._save.is_captured()
        assert differing(state, handle.wait()) == []


@pytest.mark.parametrize("who", ["the same manager", "another"])
def test_a_load_of_a_checkpoint_waits(
    who: str, manager: CheckpointManager, tmp_path: Path
) -> None:
    training = training_of()
    first = training.state()
    path = manager.save_checkpoint(training.model, training.optimizer, 1)
    training.before()
    training.step()
    second = training.state()
    loader = manager if who == "the same manager" else CheckpointManager(tmp_path)
    handle = held_back(manager, training)
    loader.load_checkpoint(path, training.model, training.optimizer)
    assert differing(second, handle.wait()) == []
    assert differing(first, Path(path)) == []
    third = save(manager, training, 3)
    assert differing(first, third.wait()) == []


def test_an_exception_in_training_leaves_the_save_alone(manager: CheckpointManager) -> None:
    training = training_of()
    state = training.state()
    with pytest.raises(ZeroDivisionError), manager:
        handle = held_back(manager, training)
        training.before()
        1 / 0  # noqa: B018
    assert handle.done()
    assert differing(state, handle.path) == []


def test_a_step_on_another_thread_waits_for_a_save_that_is_beginning(
    manager: CheckpointManager,
) -> None:
    training = training_of()
    training.before()
    state = training.state()
    stepped = threading.Event()

    def step() -> None:
        training.step()
        stepped.set()

    original = manager._capture._take

    def take(*arguments: Any) -> Any:
        thread.start()
        assert not stepped.wait(0.2)
        return original(*arguments)

    thread = threading.Thread(target=step)
    manager._capture._take = take  # type: ignore[method-assign]
    handle = save(manager, training, 1)
    thread.join()
    assert differing(state, handle.wait()) == []


def test_threads_that_save_at_once(manager: CheckpointManager, tmp_path: Path) -> None:
    training = training_of()
    state = training.state()
    failures = []

    def work(number: int) -> None:
        own = CheckpointManager(tmp_path) if number % 2 else manager
        try:
            for i in range(3):
                path = save(own, training, 100 * number + i).wait()
                failures.extend(differing(state, path))
            own.flush()
        except Exception as error:
            failures.append(repr(error))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(manager.list_checkpoints()) == 12


@pytest.mark.parametrize("snapshot", ["live", "copy", "sync"])
def test_a_directory_that_is_gone_ends_the_save_and_not_the_training(
    tmp_path: Path, snapshot: Any
) -> None:
    manager = CheckpointManager(tmp_path / "run")
    training = training_of()
    save(manager, training, 1).wait()
    shutil.rmtree(tmp_path / "run")
    for told_by_handle in (True, False):
        training.before()
        handle = save(manager, training, 2, snapshot=snapshot)
        training.step()
        with pytest.raises(OSError, match="removed and recreated"):
            handle.wait() if told_by_handle else manager.flush()


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 12 MiB."""
    mounted = ["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(tmp_path)]
    if os.geteuid() != 0 or subprocess.run(mounted, capture_output=True).returncode:
        pytest.skip("needs the right to mount a file system")
    yield tmp_path
    subprocess.run(["umount", "-l", str(tmp_path)], check=True)


@pytest.mark.parametrize("snapshot", ["live", "copy", "sync"])
def test_a_full_disk_ends_the_save_and_not_the_training(full_disk: Path, snapshot: Any) -> None:
    manager = CheckpointManager(full_disk, threads=1)
    training = training_of()
    state = training.state()
    path = save(manager, training, 1, snapshot=snapshot).wait()
    for told_by_handle in (True, False):
        training.before()
        handle = save(manager, training, 2, snapshot=snapshot)
        training.step()
        with pytest.raises(OSError) as raised:
            handle.wait() if told_by_handle else manager.flush()
        assert raised.value.errno == errno.ENOSPC
    assert manager.list_checkpoints() == [path]
    assert differing(state, path) == []
    os.unlink(path)
    (full_disk / "latest.pt").unlink()
    state = training.state()
    handle = save(manager, training, 3, snapshot=snapshot)
    training.before()
    training.step()
    assert differing(state, handle.wait()) == []
