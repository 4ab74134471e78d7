"""`scai.save` and `scai.load` in place of `torch.save` and `torch.load`."""

from __future__ import annotations

import collections
import io
import os
import pathlib
import pickle
import random
import string
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import scai
import torch
from nets import mlp
from programs import run_python
from same import assert_same
from scai.errors import DamagedError, NotACheckpointError, UnprotectedError, UnsupportedError
from torch import nn

DTYPES = [
    value
    for name, value in sorted(vars(torch).items())
    if isinstance(value, torch.dtype) and str(value) == f"torch.{name}"
]
ODD = [dtype for dtype in DTYPES if str(dtype).startswith(("torch.q", "torch.bits"))]


def random_bytes(dtype: torch.dtype, *shape: int) -> torch.Tensor:
    """A tensor of any bits."""
    count = int(np.prod(shape)) * dtype.itemsize
    content = torch.randint(0, 256, (count,), dtype=torch.uint8)
    if dtype is torch.bool:
        content = content % 2
    return content.view(dtype).reshape(shape)


def all_loads(path: Path) -> list[object]:
    return [
        scai.load(path),
        scai.load(path, mmap=True),
        scai.load(str(path), map_location="cpu"),
        loaded(scai.load(path, lazy=True)),
        torch.load(path),
        torch.load(path, mmap=True),
    ]


def loaded(value: object) -> object:
    """Lazy tensors in any containers, loaded."""
    if isinstance(value, scai.LazyTensor):
        tensor = value.load()
        assert tuple(tensor.shape) == value.shape and str(tensor.dtype) == f"torch.{value.dtype}"
        return tensor
    if isinstance(value, dict):
        made = type(value)()
        for key, item in value.items():
            made[key] = loaded(item)
        if hasattr(value, "__dict__"):
            vars(made).update(loaded(vars(value)))
        return made
    if isinstance(value, (list, tuple)) and type(value) in (list, tuple):
        return type(value)(map(loaded, value))
    return value


def assert_all_load(obj: object, path: Path) -> None:
    """What scai saves both load, and what torch saves scai loads."""
    scai.save(obj, path)
    for each in all_loads(path):
        assert_same(each, obj)
    torch.save(obj, path)
    for each in all_loads(path):
        assert_same(each, obj)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_tensors_of_every_element_type(dtype: torch.dtype, tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    try:
        tensor = random_bytes(dtype, 3, 4)
        torch.save(tensor, io.BytesIO())
    except (KeyError, RuntimeError, TypeError, NotImplementedError):
        pytest.skip(f"torch does not save {dtype}")
    if dtype in ODD:
        pytest.skip("has no element type of its own in a file")
    assert_all_load({"x": tensor, "empty": tensor[:0].clone(), "part": tensor[1:, 1:]}, path)


@pytest.mark.parametrize("dtype", ["int1", "int4", "uint3", "uint7"])
def test_tensors_that_torch_reads_and_does_not_save_are_saved(dtype: str, tmp_path: Path) -> None:
    if not hasattr(torch, "int1"):
        pytest.skip("this PyTorch has not all of these types, and loads none")
    tensor = torch.tensor([3, 5], dtype=torch.uint8).view(getattr(torch, dtype))
    with pytest.raises(KeyError):
        torch.save({"x": tensor}, tmp_path / "torch.pt")
    scai.save({"x": tensor}, tmp_path / "x.pt")
    for loaded in (scai.load(tmp_path / "x.pt"), torch.load(tmp_path / "x.pt", weights_only=True)):
        assert loaded["x"].dtype == tensor.dtype
        assert loaded["x"].view(torch.uint8).tolist() == [3, 5]


LAYOUTS = {
    "scalar": lambda: torch.tensor(3.5),
    "no elements": lambda: torch.empty(0, 3),
    "no elements in the middle": lambda: torch.empty(2, 0, 3),
    "transposed": lambda: torch.randn(3, 4).t(),
    "strided": lambda: torch.randn(10, 10)[::3, 1::2],
    "expanded": lambda: torch.randn(3, 1).expand(3, 4),
    "offset": lambda: torch.randn(10)[3:],
    "channels_last": lambda: torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last),
    "channels_last of one channel": lambda: torch.randn(72).as_strided((8, 1, 3, 3), (9, 1, 3, 1)),
    "one row with an odd stride": lambda: torch.empty_strided((1, 4), (100, 1)).fill_(2),
    "conjugate": lambda: torch.randn(3, dtype=torch.cfloat).conj(),
    "negative": lambda: torch.randn(3, dtype=torch.cfloat).conj().imag,
    "with gradient": lambda: torch.randn(3, requires_grad=True),
    "parameter": lambda: nn.Parameter(torch.randn(3)),
    "frozen parameter": lambda: nn.Parameter(torch.randn(3), requires_grad=False),
    "sparse": lambda: torch.randn(4, 4).relu().to_sparse(),
    "sparse not coalesced": lambda: torch.sparse_coo_tensor(
        [[0, 0], [1, 1]], [1.0, 2.0], (2, 2), check_invariants=True
    ),
    "sparse csr": lambda: torch.randn(4, 4).relu().to_sparse_csr(),
    "sparse csc": lambda: torch.randn(4, 4).relu().to_sparse_csc(),
    "sparse bsr": lambda: torch.randn(4, 4).to_sparse_bsr((2, 2)),
    "quantised": lambda: torch.quantize_per_tensor(torch.randn(3, 4), 0.1, 3, torch.quint8),
    "quantised by channel": lambda: torch.quantize_per_channel(
        torch.randn(2, 3), torch.tensor([0.1, 0.2]), torch.tensor([0, 1]), 0, torch.qint8
    ),
    "meta": lambda: torch.empty(3, 4, device="meta"),
    "buffer": lambda: nn.Linear(2, 2).register_buffer("b", torch.ones(2)) or torch.ones(2),
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", LAYOUTS)
def test_tensors_of_every_layout(name: str, tmp_path: Path) -> None:
    tensor = LAYOUTS[name]()
    assert_all_load({"tensor": tensor, "again": [tensor]}, tmp_path / "x.pt")
    assert_all_load(tensor, tmp_path / "alone.pt")


VALUES = {
    "numbers": [0, -1, 255, 256, 2**31 - 1, -(2**31), 2**63, -(2**63), 2**64, -(2**127), 2**2030],
    "floats": [0.0, -0.0, 1e-320, 1e308, float("inf"), float("-inf"), float("nan"), 0.1],
    "complex": [1j, complex(-0.0, float("nan"))],
    "truths": [True, False, None],
    "texts": ["", "é", "日本語", "😀", "\x00", "a\nb", "\ud800", "x\udfff😀", "a" * 300],
    "bytes": [b"x", bytes(range(256)), bytearray(), bytearray(b"ab")],
    "containers": [[], (), {}, [[]], ((),), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), [1] * 3000],
    "sets": [set(), {1}, {"a", 2, (3, 4)}],
    "keys": {1: "a", "1": "b", (1, "x"): "c", None: "d", 2.5: "e", b"k": "f"},
    "counter": collections.Counter("mississippi"),
    "types": [torch.Size([2, 3]), torch.float16, torch.device("cuda:1"), torch.strided],
    "generator": random.Random(1).getstate(),
    "deep": "",
}
deep: object = "bottom"
for level in range(150):
    deep = [deep] if level % 2 else {"x": deep}
VALUES["deep"] = deep


@pytest.mark.parametrize("name", VALUES)
def test_values_of_every_kind(name: str, tmp_path: Path) -> None:
    assert_all_load(VALUES[name], tmp_path / "x.pt")


def test_tensors_are_the_same_to_versions_of_torch_without_the_exchange_api() -> None:
    code = """if True:
        import pytest, sys, torch
        del torch.Tensor.__dlpack_c_exchange_api__
        names = "(tensors and not exchange) or memory or small_view"
        sys.exit(pytest.main([sys.argv[1], "-q", "-p", "no:cacheprovider", "-k", names]))
    """
    if hasattr(torch.Tensor, "__dlpack_c_exchange_api__"):
        run_python(code, __file__)


def test_an_ordered_dict_keeps_its_attributes_and_order(tmp_path: Path) -> None:
    state = mlp().state_dict()
    state.move_to_end("0.weight")
    state.note = {"nested": [1, torch.ones(2)]}
    assert_all_load(state, tmp_path / "x.pt")
    assert scai.load(tmp_path / "x.pt")._metadata == state._metadata


def test_what_shares_memory_shares_it_when_loaded(tmp_path: Path) -> None:
    whole = torch.arange(12.0)
    bits = whole.view(torch.int32)
    parts = {"whole": whole, "row": whole.view(3, 4)[1], "same": whole, "bits": bits}
    path = tmp_path / "x.pt"
    scai.save(parts, path)
    size = path.stat().st_size
    scai.save({"whole": whole}, path)
    assert size < path.stat().st_size + 2000
    scai.save(parts, path)
    for load in (scai.load, lambda path: scai.load(path, mmap=True), torch.load):
        found = load(path)
        assert_same(found, parts)
        found["whole"][5] = -1
        assert found["row"][1] == -1 and found["same"][5] == -1
        assert found["bits"][5] == torch.tensor(-1.0).view(torch.int32)


def test_a_small_view_saves_its_whole_storage_as_torch_does(tmp_path: Path) -> None:
    view = torch.arange(1000.0)[10:12]
    assert_all_load({"view": view}, tmp_path / "x.pt")
    found = scai.load(tmp_path / "x.pt")["view"]
    assert found.untyped_storage().nbytes() == 4000


@pytest.mark.filterwarnings("ignore:TypedStorage:UserWarning")
def test_storages(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    tensor = torch.arange(5.0)
    scai.save({"typed": tensor.storage(), "t": tensor}, path)
    found = scai.load(path)
    assert type(found["typed"]) is torch.TypedStorage and found["typed"].dtype is torch.float32
    assert list(found["typed"]) == [0, 1, 2, 3, 4]
    assert found["t"].data_ptr() == found["typed"].data_ptr()
    assert list(torch.load(path)["typed"]) == [0, 1, 2, 3, 4]
    scai.save({"untyped": tensor.untyped_storage(), "t": tensor}, path)
    found = scai.load(path)
    bytes_ = found["untyped"]
    bytes_ = bytes_ if isinstance(bytes_, torch.UntypedStorage) else bytes_.untyped()
    assert bytes(bytes_) == struct.pack("<5f", *range(5))
    assert found["t"].data_ptr() == bytes_.data_ptr()


def test_tensors_in_a_map_can_be_written_and_the_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    scai.save({"x": torch.zeros(1000)}, path)
    content = path.read_bytes()
    found = scai.load(path, mmap=True)
    found["x"] += 1
    assert path.read_bytes() == content
    scai.save({"x": torch.full((1000,), 5.0)}, path)
    assert found["x"].eq(1).all()
    again = scai.load(path, mmap=True)["x"]
    path.unlink()
    assert again.eq(5).all()


def test_lazy_tensors_are_read_when_they_are_loaded(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    weights = {"b": [torch.zeros(5, dtype=torch.half)], "d": {7: [torch.full((9,), 3.0)]}}
    scai.save({"a": torch.ones(3, 2), **weights, "c": 4}, path)
    found = scai.load(path, lazy=True)
    assert found["c"] == 4
    assert repr(found["a"]) == "LazyTensor(shape=(3, 2), dtype=float32)"
    content = bytearray(path.read_bytes())
    at = content.index(torch.ones(3, 2).numpy().tobytes())
    content[at] ^= 1
    content[content.index(torch.full((9,), 3.0).numpy().tobytes())] ^= 1
    with path.open("r+b") as file:
        file.write(content)
    assert found["b"][0].load().eq(0).all()
    with pytest.raises(DamagedError) as raised:
        found["a"].load()
    assert raised.value.record.startswith("data/")
    assert (raised.value.path, raised.value.tensor) == (str(path), "a")
    with pytest.raises(DamagedError) as raised:
        found["d"][7][0].load()
    assert raised.value.tensor == "d.7.0"
    # A file that replaces it is another file.
    found = scai.load(path, lazy=True)
    scai.save({"a": torch.zeros(1)}, path)
    assert found["b"][0].load().shape == (5,)


LOCATIONS = {
    "none": None,
    "text": "cpu",
    "device": torch.device("cpu"),
    "dict": {"cpu": "cpu", "cuda:0": "cpu"},
    "other dict": {"cuda:0": "cpu"},
    "function": lambda storage, location: storage,
    "function without an answer": lambda storage, location: None,
}


@pytest.mark.parametrize("name", LOCATIONS)
@pytest.mark.parametrize("mmap", [False, True])
def test_map_location_is_as_in_torch(name: str, mmap: bool, tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    state = {"x": torch.randn(4), "y": torch.randn(4, 4).t()}
    scai.save(state, path)
    assert_same(scai.load(path, map_location=LOCATIONS[name], mmap=mmap), state)
    assert_same(scai.load(path, LOCATIONS[name]), torch.load(path, LOCATIONS[name]))


def test_map_location_moves_to_a_device(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    shared = torch.randn(4, 4)
    scai.save({"x": shared, "y": shared.t()}, path)
    seen = []

    def to_meta(storage: torch.UntypedStorage, location: str) -> torch.UntypedStorage:
        seen.append(location)
        return torch.empty(0, device="meta").untyped_storage()

    for location in ("meta", torch.device("meta"), {"cpu": "meta"}, to_meta):
        for mmap in (False, True):
            found = scai.load(path, map_location=location, mmap=mmap)
            assert found["x"].is_meta and found["y"].is_meta
            assert found["y"].stride() == (1, 4)
    assert set(seen) == {"cpu"}
    with pytest.raises(RuntimeError):
        scai.load(path, map_location="nowhere")


def test_a_tensor_of_a_device_that_is_not_here_needs_a_location(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    path = tmp_path / "x.pt"
    torch.save({"x": torch.arange(3.0)}, path)
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    name = next(name for name in records if name.endswith("data.pkl"))
    records[name] = records[name].replace(b"\x03\x00\x00\x00cpu", b"\x06\x00\x00\x00cuda:0")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for record, content in records.items():
            archive.writestr(record, content)
    with pytest.raises((RuntimeError, AssertionError)):
        scai.load(path)
    for location in ("cpu", {"cuda:0": "cpu"}, lambda storage, location: storage):
        assert scai.load(path, map_location=location)["x"].tolist() == [0, 1, 2]


class Fspath:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __fspath__(self) -> str:
        return str(self.path)


def test_paths_of_all_forms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for path in ("a.pt", "./ü b.pt", tmp_path / "c", str(tmp_path / "d"), Fspath(tmp_path / "e")):
        scai.save([1], path)
        assert scai.load(path) == [1]
        assert scai.verify(path)
    for wrong in (5, None, b"x.pt"):
        with pytest.raises(TypeError):
            scai.save([1], wrong)
        with pytest.raises(TypeError):
            scai.load(wrong)


def test_errors_say_what_happened(tmp_path: Path) -> None:
    missing = tmp_path / "nothing" / "x.pt"
    for call in (lambda: scai.load(missing), lambda: scai.save({}, missing)):
        with pytest.raises(FileNotFoundError, match=f"checkpoint `{missing}`"):
            call()
    with pytest.raises(FileNotFoundError, match="cannot open its directory: No such file"):
        scai.save({}, missing)
    with pytest.raises(NotACheckpointError, match=str(tmp_path)):
        scai.load(tmp_path)
    path = tmp_path / "x.pt"
    scai.save({"x": torch.ones(3)}, path)
    with pytest.raises(ValueError, match=r"torch.load\(weights_only=False\)"):
        scai.load(path, weights_only=False)
    kept = path.read_bytes()
    with pytest.raises(TypeError, match="cannot save `y.0`: "):
        scai.save({"x": 1, "y": [object()]}, path)
    with pytest.raises(TypeError, match="cannot save `the object`: "):
        scai.save(lambda: None, path)
    assert path.read_bytes() == kept
    assert list(tmp_path.iterdir()) == [path]
    path.write_bytes(b"")
    with pytest.raises(DamagedError, match=str(path)):
        scai.load(path)
    path.write_bytes(kept[: len(kept) // 2])
    for options in ({}, {"mmap": True}, {"lazy": True}):
        with pytest.raises(DamagedError, match=str(path)):
            scai.load(path, **options)


class Evil:
    def __reduce__(self) -> object:
        return (os.system, ("touch /tmp/scai-was-here",))


def test_a_file_that_wants_code_to_be_run_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    torch.save({"x": Evil()}, path)
    with pytest.raises(UnsupportedError, match="system"):
        scai.load(path)
    torch.save(mlp(), path)
    with pytest.raises(UnsupportedError, match="torch.nn.modules"):
        scai.load(path)
    torch.save({"x": [1]}, path, _use_new_zipfile_serialization=False)
    with pytest.raises(UnprotectedError, match="no checksums"):
        scai.load(path)
    assert scai.load(path, allow_unprotected=True) == {"x": [1]}
    path.write_bytes(pickle.dumps({"x": 1}))
    with pytest.raises((DamagedError, UnsupportedError)):
        scai.load(path)
    assert not Path("/tmp/scai-was-here").exists()


class Sub(torch.Tensor):
    pass


def test_tensors_of_other_classes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="cannot save `x`: `Sub` is a tensor class"):
        scai.save({"x": torch.ones(2).as_subclass(Sub)}, tmp_path / "x.pt")
    nested = torch.nested.nested_tensor([torch.ones(1), torch.ones(2)], layout=torch.jagged)
    with pytest.raises(TypeError, match="cannot save `x`: "):
        scai.save({"x": nested}, tmp_path / "x.pt")


def test_whole_models_and_optimizers_are_refused_with_advice(tmp_path: Path) -> None:
    model = mlp()
    for value in (model, torch.optim.SGD(model.parameters())):
        with pytest.raises(TypeError, match=r"state_dict\(\)"):
            scai.save({"x": value}, tmp_path / "x.pt")


def test_numpy_comes_back_and_is_plain_for_torch(tmp_path: Path) -> None:
    state = {
        "array": np.arange(6.0).reshape(2, 3),
        "fortran": np.asfortranarray(np.arange(6).reshape(2, 3)),
        "scalar": np.float32(1.5),
        "path": pathlib.PurePosixPath("a/b"),
        "default": collections.defaultdict(list, a=[np.int8(3)]),
    }
    path = tmp_path / "x.pt"
    scai.save(state, path)
    for found in (scai.load(path), scai.load(path, mmap=True), scai.load(path, lazy=True)):
        assert_same(found, state)
        assert found["default"].default_factory is list
        found["array"][0, 0] = 7
    plain = torch.load(path)
    assert plain["array"].tolist() == state["array"].tolist() and plain["path"] == "a/b"


def some_value(chance: random.Random, depth: int) -> object:
    """A tree of anything."""
    leaf = depth == 0 or chance.random() < 0.3
    kind = chance.randrange(9 if leaf else 15)
    if kind == 0:
        return chance.choice([None, True, False])
    if kind == 1:
        return chance.randint(-(2 ** chance.randrange(1, 300)), 2 ** chance.randrange(1, 300))
    if kind == 2:
        return struct.unpack("<d", chance.randbytes(8))[0]
    if kind == 3:
        return "".join(chr(chance.randrange(0x11000)) for _ in range(chance.randrange(8)))
    if kind == 4:
        return chance.randbytes(chance.randrange(1, 9))
    if kind == 5:
        return np.frombuffer(chance.randbytes(8), np.uint8) if chance.random() < 0.5 else b""
    if kind < 9:
        return some_tensor(chance)
    size = chance.randrange(4)
    items = [some_value(chance, depth - 1) for _ in range(size)]
    if kind == 9:
        return tuple(items)
    if kind == 10:
        return items
    keys = [some_key(chance) for _ in items]
    if kind == 11:
        return collections.OrderedDict(zip(keys, items))
    if kind == 12:
        return {chance.randrange(9) for _ in items}
    if kind == 13 and items:
        return [items[0], *items]
    return dict(zip(keys, items))


def some_key(chance: random.Random) -> object:
    return chance.choice(
        ["".join(chance.choices(string.printable, k=4)), chance.randrange(99), (1, "a"), 0.5, None]
    )


SHARED = torch.arange(60, dtype=torch.float64)


def some_tensor(chance: random.Random) -> torch.Tensor:
    if chance.random() < 0.2:
        return SHARED.view(3, 4, 5).permute(chance.sample(range(3), 3))[chance.randrange(3) :]
    dtypes = [torch.float32, torch.bfloat16, torch.int64, torch.bool, torch.float8_e5m2]
    shape = [chance.randrange(4) for _ in range(chance.randrange(4))]
    tensor = random_bytes(chance.choice(dtypes), *shape)
    if chance.random() < 0.3 and tensor.dim() > 1:
        tensor = tensor.transpose(0, 1)
    if chance.random() < 0.2 and tensor.is_floating_point():
        tensor = nn.Parameter(tensor)
    return tensor


@pytest.mark.parametrize("seed", range(12))
def test_random_trees(seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed)
    torch.manual_seed(seed)
    for i in range(8):
        tree = [some_value(chance, 4) for _ in range(3)]
        path = tmp_path / f"{i}.pt"
        scai.save(tree, path)
        lazy = loaded(scai.load(path, lazy=True))
        for found in (scai.load(path), scai.load(path, mmap=True), lazy):
            assert_same(found, tree)
        torch.load(path)
        # And once more: what was loaded is saved as the same.
        scai.save(scai.load(path), tmp_path / "again.pt")
        assert_same(scai.load(tmp_path / "again.pt"), tree)


def test_numpy_and_torch_are_not_imported_for_plain_values(tmp_path: Path) -> None:
    code = """
import sys, scai
scai.save({"a": [1, "x", 2.5, (None,)]}, sys.argv[1])
assert scai.load(sys.argv[1]) == {"a": [1, "x", 2.5, (None,)]}
assert scai.verify(sys.argv[1])
assert "torch" not in sys.modules and "numpy" not in sys.modules
"""
    run_python(code, tmp_path / "x.pt")
