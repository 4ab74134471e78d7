"""Whether two states are the same to the last bit, and if not, where they differ."""

from __future__ import annotations

import collections
import copy
import random

import numpy as np
import torch

TORCH = tuple(int(number) for number in torch.__version__.split(".")[:2])
"""The version of PyTorch that the tests run with."""

ANSWERS = {
    "exists": True,
    "readable": True,
    "has_required_fields": True,
    "has_model_state": True,
    "has_optimizer_state": True,
    "has_training_stats": True,
    "has_metadata": True,
    "has_timestamp": True,
}
"""What `verify_checkpoint` answers of a checkpoint that is sound."""


def bits_of(tensor: torch.Tensor) -> object:
    """Everything there is of a tensor, as a value that can be compared and outlives it."""
    tensor = tensor.detach()
    about = (tensor.dtype, tuple(tensor.shape), tensor.layout, tensor.device.type)
    if tensor.is_meta:
        return about
    if tensor.is_quantized:
        return (*about, tensor.qscheme(), tensor.int_repr().tolist(), tensor.stride())
    if tensor.layout is torch.sparse_coo:
        parts = (tensor._indices(), tensor._values())
        return (*about, tensor.is_coalesced(), *map(bits_of, parts))
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        parts = (tensor.crow_indices(), tensor.col_indices(), tensor.values())
        return (*about, *map(bits_of, parts))
    if tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        parts = (tensor.ccol_indices(), tensor.row_indices(), tensor.values())
        return (*about, *map(bits_of, parts))
    plain = tensor.resolve_conj().resolve_neg().clone(memory_format=torch.contiguous_format)
    content = plain.reshape(-1).view(torch.uint8).numpy().tobytes() if plain.numel() else b""
    return (*about, tensor.stride(), tensor.is_conj(), tensor.is_neg(), content)


def difference(a: object, b: object, path: str = "") -> str | None:
    """The first place where the two differ, in words; none where they are the same."""
    if type(a) is not type(b):
        return f"{path}: a {type(a).__name__} and a {type(b).__name__}"
    if isinstance(a, torch.Tensor):
        if a.requires_grad != b.requires_grad:
            return f"{path}: requires_grad is {a.requires_grad} and {b.requires_grad}"
        if bits_of(a) != bits_of(b):
            return f"{path}: {a} (stride {strides(a)}) and {b} (stride {strides(b)})"
        return None
    if isinstance(a, (torch.UntypedStorage, torch.TypedStorage)):
        return None if list(a) == list(b) else f"{path}: storages of other bytes"
    if isinstance(a, dict):
        if list(a) != list(b):
            return f"{path}: the keys {list(a)} and {list(b)}"
        found = (difference(a[key], b[key], f"{path}.{key}") for key in a)
        inside = next((each for each in found if each), None)
        if inside is None and isinstance(a, collections.OrderedDict):
            return difference(vars(a), vars(b), f"{path}.__dict__")
        return inside
    if isinstance(a, (list, tuple)):
        if len(a) != len(b):
            return f"{path}: {len(a)} and {len(b)} items"
        found = (difference(x, y, f"{path}.{i}") for i, (x, y) in enumerate(zip(a, b)))
        return next((each for each in found if each), None)
    if isinstance(a, np.ndarray):
        alike = (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())
    elif isinstance(a, (float, complex, np.generic)):
        alike = repr(a) == repr(b)
    else:
        alike = a == b
    return None if alike else f"{path}: {a!r} and {b!r}"


def strides(tensor: torch.Tensor) -> object:
    return tensor.stride() if tensor.layout is torch.strided else None


def assert_same(a: object, b: object) -> None:
    found = difference(a, b)
    assert found is None, found


def random_state() -> object:
    """The states of all generators, to be compared."""
    return [random.getstate(), np.random.get_state(legacy=True), torch.get_rng_state()]


def frozen(*things: object) -> list[object]:
    """The states of live objects and of the generators as they are now."""
    states = [thing if isinstance(thing, dict) else thing.state_dict() for thing in things]
    return copy.deepcopy([*states, random_state()])


def without_names(optimizer_state: dict) -> dict:
    """An optimizer's state dict without the names that a checkpoint adds to it."""
    groups = [
        {key: value for key, value in group.items() if key != "param_names"}
        for group in optimizer_state["param_groups"]
    ]
    return {**optimizer_state, "param_groups": groups}
