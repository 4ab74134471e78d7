"""Training checkpoints that are ordinary PyTorch files, survive any crash and are never silently wrong."""

from __future__ import annotations

from scai import _native, errors
from scai._files import LazyTensor, Verification, load, save, verify
from scai._foreign import ForeignObject

__version__: str = _native.__version__

__all__ = [
    "ForeignObject",
    "LazyTensor",
    "Verification",
    "errors",
    "__version__",
    "load",
    "save",
    "verify",
]
