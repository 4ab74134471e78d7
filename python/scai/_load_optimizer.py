"""Loading an optimizer: its state goes with the parameters, and only one that it can step with."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from scai import _native
from scai._files import THREADS
from scai._load import state_of
from scai._load_module import Matching, Spec, is_lazy
from scai._named import ONE, Members, member_name, named_parameters
from scai._report import LoadReport
from scai._shards import Narrowing, is_shard, local, narrowing, shard_like
from scai.errors import CheckpointError, MismatchError, MissingFieldError

Groups = list[dict[str, Any]]
Names = list[list[str]]

_NOT_HYPERPARAMETERS = {"params", "param_names"}


def state_and_note(
    models: Members, optimizers: Members
) -> tuple[Any, str | None]:
    """What is saved of optimizers, with the names of their parameters, and what is kept beside.

    Args:
        models, optimizers: as `members` gives them.
    """
    states: dict[str | None, Any] = {}
    classes: dict[str | None, list[str]] = {}
    for name, optimizer in optimizers.items():
        state = state_of(optimizer, member_name("optimizer", name))
        if not isinstance(optimizer, Mapping):
            optimizer = owner_of(state, optimizer)
            state = _with_names(state, models, name, optimizer)
            classes[name] = _classes(optimizer)
        states[name] = state
    if ONE in states:
        return states[ONE], json.dumps({"optimizer": classes[ONE]}) if classes else None
    return states, json.dumps({"optimizers": classes}) if classes else None


def _with_names(
    state: Any, models: Members, name: str | None, optimizer: Any
) -> Any:
    if not _is_of_groups(state, optimizer):
        return state
    names = parameter_names(models, name, optimizer)
    if names is None:
        return state
    groups = zip(state["param_groups"], names, strict=True)
    named = [{**group, "param_names": each} for group, each in groups]
    return {**state, "param_groups": named}


def owner_of(state: Any, optimizer: Any) -> Any:
    """The optimizer that a state dict is of: that which a wrapper holds, or the one given.

    Wrappers such as those of accelerate answer `state_dict()` with that of the optimizer they hold.
    Others have a state of their own.
    """
    torch = sys.modules.get("torch")
    if torch is None:
        return optimizer
    return _owner_of(state, optimizer, torch.optim.Optimizer, set()) or optimizer


def _owner_of(state: Any, optimizer: Any, ordinary: Any, seen: set[int]) -> Any:
    seen.add(id(optimizer))
    answers_itself = getattr(type(optimizer), "state_dict", None) is ordinary.state_dict
    for held in getattr(optimizer, "__dict__", {}).values():
        if not isinstance(held, ordinary) or id(held) in seen:
            continue
        if answers_itself and optimizer.state is not held.state:
            # It has a state of its own beside that of what it holds.
            continue
        found = _owner_of(state, held, ordinary, seen)
        if found is not None:
            return found
    is_own = isinstance(optimizer, ordinary) and _is_of_groups(state, optimizer)
    return optimizer if is_own and _is_state_of(state["state"], optimizer) else None


def _is_of_groups(state: Any, optimizer: Any) -> bool:
    """Whether a state dict is made as PyTorch makes them, of the groups that the optimizer has."""
    groups = getattr(optimizer, "param_groups", None)
    return (
        isinstance(groups, list)
        and isinstance(state, Mapping)
        and "state" in state
        and isinstance(state.get("param_groups"), list)
        and _sizes(state["param_groups"]) == _sizes(groups)
    )


def _is_state_of(state: Any, optimizer: Any) -> bool:
    """Whether the state of each parameter is the very object that the optimizer has."""
    own = {id(values) for values in getattr(optimizer, "state", {}).values()}
    return isinstance(state, Mapping) and {id(values) for values in state.values()} == own


def parameter_names(
    models: Members, name: str | None, optimizer: Any
) -> Names | None:
    """The names of the parameters of the optimizer called `name`, group by group, as far as the models
    know them."""
    groups = getattr(optimizer, "param_groups", None)
    if groups is None:
        return None
    if all("param_names" in group for group in groups):
        return [list(group["param_names"]) for group in groups]
    named = named_parameters(models, name)
    if named is None:
        return None
    names = {id(parameter): each for each, parameter in named}
    found = [[names.get(id(parameter)) for parameter in group["params"]] for group in groups]
    if any(each is None for group in found for each in group):
        return None
    return [[str(each) for each in group] for group in found]


def _classes(optimizer: Any) -> list[str]:
    """The names of a class and those it is derived from, without what all optimizers are."""
    if type(optimizer).__name__ == "ZeroRedundancyOptimizer" and hasattr(optimizer, "optim"):
        # Its state is that of the optimizer whose state it divides, put together again.
        optimizer = optimizer.optim
    names = [_class_name(cls) for cls in type(optimizer).__mro__[:-1]]
    return [name for name in names if name not in _NO_KIND] or names


def _class_name(cls: type) -> str:
    # PyTorch moves its own between modules.
    is_torch = f"{cls.__module__}.".startswith("torch.optim.")
    return f"{'torch.optim' if is_torch else cls.__module__}.{cls.__qualname__}"


_NO_KIND = {"torch.optim.Optimizer", "typing.Generic", "abc.ABC"}
# One derives from the other only in newer versions of PyTorch.
_ALIKE = [{"torch.optim.Adam", "torch.optim.AdamW"}]


def written_by(tree: _native.Tree, name: str | None) -> list[str]:
    """The classes of the optimizer whose state a checkpoint holds; none if it does not say."""
    try:
        note = json.loads(tree.note() or "{}")
        classes = note["optimizer"] if name is ONE else note["optimizers"][name]
    except (KeyError, TypeError, ValueError):
        return []
    return [str(name) for name in classes] if isinstance(classes, list) else []


class OptimizerLoad:
    """A load of an optimizer.

    A strict one takes everything from the file, as PyTorch does. Otherwise the state of each
    parameter is taken, by its name if names are known, and hyperparameters keep their values.

    Args:
        tree: its state in the checkpoint.
        theirs: the classes of the optimizer that it was saved from, as `written_by` gives them.
        optimizer: the optimizer.
        name: its name among several.
        models: whose parameters it has, as `members` gives them.
        matching: what counts as a match.
    """

    def __init__(
        self,
        tree: _native.Tree,
        theirs: list[str],
        optimizer: Any,
        name: str | None,
        models: Members,
        matching: Matching,
    ) -> None:
        self.what = member_name("optimizer", name)
        self._tree = tree
        if not callable(getattr(optimizer, "load_state_dict", None)):
            raise TypeError(
                f"`{self.what}` is a {type(optimizer).__name__}, which has no load_state_dict()"
            )
        self.target = optimizer
        self.report = LoadReport()
        self._strict = matching.strict
        self._remap = matching.table
        self._current = _present_state(optimizer, self.what)
        # A wrapper may have no groups itself.
        self._owner = owner_of(self._current, optimizer)
        # PyTorch's own way only takes what it is given, once the groups are known to match.
        self.may_fail = self._owner is not optimizer or not _loads_as_torch(optimizer)
        self._theirs = theirs
        self._ours = _classes(self._owner)
        self._groups: Groups | None = None
        # By the numbers that the state in `_tree` has: the optimizer's own, and names by these.
        self._numbers: dict[int, int] = {}
        self._names: dict[int, str] = {}
        self._state: Any = None
        self._before: Any = None
        self._filling: _native.Filling | None = None
        self._has_begun = False
        if _is_of_groups(self._current, self._owner):
            self._match(parameter_names(models, name, self._owner))
        elif self._current and not self._tree.keys():
            raise _no_groups(self._tree)

    # What is taken

    def _match(self, names: Names | None) -> None:
        saved, ours = _groups(self._tree), self._current["param_groups"]
        theirs = [list(group["param_names"]) for group in saved if "param_names" in group]
        if len(theirs) != len(saved):
            theirs = []
        theirs = [_native.renamed(group, self._remap) for group in theirs]
        if self._strict:
            self._check_class(saved, ours)
        if names is None or not theirs:
            if _sizes(saved) != _sizes(ours):
                raise MismatchError(_differ(self._tree, saved, ours))
            self.report.loaded = [name for group in names or [] for name in group]
            theirs = names = [[str(number) for number in group["params"]] for group in ours]
        else:
            self.report.loaded = [name for group in names for name in group]
        flat = _flat(ours)
        self._names = dict(zip(flat, (name for group in names for name in group), strict=True))
        if not self._strict:
            self._groups = [dict(group) for group in ours]
            self._take_what_fits(saved, theirs)
        elif theirs == names:
            self._groups = _merged(saved, ours)
            self._numbers = dict(zip(_flat(saved), flat, strict=True))
        else:
            self._check_names(saved, theirs, names, bool(self._remap))
            self._groups = _merged(saved, ours)
            self._move(theirs)

    def _check_class(self, saved: Groups, ours: Groups) -> None:
        """Refuse the state of another optimizer, with which the next step would fail."""
        found: list[str] = []
        if not self._is_related():
            found.append(f"class in the checkpoint: {self._theirs[0]}")
            found.append(f"class of the optimizer: {self._ours[0]}")
        for own, theirs in zip(ours, saved, strict=False):
            # Versions of one optimizer differ in what the newer one has besides.
            lacking = own.keys() - theirs.keys() - _NOT_HYPERPARAMETERS
            unknown = theirs.keys() - own.keys() - _NOT_HYPERPARAMETERS
            if lacking and unknown:
                found.append(f"in the checkpoint only: {', '.join(sorted(unknown))}")
                found.append(f"in the optimizer only: {', '.join(sorted(lacking))}")
                break
        if found:
            raise self._other_class(found)

    def _other_class(self, found: Sequence[str]) -> MismatchError:
        lines = "".join(f"\n  {line}" for line in found)
        return MismatchError(
            f"{_does_not_match(self._tree)}{lines}\n"
            "it was saved from an optimizer of another class; leave `optimizer` out of the call "
            "to load the model alone"
        )

    def _is_related(self) -> bool:
        """Whether one class is the other, or derived from it, as far as the checkpoint says."""
        if not self._theirs:
            return True
        theirs, ours = self._theirs[0], self._ours[0]
        if theirs in self._ours or ours in self._theirs:
            return True
        if any({theirs, ours} <= alike for alike in _ALIKE):
            return True
        # A program's own class may be in `__main__` one day and in a module the other.
        own = not any(name.startswith("torch.optim.") for name in (theirs, ours))
        return own and theirs.rpartition(".")[2] == ours.rpartition(".")[2]

    def _check_names(self, saved: Groups, theirs: Names, ours: Names, remap: bool) -> None:
        """Refuse other names than the optimizer's; `remap` may put them into another order."""
        if remap and [sorted(group) for group in theirs] == [sorted(group) for group in ours]:
            return
        differ = _differ(self._tree, saved, self._current["param_groups"])
        advice = (
            f"the saved parameters have other names or another order{' after `remap`' * remap}: "
            "load with strict=False to move the state of each by its name"
        )
        raise MismatchError(f"{differ}\n{advice}")

    def _take_what_fits(self, saved: Groups, theirs: Names) -> None:
        if not self._is_related():
            self._tree = _no_state()
            self.report = LoadReport(missing=list(self._names.values()))
            self.report.hints.append(
                f"the saved state is of the class {self._theirs[0]}, which {self._ours[0]} cannot "
                "go on with: none of it was taken over"
            )
            return
        self._move(theirs)
        if self.report.loaded:
            self.report.hints += _kept(saved, self._current["param_groups"])

    def _move(self, theirs: Names) -> None:
        """Move the state of each parameter to the number that it has here, by its name."""
        parameters = self._parameters()
        specs = [_spec(name, parameters[number]) for number, name in self._names.items()]
        flat = [name for group in theirs for name in group]
        self._tree, report = self._tree.transferred(flat, _no_state(), specs, [])
        self._numbers = dict(enumerate(self._names))
        self.report = LoadReport.of(report)

    # What is done

    def prepare(self) -> None:
        """Read the state, and find out whether the optimizer can step with it."""
        if self._groups is None:
            self._state = self._tree.decode(threads=THREADS)
            self._before = copy.deepcopy(self._current)
            return
        if self.may_fail or not self._reads_in_place():
            # A load of its own might fail half way; what it has must still be there then.
            self._filling = None
            tree, parts = self._tree.narrowed(self._parts())
            self._state = self._read(tree.decode(threads=THREADS))
            self._make_whole(parts)
        if self._theirs[:1] != self._ours[:1] or not self._strict:
            self._check_steps()
        if self.may_fail:
            self._before = copy.deepcopy(self._current)
        else:
            self._say_what_is_cast()
            self._before = dict(self.target.__dict__)

    def _reads_in_place(self) -> bool:
        own = self._current["state"]
        template = {
            number: {key: local(value) for key, value in own[ours].items()}
            if isinstance(own[ours], Mapping)
            else own[ours]
            for number, ours in self._numbers.items()
            if ours in own
        }
        tree, parts = self._tree.narrowed(self._parts())
        decoded, self._filling = tree.decode_into({"state": template}, THREADS)
        self._state = self._read(decoded)
        self._make_whole(parts)
        return self._is_in_place()

    def _parts(self) -> list[Narrowing]:
        """The parts of tensors that this process holds: of those that the optimizer has, or as it holds the
        parameters."""
        parameters, current = self._parameters(), self._current["state"]
        parts: list[Narrowing] = []
        for number, ours in self._numbers.items():
            if is_shard(parameter := parameters.get(ours)):
                parts.append(narrowing(f"state.{number}", parameter))
            values = current.get(ours)
            for key, value in values.items() if isinstance(values, Mapping) else ():
                if is_shard(value):
                    parts.append(narrowing(f"state.{number}.{key}", value))
        return parts

    def _make_whole(self, parts: Sequence[str]) -> None:
        """Make DTensors of parts that were read: those that the optimizer has, where these were filled."""
        if not parts:
            return
        found = set(parts)
        parameters, current = self._parameters(), self._current["state"]
        for number, ours in self._numbers.items():
            values, own = self._state["state"].get(ours), current.get(ours, {})
            for key, value in list(values.items()) if isinstance(values, dict) else ():
                if f"state.{number}.{key}" not in found:
                    continue
                like = own.get(key) if is_shard(own.get(key)) else parameters[ours]
                is_own = is_shard(own.get(key)) and local(own[key]) is value
                values[key] = own[key] if is_own else shard_like(value, like)

    def _read(self, decoded: Any) -> dict[str, Any]:
        """The state by the optimizer's own numbers, and the groups."""
        saved = decoded.get("state") if isinstance(decoded, Mapping) else None
        if not isinstance(saved, Mapping):
            raise MissingFieldError("the saved `optimizer_state_dict` has no `state`", "state")
        state = {self._numbers.get(number, number): values for number, values in saved.items()}
        if not self._strict:
            # What was not found stays.
            state = {**self._current["state"], **state}
        rest = {key: value for key, value in decoded.items() if key not in ("state", "param_groups")}
        return {**rest, "state": state, "param_groups": self._groups}

    def _parameters(self) -> dict[int, Any]:
        """The parameters by their numbers."""
        parameters = [p for group in self._owner.param_groups for p in group["params"]]
        return dict(zip(_flat(self._current["param_groups"]), parameters, strict=True))

    def _is_in_place(self) -> bool:
        """Whether all tensors of the state are those that the optimizer has, in the same places."""
        import torch

        parameters, current = self._parameters(), self._current["state"]
        return all(
            (parameter := parameters.get(number)) is not None
            and isinstance(values, dict)
            and isinstance(own := current.get(number), dict)
            and all(
                own.get(key) is value and not _is_cast(key, value, parameter)
                if isinstance(value, torch.Tensor)
                # PyTorch makes tensors of some numbers that old versions saved.
                else _is_plain_value(value) and not isinstance(own.get(key), torch.Tensor)
                for key, value in values.items()
            )
            for number, values in self._state["state"].items()
        )

    def _check_steps(self) -> None:
        """Leave out state that the optimizer cannot step with; a strict load refuses it."""
        from scai._optimizer_step import Steps

        steps = Steps(self._owner, self._groups or [])
        parameters, state = self._parameters(), self._state["state"]
        current = self._current["state"]
        for index, group in enumerate(self._groups or []):
            for number in group["params"]:
                values = state.get(number)
                if not values or not isinstance(values, dict) or values is current.get(number):
                    continue
                if is_shard(parameters[number]):
                    # A trial step would be one of all processes.
                    continue
                is_same = self._theirs[:1] == self._ours[:1]
                lacking = steps.lacking(index, parameters[number], values, is_same)
                if lacking is None:
                    continue
                if self._strict:
                    raise self._other_class([lacking])
                state.pop(number)
                if number in current:
                    state[number] = current[number]
                self._leave_out(self._names.get(number, str(number)), lacking)

    def _leave_out(self, name: str, lacking: str) -> None:
        if name in self.report.loaded:
            self.report.loaded.remove(name)
        self.report.missing.append(name)
        hint = f"saved state was left out, since the next step would fail: {lacking}"
        if hint not in self.report.hints:
            self.report.hints.append(hint)

    def _say_what_is_cast(self) -> None:
        """Report what PyTorch converts to the type of the parameter."""
        import torch

        parameters, cast = self._parameters(), []
        for number, values in self._state["state"].items():
            if (parameter := parameters.get(number)) is None or not isinstance(values, dict):
                continue
            cast += [
                f"{self._names.get(number, number)}.{key}: {value.dtype} in the checkpoint, "
                f"{parameter.dtype} in the optimizer".replace("torch.", "")
                for key, value in values.items()
                if isinstance(value, torch.Tensor) and _is_cast(key, value, parameter)
            ]
        if cast:
            more = f"; … and {len(cast) - _SHOWN} more" * (len(cast) > _SHOWN)
            self.report.hints.append(
                "converted to the element type of the parameter, as PyTorch does: "
                f"{'; '.join(cast[:_SHOWN])}{more}"
            )

    def apply(self) -> None:
        """Give the optimizer its state, in the place of the one it has where that fits."""
        _drop_names(self._state, self._current)
        if self._filling is None:
            self.target.load_state_dict(self._state)
            return
        # PyTorch looks for each tensor among all parameters, which takes longer than all the rest.
        parameters, state = self._parameters(), self._state["state"]
        self._filling.check()
        self.target.load_state_dict({**self._state, "state": {}})
        for number, values in state.items():
            self.target.state[parameters[number]] = values

    def fill(self) -> None:
        """Fill the tensors that it keeps."""
        if self._filling is not None:
            self._has_begun = True
            self._filling.fill(THREADS)

    def undo(self) -> list[str]:
        """Give it back what it had, but for tensors that were filled in their place."""
        if self.may_fail:
            self.target.load_state_dict(self._before)
        else:
            self.target.__dict__.clear()
            self.target.__dict__.update(self._before)
        if not self._has_begun or self._filling is None:
            return []
        return [f"{self.what}.{name}" for name in self._filling.names()]


_SHOWN = 5


def _no_state() -> _native.Tree:
    return _native.Tree.encode({"state": {}, "param_groups": []})


def _loads_as_torch(optimizer: Any) -> bool:
    """Whether an optimizer is loaded by PyTorch's own way, without hooks."""
    import torch

    ordinary = torch.optim.Optimizer
    return (
        isinstance(optimizer, ordinary)
        and type(optimizer).load_state_dict is ordinary.load_state_dict
        and _is_of_torch(type(optimizer), "__setstate__")
        and not optimizer._optimizer_load_state_dict_pre_hooks
        and not optimizer._optimizer_load_state_dict_post_hooks
    )


def _is_of_torch(cls: type, method: str) -> bool:
    """Whether a class has a method from PyTorch, which does nothing with a state in passing."""
    defining = next(base for base in cls.__mro__ if method in vars(base))
    return f"{defining.__module__}.".startswith("torch.optim.")


def _is_cast(key: str, value: Any, parameter: Any) -> bool:
    """Whether PyTorch converts a tensor of the state to the type of its parameter."""
    return key != "step" and parameter.is_floating_point() and value.dtype != parameter.dtype


def _is_plain_value(value: Any) -> bool:
    """Whether PyTorch takes a value of an optimizer's state over as it is."""
    return value is None or isinstance(value, (bool, int, float, str))


def _flat(groups: Groups) -> list[int]:
    return [number for group in groups for number in group["params"]]


def _sizes(groups: Groups) -> list[int]:
    return [len(group["params"]) for group in groups]


def _merged(saved: Groups, ours: Groups) -> Groups:
    """The saved hyperparameters, with the numbers and names of the optimizer's own parameters."""
    own = [{key: group[key] for key in _NOT_HYPERPARAMETERS & group.keys()} for group in ours]
    return [{**group, **each} for group, each in zip(saved, own, strict=True)]


def _kept(saved: Groups, ours: Groups) -> list[str]:
    """What a load that is not strict leaves as it is, where the checkpoint differs."""
    differing = [
        f"{name} {own[name]!r} ({theirs[name]!r} in the checkpoint)"
        for own, theirs in zip(ours, saved, strict=False)
        for name in own
        if name in theirs and name not in _NOT_HYPERPARAMETERS and _differs(own[name], theirs[name])
    ]
    return [f"kept: {each}" for each in dict.fromkeys(differing)][:_SHOWN]


def _differs(a: Any, b: Any) -> bool:
    try:
        return bool(a != b)
    except Exception:
        # Tensors of several elements, or on two devices.
        return True


def _groups(tree: _native.Tree) -> Groups:
    part = tree.part("param_groups")
    if part is None:
        raise _no_groups(tree)
    groups: Groups = part.decode(threads=THREADS)
    return groups


def _no_groups(tree: _native.Tree) -> MissingFieldError:
    found = "is empty: the checkpoint was saved without an optimizer"
    if keys := tree.keys():
        found = f"has no `param_groups`, but {', '.join(keys)}"
    return MissingFieldError(
        f"the saved `optimizer_state_dict` {found}; leave `optimizer` out of the call to load the "
        "rest",
        "param_groups",
    )


def _drop_names(state: Any, current: Any) -> None:
    """Drop the names that a save has put beside the state, if the optimizer gives none itself.

    PyTorch allows no unnamed group beside a named one.
    """
    groups = state.get("param_groups") if isinstance(state, Mapping) else None
    own = current.get("param_groups") if isinstance(current, Mapping) else None
    if not isinstance(groups, list) or not isinstance(own, list):
        return
    if not any(isinstance(group, Mapping) and "param_names" in group for group in own):
        for group in groups:
            if isinstance(group, dict):
                group.pop("param_names", None)


def _present_state(optimizer: Any, what: str) -> Any:
    """The state dict of an optimizer to be loaded."""
    try:
        return state_of(optimizer, what)
    except TypeError:
        raise
    except Exception as error:
        raise CheckpointError(
            f"`{what}` is a {type(optimizer).__name__} whose state_dict() fails, which a load needs in "
            f"order to give the state back if something fails; nothing was loaded: {error}"
        ) from error


def _differ(tree: _native.Tree, saved: Groups, current: Groups) -> str:
    def sizes(groups: Groups) -> str:
        return ", ".join(map(str, _sizes(groups)))

    return (
        f"{_does_not_match(tree)}\n"
        f"  parameters by group in the checkpoint: {sizes(saved)}\n"
        f"  parameters by group in the optimizer: {sizes(current)}"
    )


def _does_not_match(tree: _native.Tree) -> str:
    place = f"checkpoint `{tree.path}`: " if tree.path else ""
    return f"{place}the optimizer does not match, and nothing was loaded"


def _spec(name: str, parameter: Any) -> Spec:
    shape = [] if is_lazy(parameter) else list(parameter.shape)
    return name, str(parameter.dtype).removeprefix("torch."), shape
