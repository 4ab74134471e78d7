"""What comes back from a checkpoint as it was, for whoever reads it: with or without code, by scai or not."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

_LEAVES = {type(None), bool, int, float, complex, str, bytearray}


def first_object(value: Any) -> str | None:
    """The first value that is saved as something else or not at all, such as "`hparams.color`, a `Color`";
    `None` if ``torch.load(weights_only=True)`` gives back all of them.

    Subclasses count as other classes, and so do tensors with attributes.
    """
    try:
        found = _search(value)
    except RecursionError:
        return "containers that are nested too deeply, or hold themselves"
    if found is None:
        return None
    path, kind = found
    module = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
    name = f"{module}{kind.__qualname__}"
    return f"`{'.'.join(reversed(path)) or 'the whole'}`, of type `{name}`"


def _search(value: Any) -> tuple[list[str], type] | None:
    """The type of that value and the keys that lead to it, the innermost first."""
    kind = type(value)
    if kind in _LEAVES:
        return None
    if kind is dict or kind is OrderedDict:
        for key, item in value.items():
            if _search(key) is not None:
                return [repr(key)], type(key)
            if (found := _search(item)) is not None:
                found[0].append(str(key))
                return found
        return _search(vars(value)) if kind is OrderedDict and vars(value) else None
    if kind is list or kind is tuple or kind is set:
        for index, item in enumerate(value):
            if (found := _search(item)) is not None:
                found[0].append(str(index))
                return found
        return None
    if kind is bytes:
        return None if value else ([], kind)
    return None if _is_torchs(value, kind) else ([], kind)


def _is_torchs(value: Any, kind: type) -> bool:
    import torch

    if kind is torch.Tensor or kind is torch.nn.Parameter:
        return not vars(value)
    return kind in (torch.dtype, torch.device, torch.Size, torch.layout)
