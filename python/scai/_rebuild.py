"""Tensors that PyTorch makes by a constructor of its own: sparse, quantised, without data."""

from __future__ import annotations

import importlib
import warnings
from typing import Any


def rebuild(module: str, name: str, args: tuple[Any, ...]) -> Any:
    """Call a constructor from the engine's table of those that `torch.load` accepts."""
    constructor = getattr(importlib.import_module(module), name)
    with warnings.catch_warnings():
        # That it goes through typed storages, and looks at each index, is as it has to be.
        warnings.simplefilter("ignore", UserWarning)
        made = constructor(*args)
        if name == "_rebuild_sparse_tensor":
            _validate_sparse()
    return made


def _validate_sparse() -> None:
    """Refuse indices outside the tensor, with which PyTorch would read outside its memory."""
    import torch

    validate: Any = torch._utils._validate_loaded_sparse_tensors
    try:
        validate(weights_only=True)
    except TypeError:
        # Versions before 2.9 take no argument.
        validate()
