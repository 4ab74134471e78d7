"""A directory of checkpoints: save, load, list, verify, prune, resume."""

from __future__ import annotations

import atexit
import contextlib
import datetime
import logging
import math
import os
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from scai import _cuda, _native, _random
from scai._checkpoint import Checkpoint
from scai._files import THREADS, PathLike, Verification, locator, mapped
from scai._files import verify as _verify
from scai._foreign import warn_of_objects
from scai._garbage import no_collections
from scai._live import POLL, Fence, Versions, lift_all, live_memory
from scai._load import Load, PartLoad, apply_all, check_order, check_sound, state_of
from scai._load_module import model_load
from scai._load_optimizer import OptimizerLoad, state_and_note
from scai._native import File, Handle, Live
from scai._report import LoadReport
from scai._retention import Retention, retention, whole
from scai._timeline import Timeline
from scai._versions import plain_state

__all__ = [
    "Checkpoint",
    "CheckpointManager",
    "LoadReport",
    "Resumed",
    "SaveHandle",
    "SaveInfo",
    "Skipped",
    "Timeline",
    "Verdict",
    "Verification",
]

Snapshot = Literal["live", "copy", "sync"]

_log = logging.getLogger("scai")
_open_managers: weakref.WeakSet[CheckpointManager] = weakref.WeakSet()


@dataclass(frozen=True)
class SaveInfo:
    """A checkpoint that is durable.

    Attributes:
        path: the file.
        iteration: the iteration.
        bytes: length of the file.
        seconds: from the call until the checkpoint was durable.
        removed: checkpoints that retention removed.
        warnings: what went wrong after the checkpoint was durable, such as retention.
        timeline: the time its stages took, and for which training waited.
        rate: bytes a second, from planning the file until it was durable.
    """

    path: Path
    iteration: int
    bytes: int
    seconds: float
    removed: list[Path]
    warnings: list[str]
    timeline: Timeline
    rate: float


@dataclass(frozen=True)
class Skipped:
    """A checkpoint that could not be resumed from.

    Attributes:
        path: the file as it was called.
        reason: why, as the exception that a load would raise.
        set_aside: what it is called now, where it was damaged.
    """

    path: Path
    reason: Exception
    set_aside: Path | None

    @classmethod
    def all_of(
        cls, directory: Path, skipped: list[tuple[str, Exception, str | None]]
    ) -> list[Skipped]:
        """Those of a resume in a directory, in the form the engine gives them."""
        return [
            cls(directory / name, reason, None if aside is None else directory / aside)
            for name, reason, aside in skipped
        ]


@dataclass(frozen=True)
class Verdict:
    """What retention says about a checkpoint: it stays where there are reasons.

    Attributes:
        path: the file.
        reasons: why it stays.
        removed: it was deleted.
    """

    path: Path
    reasons: list[str]
    removed: bool


@dataclass(frozen=True)
class Resumed:
    """Where a training goes on.

    Attributes:
        checkpoint: what was loaded.
        path: the file.
        iteration: its iteration.
        skipped: newer checkpoints that could not be used, newest first.
        iterations_lost: iterations between the newest checkpoint there was and this one.
    """

    checkpoint: Checkpoint
    path: Path
    iteration: int
    skipped: list[Skipped]
    iterations_lost: int


class SaveHandle:
    """A save in the background.

    Attributes:
        path: where the checkpoint will be.
    """

    def __init__(
        self, path: Path, iteration: int, handle: Handle, fence: Fence | None, began: float
    ) -> None:
        self.path = path
        self._iteration = iteration
        self._handle = handle
        self._fence = fence
        self._began = began
        self._called = time.monotonic() - began
        self._info: SaveInfo | None = None
        self._process = os.getpid()

    def done(self) -> bool:
        """Whether the save has ended, well or not. In a forked process it never has."""
        return os.getpid() == self._process and self._handle.done()

    def wait(self, timeout: float | None = None) -> Path:
        """Wait until the checkpoint is durable, at most `timeout` seconds, and return its path.

        Raises:
            TimeoutError: it is not durable yet; the save goes on.
            scai.errors.ChangedError: a tensor was changed while it was being saved.
            OSError: the file system refused, such as a full disk.
            RuntimeError: this process was forked from the one that saves.
        """
        return self._wait(timeout).path

    def _wait(self, timeout: float | None = None) -> SaveInfo:
        if os.getpid() != self._process:
            raise RuntimeError(f"{self.path} is saved by the process that this one was forked from")
        deadline = None if timeout is None else time.monotonic() + timeout
        saved = None
        while saved is None:
            left = POLL if deadline is None else min(POLL, deadline - time.monotonic())
            saved = self._handle.wait(max(left, 0.0))
            if saved is None and deadline is not None and time.monotonic() >= deadline:
                raise TimeoutError(f"{self.path} is not durable yet after {timeout} s")
        if self._fence is not None:
            self._fence.remove()
        return self._told(saved)

    def _told(self, saved: dict[str, Any]) -> SaveInfo:
        if self._info is None:
            seconds = time.monotonic() - self._began
            waited = self._called + (self._fence.waited if self._fence is not None else 0.0)
            self._info = _info(saved, self.path.parent, self._iteration, seconds, waited)
        return self._info

    def __repr__(self) -> str:
        state = "ended" if self._handle.done() else "under way"
        return f"SaveHandle({str(self.path)!r}, {state})"


class CheckpointManager:
    """The checkpoints of a training, `checkpoint_iter_{N}.pt` in one directory.

    A save that returned its path is there, whatever happens next; until it returns, the one before
    it is. Nothing that is damaged is loaded. One process writes to a directory at a time.

    Args:
        checkpoint_dir: the directory; created where it does not exist. A leading ``~`` is the home
            directory, ``file://`` is understood, and URLs of other schemes are refused.
        keep: which checkpoints stay after each save, as rules of retention, each of which keeps
            some: ``"last:3, every:1000, within:2d, best:loss:min:2"``. Without any rule, and with
            ``"all"``, everything is kept.
        keep_last: keep the newest N, as ``keep="last:N"``.
        keep_every: keep those whose iteration is a multiple of this.
        keep_best: keep the best by a statistic of `training_stats`: ``"loss:min"``, or
            ``"accuracy:max:3"`` for the best three; or a list of such.
        keep_within: keep those saved within this time: ``"12h"``, seconds or a `timedelta`.
        snapshot: how tensors are taken by ``save_checkpoint(wait=False)``. ``"live"``: parameters
            and optimizer state are read while training goes on, up to the next `optimizer.step()`,
            which waits where need be; all else is copied at once, also frozen parameters that were
            written to since the last save. Where anything but a step changes what is read live,
            the save fails. ``"copy"``: everything is copied at once, into memory that is used
            again. ``"sync"``: the call waits until everything has been read.
        on_commit: called with a `SaveInfo` when a checkpoint is durable; one or several. For saves
            in the background this happens on another thread. What they raise is logged.
        threads: threads that read, write and check; by default one per core, at most 8.
        io: ``"direct"`` writes past the page cache where the file system allows it, ``"buffered"``
            through it; ``"auto"`` takes the first for files of 4 MiB or more.
        memory: bytes that writing a checkpoint may take beside the state, and beside its copy with
            ``snapshot="copy"``; 64 MiB by default. With little, fewer threads write; one and its
            2 MiB are always there.
        allow_unprotected: also load files without any checksums, in which damage is not noticed.
    """

    def __init__(
        self,
        checkpoint_dir: PathLike = "./checkpoints",
        *,
        keep: str | Sequence[str] | None = None,
        keep_last: int | None = None,
        keep_every: int | None = None,
        keep_best: str | Sequence[str] | None = None,
        keep_within: datetime.timedelta | float | str | None = None,
        snapshot: Snapshot = "live",
        on_commit: Callable[[SaveInfo], object] | Sequence[Callable[[SaveInfo], object]] = (),
        threads: int | None = None,
        io: Literal["auto", "direct", "buffered"] = "auto",
        memory: int | None = None,
        allow_unprotected: bool = False,
    ) -> None:
        self._given = os.fspath(checkpoint_dir)
        rules = retention(keep, keep_last, keep_every, keep_best, keep_within)
        self._keep = rules or Retention("all", [])
        self._snapshot = _checked_snapshot(snapshot)
        self._on_commit = [on_commit] if callable(on_commit) else list(on_commit or ())
        for callback in self._on_commit:
            if not callable(callback):
                raise TypeError(
                    f"`on_commit` is a {type(callback).__name__}, which cannot be called"
                )
        self._threads = _count("threads", threads) or THREADS
        self._io = io
        self._memory = _count("memory", memory)
        self._allow_unprotected = allow_unprotected
        self._pool = _native.Pool()
        self._pinned = _cuda.PinnedPool()
        self._versions = Versions()
        self._handles: list[SaveHandle] = []
        self._watchers: list[threading.Thread] = []
        self._manager = self._open()
        _open_managers.add(self)

    def _reopen(self) -> _native.Manager:
        # Another working directory must not make it another directory.
        self._given = self._manager.directory()
        return self._open()

    def _open(self) -> _native.Manager:
        return _native.Manager(
            self._given,
            self._keep.text,
            self._threads,
            self._allow_unprotected,
            self._io,
            self._memory,
        )

    @property
    def checkpoint_dir(self) -> Path:
        """The directory: as it was given while that leads there, absolute after an `os.chdir`."""
        return Path(self._manager.directory())

    @property
    def _native(self) -> _native.Manager:
        if not self._manager.is_here():
            # A forked child has none of the threads, and nothing of what was under way.
            self._handles = []
            self._watchers = []
            self._pool = _native.Pool()
            self._pinned = _cuda.PinnedPool()
            self._manager = self._reopen()
            _open_managers.add(self)
        return self._manager

    # Saving

    def save_checkpoint(
        self,
        model: Any,
        optimizer: Any = None,
        iteration: int | None = None,
        training_stats: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
        *,
        scheduler: Any = None,
        scaler: Any = None,
        ema: Any = None,
        rng: bool = True,
        dataloader: Any = None,
        extra: Mapping[str, Any] | None = None,
        wait: bool = True,
        snapshot: Snapshot | None = None,
    ) -> Any:
        """Save a checkpoint as ``checkpoint_iter_{iteration}.pt``; one that is there is replaced.

        Args:
            model: a module, anything with `state_dict()`, or a mapping of names to tensors.
            optimizer: an optimizer of PyTorch, or anything with `state_dict()`.
            iteration: the iteration the state belongs to, from 0 on; it must be given.
            training_stats: statistics; short ones are shown by lists, and `keep_best` compares
                them. Tensors of one number are saved as that number.
            metadata: whatever describes the run.
            scheduler, scaler, ema, dataloader: further parts with `state_dict()`.
            rng: whether to save the state of the random generators of Python, NumPy and PyTorch.
            extra: further parts by name; values of all kinds that `scai.save` takes.
            wait: whether to return only when the checkpoint is durable. Without, saves still
                follow one another: a second one is read, and the step let go, once the first is
                durable; a third waits before it begins.
            snapshot: for ``wait=False``, in place of the manager's own.

        Returns:
            The path, when the checkpoint is durable; with ``wait=False`` at once a `SaveHandle`.

        Raises:
            TypeError: a value cannot be saved; the message has its path.
            OSError: the file system refuses, such as a full disk; nothing has changed then.
            scai.errors.LockedError: another process writes to the directory.
            Exception: what an earlier save in the background failed with, where nobody has asked
                its handle; this checkpoint is then not saved.
        """
        began = time.monotonic()
        check_order(model, optimizer)
        iteration = _checked_iteration(iteration)
        mode = self._snapshot if snapshot is None else _checked_snapshot(snapshot)
        manager = self._native
        self._settle()
        parts = {"scheduler": scheduler, "scaler": scaler, "ema": ema, "dataloader": dataloader}
        check_sound({"model": model, "optimizer": optimizer, **parts})
        model_state = state_of(model, "model")
        optimizer_state, about = state_and_note(model, optimizer)
        state = {
            "iteration": iteration,
            "model_state_dict": model_state,
            "optimizer_state_dict": optimizer_state,
            "training_stats": _statistics(
                _mapping("training_stats", training_stats), self._keep.statistics
            ),
            "metadata": dict(_mapping("metadata", metadata)),
            # A zone is looked up under a lock, which a fork might copy while the thread that
            # saves holds it.
            "timestamp": datetime.datetime.now().astimezone().isoformat(timespec="microseconds"),
            **{
                f"{name}_state_dict": plain_state(state_of(part, name))
                for name, part in parts.items()
                if part is not None
            },
        }
        if rng:
            state["rng_state"] = _random.capture()
        for name, value in _mapping("extra", extra).items():
            if name in state:
                raise ValueError(f"a part of `extra` is called `{name}`, as a field is")
            state[name] = value
        if wait:
            # Saves follow one another: one in the background comes first.
            saved = manager.save(_native.Tree.encode(state, note=about))
            seconds = time.monotonic() - began
            info = _info(saved, self.checkpoint_dir, iteration, seconds, waited=seconds)
            self._committed(info)
            return info.path
        return self._save_in_background(state, about, model, optimizer, iteration, mode, began)

    def _save_in_background(
        self,
        state: dict[str, Any],
        about: str | None,
        model: Any,
        optimizer: Any,
        iteration: int,
        mode: Snapshot,
        began: float,
    ) -> SaveHandle:
        self._await_turn()
        fence = None
        if mode == "live" and (live := live_memory(model, optimizer, self._versions)):
            with Fence(model, optimizer) as fence:
                fence.guard(*(begun := self._begin(state, live, about)))
        else:
            begun = self._begin(state, mode == "sync", about)
            if mode == "sync":
                while not begun[0].wait_captured(POLL):
                    pass
                begun[0].release()
        path = self.checkpoint_dir / f"checkpoint_iter_{iteration}.pt"
        handle = SaveHandle(path, iteration, begun[0], fence, began)
        self._handles.append(handle)
        if self._on_commit:
            watcher = threading.Thread(target=self._watch, args=(handle,), daemon=True)
            watcher.start()
            self._watchers.append(watcher)
        return handle

    def _begin(
        self, state: dict[str, Any], live: Live | bool, about: str | None
    ) -> tuple[Handle, _cuda.Staging | None]:
        staging = _cuda.staging(self._pinned, live)
        tree = _native.Tree.encode(state, self._pool, live, staging, about)
        if staging is not None:
            staging.seal()
            if live is True:
                staging.wait()
        # The tree lives no longer than the save: it keeps all tensors alive.
        return self._native.save_in_background(tree), staging

    def _await_turn(self) -> None:
        """Wait while one save is under way and another waits for it."""
        while len(waiting := [handle for handle in self._handles if not handle.done()]) > 1:
            waiting[0]._handle.wait_ended(POLL)

    def _watch(self, handle: SaveHandle) -> None:
        while not handle._handle.wait_ended(POLL):
            pass
        saved = handle._handle.outcome()
        # Where there is none, the next call of the manager raises what went wrong.
        if saved is not None:
            self._committed(handle._told(saved))

    def _committed(self, info: SaveInfo) -> None:
        for callback in self._on_commit:
            try:
                callback(info)
            except Exception:
                _log.exception("a callback for %s failed", info.path)

    def _settle(self) -> None:
        """Forget the saves that have ended."""
        for handle in [handle for handle in self._handles if handle.done()]:
            if handle._fence is not None:
                handle._fence.remove()
            if (saved := handle._handle.outcome()) is not None:
                handle._told(saved)  # Its warnings are logged, also if nobody asks the handle.
            # Another thread may have been faster.
            with contextlib.suppress(ValueError):
                self._handles.remove(handle)
        self._watchers = [watcher for watcher in self._watchers if watcher.is_alive()]

    # Loading

    def load_checkpoint(
        self,
        checkpoint_path: PathLike | None = None,
        model: Any = None,
        optimizer: Any = None,
        device: Any = None,
        strict: bool = True,
        *,
        scheduler: Any = None,
        scaler: Any = None,
        ema: Any = None,
        rng: bool = False,
        dataloader: Any = None,
        remap: Mapping[str, str] | None = None,
        dry_run: bool = False,
        mmap: bool = False,
    ) -> Checkpoint:
        """Load a checkpoint, of scai or of `torch.save`, into what is passed.

        Every byte is checked before anything is changed, and so is whether everything fits: a load
        that fails leaves model, optimizer and the rest as they were.

        Args:
            checkpoint_path: the file; the newest of the directory where it is left out.
            model: a module, anything with `state_dict()` and `load_state_dict()`, or a mapping of
                names to tensors.
            optimizer: an optimizer of PyTorch, or anything with these two methods.
            device: where the tensors of the result go, as `map_location` of `torch.load`. What is
                loaded into model and optimizer stays on their devices.
            strict: every name, shape and element type must match. Otherwise what matches is
                loaded and the rest is reported; the optimizer's state then follows each parameter
                by its name, and its hyperparameters stay as they are. A module with a way of its
                own to load (`_load_from_state_dict`, hooks, extra state) is asked what it accepts.
                An object in the file that only code could make is then a `scai.ForeignObject` in
                the result, with a warning; a strict load raises `NeedsCodeError`.
            scheduler, scaler, ema, dataloader: further parts, as they were saved.
            rng: whether to restore the state of the random generators.
            remap: regular expressions for saved names, and replacements (``$1`` or ``\\1`` is the
                first group).
            dry_run: change nothing; the report says what would be loaded. A module with a way of
                its own to load is asked, and given back what it had.
            mmap: leave the tensors of the result in a private memory map of the file. They cost no
                memory until they are used, and stay if the file is replaced or deleted. If it is
                cut short instead, using them ends the process (SIGBUS); if it is overwritten in
                place, they change.

        Returns:
            A dict of everything in the file, with the attributes `path` and `report`. Each field is
            read from the file, and checked again, when it is first touched.

        Raises:
            FileNotFoundError: there is no such checkpoint.
            scai.errors.MissingFieldError: a field is missing that is asked for (a `KeyError`).
            scai.errors.MismatchError: it does not fit (a `RuntimeError`); the message is the report.
            scai.errors.DamagedError: bytes are not what was saved (a `RuntimeError`).
            scai.errors.PartialLoadError: bytes that were right could not be read a second time, when
                model or optimizer were filled; they are not saved before a load has succeeded.
        """
        return self._load(
            self._existing(checkpoint_path),
            {"model": model, "ema": ema},
            optimizer,
            {"scheduler": scheduler, "scaler": scaler, "dataloader": dataloader},
            device,
            strict=strict,
            rng="required" if rng else "no",
            remap=remap,
            dry_run=dry_run,
            mmap=mmap,
        )

    @no_collections()
    def _load(
        self,
        path: Path,
        models: Mapping[str, Any],
        optimizer: Any,
        parts: Mapping[str, Any],
        device: Any,
        *,
        strict: bool,
        rng: Literal["required", "if saved", "no"],
        remap: Any,
        dry_run: bool,
        mmap: bool,
        checked: File | None = None,
    ) -> Checkpoint:
        """Load a file, or one that is open and of which every byte was checked."""
        model = models["model"]
        check_order(model, optimizer)
        remap = _checked_remap(remap)
        locate = locator(device)
        if device is not None and not callable(device) and not isinstance(device, dict):
            # Before anything is changed, not when the first field is read.
            locate("cpu")
        self.flush()
        file = checked
        if file is None:
            file = _native.File(path, self._allow_unprotected)
            file.check(self._threads)
        tree = file.tree(foreign=not strict)
        if not strict:
            warn_of_objects(tree, path)
        # Another manager may be saving what is to be filled.
        lift_all()

        tree.check_fields()
        loads: list[Load] = []
        report = LoadReport()
        loaded = {
            name: model_load(tree.field(f"{name}_state_dict"), each, name, strict, remap)
            for name, each in models.items()
            if each is not None
        }
        optimizers = []
        if optimizer is not None:
            optimizers.append(OptimizerLoad(tree, optimizer, model, strict, remap))
        loads += [
            PartLoad(tree.field(f"{name}_state_dict"), part, name)
            for name, part in parts.items()
            if part is not None
        ]
        loads += [*loaded.values(), *optimizers]
        restore = None
        if rng == "required" or (rng == "if saved" and "rng_state" in tree.keys()):
            random_state = tree.field("rng_state").decode(threads=self._threads)
            restore = _random.prepared(random_state)
        if mmap and (mapping := mapped(file)) is not None:
            content = tree.decode(map=mapping, locate=locate, threads=self._threads)
            checkpoint = Checkpoint(content)
        else:
            checkpoint = Checkpoint.of(tree, locate, self._threads)
        apply_all(loads, restore, dry_run)

        if not dry_run:
            self._note_read(path)
        if model is not None:
            report = loaded["model"].report
        if optimizers:
            report.optimizer = optimizers[0].report
        checkpoint.path = path
        checkpoint.report = report
        return checkpoint

    def resume(
        self,
        model: Any = None,
        optimizer: Any = None,
        device: Any = None,
        strict: bool = True,
        *,
        scheduler: Any = None,
        scaler: Any = None,
        ema: Any = None,
        rng: bool = True,
        dataloader: Any = None,
        remap: Mapping[str, str] | None = None,
        at: int | None = None,
        on_unreadable: Literal["raise", "skip"] = "raise",
        mmap: bool = False,
    ) -> Resumed | None:
        """Load the newest checkpoint that is sound; `None` in a directory without any.

        Damaged ones are set aside: renamed to ``….pt.damaged`` with the reason in a text file
        beside, never deleted. The arguments are those of `load_checkpoint`; the state of the random
        generators is restored where it was saved, unless ``rng=False``.

        Args:
            at: go back to the checkpoint of this iteration. Those of later iterations are superseded
                from then on, as `rollback` says.
            on_unreadable: what becomes of a newer checkpoint that is not damaged and cannot be read
                all the same (it needs code, has no checksums, the disk refuses): raise why, or
                ``"skip"`` it with a warning.

        Raises:
            scai.errors.NothingToResumeError: there are checkpoints, and none is sound.
            Exception: what `load_checkpoint` raises where a sound one cannot be read or does not fit.
        """
        if on_unreadable not in ("raise", "skip"):
            raise ValueError(f'`on_unreadable` is {on_unreadable!r}; it is "raise" or "skip"')
        if at is not None:
            at = _checked_iteration(at, "at")
            name = self._native.name_of(at)
            found: dict[str, Any] | None = {
                "name": name,
                "iteration": at,
                "iterations_lost": 0,
                "skipped": [],
            }
        else:
            found = self._native.resume(on_unreadable == "skip")
        if found is None:
            return None
        path = self.checkpoint_dir / found["name"]
        checkpoint = self._load(
            path,
            {"model": model, "ema": ema},
            optimizer,
            {"scheduler": scheduler, "scaler": scaler, "dataloader": dataloader},
            device,
            strict=strict,
            rng="if saved" if rng else "no",
            remap=remap,
            dry_run=False,
            mmap=mmap,
            checked=found.get("file"),
        )
        if at is not None:
            self.rollback(at)
        skipped = Skipped.all_of(self.checkpoint_dir, found["skipped"])
        for one in skipped:
            aside = f"; it is now called `{one.set_aside}`" if one.set_aside else ""
            _log.warning("`%s` was not resumed from: %s%s", one.path, one.reason, aside)
        return Resumed(checkpoint, path, found["iteration"], skipped, found["iterations_lost"])

    # The directory

    def rollback(self, iteration: int) -> None:
        """Record that the training goes on from the checkpoint of `iteration`.

        Those of later iterations are superseded: listed as such, never resumed from by themselves,
        counted by no rule, deleted only by ``prune(superseded=True)``, and replaced by a save of the
        same iteration. The record is durable when this returns. To take it back, roll back to a later
        iteration. ``resume(at=…)`` loads the checkpoint as well.

        Raises:
            FileNotFoundError: there is no checkpoint of this iteration.
            scai.errors.LockedError: another process writes to the directory.
        """
        self.flush()
        self._native.rollback(_checked_iteration(iteration))

    def list_checkpoints(self) -> list[Path]:
        """The paths of all checkpoints, by iteration."""
        return [self.checkpoint_dir / name for name in self._native.names()]

    def get_latest_checkpoint(self) -> Path | None:
        """The checkpoint with the largest iteration, or `latest.pt` where that is all there is.

        `None` in an empty directory. Superseded ones do not count. It is not verified; see `resume`.
        """
        latest = self._native.latest()
        return None if latest is None else self.checkpoint_dir / latest

    def verify_checkpoint(self, checkpoint_path: PathLike) -> dict[str, bool]:
        """Read every byte of a checkpoint, and answer eight questions about it.

        ``exists, readable, has_required_fields, has_model_state, has_optimizer_state,
        has_training_stats, has_metadata, has_timestamp``; ``readable`` says that every byte is
        right. `scai.verify` also says what is wrong.
        """
        self.flush()
        return _verify(self._path(checkpoint_path)).answers

    def pin(self, checkpoint_path: PathLike) -> None:
        """Keep a checkpoint from being pruned.

        Raises:
            FileNotFoundError: there is no such checkpoint.
        """
        self._native.pin(self._path(checkpoint_path).name)

    def unpin(self, checkpoint_path: PathLike) -> None:
        """Let a checkpoint be pruned again."""
        self._native.unpin(self._path(checkpoint_path).name)

    def prune(
        self,
        dry_run: bool = True,
        *,
        keep: str | Sequence[str] | None = None,
        keep_last: int | None = None,
        keep_every: int | None = None,
        keep_best: str | Sequence[str] | None = None,
        keep_within: datetime.timedelta | float | str | None = None,
        superseded: bool = False,
    ) -> list[Verdict]:
        """Delete what no rule keeps, or with ``dry_run`` say what would be.

        The rules are those given here, or the manager's own where none is. Nothing is deleted
        before what stays in its place was read back, in this very call, and found right. With
        ``superseded`` those that a run went back behind are deleted, and nothing else.
        """
        if superseded:
            if any((keep, keep_last, keep_every, keep_best, keep_within)):
                raise ValueError("`superseded` goes with no rule; prune by rules in another call")
            return [
                Verdict(self.checkpoint_dir / name, reasons, removed)
                for name, reasons, removed in self._native.prune_superseded(dry_run)
            ]
        rules = retention(keep, keep_last, keep_every, keep_best, keep_within) or self._keep
        return [
            Verdict(self.checkpoint_dir / name, reasons, removed)
            for name, reasons, removed in self._native.prune(rules.text, dry_run)
        ]

    def flush(self) -> None:
        """Wait until all saves in the background are durable.

        Raises:
            Exception: what one failed with, where nobody has asked its handle.
        """
        manager = self._native
        while handles := self._handles[:1]:
            if handles[0].done():
                self._settle()
            else:
                handles[0]._handle.wait_ended(POLL)
        for watcher in self._watchers:
            if watcher is not threading.current_thread():
                watcher.join()
        manager.flush()

    def close(self) -> None:
        """Wait for the saves under way, and let other processes write to the directory.

        The manager can still be used: its next save takes the right to write again.
        """
        self.flush()
        # Managers of one directory share the right to write; the last one to go gives it back.
        self._given = self._manager.directory()
        del self._manager
        self._manager = self._open()

    def __enter__(self) -> CheckpointManager:
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        if error is None:
            self.close()
            return
        try:
            self.close()
        except Exception:
            # The error under way is the one to be seen.
            _log.exception("a save in the background failed")

    def __repr__(self) -> str:
        return f"CheckpointManager({str(self.checkpoint_dir)!r})"

    def _path(self, path: PathLike) -> Path:
        """A path as it is, or the name of a checkpoint of the directory."""
        path = Path(path)
        within = self.checkpoint_dir / path
        return within if path.parent == Path() and not path.exists() and within.exists() else path

    def _note_read(self, path: Path) -> None:
        """What was loaded may be replaced by a save of this manager."""
        if os.path.realpath(path.parent) == os.path.realpath(self.checkpoint_dir):
            with contextlib.suppress(OSError):
                self._native.note_read(path.name)

    def _existing(self, path: PathLike | None) -> Path:
        if path is not None:
            return self._path(path)
        latest = self.get_latest_checkpoint()
        if latest is None:
            raise FileNotFoundError(f"there is no checkpoint in `{self.checkpoint_dir}`")
        return latest


def _statistics(
    statistics: Mapping[str, Any], compared: Sequence[str]
) -> dict[str, Any]:
    """Tensors of one number as that number; so is whatever of one number `keep_best` compares."""
    def number(name: Any, value: Any) -> Any:
        if hasattr(value, "untyped_storage") and value.ndim == 0:
            return value.item()
        if name not in compared or value is None or isinstance(value, (bool, int, float)):
            return value
        shape = getattr(value, "shape", ())
        if hasattr(value, "item") and math.prod(shape) == 1:
            value = value.item()
        try:
            if isinstance(value, (str, bytes)):
                raise TypeError("text is not a number")
            return value if isinstance(value, int) else float(value)
        except (TypeError, ValueError, OverflowError):
            of = f" of shape {tuple(shape)}" if shape else ""
            raise TypeError(
                f"`training_stats[{name!r}]` is a {type(value).__name__}{of}, which `keep_best` "
                "cannot compare; save one number under this name"
            ) from None

    return {name: number(name, value) for name, value in statistics.items()}


def _mapping(name: str, value: Mapping[str, Any] | None) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise TypeError(f"`{name}` must be a mapping, got {type(value).__name__}")
    return value


def _info(
    saved: dict[str, Any], directory: Path, iteration: int, seconds: float, waited: float
) -> SaveInfo:
    path = directory / saved["name"]
    for warning in saved["warnings"]:
        _log.warning("`%s` is saved, but %s", path, warning)
    return SaveInfo(
        path=path,
        iteration=iteration,
        bytes=saved["bytes"],
        seconds=seconds,
        removed=[directory / name for name in saved["removed"]],
        warnings=saved["warnings"],
        timeline=Timeline(waited, *saved["timeline"]),
        rate=saved["rate"],
    )


def _checked_iteration(iteration: Any, name: str = "iteration") -> int:
    if iteration is None:
        raise TypeError(f"`{name}` is missing: say which iteration the state belongs to")
    number = whole(name, iteration)
    if number < 0:
        raise ValueError(f"`{name}` is {number}; iterations count from 0")
    if number >= 2**63:
        raise ValueError(f"`{name}` is {number}; it must be less than 2**63")
    return number


def _checked_snapshot(snapshot: str) -> Snapshot:
    if snapshot not in ("live", "copy", "sync"):
        raise ValueError(f'`snapshot` is {snapshot!r}; it is one of "live", "copy", "sync"')
    return snapshot  # type: ignore[return-value]


def _checked_remap(remap: Any) -> Mapping[str, str]:
    if remap is None:
        return {}
    if not isinstance(remap, Mapping):
        raise TypeError(
            f"`remap` is a {type(remap).__name__}; write a dict of regular expressions and "
            r'replacements, such as {r"^module\.": ""}'
        )
    return remap


def _count(name: str, value: int | None) -> int | None:
    if value is None:
        return None
    number = whole(name, value)
    if not 0 < number < 2**63:
        raise ValueError(f"`{name}` is {number}; it is at least 1")
    return number


@atexit.register
def _flush_all() -> None:
    """A program that ends waits for its saves."""
    for manager in list(_open_managers):
        if not manager._manager.is_here():
            continue
        try:
            manager.flush()
        except Exception:
            _log.exception("a save in the background of %r failed", manager)


def _forget_in_child() -> None:
    _open_managers.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)
