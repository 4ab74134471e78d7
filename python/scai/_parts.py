"""What a call saves or loads: models, optimizers and further parts, each by its name."""

from __future__ import annotations

import functools
import logging
import weakref
from collections.abc import Mapping
from typing import Any, Literal

from scai import _native
from scai._arguments import checked_mapping
from scai._frozen import FIELD as FROZEN
from scai._frozen import note_loaded, without_frozen
from scai._load import Load, PartLoad, check_sound, state_of
from scai._load_module import Matching, model_load
from scai._load_optimizer import OptimizerLoad, state_and_note, written_by
from scai._named import ONE, Members, is_model, member_name, members, saved_members
from scai._report import LoadReport
from scai._versions import plain_state
from scai._wrappers import layer_named_like, unwrapped

_log = logging.getLogger("scai")
_warned: weakref.WeakSet[Any] = weakref.WeakSet()
_FIELD = "{}_state_dict"
_TAKEN = {"model", "optimizer"}


class Parts:
    """The objects of one call.

    Args:
        model, optimizer: one, or several by name.
        further: other arguments by their names; those that are `None` were left out.
        parts: the argument `parts`.

    Raises:
        TypeError: an argument is of the wrong kind.
        ValueError: a name is used twice.
    """

    def __init__(
        self,
        model: Any,
        optimizer: Any,
        further: Mapping[str, Any],
        parts: Mapping[str, Any] | None,
    ) -> None:
        # As they were passed: what is saved are the modules inside wrappers.
        self._wrapped = {"model": members(model, "model")}
        self.models = _unwrapped(self._wrapped["model"])
        self.optimizers = members(optimizer, "optimizer")
        given = {name: part for name, part in further.items() if part is not None}
        for name, part in checked_mapping("parts", parts).items():
            if not isinstance(name, str):
                raise TypeError(f"the names in `parts` must be strings, got {type(name).__name__}")
            if name in given or name in _TAKEN:
                raise ValueError(f"`{name}` is an argument of its own, and also a name in `parts`")
            given[name] = part
        self._wrapped.update((name, members(part, name)) for name, part in given.items())
        self.further = {name: _unwrapped(self._wrapped[name]) for name in given}
        for what, things in self.further.items():
            for key, thing in things.items():
                if what != "ema" or not isinstance(thing, Mapping):
                    _check_can_be_loaded(thing, member_name(what, key))

    def by_name(self) -> dict[str, Any]:
        """All objects by the names that errors call them."""
        all_of = {"model": self.models, "optimizer": self.optimizers, **self.further}
        return {
            member_name(what, name): thing
            for what, things in all_of.items()
            for name, thing in things.items()
        }

    def check_sound(self) -> None:
        """Refuse to save what a load has changed in part."""
        check_sound(self.by_name())

    def warn_of_strays(self, extra: Mapping[str, Any]) -> None:
        """Log a warning, once, of each optimizer that steps tensors which are not saved."""
        all_of = {"model": self.models, **self.further}
        things = [thing for named in all_of.values() for thing in named.values()]
        if not all(map(is_model, self.models.values())):
            # Whose tensors they are cannot be known.
            return
        saved = {id(p) for thing in things if is_model(thing) for _, p in thing.named_parameters()}
        saved |= {id(value) for value in extra.values()}
        for name, optimizer in self.optimizers.items():
            groups = getattr(optimizer, "param_groups", None) or []
            strays = sum(id(p) not in saved for group in groups for p in group["params"])
            if strays and optimizer not in _warned:
                _warned.add(optimizer)
                _log.warning(
                    "`%s` steps %d tensors that are in no model that is saved, so their values are not "
                    "saved; pass what holds them in `model` or `parts`, such as a torch.nn.ParameterDict",
                    member_name("optimizer", name),
                    strays,
                )

    def state(self, only: Literal["trainable"] | None) -> tuple[dict[str, Any], str | None]:
        """The fields of the checkpoint that hold their states, and what is kept beside.

        Args:
            only: `"trainable"` leaves out the frozen parameters of the models.
        """
        # Without a model, the error that says so.
        model = _states(self.models, "model") if self.models else state_of(None, "model")
        optimizer, note = state_and_note(self.models, self.optimizers)
        fields = {_FIELD.format("model"): model, _FIELD.format("optimizer"): optimizer}
        if only is not None:
            fields[_FIELD.format("model")], fields[FROZEN] = self._without_frozen(model)
        for what, things in self.further.items():
            fields[_FIELD.format(what)] = _states(things, what)
        return fields, note

    def _without_frozen(self, state: Any) -> tuple[Any, Any]:
        """The state of the models without their frozen parameters, and the record of these."""
        optimizers = list(self.optimizers.values())
        if ONE in self.models:
            return without_frozen(self.models[ONE], optimizers, state, "model")
        parts = {
            name: without_frozen(model, optimizers, state[name], member_name("model", name))
            for name, model in self.models.items()
        }
        states = {name: kept for name, (kept, _) in parts.items()}
        return states, {name: record for name, (_, record) in parts.items()}

    def not_among(self, tree: _native.Tree) -> list[str]:
        """The fields of a checkpoint that hold the state of something which is not among these."""
        passed = {"model", *self.further, *(["optimizer"] if self.optimizers else [])}
        fields = {_FIELD.format(name) for name in passed}
        ending = _FIELD.format("")
        states = [name for name in tree.keys() if name.endswith(ending) and name not in fields]
        # Without an optimizer, an empty dict was saved.
        return [name for name in states if tree.field(name).keys()]

    def loads(
        self,
        tree: _native.Tree,
        matching: Matching,
        own: Mapping[str, _native.Tree | None] | None = None,
    ) -> Loads:
        """The loads of all of them from a checkpoint; nothing is changed yet.

        Args:
            tree: the checkpoint.
            matching: what counts as a match.
            own: the states of parts that are elsewhere in the checkpoint, by the names of their fields;
                `None` for those to leave as they are.
        """
        loads = Loads()
        own = own or {}
        models = {"model": self._named_like(tree, "model", matching)} if self.models else {}
        for what, things in self.further.items():
            field = _FIELD.format(what)
            if what == "ema" or all(map(is_model, things.values())):
                models[what] = self._named_like(tree, what, matching)
            elif field not in own:
                loads.add_parts(tree.field(field), things, what)
            elif (part := own[field]) is not None:
                loads.add_parts(part, things, what)
        for what, things in models.items():
            loads.add_models(tree, things, what, matching)
        if self.optimizers:
            loads.add_optimizers(tree, self.optimizers, models.get("model", {}), matching)
        return loads

    def _named_like(self, tree: _native.Tree, what: str, matching: Matching) -> Members:
        """Models of an argument, without the wrappers whose names the checkpoint does not have."""
        saved = tree.part(_FIELD.format(what))

        def names(member: str | None) -> list[str]:
            part = saved if saved is None or member is ONE else saved.part(member)
            return [] if part is None else part.renamed(matching.table).keys()

        return {
            name: layer_named_like(thing, functools.partial(names, name))
            for name, thing in self._wrapped[what].items()
        }


class Loads:
    """The loads of a call, in the order in which they are done.

    Attributes:
        all: one for each object.
    """

    def __init__(self) -> None:
        self.all: list[Load] = []
        self._models: dict[str | None, Any] = {}
        self._partial: list[tuple[Any, list[str]]] = []
        self._optimizers: dict[str | None, Any] = {}
        self._absent = {"model": LoadReport(), "optimizer": LoadReport()}

    def add_parts(self, state: _native.Tree, things: Members, what: str) -> None:
        """Those that are asked themselves, such as a scheduler, from their state."""
        found, _, _ = saved_members(state, things, _FIELD.format(what), strict=True)
        self.all += [
            PartLoad(part, things[name], member_name(what, name)) for name, part in found.items()
        ]

    def add_models(
        self, tree: _native.Tree, things: Members, what: str, matching: Matching
    ) -> None:
        """Models, into the memory of their tensors or by their own way."""
        field = _FIELD.format(what)
        found, missing, unexpected = saved_members(tree.field(field), things, field, matching.strict)
        frozen = tree.part(FROZEN) if what == "model" else None
        records = {} if frozen is None else frozen.decode()
        loads = {
            name: model_load(
                part,
                things[name],
                member_name(what, name),
                matching,
                records if name is ONE else records.get(name, {}),
            )
            for name, part in found.items()
        }
        if frozen is not None:
            self._partial = [
                (things[name], part.renamed(matching.table).keys()) for name, part in found.items()
            ]
        self.all += loads.values()
        if what == "model":
            self._models = loads
            self._absent[what] = LoadReport(
                missing=[
                    f"{name}.{key}"
                    for name in missing
                    for key in state_of(things[name], member_name(what, name))
                ],
                unexpected=unexpected,
            )

    def add_optimizers(
        self,
        tree: _native.Tree,
        things: Members,
        models: Members,
        matching: Matching,
    ) -> None:
        """Optimizers, by the names of their parameters."""
        field = _FIELD.format("optimizer")
        found, missing, unexpected = saved_members(tree.field(field), things, field, matching.strict)
        self._optimizers = {
            name: OptimizerLoad(
                part, written_by(tree, name), things[name], name, models, matching
            )
            for name, part in found.items()
        }
        self.all += self._optimizers.values()
        self._absent["optimizer"] = LoadReport(missing=missing, unexpected=unexpected)

    def note_done(self) -> None:
        """Remember what later saves have to know of a load that was done."""
        for model, names in self._partial:
            if is_model(model):
                note_loaded(model, names)

    def report(self) -> LoadReport:
        """What the loads found, once they are done."""
        report = _combined(self._models, self._absent["model"])
        if self._optimizers or self._absent["optimizer"].missing:
            report.optimizer = _combined(self._optimizers, self._absent["optimizer"])
        return report


def _combined(loads: Mapping[str | None, Any], absent: LoadReport) -> LoadReport:
    if ONE in loads:
        report: LoadReport = loads[ONE].report
        return report
    for name, load in loads.items():
        absent.add(f"{name}.", load.report)
    return absent


def _unwrapped(things: Members) -> Members:
    return {name: unwrapped(thing) for name, thing in things.items()}


def _states(things: Members, what: str) -> Any:
    states = {
        name: plain_state(state_of(thing, member_name(what, name)))
        for name, thing in things.items()
    }
    return states[ONE] if ONE in states else states


def _check_can_be_loaded(thing: Any, what: str) -> None:
    """Refuse at a save what a load will refuse."""
    for method in ("state_dict", "load_state_dict"):
        if not callable(getattr(thing, method, None)):
            kind = type(thing).__name__
            advice = "; values that you restore yourself go into `extra` of a save"
            raise TypeError(
                f"`{what}` is a {kind}, which has no {method}(){advice * isinstance(thing, Mapping)}"
            )
