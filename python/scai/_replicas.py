"""Whether ranks hold the same state: names, shapes, element types, and a sample of the elements."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from scai._shards import is_shard
from scai.errors import GroupError

_SAMPLES = 32
"""Elements of each tensor that are compared, evenly spread."""

_SHOWN = 5
"""Differing tensors that an error names."""

Replica = dict[str, str]
"""For each tensor by its name its element type, shape and the digest of its sample."""


def has_shards(state: Any) -> bool:
    """Whether a tensor of a state is a DTensor."""
    return next(_shards(state), None) is not None


def check_complete(state: Any) -> None:
    """Refuse a state of which other processes hold parts, where none of them will be asked.

    Raises:
        scai.errors.GroupError: there is such a tensor in it.
    """
    for path, tensor in _shards(state):
        if tensor._local_tensor.numel() != tensor.numel():
            raise GroupError(
                f"this process holds only a part of `{path}`, and there is no process group in which the others "
                "could write theirs: save before destroy_process_group(), and without process_group=False; "
                "nothing was saved"
            )


def _shards(state: Any) -> Iterator[tuple[str, Any]]:
    """The DTensors of a state, with their paths."""
    if "torch.distributed.tensor" not in sys.modules:
        return
    # A state may hold itself, which is refused later on.
    seen: set[int] = set()
    # Each with the keys that lead to it, the last one first.
    left: list[tuple[Any, Any]] = [((), state)]
    while left:
        keys, value = left.pop()
        if is_shard(value):
            yield _path(keys), value
        elif isinstance(value, (Mapping, list, tuple)) and id(value) not in seen:
            seen.add(id(value))
            children = value.items() if isinstance(value, Mapping) else enumerate(value)
            left.extend(((key, keys), child) for key, child in children)


def _path(keys: Any) -> str:
    names: list[str] = []
    while keys:
        key, keys = keys
        names.append(str(key))
    return ".".join(reversed(names))


def replica_of(models: Mapping[str, Any], states: Mapping[str, Any]) -> Replica:
    """What is compared between ranks: the parameters of models, and the state of optimizers.

    Buffers are not compared, and of a model that is a state dict only what needs a gradient.

    Args:
        models: by the names that errors call them.
        states: the state dicts of optimizers by the names that errors call them.
    """
    named: dict[str, Any] = {}
    for what, model in models.items():
        if hasattr(model, "named_parameters"):
            found: Iterable[tuple[str, Any]] = model.named_parameters()
        else:
            found = _trained(model)
        named.update((f"{what}.{name}", tensor) for name, tensor in found)
    for what, state in states.items():
        if isinstance(state, Mapping):
            named.update(_of_optimizer(state, what))
    return _digests(named)


def digest_of(replica: Replica) -> str:
    """One digest of all."""
    return hashlib.blake2b(repr(list(replica.items())).encode(), digest_size=16).hexdigest()


def difference(ours: Replica, theirs: Mapping[int, Replica]) -> str:
    """In words where the tensors of rank 0 and of others differ."""
    rank, other = next(iter(theirs.items()))
    names = [
        name for name in {**ours, **other} if ours.get(name) != other.get(name)
    ] or ["the order of the tensors"]
    shown = ", ".join(_in_words(name, ours.get(name), other.get(name), rank) for name in names[:_SHOWN])
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    ranks = ", ".join(map(str, theirs))
    return (
        f"{len(names)} tensors differ between rank 0 and rank {ranks}: {shown}{more}. Rank 0 would save "
        "its own and those of the others would be lost. Either the state is divided among the ranks (FSDP1, "
        "ZeroRedundancyOptimizer, DeepSpeed, tensor parallelism made by hand), or the ranks have drifted "
        "apart (no DistributedDataParallel, other seeds). With `replicas=\"trust\"` the manager does not "
        "compare, and saves the state of rank 0"
    )


def _in_words(name: str, ours: str | None, theirs: str | None, rank: int) -> str:
    if theirs is None:
        return f"`{name}` (on rank 0 only)"
    if ours is None:
        return f"`{name}` (on rank {rank} only)"
    kinds = [each.rpartition(" ")[0] for each in (ours, theirs)]
    return f"`{name}`" if kinds[0] == kinds[1] else f"`{name}` ({kinds[0]} and {kinds[1]})"


def _trained(state: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(state, Mapping):
        for name, value in state.items():
            if getattr(value, "requires_grad", False):
                yield str(name), value


def _of_optimizer(state: Mapping[str, Any], what: str) -> Iterator[tuple[str, Any]]:
    """The tensors that an optimizer keeps, by the names of its parameters where these are known."""
    names: dict[Any, str] = {}
    for group in state.get("param_groups", ()):
        names.update(zip(group.get("params", ()), group.get("param_names", ())))
    kept = state.get("state", state)
    if not isinstance(kept, Mapping):
        return
    for key, values in kept.items():
        yield from _tensors(values, f"{what}.{names.get(key, key)}")


def _tensors(state: Any, path: str) -> Iterator[tuple[str, Any]]:
    """The tensors in dicts and lists, with their paths."""
    import torch

    if isinstance(state, torch.Tensor):
        yield path, state
    elif isinstance(state, Mapping):
        for key, value in state.items():
            yield from _tensors(value, f"{path}.{key}")
    elif isinstance(state, (list, tuple)):
        for number, value in enumerate(state):
            yield from _tensors(value, f"{path}.{number}")


def _digests(named: Mapping[str, Any]) -> Replica:
    """What is compared of each tensor. The samples of a device and an element type are copied as one."""
    import torch

    # Of these each rank has a part of its own.
    named = {name: tensor for name, tensor in named.items() if not is_shard(tensor)}
    groups: dict[tuple[Any, Any], list[tuple[str, Any]]] = {}
    kinds: dict[Any, str] = {}
    found: Replica = {}
    with torch.no_grad():
        for name, tensor in named.items():
            dtype = tensor.dtype
            if (kind := kinds.get(dtype)) is None:
                kind = kinds[dtype] = str(dtype).removeprefix("torch.")
            found[name] = f"{kind}{list(tensor.shape)} "
            if _is_ordinary(tensor):
                groups.setdefault((tensor.device, dtype), []).append((name, _sample(tensor)))
        for samples in groups.values():
            joined = torch.cat([sample for _, sample in samples]).cpu()
            content = joined.view(torch.uint8).numpy().tobytes()
            size = joined.element_size()
            at = 0
            for name, sample in samples:
                end = at + len(sample) * size
                found[name] += hashlib.blake2b(content[at:end], digest_size=8).hexdigest()
                at = end
    return found


def _is_ordinary(tensor: Any) -> bool:
    """Whether a tensor has elements that can be looked at."""
    import torch

    return bool(
        tensor.layout is torch.strided
        and tensor.numel()
        and not (tensor.is_meta or tensor.is_quantized or tensor.is_nested)
    )


def _sample(tensor: Any) -> Any:
    """Elements of a tensor, evenly spread: a view if its memory is contiguous."""
    import torch

    number = tensor.numel()
    count = min(number, _SAMPLES)
    step = max((number - 1) // max(count - 1, 1), 1)
    if tensor.is_contiguous():
        sample = tensor.as_strided((count,), (step,), tensor.storage_offset())
    else:
        at = torch.arange(count, device=tensor.device) * step
        sample = tensor[torch.unravel_index(at, tensor.shape)]
    if tensor.is_conj() or tensor.is_neg():
        sample = sample.resolve_conj().resolve_neg()
    return sample
