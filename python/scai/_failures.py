"""Errors that travel from one rank to another, as JSON."""

from __future__ import annotations

import builtins
from typing import Any

from scai import errors


def said_of(error: BaseException, rank: int | None) -> dict[str, Any]:
    """An error as another rank is told it.

    Args:
        error: what was raised.
        rank: the rank where; `None` if the message says so itself.
    """
    # A KeyError shows its message as a literal.
    is_key = isinstance(error, KeyError) and len(error.args) == 1
    message = str(error.args[0]) if is_key else str(error)
    said: dict[str, Any] = {"class": type(error).__name__, "message": message, "rank": rank}
    if isinstance(error, OSError) and error.errno is not None:
        said["errno"], said["message"] = error.errno, error.strerror or str(error)
        if isinstance(error.filename, str):
            said["filename"] = error.filename
    if not isinstance(_class(said["class"]), type):
        said["message"] = f"{type(error).__name__}: {message}"
    return said


def raised_from(said: dict[str, Any]) -> Exception:
    """The error that another rank raised, of the same class if that is one of scai's or Python's own."""
    message = str(said["message"])
    if said["rank"] is not None:
        message = f"rank {said['rank']}: {message}"
    cls = _class(str(said["class"])) or errors.GroupError
    try:
        if "errno" in said:
            return cls(said["errno"], message, *([said["filename"]] if "filename" in said else []))
        return cls(message)
    except TypeError:
        # A class that wants more than a message.
        return errors.GroupError(message)


def _class(name: str) -> type[Exception] | None:
    found = getattr(errors, name, None) or getattr(builtins, name, None)
    return found if isinstance(found, type) and issubclass(found, Exception) else None
