"""Files saved in the background, outside any directory of checkpoints."""

from __future__ import annotations

import functools
import logging
import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from scai import _native
from scai._capture import Capture

_log = logging.getLogger("scai")
_T = TypeVar("_T")

UNFINISHED = 2
"""Saves at a time: one that is written and one that waits. Each holds a copy of its tensors."""


class Background:
    """One queue, and a thread that does what is in it, in order, as long as there is anything. Of one
    process: a forked one has no such thread."""

    def __init__(self) -> None:
        self.process = os.getpid()
        self._capture = Capture()
        self._queue: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._unfinished = 0
        # Reentrant, since the handler of a signal may save.
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def save(self, path: str, take: Callable[[Capture], Callable[[], _T]]) -> Future[_T]:
        """Take a state now, and write it after what came before; a failure is logged.

        Args:
            path: where it is written, for the log.
            take: takes the state, and returns what writes it.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._unfinished < UNFINISHED)
            self._unfinished += 1
        try:
            future = self.then(take(self._capture))
        except BaseException:
            self._finished()
            raise
        future.add_done_callback(functools.partial(self._ended, path))
        return future

    def then(self, work: Callable[[], _T]) -> Future[_T]:
        """Do something that holds no state, after what came before."""
        future: Future[_T] = Future()
        with self._changed:
            self._queue.append((future, work))
            if self._thread is not None:
                return future
            # A program that ends waits for it.
            self._thread = threading.Thread(target=self._run, name="scai-save", daemon=False)
            try:
                self._thread.start()
                return future
            except RuntimeError:
                # The interpreter is about to end, and has no thread to give: this one does it.
                self._thread = threading.current_thread()
        self._run()
        return future

    def wait(self) -> None:
        """Wait until all is done, and the thread has ended."""
        while (thread := self._thread) is not None and thread is not threading.current_thread():
            thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._queue:
                    self._thread = None
                    return
                future, work = self._queue.popleft()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                outcome = work()
            except BaseException as error:
                del work
                future.set_exception(error)
            else:
                # What it holds is given back before anybody is told.
                del work
                future.set_result(outcome)

    def _ended(self, path: str, future: Future[Any]) -> None:
        self._finished()
        if not future.cancelled() and (error := future.exception()) is not None:
            _log.error("`%s` was not saved: %s", path, error)

    def _finished(self) -> None:
        with self._changed:
            self._unfinished -= 1
            self._changed.notify_all()


def save_later(obj: object, path: str) -> Future[str]:
    """Copy the tensors of an object, and write it to `path` in the background of this process."""

    def take(capture: Capture) -> Callable[[], str]:
        # The working directory may be another one when it is written.
        return functools.partial(_write, capture.copied(obj), os.path.abspath(path), path)

    return _background().save(path, take)


def _write(tree: _native.Tree, absolute: str, path: str) -> str:
    tree.write(absolute, _native.THREADS)
    return path


_of_process: Background | None = None
_lock = threading.Lock()


def _background() -> Background:
    """That of this process."""
    global _of_process
    with _lock:
        if _of_process is None or _of_process.process != os.getpid():
            _of_process = Background()
        return _of_process


def _unlock_in_child() -> None:
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_unlock_in_child)
