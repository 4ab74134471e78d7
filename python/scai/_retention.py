"""Which checkpoints stay: what Python says of it, as the rules that the engine knows."""

from __future__ import annotations

import datetime
import math
import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

from scai import _native


class Retention(NamedTuple):
    """Rules in the language of the engine."""

    text: str
    statistics: list[str]
    """The keys of `training_stats` by which the best are kept."""


def retention(
    keep: str | Sequence[str] | None,
    keep_last: int | None,
    keep_every: int | None,
    keep_best: str | Sequence[str] | None,
    keep_within: datetime.timedelta | float | str | None,
) -> Retention | None:
    """All rules that were given; `None` if none was.

    Raises:
        TypeError, ValueError: one is not a rule; the message names the argument.
    """
    rules = [
        *(("keep", rule) for rule in _texts("keep", keep, '"last:3, every:1000"')),
        *(("keep_last", f"last:{n}") for n in _numbers("keep_last", keep_last)),
        *(("keep_every", f"every:{n}") for n in _numbers("keep_every", keep_every)),
        *(("keep_within", f"within:{n}") for n in _seconds(keep_within)),
        *(("keep_best", f"best:{rule}") for rule in _texts("keep_best", keep_best, '"loss:min"')),
    ]
    for name, rule in rules:
        try:
            _native.retention([rule])
        except ValueError as error:
            raise ValueError(f"`{name}`: {error}") from None
    return Retention(*_native.retention([rule for _, rule in rules])) if rules else None


def _texts(name: str, value: Any, example: str) -> list[str]:
    rules = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    for rule in rules:
        if rule is not None and not isinstance(rule, str):
            raise TypeError(
                f"`{name}` must be a string such as {example}, or a list of them, "
                f"got {type(rule).__name__}"
            )
    return [rule for rule in rules if rule is not None]


def _numbers(name: str, value: int | None) -> list[int]:
    return [] if value is None else [whole(name, value)]


def _seconds(within: datetime.timedelta | float | str | None) -> list[int | str]:
    if within is None:
        return []
    if isinstance(within, str):
        return [within]
    if isinstance(within, datetime.timedelta):
        within = within.total_seconds()
    if isinstance(within, bool) or not isinstance(within, (int, float)):
        raise TypeError(
            "`keep_within` must be a time such as \"12h\", seconds or a timedelta, "
            f"got {type(within).__name__}"
        )
    if not 0 < within < 2**63:
        raise ValueError(f"`keep_within` is {within} seconds; it must be more than 0")
    return [math.ceil(within)]


def whole(name: str, value: Any) -> int:
    """A whole number, of whatever type."""
    try:
        if isinstance(value, bool):
            raise TypeError
        return operator.index(value)
    except TypeError:
        raise TypeError(f"`{name}` is a {type(value).__name__}, not a whole number") from None
