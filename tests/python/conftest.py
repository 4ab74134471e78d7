"""What several tests begin with."""

from __future__ import annotations

import _codecs
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from same import TORCH
from scai.utils.checkpoint import CheckpointManager

STOPS = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}


@pytest.fixture(autouse=True)
def _signals_end_processes() -> Iterator[None]:
    """Tests send signals, to this process and to others that inherit what it ignores.

    A shell ignores Ctrl-C for what it runs in the background, and Python then does as well.
    """
    before = {number: signal.signal(number, handler) for number, handler in STOPS.items()}
    mask = signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
    yield
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    for number, handler in before.items():
        signal.signal(number, handler)


# What `torch.load` allows from PyTorch 2.6 on, and older ones when they are told to; the guide says so.
ALLOWED_LATER = [_codecs.encode, bytearray, set, complex]


@pytest.fixture
def as_the_installed_torch_loads() -> None:
    """Let `torch.load` allow what this version of PyTorch allows by itself, and nothing else."""


@pytest.fixture(autouse=True)
def _values_of_later_versions(request: pytest.FixtureRequest) -> Iterator[None]:
    is_old = TORCH < (2, 6)
    if not is_old or "as_the_installed_torch_loads" in request.fixturenames:
        yield
        return
    torch.serialization.add_safe_globals(ALLOWED_LATER)
    yield
    torch.serialization.clear_safe_globals()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[CheckpointManager]:
    """A manager of an empty directory."""
    with CheckpointManager(tmp_path / "run") as manager:
        yield manager
