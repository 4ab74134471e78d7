"""Files that every supported PyTorch reads, and reads right."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import scai
import torch
from same import TORCH


def float_and_int() -> dict[str, torch.Tensor]:
    floats = torch.arange(5.0)
    return {"f": floats, "i": floats.view(torch.int32)}


def int_first() -> dict[str, torch.Tensor]:
    floats = torch.arange(5.0)
    return {"i": floats.view(torch.int32), "f": floats, "again": floats[1:3]}


def complex_and_real() -> dict[str, torch.Tensor]:
    values = torch.complex(torch.arange(4.0), -torch.arange(4.0))
    return {"c": values, "r": torch.view_as_real(values), "conj": values.conj()}


def real_first() -> dict[str, torch.Tensor]:
    values = torch.complex(torch.arange(4.0), -torch.arange(4.0))
    return {"r": torch.view_as_real(values)[1:], "c": values}


def bytes_of_doubles() -> dict[str, torch.Tensor]:
    values = torch.arange(3, dtype=torch.float64)
    return {"b": values.view(torch.uint8), "d": torch.nn.Parameter(values), "l": values.view(torch.int64)}


def one_without_a_storage_class() -> dict[str, torch.Tensor]:
    values = torch.arange(6).to(torch.int16)
    return {"u": values.view(torch.uint16), "s": values, "b": values.view(torch.bfloat16)}


VIEWS = [
    float_and_int,
    int_first,
    complex_and_real,
    real_first,
    bytes_of_doubles,
    one_without_a_storage_class,
]


GUIDES = Path(__file__).parents[2] / "docs"


def needs(guide: str) -> dict[str, tuple[int, int]]:
    """From which version on `torch.load` reads what, as a guide says it."""
    rows = re.findall(r"^\| (`[^|]*`) \| (\d+)\.(\d+) \|$", (GUIDES / guide).read_text(), re.M)
    found = ((name, (int(a), int(b))) for names, a, b in rows for name in names.split(", "))
    return {name.strip("`"): version for name, version in found}


@pytest.mark.parametrize("load", [lambda path: torch.load(path, weights_only=True), scai.load])
@pytest.mark.parametrize("views", VIEWS)
def test_views_of_one_storage_as_several_types_are_read_as_what_they_are(
    views: Callable[[], dict[str, torch.Tensor]], load: Callable[[Path], Any], tmp_path: Path
) -> None:
    if views is one_without_a_storage_class and load is not scai.load:
        if TORCH < needs("guide.md")["torch.uint16"]:
            pytest.skip("this PyTorch does not load torch.uint16")
    saved = views()
    scai.save(saved, tmp_path / "views.pt")
    loaded = load(tmp_path / "views.pt")
    for name, tensor in saved.items():
        assert loaded[name].dtype == tensor.dtype, name
        assert type(loaded[name]) is type(tensor), name
        raw, expected = (t.detach().resolve_conj() for t in (loaded[name], tensor))
        assert raw.shape == expected.shape and raw.stride() == expected.stride(), name
        same = raw.contiguous().view(torch.uint8).equal(expected.contiguous().view(torch.uint8))
        assert same, name
    # They are still one storage.
    assert len({tensor.untyped_storage().data_ptr() for tensor in loaded.values()}) == 1


def test_a_storage_that_would_be_read_as_another_type_is_refused(tmp_path: Path) -> None:
    tensor = torch.arange(5.0)
    with pytest.raises(TypeError, match="`s`.*another element type"):
        scai.save({"t": tensor, "s": tensor.untyped_storage()}, tmp_path / "a.pt")
    assert not (tmp_path / "a.pt").exists()
    scai.save({"s": tensor.untyped_storage(), "t": tensor}, tmp_path / "b.pt")
    loaded = torch.load(tmp_path / "b.pt", weights_only=True)
    assert loaded["t"].dtype == torch.float32 and loaded["t"].equal(tensor)


def value_of(name: str) -> Any:
    if name.startswith("torch."):
        dtype = getattr(torch, name.removeprefix("torch."), None)
        return None if dtype is None else torch.zeros(8, dtype=torch.uint8).view(dtype)
    return {"bytes": b"abc", "bytearray": bytearray(b"abc"), "set": {1, 2}, "complex": 1 + 2j}[name]


@pytest.mark.usefixtures("as_the_installed_torch_loads")
@pytest.mark.parametrize("name", needs("guide.md"))
def test_the_guide_says_from_which_version_on_torch_reads_a_value(
    name: str, tmp_path: Path
) -> None:
    value = value_of(name)
    if value is None:
        pytest.skip("this PyTorch has no such type")
    scai.save({"value": value}, tmp_path / "value.pt")
    if TORCH >= needs("guide.md")[name]:
        torch.load(tmp_path / "value.pt", weights_only=True)
    else:
        with pytest.raises(pickle.UnpicklingError):
            torch.load(tmp_path / "value.pt", weights_only=True)
    read = scai.load(tmp_path / "value.pt")["value"]
    assert type(read) is type(value)
    if not isinstance(value, torch.Tensor):
        assert read == value


def test_the_guides_agree_on_the_versions() -> None:
    assert needs("guide.md") == needs("guide.zh.md") and len(needs("guide.md")) == 9
