"""What versions of PyTorch do differently."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def before_loads(module: torch.nn.Module, hook: Callable[..., None]) -> Any:
    """Call `hook` before a state is loaded into a module; what is returned removes it."""
    # Public from 2.5 on.
    private: Any = module._register_load_state_dict_pre_hook
    register: Any = getattr(module, "register_load_state_dict_pre_hook", private)
    return register(hook)


def count_writes(tensors: Iterable[torch.Tensor]) -> None:
    """Let autograd notice that tensors were written to, as if PyTorch had."""
    import torch

    increment: Any = torch.autograd.graph.increment_version
    for tensor in tensors:
        # Several at once from 2.5 on.
        increment(tensor)


def plain_state(state: Any) -> Any:
    """The state of a scheduler as the newest PyTorch has it.

    In older ones that of SWALR holds a function, which `torch.load` refuses, and not its name.
    """
    if not isinstance(state, dict):
        return state
    if isinstance(inner := state.get("_schedulers"), list):
        state = {**state, "_schedulers": [plain_state(each) for each in inner]}
    if "anneal_func" in state:
        for name, function in _annealing().items():
            if state["anneal_func"] is function:
                state = {key: value for key, value in state.items() if key != "anneal_func"}
                return {**state, "_anneal_strategy": name}
    return state


def loaded_state(scheduler: Any) -> None:
    """Give a scheduler the function whose name its state held."""
    for inner in getattr(scheduler, "_schedulers", None) or ():
        loaded_state(inner)
    # The newest does so itself.
    if hasattr(scheduler, "anneal_func") and not hasattr(scheduler, "_set_anneal_func"):
        name = getattr(scheduler, "_anneal_strategy", None)
        scheduler.anneal_func = _annealing().get(name, scheduler.anneal_func)
        # Its own state dict does not have it.
        vars(scheduler).pop("_anneal_strategy", None)


def _annealing() -> Mapping[Any, Any]:
    from torch.optim.swa_utils import SWALR

    return {"cos": SWALR._cosine_anneal, "linear": SWALR._linear_anneal}
