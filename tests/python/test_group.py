"""A manager in a process group of which the ranks hold the same state."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import scai
import torch
import torch.distributed as dist
from ranks import Died, Raised, Ranks, free_port, logged, model_and_optimizer, raising, run, train
from same import assert_same
from scai import CheckpointManager, _group
from scai.errors import GroupError, LockedError, MismatchError, NothingToResumeError
from torch import nn
from torch.nn.parallel import DistributedDataParallel

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def store_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCAI_TEST_STORE", str(tmp_path / "store"))


class Loader:
    """A data loader that is at another position on each rank."""

    def __init__(self, position: int) -> None:
        self.position = position

    def state_dict(self) -> dict[str, int]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.position = state["position"]


def seeded(rank: int) -> None:
    torch.manual_seed(100 + rank)
    random.seed(100 + rank)


# Saving


@pytest.mark.parametrize("store", ["rank 0", "parent", "file"])
@pytest.mark.parametrize("wait", [True, False])
def test_all_ranks_return_the_path_and_one_writes(place: str, store: str, wait: bool) -> None:
    def body(rank: int) -> Any:
        manager = CheckpointManager(place)
        model, optimizer = model_and_optimizer()
        ddp = DistributedDataParallel(model)
        seeded(rank)
        found = []
        for iteration in range(1, 4):
            loader = Loader(10 * rank + iteration)
            saved = manager.save_checkpoint(ddp, optimizer, iteration, dataloader=loader, wait=wait)
            found.append(saved if wait else saved.result())
            if not wait:
                assert saved.done() and saved.info.iteration == iteration and saved.info.bytes > 0
            train(ddp, optimizer)
        manager.close()
        return found, logged

    results = run(3, body, store=store)
    paths = [f"{place}/checkpoint_iter_{iteration}.pt" for iteration in (1, 2, 3)]
    assert results == [(paths, [])] * 3
    saved = torch.load(paths[2], weights_only=True)
    assert [state and state["dataloader_state_dict"] for state in saved["rank_states"]] == [
        {}, {"position": 13}, {"position": 23},
    ]
    assert saved["dataloader_state_dict"] == {"position": 3}
    states = [saved["rng_state"]["torch"], *(s["rng_state"]["torch"] for s in saved["rank_states"][1:])]
    for rank, state in enumerate(states):
        seeded(rank)
        # Each drew the same since: two steps of dropout.
        assert len({bytes(each.tolist()) for each in states}) == 3 and state.dtype == torch.uint8
    assert list(saved["model_state_dict"]) == list(model_and_optimizer()[0].state_dict())
    # One process without a group loads it as any other.
    model, optimizer = model_and_optimizer(1)
    loader = Loader(0)
    resumed = CheckpointManager(place).resume(model, optimizer, dataloader=loader)
    assert resumed.iteration == 3 and loader.position == 3
    assert_same(model.state_dict(), saved["model_state_dict"])
    assert_same(torch.get_rng_state(), states[0])


def test_a_manager_says_nothing_when_it_is_made(place: str) -> None:
    def body(rank: int) -> Any:
        keys = dist.distributed_c10d._get_default_store().num_keys()
        if rank == 0:
            CheckpointManager(place), CheckpointManager(place, process_group=dist.group.WORLD)
        same = dist.distributed_c10d._get_default_store().num_keys() == keys
        dist.barrier()
        return same

    assert run(2, body) == [True, True]


def test_old_keys_are_deleted(place: str) -> None:
    def body(rank: int) -> Any:
        manager = CheckpointManager(place, keep_last=2)
        store = dist.distributed_c10d._get_default_store()
        counts = []
        for iteration in range(80):
            manager.save_checkpoint({"a": torch.ones(2)}, None, iteration, wait=iteration % 3 > 0)
            if iteration % 20 == 19:
                manager.flush()
                dist.barrier()
                counts.append(store.num_keys())
                dist.barrier()
        return counts

    results = run(2, body)
    assert results[0][3] - results[0][1] < 10, results
    assert results[0][3] < 120, results


def test_ranks_that_save_other_iterations_raise_on_all(place: str) -> None:
    def body(rank: int) -> Any:
        manager = CheckpointManager(place)
        with raising() as raised:
            manager.save_checkpoint({"a": torch.ones(2)}, None, 5 if rank == 1 else 4)
        return raised, manager.save_checkpoint({"a": torch.ones(2)}, None, 6), manager.list_checkpoints()

    results = run(3, body)
    message = "`iteration` differs between the ranks: rank 0 saves 4, rank 1 saves 5, rank 2 saves 4; nothing was saved"
    path = f"{place}/checkpoint_iter_6.pt"
    assert results == [([Raised(ValueError, message)], path, [path])] * 3


@pytest.mark.parametrize("wait", [True, False])
def test_a_guarded_script_saves_alone_after_one_wait_and_one_warning(place: str, wait: bool) -> None:
    def body(rank: int) -> Any:
        manager = CheckpointManager(place, join_timeout=0.6)
        model, optimizer = model_and_optimizer()
        times = []
        if rank == 0:
            for iteration in range(3):
                began = time.monotonic()
                saved = manager.save_checkpoint(model, optimizer, iteration, wait=wait)
                times.append(time.monotonic() - began)
                assert wait or saved.result()
        dist.barrier()
        return times, [each for each in logged if "only rank 0" in each], len(logged)

    (times, warnings, count), other = run(2, body)
    assert other == ([], [], 0)
    assert 0.6 <= times[0] < 2 and max(times[1:]) < 0.4, times
    assert len(warnings) == count == 1 and "random states of the other ranks are not saved" in warnings[0]
    assert len(CheckpointManager(place).list_checkpoints()) == 3


def test_a_rank_that_comes_late_gets_what_rank_0_saved_alone(place: str) -> None:
    def body(rank: int) -> Any:
        manager = CheckpointManager(place, join_timeout=0.3)
        state = {"a": torch.ones(2)}
        if rank == 1:
            time.sleep(1.2)
        found = [manager.save_checkpoint(state, None, iteration) for iteration in (1, 2)]
        dist.barrier()
        # Rank 0 learns that the other does come.
        found.append(manager.save_checkpoint(state, None, 3))
        return found, manager.load_checkpoint(3)["rank_states"][1] is not None, len(logged)

    results = run(2, body)
    paths = [f"{place}/checkpoint_iter_{iteration}.pt" for iteration in (1, 2, 3)]
    assert results == [(paths, True, 1), (paths, True, 0)]


def test_a_rank_that_was_not_called_for_some_saves_finds_the_next(place: str) -> None:
    def body(rank: int) -> Any:
        manager = CheckpointManager(place, join_timeout=0.3)
        state = {"a": torch.ones(2)}
        # More than what the store remembers.
        for iteration in range(_group.KEPT + 5):
            if rank == 0:
                manager.save_checkpoint(state, None, iteration)
        dist.barrier()
        if rank == 0:
            time.sleep(0.3)
        return manager.save_checkpoint(state, None, 100), len(manager.load_checkpoint(100)["rank_states"])

    path = f"{place}/checkpoint_iter_100.pt"
    assert run(2, body) == [(path, 2)] * 2


def test_some_that_do_not_come_are_named(place: str) -> None:
    def body(rank: int) -> Any:
        manager = CheckpointManager(place, join_timeout=0.5)
        times = []
        for iteration in (1, 2):
            began = time.monotonic()
            if rank != 2:
                manager.save_checkpoint({"a": torch.ones(2)}, None, iteration)
            times.append(time.monotonic() - began)
        dist.barrier()
        return times, logged

    results = run(4, body)
    said = "rank 2 did not come to the save of iteration 1 within 0.5 s: their random states are not saved"
    assert results[0][1] == [said] and results[1][1] == []
    assert results[0][0][1] < 0.4
    states = scai.load(f"{place}/checkpoint_iter_2.pt")["rank_states"]
    assert [state is None for state in states] == [False, False, True, False]


@pytest.mark.parametrize("wait", [True, False])
def test_a_rank_that_fails_in_its_own_part_fails_all_at_once(place: str, wait: bool) -> None:
    class Broken(Loader):
        def state_dict(self) -> dict[str, int]:
            raise KeyError("no position")

    def body(rank: int) -> Any:
        manager = CheckpointManager(place)
        state = {"a": torch.ones(2)}
        began = time.monotonic()
        found = []
        for broken in (1, 0):
            with raising() as raised:
                loader = (Broken if rank == broken else Loader)(1)
                manager.save_checkpoint(state, None, 1, dataloader=loader, wait=wait)
            found += raised
            dist.barrier()
        seconds = time.monotonic() - began
        saved = manager.save_checkpoint(state, None, 2, dataloader=Loader(1), wait=wait)
        return found, seconds < 5, saved if wait else saved.result()

    path = f"{place}/checkpoint_iter_2.pt"
    own = "'no position'"
    told = [Raised(KeyError, repr(f"rank {rank}: no position")) for rank in (0, 1)]
    assert run(3, body) == [
        ([told[1], Raised(KeyError, own)], True, path),
        ([Raised(KeyError, own), told[0]], True, path),
        ([told[1], told[0]], True, path),
    ]


class Unsaveable:
    pass


@pytest.mark.parametrize("wait", [True, False])
def test_what_rank_0_fails_with_all_raise(place: str, wait: bool) -> None:
    def body(rank: int) -> Any:
        manager = CheckpointManager(place)
        model, optimizer = model_and_optimizer()
        with raising() as first:
            saved = manager.save_checkpoint(
                model, optimizer, 1, extra={"x": Unsaveable() if rank == 0 else 1}, wait=wait
            )
            wait or saved.result()
        manager.save_checkpoint(model, optimizer, 2)
        dist.barrier()
        if rank == 0:
            os.rename(place, place + ".away")
            Path(place).write_text("in the way")
        dist.barrier()
        with raising() as second:
            saved = manager.save_checkpoint(model, optimizer, 3, wait=wait)
            wait or saved.result()
        return first, second

    results = run(2, body)
    (first, second), (other_first, other_second) = [[each[0] for each in pair] for pair in results]
    assert first.kind is other_first.kind is TypeError and "Unsaveable" in first.message
    assert other_first.message == f"rank 0: {first.message}"
    assert second.kind is other_second.kind and issubclass(second.kind, OSError)
    assert "rank 0: " in other_second.message and place in other_second.message


def test_a_failure_in_the_background_is_raised_once_by_the_next_call_on_all(place: str) -> None:
    def body(rank: int) -> Any:
        manager = CheckpointManager(place, snapshot="copy")
        state = {"a": torch.ones(2)}
        manager.save_checkpoint(state, None, 1)
        dist.barrier()
        if rank == 0:
            os.rename(place, place + ".away")
            Path(place).write_text("in the way")
        dist.barrier()
        handle = manager.save_checkpoint(state, None, 2, wait=False)
        manager._completing.wait()
        dist.barrier()
        if rank == 0:
            os.remove(place)
            os.rename(place + ".away", place)
        dist.barrier()
        with raising() as raised:
            manager.save_checkpoint(state, None, 3)
        path = manager.save_checkpoint(state, None, 4)
        manager.flush()
        handle = manager.save_checkpoint(state, None, 5, wait=False)
        handle.result()
        manager.close()
        return raised, path

    results = run(2, body)
    assert [path for _, path in results] == [f"{place}/checkpoint_iter_4.pt"] * 2, results
    assert all(len(raised) == 1 and issubclass(raised[0].kind, OSError) for raised, _ in results), results


def test_flush_and_close_raise_what_failed_on_each_rank(place: str) -> None:
    def body(rank: int) -> Any:
        manager = CheckpointManager(place, snapshot="copy")
        state = {"a": torch.ones(2)}
        dist.barrier()
        if rank == 0:
            os.rmdir(place)
            Path(place).write_text("in the way")
        dist.barrier()
        manager.save_checkpoint(state, None, 2, wait=False)
        with raising() as raised:
            manager.flush()
        manager.flush()
        return [each.kind for each in raised]

    results = run(2, body)
    assert results[0] == results[1] and len(results[0]) == 1 and issubclass(results[0][0], OSError), results


def test_callbacks_are_called_on_rank_0(place: str) -> None:
    def body(rank: int) -> Any:
        seen: list[int] = []
        manager = CheckpointManager(place, on_commit=lambda info: seen.append(info.iteration))
        manager.save_checkpoint({"a": torch.ones(2)}, None, 1)
        manager.save_checkpoint({"a": torch.ones(2)}, None, 2, wait=False)
        manager.flush()
        return seen

    assert run(2, body) == [[1, 2], []]


def test_other_ranks_never_lock_the_directory(place: str) -> None:
    def body(rank: int) -> Any:
        manager = CheckpointManager(place)
        if rank == 1:
            manager.list_checkpoints(), manager.get_latest_checkpoint(), manager.should_save(1)
        dist.barrier()
        manager.save_checkpoint({"a": torch.ones(2)}, None, 1)
        if rank == 1:
            manager.load_checkpoint(), manager.verify_checkpoint(1), manager.latest_iteration()
        manager.rollback(1)
        manager.flush()
        dist.barrier()
        path = manager.save_checkpoint({"a": torch.ones(2)}, None, 2)
        # What any other process is refused, of which this rank is one.
        with raising() as raised:
            if rank == 1:
                CheckpointManager(place, process_group=False).save_checkpoint({}, None, 3)
        dist.barrier()
        return path, [each.kind for each in raised]

    path = f"{place}/checkpoint_iter_2.pt"
    assert run(2, body) == [(path, []), (path, [LockedError])]


def test_several_managers_meet_each_their_own(place: str) -> None:
    def body(rank: int) -> Any:
        first, second, other = (CheckpointManager(place + end) for end in ("", "", "2"))
        state = {"a": torch.ones(2)}
        handles = [
            (first if n % 2 else other).save_checkpoint(state, None, n, wait=False) for n in range(6)
        ]
        done = [handle.result() for handle in handles]
        first.close()
        return done, second.save_checkpoint(state, None, 7), second.latest_iteration(), logged

    results = run(2, body)
    assert results[0] == results[1] and results[0][1:] == (f"{place}/checkpoint_iter_7.pt", 7, [])


def test_a_group_of_some_ranks_saves_by_itself(place: str) -> None:
    def body(rank: int) -> Any:
        pairs = [dist.new_group([0, 2]), dist.new_group([1, 3])]
        own = pairs[rank % 2]
        manager = CheckpointManager(f"{place}{rank % 2}", process_group=own)
        seeded(rank)
        path = manager.save_checkpoint({"a": torch.full((2,), float(rank))}, None, 1)
        other = CheckpointManager(place, process_group=pairs[1 - rank % 2])
        with raising() as raised:
            other.save_checkpoint({}, None, 1)
        dist.barrier()
        return path, len(scai.load(path)["rank_states"]), raised[0].message

    for rank, result in enumerate(run(4, body)):
        message = f"rank {rank} is not in `process_group`"
        assert result == (f"{place}{rank % 2}/checkpoint_iter_1.pt", 2, message)


def test_without_a_process_group_each_rank_is_by_itself(place: str) -> None:
    def body(rank: int) -> Any:
        manager = CheckpointManager(f"{place}{rank}", process_group=False)
        path = manager.save_checkpoint({"a": torch.ones(2)}, None, rank)
        assert manager.resume({"a": torch.zeros(2)}).iteration == rank
        return path, "rank_states" in scai.load(path)

    assert run(2, body) == [(f"{place}{r}/checkpoint_iter_{r}.pt", False) for r in range(2)]


def test_one_process_is_as_ever(place: str) -> None:
    def body(_: int) -> Any:
        manager = CheckpointManager(place)
        path = manager.save_checkpoint({"a": torch.ones(2)}, None, 1)
        return path, list(scai.load(path)), manager.resume({"a": torch.zeros(2)}).iteration

    fields = ["iteration", "model_state_dict", "optimizer_state_dict", "training_stats", "metadata"]
    expected = (f"{place}/checkpoint_iter_1.pt", [*fields, "timestamp", "rng_state"], 1)
    assert run(1, body) == run(1, body, store=None) == [expected]


def test_arguments_are_checked(place: str) -> None:
    with pytest.raises(TypeError, match="`process_group` must be a ProcessGroup"):
        CheckpointManager(place, process_group=True)
    with pytest.raises(ValueError, match="`replicas` is 'both'"):
        CheckpointManager(place, replicas="both")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`join_timeout` is -1"):
        CheckpointManager(place, join_timeout=-1)


# What is compared


def test_ranks_that_hold_other_tensors_do_not_save(place: str) -> None:
    def body(rank: int) -> Any:
        manager = CheckpointManager(place)
        model, optimizer = model_and_optimizer()
        found = []
        with torch.no_grad():
            # Only statistics differ.
            model[1].running_mean += rank
        manager.save_checkpoint(model, optimizer, 1)
        with torch.no_grad():
            if rank == 2:
                model[3].weight += 1
                optimizer.state[model[0].bias]["exp_avg"] += 1
        with raising() as raised:
            manager.save_checkpoint(model, optimizer, 2)
        found += raised
        with raising() as raised:
            manager.save_checkpoint(nn.Linear(2, 2 + rank // 2), None, 2)
        found += raised
        with raising() as raised:
            manager.save_checkpoint(nn.Linear(2, 2) if rank == 0 else nn.Linear(2, 2, bias=False), None, 2)
        found += raised
        seeded(0)
        large = {f"p{n}": nn.Parameter(torch.zeros(3, dtype=torch.bfloat16)) for n in range(9)}
        with torch.no_grad():
            for each in large.values():
                each += rank == 1
        with raising() as raised:
            manager.save_checkpoint(large, None, 2)
        found += raised
        latest = manager.latest_iteration()
        CheckpointManager(place, replicas="trust")
        trusting = CheckpointManager(place + "2", replicas="trust")
        assert trusting.save_checkpoint(model, optimizer, 2)
        return found, latest

    results = run(3, body)
    assert results[0] == results[1] == results[2]
    raised, latest = results[0]
    assert latest == 1 and all(each.kind is ValueError for each in raised)
    two, shape, name, many = [each.message for each in raised]
    assert two.startswith(
        "2 tensors differ between rank 0 and rank 2: `model.3.weight`, `optimizer.0.bias.exp_avg`. "
    )
    assert all(hint in two for hint in ("FSDP1", "ZeroRedundancyOptimizer", 'replicas="trust"'))
    assert "`model.weight` (float32[2, 2] and float32[3, 2])" in shape
    assert "rank 0 and rank 1, 2: " in name and "`model.bias` (on rank 0 only)" in name
    assert many.startswith("9 tensors differ between rank 0 and rank 1: `model.p0`, `model.p1`, ")
    assert "`model.p4` and 4 more" in many


def test_tensors_of_all_kinds_are_compared() -> None:
    from scai._replicas import replica_of

    def state() -> dict[str, Any]:
        torch.manual_seed(1)
        return {
            "bf16": torch.randn(100).bfloat16(),
            "f8": torch.randn(100).to(torch.float8_e4m3fn),
            "complex": torch.randn(40, dtype=torch.complex64),
            "conj": torch.randn(40, dtype=torch.complex64).conj(),
            "bool": torch.randn(50) > 0,
            "channels last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
            "transposed": torch.randn(50, 40).T,
            "expanded": torch.randn(1, 4).expand(30, 4),
            "empty": torch.empty(0, 3),
            "scalar": torch.tensor(7),
            "u16": torch.arange(9).to(torch.uint16),
            "meta": torch.empty(5, device="meta"),
            "sparse": torch.eye(3).to_sparse(),
            "quantized": torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
            "slice": torch.randn(100)[::3],
        }

    first = replica_of({}, {"optimizer": {"state": {0: state()}}})
    assert first == replica_of({}, {"optimizer": {"state": {0: state()}}})
    assert len(first) == len(state())
    for name in state():
        if name in ("empty", "meta", "sparse", "quantized", "expanded"):
            continue
        other = state()
        flat = other[name].clone()
        # The first and the last element are among those that are compared.
        where = (0,) * flat.ndim
        flat[where] = flat[where].to(torch.float32) == 0 if name == "f8" else flat[where] == 0
        other[name] = flat
        assert first != replica_of({}, {"optimizer": {"state": {0: other}}}), name


def test_comparing_takes_microseconds_a_tensor() -> None:
    from scai._replicas import digest_of, replica_of

    state = {"state": {n: {"a": torch.randn(64, 64)} for n in range(2000)}}
    # 20 µs where nothing else runs.
    best = min(_seconds(lambda: digest_of(replica_of({}, {"o": state}))) for _ in range(5))
    assert best / 2000 < 60e-6, f"{best / 2000 * 1e6:.1f} µs a tensor"


def _seconds(work: Any) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def test_classes_that_divide_a_state_are_refused_by_name(place: str) -> None:
    from torch.distributed.fsdp import FullyShardedDataParallel
    from torch.distributed.optim import ZeroRedundancyOptimizer

    deepspeed = type("DeepSpeedEngine", (nn.Linear,), {"__module__": "deepspeed.runtime.engine"})

    def body(rank: int) -> Any:
        manager = CheckpointManager(place)
        model, optimizer = model_and_optimizer()
        found = []
        fsdp = nn.Sequential(FullyShardedDataParallel(nn.Linear(4, 4), device_id=torch.device("cpu")))
        zero = ZeroRedundancyOptimizer(model.parameters(), torch.optim.Adam)
        for objects in ((fsdp, None), (model, zero), (deepspeed(2, 2), None)):
            with raising() as raised:
                manager.save_checkpoint(*objects, 1)
            found += raised
        return found, manager.save_checkpoint(model, optimizer, 1)

    results = run(2, body)
    assert results[0] == results[1]
    messages = [each.message for each in results[0][0]]
    assert [each.kind for each in results[0][0]] == [TypeError] * 3, results
    assert messages[0].startswith("`model` contains a FullyShardedDataParallel: ") and "fully_shard" in messages[0]
    assert messages[1].startswith("`optimizer` is a ZeroRedundancyOptimizer: ")
    assert messages[2].startswith("`model` is a DeepSpeedEngine: ")


# Resuming


def changed(path: str) -> None:
    """Damage a file in the middle of its tensors."""
    with open(path, "r+b") as file:
        content = file.read()
        at = content.index(MARK)
        file.seek(at)
        file.write(bytes([content[at] ^ 1]))


MARK = bytes(range(1, 65))


def marked() -> dict[str, torch.Tensor]:
    return {"a": torch.tensor(list(MARK), dtype=torch.uint8)}


@pytest.mark.parametrize("store", ["rank 0", "parent"])
def test_all_ranks_resume_the_same_with_their_own_random_state(place: str, store: str) -> None:
    def saving(rank: int) -> Any:
        manager = CheckpointManager(place)
        model, optimizer = model_and_optimizer()
        seeded(rank)
        manager.save_checkpoint(model, optimizer, 7, dataloader=Loader(rank))
        return torch.rand(3).tolist(), random.random()

    def loading(rank: int) -> Any:
        manager = CheckpointManager(place)
        model, optimizer = model_and_optimizer(5)
        loader = Loader(99)
        torch.manual_seed(0)
        resumed = manager.resume(DistributedDataParallel(model), optimizer, dataloader=loader)
        drawn = torch.rand(3).tolist(), random.random()
        assert_same(model.state_dict(), scai.load(resumed.path)["model_state_dict"])
        assert resumed.checkpoint["iteration"] == 7 and resumed.checkpoint.report.complete
        return drawn, loader.position, (resumed.path, resumed.iteration, resumed.iterations_lost), logged

    drawn = run(3, saving, store=store)
    assert len({repr(each) for each in drawn}) == 3
    expected = (f"{place}/checkpoint_iter_7.pt", 7, 0)
    assert run(3, loading, store=store) == [(drawn[rank], rank, expected, []) for rank in range(3)]
    # Another number of ranks leaves what is each one's own as it is.
    torch.manual_seed(0)
    untouched = torch.rand(3).tolist()
    few = run(2, loading, store=store)
    assert [(each[0][0], each[1], each[2]) for each in few] == [(untouched, 99, expected)] * 2
    assert few[1][3] == [] and "was saved by 3 ranks, and 2 resume" in few[0][3][0]
    # One process gets that of rank 0.
    assert run(1, loading) == [(drawn[0], 0, expected, [])]


def test_a_file_of_one_process_or_of_rank_0_alone_is_resumed_by_all(place: str) -> None:
    def body(rank: int) -> Any:
        manager = CheckpointManager(place, join_timeout=0.3)
        torch.manual_seed(5)
        target = marked()
        resumed = manager.resume(target)
        drawn = torch.rand(1).item()
        return resumed.iteration, len(logged), drawn

    CheckpointManager(place).save_checkpoint(marked(), None, 1)
    torch.manual_seed(5)
    fresh = torch.rand(1).item()
    assert run(2, body) == [(1, 1, fresh), (1, 0, fresh)]

    def alone(rank: int) -> None:
        torch.manual_seed(8)
        if rank == 0:
            CheckpointManager(place, join_timeout=0.1).save_checkpoint(marked(), None, 2)
        dist.barrier()

    run(2, alone)
    torch.manual_seed(8)
    drawn = torch.rand(1).item()
    assert run(2, body) == [(2, 0, drawn), (2, 1, fresh)]


def test_none_on_all_if_there_is_nothing(place: str) -> None:
    assert run(2, lambda rank: CheckpointManager(place).resume(marked())) == [None, None]


@pytest.mark.parametrize("where", ["first", "last"])
def test_what_one_rank_finds_damaged_all_leave(
    place: str, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = CheckpointManager(place)
    for iteration in (1, 2, 3, 4):
        manager.save_checkpoint({"a": marked()["a"], "n": torch.tensor(iteration)}, None, iteration)
    manager.close()
    del manager
    changed(f"{place}/checkpoint_iter_2.pt")

    def body(rank: int) -> Any:
        if rank == 1:
            damaged_for_this_rank(lambda path: "iter_4" in path or "iter_3" in path and where == "last")
        manager = CheckpointManager(place)
        target = {"a": torch.zeros(64, dtype=torch.uint8), "n": torch.tensor(0)}
        resumed = manager.resume(target)
        names = [os.path.basename(each.path) for each in resumed.skipped]
        assert "rank 1: " in str(resumed.skipped[0].reason)
        kept = manager.save_checkpoint(target, None, resumed.iteration + 1)
        return target["n"].item(), resumed.iteration, resumed.iterations_lost, names, kept

    results = run(3, body)
    assert results[0] == results[1] == results[2], results
    value, iteration, lost, skipped, _ = results[0]
    if where == "first":
        assert (value, iteration, lost) == (3, 3, 1)
        assert skipped == ["checkpoint_iter_4.pt"]
    else:
        assert (value, iteration, lost) == (1, 1, 3)
        assert skipped == [f"checkpoint_iter_{n}.pt" for n in (4, 3, 2)]
    # What was left does not come back by itself.
    assert CheckpointManager(place).latest_iteration() == iteration + 1


def damaged_for_this_rank(which: Any) -> None:
    """Make files look damaged here, as with another node's page cache or disk."""
    from scai import _native
    from scai.errors import DamagedError

    genuine = _native.File

    class File:
        def __new__(cls, path: Any, *arguments: Any) -> Any:
            return DamagedFile(path) if which(str(path)) else genuine(path, *arguments)

        of_bytes = genuine.of_bytes

    class DamagedFile:
        def __init__(self, path: Any) -> None:
            self.path = path

        def check(self, threads: int) -> None:
            raise DamagedError(f"checkpoint `{self.path}`: bytes differ", str(self.path))

    _native.File = File


def test_nothing_is_changed_before_all_have_checked(place: str) -> None:
    manager = CheckpointManager(place)
    model, optimizer = model_and_optimizer()
    manager.save_checkpoint(model, optimizer, 1)
    manager.close()
    del manager

    def body(rank: int) -> Any:
        manager = CheckpointManager(place)
        model, optimizer = model_and_optimizer(5)
        if rank == 1:
            model = nn.Sequential(nn.Linear(8, 3))
            optimizer = torch.optim.Adam(model.parameters())
            # Rank 0 is to have had the time.
            time.sleep(1)
        before = torch.get_rng_state(), {k: v.clone() for k, v in model.state_dict().items()}
        with raising() as first:
            manager.resume(model, optimizer)
        assert_same(before, (torch.get_rng_state(), dict(model.state_dict())))
        if rank == 1:
            damaged_for_this_rank(lambda path: True)
            time.sleep(0.5)
        with raising() as second:
            manager.resume(model, optimizer, at=1)
        assert_same(before, (torch.get_rng_state(), dict(model.state_dict())))
        with raising() as third:
            manager.resume(model, optimizer)
        assert_same(before, (torch.get_rng_state(), dict(model.state_dict())))
        return first[0], second[0], third[0]

    results = run(3, body)
    assert all(isinstance(each, tuple) and not isinstance(each, (Raised, Died)) for each in results), results
    own = results[1][0]
    assert own.kind is MismatchError and "the state does not match" in own.message
    for first, second, third in (results[0], results[2]):
        assert first == Raised(MismatchError, f"rank 1: {own.message}")
        assert second.kind is scai.errors.DamagedError and second.message.startswith("rank 1: ")
        assert third.kind is NothingToResumeError and "rank 1: " in third.message


def test_a_part_that_refuses_its_state_on_one_rank_undoes_all(place: str) -> None:
    class Refusing(Loader):
        def load_state_dict(self, state: Any) -> None:
            if state != {"position": -1}:
                raise ValueError("not this one")

    def body(rank: int) -> Any:
        manager = CheckpointManager(place)
        model, optimizer = model_and_optimizer()
        manager.save_checkpoint(model, optimizer, 1, dataloader=Loader(rank))
        model, optimizer = model_and_optimizer(5)
        loader = (Refusing if rank == 1 else Loader)(-1)
        before = [torch.get_rng_state(), {k: v.clone() for k, v in model.state_dict().items()}]
        with raising() as raised:
            manager.resume(model, optimizer, dataloader=loader)
        assert_same(before, [torch.get_rng_state(), dict(model.state_dict())])
        assert loader.position == -1
        return raised, manager.resume(model, optimizer, dataloader=Loader(0)).iteration

    others = ([Raised(ValueError, "rank 1: not this one")], 1)
    assert run(3, body) == [others, ([Raised(ValueError, "not this one")], 1), others]


def test_a_directory_that_is_not_shared_is_said(place: str) -> None:
    CheckpointManager(place).save_checkpoint(marked(), None, 1)

    def body(rank: int) -> Any:
        if rank == 1:
            # Another node's disk.
            from scai import _native

            genuine = _native.File
            _native.File = lambda path, *rest: genuine(str(path) + ".elsewhere", *rest)
        return CheckpointManager(place).resume(marked())

    results = run(2, body)
    path = f"{place}/checkpoint_iter_1.pt"
    assert [each.kind for each in results] == [GroupError] * 2, results
    said = f"`{path}`, which rank 0 resumes from, is not there on rank 1; is the directory shared between the nodes?"
    assert [each.message.removeprefix("rank 1: ") for each in results] == [said] * 2


def test_going_back_is_recorded_once_all_have_loaded(place: str) -> None:
    def body(rank: int) -> Any:
        manager = CheckpointManager(place)
        for iteration in (1, 2, 3):
            manager.save_checkpoint({"n": torch.tensor(iteration)}, None, iteration)
        target = {"n": torch.tensor(0)}
        if rank == 1:
            target["more"] = torch.tensor(0)
        with raising() as raised:
            manager.resume(target, at=2)
        latest = manager.latest_iteration()
        target.pop("more", None)
        dist.barrier()
        resumed = manager.resume(target, at=2)
        return raised[0].kind, latest, resumed.iteration, target["n"].item(), manager.latest_iteration()

    assert run(2, body) == [(MismatchError, 3, 2, 2, 2)] * 2


def test_a_guarded_resume_loads_alone_and_says_so(place: str) -> None:
    CheckpointManager(place).save_checkpoint(marked(), None, 1)

    def body(rank: int) -> Any:
        manager = CheckpointManager(place, join_timeout=0.4)
        found = manager.resume(marked()).iteration if rank == 0 else None
        dist.barrier()
        # One that comes after all loads the same.
        late = manager.resume(marked()).iteration if rank == 1 else None
        return found, late, [each for each in logged if "only rank 0 came to resume" in each] != []

    assert run(2, body) == [(1, None, True), (None, 1, False)]


def test_who_comes_late_to_a_resume_does_not_take_it_for_a_later_one(place: str) -> None:
    def body(rank: int) -> Any:
        manager = CheckpointManager(place, join_timeout=0.3)
        if rank == 0:
            assert manager.resume(marked()) is None
        dist.barrier()
        manager.save_checkpoint(marked(), None, 1)
        manager.save_checkpoint(marked(), None, 2)
        if rank == 0:
            time.sleep(0.2)
        resumed = manager.resume(marked())
        with raising() as raised:
            manager.resume(marked(), at=1 + rank)
        return resumed.iteration, raised

    error = Raised(ValueError, "`at` differs between the ranks: 1 on rank 0, 2 on rank 1; nothing was loaded")
    assert run(2, body) == [(2, [error])] * 2


def test_a_load_by_hand_is_local_and_gives_each_rank_its_own(place: str) -> None:
    def body(rank: int) -> Any:
        manager = CheckpointManager(place)
        seeded(rank)
        manager.save_checkpoint(marked(), None, 1, dataloader=Loader(rank))
        drawn, loader = torch.rand(1).item(), Loader(9)
        if rank == 1:
            manager.load_checkpoint(1, marked(), rng=True, dataloader=loader)
            assert (torch.rand(1).item(), loader.position) == (drawn, 1)
        dist.barrier()
        return drawn

    assert len(set(run(2, body))) == 2


def test_ranks_that_do_not_come_to_a_resume_are_named(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    CheckpointManager(place).save_checkpoint(marked(), None, 1)
    monkeypatch.setattr(_group, "PATIENCE", 1.5)

    def body(rank: int) -> Any:
        with raising() as raised:
            if rank != 2:
                CheckpointManager(place, join_timeout=0.5).resume(marked())
        dist.barrier()
        return raised

    results = run(4, body)
    error = Raised(GroupError, "rank 2 did not resume within 1.5 s; nothing was loaded on the others")
    assert results == [[error], [error], [], [error]]


# Ranks that die, and groups that end


@pytest.mark.parametrize("store", ["rank 0", "parent"])
@pytest.mark.parametrize("dying", [0, 1])
def test_a_rank_that_dies_before_a_save(
    place: str, store: str, dying: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_group, "PATIENCE", 2.0)

    def body(rank: int) -> Any:
        manager = CheckpointManager(place, join_timeout=0.5)
        manager.save_checkpoint(marked(), None, 1)
        if rank == dying:
            os.kill(os.getpid(), 9)
        try:
            return manager.save_checkpoint(marked(), None, 2), logged
        except GroupError as error:
            return str(error)

    results = run(3, body, store=store, limit=20)
    assert results[dying] == Died(-9)
    others = [result for rank, result in enumerate(results) if rank != dying]
    if dying == 1:
        path = f"{place}/checkpoint_iter_2.pt"
        said = "rank 1 did not come to the save of iteration 2 within 0.5 s: their random states are not saved"
        assert others == [(path, [said]), (path, [])]
    else:
        words = "cannot be reached" if store == "rank 0" else "rank 0 did not save within 4 s"
        assert all(words in each for each in others), others
    for path in CheckpointManager(place).list_checkpoints():
        assert scai.verify(path)


@pytest.mark.parametrize("wait", [True, False])
@pytest.mark.parametrize("store", ["rank 0", "parent"])
@pytest.mark.parametrize("dying", [0, 1])
def test_a_rank_that_dies_during_a_save(
    place: str, tmp_path: Path, store: str, dying: int, wait: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_group, "PATIENCE", 2.0)
    began = tmp_path / "began"

    def body(rank: int) -> Any:
        manager = CheckpointManager(place, join_timeout=5, snapshot="copy", threads=1)
        manager.save_checkpoint(marked(), None, 1)
        slow_to_write(manager, began, 0.8)
        if rank == 1 and dying == 1:
            threading.Thread(target=die_after, args=(began,)).start()
        try:
            saved = manager.save_checkpoint(marked(), None, 2, wait=wait)
            return saved if wait else saved.result()
        except GroupError as error:
            return str(error)

    ranks = Ranks(3, body, store=store, limit=30)
    if dying == 0:
        ranks.wait_for(began)
        ranks.kill(0)
    results = ranks.results()
    assert results[dying] == Died(-9), results
    others = [result for rank, result in enumerate(results) if rank != dying]
    if dying == 1:
        assert others == [f"{place}/checkpoint_iter_2.pt"] * 2
    else:
        words = "cannot be reached" if store == "rank 0" else "rank 0 did not save within 4 s"
        assert all(words in each for each in others), others
    for path in CheckpointManager(place).list_checkpoints():
        assert scai.verify(path)


def slow_to_write(manager: CheckpointManager, began: Path, seconds: float) -> None:
    """Have the next saves of rank 0 take a time, from when a file appears."""
    genuine = manager._manager

    class Slow:
        def __getattr__(self, name: str) -> Any:
            return getattr(genuine, name)

        def save(self, tree: Any) -> Any:
            began.touch()
            time.sleep(seconds)
            return genuine.save(tree)

        def save_in_background(self, tree: Any) -> Any:
            return SlowHandle(genuine.save_in_background(tree), began, seconds)

    manager._manager = Slow()


class SlowHandle:
    """A save in the background that takes a time."""

    def __init__(self, handle: Any, began: Path, seconds: float) -> None:
        self._handle = handle
        self._began = began
        self._end = time.monotonic() + seconds

    def __getattr__(self, name: str) -> Any:
        return getattr(self._handle, name)

    def done(self) -> bool:
        return time.monotonic() > self._end and self._handle.done()

    def wait(self, seconds: float | None = None) -> bool:
        self._began.touch()
        time.sleep(max(0, self._end - time.monotonic()))
        return self._handle.wait(seconds)


def die_after(began: Path) -> None:
    while not began.exists():
        time.sleep(0.005)
    os.kill(os.getpid(), 9)


@pytest.mark.parametrize("store", ["rank 0", "parent", "file"])
def test_a_group_that_ends_during_a_save_in_the_background(place: str, tmp_path: Path, store: str) -> None:
    def body(rank: int) -> Any:
        manager = CheckpointManager(place)
        slow_to_write(manager, tmp_path / "began", 0.5)
        handle = manager.save_checkpoint(marked(), None, 1, wait=False)
        dist.destroy_process_group()
        assert not handle.done()
        path = handle.result()
        manager.flush()
        return path, logged

    assert run(2, body, store=store) == [(f"{place}/checkpoint_iter_1.pt", [])] * 2


def test_a_new_group_in_the_same_processes_is_joined_anew(place: str) -> None:
    def body(rank: int) -> Any:
        manager = CheckpointManager(place)
        manager.save_checkpoint(marked(), None, 1)
        dist.barrier()
        dist.destroy_process_group()
        path = os.environ["SCAI_TEST_STORE"]
        dist.init_process_group("gloo", init_method=f"file://{path}", rank=1 - rank, world_size=2)
        # The one that has the right to write is the one that decides.
        if rank == 0:
            manager.close()
        dist.barrier()
        return manager.save_checkpoint(marked(), None, 3), manager.resume(marked()).iteration

    assert run(2, body) == [(f"{place}/checkpoint_iter_3.pt", 3)] * 2


def test_ranks_that_are_started_again_do_not_hear_what_was_said_before(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def body(rank: int) -> Any:
        manager = CheckpointManager(place)
        found = [manager.resume(marked())]
        manager.save_checkpoint(marked(), None, 10)
        manager.close()
        dist.barrier()
        # As torchrun does it: new processes in the store of those before them.
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
        _group._counts.clear()
        if rank == 0:
            time.sleep(0.5)
        resumed = CheckpointManager(place).resume(marked())
        return found, resumed and resumed.iteration

    assert run(2, body, store="parent") == [([None], 10)] * 2


def test_a_program_ends_when_its_saves_are_durable(place: str, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    port = str(free_port())
    command = [sys.executable, str(program), place, port]
    started = [subprocess.Popen([*command, str(rank)], stderr=subprocess.PIPE, text=True) for rank in range(2)]
    said = [process.communicate(timeout=120)[1] for process in started]
    assert [process.returncode for process in started] == [0, 0], said
    assert [each for each in said if "scai" in each.lower()] == [], said
    assert CheckpointManager(place).latest_iteration() == 2


PROGRAM = """
import sys, torch, torch.distributed as dist
from scai import CheckpointManager
place, port, rank = sys.argv[1:]
dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=int(rank), world_size=2)
manager = CheckpointManager(place)
manager.save_checkpoint({"a": torch.ones(2)}, None, 1)
manager.save_checkpoint({"a": torch.ones(1000000)}, None, 2, wait=False)
dist.destroy_process_group()
"""


