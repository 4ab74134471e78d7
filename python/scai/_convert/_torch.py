"""PyTorch's own objects that are no tensors."""

from __future__ import annotations

from typing import Any

from scai._convert._common import Absent, Converted, FromPlain, exactly, tensor_of
from scai._convert._refuse import reason

_MEMORY_FORMATS = ("contiguous_format", "preserve_format", "channels_last", "channels_last_3d")


def to_plain(value: object) -> Converted | None:
    """The plain value and tag of an object of torch; none where it is not."""
    import torch

    if type(value) is torch.Generator:
        return value.get_state(), ["torch.Generator", str(value.device)]
    if type(value) is torch.memory_format:
        return str(value).removeprefix("torch."), ["torch.memory_format"]
    if type(value) in (torch.finfo, torch.iinfo):
        info: Any = value
        return getattr(torch, info.dtype), [f"torch.{type(value).__name__}"]
    if isinstance(value, torch.nn.Module | torch.optim.Optimizer):
        raise TypeError(reason(value))  # also where it is a dataclass
    return None


def _to_generator(plain: object, device: object) -> object:
    import torch

    state = tensor_of(plain)
    if state is None:
        return plain
    target = torch.device(exactly(str, device))
    try:
        generator = torch.Generator(target)
    except (RuntimeError, AssertionError):
        raise Absent(
            f"there is no {target} here, so a torch.Generator of it is loaded as its state"
        ) from None
    generator.set_state(state.cpu())
    return generator


def _to_memory_format(plain: object) -> object:
    import torch

    if plain not in _MEMORY_FORMATS:
        raise ValueError(f"`{plain}` is not a memory format")
    return getattr(torch, exactly(str, plain))


def _to_finfo(plain: object) -> object:
    import torch

    return torch.finfo(exactly(torch.dtype, plain))


def _to_iinfo(plain: object) -> object:
    import torch

    return torch.iinfo(exactly(torch.dtype, plain))


FROM_PLAIN: dict[str, FromPlain] = {
    "torch.Generator": _to_generator,
    "torch.memory_format": _to_memory_format,
    "torch.finfo": _to_finfo,
    "torch.iinfo": _to_iinfo,
}
