"""A manager in a process group of which each rank holds a part of the state."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import scai
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from ranks import Died, Raised, Ranks, logged, raising, run
from scai import CheckpointManager, _group
from scai.errors import DamagedError, GroupError, LockedError, MismatchError
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)

pytestmark = pytest.mark.usefixtures("one_thread")


def full_disk(*_: Any) -> Any:
    raise OSError(28, "No space left on device")


class Net(nn.Module):
    """A model that is divided unevenly if its width is odd, as tensor parallelism does not allow."""

    def __init__(self, width: int = 13) -> None:
        super().__init__()
        self.up = nn.Linear(6, width)
        self.norm = nn.BatchNorm1d(width)
        self.down = nn.Linear(width, 6)
        self.scale = nn.Parameter(torch.ones(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(torch.relu(self.norm(self.up(x)))) * self.scale.repeat(2)


def plain(model: nn.Module) -> nn.Module:
    return model


def even(model: nn.Module) -> nn.Module:
    model = Net(12)
    model.norm = nn.Identity()
    return model


def fsdp(model: nn.Module) -> nn.Module:
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for part in (model.up, model.down):
        fully_shard(part, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def hsdp(model: nn.Module) -> nn.Module:
    mesh = init_device_mesh("cpu", (2, dist.get_world_size() // 2), mesh_dim_names=("copy", "part"))
    fully_shard(model, mesh=mesh)
    return model


def tensor_parallel(model: nn.Module) -> nn.Module:
    """Parts along both dimensions, and the rest is replicated."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    model = even(model)
    parallelize_module(model, mesh, {"up": ColwiseParallel(), "down": RowwiseParallel()})
    return model


def two_dimensional(model: nn.Module) -> nn.Module:
    mesh = init_device_mesh("cpu", (2, dist.get_world_size() // 2), mesh_dim_names=("data", "tensor"))
    model = even(model)
    parallelize_module(model, mesh["tensor"], {"up": ColwiseParallel(), "down": RowwiseParallel()})
    fully_shard(model, mesh=mesh["data"])
    return model


def made(divide: Callable[[nn.Module], nn.Module], seed: int = 0) -> tuple[nn.Module, Any]:
    """A model, and an optimizer that has stepped twice."""
    torch.manual_seed(seed)
    model = divide(Net())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(2):
        step(model, optimizer)
    return model, optimizer


def step(model: nn.Module, optimizer: Any) -> None:
    x = torch.randn(8, 6, generator=torch.Generator().manual_seed(3))
    optimizer.zero_grad()
    model(x).square().mean().backward()
    optimizer.step()


def whole(model: nn.Module, optimizer: Any) -> dict[str, torch.Tensor]:
    """All tensors of parameters and moments, put together; on all ranks."""
    found = {}
    for name, parameter in model.named_parameters():
        found[name] = parameter
        for key, value in optimizer.state[parameter].items():
            found[f"{name}.{key}"] = value
    return {name: full(tensor) for name, tensor in found.items()}


def full(tensor: torch.Tensor) -> torch.Tensor:
    tensor = tensor.detach()
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).clone()


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


WAYS = [
    pytest.param(2, fsdp, id="fsdp"),
    # One of them holds nothing of the smallest parameter.
    pytest.param(4, fsdp, id="fsdp-4"),
    pytest.param(4, hsdp, id="hsdp"),
    pytest.param(2, tensor_parallel, id="tensor-parallel"),
    pytest.param(4, two_dimensional, id="2-d"),
]


@pytest.mark.parametrize("wait", [True, False])
@pytest.mark.parametrize(("size", "divide"), WAYS)
def test_a_divided_state_comes_back_and_training_goes_on_as_before(
    place: str, size: int, divide: Any, wait: bool
) -> None:
    def body(rank: int) -> Any:
        model, optimizer = made(divide)
        manager = CheckpointManager(place)
        torch.manual_seed(50 + rank)
        saved = manager.save_checkpoint(model, optimizer, 5, {"loss": 0.5}, wait=wait)
        before, random_state = whole(model, optimizer), torch.get_rng_state()
        step(model, optimizer)
        path = saved if wait else saved.result()
        after = whole(model, optimizer)
        manager.close()

        model, optimizer = made(divide, seed=1)
        resumed = CheckpointManager(place).resume(model, optimizer)
        assert resumed is not None and resumed.iteration == 5 and resumed.path == path
        assert same(whole(model, optimizer), before) and not same(before, after)
        assert torch.equal(torch.get_rng_state(), random_state)
        step(model, optimizer)
        assert same(whole(model, optimizer), after)
        return path

    assert run(size, body) == [f"{place}/checkpoint_iter_5"] * size
    assert scai.verify(f"{place}/checkpoint_iter_5")


@pytest.mark.parametrize(("size", "divide"), WAYS)
def test_a_divided_state_is_loaded_by_one_process_by_stock_dcp_and_by_other_ranks(
    place: str, size: int, divide: Any
) -> None:
    def save(rank: int) -> Any:
        model, optimizer = made(divide)
        CheckpointManager(place).save_checkpoint(model, optimizer, 5)
        return whole(model, optimizer)

    expected = run(size, save)[0]
    assert not isinstance(expected, (Raised, Died)), expected
    is_even = divide not in (fsdp, hsdp)
    model, optimizer = made(even if is_even else plain, seed=1)
    resumed = CheckpointManager(place).resume(model, optimizer)
    assert resumed is not None and same(whole(model, optimizer), expected)
    # A reader that has never heard of scai.
    state = {
        "model_state_dict": {name: torch.zeros_like(p) for name, p in model.state_dict().items()},
        "optimizer_state_dict": {
            "state": {name: {"exp_avg": torch.zeros_like(p)} for name, p in model.named_parameters()}
        },
        "iteration": 0,
    }
    dcp.load(state, checkpoint_id=f"{place}/checkpoint_iter_5", no_dist=True)
    assert state["iteration"] == 5
    for name, _ in model.named_parameters():
        assert torch.equal(state["model_state_dict"][name], expected[name])
        moments = state["optimizer_state_dict"]["state"][name]["exp_avg"]
        assert torch.equal(moments, expected[f"{name}.exp_avg"])

    def other(rank: int) -> Any:
        model, optimizer = made(tensor_parallel if is_even else fsdp, seed=2)
        assert CheckpointManager(place).resume(model, optimizer) is not None
        return same(whole(model, optimizer), expected)

    assert run(3, other) == [True] * 3


def test_a_file_of_one_process_is_loaded_into_parts(place: str) -> None:
    model, optimizer = made(plain)
    CheckpointManager(place).save_checkpoint(model, optimizer, 5)
    expected = whole(model, optimizer)

    def body(rank: int) -> Any:
        model, optimizer = made(fsdp, seed=1)
        resumed = CheckpointManager(place).resume(model, optimizer)
        assert resumed is not None and resumed.path.endswith(".pt")
        manager = CheckpointManager(place)
        loaded = same(whole(model, optimizer), expected)
        # The next save of the run is a directory, in one list with the file.
        manager.save_checkpoint(model, optimizer, 6)
        return loaded, manager.all_iterations()

    assert run(2, body) == [(True, [5, 6])] * 2


def test_a_model_without_an_optimizer_and_parts_are_loaded_by_name(place: str) -> None:
    def body(rank: int) -> Any:
        model, optimizer = made(fsdp)
        ema = fsdp(Net())
        manager = CheckpointManager(place)
        path = manager.save_checkpoint(model, optimizer, 1, ema=ema, extra={"note": {"a": (1, 2)}})
        other, again = made(fsdp, seed=3)[0], fsdp(Net())
        loaded = manager.load_checkpoint(path, other, ema=again)
        own = [full(a).equal(full(b)) for a, b in zip(model.parameters(), other.parameters())]
        return all(own), full(ema.up.weight).equal(full(again.up.weight)), loaded["note"]

    assert run(2, body) == [(True, True, {"a": (1, 2)})] * 2


def test_another_shape_is_refused_on_all_ranks_and_nothing_changes(place: str) -> None:
    def body(rank: int) -> Any:
        model, optimizer = made(fsdp)
        CheckpointManager(place).save_checkpoint(model, optimizer, 1)
        torch.manual_seed(1)
        other = Net()
        # As many rows on each rank as there are in all.
        other.up = nn.Linear(6, 26)
        other.norm, other.down = nn.BatchNorm1d(26), nn.Linear(26, 6)
        other = fsdp(other)
        before = full(other.up.weight)
        with raising() as raised:
            CheckpointManager(place).resume(other)
        return raised[0].kind, "up.weight" in raised[0].message, full(other.up.weight).equal(before)

    found = run(2, body)
    assert found == [(MismatchError, True, True)] * 2, found


def test_a_rank_that_does_not_come_is_named(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_group, "PATIENCE", 1.0)

    def body(rank: int) -> Any:
        model, optimizer = made(fsdp)
        manager = CheckpointManager(place)
        if rank == 2:
            time.sleep(3)
            return None
        with raising() as raised:
            manager.save_checkpoint(model, optimizer, 1)
        return raised[0].kind, "rank 2" in raised[0].message

    assert run(3, body)[:2] == [(GroupError, True)] * 2
    assert CheckpointManager(place).list_checkpoints() == []


def test_a_rank_that_saves_another_iteration_is_named(place: str) -> None:
    def body(rank: int) -> Any:
        model, optimizer = made(fsdp)
        with raising() as raised:
            CheckpointManager(place).save_checkpoint(model, optimizer, 10 + rank)
        return raised[0].kind, "rank 1 saves 11" in raised[0].message

    assert run(2, body) == [(ValueError, True)] * 2


@pytest.mark.parametrize("failing", [0, 1])
@pytest.mark.parametrize("wait", [True, False])
def test_what_one_rank_fails_with_all_raise_and_the_next_save_works(
    place: str, failing: int, wait: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def body(rank: int) -> Any:
        from scai.distributed import StorageWriter

        model, optimizer = made(fsdp)
        manager = CheckpointManager(place)
        manager.save_checkpoint(model, optimizer, 1)
        write = StorageWriter.write_data

        if rank == failing:
            monkeypatch.setattr(StorageWriter, "write_data", full_disk)
        with raising() as raised:
            saved = manager.save_checkpoint(model, optimizer, 2, wait=wait)
            if not wait:
                saved.result()
        monkeypatch.setattr(StorageWriter, "write_data", write)
        iterations = manager.all_iterations()
        step(model, optimizer)
        manager.save_checkpoint(model, optimizer, 3, wait=wait)
        manager.close()
        return raised[0].kind, f"rank {failing}" in raised[0].message, iterations, manager.all_iterations()

    found = run(2, body)
    assert found == [(OSError, True, [1], [1, 3])] * 2, found


@pytest.mark.parametrize("failing", [0, 1])
@pytest.mark.parametrize("step_of_save", ["flattened", "stage", "own state"])
def test_a_rank_out_of_memory_before_it_writes_fails_the_save_on_all(
    place: str, failing: int, step_of_save: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def body(rank: int) -> Any:
        from scai import _group_save
        from scai.distributed import StorageWriter, _state

        model, optimizer = made(fsdp)
        manager = CheckpointManager(place)
        manager.save_checkpoint(model, optimizer, 1)

        def without_memory(*_: Any) -> Any:
            raise MemoryError("out of memory: 480 bytes are needed")

        with monkeypatch.context() as patch, raising() as raised:
            if rank == failing:
                patch.setattr(_state, "flattened", without_memory)
                patch.setattr(_state, "parts_of", without_memory)
                if step_of_save != "flattened":
                    patch.undo()
                if step_of_save == "stage":
                    patch.setattr(StorageWriter, "stage", without_memory)
                elif step_of_save == "own state":
                    patch.setattr(_group_save.SaveMeeting, "_own_state", without_memory)
            manager.save_checkpoint(model, optimizer, 2, wait=False).result()
        failed = [(each.kind, rank == failing or f"rank {failing}" in each.message) for each in raised]
        iterations = manager.all_iterations()
        manager.save_checkpoint(model, optimizer, 3)
        return failed, iterations, manager.all_iterations()

    began = time.monotonic()
    found = run(2, body)
    # Only rank 0 reads what the others have of their own.
    fails = step_of_save != "own state" or failing == 0
    expected = ([(MemoryError, True)] if fails else [], [1] if fails else [1, 2], [1, 3] if fails else [1, 2, 3])
    assert found == [expected] * 2, found
    assert time.monotonic() - began < 30


@pytest.mark.parametrize("way", ["destroyed", "without"])
def test_a_part_of_a_state_is_not_saved_as_if_it_were_all(place: str, way: str) -> None:
    def body(rank: int) -> Any:
        model, optimizer = made(fsdp)
        manager = CheckpointManager(place)
        manager.save_checkpoint(model, optimizer, 1)
        if way == "destroyed":
            dist.destroy_process_group()
        else:
            manager = CheckpointManager(place, process_group=False)
        found = []
        for wait in (True, False):
            with raising() as raised:
                manager.save_checkpoint(model, optimizer, 2, wait=wait)
            found.append((raised[0].kind, "only a part of `" in raised[0].message))
        return found, manager.all_iterations()

    found = run(2, body, store="parent")
    assert found == [([(GroupError, True)] * 2, [1])] * 2, found


def test_a_failed_background_save_comes_out_of_the_next_call_on_all_ranks(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def body(rank: int) -> Any:
        from scai.distributed import StorageWriter

        model, optimizer = made(fsdp)
        manager = CheckpointManager(place)
        if rank == 1:
            monkeypatch.setattr(StorageWriter, "write_data", full_disk)
        manager.save_checkpoint(model, optimizer, 1, wait=False)
        with raising() as raised:
            manager.flush()
        return raised[0].kind, "rank 1" in raised[0].message

    assert run(2, body) == [(OSError, True)] * 2


def test_ranks_whose_replicated_tensors_differ_are_refused(place: str) -> None:
    def body(rank: int) -> Any:
        mesh = init_device_mesh("cpu", (2,))
        divided = distribute_tensor(torch.arange(8.0), mesh, [Shard(0)])
        model = {
            "divided": nn.Parameter(divided),
            "own": nn.Parameter(torch.full((3,), float(rank))),
        }
        with raising() as raised:
            CheckpointManager(place).save_checkpoint(model, None, 1)
        return raised[0].kind, "own" in raised[0].message

    assert run(2, body) == [(ValueError, True)] * 2


def test_replicated_tensors_of_a_mesh_are_saved_once_and_loaded(place: str) -> None:
    def body(rank: int) -> Any:
        mesh = init_device_mesh("cpu", (2,))
        model = {
            "divided": distribute_tensor(torch.arange(7.0), mesh, [Shard(0)]),
            "copied": distribute_tensor(torch.arange(5.0), mesh, [Replicate()]),
            "plain": torch.arange(3.0),
        }
        manager = CheckpointManager(place)
        path = manager.save_checkpoint(model, None, 1)
        other = {
            "divided": distribute_tensor(torch.zeros(7), mesh, [Shard(0)]),
            "copied": distribute_tensor(torch.zeros(5), mesh, [Replicate()]),
            "plain": torch.zeros(3),
        }
        manager.load_checkpoint(path, other)
        return all(full(model[name]).equal(full(other[name])) for name in model)

    assert run(2, body) == [True] * 2
    loaded = scai.load(f"{place}/checkpoint_iter_1")["model_state_dict"]
    assert loaded["divided"].tolist() == list(range(7)) and loaded["copied"].tolist() == list(range(5))


def test_one_rank_with_a_mesh_and_no_other(place: str) -> None:
    def body(rank: int) -> Any:
        model, optimizer = made(fsdp)
        manager = CheckpointManager(place)
        path = manager.save_checkpoint(model, optimizer, 1, wait=False).result()
        before = whole(model, optimizer)
        step(model, optimizer)
        manager.resume(model, optimizer)
        return path, same(whole(model, optimizer), before)

    assert run(1, body) == [(f"{place}/checkpoint_iter_1", True)]


def test_what_one_rank_finds_damaged_all_leave(place: str) -> None:
    def save(rank: int) -> Any:
        model, optimizer = made(fsdp)
        manager = CheckpointManager(place)
        manager.save_checkpoint(model, optimizer, 1)
        step(model, optimizer)
        manager.save_checkpoint(model, optimizer, 2)

    run(2, save)
    [shard] = Path(place, "checkpoint_iter_2").glob("*_1_0.distcp")
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)

    def body(rank: int) -> Any:
        model, optimizer = made(fsdp, seed=1)
        resumed = CheckpointManager(place).resume(model, optimizer)
        assert resumed is not None
        [skipped] = resumed.skipped
        return resumed.iteration, isinstance(skipped.reason, DamagedError), skipped.set_aside is not None

    assert run(2, body) == [(1, True, True)] * 2
    assert Path(place, "checkpoint_iter_2.damaged", "commit.json").exists()


def test_retention_and_the_other_rank_see_the_same_list(place: str) -> None:
    def body(rank: int) -> Any:
        model, optimizer = made(fsdp)
        manager = CheckpointManager(place, keep_last=2)
        for iteration in range(1, 5):
            manager.save_checkpoint(model, optimizer, iteration, wait=iteration % 2 == 0)
        manager.close()
        return manager.all_iterations(), manager.latest_iteration()

    assert run(2, body) == [([3, 4], 4)] * 2


def test_a_rank_that_is_killed_while_it_saves_ends_the_save_of_the_others(place: str) -> None:
    started = Path(f"{place}.started")

    def body(rank: int) -> Any:
        from scai.distributed import StorageWriter

        model, optimizer = made(fsdp)
        manager = CheckpointManager(place)
        manager.save_checkpoint(model, optimizer, 1)
        write = StorageWriter.write_data

        def slow(*args: Any) -> Any:
            started.touch()
            time.sleep(60)
            return write(*args)

        if rank == 1:
            StorageWriter.write_data = slow  # type: ignore[method-assign]
        with raising() as raised:
            manager.save_checkpoint(model, optimizer, 2)
        return raised[0].kind, manager.all_iterations()

    ranks = Ranks(2, body, store="parent")
    ranks.wait_for(started)
    ranks.kill(1)
    assert ranks.results() == [(GroupError, [1]), Died(-9)]


STEPS = [
    pytest.param("set_up_storage_writer", "before", id="before the plan"),
    pytest.param("prepare_global_plan", "after", id="after the directory was made"),
    pytest.param("write_data", "before", id="before a shard is written"),
    pytest.param("write_data", "after", id="after a shard was written"),
    pytest.param("finish", "before", id="before the commit"),
    pytest.param("finish", "after", id="after the commit"),
]


@pytest.mark.parametrize("dying", [0, 1])
@pytest.mark.parametrize(("step_of", "when"), STEPS)
def test_a_job_of_which_a_rank_is_killed_at_a_step_of_a_save_goes_on(
    place: str, step_of: str, when: str, dying: int
) -> None:
    def save(rank: int) -> Any:
        from scai.distributed import StorageWriter

        model, optimizer = made(fsdp)
        manager = CheckpointManager(place)
        manager.save_checkpoint(model, optimizer, 1)
        step(model, optimizer)
        original = getattr(StorageWriter, step_of)

        def killed(*args: Any, **more: Any) -> Any:
            result = None if when == "before" else original(*args, **more)
            if rank == dying:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*args, **more) if when == "before" else result

        setattr(StorageWriter, step_of, killed)
        with raising() as raised:
            manager.save_checkpoint(model, optimizer, 2)
        return raised[0].kind if raised else None

    found = run(2, save, store="parent")
    only_rank_0 = step_of in ("prepare_global_plan", "finish")
    if dying == 1 and only_rank_0:
        assert found == [None, None]
    else:
        # The other one may be through with it, after the commit.
        assert found[dying] == Died(-9) and found[1 - dying] in (GroupError, None), found

    def go_on(rank: int) -> Any:
        model, optimizer = made(fsdp)
        expected = {1: whole(model, optimizer)}
        step(model, optimizer)
        expected[2] = whole(model, optimizer)
        model, optimizer = made(fsdp, seed=1)
        manager = CheckpointManager(place)
        resumed = manager.resume(model, optimizer)
        assert resumed is not None and same(whole(model, optimizer), expected[resumed.iteration])
        manager.save_checkpoint(model, optimizer, 2)
        return resumed.iteration

    committed = (step_of, when) == ("finish", "after") or (dying == 1 and only_rank_0)
    assert run(2, go_on) == [2 if committed else 1] * 2
    assert CheckpointManager(place).all_iterations() == [1, 2]
    bound = {".metadata", "commit.json", *commit_of(f"{place}/checkpoint_iter_2")}
    assert set(os.listdir(f"{place}/checkpoint_iter_2")) == bound


def commit_of(path: str) -> list[str]:
    return list(json.loads(Path(path, "commit.json").read_text())["files"])


def test_directories_that_are_not_shared_are_no_checkpoint(place: str) -> None:
    def body(rank: int) -> Any:
        model, optimizer = made(fsdp)
        manager = CheckpointManager(place)
        if rank == 1:
            # What another machine has under this name.
            from scai.distributed import StorageWriter

            write = StorageWriter.write_data

            def elsewhere(self: Any, *args: Any) -> Any:
                self.path = Path(f"{place}.elsewhere")
                self.path.mkdir()
                return write(self, *args)

            StorageWriter.write_data = elsewhere  # type: ignore[method-assign]
        with raising() as raised:
            manager.save_checkpoint(model, optimizer, 1)
        return raised[0].kind, "shared between the machines" in raised[0].message, manager.all_iterations()

    assert run(2, body) == [(DamagedError, True, [])] * 2


def test_a_second_job_in_the_same_directory_is_refused_and_harms_nothing(place: str) -> None:
    saved, over = Path(f"{place}.saved"), Path(f"{place}.over")

    def first(rank: int) -> Any:
        model, optimizer = made(fsdp)
        manager = CheckpointManager(place)
        manager.save_checkpoint(model, optimizer, 1)
        saved.touch()
        while not over.exists():
            time.sleep(0.01)
        manager.save_checkpoint(model, optimizer, 2)
        return manager.all_iterations()

    def second(rank: int) -> Any:
        model, optimizer = made(fsdp, seed=1)
        manager = CheckpointManager(place)
        manager.resume(model, optimizer)
        with raising() as raised:
            manager.save_checkpoint(model, optimizer, 7)
        return raised[0].kind, manager.all_iterations()

    ranks = Ranks(2, first)
    ranks.wait_for(saved)
    assert run(2, second) == [(LockedError, [1])] * 2
    over.touch()
    assert ranks.results() == [[1, 2]] * 2


def test_a_rank_that_hangs_while_it_writes_ends_the_save_of_the_others(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Read when the group is made.
    monkeypatch.setattr("scai.distributed._save.PATIENCE", 3.0)

    def body(rank: int) -> Any:
        from scai.distributed import StorageWriter

        model, optimizer = made(fsdp)
        manager = CheckpointManager(place)
        manager.save_checkpoint(model, optimizer, 1)
        if rank == 1:
            StorageWriter.write_data = lambda *_: time.sleep(12)  # type: ignore[method-assign]
        with raising() as raised:
            manager.save_checkpoint(model, optimizer, 2)
        return raised[0].kind, manager.all_iterations()

    assert run(2, body)[0] == (GroupError, [1])


def test_the_group_is_gone_while_a_save_is_under_way(place: str) -> None:
    def body(rank: int) -> Any:
        model, optimizer = made(fsdp)
        manager = CheckpointManager(place)
        saved = manager.save_checkpoint(model, optimizer, 1, wait=False)
        dist.destroy_process_group()
        with raising() as raised:
            saved.result()
        return raised[0].kind if raised else None

    found = run(2, body, store="parent")
    # It was done by then, or it fails with an error that says so; nobody hangs.
    assert all(each in (None, GroupError, Died(-6)) for each in found), found
    assert CheckpointManager(place).all_iterations() in ([], [1])


def test_random_states_of_ranks_are_left_alone_where_their_number_differs(place: str) -> None:
    def save(rank: int) -> Any:
        CheckpointManager(place).save_checkpoint(*made(fsdp), 1)

    run(2, save)

    def body(rank: int) -> Any:
        model, optimizer = made(fsdp, seed=1)
        torch.manual_seed(9)
        before = torch.get_rng_state()
        CheckpointManager(place).resume(model, optimizer)
        warned = any("saved by 2 ranks" in line for line in logged)
        return torch.equal(torch.get_rng_state(), before), warned == (rank == 0)

    assert run(3, body) == [(True, True)] * 3
