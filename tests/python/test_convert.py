"""Values that a checkpoint has no form for come back as what they were, or say why they cannot."""

from __future__ import annotations

import argparse
import collections
import dataclasses
import datetime
import decimal
import fractions
import functools
import pathlib
import re
import signal
import subprocess
import sys
import threading
import types
import uuid
import zoneinfo
from array import array

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scai._convert import from_plain, to_plain
from walk import (
    AttrDict,
    Both,
    Color,
    Config,
    Derived,
    EasyDict,
    Finalized,
    Frozen,
    Labelled,
    Level,
    Mode,
    MyByteArray,
    MyBytes,
    MyComplex,
    MyCounter,
    MyDefault,
    MyDeque,
    MyDict,
    MyFloat,
    MyFrozenSet,
    MyInt,
    MyList,
    MyOrdered,
    MySet,
    MyStr,
    MyTuple,
    Pair,
    Phase,
    Plain,
    Point,
    Right,
    Slotted,
    calls,
    plain_of,
    round_trip,
    same,
)

UTC = datetime.timezone.utc
VIENNA = zoneinfo.ZoneInfo("Europe/Vienna")
VALUES = [
    b"",
    1 << 3000,
    -(1 << 3000),
    frozenset({1, "a"}),
    {frozenset({1}): {frozenset()}},
    range(3, 10, 2),
    range(10**12),
    slice(1, None, 2),
    collections.deque([1, b"", collections.deque()], maxlen=4),
    collections.defaultdict(list, a=[1]),
    collections.defaultdict(None, {1: 2}),
    collections.defaultdict(Plain, {}),
    collections.ChainMap({"a": 1}, {"b": collections.Counter("xx")}),
    types.SimpleNamespace(a=1, b=pathlib.Path("x")),
    argparse.Namespace(lr=0.1, out=pathlib.PurePosixPath("y")),
    datetime.datetime(2026, 11, 25, 1, 2, 3, 4),
    datetime.datetime(2026, 11, 25, 1, 2, 3, 4, tzinfo=UTC),
    datetime.datetime(2026, 10, 25, 2, 30, tzinfo=VIENNA, fold=1),
    datetime.datetime(2026, 10, 25, 2, 30, fold=1),
    datetime.datetime.max,
    datetime.date(2026, 11, 25),
    datetime.time(1, 2, 3, 4, fold=1),
    datetime.time(1, 2, tzinfo=VIENNA),
    datetime.time(1, 2, tzinfo=datetime.timezone(datetime.timedelta(hours=-3), "X")),
    datetime.timedelta(days=-3, microseconds=1),
    datetime.timedelta.max,
    datetime.timedelta.min,
    UTC,
    datetime.timezone(datetime.timedelta(hours=1), "CET"),
    datetime.timezone(datetime.timedelta(0), "zero"),
    VIENNA,
    pathlib.Path("a/b"),
    pathlib.Path(),
    pathlib.PurePosixPath("/x"),
    pathlib.PureWindowsPath("c:\\x"),
    {pathlib.Path("key"): 1},
    decimal.Decimal("1.10"),
    decimal.Decimal("-0E-1000000"),
    decimal.Decimal("Infinity"),
    fractions.Fraction(-22, 7),
    uuid.UUID(int=5),
    array("f", [1.5, -0.0]),
    array("q", [1, -2]),
    array("u", "abc"),
    array("B"),
    ...,
    NotImplemented,
    int,
    dict,
    slice,
    Color.RED,
    Color.GREEN,
    Color.NOTHING,
    Color.ODD,
    Color.BYTES,
    Level.HIGH,
    {Level.HIGH: Phase.TRAIN, Color.ODD: 1},
    Right.READ,
    Right.READ | Right.WRITE,
    Right(0),
    Mode.A | Mode.B,
    Mode(8),
    signal.SIGINT,
    Point(1, Point(2)),
    Pair(b"", [Pair(1, 2)]),
    torch.tensor([3, 1]).max(dim=0),
    Config("a", tags=[Color.RED]),
    Frozen(1, (2, frozenset())),
    Slotted(1, Slotted(2)),
    Both(1, (), 3),
    MyInt(5),
    MyInt(1 << 3000),
    MyFloat(-0.0),
    MyComplex(-0.0, 1),
    MyStr("a\udc80"),
    MyBytes(b"x"),
    MyBytes(),
    MyByteArray(b"x"),
    MyTuple((1, MyTuple())),
    {MyTuple((1,)): 1},
    MySet({1}),
    MyFrozenSet({1, 2}),
    MyOrdered(b=1, a=2),
    MyCounter("aab"),
    MyDefault(list, a=[1]),
    MyDeque([1, 2], 5),
    np.dtype("<f4"),
    np.dtype(">M8[25s]"),
    np.dtype([("a", "<i4", (2,)), ("b", [("c", "U3")])]),
    np.dtype({"names": ["a", "b"], "formats": ["i1", "i8"], "offsets": [3, 8], "itemsize": 24}),
    np.dtype("i1,i8", align=True),
    np.float32,
    np.bool_,
    torch.channels_last,
    torch.contiguous_format,
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: f"{type(value).__name__} {value!r:.40}")
def test_a_value_comes_back_as_it_was(value: object) -> None:
    back = round_trip(value)
    assert same(back, value), (back, value)
    assert same(round_trip({"a": [value, (value,)]}), {"a": [value, (value,)]})


def test_a_torch_generator_goes_on_where_it_was() -> None:
    generator = torch.Generator().manual_seed(7)
    torch.rand(5, generator=generator)
    back = round_trip(generator)
    assert torch.equal(torch.rand(99, generator=back), torch.rand(99, generator=generator))


def test_finfo_comes_back() -> None:
    assert round_trip(torch.finfo(torch.bfloat16)).dtype == "bfloat16"
    assert round_trip(torch.iinfo(torch.int8)).max == 127


def test_a_view_of_memory_comes_back() -> None:
    for value in [
        memoryview(b"abcd"),
        memoryview(bytearray(b"abcd")),
        memoryview(b""),
        memoryview(array("f", [1, 2])),
        memoryview(np.arange(6.0).reshape(2, 3)),
        memoryview(b"abcdef")[::2],
    ]:
        back = round_trip(value)
        assert type(back) is memoryview and back == value
        assert (back.format, back.shape, back.readonly) == (
            value.format,
            value.shape,
            value.readonly,
        )


def test_nothing_of_a_class_is_called() -> None:
    config = Config("a", rate=0.5, width=8)
    config.steps = 3
    _ = config.costly
    derived = Derived()
    derived.__dict__.update(vars(Config("d")))
    listed = MyList([1, 2])
    mapping = MyDict()
    dict.update(mapping, {"a": 1})
    easy = EasyDict()
    easy.x = 5
    values = [config, derived, MyInt(5), listed, mapping, easy]
    calls.clear()
    back = round_trip(values)
    assert calls == []
    assert [type(value) for value in back] == [type(value) for value in values]
    assert back[0] == config and back[0].steps == 3 and back[0].extra == 8
    assert "costly" not in vars(back[0])
    assert vars(back[1]) == vars(derived)
    assert list.__len__(back[3]) == 2 and list.__getitem__(back[3], 1) == 2
    assert list(dict.items(back[4])) == [("a", 1)]
    assert back[5].x == 5 and back[5]["x"] == 5


def test_attributes_of_derived_values_come_back() -> None:
    labelled = Labelled(1, 2)
    labelled.note = b""
    deque = MyDeque([1], 3)
    deque.note = "n"
    listed = MyTuple((1,))
    listed.source = pathlib.Path("x")
    back = round_trip([labelled, deque, listed])
    assert (back[0], back[0].note) == (labelled, b"")
    assert (back[1], back[1].note, back[1].maxlen) == (deque, "n", 3)
    assert (back[2], back[2].source) == (listed, pathlib.Path("x"))
    own = round_trip(AttrDict(a=1))
    assert type(own) is AttrDict and own.a == 1 and vars(own) is own
    assert type(own) is AttrDict and plain_of(AttrDict(a=1)) == {"a": 1}


def test_a_mapping_proxy_comes_back() -> None:
    back = round_trip(types.MappingProxyType({"a": b""}))
    assert type(back) is types.MappingProxyType and back == {"a": b""}


def test_a_default_factory_that_is_code_is_lost_with_a_warning() -> None:
    for factory, name in [(lambda: 0, "<lambda>"), (Plain().__init__, "__init__")]:
        with pytest.warns(UserWarning, match=re.escape(name)):
            back = round_trip(collections.defaultdict(factory, a=1))
        assert back == {"a": 1} and back.default_factory is None
    tag = ["defaultdict", ["subprocess", "Popen"]]
    with pytest.warns(UserWarning, match="default factory"):
        assert from_plain({}, tag).default_factory is None


REFUSED = [
    (lambda: 0, "code"),
    (print, "code"),
    (functools.partial(print), "code"),
    ([].append, "code"),
    (sys, "module"),
    (Plain, "save its name"),
    (Color, "save its name"),
    (threading.Lock(), "leave it out"),
    ((i for i in ()), r"save list\(value\)"),
    ({}.keys(), r"save list\(value\)"),
    (re.compile("x"), "value.pattern"),
    (ValueError("x"), "repr"),
    (torch.nn.Linear(1, 1), "state_dict"),
    (torch.optim.SGD([torch.zeros(1)]), "state_dict"),
    (torch.nn.LazyLinear(1).weight, "ordinary tensor"),
    (np.array([object()]), "tolist"),
    (np.array([(object(),)], dtype=[("a", "O")]), "tolist"),
    (collections.UserDict(), "dict"),
    (Plain(), "dataclass"),
    (Finalized(), "finalizer"),
    (subprocess.CompletedProcess([], 0), "dataclass"),
    (datetime.datetime(2026, 1, 1, tzinfo=type("Zone", (datetime.tzinfo,), {})()), "zoneinfo"),
]


@pytest.mark.parametrize(("value", "words"), REFUSED, ids=lambda value: f"{value!r:.40}")
def test_what_cannot_be_saved_says_what_to_do(value: object, words: str) -> None:
    with pytest.raises(TypeError, match=words):
        to_plain(value)


def test_an_open_file_cannot_be_saved(tmp_path: pathlib.Path) -> None:
    with open(tmp_path / "x", "w") as file, pytest.raises(TypeError, match="position"):
        to_plain(file)


def test_a_dataclass_that_is_a_module_is_a_module() -> None:
    @dataclasses.dataclass(eq=False)
    class Net(torch.nn.Module):
        width: int = 1

        def __post_init__(self) -> None:
            super().__init__()

    with pytest.raises(TypeError, match="state_dict"):
        to_plain(Net())


# Properties


KEYS = st.one_of(
    st.text(),
    st.integers(),
    st.dates(),
    st.uuids(),
    st.decimals(allow_nan=False),
    st.sampled_from([*Level, *Color]),
    st.frozensets(st.integers()),
    st.builds(Point, st.integers(), st.text()),
)
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(),
    st.binary(),
    st.datetimes(timezones=st.none() | st.timezones() | st.just(UTC)),
    st.dates(),
    st.times(),
    st.timedeltas(),
    st.decimals(allow_nan=False),
    st.fractions(),
    st.uuids(),
    st.sampled_from([*Color, *Level, *Right, *Phase]),
    st.frozensets(KEYS),
    st.builds(pathlib.PurePosixPath, st.text("ab/.")),
    st.builds(MyStr, st.text()),
    st.builds(MyInt, st.integers()),
    st.builds(lambda n: bytes(n), st.integers(0, 3)),
)
TREES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner),
        st.dictionaries(KEYS, inner),
        st.builds(tuple, st.lists(inner)),
        st.builds(Point, st.integers(), inner),
        st.builds(Slotted, st.integers(), inner),
        st.builds(collections.deque, st.lists(inner), st.none() | st.integers(10, 20)),
        st.builds(MyTuple, st.lists(inner)),
        st.builds(types.MappingProxyType, st.dictionaries(KEYS, inner)),
        st.builds(lambda d: collections.defaultdict(list, d), st.dictionaries(KEYS, inner)),
        st.builds(
            lambda d: types.SimpleNamespace(**d), st.dictionaries(st.sampled_from("abc"), inner)
        ),
    ),
    max_leaves=20,
)


def keys_stay_apart(value: object) -> bool:
    """Whether no two keys have the same plain form; the encoder refuses those."""
    if isinstance(value, (dict, types.MappingProxyType)):
        plain = [plain_of(key) for key in value]
        return len(set(plain)) == len(plain) and all(map(keys_stay_apart, value.values()))
    if isinstance(value, (list, tuple, collections.deque)):
        return all(map(keys_stay_apart, value))
    if isinstance(value, Slotted):
        return keys_stay_apart(value.b)
    if isinstance(value, types.SimpleNamespace):
        return all(map(keys_stay_apart, vars(value).values()))
    return True


@settings(max_examples=300, deadline=None)
@given(TREES.filter(keys_stay_apart))
def test_any_tree_comes_back(value: object) -> None:
    back = round_trip(value)
    assert type(back) is type(value) and back == value


def test_torch_and_numpy_are_not_imported() -> None:
    code = (
        "import sys; from scai._convert import to_plain, from_plain; import pathlib, datetime;"
        "v = datetime.datetime.now(); assert from_plain(*to_plain(v)) == v;"
        "assert to_plain(int); import scai._random; scai._random.restore(scai._random.capture());"
        "assert not {'torch', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
