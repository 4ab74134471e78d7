"""Values that a checkpoint has no form for: made plain to be saved, and what they were when loaded.

A checkpoint holds only what ``torch.load(path, weights_only=True)`` accepts. `to_plain` turns any
other value into one of these, and gives a tag, a list that JSON can hold, from which `from_plain`
makes the original. The tags stand in a record of the file that bare ``torch.load`` ignores, so
there a path is a string and a NumPy array a tensor.

Nothing that a file says is run. A class that a tag names is taken only from the modules that are
loaded already, and must be of the kind it was; its ``__init__``, ``__new__``, ``__setattr__`` and
``__setstate__`` are not called. Where it is missing, the plain value comes back with a warning that
says what to import.
"""

from __future__ import annotations

import sys
import warnings

from scai._convert import _classes, _refuse, _standard
from scai._convert._common import Absent, Tag

__all__ = ["from_plain", "to_plain"]


def to_plain(value: object) -> tuple[object, Tag]:
    """What stands for `value` in the file, and the tag that makes it what it was.

    The plain value may hold further values that must be made plain in turn.

    Raises:
        TypeError: the value cannot be saved; the message says what it is and what to do.
    """
    converter = _standard.TO_PLAIN.get(type(value))
    if converter is not None:
        return converter(value)
    if "numpy" in sys.modules:
        from scai._convert import _numpy

        converted = _numpy.to_plain(value)
        if converted is not None:
            return converted
    if "torch" in sys.modules:
        from scai._convert import _torch

        converted = _torch.to_plain(value)
        if converted is not None:
            return converted
    converted = _classes.to_plain(value)
    if converted is not None:
        return converted
    raise TypeError(_refuse.reason(value))


def from_plain(plain: object, tag: Tag) -> object:
    """What `plain` was before `to_plain`; the values it holds are already what they were.

    Warns where a class or a library is missing here, and returns `plain`.

    Raises:
        ValueError: `tag` is not one that `to_plain` makes, or does not belong to `plain`.
    """
    if not (type(tag) is list and tag and type(tag[0]) is str):
        raise ValueError(f"not a tag of a value: {tag!r}")
    kind, details = tag[0], tag[1:]
    try:
        restore = _standard.FROM_PLAIN.get(kind) or _classes.FROM_PLAIN.get(kind)
        if restore is None and kind.startswith("numpy."):
            from scai._convert import _numpy

            restore = _numpy.FROM_PLAIN.get(kind)
        elif restore is None and kind.startswith("torch."):
            from scai._convert import _torch

            restore = _torch.FROM_PLAIN.get(kind)
        if restore is None:
            raise ValueError(
                f"`{kind}` is not a known kind of value; a newer scai may have saved it"
            )
        return restore(plain, *details)
    except Absent as absent:
        warnings.warn(str(absent), UserWarning, stacklevel=2)
        return plain
    except ImportError as error:
        library = kind.partition(".")[0]
        warnings.warn(
            f"{error}: a value of {library} is loaded as plain {type(plain).__name__}",
            UserWarning,
            stacklevel=2,
        )
        return plain
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError) as error:
        raise ValueError(f"the tag {tag!r} does not fit its value: {error}") from error
