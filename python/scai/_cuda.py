"""Copying the memory of GPUs while they go on: pinned memory, a stream of its own, events.

What only a step of the optimizer changes is copied on a side stream, beside the next forward and
backward pass; the step waits for that on the GPU, not on the host. Everything else is copied in the
order of the current stream, so before whatever comes next. The thread that writes waits for both.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from scai import _native

if TYPE_CHECKING:
    import torch


class PinnedPool:
    """Pinned memory between saves: to pin it costs more than the copy."""

    def __init__(self) -> None:
        self._free: list[torch.Tensor] = []
        # Reentrant, since a collection of garbage may give buffers back at any moment.
        self._lock = threading.RLock()

    def take(self, nbytes: int) -> torch.Tensor:
        """A buffer of at least so many bytes: the smallest there is, or a new one."""
        with self._lock:
            fitting = [i for i, buffer in enumerate(self._free) if buffer.nbytes >= nbytes]
            best = min(fitting, key=lambda i: self._free[i].nbytes, default=None)
            if best is not None and self._free[best].nbytes <= 2 * nbytes:
                return self._free.pop(best)
        return self._new(nbytes)

    def give_back(self, buffers: list[torch.Tensor]) -> None:
        """Keep buffers for the next save."""
        with self._lock:
            self._free += buffers

    def trim(self) -> None:
        """Drop what the save that has just taken its buffers had no use for."""
        with self._lock:
            self._free.clear()

    def _new(self, nbytes: int) -> torch.Tensor:
        import torch

        return torch.empty(nbytes, dtype=torch.uint8, pin_memory=True)


class Staging:
    """The copies of one save.

    Args:
        pool: where pinned memory comes from and goes back to.
        live: the memory that only a step of the optimizer changes, where there is any.
    """

    def __init__(self, pool: PinnedPool, live: _native.Live | None) -> None:
        self._pool = pool
        self._live = live
        self._buffers: list[torch.Tensor] = []
        self._side: dict[torch.device, torch.cuda.Stream] = {}
        self._beside: dict[torch.device, torch.cuda.Event] = {}
        self._events: list[torch.cuda.Event] = []
        self._devices: set[torch.device] = set()

    def copy(self, storage: torch.UntypedStorage) -> torch.UntypedStorage:
        """Begin to copy; the memory that is returned is right once `wait` has returned."""
        import torch

        device = storage.device
        if device.type != "cuda" or storage.nbytes() == 0:
            copied: torch.UntypedStorage = storage.cpu()  # type: ignore[no-untyped-call]
            return copied
        buffer = self._pool.take(storage.nbytes())
        self._buffers.append(buffer)
        self._devices.add(device)
        source = torch.empty(0, dtype=torch.uint8, device=device).set_(storage)
        target = buffer[: storage.nbytes()]
        if self._live and self._live.covers(storage.data_ptr(), storage.nbytes()):
            stream = self._side_stream(device)
            with torch.cuda.stream(stream):
                target.copy_(source, non_blocking=True)
            # Freed memory is not used again before the copy has ended.
            source.record_stream(stream)
        else:
            with torch.cuda.device(device):
                target.copy_(source, non_blocking=True)
        return buffer.untyped_storage()

    def _side_stream(self, device: torch.device) -> torch.cuda.Stream:
        import torch

        if device not in self._side:
            stream = _side_stream(device)
            # What the current stream has been asked to do comes first.
            stream.wait_stream(torch.cuda.current_stream(device))
            self._side[device] = stream
        return self._side[device]

    def seal(self) -> None:
        """All copies have been asked for."""
        import torch

        self._pool.trim()
        for device, stream in self._side.items():
            self._beside[device] = stream.record_event()
        self._events += self._beside.values()
        for device in self._devices:
            self._events.append(torch.cuda.current_stream(device).record_event())

    def fence(self) -> None:
        """Let what the current streams are asked to do from now on come after the copies."""
        import torch

        for device, event in self._beside.items():
            torch.cuda.current_stream(device).wait_event(event)

    def wait(self) -> None:
        """Wait, on the host, until every copy is there. On any thread, after `seal`."""
        for event in self._events:
            event.synchronize()

    def __del__(self) -> None:
        # Of a save that failed early, copies may still be under way; their memory is not used again.
        if self._buffers and self._events:
            events: list[Any] = list(self._events)
            if all(event.query() for event in events):
                self._pool.give_back(self._buffers)


_streams: dict[torch.device, torch.cuda.Stream] = {}


def _side_stream(device: torch.device) -> torch.cuda.Stream:
    import torch

    if device not in _streams:
        _streams[device] = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    return _streams[device]


def staging(pool: PinnedPool, live: Any) -> Staging | None:
    """For a save by a program that uses a GPU; `None` otherwise."""
    import sys

    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return None
    return Staging(pool, live if isinstance(live, _native.Live) else None)
