"""Files of other programs: objects that need code, NumPy's values, old and odd pickles."""

from __future__ import annotations

import argparse
import collections
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scai
import scai.utils.checkpoint
import torch
from same import TORCH
from scai.errors import NeedsCodeError, NotACheckpointError, UnsupportedError
from torch import nn
from torch._weights_only_unpickler import _get_allowed_globals


class Net(nn.Module):
    """A module of a class that no reader knows."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
        self.tied = self.a[0].weight
        self.apart = [torch.ones(2)]


def archive(path: Path, pickled: bytes, **records: bytes) -> Path:
    """A file with this pickle, as torch packs it."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", pickled)
        file.writestr("archive/byteorder", "little")
        for name, content in records.items():
            file.writestr(f"archive/{name.replace('_', '/')}", content)
        file.writestr("archive/version", "3\n")
    return path


def floats(count: int) -> bytes:
    return struct.pack(f"<{count}f", *range(count))


def test_a_file_with_a_namespace_is_sound_and_needs_code(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    saved = {"model": {"w": torch.ones(2, 2)}, "args": argparse.Namespace(lr=0.5), "epoch": 3}
    torch.save(saved, path)
    verified = scai.verify(path)
    assert verified.condition == "needs_code"
    assert not verified.damage
    assert isinstance(verified.obstacle, NeedsCodeError)
    with pytest.raises(NeedsCodeError, match=r"argparse\.Namespace.*vars\(args\)"):
        scai.load(path)


def test_a_stand_in_leads_to_everything_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "a.pt"
    saved = {"w": torch.ones(2, 2), "args": argparse.Namespace(lr=0.5, t=torch.zeros(1)), "n": 3}
    torch.save(saved, path)
    loaded = scai.load(path, foreign="stand-in")
    assert torch.equal(loaded["w"], saved["w"])
    assert loaded["n"] == 3
    assert isinstance(loaded["args"], scai.ForeignObject)
    assert loaded["args"].class_name == "argparse.Namespace"
    assert loaded["args"].content["lr"] == 0.5
    assert torch.equal(loaded["args"].content["t"], torch.zeros(1))
    assert "args (argparse.Namespace)" in caplog.text
    with pytest.raises(ValueError, match="foreign"):
        scai.load(path, foreign="skip")  # type: ignore[arg-type]


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.filterwarnings("ignore")
def test_of_a_whole_module_its_state_dict_is_read(
    tmp_path: Path, protocol: int, legacy: bool
) -> None:
    path = tmp_path / "a.pt"
    net = Net()
    torch.save(
        net, path, pickle_protocol=protocol, _use_new_zipfile_serialization=not legacy
    )
    loaded = scai.load(path, foreign="stand-in", allow_unprotected=True)
    assert loaded.class_name.endswith("Net")
    state = net.state_dict()
    assert list(loaded.content)[: len(state)] == [*state] or set(state) <= set(loaded.content)
    for name, tensor in state.items():
        assert torch.equal(loaded.content[name], tensor), name
    assert torch.equal(loaded.content["apart"][0], torch.ones(2))
    with pytest.raises(NeedsCodeError, match="Net"):
        scai.load(path, allow_unprotected=True)


NUMPY: list[Any] = [
    np.float64(0.9),
    np.float32(-1.5),
    np.float16(0.1),
    np.int64(-3),
    np.uint64(2**64 - 1),
    np.bool_(True),
    np.complex64(1 - 2j),
    np.longdouble("0.1"),
    np.str_("a\u20acb"),
    np.bytes_(b"ab\0c"),
    np.datetime64("2026-01-02T03:04:05.006"),
    np.timedelta64(25, "s"),
    np.arange(6).reshape(2, 3),
    np.arange(6.0).reshape(2, 3).T,
    np.arange(4, dtype=">i4"),
    np.array([], dtype=np.float32),
    np.array(5.0),
    np.array([True, False]),
    np.array(["ab", "c"]),
    np.array([b"ab", b"c"]),
    np.array(["2026-01-02"], dtype="M8[D]"),
    np.array([(1.0, 2)], dtype=[("a", "f4"), ("b", "i8", (2,))]),
    np.dtype("float32"),
    np.dtype([("a", ">f4"), ("b", "U3")]),
    np.dtype("M8[25s]"),
    np.float32,
    np.random.RandomState(3).get_state(),
]


def same(a: Any, b: Any) -> bool:
    """Whether two values are of one type and equal."""
    if isinstance(a, tuple):
        return type(b) is tuple and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, np.ndarray):
        return (
            type(a) is type(b)
            and a.dtype == b.dtype
            and a.shape == b.shape
            and a.tobytes() == b.tobytes()
        )
    return type(a) is type(b) and bool(a == b)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("value", NUMPY, ids=lambda value: repr(value)[:30])
def test_values_of_numpy_come_back_as_they_were(
    tmp_path: Path, value: Any, protocol: int
) -> None:
    path = tmp_path / "a.pt"
    saved = {"epoch": 1, "acc": value, "list": [None, value], "twice": value}
    torch.save(saved, path, pickle_protocol=protocol)
    loaded = scai.load(path)
    for found in (loaded["acc"], loaded["list"][1], loaded["twice"]):
        assert same(value, found), (value, found)
    # Saved again, they are what they were.
    scai.save(loaded, path)
    assert same(value, scai.load(path)["list"][1])


def test_numpy_values_are_keys_and_elements(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    saved = {np.int64(3): "three", "tuple": (np.float32(1), {"deep": [np.float64(2)]})}
    torch.save(saved, path)
    loaded = scai.load(path)
    assert [type(key) for key in loaded] == [np.int64, str]
    assert same(saved["tuple"][0], loaded["tuple"][0])  # type: ignore[index]
    assert type(loaded["tuple"][1]["deep"][0]) is np.float64


def test_arrays_of_objects_are_refused_in_words(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save({"a": np.array([{}, None]), "w": torch.ones(1)}, path)
    with pytest.raises(UnsupportedError, match="array of Python objects"):
        scai.load(path)
    assert torch.equal(scai.load(path, foreign="stand-in")["w"], torch.ones(1))


def test_everything_that_torch_allows_by_default_is_in_the_table(tmp_path: Path) -> None:
    wrong = []
    for name, expected in _get_allowed_globals().items():
        if name == "torch._utils._rebuild_nested_tensor":
            # PyTorch before 2.6 allows it; a nested tensor is refused by name.
            continue
        module, _, attribute = name.rpartition(".")
        pickled = f"\x80\x02c{module}\n{attribute}\n.".encode("latin1")
        found = scai.load(archive(tmp_path / "a.pt", pickled))
        # torch gives a stand-in for a class of storages.
        stand_in = isinstance(expected, torch.serialization.StorageType)
        if not (found.__name__ == attribute if stand_in else found is expected):
            wrong.append((name, found))
    assert not wrong


def test_a_state_dict_of_python_2_is_read(tmp_path: Path) -> None:
    # An OrderedDict is applied to a list of lists, and its attributes are set; text is `str`.
    pickled = (
        b"\x80\x02ccollections\nOrderedDict\nq\x01]q\x02]q\x03(U\x06weightq\x04"
        b"ctorch._utils\n_rebuild_tensor\nq\x05((U\x07storagectorch\nFloatStorage\n"
        b"U\x010U\x03cpuK\x06NtQK\x00K\x02K\x03\x86K\x03K\x01\x86tRea\x85R"
        b"}U\x09_metadatah\x01)Rsb."
    )
    path = archive(tmp_path / "a.pt", pickled, data_0=floats(6))
    loaded = scai.load(path)
    assert type(loaded) is collections.OrderedDict
    assert torch.equal(loaded["weight"], torch.arange(6.0).reshape(2, 3))
    assert loaded._metadata == {}


def test_an_array_of_python_2_is_read(tmp_path: Path) -> None:
    data = np.array([1.5, -2.0]).tobytes()
    pickled = (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x02\x85cnumpy\ndtype\nU\x02f8K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xff"
        b"J\xff\xff\xff\xffK\x00tb\x89U\x10" + data + b"tb."
    )
    loaded = scai.load(archive(tmp_path / "a.pt", pickled))
    assert same(np.array([1.5, -2.0]), loaded)


@pytest.mark.parametrize("protocol", [0, 1])
def test_the_oldest_protocols_are_read(tmp_path: Path, protocol: int) -> None:
    saved = {"a": [1, 2.5, True, None, 2**70, -1], "s": "it's \u20ac \\ \n", "t": (1, (2,), ())}
    path = archive(tmp_path / "a.pt", pickle.dumps(saved, protocol))
    assert scai.load(path) == saved
    path = archive(tmp_path / "b.pt", pickle.dumps(argparse.Namespace(lr=1), protocol))
    loaded = scai.load(path, foreign="stand-in")
    assert (loaded.class_name, loaded.content) == ("argparse.Namespace", {"lr": 1})


def test_legacy_tensors_of_a_class_are_read(tmp_path: Path) -> None:
    storage = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x06tQ"
    pickled = (
        b"\x80\x02ctorch\nFloatTensor\n)\x81(" + storage + b"K\x00K\x02K\x03\x86K\x03K\x01\x86tb."
    )
    path = archive(tmp_path / "a.pt", pickled, data_0=floats(6))
    assert torch.equal(scai.load(path), torch.arange(6.0).reshape(2, 3))
    if TORCH >= (2, 6):
        assert torch.equal(torch.load(path, weights_only=True), scai.load(path))


@pytest.mark.parametrize("value", [frozenset([1]), collections.deque([1]), {1: Path("a")}])
def test_whatever_else_is_inside_the_tensors_are_reached(tmp_path: Path, value: Any) -> None:
    path = tmp_path / "a.pt"
    for protocol in (2, 4):
        torch.save([value, torch.ones(2)], path, pickle_protocol=protocol)
        assert scai.verify(path).condition == "needs_code"
        assert torch.equal(scai.load(path, foreign="stand-in")[1], torch.ones(2))


def test_an_object_that_contains_itself_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    args = argparse.Namespace(w=torch.ones(2))
    args.me = args
    torch.save(args, path)
    loaded = scai.load(path, foreign="stand-in")
    assert torch.equal(loaded.content["w"], torch.ones(2))
    assert loaded.content["me"].class_name == "argparse.Namespace"


@pytest.mark.parametrize("content", [b"hello", b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 300])
def test_what_is_something_else_is_not_damaged(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(content)
    verified = scai.verify(path)
    assert verified.condition == "not_a_checkpoint"
    assert not verified.damage
    with pytest.raises(NotACheckpointError):
        scai.load(path)


def test_a_zip_file_of_other_things_is_not_damaged(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    for names in (["a.txt"], ["x/a.txt", "y/"], ["x/"], ["x/a", "x/b"]):
        for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            with zipfile.ZipFile(path, "w", method) as file:
                for name in names:
                    file.writestr(name, "a" * 1000)
            assert scai.verify(path).condition == "not_a_checkpoint", (names, method)


@pytest.mark.parametrize("content", [b"", bytes(100_000)])
def test_an_empty_file_and_one_of_zeros_are_damaged(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(content)
    assert scai.verify(path).condition == "damaged"


def test_a_file_of_torch_that_was_cut_off_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save({"w": torch.ones(1000)}, path)
    whole = path.read_bytes()
    for length in (100, 1000, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert scai.verify(path).condition == "damaged", length


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("iteration", [torch.tensor(5), 5.0, np.int64(5), np.float32(5)])
def test_an_iteration_may_be_any_whole_number(
    tmp_path: Path, iteration: Any, legacy: bool
) -> None:
    path = tmp_path / "a.pt"
    state = {"iteration": iteration, "model_state_dict": {}, "optimizer_state_dict": {}}
    torch.save(state, path, _use_new_zipfile_serialization=not legacy)
    verified = scai.verify(path)
    assert verified.iteration == 5
    assert verified.condition == ("unprotected" if legacy else "sound")


def test_a_load_that_is_not_strict_passes_by_an_object_that_needs_code(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    saved = nn.Linear(2, 2)
    state = {"iteration": 5, "model_state_dict": saved.state_dict(), "optimizer_state_dict": {}}
    rest = {"training_stats": {}, "metadata": {}, "timestamp": "2026-01-01T00:00:00"}
    torch.save({**state, **rest, "args": argparse.Namespace(lr=0.5)}, tmp_path / "a.pt")
    manager = scai.utils.checkpoint.CheckpointManager(tmp_path / "run")
    model = nn.Linear(2, 2)
    with pytest.raises(NeedsCodeError, match=r"argparse\.Namespace"):
        manager.load_checkpoint(tmp_path / "a.pt", model)
    assert not torch.equal(model.weight, saved.weight)
    loaded = manager.load_checkpoint(tmp_path / "a.pt", model, strict=False)
    assert torch.equal(model.weight, saved.weight)
    assert loaded["args"].class_name == "argparse.Namespace"
    assert "args (argparse.Namespace)" in caplog.text
