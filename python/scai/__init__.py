"""Training checkpoints that are ordinary PyTorch files, survive any crash and are never silently wrong."""

from __future__ import annotations

from scai import errors

__all__ = ["errors"]
