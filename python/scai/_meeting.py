"""One call that all ranks of a process group make, and what they say to each other in it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from scai import _group
from scai._failures import raised_from, said_of
from scai._group import Line, poll
from scai.errors import GroupError


def for_all(error: Exception) -> Exception:
    """An error of which the message says which ranks it is about: each raises it as it is."""
    error.is_of_all = True  # type: ignore[attr-defined]
    return error


class Meeting:
    """One call that all ranks make. Rank 0 gathers what they say, and announces what becomes of it.

    Within ``with``, an exception of this rank reaches the others: they raise it as well.

    Args:
        line: to the other ranks.
        kind: of the call.

    Attributes:
        leads: this is rank 0.
        number: of the call among those of its kind.
        said: the label under which a rank says next how it fared.
        announced: the label under which rank 0 announces next what becomes of it; `None` at the end.
        present: for rank 0 the others that came, as far as that is known.
    """

    def __init__(self, line: Line, kind: str, said: str, announced: str) -> None:
        self.line = line
        self.kind = kind
        self.leads = line.rank == 0
        self.number = line.take_number(kind)
        self.said = said
        self.announced: str | None = announced
        self.present: Sequence[int] = [rank for rank in line.others if rank not in line.absent]

    def __enter__(self) -> Meeting:
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if error is None or self.announced is None:
            return
        with contextlib.suppress(GroupError):
            # What rank 0 says of several is to be read as it stands.
            if self.leads:
                self.conclude(self.announced, self.failure(error))
                self.await_acknowledged()
            else:
                self.fail(error)

    def failure(self, error: BaseException) -> dict[str, Any]:
        """What says that this rank failed with an error, or that all did."""
        own = self.line.ranks[self.line.rank]
        return {"error": said_of(error, None if getattr(error, "is_of_all", False) else own)}

    # What others say

    def tell(self, label: str, value: dict[str, Any]) -> None:
        """Say something to rank 0."""
        self._write(f"{label}/{self.line.rank}", value)

    def fail(self, error: BaseException) -> None:
        """Say that this rank cannot go on, so that rank 0 does not wait for the others."""
        self.announced = None
        self.tell(self.said, self.failure(error))
        self._write(f"{self.said}/failed", {"rank": self.line.rank})

    def gather(
        self, label: str, awaited: Collection[int], limit: float, others: Iterable[int] | None = None
    ) -> dict[int, dict[str, Any]]:
        """What ranks say, as far as they do within `limit` seconds.

        Args:
            label: under which they say it.
            awaited: those that are waited for.
            limit: seconds.
            others: of which ranks it is returned; those that are waited for if it is left out.

        Raises:
            Exception: what one of them could not go on for.
        """
        keys = [self._key(f"{label}/{rank}") for rank in awaited]
        failed = self._key(f"{label}/failed")

        def look() -> bool | None:
            return True if self.line.has([failed]) or self.line.has(keys) else None

        if keys:
            poll(look, limit)
        found: dict[int, dict[str, Any]] = {}
        for rank in awaited if others is None else others:
            if (said := self.read(f"{label}/{rank}")) is not None:
                found[rank] = said
        for said in found.values():
            if "error" in said:
                raise for_all(raised_from(said["error"]))
        return found

    # What rank 0 says

    def announce(self, label: str, value: dict[str, Any]) -> None:
        """Say something to all others."""
        self._write(label, value)

    def conclude(self, label: str, value: dict[str, Any]) -> None:
        """Announce how the call ended."""
        self.announced = None
        self.announce(label, value)
        self.line.set(f"{self.kind}/newest", str(self.number).encode())
        self.line.forget(self.kind, self.number - _group.KEPT)

    def await_acknowledged(self) -> None:
        """Wait a moment until those who came have heard how it ended."""
        keys = [self._key(f"heard/{rank}") for rank in self.present]
        if keys:
            poll(lambda: True if self.line.has(keys) else None, _group.FAREWELL)
            for key in keys:
                self.line.delete(key)

    def hear(self, labels: Sequence[str]) -> tuple[str, dict[str, Any]] | None:
        """What rank 0 announces first under one of these labels; `None` if it is far ahead.

        Raises:
            scai.errors.GroupError: it announces nothing.
        """

        def look() -> tuple[str, dict[str, Any]] | None:
            for label in labels:
                if (said := self.read(label)) is not None:
                    return label, said
            return ("", {}) if self.line.newest(self.kind) >= self.number + _group.KEPT else None

        limit = 2 * _group.PATIENCE
        found = poll(look, limit)
        if found is None:
            raise GroupError(
                f"{self.line.named([0])} did not {self.kind} within {limit:g} s after "
                f"{self.line.named([self.line.rank])} had begun to"
            )
        return found if found[0] else None

    def acknowledge(self) -> None:
        """Say that this rank has heard how the call ended."""
        self.announced = None
        with contextlib.suppress(GroupError):
            self.line.forget(self.kind, self.number, but="heard")
            self.line.forget(self.kind, self.number - _group.KEPT)
            self.tell("heard", {})

    def raise_as(self, said: dict[str, Any]) -> None:
        """Raise the error of which rank 0 speaks, if it does."""
        if "error" in said:
            self.acknowledge()
            raise raised_from(said["error"])

    # Keys

    def _key(self, label: str) -> str:
        return f"{self.kind}/{self.number}/{label}"

    def _write(self, label: str, value: dict[str, Any]) -> None:
        self.line.write(self.kind, self.number, label, json.dumps(value).encode())

    def read(self, label: str) -> dict[str, Any] | None:
        """What was said under a label."""
        value = self.line.get(self._key(label))
        return None if value is None else json.loads(value)
