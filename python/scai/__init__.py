"""Training checkpoints that are ordinary PyTorch files, survive any crash and are never silently wrong."""

from __future__ import annotations

from scai import errors
from scai._files import LazyTensor, Verification, load, save, verify

__all__ = ["LazyTensor", "Verification", "errors", "load", "save", "verify"]
