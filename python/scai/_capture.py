"""Taking a state for a save in the background: what is read live, what is copied, and the fence.

For the manager and for plug-ins of frameworks, which bring a state of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any, Literal, TypeVar, get_args

from scai import _cuda, _native
from scai._live import Fence, Reading, Versions, live_memory, waiting
from scai._room import free_memory

_R = TypeVar("_R", bound=Reading)
Snapshot = Literal["live", "copy", "sync"]
"""How tensors are taken: read while training goes on, copied at once, or read before the call returns."""


def checked_snapshot(snapshot: Any) -> Snapshot:
    """The argument, if it is one of the ways."""
    if snapshot not in get_args(Snapshot):
        raise ValueError(f'`snapshot` is {snapshot!r}; it is one of "live", "copy", "sync"')
    return snapshot  # type: ignore[no-any-return]


class Capture:
    """Takes states, and keeps from one to the next what can be used again: memory, and which frozen
    parameters were written to. Of one process; a forked one needs its own.

    Args:
        memory: bytes that may be copied while a step waits; a quarter of the memory that is free if it
            is left out.
    """

    def __init__(self, memory: int | None = None) -> None:
        self._memory = memory
        self._pool = _native.Pool()
        self._pinned = _cuda.PinnedPool()
        self._versions = Versions()

    def begin(
        self,
        state: Any,
        note: str | None,
        snapshot: Snapshot,
        models: Collection[Any],
        optimizers: Iterable[Any],
        save: Callable[[_native.Tree], _R],
    ) -> tuple[_R, Fence | None]:
        """Take a state and hand it to `save`; with ``"live"`` also the fence that stands until all of it
        was read.

        Args:
            state: what is saved.
            note: what is kept beside it.
            snapshot: how tensors are taken.
            models, optimizers: whose memory only a step of these optimizers changes. The state of an
                optimizer whose steps cannot be made to wait is copied.
            save: begins to save the tree, and returns at once.
        """
        if snapshot == "live":
            steps = waiting(optimizers)
            if live := live_memory(models, steps, self._versions):
                with Fence(models, steps, self._room) as fence:
                    handle, staging = self._take(state, note, live, save)
                    fence.guard(handle, staging)
                return handle, fence
        handle, _ = self._take(state, note, snapshot == "sync", save)
        if snapshot == "sync":
            handle.wait_captured()
            handle.release()
        return handle, None

    def _room(self) -> int:
        return free_memory() // 4 if self._memory is None else self._memory

    def copied(self, obj: Any) -> _native.Tree:
        """A tree of an object in which every tensor is a copy of what it is now."""
        return self._encoded(obj, None, False, wait=True)[0]

    def _take(
        self,
        state: Any,
        note: str | None,
        live: _native.Live | bool,
        save: Callable[[_native.Tree], _R],
    ) -> tuple[_R, _cuda.Staging | None]:
        tree, staging = self._encoded(state, note, live, wait=live is True)
        # The tree lives no longer than the save: it keeps all tensors alive.
        return save(tree), staging

    def _encoded(
        self, obj: Any, note: str | None, live: _native.Live | bool, *, wait: bool
    ) -> tuple[_native.Tree, _cuda.Staging | None]:
        """The tree of an object, and the copies of other devices; `wait` until these are there."""
        staging = _cuda.staging(self._pinned, live)
        tree = _native.Tree.encode(obj, self._pool, live, staging, note)
        if staging is not None:
            staging.seal()
            if wait:
                staging.wait()
        return tree, staging
