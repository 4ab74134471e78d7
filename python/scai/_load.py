"""Loading a state into live objects: first everything is checked, then it is done."""

from __future__ import annotations

import collections
import copy
from collections.abc import Mapping, MutableMapping
from typing import Any

from scai import _native
from scai._files import THREADS
from scai._report import LoadReport
from scai.errors import MismatchError, MissingFieldError

Spec = tuple[str, str, list[int]]
Remap = Mapping[str, str]


def check_order(model: Any, optimizer: Any) -> None:
    """Refuse an optimizer as the model, and a model as the optimizer."""
    if hasattr(model, "param_groups"):
        kind = type(model).__name__
        raise TypeError(f"`model` is a {kind}, an optimizer; the model comes first")
    if hasattr(optimizer, "named_parameters"):
        kind = type(optimizer).__name__
        raise TypeError(f"`optimizer` is a {kind}, a model; the model comes first")


def state_of(thing: Any, what: str) -> Any:
    """The state dict of a module, of anything else with one, or a mapping as it is."""
    if isinstance(thing, Mapping):
        return thing
    state_dict = getattr(thing, "state_dict", None)
    if not callable(state_dict):
        raise TypeError(
            f"`{what}` is a {type(thing).__name__}, which has no state_dict(); pass a module, an "
            "object with state_dict() and load_state_dict(), or a mapping"
        )
    return state_dict()


def parameter_names(model: Any, optimizer: Any) -> list[list[str]] | None:
    """The names of the optimizer's parameters, group by group, as far as the model knows them."""
    groups = getattr(optimizer, "param_groups", None)
    if groups is None:
        return None
    if all("param_names" in group for group in groups):
        return [list(group["param_names"]) for group in groups]
    named_parameters = getattr(model, "named_parameters", None)
    if named_parameters is None:
        return None
    names = {id(parameter): name for name, parameter in named_parameters()}
    found = [[names.get(id(parameter)) for parameter in group["params"]] for group in groups]
    if any(name is None for group in found for name in group):
        return None
    return [[str(name) for name in group] for group in found]


def specs_of(state: Mapping[str, Any]) -> list[Spec]:
    """Name, element type and shape of the ordinary tensors of a state dict."""
    return [
        (name, str(value.dtype).removeprefix("torch."), list(value.shape))
        for name, value in state.items()
        if _is_ordinary(value)
    ]


def _is_ordinary(value: Any) -> bool:
    """Whether a value is a tensor that is loaded by filling its memory."""
    import torch

    return (
        isinstance(value, torch.Tensor)
        and value.layout is torch.strided
        and not value.is_quantized
        and not value.is_nested
    )


class ModelLoad:
    """A load of a module, or of what looks like one."""

    def __init__(
        self, tree: _native.Tree, model: Any, what: str, strict: bool, remap: Remap
    ) -> None:
        self._model = model
        self._state = state_of(model, what)
        if not isinstance(self._state, Mapping):
            raise TypeError(f"the state_dict() of `{what}` is a {type(self._state).__name__}")
        specs = specs_of(self._state)
        others = [name for name, value in self._state.items() if not _is_ordinary(value)]
        self.may_fail = not isinstance(model, Mapping) and not _is_plain(model)
        if self.may_fail and not callable(getattr(model, "load_state_dict", None)):
            raise TypeError(f"`{what}` is a {type(model).__name__}, which has no load_state_dict()")
        if others and isinstance(model, Mapping) and not isinstance(model, MutableMapping):
            raise TypeError(f"`{what}` cannot be changed, and holds more than tensors")
        for name, value in self._state.items():
            if getattr(value, "is_meta", False):
                raise ValueError(
                    f"`{name}` of `{what}` is on the meta device, where there is no memory to "
                    f"load into; give it some first: {what}.to_empty(device=\"cpu\")"
                )
        self._tree, self._others, report = tree.matched(specs, others, strict, list(remap.items()))
        self.report = LoadReport.of(report)
        self._before: Any = None

    def apply(self) -> None:
        """Fill the tensors of the model; where it has ways of its own to load, use these."""
        if self.may_fail:
            self._apply_by_its_own_way()
            return
        loaded = self._tree.decode(template=self._state, threads=THREADS)
        self._copy(loaded)
        for name, other in self._others:
            self._model[name] = other.decode(threads=THREADS)

    def undo(self) -> None:
        """Give it back the state it had."""
        if self._before is None:
            return
        try:
            self._model.load_state_dict(self._before)
        finally:
            # Whatever its own way does: where these are the tensors themselves, they are right.
            self._copy(
                {name: value for name, value in self._before.items() if _is_ordinary(value)}
            )

    def _copy(self, tensors: Mapping[str, Any]) -> None:
        """Copy into the tensors of the model what is not in them already."""
        import torch

        filled = []
        with torch.no_grad():
            for name, tensor in tensors.items():
                own = self._state[name]
                if own is tensor:
                    filled.append(own)
                else:
                    own.copy_(tensor)
        # Autograd is to notice, as if torch had written.
        if filled:
            torch.autograd.graph.increment_version(filled)

    def _apply_by_its_own_way(self) -> None:
        loaded = self._tree.decode(threads=THREADS)
        others = {name: other.decode(threads=THREADS) for name, other in self._others}
        # What was not matched stays.
        state: Any = collections.OrderedDict({**self._state, **loaded, **others})
        self._before = copy.deepcopy(self._state)
        if hasattr(self._state, "_metadata"):
            state._metadata = self._state._metadata
        self._model.load_state_dict(state)


def _is_plain(model: Any) -> bool:
    """Whether loading into the module is no more than copying into its tensors."""
    import torch
    from torch.nn.modules.batchnorm import _NormBase

    module = torch.nn.Module
    if not isinstance(model, module) or type(model).load_state_dict is not module.load_state_dict:
        return False
    ordinary = {module._load_from_state_dict, _NormBase._load_from_state_dict}
    hooks = (
        "_load_state_dict_pre_hooks",
        "_load_state_dict_post_hooks",
        "_state_dict_hooks",
        "_state_dict_pre_hooks",
    )
    if not all(map(_is_ordinary, model.state_dict().values())):
        return False
    return all(
        type(part)._load_from_state_dict in ordinary
        and type(part).get_extra_state is module.get_extra_state
        and not any(getattr(part, name, None) for name in hooks)
        for part in model.modules()
    )


class OptimizerLoad:
    """A load of an optimizer: by position, or by the names of parameters where not strict."""

    def __init__(
        self, tree: _native.Tree, optimizer: Any, model: Any, strict: bool, remap: Remap
    ) -> None:
        if not callable(getattr(optimizer, "load_state_dict", None)):
            raise TypeError(
                f"`optimizer` is a {type(optimizer).__name__}, which has no load_state_dict()"
            )
        self._optimizer = optimizer
        self._current = state_of(optimizer, "optimizer")
        self.may_fail = not _loads_as_torch(optimizer)
        self._before: Any = None
        self.report = LoadReport()
        self._tree = tree
        self._keeps_groups = False
        if not isinstance(self._current, Mapping) or "param_groups" not in self._current:
            return
        saved = _groups(tree)
        current_groups = self._current["param_groups"]
        if strict:
            _same_kind(tree, saved, current_groups)
        names = parameter_names(model, optimizer)
        same = [len(group["params"]) for group in saved] == [
            len(group["params"]) for group in current_groups
        ]
        saved_names = [group["param_names"] for group in saved if "param_names" in group]
        if len(saved_names) != len(saved) or names is None:
            if not same:
                raise MismatchError(_differ(tree, saved, current_groups))
            return
        if same and saved_names == names and not remap:
            self.report.loaded = [name for group in names for name in group]
            return
        if strict and not remap:
            raise MismatchError(
                _differ(tree, saved, current_groups)
                + "\nthe saved parameters have other names or another order: load with "
                "strict=False to move the state of each by its name"
            )
        flat = [name for group in saved_names for name in group]
        current = _native.Tree.encode(self._current)
        specs = _parameter_specs(optimizer, names)
        self._tree, report = tree.transferred(flat, current, specs, list(remap.items()))
        self._keeps_groups = True
        self.report = LoadReport.of(report)

    def apply(self) -> None:
        """Fill the state of the optimizer, in place where it has one already."""
        # A load of its own might fail half way; what it has must still be there then.
        template = None if self.may_fail else self._current
        state = self._tree.decode(template=template, threads=THREADS)
        named = isinstance(self._current, Mapping) and any(
            "param_names" in group for group in self._current.get("param_groups", [])
        )
        if not named and not self._keeps_groups and isinstance(state, dict):
            for group in state.get("param_groups", []):
                # PyTorch allows no unnamed group beside a named one.
                group.pop("param_names", None)
        if self.may_fail:
            self._before = copy.deepcopy(self._current)
        if not self.may_fail and _is_in_place(state, self._current):
            self._take(state)
        else:
            self._optimizer.load_state_dict(state)

    def _take(self, state: dict[str, Any]) -> None:
        """Give the optimizer a state whose tensors are its own.

        PyTorch looks for each of them among all parameters, which takes longer than all the rest.
        """
        parameters = [p for group in self._optimizer.param_groups for p in group["params"]]
        numbers = [number for group in state["param_groups"] for number in group["params"]]
        self._optimizer.load_state_dict({**state, "state": {}})
        for number, parameter in zip(numbers, parameters, strict=True):
            if number in state["state"]:
                self._optimizer.state[parameter] = state["state"][number]

    def undo(self) -> None:
        """Give it back the state it had."""
        if self._before is not None:
            self._optimizer.load_state_dict(self._before)


def _loads_as_torch(optimizer: Any) -> bool:
    """Whether an optimizer only takes what it is given, once the groups are known to match."""
    import torch

    ordinary = torch.optim.Optimizer
    return (
        isinstance(optimizer, ordinary)
        and type(optimizer).load_state_dict is ordinary.load_state_dict
        and not optimizer._optimizer_load_state_dict_pre_hooks
        and not optimizer._optimizer_load_state_dict_post_hooks
    )


def _is_in_place(state: Any, current: Any) -> bool:
    """Whether all tensors of an optimizer's state are those that it has, in the same places."""
    import torch

    if not all(isinstance(each, dict) and "param_groups" in each for each in (state, current)):
        return False
    numbers = {number for group in state["param_groups"] for number in group["params"]}
    return all(
        number in numbers
        and isinstance(values, dict)
        and isinstance(own := current["state"].get(number), dict)
        and all(
            own.get(key) is value if isinstance(value, torch.Tensor) else _is_plain_value(value)
            for key, value in values.items()
        )
        for number, values in state["state"].items()
    )


def _is_plain_value(value: Any) -> bool:
    """Whether PyTorch takes a value of an optimizer's state over as it is."""
    return value is None or isinstance(value, (bool, int, float, str))


def _groups(tree: _native.Tree) -> list[dict[str, Any]]:
    part = tree.part("param_groups")
    if part is None:
        raise MissingFieldError(
            "the saved `optimizer_state_dict` has no `param_groups`: it was saved without an "
            f"optimizer, or is of another kind; it has: {', '.join(tree.keys()) or 'nothing'}",
            "param_groups",
        )
    groups: list[dict[str, Any]] = part.decode(threads=THREADS)
    return groups


def _same_kind(
    tree: _native.Tree, saved: list[dict[str, Any]], current: list[dict[str, Any]]
) -> None:
    """Refuse the state of another optimizer, with which the next step would fail.

    Versions of one optimizer differ in what the newer one has besides.
    """
    for ours, theirs in zip(current, saved, strict=False):
        lacking = ours.keys() - theirs.keys() - {"param_names"}
        unknown = theirs.keys() - ours.keys() - {"param_names"}
        if lacking and unknown:
            raise MismatchError(
                f"{_does_not_match(tree)}\n"
                f"  in the checkpoint only: {', '.join(sorted(unknown))}\n"
                f"  in the optimizer only: {', '.join(sorted(lacking))}\n"
                "it was saved from an optimizer of another class; leave `optimizer` out of the call "
                "to load the model alone"
            )


def _differ(
    tree: _native.Tree, saved: list[dict[str, Any]], current: list[dict[str, Any]]
) -> str:
    def sizes(groups: list[dict[str, Any]]) -> str:
        return ", ".join(str(len(group["params"])) for group in groups)

    return (
        f"{_does_not_match(tree)}\n"
        f"  parameters by group in the checkpoint: {sizes(saved)}\n"
        f"  parameters by group in the optimizer: {sizes(current)}"
    )


def _does_not_match(tree: _native.Tree) -> str:
    place = f"checkpoint `{tree.path}`: " if tree.path else ""
    return f"{place}the optimizer does not match, and nothing was loaded"


def _parameter_specs(optimizer: Any, names: list[list[str]]) -> list[Spec]:
    specs: list[Spec] = []
    for group, group_names in zip(optimizer.param_groups, names, strict=True):
        for parameter, name in zip(group["params"], group_names, strict=True):
            dtype = str(parameter.dtype).removeprefix("torch.")
            specs.append((name, dtype, list(parameter.shape)))
    return specs


class PartLoad:
    """A load of anything else with `load_state_dict`: a scheduler, a scaler, a data loader."""

    may_fail = True

    def __init__(self, tree: _native.Tree, part: Any, what: str) -> None:
        for method in ("state_dict", "load_state_dict"):
            if not callable(getattr(part, method, None)):
                raise TypeError(f"`{what}` is a {type(part).__name__}, which has no {method}()")
        self._tree = tree
        self._part = part
        self._before: Any = None

    def apply(self) -> None:
        """Give the part its saved state."""
        state = self._tree.decode(threads=THREADS)
        self._before = copy.deepcopy(self._part.state_dict())
        self._part.load_state_dict(state)

    def undo(self) -> None:
        """Give it back the state it had."""
        if self._before is not None:
            self._part.load_state_dict(self._before)
