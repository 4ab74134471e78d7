"""What an optimizer of PyTorch needs in its state to step, found out by a step of a copy."""

from __future__ import annotations

import inspect
from collections import OrderedDict, defaultdict
from typing import Any


class Steps:
    """Which state an optimizer with these groups can step with."""

    def __init__(self, optimizer: Any, groups: list[dict[str, Any]]) -> None:
        self._optimizer = optimizer
        self._groups = groups
        self._known: dict[tuple[object, ...], set[str] | str | None] = {}

    def lacking(
        self, index: int, parameter: Any, values: dict[str, Any], is_same_class: bool
    ) -> str | None:
        """Why a step with this state of a parameter would fail; `None` where nothing says so."""
        needed = self._needed(index, parameter)
        if needed is None:
            return None
        if isinstance(needed, str):
            return needed
        missing = sorted(needed - values.keys())
        if missing:
            return f"the state has no {', '.join(missing)}"
        if not needed and not is_same_class and any(value is not None for value in values.values()):
            return f"it needs no state, and the saved one has {', '.join(sorted(values))}"
        return _misshaped(values, parameter)

    def _needed(self, index: int, parameter: Any) -> set[str] | str | None:
        """The keys that a step makes or needs, or why it fails; `None` where that is not known."""
        kind = (index, parameter.ndim, parameter.dtype)
        if kind not in self._known:
            self._known[kind] = self._find(self._groups[index], index, parameter)
        return self._known[kind]

    def _find(self, group: dict[str, Any], index: int, parameter: Any) -> set[str] | str | None:
        optimizer = self._optimizer
        if not f"{type(optimizer).__module__}.".startswith("torch.optim."):
            return None
        try:
            return keys_after_a_step(optimizer, group, parameter)
        except Exception as error:
            failure = error
        own = optimizer.param_groups[index] if index < len(optimizer.param_groups) else group
        try:
            keys_after_a_step(optimizer, own, parameter)
        except Exception:
            # It needs what it is made with, as Adagrad does.
            state = optimizer.state.get(parameter)
            return set(state) if state else None
        return f"a step with the saved hyperparameters fails with {failure!r}"


def keys_after_a_step(optimizer: Any, group: dict[str, Any], parameter: Any) -> set[str]:
    """What a copy of the optimizer keeps of a parameter like this one once it has stepped."""
    import torch

    cls = type(optimizer)
    like = torch.zeros([1] * parameter.ndim, dtype=parameter.dtype, requires_grad=True)
    gradient = torch.zeros_like(like)
    like.grad = gradient.to_sparse() if cls.__name__ == "SparseAdam" else gradient
    probe = object.__new__(cls)
    # What a scheduler puts in place of `step` is the optimizer's own.
    attributes = {name: value for name, value in optimizer.__dict__.items() if not callable(value)}
    probe.__dict__.update(attributes)
    probe.__dict__["defaults"] = dict(optimizer.defaults)
    for hooks in [name for name in attributes if name.endswith("_hooks")]:
        probe.__dict__[hooks] = OrderedDict()
    plain = {name: _number(value) for name, value in group.items() if name != "params"}
    switches = dict.fromkeys(("foreach", "fused", "capturable", "differentiable"), False)
    plain.update({name: value for name, value in switches.items() if name in plain})
    groups = [{**plain, "params": [like]}]
    probe.__setstate__({"state": defaultdict(dict), "param_groups": groups})
    with torch.no_grad():
        inspect.unwrap(cls.step)(probe)
    return set(probe.state[like])


def _number(value: Any) -> Any:
    """A hyperparameter without a device."""
    import torch

    if isinstance(value, torch.Tensor) and value.numel() == 1:
        return value.item()
    return tuple(map(_number, value)) if isinstance(value, tuple) else value


def _misshaped(values: dict[str, Any], parameter: Any) -> str | None:
    """The first tensor of a state that is not of the parameter's shape, nor summed up over some
    dimensions of it."""
    import torch

    for key, value in values.items():
        if isinstance(value, torch.Tensor) and value.numel() != 1:
            sizes = zip(value.shape, parameter.shape, strict=False)
            if value.ndim != parameter.ndim or any(a not in (1, b) for a, b in sizes):
                theirs, ours = list(value.shape), list(parameter.shape)
                return f"{key} has the shape {theirs}, and the parameter {ours}"
    return None
