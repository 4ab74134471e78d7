"""Ranks of a process group, forked from this process, which has imported PyTorch."""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import torch

# What DistributedDataParallel would import in each rank.
import torch._dynamo
import torch.distributed as dist
from torch import nn


class Raised(NamedTuple):
    """A rank that ended with an exception."""

    kind: type
    message: str


class Died(NamedTuple):
    """A rank that ended without a word; -9 was killed, and one that hung is killed in the end."""

    status: int | str


class Ranks:
    """Ranks that run `body(rank)`, each in a process of its own.

    Args:
        size: how many.
        body: what each does; what it returns is its result.
        store: where they meet: ``"rank 0"``, a server in the process of rank 0; ``"parent"``, one in this
            process, as with torchrun; ``"file"``; `None` without a process group.
        limit: seconds after which those that are left are killed.
    """

    def __init__(
        self, size: int, body: Callable[[int], Any], store: str | None = "rank 0", limit: float = 60
    ) -> None:
        self._deadline = time.monotonic() + limit
        self.pids: list[int] = []
        self._pipes: list[int] = []
        self._content = [b""] * size
        self._server: Any = None
        port = 0
        if store == "parent":
            self._server = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
            port = self._server.port
        elif store == "rank 0":
            port = free_port()
        for rank in range(size):
            reading, writing = os.pipe()
            pid = os.fork()
            if pid == 0:
                os.close(reading)
                _be(rank, size, body, store, port, writing)
            os.close(writing)
            self.pids.append(pid)
            self._pipes.append(reading)

    def kill(self, *ranks: int) -> None:
        """End ranks, without a chance to say anything."""
        for rank in ranks:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pids[rank], signal.SIGKILL)

    def wait_for(self, path: Path) -> None:
        """Wait until a rank has made a file."""
        while not path.exists():
            assert time.monotonic() < self._deadline, path
            time.sleep(0.002)

    def results(self) -> list[Any]:
        """What each returned, `Raised`, or `Died`."""
        found = []
        for rank, pipe in enumerate(self._pipes):
            content = b""
            while True:
                left = max(0.0, self._deadline - time.monotonic())
                ready, _, _ = select.select([pipe], [], [], left)
                if not ready:
                    break
                piece = os.read(pipe, 1 << 20)
                if not piece:
                    break
                content += piece
            os.close(pipe)
            hung = time.monotonic() > self._deadline
            self.kill(rank) if hung else None
            _, status = os.waitpid(self.pids[rank], 0)
            if content:
                found.append(pickle.loads(content))
            else:
                found.append(Died("hung" if hung else os.waitstatus_to_exitcode(status)))
        self._server = None
        return found


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def _be(rank: int, size: int, body: Any, store: Any, port: int, writing: int) -> None:
    """A rank, in a forked process; never returns."""
    result: Any
    try:
        torch.set_num_threads(1)
        logged.clear()
        logging.getLogger("scai").handlers = [_Keeping()]
        if store is not None:
            join(rank, size, store, port)
        result = body(rank)
    except BaseException as error:
        if os.environ.get("SCAI_SHOW"):
            traceback.print_exc()
        result = Raised(type(error), str(error))
    try:
        content = pickle.dumps(result)
    except Exception as error:
        content = pickle.dumps(Raised(type(error), repr(result)))
    os.write(writing, content)
    os.close(writing)
    sys.stdout.flush()
    # The store may be in this process: the others may still need it.
    if rank == 0 and store == "rank 0":
        time.sleep(0.3)
    os._exit(0)


def join(rank: int, size: int, store: str, port: int) -> None:
    """Make the process group."""
    limit = timedelta(seconds=60)
    if store == "file":
        path = f"file://{os.environ['SCAI_TEST_STORE']}"
        dist.init_process_group("gloo", init_method=path, rank=rank, world_size=size, timeout=limit)
        return
    server = dist.TCPStore(
        "127.0.0.1", port, is_master=store == "rank 0" and rank == 0, timeout=limit, wait_for_workers=False
    )
    dist.init_process_group("gloo", store=server, rank=rank, world_size=size, timeout=limit)


logged: list[str] = []
"""What a rank has logged."""


class _Keeping(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        logged.append(record.getMessage())


def run(size: int, body: Callable[[int], Any], **options: Any) -> list[Any]:
    """The results of ranks."""
    return Ranks(size, body, **options).results()


@contextlib.contextmanager
def raising() -> Iterator[list[Raised]]:
    """Gives what is raised inside, as the results of ranks have it."""
    found: list[Raised] = []
    try:
        yield found
    except Exception as error:
        found.append(Raised(type(error), str(error)))


def model_and_optimizer(seed: int = 0) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A model with state of every kind, and an optimizer that has stepped once."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Dropout(0.2), nn.Linear(16, 4))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    train(model, optimizer)
    return model, optimizer


def train(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """One step on the same rows on each rank."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(8, 8, generator=generator)
    optimizer.zero_grad()
    model(x).square().mean().backward()
    optimizer.step()
