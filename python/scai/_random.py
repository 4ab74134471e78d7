"""The state of the global generators of random numbers, captured and restored exactly.

These are Python's `random`, NumPy's legacy generator where NumPy is loaded, and torch's for the
CPU and for the devices that are in use. A generator of one's own (`np.random.default_rng()`,
`torch.Generator()`) is not among them; save it as an extra value.
"""

from __future__ import annotations

import functools
import random
import sys
import warnings
from collections.abc import Callable
from typing import Any

__all__ = ["capture", "prepared", "restore"]

_PARTS = ("python", "numpy", "torch", "cuda", "xpu", "mps")
_BIT_GENERATORS = ("MT19937", "PCG64", "PCG64DXSM", "Philox", "SFC64")


def capture() -> dict[str, object]:
    """The states, in values that ``torch.load(weights_only=True)`` accepts.

    The keys are ``python``, and where they are in use ``numpy``, ``torch``, ``cuda`` and ``xpu``
    (a list with a tensor for each device) and ``mps``.
    """
    state: dict[str, object] = {"python": random.getstate()}
    if "numpy" in sys.modules:
        import numpy as np

        state["numpy"] = _lists(np.random.get_state(legacy=False))
    if "torch" in sys.modules:
        import torch

        state["torch"] = torch.get_rng_state()
        for name in ("cuda", "xpu"):
            devices = getattr(torch, name)
            # Asking a device that is not in use yet would start it.
            if devices.is_available() and devices.is_initialized():
                states = [devices.get_rng_state(i) for i in range(devices.device_count())]
                state[name] = [each.cpu() for each in states]
        if torch.backends.mps.is_available():
            state["mps"] = torch.mps.get_rng_state().cpu()
    return state


def restore(state: object) -> None:
    """Set the generators to what `capture` returned, in this process or another.

    Everything is checked before anything is changed. What the state holds for a library or a
    device that is not here is left out, with a warning. NumPy and torch are imported where the
    state holds something for them.

    Raises:
        ValueError: the state is not one that `capture` returns.
    """
    prepared(state)()


def prepared(state: object) -> Callable[[], None]:
    """What sets the generators to a state that has been checked; otherwise as `restore`."""
    if not isinstance(state, dict) or "python" not in state:
        raise ValueError(
            "not the state of the random generators: it has no entry `python`; load with rng=False "
            "to leave them as they are"
        )
    steps: list[Callable[[], object]] = []
    for name in state:
        if name not in _PARTS:
            _warn(f"the random state has an entry `{name}`, which is not known here")
    for name in _PARTS:
        if name in state:
            try:
                steps += _CHECKS[name](state[name])
            except ImportError:
                _warn(f"the random state of {name} is left out: {name} is not installed here")
            except Exception as error:
                raise ValueError(
                    f"the random state of {name} is invalid: {error}; load with rng=False to leave "
                    "the generators as they are"
                ) from error

    def restore() -> None:
        for step in steps:
            step()

    return restore


def _warn(message: str) -> None:
    warnings.warn(message, UserWarning, stacklevel=4)


# Each of these tries a state on a generator of its own, and gives what sets the global one.


def _python(state: Any) -> list[Callable[[], object]]:
    version, internal, gauss = state
    whole = (version, tuple(internal), gauss)
    random.Random().setstate(whole)
    return [lambda: random.setstate(whole)]


def _numpy(state: Any) -> list[Callable[[], object]]:
    import numpy.random

    np: Any = numpy
    name = state["bit_generator"]
    if name not in _BIT_GENERATORS:
        raise ValueError(f"`{name}` is not a bit generator of NumPy")
    bits = getattr(np.random, name)(0)
    made: Any = np.random.RandomState(bits)
    whole = _arrays(state, like=made.get_state(legacy=False))
    made.set_state(whole)
    if np.random.get_state(legacy=False)["bit_generator"] == name:
        return [lambda: np.random.set_state(whole)]
    return [lambda: np.random.set_bit_generator(bits), lambda: np.random.set_state(whole)]


def _torch(state: Any) -> list[Callable[[], object]]:
    import torch

    whole = state.cpu()
    torch.Generator().set_state(whole)
    return [lambda: torch.set_rng_state(whole)]


def _devices(name: str) -> Callable[[Any], list[Callable[[], object]]]:
    def check(states: Any) -> list[Callable[[], object]]:
        import torch

        devices = getattr(torch, name)
        count = devices.device_count() if devices.is_available() else 0
        if count < len(states):
            _warn(
                f"the random state has {len(states)} {name} devices, of which {count} are here; "
                "the others are left out"
            )
        whole = [each.cpu() for each in states[:count]]
        for i, each in enumerate(whole):
            torch.Generator(f"{name}:{i}").set_state(each)
        return [functools.partial(devices.set_rng_state, each, i) for i, each in enumerate(whole)]

    return check


def _mps(state: Any) -> list[Callable[[], object]]:
    import torch

    whole = state.cpu()
    if not torch.backends.mps.is_available():
        _warn("the random state has an mps device, which is not here; it is left out")
        return []
    torch.Generator("mps").set_state(whole)
    return [lambda: torch.mps.set_rng_state(whole)]


_CHECKS: dict[str, Callable[[Any], list[Callable[[], object]]]] = {
    "python": _python,
    "numpy": _numpy,
    "torch": _torch,
    "cuda": _devices("cuda"),
    "xpu": _devices("xpu"),
    "mps": _mps,
}


def _lists(state: Any) -> Any:
    """A state of NumPy with lists in place of arrays."""
    if isinstance(state, dict):
        return {name: _lists(part) for name, part in state.items()}
    return state.tolist() if hasattr(state, "tolist") else state


def _arrays(state: Any, like: Any) -> Any:
    """The inverse of `_lists`, with the types and lengths of another state of the same kind."""
    import numpy as np

    if isinstance(like, dict):
        if set(state) != set(like):
            raise ValueError(f"it has {sorted(state)} in place of {sorted(like)}")
        return {name: _arrays(state[name], part) for name, part in like.items()}
    if isinstance(like, np.ndarray):
        array = np.array(state, like.dtype)
        if array.shape != like.shape:
            raise ValueError(f"it has {array.shape} numbers in place of {like.shape}")
        return array
    return type(like)(state)
