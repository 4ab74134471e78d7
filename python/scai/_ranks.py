"""What the processes of a distributed training tell one another: what is done, and what went wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from scai.errors import CheckpointError

_T = TypeVar("_T")


def agreed(value: _T, error: Exception | None = None) -> list[_T]:
    """The values of all processes, by rank, when all have arrived here. Without a process group, its own.

    Args:
        value: what this process says; anything that can be pickled.
        error: why this process cannot go on.

    Raises:
        Exception: `error`, where it was given.
        scai.errors.CheckpointError: another process gave one.
    """
    import torch.distributed as dist

    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        if error is not None:
            raise error
        return [value]
    said: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(said, (value, None if error is None else f"{type(error).__name__}: {error}"))
    if error is not None:
        raise error
    for rank, (_, reason) in enumerate(said):
        if reason is not None:
            raise CheckpointError(f"rank {rank} cannot go on: {reason}")
    return [each for each, _ in said]


def attempted(work: Callable[[], _T], if_failed: _T) -> tuple[_T, Exception | None]:
    """What `work` returns, and `None`; or `if_failed` and what it raised, for `agreed`."""
    try:
        return work(), None
    except Exception as error:
        return if_failed, error
