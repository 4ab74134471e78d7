"""States that are saved with `torch.distributed.checkpoint`, and whether two are the same."""

from __future__ import annotations

import io
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from scai.distributed import StorageReader, StorageWriter
from torch.distributed.tensor import DTensor

DTYPES = [
    getattr(torch, name)
    for name in """
        bool uint8 int8 uint16 int16 uint32 int32 uint64 int64 float16 bfloat16 float32 float64 complex32
        complex64 complex128 float8_e4m3fn float8_e4m3fnuz float8_e5m2 float8_e5m2fnuz float8_e8m0fnu
    """.split()
    if hasattr(torch, name)
]


def state_of_all_kinds() -> dict[str, Any]:
    """Tensors of every dtype and layout in memory, and values of every type that needs no code."""
    torch.manual_seed(0)
    base = torch.randn(12, 10)
    bits = torch.randint(0, 2, (6, 16), dtype=torch.uint8)
    return {
        "dtypes": {str(dtype): bits.view(dtype) for dtype in DTYPES},
        "views": {
            "rows": base[2:5],
            "columns": base[:, 1:9:2],
            "transposed": base.t(),
            "expanded": torch.randn(1, 4).expand(3, 4),
            "padded": torch.randn(1000)[10:20],
            "channels_last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
            "conjugated": torch.randn(3, dtype=torch.complex64).conj(),
            "negative": torch.randn(3, dtype=torch.complex64).conj().imag,
        },
        "empty": [torch.empty(0), torch.empty(3, 0, 2), torch.tensor(2.5), torch.tensor(True)],
        "nested": [{"a": [torch.ones(2), {"b": (torch.zeros(3), 1)}]}, [], [[], {"c": None}]],
        "values": {"n": 3, "x": 0.1, "s": "ö", "none": None, "list": [1, "a", None], "set": {1, 2}},
        "parameter": torch.nn.Parameter(torch.randn(4)),
    }


def save(path: Path, state: dict[str, Any], writer: Any = StorageWriter, **options: Any) -> None:
    """Save from one process."""
    dcp.save(dict(state), storage_writer=writer(path, **options), no_dist=True)


def load(path: Path, state: dict[str, Any], reader: Any = StorageReader) -> None:
    """Load into a state, in one process."""
    dcp.load(state, storage_reader=reader(path), no_dist=True)


def zeroed(value: Any) -> Any:
    """The same with zeros in all tensors and no values; a tuple is one."""
    if isinstance(value, torch.Tensor):
        return torch.zeros_like(value.detach())
    if isinstance(value, Mapping):
        return {key: zeroed(each) for key, each in value.items()}
    if isinstance(value, list):
        return [*map(zeroed, value)]
    return None


def clone(value: Any) -> Any:
    """A copy that nothing changes."""
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    if isinstance(value, Mapping):
        return {key: clone(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [*map(clone, value)]
    return value


def bytes_of(tensor: torch.Tensor) -> tuple[Any, ...]:
    """All there is of a tensor but how it lies in memory."""
    if isinstance(tensor, DTensor):
        tensor = tensor.to_local()
    plain = tensor.detach().resolve_conj().resolve_neg().clone(memory_format=torch.contiguous_format)
    content = plain.reshape(-1).view(torch.uint8).numpy().tobytes() if plain.numel() else b""
    return plain.dtype, tuple(plain.shape), content


def different(a: Any, b: Any, path: str = "") -> list[str]:
    """Where two states differ. DCP makes lists of tuples."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return [] if bytes_of(a) == bytes_of(b) else [path]
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        if list(a) != list(b):
            return [f"{path}: {list(a)} and {list(b)}"]
        return [*itertools.chain(*(different(a[key], b[key], f"{path}.{key}") for key in a))]
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        if len(a) != len(b):
            return [f"{path}: {len(a)} and {len(b)} items"]
        return [*itertools.chain(*(different(x, y, f"{path}.{i}") for i, (x, y) in enumerate(zip(a, b))))]
    if isinstance(a, io.BytesIO) and isinstance(b, io.BytesIO):
        return [] if a.getvalue() == b.getvalue() else [path]
    return [] if type(a) is type(b) and a == b else [f"{path}: {a!r} and {b!r}"]
