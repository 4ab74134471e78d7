"""Reading live memory while training goes on: which tensors may be, and the fence that waits.

An optimizer changes parameters and its own state in `step()` and nowhere else, so until the next
step these can be written straight from where they are (the idea of DataStates-LLM, arXiv
2601.16956, with the optimizer's own hook as the fence). Everything else is copied at once.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from scai import _native

if TYPE_CHECKING:
    import torch

_POLL = 0.1
"""Seconds between two looks whether the user wants to interrupt a wait."""


def live_addresses(model: Any, optimizer: Any) -> set[int]:
    """The addresses of the memory that only a step of `optimizer` changes."""
    import torch

    if not isinstance(optimizer, torch.optim.Optimizer):
        return set()
    tensors = [*_parameters(optimizer), *_state(optimizer)]
    excluded: set[int] = set()
    if isinstance(model, torch.nn.Module):
        # Frozen: nobody changes them, and the fingerprint sees to it that nobody did.
        tensors += [p for p in model.parameters() if not p.requires_grad]
        excluded = _changed_by_forward(model)
    return {
        tensor.untyped_storage().data_ptr()
        for tensor in tensors
        if type(tensor) in (torch.Tensor, torch.nn.Parameter)
        and tensor.layout is torch.strided
        and tensor.is_cpu
        and not tensor.untyped_storage().is_shared()
    } - excluded


def _parameters(optimizer: torch.optim.Optimizer) -> Iterator[torch.Tensor]:
    for group in optimizer.param_groups:
        yield from group["params"]


def _state(optimizer: torch.optim.Optimizer) -> Iterator[torch.Tensor]:
    import torch

    for state in optimizer.state.values():
        values: Iterable[Any] = state.values() if isinstance(state, dict) else ()
        for value in values:
            if isinstance(value, torch.Tensor):
                yield value


def _changed_by_forward(model: torch.nn.Module) -> set[int]:
    """Parameters that a forward pass changes: embeddings that keep their norm."""
    import torch

    embeddings = (torch.nn.Embedding, torch.nn.EmbeddingBag)
    return {
        module.weight.untyped_storage().data_ptr()
        for module in model.modules()
        if isinstance(module, embeddings) and module.max_norm is not None
    }


class Fence:
    """Keeps live memory as it is until it has been read.

    It waits before the next step of any optimizer of the process, and before anything is loaded
    into the model or the optimizer. It goes away by itself.
    """

    def __init__(self, model: Any, optimizer: Any) -> None:
        import torch
        from torch.optim.optimizer import register_optimizer_step_pre_hook

        self._process = os.getpid()
        self._tree: _native.Tree | None = None
        # The hook of all optimizers also reaches copies of this one, as GradScaler makes them.
        self._hooks: list[Any] = [register_optimizer_step_pre_hook(self._wait)]
        self._hooks.append(optimizer.register_load_state_dict_pre_hook(self._wait))
        if isinstance(model, torch.nn.Module):
            register: Any = model.register_load_state_dict_pre_hook
            self._hooks.append(register(self._wait))

    def guard(self, tree: _native.Tree) -> None:
        """From now on wait for what this tree has not read yet."""
        self._tree = tree

    def _wait(self, *_: Any, **__: Any) -> None:
        self.lift()

    def lift(self) -> None:
        """Wait until all live memory has been read, and let it change again."""
        # A forked child has no thread that reads, and memory of its own.
        if self._tree is not None and os.getpid() == self._process:
            while not self._tree.wait_captured(_POLL):
                pass
        self.remove()

    def remove(self) -> None:
        """Let memory change without waiting."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        self._tree = None
