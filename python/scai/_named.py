"""Several models or optimizers under one argument, by name: ``model={"actor": a, "critic": c}``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from scai import _native
from scai.errors import MismatchError, MissingFieldError

ONE = None
"""The name of a model or an optimizer that is passed as itself."""

Members = Mapping[str | None, Any]
"""The objects of one argument by their names."""


def members(thing: Any, what: str) -> dict[str | None, Any]:
    """The objects that an argument names, or the one that it is.

    A mapping is several objects if all its values have `state_dict()`, and a state dict if none has.

    Raises:
        TypeError: a mapping of both kinds, of names that are not strings, or of a model among
            optimizers or an optimizer among models.
    """
    if thing is None:
        return {}
    if not isinstance(thing, Mapping) or not thing:
        _check_kind(thing, what, what)
        return {ONE: thing}
    stateful = [key for key, value in thing.items() if _is_stateful(value)]
    if not stateful:
        return {ONE: thing}
    if len(stateful) < len(thing):
        other = next(key for key, value in thing.items() if not _is_stateful(value))
        raise TypeError(
            f"`{what}` is a mapping in which `{stateful[0]}` has a state_dict() and `{other}`, a "
            f"{type(thing[other]).__name__}, has none; pass either objects by name or one state dict"
        )
    for key, value in thing.items():
        if not isinstance(key, str):
            raise TypeError(f"the names in `{what}` must be strings, got {type(key).__name__}")
        _check_kind(value, member_name(what, key), what)
    return dict(thing)


def member_name(what: str, key: str | None) -> str:
    """How errors call a member of an argument."""
    return what if key is ONE else f"{what}[{key!r}]"


def is_model(thing: Any) -> bool:
    """Whether something names its parameters, as a module does."""
    return callable(getattr(thing, "named_parameters", None))


def _is_stateful(value: Any) -> bool:
    return callable(getattr(value, "state_dict", None))


def _check_kind(value: Any, name: str, what: str) -> None:
    """Refuse an optimizer as a model, a model as an optimizer, and a scheduler as either."""
    kind = type(value).__name__
    if what == "model" and hasattr(value, "param_groups"):
        raise TypeError(f"`{name}` is an optimizer ({kind}); the model comes first")
    if what == "optimizer" and hasattr(value, "named_parameters"):
        raise TypeError(f"`{name}` is a model ({kind}); the model comes first")
    if what in ("model", "optimizer") and hasattr(value, "get_last_lr"):
        raise TypeError(f"`{name}` is a scheduler ({kind}); pass it as `scheduler`")


def saved_members(
    tree: _native.Tree, things: Members, field: str, strict: bool
) -> tuple[dict[str | None, Any], list[str], list[str]]:
    """What a checkpoint holds for each of these objects; the names that it lacks, and those that it has
    besides.

    Args:
        tree: the field of the checkpoint.
        things: the objects, as `members` gives them.
        field: the name of the field.
        strict: whether a name without a counterpart is an error.

    Raises:
        scai.errors.MissingFieldError: a name is missing.
        scai.errors.MismatchError: the checkpoint has another name besides.
    """
    if ONE in things or not things:
        return {name: tree for name in things}, [], []
    keys = tree.keys()
    found: dict[str | None, Any] = {name: tree.part(name) for name in things if name in keys}
    missing = [str(name) for name in things if name not in found]
    unexpected = [key for key in keys if key not in things]
    place = f"checkpoint `{tree.path}`: " if tree.path else ""
    present = ", ".join(keys[:20])
    if missing and (strict or not found):
        raise MissingFieldError(
            f"{place}`{field}` has no `{missing[0]}`, but {present or 'nothing'}", missing[0]
        )
    if unexpected and strict:
        raise MismatchError(
            f"{place}`{field}` also has {', '.join(unexpected[:20])}, for which nothing was passed; "
            "load with strict=False to leave that out"
        )
    return found, missing, unexpected


def named_parameters(
    models: Members, name: str | None = ONE
) -> Iterator[tuple[str, Any]] | None:
    """The parameters of models with the names that an optimizer of them is saved with.

    Those of the model that is called like the optimizer have their own names, those of others begin
    with the name of their model. `None` if no model has any.
    """
    having = {key: model for key, model in models.items() if is_model(model)}
    if not having:
        return None
    return (
        (parameter if key == name else f"{key}.{parameter}", value)
        for key, model in having.items()
        for parameter, value in model.named_parameters()
    )
