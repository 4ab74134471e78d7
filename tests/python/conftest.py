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


# For what several tests share, which begins before any of them; and for each, whatever those before it have left.
_for_all = pytest.fixture(scope="session", autouse=True)(_signals_end_processes)
_for_each = pytest.fixture(autouse=True)(_signals_end_processes)

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
def one_thread() -> Iterator[None]:
    """OpenMP does not survive a fork."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def place(tmp_path: Path) -> str:
    """A directory that does not exist yet."""
    return str(tmp_path / "run")


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[CheckpointManager]:
    """A manager of an empty directory."""
    with CheckpointManager(tmp_path / "run") as manager:
        yield manager
