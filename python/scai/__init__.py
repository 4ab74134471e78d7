"""Training checkpoints that are ordinary PyTorch files, survive any crash and are never silently wrong."""

from __future__ import annotations

from scai import _native, errors
from scai._files import LazyTensor, Verification, load, save, verify
from scai._foreign import ForeignObject
from scai._handle import SaveHandle
from scai._manager import CheckpointManager

__version__: str = _native.__version__

__all__ = [
    "CheckpointManager",
    "ForeignObject",
    "LazyTensor",
    "SaveHandle",
    "Verification",
    "errors",
    "__version__",
    "load",
    "save",
    "verify",
]
