"""Random trees of values that a checkpoint can hold, and whether two are the same in everything.

Parts are taken again at random, so that a tree is full of objects that several places refer to.
"""

from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import enum
import pathlib
import random
import struct

import numpy as np
import torch
from same import TORCH, bits_of

DTYPES = [
    torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int8, torch.int16,
    torch.int32, torch.int64, torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.bool,
    torch.complex64, torch.complex128, torch.float8_e4m3fn, torch.float8_e5m2,
]  # fmt: skip
if TORCH < (2, 6):
    # PyTorch had them by then, but did not save or load them.
    DTYPES = [each for each in DTYPES if each not in (torch.uint16, torch.uint32, torch.uint64)]
STRINGS = ["", "a", "exp_avg", "0", "storage", "cpu", "latin1", "π\0\n", "\ud800x", "😀" * 20, "x" * 3000]


class Colour(enum.Enum):
    RED = 1
    BLUE = "blue"


@dataclasses.dataclass
class Point:
    x: object
    y: object = None


class Trees:
    """A source of random trees. With `tagged`, they hold values that only `scai.load` gives back."""

    def __init__(self, seed: int, tagged: bool = False) -> None:
        self.random = random.Random(seed)
        self.tagged = tagged
        self.known: list[object] = []
        self.keys: list[object] = []

    def tree(self, depth: int = 4) -> object:
        """A value; often one that was made before."""
        if self.known and self.random.random() < 0.25:
            return self.random.choice(self.known)
        made = self.container(depth) if depth and self.random.random() < 0.6 else self.leaf()
        self.known.append(made)
        if len(self.known) > 60:
            del self.known[self.random.randrange(60)]
        return made

    def container(self, depth: int) -> object:
        r = self.random
        items = [self.tree(depth - 1) for _ in range(r.choice([0, 1, 2, 2, 3, 4, 6]))]
        match r.randrange(9):
            case 0 | 1:
                return items
            case 2 | 3:
                return tuple(items)
            case 4:
                return {self.key(): item for item in items}
            case 5:
                ordered = collections.OrderedDict((self.key(), item) for item in items)
                if r.random() < 0.3:
                    ordered._metadata = self.tree(0)
                return ordered
            case 6:
                return collections.Counter({self.key(): item for item in items})
            case 7:
                return {self.key() for _ in items}
            case _:
                return {f"k{i}": item for i, item in enumerate(items)}

    def key(self) -> object:
        if self.keys and self.random.random() < 0.3:
            return self.random.choice(self.keys)
        r = self.random
        made = r.choice([
            lambda: r.choice(STRINGS), lambda: r.randrange(-3, 300), lambda: r.random() * 4,
            lambda: float(r.randrange(5)), lambda: None, lambda: r.random() < 0.5,
            lambda: (self.key(), self.key()), lambda: bytes([r.randrange(256)]),
            lambda: complex(r.randrange(3), 1), lambda: 1 << r.randrange(60, 70),
            lambda: torch.Size([r.randrange(3)]), lambda: (),
        ])()  # fmt: skip
        self.keys.append(made)
        return made

    def leaf(self) -> object:
        r = self.random
        if self.tagged and r.random() < 0.4:
            return self.tagged_leaf()
        match r.randrange(16):
            case 0:
                return r.choice([None, True, False])
            case 1:
                return r.randrange(-(1 << 8), 1 << 17)
            case 2:
                return r.getrandbits(r.choice([31, 32, 62, 63, 64, 65, 200, 2000])) * r.choice([1, -1])
            case 3:
                return r.choice([0.0, -0.0, float("inf"), r.random(), 5e-324])
            case 4:
                return struct.unpack("<d", struct.pack("<Q", 0x7FF8 << 48 | r.getrandbits(40)))[0]
            case 5:
                return complex(r.random(), r.choice([0.0, -0.0, float("nan")]))
            case 6:
                return r.choice(STRINGS)
            case 7:
                return r.randbytes(r.choice([1, 2, 300]))
            case 8:
                return bytearray(r.randbytes(r.choice([0, 1, 300])))
            case 9:
                return torch.Size([r.randrange(9) for _ in range(r.randrange(4))])
            case 10:
                return r.choice([*DTYPES, torch.device("cpu"), torch.device("cuda:1"), torch.strided])
            case 11:
                return torch.UntypedStorage(r.randrange(9)).fill_(r.randrange(256))
            case _:
                return self.tensor()

    def tagged_leaf(self) -> object:
        r = self.random
        return r.choice([
            lambda: pathlib.PurePosixPath(r.choice(["a", "exp_avg", "x/y"])),
            lambda: decimal.Decimal(r.randrange(100)) / 8,
            lambda: datetime.date(2020, 1, 1 + r.randrange(28)), lambda: r.choice(list(Colour)),
            lambda: frozenset([r.randrange(9)]), lambda: range(r.randrange(9)), lambda: b"",
            lambda: np.arange(r.randrange(6), dtype="f4"), lambda: np.float64(r.random()),
            lambda: collections.deque([self.tree(1)]), lambda: Point(self.tree(1)),
            lambda: 1 << r.randrange(2040, 3000), lambda: slice(1, r.randrange(9)),
        ])()  # fmt: skip

    def tensor(self) -> torch.Tensor:
        r = self.random
        tensors = [known for known in self.known if type(known) is torch.Tensor and known.numel()]
        if tensors and r.random() < 0.4:
            base = r.choice(tensors).detach()
            return r.choice([
                lambda: base.reshape(-1)[r.randrange(base.numel()) :], lambda: base.T if base.dim() == 2 else base[None],
                lambda: base[..., None].expand(*base.shape, 3), lambda: base.view(base.shape),
                lambda: base.conj(), lambda: torch._neg_view(base) if base.dtype is torch.float32 else base[None],
            ])()  # fmt: skip
        dtype = r.choice(DTYPES)
        shape = r.choice([(), (0,), (1,), (3,), (2, 3), (2, 0, 3), (1, 2, 1, 2), (40,)])
        count = torch.Size(shape).numel()
        data = r.randbytes(count * dtype.itemsize)
        if dtype is torch.bool:
            data = bytes(byte & 1 for byte in data)
        # Bits that are no number among them.
        tensor = torch.frombuffer(bytearray(data), dtype=dtype) if count else torch.empty(0, dtype=dtype)
        tensor = tensor.reshape(shape)
        floating = dtype.is_floating_point or dtype.is_complex
        if r.random() < 0.2:
            return torch.nn.Parameter(tensor, requires_grad=floating and r.random() < 0.7)
        # PyTorch cannot load one with a gradient of the types that have no storage class.
        if floating and dtype.itemsize > 1 and r.random() < 0.1:
            tensor.requires_grad_()
        return tensor


IDENTITY = (list, dict, set, bytearray, torch.Tensor, np.ndarray, collections.deque, Point)


class Same:
    """Compares two trees: types, values, bits, order, and which places are the same object."""

    def __init__(self) -> None:
        self.objects: dict[int, object] = {}
        self.storages: dict[int, int] = {}

    def paired(self, table: dict, a: object, b: object, path: str) -> str | None:
        if table.setdefault(("a", a), b) != b or table.setdefault(("b", b), a) != a:
            return f"{path}: the same object in one and not in the other"
        return None

    def difference(self, a: object, b: object, path: str = "") -> str | None:
        # `torch.load` gives an untyped storage back as one of bytes.
        a, b = (getattr(value, "_untyped_storage", value) for value in (a, b))
        if type(a) is not type(b):
            return f"{path}: a {type(a).__name__} and a {type(b).__name__}"
        if isinstance(a, IDENTITY) or (isinstance(a, tuple) and a):
            if ("a", id(a)) in self.objects:
                return self.paired(self.objects, id(a), id(b), path)
            if found := self.paired(self.objects, id(a), id(b), path):
                return found
        if isinstance(a, torch.Tensor):
            return self.tensors(a, b, path)
        if isinstance(a, torch.UntypedStorage):
            return None if list(a) == list(b) else f"{path}: storages of other bytes"
        if isinstance(a, dict):
            return self.dicts(a, b, path)
        if isinstance(a, (list, tuple, collections.deque)):
            if len(a) != len(b):
                return f"{path}: {len(a)} and {len(b)} items"
            found = (self.difference(x, y, f"{path}.{i}") for i, (x, y) in enumerate(zip(a, b)))
            return next((each for each in found if each), None)
        if isinstance(a, (set, frozenset)):
            order = lambda values: sorted(map(repr, values))  # noqa: E731
            return None if order(a) == order(b) else f"{path}: {a!r} and {b!r}"
        if isinstance(a, Point):
            return self.difference(a.x, b.x, f"{path}.x") or self.difference(a.y, b.y, f"{path}.y")
        if isinstance(a, np.ndarray):
            alike = (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())
        elif isinstance(a, float) and not isinstance(a, np.generic):
            alike = struct.pack("<d", a) == struct.pack("<d", b)
        elif isinstance(a, complex):
            alike = struct.pack("<dd", a.real, a.imag) == struct.pack("<dd", b.real, b.imag)
        else:
            alike = a == b
        return None if alike else f"{path}: {a!r} and {b!r}"

    def dicts(self, a: dict, b: dict, path: str) -> str | None:
        if len(a) != len(b):
            return f"{path}: {len(a)} and {len(b)} entries"
        for (k, x), (key, y) in zip(a.items(), b.items()):
            found = self.difference(k, key, f"{path} key") or self.difference(x, y, f"{path}.{k!r}")
            if found:
                return found
        if isinstance(a, collections.OrderedDict):
            # One dict each, which nothing else refers to.
            if list(vars(a)) != list(vars(b)):
                return f"{path}: the attributes {list(vars(a))} and {list(vars(b))}"
            for name in vars(a):
                if found := self.difference(vars(a)[name], vars(b)[name], f"{path}.{name}"):
                    return found
        return None

    def tensors(self, a: torch.Tensor, b: torch.Tensor, path: str) -> str | None:
        if bits_of(a) != bits_of(b) or a.requires_grad != b.requires_grad:
            return f"{path}: {a} and {b}"
        x, y = a.untyped_storage(), b.untyped_storage()
        if a.storage_offset() != b.storage_offset() or x.nbytes() != y.nbytes():
            return f"{path}: views of other parts of their storages"
        if x.nbytes():
            return self.paired(self.storages, x.data_ptr(), y.data_ptr(), f"{path} storage")
        return None


def difference(a: object, b: object) -> str | None:
    return Same().difference(a, b)
