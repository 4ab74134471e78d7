"""Lightning and Fabric: checkpoints that are durable, written while training goes on.

``Trainer(plugins=[ScaiCheckpointIO()])`` or ``Fabric(plugins=[ScaiCheckpointIO()])``. Made for Lightning
2.6; ``pip install "scai[lightning]"``.
"""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import torch
from fsspec.core import url_to_fs  # type: ignore[import-untyped]
from fsspec.implementations.local import LocalFileSystem  # type: ignore[import-untyped]
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.fabric.utilities.types import _PATH
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import Logger
from lightning.pytorch.trainer.states import TrainerFn, TrainerStatus

from scai import _native
from scai._arguments import checked_flags
from scai._background import Background
from scai._files import load, verify
from scai._plain import first_object
from scai.errors import UnprotectedError, UnsupportedError

__all__ = ["ScaiCheckpointIO"]

_log = logging.getLogger("scai")


class ScaiCheckpointIO(TorchCheckpointIO):
    """Saves the checkpoints of Lightning and Fabric in the background, and loads nothing that is damaged.

    A save copies all tensors and returns; the file is written meanwhile, synced, and renamed in one step:
    at its path is the old file or the new one, complete, whatever happens. Files are what stock Lightning
    writes and reads. Values that only code can make again, such as an enum among the hyperparameters, are
    pickled by ``torch.save`` as Lightning does; all other checkpoints load with ``weights_only=True``.

    A file is removed after all that was saved before it is durable, and only if the checkpoint saved last
    was read back from the device and found right. What fails in the background is logged, and raised by
    the next call, by `flush` or by `teardown`, which ends `Trainer.fit`.

    `Trainer.save_checkpoint` returns when the file is durable where it is looked for at once: outside of
    `Trainer.fit`, with ``save_last="link"``, with loggers that upload checkpoints, and before SLURM
    requeues the job. Call `flush` before other code reads a file, as after `Fabric.save`.

    Remote paths (``s3://…``) are left to Lightning, as is all that sharded strategies write.

    Args:
        wait: whether each save returns only when the file is durable. Saves from another thread than the
            one that made the plugin always do.
    """

    def __init__(self, *, wait: bool = False) -> None:
        checked_flags(wait=wait)
        self._wait = wait
        self._begin()

    def _begin(self) -> None:
        """What belongs to one process."""
        self._process, self._thread = os.getpid(), threading.get_ident()
        self._background: Background | None = None
        # By path, what is not known to have ended, in order.
        self._unfinished: list[tuple[str, Future[None]]] = []
        # What was saved and not removed, in order.
        self._saved: list[tuple[str, Future[None]]] = []
        self._directories: set[str] = set()
        self._has_warned = False

    def __getstate__(self) -> dict[str, Any]:
        return {"_wait": self._wait}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._wait = state["_wait"]
        self._begin()

    def _queue(self) -> Background:
        if self._background is None:
            self._background = Background()
        return self._background

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: _PATH, storage_options: Any | None = None
    ) -> None:
        """Take the checkpoint as it is now, and write it to `path` in the background.

        Durable when `flush` returns. Two saves may be unfinished; a third waits.

        Raises:
            TypeError: `storage_options` was given.
            MemoryError: there is no memory for a copy.
            OSError: the directory cannot be made.
            Exception: a value cannot be pickled; or what an earlier save or removal failed with, and
                this checkpoint is then not saved.
        """
        local = _local(path)
        if storage_options is not None or local is None:
            self.flush()
            return super().save_checkpoint(checkpoint, path, storage_options=storage_options)
        self._raise_failure()
        os.makedirs(os.path.dirname(local), exist_ok=True)
        # Another thread is in the background already, such as that of an AsyncCheckpointIO around this.
        if self._wait or threading.get_ident() != self._thread:
            self.flush()
            # On this thread: nothing changes a tensor meanwhile, so that none is copied.
            self._taken(checkpoint, local, _native.Tree.encode)()
            future: Future[None] = Future()
            future.set_result(None)
        else:
            future = self._queue().save(
                local, lambda capture: self._taken(checkpoint, local, capture.copied)
            )
            self._unfinished.append((local, future))
        self._saved = [saved for saved in self._saved if saved[0] != local]
        self._saved.append((local, future))
        return None

    def _taken(
        self, checkpoint: dict[str, Any], path: str, encode: Callable[[Any], _native.Tree]
    ) -> Callable[[], None]:
        """What writes a checkpoint, as it is now, to `path`."""
        reason = first_object(checkpoint)
        if reason is None:
            try:
                return functools.partial(self._write, encode(checkpoint), path)
            except (TypeError, ValueError, UnsupportedError) as error:
                reason = str(error)
        if not self._has_warned:
            self._has_warned = True
            _log.warning(
                "`%s` is written by torch.save, since only code can make again what it holds: %s; it "
                "loads with weights_only=False",
                path,
                reason,
            )
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        return functools.partial(self._write, buffer.getvalue(), path)

    def _write(self, content: _native.Tree | bytes, path: str) -> None:
        directory = os.path.dirname(path)
        if directory not in self._directories:
            # Lightning has made it; whether its name is durable is not known.
            _native.create_directory(directory)
            self._directories.add(directory)
        if isinstance(content, bytes):
            _native.write_bytes(path, content)
        else:
            # A link such as `last.ckpt` leads to a checkpoint that stays.
            content.write(path, _native.THREADS, follow=not os.path.islink(path))

    def remove_checkpoint(self, path: _PATH) -> None:
        """Remove `path` after all that was saved before is durable, in the background.

        It is kept if the checkpoint that was saved last was not saved, or is damaged.

        Raises:
            Exception: what an earlier save or removal failed with; nothing is removed then.
        """
        local = _local(path)
        if local is None:
            self.flush()
            return super().remove_checkpoint(path)
        self._raise_failure()
        queue = self._queue()
        self._saved = [saved for saved in self._saved if saved[0] != local]
        last = self._saved[-1] if self._saved else None
        self._unfinished.append((local, queue.then(functools.partial(self._remove, local, last))))
        if self._wait:
            self.flush()
        return None

    def _remove(self, path: str, last: tuple[str, Future[None]] | None) -> None:
        if last is not None:
            newer, future = last
            if future.exception() is not None:
                _log.warning("`%s` is kept, since `%s` was not saved", path, newer)
                return
            # Read back, so that a disk that fails does not cost the older one too.
            found = verify(newer)
            if not found.answers["exists"]:
                _log.warning("`%s` is kept, since `%s` is gone", path, newer)
                return
            for damage in found.damage:
                raise damage
        super().remove_checkpoint(path)

    def load_checkpoint(
        self,
        path: _PATH,
        map_location: Any = lambda storage, location: storage,
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        """Load a checkpoint after all that is being saved is durable; every byte is checked.

        No code is run if none is needed, whatever `weights_only` says. Where objects need code, the bytes
        are checked and ``torch.load(weights_only=weights_only)`` does the rest.

        Raises:
            FileNotFoundError: there is no such file.
            scai.errors.DamagedError: bytes are not what was saved.
            pickle.UnpicklingError: an object needs code, and `weights_only` does not allow it.
            Exception: what an earlier save or removal failed with.
        """
        self.flush()
        local = _local(path)
        if local is None or not os.path.isfile(local):
            return super().load_checkpoint(path, map_location, weights_only)
        try:
            return _loaded(local, map_location)
        except UnsupportedError:
            for damage in verify(local).damage:
                if not isinstance(damage, UnprotectedError):
                    raise damage from None
        return super().load_checkpoint(path, map_location, weights_only)

    def flush(self) -> None:
        """Wait until all that was saved is durable, and all that was removed is gone.

        Raises:
            Exception: what the first of them failed with; what others did is logged.
        """
        if self._background is not None and self._process == os.getpid():
            self._background.wait()
        self._raise_failure()

    def teardown(self) -> None:
        """Wait as `flush` does, and give back the memory for copies. Lightning calls it when a run ends.

        Raises:
            Exception: what a save or removal failed with.
        """
        try:
            self.flush()
        finally:
            # Ctrl-C ends the wait, and what is under way is still to be waited for.
            if not self._unfinished:
                self._background = None

    def _raise_failure(self) -> None:
        """Forget what has ended, and raise what the first of it failed with."""
        if self._process != os.getpid():
            # A forked process has none of the threads.
            self._begin()
        errors = []
        while self._unfinished and self._unfinished[0][1].done():
            path, future = self._unfinished.pop(0)
            if (error := future.exception()) is not None:
                errors.append((path, error))
        for path, error in errors[1:]:
            _log.error("`%s`: %s", path, error)
        for _, error in errors:
            raise error

    def _await(self, path: str) -> None:
        """Wait until nothing is being written to `path`."""
        if self._process == os.getpid():
            for unfinished, future in tuple(self._unfinished):
                if unfinished == path:
                    future.exception()

    @contextlib.contextmanager
    def _waiting(self) -> Iterator[None]:
        """Let saves return only when they are durable."""
        before, self._wait = self._wait, True
        try:
            yield
        finally:
            self._wait = before


def _local(path: _PATH) -> str | None:
    """The absolute path of a file on this machine; `None` for a remote one."""
    system, inside = url_to_fs(str(path))
    return os.path.abspath(inside) if isinstance(system, LocalFileSystem) else None


def _loaded(path: str, map_location: Any) -> dict[str, Any]:
    try:
        protected: dict[str, Any] = load(path, map_location)
        return protected
    except UnprotectedError:
        loaded: dict[str, Any] = load(path, map_location, allow_unprotected=True)
        _log.warning("`%s` has no checksums; damage in it would not be noticed", path)
        return loaded


# Lightning looks for files in a few places right after it has asked for a save, and does not tell its
# plugins. Two of its methods are wrapped to make it wait there.


def _io_of(trainer: Any) -> ScaiCheckpointIO | None:
    used = trainer.strategy.checkpoint_io
    return used if isinstance(used, ScaiCheckpointIO) else None


def _is_looked_for(trainer: Trainer, path: _PATH) -> bool:
    """Whether somebody opens or links a checkpoint, or ends the process, when it has been saved."""
    is_fitting = (
        trainer.state.fn == TrainerFn.FITTING and trainer.state.status == TrainerStatus.RUNNING
    )
    return (
        not is_fitting
        or os.path.basename(path).startswith("hpc_ckpt_")
        or any(map(_uploads, trainer.loggers))
        or any(map(_looks_itself, trainer.checkpoint_callbacks))
    )


def _uploads(logger: Logger) -> bool:
    """Whether a logger opens checkpoints: those of Lightning say so by `log_model`."""
    own = type(logger).after_save_checkpoint
    does_nothing = own is Logger.after_save_checkpoint or "tensorboard" in own.__module__
    return not does_nothing and bool(getattr(logger, "_log_model", True))


def _looks_itself(callback: Any) -> bool:
    """Whether a callback links checkpoints, or looks for them in ways of its own."""
    return getattr(callback, "save_last", None) == "link" or (
        isinstance(callback, ModelCheckpoint)
        and type(callback).file_exists is not ModelCheckpoint.file_exists
    )


def _wrap(owner: type, name: str, wrapper: Callable[..., Any]) -> None:
    original = getattr(owner, name)

    @functools.wraps(original)
    def wrapped(self: Any, *args: Any, **kwargs: Any) -> Any:
        return wrapper(functools.partial(original, self), self, *args, **kwargs)

    setattr(owner, name, wrapped)


def _save_checkpoint(
    original: Callable[..., None], trainer: Any, filepath: _PATH, *args: Any, **kwargs: Any
) -> None:
    used = _io_of(trainer)
    waits = used is not None and _is_looked_for(trainer, filepath)
    with used._waiting() if used is not None and waits else contextlib.nullcontext():
        original(filepath, *args, **kwargs)


def _file_exists(original: Callable[..., bool], _: Any, filepath: _PATH, trainer: Any) -> bool:
    used = _io_of(trainer)
    local = None if used is None else _local(filepath)
    if used is not None and local is not None:
        used._await(local)
    return original(filepath, trainer)


_wrap(Trainer, "save_checkpoint", _save_checkpoint)
_wrap(ModelCheckpoint, "file_exists", _file_exists)
