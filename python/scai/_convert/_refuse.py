"""What to say of a value that cannot be saved."""

from __future__ import annotations

import collections
import functools
import io
import re
import sys
import threading
import types
from collections.abc import Iterator

_CODE = (
    types.FunctionType,
    types.BuiltinFunctionType,
    types.MethodType,
    types.CodeType,
    functools.partial,
)
_VIEWS: tuple[type, ...] = (type({}.keys()), type({}.values()), type({}.items()))
_LOCKS = (type(threading.Lock()), type(threading.RLock()), threading.Thread)


def reason(value: object) -> str:
    """What the value is, and what to save in its place."""
    cls = type(value)
    name = (
        cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"
    )
    if isinstance(value, type):
        return (
            f"the class `{value.__qualname__}` is code; save its name, and look it up when loading"
        )
    if isinstance(value, _CODE):
        of = getattr(value, "__qualname__", name)
        return f"`{of}` is code, which a checkpoint does not hold; save its name or its arguments"
    if isinstance(value, types.ModuleType):
        return f"`{value.__name__}` is a module; save its name"
    if isinstance(value, io.IOBase):
        return "an open file cannot be saved; save its path and its position"
    if isinstance(value, _LOCKS):
        return f"a {name} belongs to the process that runs and cannot be saved; leave it out"
    if isinstance(value, (Iterator, *_VIEWS)):
        return f"a {name} has no length or place that could be saved; save list(value)"
    if isinstance(value, re.Pattern):
        return "a compiled pattern cannot be saved; save value.pattern"
    if isinstance(value, BaseException):
        return "an exception cannot be saved; save repr(value)"
    if isinstance(value, collections.UserDict):
        return f"a {name} cannot be saved; save dict(value)"
    if isinstance(value, collections.UserList):
        return f"a {name} cannot be saved; save list(value)"
    return _of_library(value, name)


def _of_library(value: object, name: str) -> str:
    cls = type(value)
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        return (
            f"a tensor of class {name} is known only to the program that made it; save an ordinary "
            "tensor with its data"
        )
    if callable(getattr(cls, "state_dict", None)):
        return (
            f"a {name} is code and state; save value.state_dict(), and load it into an object made "
            "in the same way"
        )
    for method in ("model_dump", "to_dict", "to_pydatetime", "to_numpy", "_asdict", "todict"):
        if callable(getattr(cls, method, None)):
            return f"a {name} cannot be saved; save value.{method}()"
    if hasattr(cls, "__attrs_attrs__"):
        return f"a {name} cannot be saved; save attrs.asdict(value)"
    if cls.__module__.partition(".")[0] == "omegaconf":
        return f"a {name} cannot be saved; save OmegaConf.to_container(value, resolve=True)"
    if hasattr(cls, "__del__"):
        return f"a {name} has a finalizer and cannot be made again; save a dict of its attributes"
    return f"a {name} cannot be saved; make it a dataclass, or save a dict of its attributes"
