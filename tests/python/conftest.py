"""What several tests begin with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from scai.utils.checkpoint import CheckpointManager


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[CheckpointManager]:
    """A manager of an empty directory."""
    with CheckpointManager(tmp_path / "run") as manager:
        yield manager
