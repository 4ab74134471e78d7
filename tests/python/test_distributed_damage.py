"""`scai.distributed.StorageReader` on what is not what was saved, and on what somebody has made up."""

from __future__ import annotations

import io
import os
import pickle
import random
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from dcp_states import different, load, save, zeroed
from scai.distributed import StorageReader, StorageWriter
from scai.errors import CheckpointError
from torch.distributed.checkpoint import CheckpointException, FileSystemReader, FileSystemWriter
from torch.testing._internal.distributed.checkpoint_utils import (
    Rot13Example,
    get_test_extension_registry,
)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


def state(number: float = 1) -> dict[str, Any]:
    torch.manual_seed(int(number))
    return {
        "weights": torch.randn(300, 11),
        "small": torch.full((7,), float(number)),
        "values": {"n": number, "list": [number, "a"]},
        "empty": torch.empty(0),
    }


def loads_nothing(path: Path, reader: Any = StorageReader, of: Any = None) -> str:
    """What a load is refused with; it has changed nothing."""
    loaded = zeroed(state())
    before = zeroed(state())
    try:
        dcp.load(loaded, storage_reader=reader(path) if of is None else of(path), no_dist=True)
    except (CheckpointException, CheckpointError) as error:
        assert different(before, loaded) == [], error
        return str(error)
    raise AssertionError("it was loaded")


def loads_right(path: Path, number: float = 1) -> None:
    loaded = zeroed(state())
    load(path, loaded)
    assert different(state(number), loaded) == []


def the_shard(path: Path) -> Path:
    (shard,) = path.glob("*.distcp")
    return shard


def flip(path: Path, position: int, bit: int = 0) -> None:
    with path.open("r+b") as file:
        file.seek(position)
        (byte,) = file.read(1)
        file.seek(position)
        file.write(bytes([byte ^ 1 << bit]))


def test_a_bit_that_changed_in_a_shard_is_never_loaded(tmp_path: Path) -> None:
    """In the bytes of an item or in its headers; one between two items may go unnoticed, since nobody reads it."""
    save(tmp_path, state())
    shard, generator = the_shard(tmp_path), random.Random(0)
    size, refused = shard.stat().st_size, 0
    positions = [*range(0, size, 211), *(generator.randrange(size) for _ in range(40)), size - 1]
    for position in positions:
        bit = generator.randrange(8)
        flip(shard, position, bit)
        try:
            loads_right(tmp_path)
        except CheckpointException as error:
            assert shard.name in str(error), error
            loads_nothing(tmp_path)
            refused += 1
        flip(shard, position, bit)
    loads_right(tmp_path)
    assert refused > 0.7 * len(positions), (refused, len(positions))


def test_a_bit_that_changed_in_the_commit_or_in_the_metadata_is_never_loaded(tmp_path: Path) -> None:
    save(tmp_path, state())
    (metadata,) = tmp_path.glob("*?.metadata")
    for path in (tmp_path / "commit.json", metadata):
        for position in range(0, path.stat().st_size, 23):
            flip(path, position, position % 7)
            assert path.name.removeprefix(".") in loads_nothing(tmp_path), position
            flip(path, position, position % 7)
    loads_right(tmp_path)


def test_the_metadata_for_stock_readers_do_not_count(tmp_path: Path) -> None:
    save(tmp_path, state())
    (tmp_path / ".metadata").write_bytes(b"something else")
    loads_right(tmp_path)
    (tmp_path / ".metadata").unlink()
    loads_right(tmp_path)


def test_what_pytorch_saved_over_a_checkpoint_is_not_taken_for_it(tmp_path: Path) -> None:
    save(tmp_path, state(1))
    stale = (tmp_path / ".metadata").read_bytes()
    save(tmp_path, state(2))
    # Killed between the commit and `.metadata`.
    (tmp_path / ".metadata").write_bytes(stale)
    loads_right(tmp_path, 2)
    save(tmp_path, state(3), FileSystemWriter)
    assert "remove `commit.json`" in loads_nothing(tmp_path)
    save(tmp_path, state(4))
    loads_right(tmp_path, 4)
    save(tmp_path, state(5), FileSystemWriter)
    (tmp_path / "commit.json").unlink()
    loads_right(tmp_path, 5)


@pytest.mark.parametrize("name", ["*.distcp", "commit.json", "*?.metadata"])
def test_a_file_that_is_too_short_is_never_loaded(name: str, tmp_path: Path) -> None:
    save(tmp_path, state())
    (path,) = tmp_path.glob(name)
    content = path.read_bytes()
    for length in (0, 1, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        loads_nothing(tmp_path)
    path.write_bytes(content + b"\0")
    if name != "commit.json":
        loads_nothing(tmp_path)
    path.write_bytes(content)
    loads_right(tmp_path)


@pytest.mark.parametrize("name", ["*.distcp", "*?.metadata"])
def test_a_file_that_is_missing_is_named(name: str, tmp_path: Path) -> None:
    save(tmp_path, state())
    (path,) = tmp_path.glob(name)
    path.unlink()
    assert path.name in loads_nothing(tmp_path)


def test_a_directory_whose_commit_is_missing_is_not_loaded_as_one_of_pytorch(tmp_path: Path) -> None:
    """PyTorch's reader knows no commit; this one does not accept shards that nothing binds."""
    save(tmp_path, state())
    (tmp_path / "commit.json").unlink()
    flip(the_shard(tmp_path), 600)
    loads_nothing(tmp_path)


def test_what_ranks_wrote_each_for_itself_does_not_stand_in_for_a_damaged_checkpoint(tmp_path: Path) -> None:
    save(tmp_path, state(1))
    dcp.save(state(2), storage_writer=FileSystemWriter(tmp_path), no_dist=True, use_collectives=False)
    loads_right(tmp_path, 1)
    flip(tmp_path / "commit.json", 30)
    loads_nothing(tmp_path)


@pytest.mark.parametrize("same", [True, False], ids=["of the same size", "of another size"])
def test_a_shard_of_another_save_is_refused(same: bool, tmp_path: Path) -> None:
    save(tmp_path / "a", state(1))
    other = state(2) if same else {**state(2), "more": torch.ones(50)}
    save(tmp_path / "b", other)
    ours, theirs = the_shard(tmp_path / "a"), the_shard(tmp_path / "b")
    assert (ours.stat().st_size == theirs.stat().st_size) == same
    shutil.copy(theirs, ours)
    assert ours.name in loads_nothing(tmp_path / "a")


def test_a_commit_of_another_save_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "a", state(1))
    save(tmp_path / "b", state(2))
    shutil.copy(tmp_path / "a" / "commit.json", tmp_path / "b" / "commit.json")
    loads_nothing(tmp_path / "b")


def test_damage_beside_what_is_loaded_does_not_matter(tmp_path: Path) -> None:
    """Only what is needed is read."""
    save(tmp_path, {"a": torch.zeros(100_000), "b": torch.ones(100_000)})
    metadata = FileSystemReader(tmp_path).read_metadata()
    places = {index.fqn: place for index, place in metadata.storage_data.items()}
    flip(the_shard(tmp_path), places["a"].offset + places["a"].length // 2)
    loaded = {"b": torch.zeros(100_000)}
    load(tmp_path, loaded)
    assert loaded["b"].min() == 1
    whole = {"a": torch.full((100_000,), 7.0), "b": torch.zeros(100_000)}
    with pytest.raises(CheckpointException, match="distcp"):
        load(tmp_path, whole)
    assert whole["a"].min() == 7 and whole["b"].max() == 0


def test_a_damaged_tensor_in_a_directory_of_pytorch_is_found_by_its_crc(tmp_path: Path) -> None:
    save(tmp_path, state(), FileSystemWriter)
    loads_right(tmp_path)
    metadata = FileSystemReader(tmp_path).read_metadata()
    for index, place in metadata.storage_data.items():
        # In the tensor's bytes; a pickle of some bytes has the second CRC.
        at = place.offset + place.length // 2 if index.fqn == "weights" else None
        if at is None:
            continue
        flip(the_shard(tmp_path), at)
        assert "checksum" in loads_nothing(tmp_path).lower()
        stock = zeroed(state())
        load(tmp_path, stock, FileSystemReader)
        assert different(state(), stock) == [".weights"]
        flip(the_shard(tmp_path), at)
    loads_right(tmp_path)


def with_extension(path: Path) -> StorageReader:
    return StorageReader(path, get_test_extension_registry())


@pytest.mark.parametrize("writer", [StorageWriter, FileSystemWriter])
def test_damage_under_an_extension_is_found(writer: Any, tmp_path: Path) -> None:
    save(tmp_path, state(), writer, _extensions=[Rot13Example()])
    metadata = FileSystemReader(tmp_path).read_metadata()
    places = {index.fqn: place for index, place in metadata.storage_data.items()}
    flip(the_shard(tmp_path), places["weights"].offset + places["weights"].length // 2)
    loads_nothing(tmp_path, of=with_extension)


def test_a_shard_of_another_save_under_an_extension_is_refused(tmp_path: Path) -> None:
    for name, number in [("a", 1), ("b", 2)]:
        save(tmp_path / name, state(number), _extensions=[Rot13Example()])
    shutil.copy(the_shard(tmp_path / "b"), the_shard(tmp_path / "a"))
    assert the_shard(tmp_path / "a").name in loads_nothing(tmp_path / "a", of=with_extension)


# Checkpoints that somebody has made up.


class Hostile:
    """Makes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.system, (f"touch {self.mark}",)


def pickled_state(value: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream)
    return stream.getvalue()


def test_metadata_that_name_code_are_refused(tmp_path: Path) -> None:
    path, mark = tmp_path / "checkpoint", tmp_path / "mark"
    save(path, state(), FileSystemWriter)
    for name in (".metadata", "__0.metadata"):
        (path / ".metadata").unlink(missing_ok=True)
        (path / name).write_bytes(pickle.dumps(Hostile(mark)))
        assert "system" in loads_nothing(path)
        assert not mark.exists(), name
    # The test would notice.
    with pytest.raises(CheckpointException):
        load(path, zeroed(state()), FileSystemReader)
    assert mark.exists()


def hostile_value(path: Path, mark: Path, **options: Any) -> None:
    dcp.save(
        {**state(), "values": {"n": Hostile(mark), "list": [1]}},
        storage_writer=FileSystemWriter(path, **{k: v for k, v in options.items() if k[0] == "_"}),
        no_dist=True,
        **{k: v for k, v in options.items() if k[0] != "_"},
    )


@pytest.mark.parametrize("kind", ["ordinary", "extension", "without a coordinator", "written by scai"])
def test_values_that_name_code_are_refused(kind: str, tmp_path: Path) -> None:
    """PyTorch's planner unpickles values, whatever reader it is given."""
    path, mark = tmp_path / "checkpoint", tmp_path / "mark"
    if kind == "extension":
        hostile_value(path, mark, _extensions=[Rot13Example()])
    elif kind == "without a coordinator":
        hostile_value(path, mark, use_collectives=False)
        assert [*path.glob("__0.metadata")]
    elif kind == "ordinary":
        hostile_value(path, mark)
    else:
        dcp.save(
            {**state(), "values": {"n": Hostile(mark), "list": [1]}},
            storage_writer=StorageWriter(path),
            no_dist=True,
        )
    assert "system" in loads_nothing(path, of=with_extension)
    assert not mark.exists()
    trusting = StorageReader(path, get_test_extension_registry(), weights_only=False)
    dcp.load(zeroed(state()), storage_reader=trusting, no_dist=True)
    assert mark.exists()


def test_what_ranks_wrote_without_a_coordinator_is_loaded_and_checked(tmp_path: Path) -> None:
    dcp.save(state(), storage_writer=FileSystemWriter(tmp_path), no_dist=True, use_collectives=False)
    loads_right(tmp_path)
    metadata = FileSystemReader(tmp_path).read_metadata(rank=0)
    places = {index.fqn: place for index, place in metadata.storage_data.items()}
    flip(the_shard(tmp_path), places["weights"].offset + places["weights"].length // 2)
    assert "__0_0.distcp`: `weights`" in loads_nothing(tmp_path)
