"""A save by the ranks of a process group that hold the same state: rank 0 writes, and all learn of it."""

from __future__ import annotations

import dataclasses
import logging
import os
import threading
from collections.abc import Callable
from typing import Any

from scai import _group, _native
from scai._failures import raised_from
from scai._group import Line, Membership, poll
from scai._meeting import Meeting, for_all
from scai._replicas import Replica, difference, digest_of
from scai._results import SaveInfo
from scai.errors import GroupError

_log = logging.getLogger("scai")

RANK_STATES = "rank_states"
"""The field with what each rank has of its own: a list by rank, of which rank 0's entry is empty, since its
states are fields as ever, and that of a rank that did not come is `None`."""


class SaveMeeting(Meeting):
    """A save that the ranks of a group join.

    Args:
        members: the ranks.
        line: to the other ranks.
        timeout: seconds that rank 0 waits for the others.
    """

    def __init__(self, members: Membership, line: Line, timeout: float) -> None:
        super().__init__(line, "save", "join", "decision")
        self._members = members
        self._timeout = timeout
        self._iteration: int | None = None

    # Rank 0

    def lead(self, iteration: int, replica: Replica | None, needs_all: bool = False) -> list[Any]:
        """Wait for the others, compare what they hold, and return what each has of its own.

        Args:
            iteration: what is saved.
            replica: what all hold.
            needs_all: each rank writes a part, so that none may be absent.

        Raises:
            ValueError: a rank saves another iteration, or holds another state.
            scai.errors.GroupError: a rank that is needed did not come.
        """
        line = self.line
        self._iteration = iteration
        if needs_all:
            return self._lead_all(iteration, replica)
        for rank in [rank for rank in line.absent if line.get(f"late/{rank}") is not None]:
            # It does come, and was slow.
            line.absent.discard(rank)
            line.delete(f"late/{rank}")
        awaited = [rank for rank in line.others if rank not in line.absent]
        joined = self.gather("join", awaited, self._timeout, line.others)
        self.present = list(joined)
        self._check_iterations(iteration, joined)
        if replica is not None:
            self._compare(replica, joined)
        self._note_absent(set(line.others) - joined.keys())
        return [{}, *(self._own_state(rank) if rank in joined else None for rank in line.others)]

    def _lead_all(self, iteration: int, replica: Replica | None) -> list[Any]:
        line = self.line
        joined = self.gather("join", line.others, _group.PATIENCE)
        self.present = list(joined)
        if absent := set(line.others) - joined.keys():
            raise for_all(
                GroupError(
                    f"{line.named(absent)} did not come to the save of iteration {iteration} within "
                    f"{_group.PATIENCE:g} s, and each rank holds a part of the state; nothing was saved. Call "
                    "save_checkpoint on every rank"
                )
            )
        self._check_iterations(iteration, joined)
        if replica is not None:
            self._compare(replica, joined)
        line.absent = set()
        states = [{}, *map(self._own_state, line.others)]
        # From here on a failure reaches the others through DCP.
        self.announce("shards", {})
        return states

    def _check_iterations(self, iteration: int, joined: dict[int, dict[str, Any]]) -> None:
        if all(said["iteration"] == iteration for said in joined.values()):
            return
        found = {0: iteration, **{rank: said["iteration"] for rank, said in joined.items()}}
        which = ", ".join(f"rank {self.line.ranks[rank]} saves {each}" for rank, each in found.items())
        raise for_all(ValueError(f"`iteration` differs between the ranks: {which}; nothing was saved"))

    def _compare(self, replica: Replica, joined: dict[int, dict[str, Any]]) -> None:
        ours = digest_of(replica)
        differing = [
            rank for rank, said in joined.items() if said["digest"] not in (None, ours)
        ]
        if not differing:
            return
        self.announce("compare", {})
        replicas = self.gather("replica", differing, self._timeout)
        theirs = {self.line.ranks[rank]: said for rank, said in replicas.items()}
        raise for_all(ValueError(difference(replica, theirs or {self.line.ranks[differing[0]]: {}})))

    def _note_absent(self, absent: set[int]) -> None:
        line = self.line
        new, line.absent = absent - line.absent, absent
        if not new:
            return
        if len(absent) == len(line.others):
            if not self._members.has_warned:
                _log.warning(
                    "only rank 0 came to the save of iteration %s, so it saves alone: the random states of "
                    "the other ranks are not saved; call save_checkpoint on every rank to save them, or "
                    "make the manager with process_group=False",
                    self._iteration,
                )
            self._members.has_warned = True
            return
        _log.warning(
            "%s did not come to the save of iteration %s within %g s: their random states are not saved",
            line.named(absent),
            self._iteration,
            self._timeout,
        )

    def _own_state(self, rank: int) -> Any:
        content = self.line.get(f"save/{self.number}/state/{rank}")
        if content is None:
            return None
        file = _native.File.of_bytes(content, False)
        file.check(1)
        return file.tree().decode()

    def begun(self) -> None:
        """Announce that the checkpoint is being saved in the background."""
        self._say("decision", self._decision(), self.conclude)

    def ended(self, info: SaveInfo | None, error: BaseException | None) -> None:
        """Announce that the background save of which `begun` spoke has ended."""
        value = {"saved": _plain(info)} if info is not None else self.failure(error or OSError())
        self._say("result", value, self.announce)
        self.await_acknowledged()

    def saved(self, info: SaveInfo) -> None:
        """Announce that the checkpoint is durable."""
        self._say("decision", {**self._decision(), "saved": _plain(info)}, self.conclude)
        self.await_acknowledged()

    def _say(
        self, label: str, value: dict[str, Any], way: Callable[[str, dict[str, Any]], None]
    ) -> None:
        try:
            way(label, value)
        except Exception as error:
            # The checkpoint is there all the same.
            _log.warning("the other ranks could not be told of a save: %s", error)

    def _decision(self) -> dict[str, Any]:
        return {"iteration": self._iteration, "present": list(self.present)}

    def failure(self, error: BaseException) -> dict[str, Any]:
        """What says that the save failed, and for whom."""
        return {**super().failure(error), **(self._decision() if self._iteration is not None else {})}

    # The others

    def follow(self, iteration: int, replica: Replica | None, own: Any, lost: Lost) -> RemoteSave:
        """Join the save, and return how it goes, as soon as rank 0 has decided.

        Args:
            iteration: what is saved.
            replica: what is compared with rank 0.
            own: what this rank has of its own.
            lost: keeps a failure until somebody asks.
        """
        rank = self.line.rank
        content = _native.Tree.encode(own).to_bytes(1)
        digest = None if replica is None else digest_of(replica)
        while True:
            self.line.write("save", self.number, f"state/{rank}", content)
            self.tell("join", {"iteration": iteration, "digest": digest})
            decision = self._hear_decision(replica)
            if decision is not None:
                is_in = rank in decision.get("present", [rank])
                if not is_in:
                    self.line.set(f"late/{rank}", b"")
                if is_in or decision["iteration"] == iteration:
                    lost.forget(decision)
                    self.raise_as(decision)
                    return self._following(decision, lost)
            else:
                # So far ahead that what it decided is no longer there.
                self.line.skip_to("save", self.line.newest("save"))
            # Rank 0 did not wait for this one, and saved something else meanwhile.
            self.line.forget("save", self.number)
            self.number = self.line.take_number("save")

    def follow_shards(self, iteration: int, replica: Replica | None, own: Any) -> None:
        """Join a save in which every rank writes, and return when all have come.

        Args:
            iteration, replica, own: as of `follow`.
        """
        rank = self.line.rank
        self.line.write("save", self.number, f"state/{rank}", _native.Tree.encode(own).to_bytes(1))
        digest = None if replica is None else digest_of(replica)
        self.tell("join", {"iteration": iteration, "digest": digest})
        heard = self.hear(["shards", "decision", "compare"])
        if heard is not None and heard[0] == "compare":
            self.tell("replica", dict(replica or {}))
            heard = self.hear(["shards", "decision"])
        if heard is None or heard[0] != "shards":
            self.raise_as({} if heard is None else heard[1])
            raise GroupError(
                f"rank 0 has a state of which it needs no other rank, and {self.line.named([rank])} a part of one"
            )

    def following(self, lost: Lost) -> RemoteSave:
        """How a save goes in which this rank has written, as soon as rank 0 says so."""
        heard = self.hear(["decision"])
        if heard is None:
            raise GroupError("rank 0 has saved many times since this rank began to")
        lost.forget(heard[1])
        self.raise_as(heard[1])
        return self._following(heard[1], lost)

    def _hear_decision(self, replica: Replica | None) -> dict[str, Any] | None:
        heard = self.hear(["decision", "compare"])
        if heard is not None and heard[0] == "compare":
            self.tell("replica", dict(replica or {}))
            heard = self.hear(["decision"])
        return None if heard is None else heard[1]

    def _following(self, decision: dict[str, Any], lost: Lost) -> RemoteSave:
        self.announced = None
        save = RemoteSave(self, lost)
        if "saved" in decision:
            save.end(decision["saved"])
        return save


class Lost:
    """Failures of background saves of which nobody has asked yet."""

    def __init__(self) -> None:
        self._errors: list[tuple[Any, BaseException]] = []

    def add(self, save: Any, error: BaseException) -> None:
        """Keep a failure until somebody asks for it."""
        self._errors.append((save, error))

    def remove(self, save: Any) -> None:
        """Somebody has asked for the failure of this save."""
        self._errors = [each for each in self._errors if each[0] is not save]

    def forget(self, decision: dict[str, Any]) -> None:
        """Rank 0 fails a later save with what it has not been asked for, and that is raised here."""
        if "error" in decision:
            self._errors.clear()

    def surface(self) -> None:
        """Raise the first failure, if there is one."""
        if self._errors:
            raise self._errors.pop(0)[1]


class RemoteSave:
    """A save that rank 0 does in the background, as the others see it. `SaveHandle` waits for it."""

    def __init__(self, meeting: SaveMeeting, lost: Lost) -> None:
        self._meeting = meeting
        self._lost = lost
        self._outcome: dict[str, Any] | BaseException | None = None
        self._is_reported = False
        self._ending = threading.Lock()

    def end(self, outcome: dict[str, Any] | BaseException) -> None:
        """Note how it ended."""
        with self._ending:
            if self._outcome is not None:
                return
            if isinstance(outcome, BaseException) and not self._is_reported:
                self._lost.add(self, outcome)
            self._outcome = outcome
        self._meeting.acknowledge()

    def done(self) -> bool:
        """Whether it is known how it ended."""
        return self._outcome is not None

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until it is known how it ended, at most so many seconds, and say whether it is."""
        try:
            if self._outcome is None and (said := self._hear(seconds)) is not None:
                failed = "error" in said
                self.end(raised_from(said["error"]) if failed else said["saved"])
        except Exception as error:
            self.end(error)
        return self.done()

    def _hear(self, seconds: float | None) -> dict[str, Any] | None:
        if seconds is None:
            heard = self._meeting.hear(["result"])
            if heard is None:
                raise GroupError("how the save ended is not known: rank 0 has done many others since")
            return heard[1]
        return poll(lambda: self._meeting.read("result"), seconds)

    def outcome(self) -> dict[str, Any] | BaseException | None:
        """How it ended."""
        return self._outcome

    def mark_reported(self) -> None:
        """Somebody has asked for a failure."""
        with self._ending:
            self._is_reported = True
            self._lost.remove(self)


def _plain(info: SaveInfo) -> dict[str, Any]:
    """What rank 0 knows of a save, as the engine gives it; its warnings were logged there."""
    return {
        "name": os.path.basename(info.path),
        "bytes": info.bytes,
        "removed": [os.path.basename(path) for path in info.removed],
        "warnings": [],
        "timeline": list(dataclasses.astuple(info.timeline))[1:],
        "rate": info.rate,
    }
