"""What the calls of a manager return."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from typing import Any

from scai._checkpoint import Checkpoint
from scai._timeline import Timeline

_log = logging.getLogger("scai")


def within(directory: str, name: str) -> str:
    """The path of a file in a directory; in the working directory, its name."""
    return name if directory == "." else os.path.join(directory, name)


@dataclass(frozen=True)
class SaveInfo:
    """A checkpoint that is durable.

    Attributes:
        path: the file.
        iteration: the iteration.
        bytes: length of the file.
        seconds: from the call until the checkpoint was durable.
        removed: checkpoints that retention deleted.
        warnings: what went wrong after the checkpoint was durable, such as retention.
        timeline: the time its stages took, and for which training waited.
        rate: bytes a second, from planning the file until it was durable.
    """

    path: str
    iteration: int
    bytes: int
    seconds: float
    removed: list[str]
    warnings: list[str]
    timeline: Timeline
    rate: float

    @classmethod
    def of(
        cls, saved: dict[str, Any], directory: str, iteration: int, seconds: float, waited: float
    ) -> SaveInfo:
        """What the engine says of a save. Its warnings are logged."""
        path = within(directory, saved["name"])
        for warning in saved["warnings"]:
            _log.warning("`%s` is saved, but %s", path, warning)
        return cls(
            path=path,
            iteration=iteration,
            bytes=saved["bytes"],
            seconds=seconds,
            removed=[within(directory, name) for name in saved["removed"]],
            warnings=saved["warnings"],
            timeline=Timeline(waited, *saved["timeline"]),
            rate=saved["rate"],
        )


@dataclass(frozen=True)
class Skipped:
    """A checkpoint that could not be resumed from.

    Attributes:
        path: the file, as it was called.
        reason: why, as the exception that a load would raise.
        set_aside: what it is called now, if it was damaged.
    """

    path: str
    reason: Exception
    set_aside: str | None

    @classmethod
    def all_of(
        cls, directory: str, skipped: list[tuple[str, Exception, str | None]]
    ) -> list[Skipped]:
        """Those of a resume in a directory, as the engine gives them."""
        return [
            cls(
                within(directory, name),
                reason,
                None if aside is None else within(directory, aside),
            )
            for name, reason, aside in skipped
        ]


@dataclass(frozen=True)
class Verdict:
    """What retention says about a checkpoint: it is kept if there are reasons.

    Attributes:
        path: the file.
        reasons: why it is kept.
        removed: it was deleted.
    """

    path: str
    reasons: list[str]
    removed: bool


@dataclass(frozen=True)
class Resumed:
    """Where a training goes on.

    Attributes:
        checkpoint: what was loaded.
        path: the file.
        iteration: its iteration.
        skipped: newer checkpoints that could not be used, newest first.
        iterations_lost: iterations between the newest checkpoint there was and this one.
    """

    checkpoint: Checkpoint
    path: str
    iteration: int
    skipped: list[Skipped]
    iterations_lost: int
