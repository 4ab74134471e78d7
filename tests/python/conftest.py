"""What several tests begin with."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
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


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[CheckpointManager]:
    """A manager of an empty directory."""
    with CheckpointManager(tmp_path / "run") as manager:
        yield manager
