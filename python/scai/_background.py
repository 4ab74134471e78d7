"""Files saved in the background, outside any directory of checkpoints."""

from __future__ import annotations

import functools
import logging
import os
import threading
from concurrent.futures import Future, ThreadPoolExecutor

from scai import _native
from scai._capture import Capture

_log = logging.getLogger("scai")

UNFINISHED = 2
"""Saves at a time: one that is written and one that waits. Each holds a copy of its tensors."""


class Background:
    """One queue, and one thread that writes. Of one process: a forked one has no such thread."""

    def __init__(self) -> None:
        self.process = os.getpid()
        self._capture = Capture()
        # A program that ends waits for it.
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="scai-save")
        self._room = threading.BoundedSemaphore(UNFINISHED)

    def save(self, obj: object, path: str) -> Future[str]:
        """Copy the tensors of an object, and write it to `path` after what came before."""
        self._room.acquire()
        try:
            tree = self._capture.copied(obj)
            # The working directory may be another one when it is written.
            future = self._writer.submit(_write, tree, os.path.abspath(path), path)
        except BaseException:
            self._room.release()
            raise
        future.add_done_callback(functools.partial(self._ended, path))
        return future

    def _ended(self, path: str, future: Future[str]) -> None:
        self._room.release()
        if not future.cancelled() and (error := future.exception()) is not None:
            _log.error("`%s` was not saved: %s", path, error)


def _write(tree: _native.Tree, absolute: str, path: str) -> str:
    tree.write(absolute, _native.THREADS)
    return path


_background: Background | None = None
_lock = threading.Lock()


def background() -> Background:
    """That of this process."""
    global _background
    with _lock:
        if _background is None or _background.process != os.getpid():
            _background = Background()
        return _background


def _unlock_in_child() -> None:
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_unlock_in_child)
