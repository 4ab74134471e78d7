"""Files that every supported PyTorch reads, and reads right."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import scai
import torch


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


@pytest.mark.parametrize("load", [lambda path: torch.load(path, weights_only=True), scai.load])
@pytest.mark.parametrize("views", VIEWS)
def test_views_of_one_storage_as_several_types_are_read_as_what_they_are(
    views: Callable[[], dict[str, torch.Tensor]], load: Callable[[Path], Any], tmp_path: Path
) -> None:
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
