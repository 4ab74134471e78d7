"""Loading into live objects: everything that can fail is done first, then all is changed at once."""

from __future__ import annotations

import contextlib
import copy
import logging
import signal
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from scai import _native, _random
from scai._files import THREADS
from scai._versions import loaded_state
from scai.errors import PartialLoadError

_log = logging.getLogger("scai")


class Load(Protocol):
    """A load of one object."""

    what: str
    """The argument that it is."""
    target: Any
    may_fail: bool
    """It is loaded by a way of its own, which is asked also in a dry run."""

    def prepare(self) -> None:
        """Read and make all that is needed, and change nothing."""

    def apply(self) -> None:
        """Change the object, as far as that can be undone."""

    def fill(self) -> None:
        """Change what cannot be undone: fill memory from the file."""

    def undo(self) -> list[str]:
        """Give it back the state it had; the names of what could not be."""
        ...


def state_of(thing: Any, what: str) -> Any:
    """The state dict of a module, of anything else with one, or a mapping as it is."""
    if isinstance(thing, Mapping):
        return thing
    state_dict = getattr(thing, "state_dict", None)
    if not callable(state_dict):
        raise TypeError(
            f"`{what}` is a {type(thing).__name__}, which has no state_dict(); pass a module, an "
            "object with state_dict() and load_state_dict(), or a mapping"
        )
    return state_dict()


class PartLoad:
    """A load of anything with `load_state_dict` that is asked itself: a scheduler, a scaler."""

    may_fail = True

    def __init__(self, tree: _native.Tree, part: Any, what: str) -> None:
        self.what = what
        self.target = part
        self._tree = tree
        self._state: Any = None
        self._before: Any = None

    def prepare(self) -> None:
        """Read the state, and remember the one it has."""
        self._state = self._tree.decode(threads=THREADS)
        self._before = copy.deepcopy(self.target.state_dict())

    def apply(self) -> None:
        """Give the part its saved state."""
        self.target.load_state_dict(self._state)
        loaded_state(self.target)

    def fill(self) -> None:
        """Nothing is left."""

    def undo(self) -> list[str]:
        """Give it back the state it had."""
        self.target.load_state_dict(self._before)
        return []


def apply_all(
    loads: Sequence[Load],
    random_state: Callable[[], None] | None,
    dry_run: bool = False,
    agree: Callable[[], None] | None = None,
) -> None:
    """Change all of the objects, or none.

    With ``dry_run`` those that are loaded by a way of their own are asked, and given back what they
    had; nothing else can say whether they accept their state.

    Args:
        loads: of the objects.
        random_state: restores the random generators.
        dry_run: change nothing.
        agree: returns when other processes, which load with this one, are as far: called when everything
            has been read, and again before something is changed that cannot be changed back.

    Raises:
        scai.errors.PartialLoadError: some were changed and could not be given back what they had.
    """
    for load in loads:
        load.prepare()
    if agree is not None:
        agree()
    if dry_run:
        loads = [load for load in loads if load.may_fail]
    with signals_held():
        begun: list[Load] = []
        before = _random.prepared(_random.capture()) if random_state is not None else None
        try:
            for load in loads:
                begun.append(load)
                load.apply()
            if random_state is not None and not dry_run:
                random_state()
            if agree is not None:
                agree()
            # What can be undone has succeeded.
            for load in loads:
                load.fill()
        except BaseException as error:
            _take_back(begun, before, error)
            raise
        if dry_run:
            _take_back(begun, None, None)
            return
        for load in loads:
            _unsound.forget(load.target)


def _take_back(
    begun: Sequence[Load], random_state: Callable[[], None] | None, error: BaseException | None
) -> None:
    changed: list[str] = []
    kept: list[Load] = []
    for load in reversed(begun):
        try:
            names = load.undo()
        except Exception:
            _log.warning("`%s` could not be given back its state", load.what, exc_info=True)
            names = [load.what]
        if names:
            changed += names
            kept.append(load)
    if random_state is not None:
        random_state()
    if not kept:
        return
    for load in kept:
        _unsound.add(load.target)
    parts = ", ".join(f"`{load.what}`" for load in reversed(kept))
    raise PartialLoadError(
        f"the load failed after {parts} had been partly changed: {error}\n"
        "load a checkpoint into the same objects before they are used or saved",
        sorted(changed),
    ) from error


# Objects of which a load has changed a part


class _Unsound:
    """Objects that hold a mixture of two states."""

    def __init__(self) -> None:
        self._known: dict[int, Any] = {}

    def add(self, thing: Any) -> None:
        for part in _parts(thing):
            try:
                self._known[id(part)] = weakref.ref(part)
            except TypeError:
                # Kept alive, so that nothing else gets its number.
                self._known[id(part)] = lambda part=part: part

    def forget(self, thing: Any) -> None:
        if self._known:
            for part in _parts(thing):
                self._known.pop(id(part), None)

    def holds(self, thing: Any) -> bool:
        if not self._known:
            return False
        return any(
            (known := self._known.get(id(part))) is not None and known() is part
            for part in _parts(thing)
        )


_unsound = _Unsound()


def _parts(thing: Any) -> Iterable[Any]:
    """The object, and the modules that it consists of."""
    modules = getattr(thing, "modules", None)
    return [thing, *modules()] if callable(modules) and hasattr(thing, "parameters") else [thing]


def check_sound(things: Mapping[str, Any]) -> None:
    """Refuse to save what a load has changed in part.

    Raises:
        scai.errors.PartialLoadError: one of them is such an object.
    """
    for what, thing in things.items():
        if thing is not None and _unsound.holds(thing):
            raise PartialLoadError(
                f"`{what}` was partly changed by a load that failed, so it is not saved; load a "
                "checkpoint into it first",
                [what],
            )


# Signals


@contextlib.contextmanager
def signals_held() -> Iterator[None]:
    """Keep back the signals that Python code handles, such as Ctrl-C, until the end.

    Their handlers run on the main thread alone, so that other threads need nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    pending: list[int] = []
    handlers: list[tuple[int, Any]] = []

    def hold(number: int, _: object) -> None:
        if number not in pending:
            pending.append(number)

    try:
        for number in signal.valid_signals():
            handler = signal.getsignal(number)
            if callable(handler):
                handlers.append((number, handler))
                signal.signal(number, hold)
        yield
    finally:
        _for_each_at_last(handlers, lambda each: signal.signal(*each))
        _for_each_at_last(pending, signal.raise_signal)


def _for_each_at_last(items: list[Any], do: Callable[[Any], object]) -> None:
    """Do it for all of them, even where a handler raises meanwhile."""
    try:
        while items:
            do(items.pop())
    finally:
        if items:
            _for_each_at_last(items, do)
