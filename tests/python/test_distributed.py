"""`scai.distributed` with `torch.distributed.checkpoint`: what is saved and loaded, beside PyTorch's own classes."""

from __future__ import annotations

import contextlib
import io
import pickle
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from dcp_states import clone, different, load, save, state_of_all_kinds, zeroed
from ranks import Raised, model_and_optimizer, run, train
from scai._capture import Capture
from scai.distributed import StorageReader, StorageWriter
from scai.errors import LockedError
from torch.distributed.checkpoint import CheckpointException, FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.planner import SavePlanner

WRITERS = [StorageWriter, FileSystemWriter]
READERS = [StorageReader, FileSystemReader]


@contextlib.contextmanager
def raising() -> Iterator[list[Raised]]:
    """Gives what is raised inside. What DCP raises is no `Exception`."""
    found: list[Raised] = []
    try:
        yield found
    except (Exception, CheckpointException) as error:
        found.append(Raised(type(error), str(error)))


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """OpenMP does not survive a fork, and DCP warns of what these tests do all the time."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield
    torch.set_num_threads(before)


@pytest.fixture
def no_cached_plans() -> Iterator[None]:
    """Planners share their plans within a process."""
    yield
    for name in vars(SavePlanner):
        if name.startswith("_cached_"):
            getattr(SavePlanner, name).clear()


@pytest.mark.parametrize(
    ("writer", "reader"),
    [(w, r) for w in WRITERS for r in READERS if StorageWriter is w or StorageReader is r],
)
def test_states_of_all_kinds_are_loaded_equal(writer: Any, reader: Any, tmp_path: Path) -> None:
    state = state_of_all_kinds()
    save(tmp_path, state, writer)
    loaded = zeroed(state)
    load(tmp_path, loaded, reader)
    assert different(state, loaded) == []


@pytest.mark.parametrize("is_extended", [False, True])
def test_the_shards_hold_no_more_than_the_tensors(is_extended: bool, tmp_path: Path) -> None:
    state = {"part": torch.arange(1_000_000)[10:20], "rows": torch.zeros(1, 4).expand(5, 4)}
    save(tmp_path, state, _extensions=[extensions_of("rot13")[0]] if is_extended else None)
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 20_000


def test_values_of_other_types_are_loaded_if_the_file_is_trusted(tmp_path: Path) -> None:
    state = {"path": Path("a"), "tensor": torch.ones(2)}
    save(tmp_path, state)
    refused = {"path": None, "tensor": torch.zeros(2)}
    with pytest.raises(CheckpointException, match=r"`path`.*PosixPath.*weights_only=False"):
        load(tmp_path, refused)
    assert refused["tensor"].tolist() == [0, 0]
    loaded = {"path": None, "tensor": torch.zeros(2)}
    dcp.load(loaded, storage_reader=StorageReader(tmp_path, weights_only=False), no_dist=True)
    assert loaded["path"] == Path("a")


@pytest.mark.parametrize("writer", WRITERS)
def test_streams_of_bytes_and_classes_that_are_called_safe_are_loaded(writer: Any, tmp_path: Path) -> None:
    """torchtitan keeps the losses of its training in a stream."""
    state = {"losses": io.BytesIO(b"0.5 0.25"), "point": Point(3)}
    save(tmp_path, state, writer)
    loaded = {"losses": None, "point": None}
    with pytest.raises(CheckpointException, match="Point"):
        load(tmp_path, loaded)
    with torch.serialization.safe_globals([Point]):
        load(tmp_path, loaded)
    assert different(state, loaded) == []


@dataclass
class Point:
    x: int


def test_a_part_is_loaded_and_what_is_missing_is_named(tmp_path: Path) -> None:
    save(tmp_path, {"a": torch.ones(3), "b": torch.ones(4), "c": [1]})
    part = {"b": torch.zeros(4)}
    load(tmp_path, part)
    assert part["b"].tolist() == [1] * 4
    with pytest.raises(CheckpointException, match="Missing key in checkpoint state_dict: d"):
        load(tmp_path, {"d": torch.zeros(4)})


def test_a_tensor_is_loaded_into_another_dtype_as_by_pytorch(tmp_path: Path) -> None:
    save(tmp_path, {"a": torch.tensor([1.7, -2.5])})
    for dtype in (torch.float64, torch.bfloat16, torch.int32):
        ours, stock = {"a": torch.zeros(2, dtype=dtype)}, {"a": torch.zeros(2, dtype=dtype)}
        load(tmp_path, ours)
        load(tmp_path, stock, FileSystemReader)
        assert different(ours, stock) == []


def test_a_tensor_of_another_size_is_refused(tmp_path: Path) -> None:
    save(tmp_path, {"a": torch.ones(3), "b": torch.ones(3)})
    loaded = {"a": torch.zeros(3), "b": torch.zeros(4)}
    with pytest.raises(CheckpointException, match="Size"):
        load(tmp_path, loaded)
    assert loaded["a"].tolist() == [0] * 3


def test_a_save_replaces_the_one_before_and_its_files(tmp_path: Path) -> None:
    save(tmp_path, {"a": torch.ones(3)})
    before = {path.name for path in tmp_path.glob("*.distcp")}
    save(tmp_path, {"a": torch.full((3,), 2.0)})
    after = {path.name for path in tmp_path.glob("*.distcp")}
    assert len(before) == len(after) == 1 and not before & after
    for reader in READERS:
        loaded = {"a": torch.zeros(3)}
        load(tmp_path, loaded, reader)
        assert loaded["a"].tolist() == [2] * 3


@pytest.mark.parametrize("writer", WRITERS)
def test_a_checkpoint_is_not_overwritten_if_so_asked(writer: Any, tmp_path: Path) -> None:
    save(tmp_path, {"a": torch.ones(3)}, writer)
    names = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(CheckpointException, match="Checkpoint already exists"):
        save(tmp_path, {"a": torch.zeros(3)}, StorageWriter, overwrite=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    loaded = {"a": torch.zeros(3)}
    load(tmp_path, loaded)
    assert loaded["a"].tolist() == [1] * 3
    save(tmp_path / "new", {"a": torch.ones(3)}, StorageWriter, overwrite=False)


def test_saves_without_a_coordinator_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="use_collectives"):
        dcp.save(
            {"a": torch.ones(3)},
            storage_writer=StorageWriter(tmp_path),
            no_dist=True,
            use_collectives=False,
        )
    assert not [*tmp_path.iterdir()]


def test_safetensors_are_refused(tmp_path: Path) -> None:
    from torch.distributed.checkpoint.filesystem import SerializationFormat

    with pytest.raises(ValueError, match="serialization_format"):
        StorageWriter(tmp_path, serialization_format=SerializationFormat.SAFETENSORS)


def test_a_save_in_another_process_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="AsyncCheckpointerType.THREAD"):
        pickle.dumps(StorageWriter(tmp_path))


def training() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    return model_and_optimizer()


def state_of(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    return {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "steps": [1, 2]}


@pytest.mark.parametrize("snapshot", ["live", "copy", "sync"])
def test_a_save_in_the_background_holds_the_moment_of_the_call(snapshot: Any, tmp_path: Path) -> None:
    model, optimizer = training()
    writer = Held(tmp_path, models=[model], optimizers=[optimizer], snapshot=snapshot)
    state = state_of(model, optimizer)
    expected = clone(state)
    future = dcp.async_save(state, storage_writer=writer, no_dist=True)
    state["steps"].append(3)
    assert writer.planned.acquire(timeout=10)
    train(model, optimizer)
    model[1].running_mean.add_(1)
    assert different(clone(state_of(model, optimizer)), expected)
    writer.go.set()
    future.result()
    for reader in READERS:
        loaded = zeroed(expected)
        load(tmp_path, loaded, reader)
        assert different(expected, loaded) == []


class Held(StorageWriter):
    """Writes when it is told to."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.planned, self.go = threading.Semaphore(0), threading.Event()

    def write_data(self, plan: Any, planner: Any) -> Any:
        self.planned.release()
        assert self.go.wait(10)
        return super().write_data(plan, planner)


@pytest.mark.parametrize("snapshot", ["live", "copy"])
@pytest.mark.parametrize("in_place", [True, False], ids=["one directory", "a directory each"])
def test_one_writer_saves_several_times(snapshot: Any, in_place: bool, tmp_path: Path) -> None:
    model, optimizer = training()
    writer = StorageWriter(tmp_path, models=[model], optimizers=[optimizer], snapshot=snapshot)
    for number in range(4):
        path = tmp_path / ("one" if in_place else str(number))
        state = state_of(model, optimizer)
        expected = clone(state)
        future = dcp.async_save(state, checkpoint_id=path, storage_writer=writer, no_dist=True)
        train(model, optimizer)
        future.result()
        loaded = zeroed(expected)
        load(path, loaded)
        assert different(expected, loaded) == [], number


def test_containers_of_all_kinds_are_taken_when_a_save_in_the_background_begins(tmp_path: Path) -> None:
    """DCP looks into mappings and lists; a tuple is pickled as a whole when it is written."""
    from collections import OrderedDict, UserDict

    class Numbers(list):  # type: ignore[type-arg]
        pass

    tensor = torch.ones(2)
    state = {
        "ordered": OrderedDict(x=tensor),
        "mapping": UserDict(x=tensor, y=[1]),
        "list": Numbers([tensor, 1, (tensor,)]),
        "tuple": (tensor * torch.nn.Parameter(torch.ones(2)), {"x": tensor}),
        "lists": [[1], [(tensor, [2])]],
        "empty": {"list": [], "dict": {}, "tuple": ()},
    }
    writer = Held(tmp_path / "scai")
    future = dcp.async_save(state, storage_writer=writer, no_dist=True)
    dcp.save(state, storage_writer=FileSystemWriter(tmp_path / "stock"), no_dist=True)
    assert writer.planned.acquire(timeout=10)
    tensor.zero_()
    state["tuple"][0].detach().zero_()
    state["mapping"]["y"].append(2)
    writer.go.set()
    future.result()
    ours, stock = [
        {**zeroed(state), "list": [torch.zeros(2), None, None], "tuple": None, "lists": None} for _ in range(2)
    ]
    load(tmp_path / "scai", ours)
    load(tmp_path / "stock", stock)
    assert different(stock, ours) == []
    assert ours["tuple"][1]["x"].tolist() == [1, 1] and ours["lists"][1][0][0].tolist() == [1, 1]


@pytest.mark.parametrize("is_reused", [True, False], ids=["one writer", "a writer each"])
@pytest.mark.parametrize("in_place", [True, False], ids=["one directory", "a directory each"])
def test_a_planner_that_caches_plans_saves_again_and_again(
    is_reused: bool, in_place: bool, tmp_path: Path, no_cached_plans: None
) -> None:
    writer = StorageWriter(tmp_path)
    for number in range(4):
        path = tmp_path / ("one" if in_place else str(number))
        state = {"a": torch.full((3,), float(number)), "n": number}
        dcp.save(
            state,
            checkpoint_id=path,
            storage_writer=writer if is_reused else StorageWriter(path),
            planner=DefaultSavePlanner(enable_plan_caching=True),
            no_dist=True,
        )
        for reader in READERS:
            loaded = {"a": torch.zeros(3), "n": -1}
            load(path, loaded, reader)
            assert different(state, loaded) == []
        assert len([*path.glob("*.distcp")]) == 1


@pytest.mark.parametrize("is_reused", [True, False], ids=["one writer", "two writers"])
def test_of_two_saves_at_once_the_first_fails_and_says_why(is_reused: bool, tmp_path: Path) -> None:
    save(tmp_path, {"a": torch.zeros(3)})
    first = Held(tmp_path)
    future = dcp.async_save({"a": torch.ones(3)}, storage_writer=first, no_dist=True)
    assert first.planned.acquire(timeout=10)
    second = first if is_reused else StorageWriter(tmp_path)
    if is_reused:
        later = dcp.async_save({"a": torch.full((3,), 2.0)}, storage_writer=second, no_dist=True)
        assert first.planned.acquire(timeout=10)
    else:
        dcp.save({"a": torch.full((3,), 2.0)}, storage_writer=second, no_dist=True)
    first.go.set()
    with pytest.raises(CheckpointException, match="another save to this directory"):
        future.result()
    if is_reused:
        later.result()
    for reader in READERS:
        loaded = {"a": torch.zeros(3)}
        load(tmp_path, loaded, reader)
        assert loaded["a"].tolist() == [2] * 3


def test_a_save_that_ends_leaves_alone_what_was_taken_for_the_next(tmp_path: Path) -> None:
    writer = Held(tmp_path)
    future = dcp.async_save({"a": torch.ones(3)}, storage_writer=writer, no_dist=True)
    assert writer.planned.acquire(timeout=10)
    tensor = torch.full((3,), 2.0)
    staged = writer.stage({"a": tensor})
    tensor.zero_()
    writer.go.set()
    future.result()
    for thread in threading.enumerate():
        if thread.name.startswith("AsyncCheckpointExecutor"):
            thread.join(10)
    dcp.save(staged, storage_writer=writer, no_dist=True)
    loaded = {"a": torch.zeros(3)}
    load(tmp_path, loaded)
    assert loaded["a"].tolist() == [2] * 3


def test_a_directory_in_which_another_process_saves_is_locked(tmp_path: Path) -> None:
    def body(rank: int) -> Any:
        if rank == 0:
            writer = Held(tmp_path)
            future = dcp.async_save({"a": torch.ones(3)}, storage_writer=writer, no_dist=True)
            assert writer.planned.acquire(timeout=10)
            (tmp_path.parent / "planned").touch()
            while not (tmp_path.parent / "tried").exists():
                writer.go.wait(0.01)
            writer.go.set()
            return future.result() is not None
        while not (tmp_path.parent / "planned").exists():
            threading.Event().wait(0.01)
        with raising() as found:
            save(tmp_path, {"a": torch.zeros(3)})
        (tmp_path.parent / "tried").touch()
        return found

    for name in ("planned", "tried"):
        (tmp_path.parent / name).unlink(missing_ok=True)
    first, second = run(2, body, store=None)
    assert first is True, first
    assert second[0].kind is CheckpointException and LockedError.__name__ in second[0].message
    loaded = {"a": torch.zeros(3)}
    load(tmp_path, loaded)
    assert loaded["a"].tolist() == [1] * 3


def test_a_step_does_not_wait_for_a_save_that_has_failed(tmp_path: Path) -> None:
    """Nobody tells a stager that the planning of a save has failed. What it took is in no later save."""

    class Failing(DefaultSavePlanner):
        def create_local_plan(self) -> Any:
            raise ValueError("no plan")

    # Large enough not to be copied at once.
    model = torch.nn.Linear(512, 512)
    optimizer = torch.optim.Adam(model.parameters())

    def step() -> None:
        model(torch.ones(1, 512)).sum().backward()
        optimizer.step()

    step()
    writer = StorageWriter(tmp_path, models=[model], optimizers=[optimizer])
    writer._capture = Capture(memory=0)
    for _ in range(5):
        state = state_of(model, optimizer)
        future = dcp.async_save(state, storage_writer=writer, planner=Failing(), no_dist=True)
        with pytest.raises(CheckpointException, match="no plan"):
            future.result()
        stepping = threading.Thread(target=step, daemon=True)
        stepping.start()
        stepping.join(10)
        assert not stepping.is_alive()
        expected = clone(state_of(model, optimizer))
        dcp.async_save(state_of(model, optimizer), storage_writer=writer, no_dist=True).result()
        loaded = zeroed(expected)
        load(tmp_path, loaded)
        assert different(expected, loaded) == []


def test_what_a_failed_save_took_is_in_no_later_one(tmp_path: Path) -> None:
    """Its thread has not ended yet when the next save begins."""
    fail, end = threading.Event(), threading.Event()

    class Failing(DefaultSavePlanner):
        def create_local_plan(self) -> Any:
            fail.wait(10)
            raise ValueError("no plan")

    writer, tensor = StorageWriter(tmp_path), torch.ones(3)
    failing = dcp.async_save({"a": tensor}, storage_writer=writer, planner=Failing(), no_dist=True)
    # Callbacks are called on the thread.
    failing.add_done_callback(lambda _: end.wait(10))
    fail.set()
    with pytest.raises(CheckpointException):
        failing.result()
    tensor.fill_(2)
    dcp.async_save({"a": tensor}, storage_writer=writer, no_dist=True).result()
    end.set()
    loaded = {"a": torch.zeros(3)}
    load(tmp_path, loaded)
    assert loaded["a"].tolist() == [2] * 3


def test_tensors_that_were_not_taken_are_refused_in_the_background(tmp_path: Path) -> None:
    class Casting(DefaultSavePlanner):
        def set_up_planner(self, state_dict: Any, *args: Any, **kwargs: Any) -> None:
            halves = {name: tensor.half() for name, tensor in state_dict.items()}
            super().set_up_planner(halves, *args, **kwargs)

    tensor = torch.ones(3)
    nested = DefaultSavePlanner(flatten_state_dict=False)
    for planner, state in [(Casting(), {"a": tensor}), (nested, {"model": {"a": tensor}, "b": tensor})]:
        writer = StorageWriter(tmp_path)
        with pytest.raises(CheckpointException, match="background"):
            dcp.async_save(state, storage_writer=writer, planner=planner, no_dist=True).result()
        dcp.save(state, storage_writer=writer, planner=planner, no_dist=True)
        dcp.async_save({"n": 1}, storage_writer=writer, no_dist=True).result()


def test_each_rank_saves_what_it_has_while_training_goes_on(tmp_path: Path) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor, Shard, distribute_tensor

    def body(rank: int) -> Any:
        mesh = init_device_mesh("cpu", (2,))
        torch.manual_seed(0)
        weight = torch.nn.Parameter(distribute_tensor(torch.randn(5, 3), mesh, [Shard(0)]))
        plain = torch.nn.Parameter(torch.randn(4))
        optimizer = torch.optim.Adam([weight, plain], lr=0.1, foreach=False)

        def step() -> None:
            optimizer.zero_grad()
            (weight.to_local().square().sum() + plain.square().sum()).backward()
            optimizer.step()

        def state() -> dict[str, Any]:
            moments = {str(i): dict(each) for i, each in enumerate(optimizer.state.values())}
            return {"weight": weight.detach(), "plain": plain.detach(), "moments": moments, "rank": 7}

        step()
        writer = StorageWriter(tmp_path, optimizers=[optimizer])
        for _ in range(3):
            now = state()
            expected = clone(now)
            future = dcp.async_save(now, storage_writer=writer)
            step()
            future.result()
            for reader in READERS:
                loaded = zeroed(expected)
                dcp.load(loaded, storage_reader=reader(tmp_path))
                if found := different(expected, loaded):
                    return found
        assert isinstance(weight, DTensor)
        return []

    assert run(2, body) == [[], []]


# The failures of PyTorch's own test_checkpoint.py, on these classes.


class Faulty:
    """Fails on some ranks in one of the methods."""

    def fail(self, point: str, rank: int) -> Any:
        self.point, self.failing = point, rank
        return self

    def check(self, point: str) -> None:
        import torch.distributed as dist

        if self.point == point and (not dist.is_initialized() or dist.get_rank() == self.failing):
            raise ValueError(f"failed in {point}")


class FaultyWriter(Faulty, StorageWriter):
    def set_up_storage_writer(self, *args: Any, **kwargs: Any) -> None:
        self.check("set_up")
        super().set_up_storage_writer(*args, **kwargs)

    def prepare_local_plan(self, plan: Any) -> Any:
        self.check("local_plan")
        return super().prepare_local_plan(plan)

    def prepare_global_plan(self, plans: Any) -> Any:
        self.check("before_global_plan")
        plans = super().prepare_global_plan(plans)
        self.check("global_plan")
        return plans

    def write_data(self, plan: Any, planner: Any) -> Any:
        self.check("write_data")
        future = super().write_data(plan, planner)
        try:
            self.check("write_data_async")
        except ValueError as error:
            future = torch.futures.Future()
            future.set_exception(error)
        return future

    def finish(self, *args: Any, **kwargs: Any) -> None:
        self.check("finish")
        super().finish(*args, **kwargs)


class FaultyReader(Faulty, StorageReader):
    def read_metadata(self, *args: Any, **kwargs: Any) -> Any:
        self.check("read_metadata")
        return super().read_metadata(*args, **kwargs)

    def set_up_storage_reader(self, *args: Any, **kwargs: Any) -> None:
        self.check("set_up")
        super().set_up_storage_reader(*args, **kwargs)

    def prepare_local_plan(self, plan: Any) -> Any:
        self.check("local_plan")
        return super().prepare_local_plan(plan)

    def prepare_global_plan(self, plans: Any) -> Any:
        self.check("global_plan")
        return super().prepare_global_plan(plans)

    def read_data(self, *args: Any, **kwargs: Any) -> Any:
        self.check("read_data")
        return super().read_data(*args, **kwargs)


def value_on(path: Path, reader: Any) -> Any:
    loaded = {"a": torch.zeros(3), "n": [0]}
    dcp.load(loaded, storage_reader=reader(path))
    return [loaded["a"].tolist(), loaded["n"]]


WRITE_FAULTS = [
    ("set_up", 0),
    ("set_up", 1),
    ("local_plan", 0),
    ("local_plan", 1),
    ("before_global_plan", 0),
    ("global_plan", 0),
    ("write_data", 0),
    ("write_data", 1),
    ("write_data_async", 0),
    ("write_data_async", 1),
    ("finish", 0),
]


@pytest.mark.parametrize("size", [1, 2])
def test_a_save_that_fails_leaves_the_checkpoint_and_the_next_works(size: int, tmp_path: Path) -> None:
    """On each rank and with one process without a group; saves that wait, and some in the background."""
    faults = [(point, rank) for point, rank in WRITE_FAULTS if rank < size]

    def body(rank: int) -> Any:
        def state(number: int) -> dict[str, Any]:
            return {"a": torch.full((3,), float(number)), "n": [number], "own": {rank: torch.ones(1)}}

        dcp.save(state(0), storage_writer=StorageWriter(tmp_path))
        for number, (point, failing) in enumerate(faults):
            writer = FaultyWriter(tmp_path).fail(point, failing)
            with raising() as found:
                if number % 2:
                    dcp.async_save(state(-1), storage_writer=writer).result()
                else:
                    dcp.save(state(-1), storage_writer=writer)
            assert [each.kind for each in found] == [CheckpointException], (point, found)
            assert f"failed in {point}" in found[0].message, found
            for reader in READERS:
                was = value_on(tmp_path, reader)
                assert was == [[number] * 3, [number]], (point, reader, was)
            # With the same writer, which is well again.
            dcp.save(state(number + 1), storage_writer=writer.fail("", 0))
        return value_on(tmp_path, StorageReader)

    results = run(size, body, store="rank 0" if size > 1 else None)
    assert results == [[[len(faults)] * 3, [len(faults)]]] * size
    # Nothing of the failed ones is left.
    assert len([*tmp_path.glob("*.distcp")]) == size


@pytest.mark.parametrize("size", [1, 2])
def test_a_load_that_fails_fails_everywhere_and_the_next_works(size: int, tmp_path: Path) -> None:
    points = ["read_metadata", "set_up", "local_plan", "global_plan", "read_data"]

    def body(rank: int) -> Any:
        dcp.save({"a": torch.ones(3), "n": [1]}, storage_writer=StorageWriter(tmp_path))
        for point in points:
            for failing in range(1 if point == "global_plan" else size):
                loaded = {"a": torch.zeros(3), "n": [0]}
                reader = FaultyReader(tmp_path).fail(point, failing)
                with raising() as found:
                    dcp.load(loaded, storage_reader=reader)
                assert [each.kind for each in found] == [CheckpointException], (point, found)
                assert f"failed in {point}" in found[0].message, found
                if rank == failing:
                    assert loaded["a"].tolist() == [0] * 3
                dcp.load(loaded, storage_reader=reader.fail("", 0))
                assert loaded["a"].tolist() == [1] * 3
        return True

    assert run(size, body, store="rank 0" if size > 1 else None) == [True] * size


def extensions_of(name: str) -> tuple[Any, Any]:
    """An extension of streams, and the registry with which it is read."""
    from torch.distributed.checkpoint._extension import ExtensionRegistry
    from torch.testing._internal.distributed.checkpoint_utils import (
        Rot13Example,
        get_test_extension_registry,
    )

    if name == "rot13":
        return Rot13Example(), get_test_extension_registry()
    pytest.importorskip("zstandard")
    from torch.distributed.checkpoint._extension import ZStandard

    return ZStandard(), ExtensionRegistry()


@pytest.mark.parametrize("extension", ["rot13", "zstandard"])
@pytest.mark.parametrize(
    ("writer", "reader"),
    [(w, r) for w in WRITERS for r in READERS if StorageWriter is w or StorageReader is r],
)
def test_extensions_transform_what_is_saved(
    extension: str, writer: Any, reader: Any, tmp_path: Path
) -> None:
    extending, registry = extensions_of(extension)
    state = state_of_all_kinds()
    save(tmp_path, state, writer, _extensions=[extending])
    loaded = zeroed(state)
    dcp.load(loaded, storage_reader=reader(tmp_path, registry), no_dist=True)
    assert different(state, loaded) == []
    if extension == "rot13":
        with pytest.raises(CheckpointException, match="rot13"):
            load(tmp_path, zeroed(state), reader)


def test_extensions_transform_the_moment_of_the_call(tmp_path: Path) -> None:
    extending, registry = extensions_of("rot13")
    model, optimizer = training()
    writer = Held(tmp_path, models=[model], optimizers=[optimizer], _extensions=[extending])
    state = state_of(model, optimizer)
    expected = clone(state)
    future = dcp.async_save(state, storage_writer=writer, no_dist=True)
    assert writer.planned.acquire(timeout=10)
    train(model, optimizer)
    writer.go.set()
    future.result()
    loaded = zeroed(expected)
    dcp.load(loaded, storage_reader=StorageReader(tmp_path, registry), no_dist=True)
    assert different(expected, loaded) == []


def test_a_rank_that_raises_is_a_result() -> None:
    assert isinstance(run(1, lambda rank: 1 / 0, store=None)[0], Raised)
