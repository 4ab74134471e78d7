"""Saves in the background: their handles, and the thread that completes them."""

from __future__ import annotations

import concurrent.futures
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from scai._live import Fence
from scai._results import SaveInfo

_log = logging.getLogger("scai")


class Save(Protocol):
    """A save under way: in the engine of this process, or on another rank of its group."""

    def done(self) -> bool:
        """Whether it has ended."""

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until it has ended, at most so many seconds, and say whether it has."""

    def outcome(self) -> dict[str, Any] | BaseException | None:
        """How it ended."""

    def mark_reported(self) -> None:
        """What it failed with need not be raised by anything else."""


class SaveHandle(concurrent.futures.Future[str]):
    """A save in the background: a future of the path of its checkpoint.

    It runs from the start and cannot be cancelled. What it fails with is raised by `result` and
    `wait`, or returned by `exception`; if none of them is called, by the next call of the manager.

    Attributes:
        path: where the checkpoint will be.
        iteration: its iteration.
    """

    def __init__(
        self,
        path: str,
        iteration: int,
        save: Save,
        fence: Fence | None,
        began: float,
        completing: Completing,
        tell: Callable[[SaveInfo | None, BaseException | None], None] | None = None,
        calls_back: bool = True,
    ) -> None:
        super().__init__()
        self.set_running_or_notify_cancel()
        self.path = path
        self.iteration = iteration
        self._save = save
        self._fence = fence
        self._began = began
        self._completing = completing
        self._tell = tell
        self._calls_back = calls_back
        self._called = time.monotonic() - began
        self._info: SaveInfo | None = None
        self._process = os.getpid()

    @property
    def info(self) -> SaveInfo | None:
        """What was saved, once the checkpoint is durable; `None` before, and if the save failed."""
        return self._info

    def result(self, timeout: float | None = None) -> str:
        """Wait until the checkpoint is durable, at most `timeout` seconds, and return its path.

        Raises:
            TimeoutError: it is not durable yet; the save goes on.
            scai.errors.ChangedError: a tensor was changed while it was being saved.
            OSError: the file system refused, such as a full disk.
            RuntimeError: this process was forked from the one that saves.
        """
        self.exception(timeout)
        return super().result()

    wait = result

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait until the save has ended, at most `timeout` seconds, and return what it failed with.

        Raises:
            TimeoutError: it has not ended yet; the save goes on.
            RuntimeError: this process was forked from the one that saves.
        """
        self._check_process()
        if self._completing.is_current():
            # A callback waits for a later save, which this very thread would complete.
            if self._save.wait(timeout):
                self._complete()
            limit: float | None = 0.0
        else:
            limit = timeout
        try:
            error = super().exception(limit)
        except concurrent.futures.TimeoutError:
            # Another class than Python's own before 3.11.
            message = f"{self.path} is not durable yet after {timeout} s"
            raise TimeoutError(message) from None
        self._save.mark_reported()
        self._lift()
        return error

    def add_done_callback(self, fn: Callable[[concurrent.futures.Future[str]], object]) -> None:
        """Call `fn` with this handle when the save has ended, on a thread of the package, or at once if
        it has. What it raises is logged.

        Raises:
            RuntimeError: this process was forked from the one that saves.
        """
        self._check_process()
        super().add_done_callback(fn)

    def done(self) -> bool:
        """Whether the save has ended, well or not. In a forked process it never has."""
        return self._is_here() and super().done()

    def running(self) -> bool:
        """Whether the save is under way. In a forked process it is not."""
        return self._is_here() and super().running()

    def cancel(self) -> bool:
        """`False`: a save that was begun is finished."""
        return False

    def cancelled(self) -> bool:
        """`False`: a save that was begun is finished."""
        return False

    def _is_here(self) -> bool:
        return os.getpid() == self._process

    def _check_process(self) -> None:
        if not self._is_here():
            raise RuntimeError(f"{self.path} is saved by the process that this one was forked from")

    def _complete(self) -> None:
        """Take over how the save ended."""
        if super().done():
            return
        try:
            outcome: Any = self._save.outcome()
            if not isinstance(outcome, BaseException):
                seconds = time.monotonic() - self._began
                waited = self._called + (self._fence.waited if self._fence is not None else 0.0)
                directory = os.path.dirname(self.path)
                self._info = SaveInfo.of(outcome, directory, self.iteration, seconds, waited)
        except BaseException as error:
            outcome = error
        if self._tell is not None:
            # First: whoever waits here may be about to end the process.
            self._tell(self._info, outcome if isinstance(outcome, BaseException) else None)
        if isinstance(outcome, BaseException):
            self.set_exception(outcome)
        else:
            self.set_result(self.path)

    def _lift(self) -> None:
        """Stop waiting for what has been read. Not from within a hook of the fence."""
        if self._fence is not None:
            self._fence.remove()

    def __repr__(self) -> str:
        state = "under way" if self._is_here() and not self._save.done() else "ended"
        return f"SaveHandle({self.path!r}, {state})"


class Completing:
    """Completes handles in the order in which their saves end, on a thread that is there as long as
    there are any: it waits in the engine, and no thread of the engine calls Python.

    Args:
        on_commit: called with a `SaveInfo` for each checkpoint that is durable.
    """

    def __init__(self, on_commit: Sequence[Callable[[SaveInfo], object]]) -> None:
        self._on_commit = on_commit
        self._pending: deque[SaveHandle] = deque()
        # Reentrant, since the handler of a signal may save.
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def add(self, handle: SaveHandle) -> None:
        """Complete this handle when its save has ended."""
        with self._changed:
            self._pending.append(handle)
            if self._thread is not None:
                return
            self._thread = threading.Thread(target=self._run, name="scai-handles", daemon=True)
            try:
                self._thread.start()
                return
            except RuntimeError:
                # The interpreter is about to end, and has no thread to give: this one does it.
                self._thread = threading.current_thread()
        self._run()

    def wait(self) -> None:
        """Wait until all handles are complete, and all callbacks have returned."""
        with self._changed:
            if not self.is_current():
                self._changed.wait_for(lambda: not self._pending)

    def is_current(self) -> bool:
        """Whether this is called on the thread that completes handles, as by a callback."""
        return self._thread is threading.current_thread()

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._pending:
                    self._thread = None
                    return
                handle = self._pending[0]
            try:
                handle._save.wait()
                handle._complete()
                if handle.info is not None and handle._calls_back:
                    self.committed(handle.info)
            except BaseException:
                # A callback that exits must not stop the saves after this one from being completed.
                _log.exception("a callback for %s failed", handle.path)
            finally:
                with self._changed:
                    self._pending.popleft()
                    self._changed.notify_all()

    def committed(self, info: SaveInfo) -> None:
        """Call back for a checkpoint that is durable. What a callback raises is logged."""
        for callback in self._on_commit:
            try:
                callback(info)
            except BaseException as error:
                _log.exception("a callback for %s failed", info.path)
                if not self.is_current() and not isinstance(error, Exception):
                    raise
