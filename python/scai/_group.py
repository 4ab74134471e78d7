"""How the ranks of a process group meet: by keys in the store of the group, without collectives.

A collective that one rank does not call hangs until a watchdog ends the job. Here each rank writes
what it has to say under keys of its own and looks for those of others from time to time, so that a
rank that does not come is known by its number, and that nobody waits without a limit. No call blocks
in the store: a connection to it is locked as long as it waits.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from scai.errors import GroupError

_log = logging.getLogger("scai")
_T = TypeVar("_T")

PATIENCE = 900.0
"""Seconds that rank 0 waits for others where a call needs all of them; the others wait twice as long for
rank 0. Evaluating, or writing a checkpoint, may take one rank so long."""

FAREWELL = 2.0
"""Seconds that rank 0 waits at the end of a call until the others have heard how it ended: the store
may live in its process, which may be about to end."""

KEPT = 16
"""Calls of which rank 0's decisions stay in the store, for ranks that come late."""

_SHORTEST, _LONGEST = 0.001, 0.05


def poll(look: Callable[[], _T | None], limit: float | None) -> _T | None:
    """What `look` finds; `None` if that is nothing for `limit` seconds."""
    end = None if limit is None else time.monotonic() + limit
    pause = _SHORTEST
    while (found := look()) is None:
        if end is not None and (left := end - time.monotonic()) < pause:
            if left <= 0:
                return None
            pause = left
        time.sleep(pause)
        pause = min(pause * 1.5, _LONGEST)
    return found


class Line:
    """What the ranks of a group say to each other about one directory.

    Attributes:
        rank: this one's number in the group; 0 decides.
        ranks: the numbers of all in the default group, which errors name.
        absent: those of the group that did not come to a save, and are not waited for.
    """

    def __init__(self, store: Any, prefix: str, ranks: Sequence[int], rank: int) -> None:
        import torch.distributed

        dist: Any = torch.distributed
        self.whole = store
        self._store = dist.PrefixStore(prefix, store)
        self.ranks = ranks
        self.rank = rank
        self.absent: set[int] = set()
        self._next: dict[str, int] = {}
        # What this rank has set; also changed by the thread that completes handles.
        self._set: list[tuple[str, int, str]] = []
        self._setting = threading.Lock()

    @property
    def others(self) -> range:
        """The other ranks, from the view of rank 0."""
        return range(1, len(self.ranks))

    def named(self, ranks: Iterable[int]) -> str:
        """How errors name ranks."""
        numbers = [str(self.ranks[rank]) for rank in sorted(ranks)]
        return f"rank{'s' * (len(numbers) > 1)} {', '.join(numbers)}"

    def take_number(self, kind: str) -> int:
        """The number of the next call of this kind."""
        number = self._next.get(kind, 0)
        self._next[kind] = number + 1
        return number

    def coming(self, kind: str) -> int:
        """The number that the next call of this kind will have."""
        return self._next.get(kind, 0)

    def skip_to(self, kind: str, number: int) -> None:
        """Make this the number of the next call."""
        self._next[kind] = number

    def write(self, kind: str, number: int, label: str, value: bytes) -> None:
        """Set a key of a call."""
        key = f"{kind}/{number}/{label}"
        with self._setting:
            self._set.append((kind, number, key))
        self.set(key, value)

    def forget(self, kind: str, last: int, but: str | None = None) -> None:
        """Delete the keys that this rank has set for calls up to this one, except under a label."""

        def is_old(each: tuple[str, int, str]) -> bool:
            return each[0] == kind and each[1] <= last and f"/{but}/" not in each[2]

        with self._setting:
            old = [each for each in self._set if is_old(each)]
            self._set = [each for each in self._set if not is_old(each)]
        for _, _, key in old:
            self.delete(key)

    def newest(self, kind: str) -> int:
        """The number of the newest call of which rank 0 has said how it ended; -1 before the first."""
        value = self.get(f"{kind}/newest")
        return -1 if value is None else int(value)

    # The store

    def set(self, key: str, value: bytes) -> None:
        """Set a key."""
        with _reaching():
            self._store.set(key, value)

    def has(self, keys: list[str]) -> bool:
        """Whether all of these keys are set."""
        with _reaching():
            return bool(self._store.check(keys))

    def get(self, key: str) -> bytes | None:
        """The value of a key; `None` if it is not set."""
        if not self.has([key]):
            return None
        with _reaching():
            return bytes(self._store.get(key))

    def delete(self, key: str) -> None:
        """Delete a key, if that is possible."""
        with contextlib.suppress(RuntimeError):
            self._store.delete_key(key)


@contextlib.contextmanager
def _reaching() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise GroupError(
            "the store of the process group cannot be reached; the process that holds it (rank 0, or the "
            f"launcher) may have ended: {error}"
        ) from error


class Membership:
    """The ranks with which a manager saves and loads.

    Args:
        process_group: `None` for the default group, a `ProcessGroup`, or `False` for none.
        directory: the directory of the manager.
    """

    def __init__(self, process_group: Any, directory: str) -> None:
        # What `new_group` gives a rank that is not in the group is a number.
        is_group = hasattr(process_group, "rank") or _is_elsewhere(process_group)
        if not (process_group is None or process_group is False or is_group):
            raise TypeError(
                "`process_group` must be a ProcessGroup, None for the default one, or False for none, got "
                f"{type(process_group).__name__}"
            )
        self._group = process_group
        self._directory = os.path.abspath(directory)
        self._line: Line | None = None
        self._process = 0
        self.has_warned = False

    def line(self) -> Line | None:
        """The line to the other ranks; `None` if this process saves and loads by itself.

        Raises:
            ValueError: this process is not in the group.
        """
        dist: Any = sys.modules.get("torch.distributed")
        if self._group is False or dist is None:
            return None
        if not dist.is_available() or not dist.is_initialized():
            return None
        rank, ranks = dist.get_rank(), list(range(dist.get_world_size()))
        if _is_elsewhere(self._group):
            raise ValueError(f"rank {rank} is not in `process_group`")
        if self._group is not None:
            ranks = dist.get_process_group_ranks(self._group)
            if rank not in ranks:
                raise ValueError(f"rank {rank} is not in `process_group`")
        if len(ranks) == 1:
            return None
        store = dist.distributed_c10d._get_default_store()
        if self._line is None or self._line.whole is not store:
            prefix = _prefix(store, self._directory, ranks)
            self._line = Line(store, prefix, ranks, ranks.index(rank))
            self._process = os.getpid()
        # A forked child is not the rank that its parent is.
        return self._line if self._process == os.getpid() else None


def _is_elsewhere(process_group: Any) -> bool:
    return type(process_group) is int and process_group < 0


_counts: dict[tuple[str, ...], int] = {}
_counted: Any = None


def _prefix(store: Any, directory: str, ranks: Sequence[int]) -> str:
    """A prefix that managers for other directories, or of other groups, do not have."""
    global _counted
    if store is not _counted:
        _counts.clear()
        _counted = store
    about = (directory, *map(str, ranks))
    # Several managers for one directory join in the same order on each rank.
    _counts[about] = number = _counts.get(about, -1) + 1
    digest = hashlib.blake2b(json.dumps(about).encode(), digest_size=12).hexdigest()
    # The store of torchrun outlives the ranks that it restarts, and what they have said.
    restart = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return f"scai/{restart}/{digest}/{number}"
