"""Python's cyclic garbage collector, which stands still while much is made."""

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def no_collections() -> Iterator[None]:
    """Keep the collector from looking through what is being made and is in use anyway.

    A load makes several objects for each tensor. The collector would run again and again, each time
    through more of them: with 20,000 tensors it took a third to a half of the whole time.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
