"""Frozen parameters that a checkpoint leaves out: recorded at the save, recognized at the load.

Fine-tuning with LoRA and its kind trains a small part of a model, and the rest is what was downloaded.
A checkpoint without that rest is small; to be of use, it must say what the rest was.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from scai import _native

if TYPE_CHECKING:
    import torch

_log = logging.getLogger("scai")

FIELD = "frozen_parameters"
"""The field of a checkpoint that records them: for each name element type, shape and digest."""

Record = Mapping[str, Mapping[str, Any]]

_SAMPLES = 256
"""Elements that are compared at each save to notice writes that PyTorch does not count."""


@dataclass
class _Known:
    """What is known of a frozen parameter.

    Attributes:
        look: what shows whether it was written to since.
        digest: of its elements.
    """

    look: tuple[Any, ...]
    digest: str


_SAVED = _Known((), "")
"""In place of what is known: the parameter was trained or has changed, so checkpoints must hold it."""

_registry: Any = None


def _known() -> Any:
    """What is known of the parameters of this process, for as long as each is there."""
    global _registry
    if _registry is None:
        from torch.utils.weak import WeakIdKeyDictionary

        _registry = WeakIdKeyDictionary()
    return _registry


def without_frozen(
    model: Any, optimizers: Iterable[Any], state: Any, what: str
) -> tuple[Any, dict[str, dict[str, Any]]]:
    """The state of a module without its frozen parameters, and the record of these.

    What is left out is what the model was built from. A parameter that was trained before it was frozen
    stays in the state, and so does one that has changed since it was first left out.

    Args:
        model: the module.
        optimizers: those that train it.
        state: its state dict.
        what: how errors call it.

    Raises:
        TypeError: it is no module.
        ValueError: all of its parameters are frozen.
    """
    import torch

    if not isinstance(model, torch.nn.Module):
        raise TypeError(
            f'`only="trainable"` needs a module, which says what is trained; `{what}` is a '
            f"{type(model).__name__}"
        )
    named = dict(model.named_parameters(remove_duplicate=False))
    if named and not any(parameter.requires_grad for parameter in named.values()):
        raise ValueError(
            f'all parameters of `{what}` are frozen, and `only="trainable"` would save none of them'
        )
    stepped = {id(p) for optimizer in optimizers for p in getattr(optimizer, "state", ())}
    frozen: dict[str, torch.nn.Parameter] = {}
    for name, parameter in named.items():
        if parameter.requires_grad or id(parameter) in stepped:
            _known()[parameter] = _SAVED
        elif name in state:
            frozen[name] = parameter
    kept = copy.copy(state)
    record = {
        name: _entry(kept.pop(name), digest) for name, digest in _unchanged(frozen).items()
    }
    return kept, record


def _unchanged(frozen: Mapping[str, torch.nn.Parameter]) -> dict[str, str]:
    """Those that hold what they held when they were first left out, with their digests, which are only
    computed if a parameter seems to have been written to."""
    known = _known()
    looks = {name: _look(p) for name, p in frozen.items() if known.get(p) is not _SAVED}
    unseen = {
        name: frozen[name]
        for name, look in looks.items()
        if (before := known.get(frozen[name])) is None or before.look != look
    }
    for name, digest in _computed(unseen).items():
        before = known.get(frozen[name])
        if before is None or before.digest == digest:
            known[frozen[name]] = _Known(looks[name], digest)
            continue
        known[frozen[name]] = _SAVED
        _log.warning(
            "`%s` needs no gradient, but has changed since a checkpoint left it out; from now on it is "
            "saved",
            name,
        )
    return {name: known[p].digest for name, p in frozen.items() if known[p] is not _SAVED}


def _computed(tensors: Mapping[str, torch.Tensor]) -> dict[str, str]:
    return dict(_native.Tree.encode({k: t.detach() for k, t in tensors.items()}).digests())


def _look(parameter: torch.Tensor) -> tuple[Any, ...]:
    """What changes if a tensor is written to, even past PyTorch's counter."""
    import torch

    step = max(1, parameter.numel() // _SAMPLES)
    sample = parameter.detach().reshape(-1)[::step].contiguous().cpu()
    count = None if parameter.is_inference() else parameter._version
    return count, parameter.data_ptr(), bytes(sample.view(torch.uint8).tolist())


def _entry(tensor: torch.Tensor, digest: str) -> dict[str, Any]:
    dtype = str(tensor.dtype).removeprefix("torch.")
    return {"dtype": dtype, "shape": list(tensor.shape), "xxh3_128": digest}


class Base:
    """The frozen parameters that a checkpoint leaves out, beside those of a model.

    Args:
        record: of the checkpoint.
        state: the state dict of the model.
        table: the remap table of the load.

    Attributes:
        same: names that hold what they held at the save.
        other: names that hold something else.
        absent: names that the model lacks.
    """

    def __init__(
        self, record: Record, state: Mapping[Any, Any], table: list[tuple[str, str]]
    ) -> None:
        names = _native.renamed(list(record), table)
        wanted = dict(zip(names, record.values(), strict=True))
        found = {name: state[name] for name in wanted if name in state}
        digests = _computed(found)
        self.absent = [name for name in wanted if name not in found]
        self.same = [
            name for name, digest in digests.items() if _entry(found[name], digest) == wanted[name]
        ]
        self.other = [name for name in found if name not in self.same]

    @property
    def hint(self) -> str:
        """What explains the differences."""
        return (
            f'the checkpoint was saved with `only="trainable"`; {len(self.other) + len(self.absent)} of '
            "the frozen parameters that it leaves out differ in this model: build the model from the "
            "weights that the run began with"
        )


def note_loaded(model: Any, names: Iterable[str]) -> None:
    """Keep saving the frozen parameters of a module that a checkpoint holds which leaves others out."""
    saved = set(names)
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if name in saved:
            _known()[parameter] = _SAVED
