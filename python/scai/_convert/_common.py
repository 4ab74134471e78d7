"""What all converters share."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

# The kind, and what else is needed; lists, strings, numbers, truth values and None.
Tag = list[object]
Converted = tuple[object, Tag]
ToPlain = Callable[[Any], Converted]
FromPlain = Callable[..., object]


class Absent(Exception):
    """What a tag names is missing here; the message is the warning."""


def exactly(kind: type[T], value: object) -> T:
    """`value`, which a file says is of this type."""
    if type(value) is not kind:
        raise ValueError(f"expected {kind.__name__}, found {type(value).__name__}")
    return value


def non_empty(value: bytes) -> object:
    """Bytes as ``weights_only=True`` accepts them: it refuses ``b""``, but not ``bytearray()``."""
    return value or bytearray()


def as_bytes(plain: object) -> bytes:
    """The inverse of `non_empty`."""
    if plain == bytearray() and type(plain) is bytearray:
        return b""
    return exactly(bytes, plain)


def tensor_of(plain: object) -> torch.Tensor | None:
    """The tensor; none where it has no memory, or something stands for one on disk."""
    import torch

    if type(plain) is torch.Tensor:
        return None if plain.is_meta else plain
    if type(plain).__module__ == "builtins":
        raise ValueError(f"expected a tensor, found {type(plain).__name__}")
    return None
