"""A directory of checkpoints: save, load, list, verify, prune, resume."""

from __future__ import annotations

import atexit
import contextlib
import datetime
import logging
import os
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, overload

from scai import _native, _random
from scai._arguments import (
    checked_count,
    checked_flags,
    checked_iteration,
    checked_mapping,
    checked_options,
    checked_remap,
    checked_seconds,
    plain_statistics,
)
from scai._capture import Capture, Snapshot, checked_snapshot
from scai._checkpoint import Checkpoint
from scai._files import THREADS, PathLike, locator, mapped
from scai._files import verify as _verify
from scai._foreign import warn_of_objects
from scai._garbage import no_collections
from scai._group import Line, Membership
from scai._group_resume import Found, OwnState, ResumeMeeting, opened
from scai._group_save import RANK_STATES, Lost, SaveMeeting
from scai._handle import Completing, Save, SaveHandle
from scai._live import lift_all
from scai._load import apply_all
from scai._load_module import Matching
from scai._named import ONE, member_name
from scai._native import File
from scai._parts import Parts
from scai._replicas import Replica, check_complete, has_shards, replica_of
from scai._results import Resumed, SaveInfo, Skipped, Verdict, within
from scai._retention import Retention, retention
from scai._wrappers import check_not_divided
from scai.errors import DamagedError, NothingToResumeError

if TYPE_CHECKING:
    from scai.distributed._save import Groups, InBackground

_log = logging.getLogger("scai")
_LISTED = ("iteration", "timestamp", "training_stats", "metadata")
"""Fields that listings show."""
_OF_EACH_RANK = ("rng_state", "dataloader_state_dict")
"""Fields of which each rank of a process group has its own."""

_open_managers: weakref.WeakSet[CheckpointManager] = weakref.WeakSet()


class CheckpointManager:
    """The checkpoints of a training, `checkpoint_iter_{N}.pt` in one directory.

    A save that returned its path is there, whatever happens next; until it returns, the one before
    it is. Nothing that is damaged is loaded. One process writes to a directory at a time.

    Paths that are returned are strings: relative, as the directory was given, as long as the working
    directory stays the same, and absolute after an `os.chdir`. A checkpoint is named by its iteration,
    by its path, or by the name of its file in the directory.

    Args:
        checkpoint_dir: the directory; created if it does not exist. A leading ``~`` is the home
            directory, ``file://`` is understood, and ``s3://bucket/run``, ``gs://…`` and ``az://…`` are
            parts of object stores. URLs of other schemes are refused.
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
            which copies what is left, as far as `memory` goes, and waits for the rest; all else is copied at once, also frozen parameters that were
            written to since the last save. If anything but a step changes what is read live,
            the save fails. ``"copy"``: everything is copied at once, into memory that is used
            again. ``"sync"``: the call waits until everything has been read.
        on_commit: called with a `SaveInfo` when a checkpoint is durable; one or several. For saves
            in the background this happens on another thread. What they raise is logged.
        threads: threads that read, write and check; by default one per core, at most 8.
        io: ``"direct"`` writes past the page cache if the file system allows it, ``"buffered"``
            through it; ``"auto"`` takes the first for files of 4 MiB or more.
        memory: bytes that writing a checkpoint may take beside the state, and beside its copy with
            ``snapshot="copy"``; 64 MiB by default. With less, fewer threads write; at least one
            thread (2 MiB) always does. As many bytes may be copied while a step waits for
            ``snapshot="live"``; by default a quarter of the memory that is free.
        save_interval: iterations between saves, for `should_save`.
        allow_unprotected: also load files without any checksums, in which damage is not noticed.
        process_group: the ranks that save and resume together. `None`: all of them, if
            `torch.distributed` is initialised with more than one when a call is made. ``False``: this
            process by itself.
        replicas: ``"compare"`` refuses to save if the parameters or the state of the optimizer
            differ between the ranks; ``"trust"`` does not look.
        storage_options: of an object store, by the names of its environment variables
            (``{"aws_region": "eu-west-1"}``), which are used where none are given; ``timeout`` in seconds is
            that of a request with all its repetitions, 60 by default.
        join_timeout: seconds that rank 0 waits for the other ranks to come to a save, and for the
            first to come to a resume.

    In a process group each rank makes the same calls, and a script for one process stays as it is.
    Nothing is communicated when a manager is made. Rank 0 writes; the random states and data loaders
    of the others are saved in the field ``rank_states``. All ranks return the same path or raise the
    same error, in which ``rank N:`` says where it was. A rank that does not come to a save is not
    waited for again until it does, so that ``if rank == 0: manager.save_checkpoint(…)`` works too.
    A rank waits up to half an hour for rank 0, and a resume a quarter of an hour for ranks that are
    missing when others have come. Callbacks `on_commit` are called on rank 0 only. Lists, `load_checkpoint` and
    `verify_checkpoint` concern one process.
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
        save_interval: int = 1,
        allow_unprotected: bool = False,
        process_group: Any = None,
        replicas: Literal["compare", "trust"] = "compare",
        join_timeout: float = 30.0,
        storage_options: Mapping[str, str] | None = None,
    ) -> None:
        self._storage_options = checked_options("storage_options", storage_options)
        self._given = _plain(os.fspath(checkpoint_dir))
        if not self._given:
            raise ValueError('`checkpoint_dir` is empty; the working directory is "."')
        rules = retention(keep, keep_last, keep_every, keep_best, keep_within)
        self._keep = rules or Retention("all", [])
        self._is_remote = _native.is_url(self._given)
        # An upload takes too long for a step to wait for it.
        self._snapshot = checked_snapshot("copy" if self._is_remote and snapshot == "live" else snapshot)
        self._on_commit = [on_commit] if callable(on_commit) else list(on_commit or ())
        for callback in self._on_commit:
            if not callable(callback):
                raise TypeError(
                    f"`on_commit` is a {type(callback).__name__}, which cannot be called"
                )
        self._threads = checked_count("threads", threads) or THREADS
        self._io = io
        self._memory = checked_count("memory", memory)
        self._save_interval = checked_count("save_interval", save_interval) or 1
        self._allow_unprotected = allow_unprotected
        if replicas not in ("compare", "trust"):
            raise ValueError(f'`replicas` is {replicas!r}; it is "compare" or "trust"')
        self._replicas = replicas
        self._join_timeout = checked_seconds("join_timeout", join_timeout)
        self._begin()
        self._manager = self._open()
        self._members = Membership(process_group, self._manager.directory())
        _open_managers.add(self)

    def _begin(self) -> None:
        """What belongs to one process."""
        self._capture = Capture(self._memory)
        self._completing = Completing(self._on_commit)
        self._handles: list[SaveHandle] = []
        # Of saves that other ranks do as well.
        self._lost = Lost()
        self._sharded: InBackground | None = None
        self._groups: Groups | None = None

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
            self._storage_options,
        )

    @property
    def checkpoint_dir(self) -> str:
        """The directory: as it was given while that leads there, absolute after an `os.chdir`."""
        return self._manager.directory()

    def _at(self, name: str) -> str:
        return within(self.checkpoint_dir, name)

    @property
    def _native(self) -> _native.Manager:
        if not self._manager.is_here():
            # A forked child has none of the threads, and nothing of what was under way.
            self._begin()
            self._manager = self._reopen()
            _open_managers.add(self)
        return self._manager

    # Saving

    @overload
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
        parts: Mapping[str, Any] | None = None,
        only: Literal["trainable"] | None = None,
        extra: Mapping[str, Any] | None = None,
        wait: Literal[True] = True,
        snapshot: Snapshot | None = None,
    ) -> str: ...

    @overload
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
        parts: Mapping[str, Any] | None = None,
        only: Literal["trainable"] | None = None,
        extra: Mapping[str, Any] | None = None,
        wait: Literal[False],
        snapshot: Snapshot | None = None,
    ) -> SaveHandle: ...

    @overload
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
        parts: Mapping[str, Any] | None = None,
        only: Literal["trainable"] | None = None,
        extra: Mapping[str, Any] | None = None,
        wait: bool,
        snapshot: Snapshot | None = None,
    ) -> str | SaveHandle: ...

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
        parts: Mapping[str, Any] | None = None,
        only: Literal["trainable"] | None = None,
        extra: Mapping[str, Any] | None = None,
        wait: bool = True,
        snapshot: Snapshot | None = None,
    ) -> str | SaveHandle:
        """Save a checkpoint as ``checkpoint_iter_{iteration}.pt``; one that is there is replaced.

        Args:
            model: a module, anything with `state_dict()`, or a mapping of names to tensors. Several
                by name: ``{"actor": actor, "critic": critic}``; the field then has their state dicts
                by these names.
            optimizer: an optimizer of PyTorch, or anything with `state_dict()`; or several by name.
            iteration: the iteration the state belongs to, from 0 on; it must be given.
            training_stats: statistics; short ones are shown by lists, and `keep_best` compares
                them. Tensors of one number are saved as that number.
            metadata: whatever describes the run.
            scheduler, scaler, ema, dataloader: further parts with `state_dict()`.
            parts: any other objects with `state_dict()` by name: ``{"replay": buffer}`` is saved as
                the field ``replay_state_dict``.
            only: ``"trainable"`` leaves out the parameters of the models that need no gradient, such as
                the base model of LoRA. The field ``frozen_parameters`` has their names and digests; a
                load wants a model that holds the same, and leaves them as they are.
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
        line = self._members.line()
        meeting = None if line is None else SaveMeeting(self._members, line, self._join_timeout)
        with meeting or contextlib.nullcontext():
            further = {"scheduler": scheduler, "scaler": scaler, "ema": ema, "dataloader": dataloader}
            checked_flags(rng=rng, wait=wait)
            if only not in (None, "trainable"):
                raise ValueError(f'`only` is {only!r}; it is "trainable", or None to save everything')
            objects = Parts(model, optimizer, further, parts)
            if meeting is not None:
                check_not_divided(objects.by_name())
            iteration = checked_iteration(iteration)
            mode = self._snapshot if snapshot is None else checked_snapshot(snapshot)
            manager = self._native
            self._settle()
            objects.check_sound()
            states, about = objects.state(only)
            state = {
                "iteration": iteration,
                **{field: states.pop(field) for field in ("model_state_dict", "optimizer_state_dict")},
                "training_stats": plain_statistics(training_stats, self._keep.statistics),
                "metadata": dict(checked_mapping("metadata", metadata)),
                # A zone is looked up under a lock, which a fork might copy while the thread that
                # saves holds it.
                "timestamp": datetime.datetime.now().astimezone().isoformat(timespec="microseconds"),
                **states,
            }
            if rng:
                state["rng_state"] = _random.capture()
            if meeting is not None:
                state[RANK_STATES] = []
            extra = checked_mapping("extra", extra)
            objects.warn_of_strays(extra)
            for name, value in extra.items():
                if name in state:
                    raise ValueError(f"`extra` has a part `{name}`, which is the name of a field; rename it")
                state[name] = value
            if has_shards(state):
                return self._save_shards(meeting, objects, state, about, iteration, wait, mode, began)
            if meeting is not None:
                replica = self._replica(objects, state["optimizer_state_dict"])
                if not meeting.leads:
                    remote = meeting.follow(iteration, replica, _of_this_rank(state), self._lost)
                    path = self._at(f"checkpoint_iter_{iteration}.pt")
                    return self._followed(remote, path, iteration, wait, began)
                state[RANK_STATES] = meeting.lead(iteration, replica)
            if wait:
                # Saves follow one another: one in the background comes first.
                saved = manager.save(_native.Tree.encode(state, note=about))
                seconds = time.monotonic() - began
                info = SaveInfo.of(saved, self.checkpoint_dir, iteration, seconds, waited=seconds)
                if meeting is not None:
                    meeting.saved(info)
                self._completing.committed(info)
                return info.path
            # Of those that wait for another one, each would hold a copy of a state.
            manager.wait_for_saves(1)
            save, fence = self._capture.begin(
                state,
                about,
                mode,
                objects.models.values(),
                objects.optimizers.values(),
                manager.save_in_background,
            )
            path = self._at(f"checkpoint_iter_{iteration}.pt")
            tell = None if meeting is None else meeting.ended
            handle = SaveHandle(path, iteration, save, fence, began, self._completing, tell)
            if meeting is not None:
                meeting.begun()
            self._handles.append(handle)
            self._completing.add(handle)
            return handle

    def _replica(self, objects: Parts, optimizers: Any) -> Replica | None:
        """What the other ranks have to hold as well; `None` if that is not compared."""
        if self._replicas == "trust":
            return None
        models = {member_name("model", name): model for name, model in objects.models.items()}
        states = {
            member_name("optimizer", name): optimizers if name is ONE else optimizers[name]
            for name in objects.optimizers
        }
        return replica_of(models, states)

    def _followed(
        self, save: Save, path: str, iteration: int, wait: bool, began: float
    ) -> str | SaveHandle:
        """Take part in a save of which rank 0 says how it ended."""
        handle = SaveHandle(path, iteration, save, None, began, self._completing, calls_back=False)
        if not wait:
            self._handles.append(handle)
            self._completing.add(handle)
            return handle
        save.wait()
        save.mark_reported()
        handle._complete()
        return handle.result()

    def _save_shards(
        self,
        meeting: SaveMeeting | None,
        objects: Parts,
        state: dict[str, Any],
        about: str | None,
        iteration: int,
        wait: bool,
        mode: Snapshot,
        began: float,
    ) -> str | SaveHandle:
        """Save a state of which each rank holds a part: all write, and rank 0 commits."""
        from scai.distributed._save import Groups, InBackground, ShardedSave, saved_elsewhere
        from scai.distributed._state import flattened, parts_of

        if meeting is None:
            check_complete(state)
        # One at a time: in the group of the ranks, all have to speak of the same.
        if self._sharded is not None:
            self._sharded.wait()
        if meeting is not None:
            replica = self._replica(objects, state["optimizer_state_dict"])
            if meeting.leads:
                state[RANK_STATES] = meeting.lead(iteration, replica, needs_all=True)
            else:
                meeting.follow_shards(iteration, replica, _of_this_rank(state))
        if self._groups is None:
            self._groups = Groups()
        manager = self._native
        path = self._at(f"checkpoint_iter_{iteration}")
        leads = meeting is None or meeting.leads
        save = ShardedSave(
            lambda: flattened(state, about) if leads else parts_of(state),
            {field: state[field] for field in _LISTED},
            os.path.abspath(path),
            lambda: _native.ShardedSave(manager, iteration),
            None if meeting is None else meeting.line,
            self._groups,
            self._capture,
            threads=self._threads,
            io=self._io,
            models=objects.models.values(),
            optimizers=objects.optimizers.values(),
            snapshot="copy" if mode == "sync" else mode,
        )
        if wait:
            saved = save.run()
            if meeting is not None and not leads:
                return self._followed(meeting.following(self._lost), path, iteration, wait, began)
            seconds = time.monotonic() - began
            info = SaveInfo.of(saved, self.checkpoint_dir, iteration, seconds, waited=seconds)
            if meeting is not None:
                meeting.saved(info)
            self._completing.committed(info)
            return info.path
        save.take()
        if meeting is not None and not leads:
            remote = meeting.following(self._lost)
            self._sharded = InBackground(lambda: saved_elsewhere(save, remote), self._lost)
            return self._followed(self._sharded, path, iteration, wait, began)
        if meeting is not None:
            meeting.begun()
        self._sharded = InBackground(save.run, self._lost)
        tell = None if meeting is None else meeting.ended
        handle = SaveHandle(path, iteration, self._sharded, None, began, self._completing, tell)
        self._handles.append(handle)
        self._completing.add(handle)
        return handle

    def should_save(self, iteration: int) -> bool:
        """Whether `iteration` is a multiple of `save_interval`, and later than the latest checkpoint and
        all that is being saved."""
        iteration = checked_iteration(iteration)
        if iteration % self._save_interval:
            return False
        # What is still being saved is not waited for.
        under_way = [handle.iteration for handle in self._handles if not handle.done()]
        latest = max(under_way) if under_way else self.latest_iteration()
        return latest is None or iteration > latest

    def _settle(self) -> None:
        """Forget the saves that have ended."""
        for handle in [handle for handle in self._handles if handle._save.done()]:
            handle._lift()
            # Another thread may have been faster.
            with contextlib.suppress(ValueError):
                self._handles.remove(handle)

    # Loading

    def load_checkpoint(
        self,
        checkpoint_path: PathLike | int | None = None,
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
        parts: Mapping[str, Any] | None = None,
        remap: Mapping[str, str] | None = None,
        cast: bool = False,
        dry_run: bool = False,
        mmap: bool = False,
    ) -> Checkpoint:
        """Load a checkpoint, of scai or of `torch.save`, into what is passed.

        Every byte is checked before anything is changed, and so is whether everything fits: a load
        that fails leaves model, optimizer and the rest as they were.

        Args:
            checkpoint_path: the file, or the iteration; the newest of the directory if it is left out.
            model: a module, anything with `state_dict()` and `load_state_dict()`, or a mapping of
                names to tensors; or several by name, as they were saved. A strict load wants all
                that were saved.
            optimizer: an optimizer of PyTorch, or anything with these two methods; or several.
            device: where the tensors of the result go, as `map_location` of `torch.load`. What is
                loaded into model and optimizer stays on their devices.
            strict: every name, shape and element type must match. Otherwise what matches is
                loaded and the rest is reported; the optimizer's state then follows each parameter
                by its name, and its hyperparameters stay as they are. A module with a way of its
                own to load (`_load_from_state_dict`, hooks, extra state) is asked what it accepts.
                An object in the file that only code could make is then a `scai.ForeignObject` in
                the result, with a warning; a strict load raises `NeedsCodeError`.
            scheduler, scaler, ema, dataloader, parts: further parts, as they were saved.
            rng: whether to restore the state of the random generators; in a process group this rank's own.
            remap: regular expressions for saved names, and replacements (``$1`` or ``\\1`` is the
                first group).
            cast: also load numbers of floating point into those of another type, such as float16 into
                float32 and back; the report names each. Without, another type is a mismatch.
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
        further = {"scheduler": scheduler, "scaler": scaler, "ema": ema, "dataloader": dataloader}
        checked_flags(strict=strict, rng=rng, cast=cast, dry_run=dry_run, mmap=mmap)
        path = self._existing(checkpoint_path)
        objects = Parts(model, optimizer, further, parts)
        return self._load(
            path,
            objects,
            device,
            matching=Matching(strict, checked_remap(remap), cast),
            rng="required" if rng else "no",
            dry_run=dry_run,
            mmap=mmap,
            line=self._members.line(),
        )

    @no_collections()
    def _load(
        self,
        path: str,
        objects: Parts,
        device: Any,
        *,
        matching: Matching,
        rng: Literal["required", "if saved", "no"],
        dry_run: bool,
        mmap: bool,
        is_resume: bool = False,
        checked: File | None = None,
        line: Line | None = None,
        agree: Callable[[], None] | None = None,
    ) -> Checkpoint:
        """Load a file, or one that is open and of which every byte was checked.

        With a `line` to other ranks, what each has of its own is this one's; `agree` as in `apply_all`.
        """
        locate = locator(device)
        if device is not None and not callable(device) and not isinstance(device, dict):
            # Before anything is changed, not when the first field is read.
            locate("cpu")
        self.flush()
        file = checked
        if file is None:
            file = self._opened(path)
            file.check(self._threads)
        tree = file.tree(foreign=not matching.strict)
        if not matching.strict:
            warn_of_objects(tree, path)
        # Another manager may be saving what is to be filled.
        lift_all()

        tree.check_fields()
        # Of a file without states by rank, what is loaded by hand is everybody's.
        is_by_rank = line is not None and (is_resume or RANK_STATES in tree.keys())
        own = OwnState(tree, line) if line is not None and is_by_rank else None
        has_loader = own is not None and "dataloader" in objects.further
        field = "dataloader_state_dict"
        loads = objects.loads(tree, matching, {field: own.field(field)} if own and has_loader else None)
        if is_resume and objects.models and (rest := objects.not_among(tree)):
            _log.warning(
                "`%s` also holds %s, for which nothing was passed: not restored", path, ", ".join(rest)
            )
        restore = None
        random_state = None
        if rng == "required":
            random_state = tree.field("rng_state") if own is None else own.field("rng_state")
        elif rng == "if saved":
            random_state = tree.part("rng_state") if own is None else own.part("rng_state")
        if random_state is not None:
            restore = _random.prepared(random_state.decode(threads=self._threads))
        if mmap and (mapping := mapped(file)) is not None:
            content = tree.decode(map=mapping, locate=locate, threads=self._threads)
            checkpoint = Checkpoint(content)
        else:
            checkpoint = Checkpoint.of(tree, locate, self._threads)
        apply_all(loads.all, restore, dry_run, agree)

        if not dry_run:
            self._note_read(path)
            loads.note_done()
        checkpoint.path = path
        checkpoint.report = loads.report()
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
        parts: Mapping[str, Any] | None = None,
        remap: Mapping[str, str] | None = None,
        cast: bool = False,
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
        line = self._members.line()
        meeting = None if line is None else ResumeMeeting(line, at, self._join_timeout)
        with meeting or contextlib.nullcontext():
            further = {"scheduler": scheduler, "scaler": scaler, "ema": ema, "dataloader": dataloader}
            checked_flags(strict=strict, rng=rng, cast=cast, mmap=mmap)
            objects = Parts(model, optimizer, further, parts)
            if on_unreadable not in ("raise", "skip"):
                raise ValueError(f'`on_unreadable` is {on_unreadable!r}; it is "raise" or "skip"')
            at = None if at is None else checked_iteration(at, "at")
            matching = Matching(strict, checked_remap(remap), cast)
            went_back = at is not None

            def find(last: Found | None, reason: Exception | None) -> Found | None:
                nonlocal went_back
                if last is None or reason is None:
                    return self._found(at, on_unreadable == "skip")
                if at is not None:
                    raise reason
                went_back = True
                return self._older(last, reason)

            def load(found: Found, agree: Callable[[], None] | None) -> Checkpoint:
                path, file = self._at(found.name), found.file
                if line is not None and line.rank != 0:
                    file = opened(path, self._opened, line)
                    file.check(self._threads)
                return self._load(
                    path,
                    objects,
                    device,
                    matching=matching,
                    rng="if saved" if rng else "no",
                    dry_run=False,
                    mmap=mmap,
                    is_resume=True,
                    checked=file,
                    line=line,
                    agree=agree,
                )

            def at_last(found: Found) -> None:
                if went_back:
                    self.rollback(found.iteration)

            if meeting is not None:
                self.flush()
                outcome = meeting.run(find, load, at_last)
            elif (newest := find(None, None)) is not None:
                outcome = newest, load(newest, None)
                at_last(newest)
            else:
                outcome = None
        if outcome is None:
            return None
        found, checkpoint = outcome
        skipped = Skipped.all_of(self.checkpoint_dir, found.skipped)
        if line is None or line.rank == 0:
            for one in skipped:
                aside = f"; it is now called `{one.set_aside}`" if one.set_aside else ""
                _log.warning("`%s` was not resumed from: %s%s", one.path, one.reason, aside)
        path = self._at(found.name)
        return Resumed(checkpoint, path, found.iteration, skipped, found.iterations_lost)

    def _opened(self, path: str) -> File:
        return _native.File(path, self._allow_unprotected, self._storage_options)

    def _found(self, at: int | None, skip_unreadable: bool) -> Found | None:
        """The checkpoint of an iteration, or the newest one that is sound."""
        if at is not None:
            return Found(self._native.name_of(at), at, 0, [])
        found = self._native.resume(skip_unreadable)
        return None if found is None else Found(**found)

    def _older(self, last: Found, reason: Exception) -> Found:
        """The newest checkpoint before another that is sound."""
        skipped = [*last.skipped, (last.name, reason, None)]
        superseded = {name for name, _, removed in self._native.prune_superseded(True) if removed}
        for iteration in reversed(self._native.iterations()):
            if iteration >= last.iteration:
                continue
            name = self._native.name_of(iteration)
            if name in superseded:
                continue
            try:
                file = self._opened(self._at(name))
                file.check(self._threads)
            except DamagedError as error:
                skipped.append((name, error, None))
                continue
            lost = last.iterations_lost + last.iteration - iteration
            return Found(name, iteration, lost, skipped, file)
        raise NothingToResumeError(
            f"no checkpoint in `{self.checkpoint_dir}` is sound on all ranks; of the last one: {reason}"
        )

    # The directory

    def rollback(self, iteration: int) -> None:
        """Record that the training goes on from the checkpoint of `iteration`.

        Those of later iterations are superseded: listed as such, never resumed from by themselves,
        counted by no rule, deleted only by ``prune(superseded=True)``, and replaced by a save of the
        same iteration. The record is durable when this returns. To take it back, roll back to a later
        iteration. ``resume(at=…)`` loads the checkpoint as well. In a process group rank 0 records it, and
        the call does nothing on the others.

        Raises:
            FileNotFoundError: there is no checkpoint of this iteration.
            scai.errors.LockedError: another process writes to the directory.
        """
        self.flush()
        line = self._members.line()
        if line is None or line.rank == 0:
            self._native.rollback(checked_iteration(iteration))

    def list_checkpoints(self) -> list[str]:
        """The paths of all checkpoints, by iteration."""
        return [self._at(name) for name in self._native.names()]

    def all_iterations(self) -> list[int]:
        """The iterations of all checkpoints, in order. None of them is verified."""
        return self._native.iterations()

    def get_latest_checkpoint(self) -> str | None:
        """The checkpoint with the largest iteration, or `latest.pt` if that is all there is.

        `None` in an empty directory. Superseded ones do not count. It is not verified; see `resume`.
        """
        latest = self._native.latest()
        return None if latest is None else self._at(latest[0])

    def latest_iteration(self) -> int | None:
        """The iteration of the checkpoint that `get_latest_checkpoint` returns."""
        latest = self._native.latest()
        return None if latest is None else latest[1]

    def best_checkpoint(self, by: str) -> str | None:
        """The best checkpoint by a statistic of `training_stats`; `None` if none has it as a number.

        Damaged and superseded ones do not count. It is not verified.

        Args:
            by: the statistic and which end is good, ``"loss:min"`` or ``"accuracy:max"``, as
                `keep_best` has it.

        Raises:
            ValueError: `by` has another form.
        """
        if not isinstance(by, str):
            raise TypeError(f'`by` must be a string such as "loss:min", got {type(by).__name__}')
        try:
            _native.retention([f"best:{by}"])
        except ValueError:
            message = f'`by` is {by!r}; it must be a statistic and a goal, such as "loss:min"'
            raise ValueError(message) from None
        best = self._native.best(by)
        return None if best is None else self._at(best)

    def verify_checkpoint(self, checkpoint_path: PathLike | int) -> dict[str, bool]:
        """Read every byte of a checkpoint, and answer eight questions about it.

        ``exists, readable, has_required_fields, has_model_state, has_optimizer_state,
        has_training_stats, has_metadata, has_timestamp``; ``readable`` says that every byte is
        right. `scai.verify` also says what is wrong.
        """
        self.flush()
        try:
            path = self._path(checkpoint_path)
        except FileNotFoundError:
            # No checkpoint of this iteration.
            path = self._at(f"checkpoint_iter_{checkpoint_path}.pt")
        return _verify(path, storage_options=self._storage_options).answers

    def pin(self, checkpoint_path: PathLike | int) -> None:
        """Keep a checkpoint from being deleted.

        Raises:
            FileNotFoundError: there is no such checkpoint.
        """
        self._native.pin(self._named(checkpoint_path))

    def unpin(self, checkpoint_path: PathLike | int) -> None:
        """Let a checkpoint be deleted again."""
        self._native.unpin(self._named(checkpoint_path))

    def delete(self, checkpoint_path: PathLike | int) -> None:
        """Delete one checkpoint, whatever the rules of retention say.

        `latest.pt` then leads to the newest of those that are left.

        Raises:
            FileNotFoundError: there is no such checkpoint.
            ValueError: it is pinned.
            scai.errors.LockedError: another process writes to the directory.
        """
        self.flush()
        self._native.delete(self._named(checkpoint_path))

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
                raise ValueError("`superseded` cannot be combined with rules; prune by rules in another call")
            return [
                Verdict(self._at(name), reasons, removed)
                for name, reasons, removed in self._native.prune_superseded(dry_run)
            ]
        rules = retention(keep, keep_last, keep_every, keep_best, keep_within) or self._keep
        return [
            Verdict(self._at(name), reasons, removed)
            for name, reasons, removed in self._native.prune(rules.text, dry_run)
        ]

    def flush(self) -> None:
        """Wait until all saves in the background are durable.

        Raises:
            Exception: what one failed with, where nobody has asked its handle.
        """
        manager = self._native
        manager.wait_for_saves(0)
        self._completing.wait()
        self._settle()
        self._lost.surface()
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
        return f"CheckpointManager({self.checkpoint_dir!r})"

    def _path(self, checkpoint: PathLike | int) -> str:
        """The path of a checkpoint by its iteration, by its path, or by the name of its file in the
        directory."""
        path = self._named(checkpoint)
        if os.path.dirname(path):
            return path
        inside = self._at(path)
        return inside if self._is_remote or os.path.exists(inside) else path

    def _named(self, checkpoint: PathLike | int) -> str:
        """A path or a name as it is; the name of an iteration's checkpoint."""
        if isinstance(checkpoint, (str, os.PathLike)):
            return os.fspath(checkpoint)
        try:
            number = checked_iteration(checkpoint, "checkpoint_path")
        except TypeError:
            kind = type(checkpoint).__name__
            message = f"`checkpoint_path` must be a path or an iteration, got {kind}"
            if hasattr(checkpoint, "state_dict"):
                message += "; pass what is to be loaded by keyword: `model=…, optimizer=…`"
            raise TypeError(message) from None
        return self._native.name_of(number)

    def _note_read(self, path: str) -> None:
        """What was loaded may be replaced by a save of this manager."""
        # The engine refuses a path into another directory.
        with contextlib.suppress(OSError, ValueError):
            self._native.note_read(path)

    def _existing(self, checkpoint: PathLike | int | None) -> str:
        if checkpoint is not None:
            return self._path(checkpoint)
        latest = self.get_latest_checkpoint()
        if latest is None:
            raise FileNotFoundError(f"there is no checkpoint in `{self.checkpoint_dir}`")
        return latest


def _of_this_rank(state: Mapping[str, Any]) -> dict[str, Any]:
    """What each rank has of its own."""
    return {field: state[field] for field in _OF_EACH_RANK if field in state}


def _plain(location: str) -> str:
    """A location without ``./`` before it and a slash behind it, as paths are returned."""
    while location.startswith("./") and location.strip("./"):
        location = location[2:].lstrip("/")
    return location.rstrip("/") or location


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
