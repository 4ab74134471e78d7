"""Tensors of which each process holds a part (DTensor): the part, and where in the whole it is."""

from __future__ import annotations

import sys
from typing import Any

Narrowing = tuple[str, list[int], list[int], list[int]]
"""The path of a tensor in a tree, its shape, and offset and size of a part in each dimension."""


def is_shard(value: Any) -> bool:
    """Whether a value is a DTensor."""
    # Without this module, nobody has made one.
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(value, module.DTensor)


def local(value: Any) -> Any:
    """The part that this process holds, in the memory where it is; what is no DTensor as it is."""
    return value._local_tensor if is_shard(value) else value


def narrowing(path: str, tensor: Any) -> Narrowing:
    """Which part of a DTensor this process holds.

    Raises:
        TypeError: it holds several.
    """
    shape = list(tensor.shape)
    chunks = tensor.__create_chunk_list__()
    if len(chunks) > 1:
        raise TypeError(
            f"`{path}` is a DTensor of which this process holds {len(chunks)} pieces, which cannot be "
            "loaded; load it with torch.distributed.checkpoint and scai.distributed.StorageReader"
        )
    if not chunks or not tensor._local_tensor.numel():
        return path, shape, [0] * len(shape), list(tensor._local_tensor.shape)
    return path, shape, list(chunks[0].offsets), list(chunks[0].sizes)


def shard_like(part: Any, tensor: Any) -> Any:
    """A DTensor of which this process holds `part`, divided as another one is."""
    return type(tensor).from_local(
        part,
        tensor.device_mesh,
        tensor.placements,
        run_check=False,
        shape=tensor.shape,
        stride=tensor.stride(),
    )
