"""What a file says of the types of its values is not trusted."""

from __future__ import annotations

import enum
import pathlib
import sys
import types
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scai._convert import from_plain, to_plain
from walk import Color, Config, Point

# What a file says of classes


def test_a_class_is_never_imported() -> None:
    module = "lib2to3" if sys.version_info < (3, 13) else "turtledemo"
    assert module not in sys.modules
    for kind in [
        ["enum", module, "X", "A"],
        ["namedtuple", module, "X", []],
        ["dataclass", module, "X", []],
        ["derived", "dict", module, "X", None, False, False],
        ["structseq", module, "X"],
    ]:
        plain: object = {} if kind[0] in ("dataclass", "derived") else ()
        with pytest.warns(UserWarning, match=f"import the module `{module}`"):
            assert from_plain(plain, kind) == plain
    assert module not in sys.modules


def test_a_class_must_be_of_the_kind_it_was() -> None:
    here = ["walk"]
    for plain, tag in [
        (1, ["enum", *here, "Plain", "A"]),
        ((), ["namedtuple", *here, "Plain", []]),
        ({}, ["dataclass", *here, "Plain", []]),
        ({}, ["dataclass", *here, "Color", []]),
        ({}, ["derived", "dict", *here, "MyList", None, False, False]),
        ({}, ["derived", "dict", *here, "Finalized", None, False, False]),
        ({}, ["dataclass", "subprocess", "Popen", []]),
        ((), ["structseq", *here, "MyTuple"]),
        (1, ["enum", *here, "Color.RED", "A"]),
        (1, ["enum", "sys", "modules", "A"]),
    ]:
        with pytest.warns(UserWarning):
            assert from_plain(plain, tag) is plain


def test_an_attribute_that_a_module_computes_is_not_computed() -> None:
    module = types.ModuleType("lazy_module")
    module.__getattr__ = lambda name: pytest.fail("computed")  # type: ignore[method-assign]
    sys.modules["lazy_module"] = module
    try:
        with pytest.warns(UserWarning, match="lazy_module"):
            assert from_plain(1, ["enum", "lazy_module", "X", "A"]) == 1
    finally:
        del sys.modules["lazy_module"]


def test_a_class_that_has_changed_takes_what_fits() -> None:
    name = ["walk", "Config"]
    fresh = from_plain({"name": "a"}, ["dataclass", *name, ["name"]])
    assert fresh == Config("a") and fresh.tags == []
    with pytest.warns(UserWarning, match="no field `gone`"):
        back = from_plain({"name": "a", "gone": 1}, ["dataclass", *name, ["name", "gone"]])
    assert back == Config("a") and not hasattr(back, "gone")
    with pytest.warns(UserWarning, match="new field `name`"):
        assert from_plain({}, ["dataclass", *name, []]) == {}
    assert from_plain((1,), ["namedtuple", "walk", "Point", ["x"]]) == Point(1, 0)
    with pytest.warns(UserWarning, match="other fields"):
        assert from_plain((1,), ["namedtuple", "walk", "Point", ["z"]]) == (1,)
    assert from_plain("green", ["enum", "walk", "Color", "RENAMED"]) is Color.GREEN
    with pytest.warns(UserWarning, match="no member `GONE`"):
        assert from_plain("blue", ["enum", "walk", "Color", "GONE"]) == "blue"


def test_a_class_that_cannot_be_found_again_is_told_when_it_is_saved() -> None:
    class Local(enum.Enum):
        A = 1

    with pytest.warns(UserWarning, match="Local"):
        plain, tag = to_plain(Local.A)
    assert plain == 1
    with pytest.warns(UserWarning, match="is not loaded"):
        assert from_plain(plain, tag) == 1


def test_a_path_of_another_system_is_a_pure_one() -> None:
    assert type(from_plain("a\\b", ["path", "WindowsPath"])) is pathlib.PureWindowsPath


MALFORMED = [
    (1, []),
    (1, None),
    (1, "int"),
    (1, [1]),
    (1, ["nothing"]),
    (1, ["numpy.nothing"]),
    (1, ["torch.nothing"]),
    (1, ["bytes"]),
    ("x", ["int"]),
    (1, ["int", 2]),
    ([], ["frozenset"]),
    (([],), ["frozenset"]),
    ((1, 2), ["range"]),
    ((1, 2, 0), ["range"]),
    ((1.5, 2, 3), ["range"]),
    ([1, 2], ["deque", 1]),
    ([1, 2], ["deque", "x"]),
    ([1, 2], ["deque"]),
    ([1], ["ChainMap"]),
    ({1: 2}, ["SimpleNamespace"]),
    ({1: 2}, ["Namespace"]),
    ([], ["Namespace"]),
    ("x", ["datetime", 0, None]),
    ("2026-11-25T00:00:00", ["datetime", 7, None]),
    ("2026-11-25T00:00:00", ["datetime", 0, "../../etc/passwd"]),
    ("2026-11-25T00:00:00", ["datetime", 0, [10**20]]),
    ("2026-11-25T00:00:00", ["datetime", 0, {}]),
    ("25:00", ["time", 0, None]),
    ("x", ["date"]),
    ("x", ["timedelta"]),
    (float("inf"), ["timedelta"]),
    (float("nan"), ["timedelta"]),
    ((10**10, 0, 0), ["timedelta"]),
    ("UTC", ["timezone", None]),
    ("x", ["path", "Path"]),
    ("x", ["Decimal"]),
    ((1, 0), ["Fraction"]),
    ("1/3", ["Fraction"]),
    ((1.5, 1), ["Fraction"]),
    ("x", ["UUID"]),
    ("eval", ["type"]),
    ("open", ["type"]),
    ([], ["type"]),
    ("True", ["constant"]),
    ([1], ["array", "x"]),
    ([300], ["array", "b"]),
    (b"abc", ["memoryview", "f", [1], True]),
    (b"abc", ["memoryview", "B", [7], True]),
    (b"abc", ["memoryview", "B", [3], 1]),
    (1, ["enum", "a"]),
    (1, ["enum", 1, 2, 3]),
    ((1,), ["namedtuple", "walk", "Point", []]),
    ([1], ["namedtuple", "walk", "Point", ["x"]]),
    ({1: 2}, ["dataclass", "walk", "Config", ["name"]]),
    ([], ["dataclass", "walk", "Config", []]),
    ({"a": 1, "z": 1}, ["dataclass", "walk", "Slotted", ["a"]]),
    ([], ["defaultdict", None]),
    ({}, ["defaultdict", "eval"]),
    ({}, ["defaultdict", 5]),
    ({}, ["derived", "type", "walk", "MyDict", None, False, False]),
    ([], ["derived", "dict", "walk", "MyDict", None, False, False]),
    ({}, ["derived", "dict", "walk", "MyDict", None, True, False]),
    ({}, ["derived", "dict", "walk", "MyDict", None, "x", False]),
    (1.5, ["derived", "int", "walk", "MyInt", None, False, False]),
    ((1, 2, 3), ["structseq", "torch.return_types", "max"]),
    ("x", ["numpy.type"]),
    ("ndarray", ["numpy.type"]),
    ("x", ["numpy.dtype", "O"]),
    ("x", ["numpy.dtype", "|O"]),
    ("x", ["numpy.dtype", "f4,f4"]),
    ("x", ["numpy.dtype", "nothing"]),
    ("x", ["numpy.dtype", {}]),
    ("x", ["numpy.dtype", 5]),
    ("x", ["numpy.dtype", {"base": "|O", "shape": [1]}]),
    (1, ["numpy.ndarray", "<f4"]),
    (torch.zeros(2), ["numpy.ndarray", "<f8"]),
    (torch.zeros(2), ["numpy.ndarray", "|O"]),
    (torch.zeros(2), ["numpy.ndarray", "<U1"]),
    (torch.zeros(2), ["numpy.ndarray", "<U1", [1], "C"]),
    (torch.zeros(7, dtype=torch.uint8), ["numpy.ndarray", "<U1", [1], "C"]),
    (torch.zeros(8, dtype=torch.uint8), ["numpy.ndarray", "<U1", [1], "C"]),
    (torch.zeros(4, dtype=torch.uint8), ["numpy.ndarray", "<U1", [1], "A"]),
    (torch.zeros(0, dtype=torch.uint8), ["numpy.ndarray", "<U1", [1 << 20], "C"]),
    (torch.zeros(0, dtype=torch.uint8), ["numpy.ndarray", "<U1", [1 << 60], "C"]),
    (torch.zeros(4, dtype=torch.uint8), ["numpy.ndarray", "<U1", 5, "C"]),
    (300, ["numpy.scalar", "|i1"]),
    ("x", ["numpy.scalar", "<f4"]),
    (True, ["numpy.scalar", "<f4"]),
    (1, ["numpy.scalar", "<M8[nothing]"]),
    (1 << 70, ["numpy.scalar", "<M8[s]"]),
    (1.0, ["numpy.scalar", "<f16", "00"]),
    (1.0, ["numpy.scalar", "<f16", "zz"]),
    ({}, ["numpy.random.Generator"]),
    ({"state": {"bit_generator": "os"}, "seed_seq": None}, ["numpy.random.Generator"]),
    ({"state": {"bit_generator": "PCG64"}, "seed_seq": None}, ["numpy.random.Generator"]),
    ({"state": {"bit_generator": "PCG64"}, "seed_seq": 1}, ["numpy.random.Generator"]),
    ({"bit_generator": "PCG64"}, ["numpy.random.RandomState"]),
    ({"pool_size": 1 << 40}, ["numpy.random.SeedSequence"]),
    (torch.zeros(2), ["torch.Generator", "cpu"]),
    (1, ["torch.Generator", "cpu"]),
    (torch.get_rng_state(), ["torch.Generator", "nothing"]),
    ("x", ["torch.memory_format"]),
    ("x", ["torch.finfo"]),
    (torch.int8, ["torch.finfo"]),
]


@pytest.mark.parametrize(("plain", "tag"), MALFORMED, ids=lambda value: f"{value!r:.60}")
def test_a_malformed_tag_is_a_value_error(plain: object, tag: list) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError):
            from_plain(plain, tag)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=6,
)
ALL_KINDS = sorted({tag[0] for _, tag in MALFORMED if tag and isinstance(tag, list)} - {1})
PLAINS = JSON | st.sampled_from([(), (1, 2, 3), torch.zeros(4), b"x", bytearray(), {"a": 1}])


@settings(max_examples=500, deadline=None)
@given(PLAINS, st.sampled_from(ALL_KINDS), st.lists(JSON, max_size=5))
def test_any_tag_gives_a_value_a_warning_or_a_value_error(
    plain: object, kind: str, details: list
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            from_plain(plain, [kind, *details])
        except ValueError:
            pass
