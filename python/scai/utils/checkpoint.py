"""`CheckpointManager` and what its calls return, under the name that the original guide imports."""

from __future__ import annotations

from scai._checkpoint import Checkpoint
from scai._files import Verification
from scai._handle import SaveHandle
from scai._manager import CheckpointManager
from scai._report import LoadReport
from scai._results import Resumed, SaveInfo, Skipped, Verdict
from scai._timeline import Timeline

__all__ = [
    "Checkpoint",
    "CheckpointManager",
    "LoadReport",
    "Resumed",
    "SaveHandle",
    "SaveInfo",
    "Skipped",
    "Timeline",
    "Verdict",
    "Verification",
]
