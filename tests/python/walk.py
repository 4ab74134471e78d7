"""What the encoder and decoder do to a value, in Python, and classes of values to try."""

from __future__ import annotations

import collections
import dataclasses
import enum
import functools
import io
import json
import pathlib
import threading
import typing

import numpy as np
import torch
from scai._convert import from_plain, to_plain

# What the encoder knows by exact type.
KNOWN = (bool, int, float, complex, str, bytearray, list, tuple, set, dict, type(None))
KNOWN += (collections.OrderedDict, collections.Counter, torch.Tensor, torch.nn.Parameter)
KNOWN += (torch.Size, torch.dtype, torch.device, torch.layout)
KINDS = {list: list, tuple: tuple, set: set}


def flatten(value: object, path: tuple[int, ...], notes: list) -> object:
    """The plain tree of a value; `notes` takes the tags, as the encoder of the file does."""
    cls = type(value)
    is_long = cls is int and value.bit_length() > 8 * 255 - 1
    if not (cls in KNOWN and not is_long or (cls is bytes and value)):
        plain, tag = to_plain(value)
        notes.append([list(path), tag])
        return flatten(plain, path, notes)
    if cls in KINDS:
        return cls(flatten(item, (*path, i), notes) for i, item in enumerate(value))
    if cls in (dict, collections.OrderedDict, collections.Counter):
        made = cls()
        for i, (key, item) in enumerate(value.items()):
            plain = flatten(key, (*path, -1 - i), notes)
            made[plain] = flatten(item, (*path, i), notes)
        return made
    return value


def rebuild(plain: object, path: tuple[int, ...], tags: dict) -> object:
    cls = type(plain)
    value = plain
    if cls in KINDS:
        value = cls(rebuild(item, (*path, i), tags) for i, item in enumerate(plain))
    elif cls in (dict, collections.OrderedDict, collections.Counter):
        value = cls()
        for i, (key, item) in enumerate(plain.items()):
            value[rebuild(key, (*path, -1 - i), tags)] = rebuild(item, (*path, i), tags)
    for tag in reversed(tags.get(path, [])):
        value = from_plain(value, tag)
    return value


def round_trip(value: object) -> object:
    """Through a real file and `torch.load`; the tags through JSON."""
    notes: list = []
    tree = flatten(value, (), notes)
    file = io.BytesIO()
    try:
        torch.save(tree, file)
        file.seek(0)
        plain = torch.load(file, weights_only=True)
    except KeyError as error:
        # PyTorch 2.4 has unsigned types that it cannot save.
        assert "torch.uint" in str(error)
        plain = tree
    tags: dict = {}
    for path, tag in json.loads(json.dumps(notes)):
        tags.setdefault(tuple(path), []).append(tag)
    return rebuild(plain, (), tags)


def plain_of(value: object) -> object:
    return flatten(value, (), [])


def same(a: object, b: object) -> bool:
    """Equal, of the same type, and the same in what `==` does not see."""
    if type(a) is not type(b):
        return False
    if isinstance(a, np.ndarray):
        order = "F" if b.flags.f_contiguous and not b.flags.c_contiguous else "C"
        laid_out = not b.flags.forc or a.flags[f"{order}_CONTIGUOUS"]
        return (a.dtype, a.shape) == (b.dtype, b.shape) and laid_out and a.tobytes() == b.tobytes()
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, (list, tuple, collections.deque)) and not hasattr(a, "_fields"):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a.items(), b.items()))
    if isinstance(a, (float, complex, np.generic)):
        return repr(a) == repr(b)
    return bool(a == b)


# Classes that are used below. They are at the top of a module, as they must be.


class Color(enum.Enum):
    RED = 1
    GREEN = "green"
    NOTHING = None
    ODD = (1, pathlib.Path("x"))
    BYTES = b""
    ALIAS = 1


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Right(enum.Flag):
    READ = 1
    WRITE = 2


class Mode(enum.IntFlag):
    A = 1
    B = 2


class Phase(str, enum.Enum):
    TRAIN = "train"


class Point(typing.NamedTuple):
    x: int
    y: object = 0


Pair = collections.namedtuple("Pair", "left right")


class Labelled(Pair):
    pass


@dataclasses.dataclass
class Config:
    name: str
    rate: float = 0.1
    path: pathlib.Path = pathlib.Path(".")
    tags: list = dataclasses.field(default_factory=list)
    steps: int = dataclasses.field(default=0, init=False)
    width: dataclasses.InitVar[int] = 3

    def __post_init__(self, width: int) -> None:
        calls.append("Config")
        self.extra = width

    @functools.cached_property
    def costly(self) -> object:
        return threading.Lock()


@dataclasses.dataclass(frozen=True)
class Frozen:
    a: int
    b: tuple


@dataclasses.dataclass(slots=True)
class Slotted:
    a: int
    b: object = None


@dataclasses.dataclass(frozen=True, slots=True)
class Both(Frozen):
    c: int = 0


class Derived(Config):
    def __init__(self) -> None:
        calls.append("Derived")


class MyInt(int):
    def __new__(cls, *args):
        calls.append("MyInt")
        return super().__new__(cls, *args)


class MyFloat(float):
    pass


class MyComplex(complex):
    pass


class MyStr(str):
    def __str__(self) -> str:
        return "other"


class MyBytes(bytes):
    pass


class MyByteArray(bytearray):
    pass


class MyList(list):
    def __init__(self, *args):
        calls.append("MyList")
        super().__init__(*args)

    def __iter__(self):
        return iter(["other"])


class MyDict(dict):
    def __init__(self, *args):
        calls.append("MyDict")

    def items(self):
        return []

    def __setitem__(self, key, value):
        calls.append("set")


class AttrDict(dict):
    def __init__(self, *args, **named):
        super().__init__(*args, **named)
        self.__dict__ = self


class EasyDict(dict):
    def __setattr__(self, name, value):
        calls.append("setattr")
        super().__setattr__(name, value)
        super().__setitem__(name, value)


class MyTuple(tuple):
    pass


class MySet(set):
    pass


class MyFrozenSet(frozenset):
    pass


class MyOrdered(collections.OrderedDict):
    pass


class MyCounter(collections.Counter):
    pass


class MyDefault(collections.defaultdict):
    pass


class MyDeque(collections.deque):
    __slots__ = ("note",)


class Finalized(dict):
    def __del__(self):
        pass


class Plain:
    pass


calls: list[str] = []
