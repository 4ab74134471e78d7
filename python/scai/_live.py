"""Reading live memory while training goes on: which tensors may be, and the fence that waits.

An optimizer changes parameters and its own state in `step()` and nowhere else, so until the next
step these can be written straight from where they are (the idea of DataStates-LLM, arXiv
2601.16956, with the optimizer's own hook as the fence). Everything else is copied at once.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from scai import _native
from scai._shards import local
from scai._versions import before_loads

if TYPE_CHECKING:
    import torch

    from scai._cuda import Staging

_fences: list[Fence] = []
_is_hooked = False


class Versions:
    """What is known of frozen parameters: how often each was written to when it was last saved.

    That a parameter needs no gradient does not mean that nobody changes it: a momentum encoder
    changes with every forward pass. One that did not change since the last save is read live.
    """

    def __init__(self) -> None:
        self._seen: dict[int, int] = {}

    def unchanged(self, frozen: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Those that were not written to since the last call."""
        # An inference tensor counts no writes.
        counted = [tensor for tensor in frozen if not tensor.is_inference()]
        before, self._seen = self._seen, {t.data_ptr(): t._version for t in counted}
        return [t for t in counted if before.get(t.data_ptr()) == t._version]


def waiting(optimizers: Iterable[Any]) -> list[torch.optim.Optimizer]:
    """Those whose steps can be made to wait."""
    import torch

    return [
        optimizer
        for optimizer in optimizers
        if isinstance(optimizer, torch.optim.Optimizer)
        and getattr(type(optimizer).step, "hooked", False)
    ]


def live_memory(
    models: Iterable[Any], optimizers: Sequence[torch.optim.Optimizer], versions: Versions
) -> _native.Live | None:
    """The memory that only a step of one of the optimizers changes; `None` if there is little of it.

    Args:
        models: whose buffers and frozen parameters are known then.
        optimizers: those whose steps can be made to wait.
        versions: of the frozen parameters.
    """
    import torch

    if not optimizers:
        return None
    parameters = [*itertools.chain.from_iterable(map(_parameters, optimizers))]
    states = itertools.chain.from_iterable(map(_state, optimizers))
    tensors = [*map(local, parameters), *map(local, states)]
    # A backward pass changes these, and an optimizer may have kept one.
    others: Iterator[torch.Tensor] = (local(grad) for p in parameters if (grad := p.grad) is not None)
    frozen: list[torch.Tensor] = []
    for model in models:
        if isinstance(model, torch.nn.Module):
            frozen += (p for p in model.parameters() if not p.requires_grad and _is_plain(p))
            # A forward pass changes these, and they may lie in the memory of a parameter.
            others = itertools.chain(others, map(local, model.buffers()), map(local, _renormalized(model)))
    tensors += versions.unchanged(frozen)
    return _native.Live(tensors, others) or None


def _is_plain(tensor: torch.Tensor) -> bool:
    """Whether it is a tensor of PyTorch's own class, of which everything can be asked."""
    import torch

    return type(tensor) is torch.Tensor or type(tensor) is torch.nn.Parameter


def _parameters(optimizer: torch.optim.Optimizer) -> Iterator[torch.Tensor]:
    return itertools.chain.from_iterable(group["params"] for group in optimizer.param_groups)


def _state(optimizer: torch.optim.Optimizer) -> Iterator[Any]:
    """What an optimizer keeps of each parameter, tensors among it."""
    states = (state for state in optimizer.state.values() if isinstance(state, dict))
    return itertools.chain.from_iterable(state.values() for state in states)


def _renormalized(model: torch.nn.Module) -> Iterator[torch.Tensor]:
    """Parameters that a forward pass changes: embeddings that keep their norm."""
    import torch

    embeddings = (torch.nn.Embedding, torch.nn.EmbeddingBag)
    for module in model.modules():
        if isinstance(module, embeddings) and module.max_norm is not None:
            yield module.weight


class Reading(Protocol):
    """A save that reads live memory."""

    def is_captured(self) -> bool:
        """Whether all of it has been read, or the save has ended."""

    def copy_rest(self, room: int) -> None:
        """Copy what has not been read yet, up to so many bytes."""

    def wait_captured(self) -> None:
        """Wait until all of it has been read, or the save has ended."""

    def release(self) -> None:
        """The memory may change."""


class Fence:
    """Keeps live memory as it is until it has been read.

    It waits before the next step of any optimizer of the process, and before anything is loaded
    into one of the models or optimizers. It stands within a ``with``, in which the save is begun and
    announced by `guard`, and from then on until the memory has been read.

    Args:
        models, optimizers: whose memory is read.
        room: bytes that may be copied instead of waiting until they have been read.

    Attributes:
        waited: seconds for which others waited, by now.
    """

    def __init__(
        self,
        models: Iterable[Any],
        optimizers: Iterable[torch.optim.Optimizer],
        room: Callable[[], int],
    ) -> None:
        import torch

        self.waited = 0.0
        self._room = room
        self._process = os.getpid()
        self._handle: Reading | None = None
        self._staging: Staging | None = None
        # Held until the save has begun: a step on another thread has to wait for that.
        self._begins = threading.RLock()
        _hook_steps()
        self._hooks: list[Any] = [
            *(each.register_load_state_dict_pre_hook(lift_all) for each in optimizers),
            *(before_loads(each, lift_all) for each in models if isinstance(each, torch.nn.Module)),
        ]

    def __enter__(self) -> Fence:
        self._begins.acquire()
        _fences.append(self)
        return self

    def guard(self, handle: Reading, staging: Staging | None) -> None:
        """From now on wait for what this save has not read yet."""
        self._handle, self._staging = handle, staging

    def __exit__(self, *_: object) -> None:
        if self._handle is None:
            self.remove()
        self._begins.release()

    def lift(self) -> None:
        """Wait until all live memory has been read."""
        # A forked child has no thread that reads, and memory of its own.
        if os.getpid() != self._process:
            return
        began = time.monotonic()
        with self._begins:
            handle, staging = self._handle, self._staging
        if handle is not None:
            if not handle.is_captured():
                # Copying takes less time than waiting for the device.
                handle.copy_rest(self._room())
                handle.wait_captured()
            handle.release()
        if staging is not None:
            staging.fence()
        self.waited += time.monotonic() - began

    def remove(self) -> None:
        """Let memory change without waiting. Not from within one of the load hooks."""
        with contextlib.suppress(ValueError):
            _fences.remove(self)
        self._staging = None
        for hook in self._hooks:
            hook.remove()


def lift_all(*_: Any, **__: Any) -> None:
    """Wait until no live memory of this process is being read."""
    for fence in tuple(_fences):
        fence.lift()


def _before_step(*_: Any, **__: Any) -> None:
    for fence in tuple(_fences):
        fence.lift()
        fence.remove()


def _hook_steps() -> None:
    """Make the steps of all optimizers wait for the fences there are.

    The hook of all optimizers also reaches copies of one, as GradScaler makes them. It stays, since
    a hook cannot remove itself while PyTorch goes through them.
    """
    global _is_hooked
    if not _is_hooked:
        import torch
        from torch.optim.optimizer import register_optimizer_step_pre_hook

        # A compiler would take the fences there are for ever the same.
        disable: Any = torch.compiler.disable
        register_optimizer_step_pre_hook(disable(_before_step))
        _is_hooked = True
