"""What stands in for objects that only code could make."""

from __future__ import annotations

import logging
from typing import Any

from scai import _native

_log = logging.getLogger("scai")

_FEW = 8


class ForeignObject:
    """What `scai.load(path, foreign="stand-in")` has in place of an object that needs code.

    Attributes:
        class_name: the class or function that would make it, such as ``argparse.Namespace``.
        content: what it is made of, as far as that is data: arguments and elements by their
            numbers, attributes by their names. Of a whole ``torch.nn.Module``, its state dict.
    """

    def __init__(self, class_name: str, content: dict[Any, Any]) -> None:
        self.class_name = class_name
        self.content = content

    def __repr__(self) -> str:
        return f"ForeignObject({self.class_name!r}, {len(self.content)} entries)"


def warn_of_objects(tree: _native.Tree, path: object) -> list[str]:
    """Log which objects of a file have stand-ins; returns them as ``path (class)``."""
    found = [f"{where or 'the whole'} ({name})" for where, name in tree.objects()]
    if found:
        more = f" and {len(found) - _FEW} more" if len(found) > _FEW else ""
        _log.warning(
            "`%s` holds objects that only code could create, which is not run: %s%s",
            path,
            ", ".join(found[:_FEW]),
            more,
        )
    return found
