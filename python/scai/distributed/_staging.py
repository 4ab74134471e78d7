"""Taking a state for `dcp.async_save`: what is read while training goes on, and what is copied."""

from __future__ import annotations

import copy
import threading
from collections.abc import Collection, Mapping
from typing import Any

import torch

from scai import _native
from scai._capture import Capture, Snapshot
from scai._live import Fence

Key = tuple[int, torch.dtype, torch.Size, tuple[int, ...]]


def key_of(tensor: torch.Tensor) -> Key:
    """What identifies the memory of a tensor and how it lies there."""
    return tensor.data_ptr(), tensor.dtype, tensor.size(), tensor.stride()


class Staged:
    """A state as it was at one moment: the tensors of this process, taken, until they are written.

    Attributes:
        state: the same state with containers of its own. Its tensors are in the memory of the original ones: DCP
            plans with them, and what is written is what was taken.
        shard: what was taken.
        is_claimed: whether the thread that saves it has begun.
        thread: where it was taken.
    """

    def __init__(
        self,
        state: dict[str, Any],
        capture: Capture,
        snapshot: Snapshot,
        models: Collection[Any],
        optimizers: Collection[Any],
    ) -> None:
        self.is_claimed = False
        self.thread = threading.get_ident()
        self._leaves: dict[int, torch.Tensor] = {}
        tensors: list[torch.Tensor] = []
        self.state = self._copied(state, tensors)
        self._numbers = {key_of(tensor): number for number, tensor in enumerate(tensors)}
        taken = capture.begin(tensors, None, snapshot, models, optimizers, _native.Shard)
        self.shard: _native.Shard = taken[0]
        self._fence: Fence | None = taken[1]

    def _copied(self, value: Any, tensors: list[torch.Tensor]) -> Any:
        if isinstance(value, torch.Tensor):
            tensors += local_tensors(value)
            # By it this state is told from another one of the same tensors.
            leaf = _alias(value)
            self._leaves[id(leaf)] = leaf
            return leaf
        # What DCP looks into: these become items of their own.
        if isinstance(value, Mapping):
            return {key: self._copied(item, tensors) for key, item in value.items()}
        if isinstance(value, list) and _is_looked_into(value):
            return [self._copied(item, tensors) for item in value]
        return _copy(value)

    def is_of(self, planner: Any) -> bool:
        """Whether a planner plans this state."""
        return self.is_in(planner.state_dict)

    def is_in(self, value: Any) -> bool:
        """Whether a tensor of this state is in a value; one without memory does not count."""
        if isinstance(value, torch.Tensor):
            return id(value) in self._leaves and not value.is_meta
        values = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
        return any(map(self.is_in, values))

    def is_inside(self, planner: Any, name: str) -> bool:
        """Whether a tensor of this state is in an item of a planner."""
        return self.is_in(planner.state_dict.get(name))

    def has_tensors(self) -> bool:
        """Whether there is a tensor in the state."""
        return bool(self._leaves)

    def number(self, tensor: torch.Tensor) -> int | None:
        """The number of a tensor among those that were taken."""
        return self._numbers.get(key_of(tensor))

    def end(self) -> None:
        """Nothing will be read any more."""
        self.shard.end()
        if self._fence is not None:
            self._fence.remove()


def _alias(tensor: torch.Tensor) -> torch.Tensor:
    """Another object of the same memory."""
    from torch.distributed.tensor import DTensor

    if type(tensor) is DTensor:
        # A tenth of the time that `detach` takes.
        return DTensor(tensor._local_tensor, tensor._spec, requires_grad=False)
    return tensor.detach()


def _is_looked_into(values: list[Any]) -> bool:
    """Whether DCP makes items of what is in a list; otherwise the list is one."""
    return any(
        isinstance(value, (torch.Tensor, Mapping))
        or (isinstance(value, list) and _is_looked_into(value))
        for value in values
    )


def _copy(value: Any) -> Any:
    """A copy of what is pickled as a whole when it is written. It may hold tensors."""
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    if type(value) in (list, tuple):
        return type(value)(map(_copy, value))
    return copy.deepcopy(value)


def local_tensors(tensor: torch.Tensor) -> list[torch.Tensor]:
    """The ordinary tensors that hold what this process has of a tensor."""
    from torch.distributed._shard.sharded_tensor.api import ShardedTensor
    from torch.distributed.tensor import DTensor

    if isinstance(tensor, DTensor):
        local = tensor.to_local()
        return local_tensors(local) if local is not tensor else [local]
    if isinstance(tensor, ShardedTensor):
        return [shard.tensor for shard in tensor.local_shards()]
    return [tensor.detach()]
