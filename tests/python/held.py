"""Saves that seem to be under way until a test lets them end."""

from __future__ import annotations

import threading
from typing import Any

from scai.utils.checkpoint import CheckpointManager


class Held:
    """A native handle whose save does not seem to have ended before `go` is set."""

    def __init__(self, save: Any, go: threading.Event) -> None:
        self._save = save
        self._go = go

    def done(self) -> bool:
        return self._go.is_set() and bool(self._save.done())

    def wait(self, seconds: float | None = None) -> bool:
        if seconds is not None:
            return self._go.wait(seconds) and bool(self._save.wait(seconds))
        # A test that fails must not leave a thread that waits for ever.
        assert self._go.wait(60)
        return bool(self._save.wait())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._save, name)


def hold(manager: CheckpointManager) -> threading.Event:
    """Saves of `manager` in the background seem to be under way until this is set."""
    go = threading.Event()
    begin = manager._capture.begin

    def begin_held(*arguments: Any) -> Any:
        save, fence = begin(*arguments)
        return Held(save, go), fence

    manager._capture.begin = begin_held  # type: ignore[method-assign, assignment]
    return go
