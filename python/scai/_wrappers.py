"""Wrappers of modules, which checkpoints see through, and classes that divide a state among ranks."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any


def unwrapped(thing: Any) -> Any:
    """The module inside `DistributedDataParallel`, `DataParallel` and `torch.compile`, in any order; what
    is not wrapped as it is."""
    return _layers(thing)[-1][1]


def layer_named_like(thing: Any, names: Callable[[], Iterable[str]]) -> Any:
    """The wrapper or the module inside whose names are the most like saved ones.

    Checkpoints hold the names of the module inside, except those that were made of the state dict of a
    wrapper.

    Args:
        thing: a module, wrapped or not.
        names: the saved names, which are only asked for if it is wrapped.
    """
    layers = _layers(thing)
    if len(layers) == 1:
        return thing
    saved = set(names())
    own = list(layers[-1][1].state_dict())
    # Of several, the innermost.
    _, best = max(
        reversed(layers), key=lambda layer: sum(f"{layer[0]}{name}" in saved for name in own)
    )
    return best


def _layers(thing: Any) -> list[tuple[str, Any]]:
    """The wrappers and the module inside, outermost first, each with what the wrappers from it on add to a
    name."""
    found: list[tuple[str, Any]] = []
    while (attribute := _inner(thing)) is not None:
        found.append((attribute, thing))
        thing = getattr(thing, attribute)
    layers = [("", thing)]
    for attribute, wrapper in reversed(found):
        layers.insert(0, (f"{attribute}.{layers[0][0]}", wrapper))
    return layers


def _inner(thing: Any) -> str | None:
    """The attribute in which a wrapper holds its module."""
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(thing, torch.nn.Module):
        return None
    if type(thing).state_dict is not torch.nn.Module.state_dict:
        # A class that names its state itself.
        return None
    if isinstance(thing, (torch.nn.parallel.DistributedDataParallel, torch.nn.DataParallel)):
        return "module"
    compiled = sys.modules.get("torch._dynamo.eval_frame")
    return "_orig_mod" if compiled and isinstance(thing, compiled.OptimizedModule) else None


_DIVIDED = {
    "FullyShardedDataParallel": (
        "torch.distributed.fsdp",
        "each rank holds another part of its parameters; use torch.distributed.fsdp.fully_shard, or "
        "save the whole state dict on rank 0 with `process_group=False`",
    ),
    "ZeroRedundancyOptimizer": (
        "torch.distributed.optim",
        "each rank holds another part of its state; use an ordinary optimizer, or call "
        "`consolidate_state_dict(to=0)` on all ranks and save on rank 0 with `process_group=False`",
    ),
    "DeepSpeedEngine": (
        "deepspeed",
        "each rank holds another part of its state; use the `save_checkpoint` of the engine",
    ),
    "DeepSpeedOptimizer": (
        "deepspeed",
        "each rank holds another part of its state; use the `save_checkpoint` of the engine",
    ),
}
"""By the name of a class where it is from, and what to do instead."""


def check_not_divided(things: Mapping[str, Any]) -> None:
    """Refuse what is known to keep another part of a state on each rank under the same names.

    Args:
        things: models, optimizers and other parts by the names that errors call them.

    Raises:
        TypeError: one of them does, with what to do instead.
    """
    for what, thing in things.items():
        modules = getattr(thing, "modules", None)
        inside = modules() if callable(modules) and hasattr(thing, "parameters") else ()
        for cls in {type(part) for part in (thing, *inside)}:
            for base in cls.__mro__:
                package, advice = _DIVIDED.get(base.__name__, (None, ""))
                if package and f"{base.__module__}.".startswith(f"{package}."):
                    is_it = "is" if isinstance(thing, base) else "contains"
                    raise TypeError(f"`{what}` {is_it} a {base.__name__}: {advice}")
