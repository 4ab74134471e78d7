"""NumPy arrays, scalars and generators come back as what they were."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis.extra import numpy as hnp
from scai._convert import to_plain
from walk import plain_of, round_trip, same

ARRAYS = [
    np.arange(6).astype(dtype).reshape(2, 3)
    for dtype in "? b B h H i I l L q Q e f d g F D G >i2 >f4 >c16 >u8 M8[ns] m8[s] >M8[D]".split()
] + [
    np.array(3.5),
    np.array("text"),
    np.array([], dtype="<U0"),
    np.empty((0, 3), np.float32),
    np.empty((2, 0), "S4"),
    np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    np.asfortranarray([["a", "bc"], ["d", "e"]]),
    np.arange(24.0).reshape(2, 3, 4).transpose(2, 0, 1),
    np.arange(10)[::-2],
    np.arange(10)[::2],
    np.arange(20).reshape(4, 5)[:, 1:3],
    np.broadcast_to(np.array([1, 2]), (3, 2)),
    np.frombuffer(b"\x01\x02\x03\x04", np.int16),
    np.array(["a", "bb"], ">U2"),
    np.array([b"a", b"bb\0"]),
    np.array([b"abc"], "V3"),
    np.array(["NaT", "2026-11-25"], "M8[D]"),
    np.array([(1, 2.5, "x")], dtype=[("a", "i4"), ("b", ">f8"), ("c", "U3")]),
    np.array((1, 2.5), dtype=np.dtype("i1,f8", align=True)),
    np.array([(1,), (2,)], dtype="i4").view(np.recarray),
    np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]).view(np.recarray),
    np.array([[1, 2]]).view(np.matrix),
]


@pytest.mark.parametrize("value", ARRAYS, ids=lambda a: f"{a.dtype.str[:20]} {a.shape}")
def test_an_array_comes_back_as_it_was(value: np.ndarray) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        back = round_trip(value)
    assert same(back, value)
    assert isinstance(plain_of(value), torch.Tensor)
    back[...] = back  # what was loaded may be written to


def test_a_masked_array_comes_back_as_it_was() -> None:
    for value in [
        np.ma.masked_array([1.0, 2.0], [True, False], fill_value=7.0),
        np.ma.masked_array([1, 2], hard_mask=True),
    ]:
        back = round_trip(value)
        assert type(back) is type(value)
        assert same(back.data, value.data)
        assert np.array_equal(np.ma.getmaskarray(back), np.ma.getmaskarray(value))
        assert (back.mask is np.ma.nomask) == (value.mask is np.ma.nomask)
        assert back.fill_value == value.fill_value and back.hardmask == value.hardmask


def test_numbers_share_memory_with_their_tensor() -> None:
    for value in [np.arange(4.0), np.asfortranarray(np.ones((2, 3))), np.arange(3)[:1]]:
        plain, _ = to_plain(value)
        assert plain.data_ptr() == value.ctypes.data
    read_only = np.arange(3)
    read_only.flags.writeable = False
    assert to_plain(read_only)[0].data_ptr() == read_only.ctypes.data


def test_a_part_of_an_array_is_saved_without_the_rest() -> None:
    plain, _ = to_plain(np.zeros((1000, 2))[:, 0])
    assert plain.untyped_storage().nbytes() == 8000


SCALARS = [np.dtype(code).type(3) for code in "? b B h H i I l L q Q e f d g F D G".split()] + [
    np.float32("nan"),
    np.float64("-inf"),
    np.float16(-0.0),
    np.complex64(complex(-0.0, 2)),
    np.longdouble(1) / 3,
    np.clongdouble(1j) / 3,
    np.int64(-(2**63)),
    np.uint64(2**64 - 1),
    np.str_("a\0b"),
    np.str_(""),
    np.bytes_(b"ab"),
    np.bytes_(b""),
    np.datetime64("2026-11-25T01:02:03.000000004"),
    np.datetime64("NaT"),
    np.datetime64("2026", "25Y"),
    np.timedelta64(-5, "ms"),
    np.void(b"abc"),
    np.array([(1, 2.5)], dtype=[("a", "i4"), ("b", "f8")])[0],
]


@pytest.mark.parametrize("value", SCALARS, ids=lambda s: f"{type(s).__name__} {s!r:.30}")
def test_a_numpy_scalar_comes_back_as_it_was(value: np.generic) -> None:
    back = round_trip(value)
    # `long long` is another class with the same numbers; the file holds the size.
    assert (
        type(back) is np.dtype(value.dtype.str).type or value.dtype.names or type(back) is np.void
    )
    assert back.dtype == value.dtype and back.tobytes() == value.tobytes()


def test_a_numpy_number_is_a_number_in_the_file() -> None:
    assert same(plain_of(np.float32(0.5)), 0.5)
    assert same(plain_of(np.int8(5)), 5)
    assert same(plain_of({np.int64(3): np.bool_(True)}), {3: True})


@pytest.mark.parametrize("name", ["MT19937", "PCG64", "PCG64DXSM", "Philox", "SFC64"])
def test_a_numpy_generator_goes_on_where_it_was(name: str) -> None:
    generator = np.random.Generator(getattr(np.random, name)(5))
    generator.standard_normal(3)
    generator.integers(5, dtype=np.uint32)
    generator.spawn(2)
    back = round_trip(generator)
    assert type(back.bit_generator) is type(generator.bit_generator)
    assert same(back.standard_normal(9), generator.standard_normal(9))
    ours, theirs = back.spawn(1)[0], generator.spawn(1)[0]
    assert same(ours.integers(0, 1 << 60, 9), theirs.integers(0, 1 << 60, 9))
    legacy = np.random.RandomState(getattr(np.random, name)(5))
    legacy.standard_normal()
    assert same(round_trip(legacy).standard_normal(9), legacy.standard_normal(9))
    bits = round_trip(generator.bit_generator)
    assert same(bits.random_raw(3), generator.bit_generator.random_raw(3))


def test_a_seed_sequence_comes_back_as_it_was() -> None:
    for value in [np.random.SeedSequence(), np.random.SeedSequence([1, 2], spawn_key=(3,))]:
        value.spawn(2)
        back = round_trip(value)
        assert same(back.generate_state(9), value.generate_state(9))
        assert back.n_children_spawned == 2


@settings(max_examples=200, deadline=None)
@given(
    hnp.arrays(
        hnp.scalar_dtypes() | hnp.nested_dtypes(max_leaves=3),
        hnp.array_shapes(min_dims=0, min_side=0),
    )
)
def test_any_array_comes_back(value: np.ndarray) -> None:
    assert same(round_trip(value), value)
    for view in (value.T, value[..., ::-1] if value.ndim else value):
        back = round_trip(view)
        assert back.dtype == view.dtype and back.shape == view.shape
        assert np.ascontiguousarray(back).tobytes() == np.ascontiguousarray(view).tobytes()


def test_arrays_of_the_types_of_jax_come_back() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    for name in ("bfloat16", "float8_e4m3fn", "int4"):
        value = np.array([1, 2, 3]).astype(getattr(ml_dtypes, name))
        assert same(round_trip(value), value)
