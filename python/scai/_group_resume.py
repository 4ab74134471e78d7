"""A resume by the ranks of a process group: rank 0 chooses, all check, and only then all change."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, TypeVar

from scai import _group, _native
from scai._failures import raised_from
from scai._group import Line
from scai._group_save import RANK_STATES
from scai._meeting import Meeting, for_all
from scai.errors import DamagedError, GroupError, UnprotectedError

_log = logging.getLogger("scai")
_T = TypeVar("_T")

ATTEMPTS = 16
"""Checkpoints that rank 0 finds sound and another rank damaged, before all give up."""


@dataclass
class Found:
    """A checkpoint to resume from.

    Attributes:
        name: of its file in the directory.
        iteration: its iteration.
        iterations_lost: iterations between the newest checkpoint there was and this one.
        skipped: newer ones that could not be used, as the engine gives them.
        file: the file, if it is open and every byte was checked.
    """

    name: str
    iteration: int
    iterations_lost: int
    skipped: list[tuple[str, Exception, str | None]]
    file: _native.File | None = None


class _Unusable(Exception):
    """A rank found the checkpoint damaged: all of them leave it."""

    def __init__(self, reason: Exception) -> None:
        super().__init__(str(reason))
        self.reason = reason


Find = Callable[[Found | None, Exception | None], Found | None]
Load = Callable[[Found, Callable[[], None] | None], _T]


class ResumeMeeting(Meeting):
    """A resume that the ranks of a group join. Each attempt has four steps, at each of which all are as
    far as the others: what was *found* by rank 0; *read* and checked; *tried*, as far as that can be
    undone; *loaded*.

    Args:
        line: to the other ranks.
        at: the iteration to go back to, if one was given.
        timeout: seconds after which rank 0 loads alone, if no other has come.
    """

    def __init__(self, line: Line, at: object, timeout: float) -> None:
        super().__init__(line, "resume", "join", "0/found")
        # What is wrong with it is found later.
        self._at = None if at is None else str(at)
        self._timeout = timeout
        self._attempt = 0
        self._step = "found"
        # That others did not come to a save says nothing of a resume.
        self.present = line.others

    def run(self, find: Find, load: Load[_T], at_last: Callable[[Found], None]) -> tuple[Found, _T] | None:
        """Choose a checkpoint and load it on all ranks, or on none.

        Args:
            find: on rank 0, the newest checkpoint; or the one before another, which a rank found damaged.
            load: loads it here. It calls what it is given, if that is something, once everything has been
                read, and again before something is changed that cannot be changed back.
            at_last: what rank 0 does once all have loaded it.
        """
        is_alone = self._is_alone() if self.leads else False
        last, reason = None, None
        while True:
            if self.leads:
                found = find(last, reason)
                self._announce(found, is_alone)
            else:
                found, is_alone = self._hear_found()
            if found is None:
                return None
            if is_alone:
                result = load(found, None)
                if self.leads:
                    at_last(found)
                return found, result
            try:
                return found, self._load(found, load, at_last)
            except _Unusable as unusable:
                last, reason = found, unusable.reason
                if self._attempt == ATTEMPTS:
                    raise reason from None

    # Steps

    def _label(self) -> str:
        return f"{self._attempt}/{self._step}"

    def _go_to(self, step: str) -> None:
        """What fails from here on is said of this step."""
        self._step = step
        self.said = self._label()
        self.announced = self.said if step == "found" else f"{self.said}/verdict"

    def _is_alone(self) -> bool:
        """On rank 0, wait for the others, and say whether there are none."""
        others = self.line.others
        came = self.gather("join", others, self._timeout)
        if came:
            came = self.gather("join", others, _group.PATIENCE)
            self._check_all_came(came)
            if any(said["at"] != self._at for said in came.values()):
                found = {0: self._at, **{rank: said["at"] for rank, said in came.items()}}
                which = ", ".join(f"{each} on rank {self.line.ranks[rank]}" for rank, each in found.items())
                raise for_all(ValueError(f"`at` differs between the ranks: {which}; nothing was loaded"))
            return False
        self.present = ()
        _log.warning(
            "only rank 0 came to resume, so it loads alone: the parameters and random states of the others stay "
            "as they are; call resume on every rank, or make the manager with process_group=False and send "
            "the others what it has loaded"
        )
        return True

    def _check_all_came(self, came: Collection[int]) -> None:
        if absent := set(self.line.others) - set(came):
            self.present = list(came)
            raise for_all(
                GroupError(
                    f"{self.line.named(absent)} did not resume within {_group.PATIENCE:g} s; nothing was "
                    "loaded on the others"
                )
            )

    def _announce(self, found: Found | None, is_alone: bool) -> None:
        value = {
            "alone": is_alone,
            "at": self._at,
            "saves": self.line.coming("save"),
            "found": None if found is None else self._said_of(found),
        }
        if found is not None and not is_alone:
            self.announce(self._label(), value)
            self._go_to("read")
            return
        self.conclude(self._label(), value)
        self.await_acknowledged()

    def _hear_found(self) -> tuple[Found | None, bool]:
        if self._attempt == 0:
            self.tell("join", {"at": self._at})
        value = self._hear_one(self._label())
        if value["alone"] and self._is_of_another_call(value):
            self.number = self.line.take_number("resume")
            return self._hear_found()
        said, is_alone = value["found"], value["alone"]
        if said is None or is_alone:
            self.acknowledge()
        else:
            self._go_to("read")
        return None if said is None else _found_of(said), is_alone

    def _is_of_another_call(self, value: dict[str, Any]) -> bool:
        """Whether rank 0 resumed alone in a call that is not the one for which this rank comes late: it has
        saved since, or went back to another iteration."""
        return bool(value["at"] != self._at or self.line.newest("save") >= value["saves"])

    def _hear_one(self, label: str) -> dict[str, Any]:
        heard = self.hear([label])
        if heard is None:
            raise GroupError("rank 0 has resumed many times since this rank began to")
        self.raise_as(heard[1])
        return heard[1]

    def _load(self, found: Found, load: Load[_T], at_last: Callable[[Found], None]) -> _T:
        try:
            result = load(found, self._agree)
        except DamagedError as error:
            # Without checksums, or once something has changed, another checkpoint is no way out.
            is_over = self.announced is None or self._step == "loaded"
            if is_over or isinstance(error, UnprotectedError):
                raise
            self._agree(error)
            raise
        self._agree(at_last=lambda: at_last(found))
        return result

    def _agree(
        self, damage: DamagedError | None = None, at_last: Callable[[], None] | None = None
    ) -> None:
        """Return when all ranks have done this step.

        Args:
            damage: this rank has not, since the checkpoint is damaged.
            at_last: what rank 0 does then.

        Raises:
            Exception: a rank has failed.
        """
        verdict: dict[str, Any] = {}
        own = {} if damage is None else {"damage": self.failure(damage)["error"]}
        if self.leads:
            said = self.gather(self._label(), self.present, _group.PATIENCE)
            self._check_all_came(said)
            verdict = next((each for each in (own, *said.values()) if each), {})
            if at_last is None:
                self.announce(f"{self._label()}/verdict", verdict)
            else:
                at_last()
                self.conclude(f"{self._label()}/verdict", verdict)
                self.await_acknowledged()
        else:
            self.tell(self._label(), own)
            verdict = self._hear_one(f"{self._label()}/verdict")
            if at_last is not None:
                self.acknowledge()
        if verdict:
            self._attempt += 1
            self._go_to("found")
            raise _Unusable(for_all(raised_from(verdict["damage"])))
        if at_last is None:
            self._go_to(_AFTER[self._step])

    def _said_of(self, found: Found) -> dict[str, Any]:
        skipped = [
            (name, self.failure(reason)["error"], aside) for name, reason, aside in found.skipped
        ]
        return {**vars(found), "skipped": skipped, "file": None}


_AFTER = {"read": "tried", "tried": "loaded"}


def _found_of(said: dict[str, Any]) -> Found:
    skipped = [(name, raised_from(reason), aside) for name, reason, aside in said["skipped"]]
    return Found(**{**said, "skipped": skipped})


def opened(path: str, way: Callable[[str], _native.File], line: Line) -> _native.File:
    """The file that rank 0 resumes from, as this rank sees it.

    Raises:
        scai.errors.GroupError: it is not there.
    """
    try:
        return way(path)
    except FileNotFoundError:
        rank = line.ranks[line.rank]
        raise GroupError(
            f"`{os.path.abspath(path)}`, which rank {line.ranks[0]} resumes from, is not there on rank {rank}; "
            "is the directory shared between the nodes?"
        ) from None


class OwnState:
    """What a checkpoint holds for one rank alone.

    Args:
        tree: the checkpoint.
        line: to the other ranks.

    Attributes:
        is_known: the checkpoint was saved by as many ranks, and this one's state is in it.
    """

    def __init__(self, tree: _native.Tree, line: Line) -> None:
        states = tree.part(RANK_STATES)
        self._tree = tree
        self.is_known = False
        entries = None if states is None else states.decode()
        entries = entries if isinstance(entries, list) else [{}]
        count = len(entries)
        if count != len(line.ranks):
            if line.rank == 0:
                _log.warning(
                    "`%s` was saved by %d rank%s, and %d resume: the random states and data loaders, which "
                    "each rank has of its own, are left as they are",
                    tree.path,
                    count,
                    "s" * (count != 1),
                    len(line.ranks),
                )
        elif line.rank == 0:
            self.is_known = True
        elif states is not None and entries[line.rank] is not None:
            own = states.at([line.rank])
            self.is_known = own is not None
            self._tree = own or tree
        else:
            _log.warning(
                "`%s` does not have the random state of rank %d, which did not come to the save: it is left "
                "as it is",
                tree.path,
                line.ranks[line.rank],
            )

    def field(self, name: str) -> _native.Tree | None:
        """A field of this rank; `None` if it is to be left as it is.

        Raises:
            scai.errors.MissingFieldError: the rank saved none.
        """
        return self._tree.field(name) if self.is_known else None

    def part(self, name: str) -> _native.Tree | None:
        """A field of this rank; `None` if it is to be left as it is, or there is none."""
        return self._tree.part(name) if self.is_known else None
