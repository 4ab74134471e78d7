"""The state of a manager as DCP saves it: tensors by name, and all that is around them."""

from __future__ import annotations

import copy
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.distributed.checkpoint._nested_dict import flatten_state_dict
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.planner import WriteItem, WriteItemType

from scai import _native
from scai._shards import is_shard

TREE = "scai.tree"
"""The item with the state as a file would hold it, in which a tensor on the meta device stands for each tensor
that is an item of its own; the last field, `_KEYS`, has the names of these items in the same order."""
_KEYS = "scai.keys"

_OPTIMIZERS = "optimizer_state_dict"


@dataclass(frozen=True)
class FlatState:
    """A state as DCP saves it.

    Attributes:
        values: what becomes an item, by its name.
        paths: the way to each in the nested state.
    """

    values: dict[str, Any]
    paths: dict[str, tuple[Any, ...]]


@dataclass(frozen=True)
class Written:
    """A value of which the file is known already."""

    content: bytes


def flattened(state: dict[str, Any], note: str | None) -> FlatState:
    """The items of a state, named as DCP names them; those of optimizers by the names of their parameters.

    Args:
        state: as it would be saved to a file.
        note: what is kept beside it.
    """
    named = {**state, _OPTIMIZERS: _by_name(state[_OPTIMIZERS])}
    values, paths = flatten_state_dict(named)
    keys: list[str] = []
    tree = {
        field: _without_tensors(value, _renamed(field, value), (field,), values, keys)
        for field, value in state.items()
    }
    content = _native.Tree.encode({**tree, _KEYS: keys}, note=note).to_bytes(1)
    return FlatState({**values, TREE: Written(content)}, {**paths, TREE: (TREE,)})


def parts_of(state: dict[str, Any]) -> FlatState:
    """The DTensors of a state, as `flattened` has them: what a rank writes that does not write the rest."""
    named = {**state, _OPTIMIZERS: _by_name(state[_OPTIMIZERS])}
    values, paths = flatten_state_dict(named)
    parts = {name: value for name, value in values.items() if is_shard(value)}
    return FlatState(parts, {name: paths[name] for name in parts})


def _renamed(field: str, value: Any) -> dict[tuple[str, ...], dict[Any, str]]:
    """The names of numbered parameters, by the way to what is numbered."""
    if field != _OPTIMIZERS:
        return {}
    found = {}
    for way, state in _states(value, (field,)):
        found[way + ("state",)] = _names(state)
    return found


def _states(value: Any, way: tuple[str, ...]) -> list[tuple[tuple[str, ...], Any]]:
    """The states of optimizers in a field: of the only one, or of several by name."""
    if not isinstance(value, Mapping):
        return []
    if "param_groups" in value:
        return [(way, value)]
    return [((*way, str(name)), state) for name, state in value.items() if _is_state(state)]


def _is_state(value: Any) -> bool:
    return isinstance(value, Mapping) and "param_groups" in value and "state" in value


def _names(state: Mapping[str, Any]) -> dict[Any, str]:
    names: dict[Any, str] = {}
    for group in state["param_groups"]:
        if isinstance(group, Mapping):
            names.update(zip(group.get("params", ()), group.get("param_names", ())))
    return names


def _by_name(value: Any) -> Any:
    if _is_state(value):
        names = _names(value)
        return {
            **value,
            "state": {names.get(key, key): each for key, each in value["state"].items()},
            "param_groups": [
                {**group, "params": [names.get(key, key) for key in group["params"]]}
                for group in value["param_groups"]
            ],
        }
    if isinstance(value, Mapping):
        return {name: _by_name(state) if _is_state(state) else state for name, state in value.items()}
    return value


def _without_tensors(
    value: Any,
    renamed: dict[tuple[str, ...], dict[Any, str]],
    way: tuple[Any, ...],
    values: dict[str, Any],
    keys: list[str],
) -> Any:
    """The same with a tensor without memory for each tensor that is an item of its own."""
    if isinstance(value, torch.Tensor):
        key = ".".join(map(str, way))
        is_item = values.get(key) is value
        if not is_item:
            return value
        keys.append(key)
        return torch.empty(value.shape, dtype=value.dtype, device="meta")
    if isinstance(value, Mapping):
        names = renamed.get(way, {})
        changed = copy.copy(value)
        for key, each in value.items():
            below = (*way, str(names.get(key, key)))
            changed[key] = _without_tensors(each, renamed, below, values, keys)  # type: ignore[index]
        return changed
    if isinstance(value, list):
        items = enumerate(value)
        return [_without_tensors(each, renamed, (*way, i), values, keys) for i, each in items]
    return value


class SavePlanner(DefaultSavePlanner):
    """Plans a state that is flat already. What is no tensor is written so that loading it runs no code.

    Args:
        paths: the way to each value in the nested state.
    """

    def __init__(self, paths: dict[str, tuple[Any, ...]]) -> None:
        super().__init__()
        self._paths = paths

    def set_up_planner(
        self, state_dict: dict[str, Any], storage_meta: Any = None, is_coordinator: bool = False
    ) -> None:
        """Plan this state."""
        self.state_dict = state_dict
        self.mappings = self._paths
        self.is_coordinator = is_coordinator

    def transform_object(self, write_item: WriteItem, object: Any) -> Any:
        """The bytes of a value, as a file of `torch.save`."""
        if write_item.type != WriteItemType.BYTE_IO:
            return object
        if isinstance(object, Written):
            return io.BytesIO(object.content)
        return io.BytesIO(_native.Tree.encode(object).to_bytes(1))
