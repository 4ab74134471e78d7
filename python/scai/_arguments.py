"""Arguments of a manager: checked once, with errors in the words of the caller."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from scai._retention import whole


def checked_iteration(iteration: Any, name: str = "iteration") -> int:
    """A number that an iteration can have."""
    if iteration is None:
        raise TypeError(f"`{name}` is missing: say which iteration the state belongs to")
    number = whole(name, iteration)
    if number < 0:
        raise ValueError(f"`{name}` is {number}; iterations count from 0")
    if number >= 2**63:
        raise ValueError(f"`{name}` is {number}; it must be less than 2**63")
    return number


def checked_count(name: str, value: int | None) -> int | None:
    """A number of something, at least one."""
    if value is None:
        return None
    number = whole(name, value)
    if not 0 < number < 2**63:
        raise ValueError(f"`{name}` is {number}; it must be at least 1")
    return number


def checked_seconds(name: str, value: Any) -> float:
    """A time of at least nothing."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"`{name}` must be a number of seconds, got {type(value).__name__}")
    if not 0 <= value < math.inf:
        raise ValueError(f"`{name}` is {value}; it must be a number of seconds from 0 on")
    return float(value)


def checked_options(name: str, value: Any) -> dict[str, str] | None:
    """Options of an object store, by their names in small letters."""
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise TypeError(
            f"`{name}` is a {type(value).__name__}; write a dict, such as "
            '{"aws_region": "eu-west-1"}'
        )
    options: dict[str, str] = {}
    for key, option in value.items():
        if not isinstance(key, str) or not isinstance(option, (str, int, float)):
            raise TypeError(f"`{name}` maps names to strings, and has {key!r}: {option!r}")
        options[key.lower()] = str(option).lower() if isinstance(option, bool) else str(option)
    return options


def checked_remap(remap: Any) -> Mapping[str, str]:
    """Regular expressions for names, and their replacements."""
    if remap is None:
        return {}
    if not isinstance(remap, Mapping):
        raise TypeError(
            f"`remap` is a {type(remap).__name__}; write a dict of regular expressions and "
            r'replacements, such as {r"^module\.": ""}'
        )
    return remap


def checked_flags(**flags: Any) -> None:
    """Refuse what is neither true nor false: a generator for `rng`, ``"no"`` for `strict`."""
    for name, value in flags.items():
        if not isinstance(value, bool):
            raise TypeError(f"`{name}` must be True or False, got {type(value).__name__}")


def checked_mapping(name: str, value: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """A mapping; empty if it was left out."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise TypeError(f"`{name}` must be a mapping, got {type(value).__name__}")
    return value


def plain_statistics(
    statistics: Mapping[str, Any] | None, compared: Sequence[str]
) -> dict[str, Any]:
    """`training_stats` with tensors of one number as that number.

    What `keep_best` compares, the statistics in `compared`, becomes a number whatever it was.

    Raises:
        TypeError: `keep_best` compares it, and it is not one number.
    """

    def number(name: Any, value: Any) -> Any:
        if hasattr(value, "untyped_storage") and value.ndim == 0:
            return value.item()
        if name not in compared or value is None or isinstance(value, (bool, int, float)):
            return value
        shape = getattr(value, "shape", ())
        if hasattr(value, "item") and math.prod(shape) == 1:
            value = value.item()
        try:
            if isinstance(value, (str, bytes)):
                raise TypeError("text is not a number")
            return value if isinstance(value, int) else float(value)
        except (TypeError, ValueError, OverflowError):
            of = f" of shape {tuple(shape)}" if shape else ""
            raise TypeError(
                f"`training_stats[{name!r}]` is a {type(value).__name__}{of}, which `keep_best` "
                "cannot compare; save one number under this name"
            ) from None

    given = checked_mapping("training_stats", statistics)
    return {name: number(name, value) for name, value in given.items()}
