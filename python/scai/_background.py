"""Files saved in the background, outside any directory of checkpoints."""

from __future__ import annotations

import functools
import logging
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from scai import _native
from scai._capture import Capture

_log = logging.getLogger("scai")
_T = TypeVar("_T")

UNFINISHED = 2
"""Saves at a time: one that is written and one that waits. Each holds a copy of its tensors."""


class Background:
    """One queue, and one thread that does what is in it, in order. Of one process: a forked one has
    no such thread."""

    def __init__(self) -> None:
        self.process = os.getpid()
        self._capture = Capture()
        # A program that ends waits for it.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="scai-save")
        self._room = threading.BoundedSemaphore(UNFINISHED)

    def save(self, path: str, take: Callable[[Capture], Callable[[], _T]]) -> Future[_T]:
        """Take a state now, and write it after what came before; a failure is logged.

        Args:
            path: where it is written, for the log.
            take: takes the state, and returns what writes it.
        """
        self._room.acquire()
        try:
            future = self._thread.submit(take(self._capture))
        except BaseException:
            self._room.release()
            raise
        future.add_done_callback(functools.partial(self._ended, path))
        return future

    def then(self, work: Callable[[], _T]) -> Future[_T]:
        """Do something that holds no state, after what came before."""
        return self._thread.submit(work)

    def _ended(self, path: str, future: Future[Any]) -> None:
        self._room.release()
        if not future.cancelled() and (error := future.exception()) is not None:
            _log.error("`%s` was not saved: %s", path, error)


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
