"""A save by the ranks that each hold a part of the state: all write, and rank 0 commits."""

from __future__ import annotations

import contextlib
import datetime
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch.distributed as dist
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict_saver import save

from scai import _native
from scai._capture import Capture
from scai._failures import raised_from, said_of
from scai._group import PATIENCE, Line
from scai._group_save import Lost, RemoteSave
from scai.distributed._state import FlatState, SavePlanner
from scai.distributed._writer import StorageWriter
from scai.errors import GroupError


class _Writer(StorageWriter):
    """Writes to a manager's directory, which commits.

    Args:
        path: where this process writes.
        begin: begins the save, in the process that commits.
        described: what listings show.
    """

    def __init__(
        self,
        path: str,
        begin: Callable[[], _native.ShardedSave],
        described: dict[str, Any],
        capture: Capture,
        **options: Any,
    ) -> None:
        super().__init__(path, **options)
        self._begin_save = begin
        self._state = described
        self._capture = capture
        self.saved: dict[str, Any] | None = None
        self.failure: Exception | None = None

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """Begin; or fail where all others hear of it, if this process could not even take its state."""
        if self.failure is not None:
            raise self.failure
        super().set_up_storage_writer(is_coordinator, *args, **kwargs)

    def begin_attempt(self) -> _native.ShardedSave:
        """Begin the save."""
        return self._begin_save()

    def described(self) -> dict[str, Any]:
        """What listings show."""
        return self._state

    def committed(self, saved: Any) -> None:
        """Keep what the manager says of it."""
        self.saved = saved


class Groups:
    """The group of gloo in which DCP plans: scai's own, so that nothing of the training meets it.

    It is made when it is first needed, and anew after a failure, by all ranks together.
    """

    def __init__(self) -> None:
        self._line: Line | None = None
        self._group: Any = None

    def of(self, line: Line | None) -> Any:
        """The group of these ranks; `None` for one process."""
        if line is None:
            return None
        if self._group is None or self._line is not line:
            timeout = datetime.timedelta(seconds=PATIENCE)
            self._group = dist.new_group(
                list(line.ranks), backend="gloo", timeout=timeout, use_local_synchronization=True
            )
            self._line = line
        return self._group

    def drop(self) -> None:
        """Something failed: what the group was about to say is not known."""
        self._group = None


class ShardedSave:
    """One save: of a state of which this process has a part.

    A rank that fails before it writes fails in `run`, where the others hear of it: they are on their way there.

    Args:
        state: makes what this rank writes.
        described: what listings show.
        path: the directory of the checkpoint.
        begin: begins the save, in the process that commits.
        line: to the other ranks, if there are any.
        groups: where the group is from.
        options: of the writer.
    """

    def __init__(
        self,
        state: Callable[[], FlatState],
        described: dict[str, Any],
        path: str,
        begin: Callable[[], _native.ShardedSave],
        line: Line | None,
        groups: Groups,
        capture: Capture,
        **options: Any,
    ) -> None:
        self._writer = _Writer(path, begin, described, capture, **options)
        self._line, self._groups = line, groups
        self._group = groups.of(line)
        self._values: dict[str, Any] = {}
        paths: dict[str, tuple[Any, ...]] = {}
        with self._failing_later():
            flat = state()
            self._values, paths = flat.values, flat.paths
        self._planner = SavePlanner(paths)

    def take(self) -> None:
        """Take the state as it is now, for a save in the background."""
        with self._failing_later():
            self._values = self._writer.stage(self._values)

    @contextlib.contextmanager
    def _failing_later(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if self._line is None:
                raise
            self._writer.failure = error

    def run(self) -> dict[str, Any]:
        """Write and commit, on all ranks together; returns what was saved, on rank 0.

        Raises:
            Exception: what a rank failed with: the same on each.
        """
        try:
            save(
                self._values,
                storage_writer=self._writer,
                planner=self._planner,
                process_group=self._group,
                no_dist=self._line is None,
            )
        except CheckpointException as error:
            # All have heard of it, and the group is as it was.
            raise self._told(error) from None
        except Exception as error:
            self._groups.drop()
            if self._line is None:
                raise
            if not dist.is_initialized():
                raise GroupError(
                    "the process group was destroyed while the checkpoint was saved; call manager.flush() before "
                    "destroy_process_group(); what was saved before is there"
                ) from error
            raise GroupError(
                f"a rank ended or did not answer while the checkpoint was saved: {error}; what was saved "
                "before is there"
            ) from error
        finally:
            self._writer.close()
        return self._writer.saved or {}

    def _told(self, error: CheckpointException) -> Exception:
        """The error of the first rank that failed, with its number."""
        rank, (first, _) = min(error.failures.items())
        if self._line is None:
            return first if isinstance(first, Exception) else GroupError(str(error))
        return raised_from(said_of(first, self._line.ranks[rank]))


def saved_elsewhere(save: ShardedSave, remote: RemoteSave) -> dict[str, Any]:
    """Write, and return what rank 0 says of the save in which this rank took part."""
    try:
        save.run()
    finally:
        remote.wait()
        remote.mark_reported()
    outcome = remote.outcome()
    if isinstance(outcome, dict):
        return outcome
    raise outcome or GroupError("how the save ended is not known")


class InBackground:
    """A save that runs on a thread, as `SaveHandle` sees it.

    Args:
        run: does it, and returns what was saved.
        lost: keeps a failure until somebody asks.
    """

    def __init__(self, run: Callable[[], dict[str, Any]], lost: Lost) -> None:
        self._run = run
        self._lost = lost
        self._ended = threading.Event()
        self._outcome: dict[str, Any] | BaseException | None = None
        self._is_reported = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._work, name="scai-shards", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:
            # There is no room for a thread, and the others are on their way to the save.
            self._work()

    def _work(self) -> None:
        outcome: dict[str, Any] | BaseException
        try:
            outcome = self._run()
        except BaseException as error:
            outcome = error
        with self._lock:
            if isinstance(outcome, BaseException) and not self._is_reported:
                self._lost.add(self, outcome)
            self._outcome = outcome
        self._ended.set()

    def done(self) -> bool:
        """Whether it has ended."""
        return self._ended.is_set()

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until it has ended, at most so many seconds, and say whether it has."""
        return self._ended.wait(seconds)

    def outcome(self) -> dict[str, Any] | BaseException | None:
        """How it ended."""
        return self._outcome

    def mark_reported(self) -> None:
        """What it failed with need not be raised by anything else."""
        with self._lock:
            self._is_reported = True
            self._lost.remove(self)
