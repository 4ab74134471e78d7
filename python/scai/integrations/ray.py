"""Ray Train: checkpoints uploaded while training goes on, and reported once they have arrived as saved.

In the function that Ray runs in each worker: `resume` before the loop, `report` in place of
``ray.train.report``. Made for Ray 2.60 (Ray Train v2); ``pip install "scai[ray]"``.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import logging
import os
import posixpath
import re
import shutil
import threading
import weakref
from collections.abc import Mapping
from typing import Any

import ray.train
import ray.train.collective
from pyarrow import fs

from scai import _native
from scai._arguments import checked_flags, checked_remap
from scai._background import UNFINISHED
from scai._files import THREADS, verify
from scai._folder import COMMIT, Staging
from scai._group import Membership
from scai._handle import SaveHandle
from scai._load_module import Matching
from scai._manager import CheckpointManager
from scai._parts import Parts
from scai._results import Resumed, SaveInfo, Skipped
from scai.errors import DamagedError, NotACheckpointError, NothingToResumeError

__all__ = ["preempted", "report", "resume"]

_log = logging.getLogger("scai")
_NAME = re.compile(r"checkpoint_iter_(\d+)\.pt")
_OWNER = "ray.txt"
_ASIDE = ".unreported"
_PINNED = ".pinned"
_CHUNK = 8 << 20
_ROOM = 1 << 20
"""What is left on a disk: Ray writes its own record in place, and cannot go on if that is cut short."""
_ABOUT = {"framework": "ray", "version": ray.__version__}


def report(
    manager: CheckpointManager,
    metrics: Mapping[str, Any],
    *,
    wait: bool = False,
    checkpoint_dir_name: str | None = None,
    validation: Any = False,
) -> None:
    """Report metrics to Ray, and the checkpoint that `manager` saved last if it was not reported before.

    In place of ``ray.train.report``, and like it a barrier: all ranks call it equally often. Rank 0 saves,
    the others report metrics only. The checkpoint is uploaded in the background, one after the other, when
    it is durable. Ray is told of it when it has arrived in Ray's storage, was read back there and is what
    was saved; on a file system that is mounted it is durable then. Up to two uploads may be unfinished; a
    third report of a checkpoint waits. The end of the loop waits for all.

    What Ray keeps is up to ``CheckpointConfig``. Files of the manager's own directory are removed once
    a newer one has been uploaded.

    Args:
        manager: that was given to `resume` before.
        metrics: what ``ray.train.report`` takes.
        wait: whether to return only when the checkpoint has arrived, as on a notice of preemption.
        checkpoint_dir_name, validation: as for ``ray.train.report``.

    Raises:
        RuntimeError: `resume` was not called before; or another rank than 0 has saved.
        Exception: what an earlier save or upload failed with; the run has failed with the same then, and
            Ray starts it again as ``FailureConfig`` says. With `wait`, what this one fails with.
    """
    checked_flags(wait=wait)
    reports = _reports.get(manager)
    if reports is None:
        raise RuntimeError(
            "call `scai.integrations.ray.resume(manager, …)` before the loop: Ray runs the function again "
            "after a failure, and it would start over"
        )
    context = ray.train.get_context()
    saved = reports.newest(manager)
    if saved is not None and (rank := context.get_world_rank()) != 0:
        raise RuntimeError(
            f"rank {rank} has saved `{saved.path}`; only rank 0 saves, the others report metrics only"
        )
    reports.wait(UNFINISHED if saved is None else UNFINISHED - 1)
    mode = ray.train.CheckpointUploadMode
    told = functools.partial(
        ray.train.report,
        dict(metrics),
        checkpoint_dir_name=checkpoint_dir_name,
        checkpoint_upload_mode=mode.SYNC if wait else mode.ASYNC,
        delete_local_checkpoint_after_upload=False,
    )
    if saved is None:
        told()
        return
    directory = os.path.abspath(manager.checkpoint_dir)
    upload = _Upload(saved, directory, context.get_storage())
    told(
        checkpoint=ray.train.Checkpoint.from_directory(directory),
        checkpoint_upload_fn=upload,
        validation=validation,
    )
    ending = upload.ending
    del upload
    if not ending.is_left_out():
        reports.begun(manager, ending)
    else:
        _log.warning("`%s` was not reported: Ray left the report out", saved.path)


def resume(
    manager: CheckpointManager,
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
    mmap: bool = False,
) -> Resumed | None:
    """Load the checkpoint that Ray would have the training go on from; `None` if there is none.

    That is ``ray.train.get_checkpoint()``. If it is damaged, it is the newest sound one before it that
    Ray still has, with a warning; the damaged one stays where it is, since Ray does not start with a
    directory missing. Rank 0 chooses, and all ranks load the same, each after a check of every byte. Random
    states are those of rank 0, and are restored there only: others seed their own.

    What only the manager's own directory holds does not count: other nodes do not have it, and Ray was
    never told of it. If it is newer than what is loaded it is renamed to ``….pt.unreported``, and removed
    once Ray has a checkpoint of its iteration or a later one.

    Args:
        manager: of a directory near the worker, of this training alone, without rules of retention.

    The other arguments are those of `CheckpointManager.resume`.

    Returns:
        As `CheckpointManager.resume` does; `path` is that in Ray's storage.

    Raises:
        ValueError: the manager has rules of retention, or its directory holds another training's
            checkpoints.
        scai.errors.NothingToResumeError: Ray has checkpoints, and none is sound.
        scai.errors.NotACheckpointError: Ray's checkpoint was not reported by `report`.
        scai.errors.LockedError: another process writes to the manager's directory.
        Exception: what `CheckpointManager.load_checkpoint` raises if a sound one does not fit.
    """
    if manager._keep.text != "all":
        raise ValueError(
            f"the manager keeps `{manager._keep.text}`, and would remove what has not been uploaded; leave "
            "its rules out and say what Ray keeps, with `CheckpointConfig(num_to_keep=…)`"
        )
    checked_flags(strict=strict, rng=rng, cast=cast, mmap=mmap)
    further = {"scheduler": scheduler, "scaler": scaler, "ema": ema, "dataloader": dataloader}
    objects = Parts(model, optimizer, further, parts)
    # Only rank 0 saves, and the directories of the ranks need not be shared.
    manager._members = Membership(False, manager.checkpoint_dir)
    rank = ray.train.get_context().get_world_rank()
    is_first = rank == 0
    if is_first:
        _claim(manager)
    search = _Search()
    chosen = search.run() if is_first else None
    told = (chosen, search.skipped, search.newest)
    chosen, skipped, newest = ray.train.collective.broadcast_from_rank_zero(told)
    resumed = None
    if chosen is not None:
        checkpoint, name = chosen
        iteration, path = _iteration(name), posixpath.join(checkpoint.path, name)
        with checkpoint.as_directory() as directory:
            file = _native.File(os.path.join(directory, name), manager._allow_unprotected)
            file.check(manager._threads)
            loaded = manager._load(
                path,
                objects,
                device,
                matching=Matching(strict, checked_remap(remap), cast),
                # Others would draw the same numbers as rank 0.
                rng="if saved" if rng and is_first else "no",
                dry_run=False,
                mmap=mmap,
                is_resume=True,
                checked=file,
            )
        resumed = Resumed(loaded, path, iteration, skipped, newest - iteration)
        if rng and not is_first and "rng_state" in loaded:
            _log.warning(
                "`%s` holds the random states of rank 0; those of rank %d are left as they are",
                path,
                rank,
            )
    if is_first:
        _set_aside(manager, -1 if resumed is None else resumed.iteration)
    if manager not in _reports:
        reports = _reports[manager] = _Reports()
        # A list that the manager shares with what calls back.
        manager._on_commit.append(reports.committed)
    return resumed


def preempted() -> bool:
    """Whether a node of this training is about to be taken away; true once for each such notice.

    Save then, and ``report(manager, metrics, wait=True)``, and go on: Ray restarts the training when the
    node is gone. A barrier, like `report`: all ranks call it equally often, and get the same answer.
    Ray asks for notices every five seconds.
    """
    info = ray.train.get_preemption_info()
    nodes = set() if info is None else set(info.preempted_node_ids) - _noticed
    _noticed.update(nodes)
    return bool(nodes)


# What is reported


class _Ending:
    """How an upload ended. Ray may try one again."""

    def __init__(self, upload: _Upload) -> None:
        self.event = threading.Event()
        self.error: BaseException | None = None
        self._upload = weakref.ref(upload)

    def is_left_out(self) -> bool:
        """Whether Ray will never call the upload: it leaves out reports while workers are being ended, and
        then nobody holds it."""
        return self._upload() is None and not self.event.is_set()

    def wait(self) -> None:
        while not self.event.wait(1.0) and not self.is_left_out():
            pass


class _Reports:
    """What a manager has saved since the last report, and which uploads are under way."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._committed: dict[str, SaveInfo] = {}
        self._handled: weakref.WeakSet[SaveHandle] = weakref.WeakSet()
        # Of saves in the background that were reported before they were durable.
        self._expected: list[str] = []
        self._uploads: list[_Ending] = []

    def committed(self, info: SaveInfo) -> None:
        with self._lock:
            if info.path in self._expected:
                self._expected.remove(info.path)
            else:
                self._committed[info.path] = info

    def newest(self, manager: CheckpointManager) -> SaveHandle | SaveInfo | None:
        """The newest checkpoint of those that were saved since the last report."""
        with self._lock:
            saved: list[SaveHandle | SaveInfo] = [*self._begun(manager), *self._committed.values()]
        return max(saved, key=lambda each: each.iteration, default=None)

    def begun(self, manager: CheckpointManager, ending: _Ending) -> None:
        """Note that what was saved was reported, and is being uploaded."""
        with self._lock:
            handles = self._begun(manager)
            self._handled.update(handles)
            self._expected += [each.path for each in handles if each.path not in self._committed]
            self._committed.clear()
        self._uploads.append(ending)

    def _begun(self, manager: CheckpointManager) -> list[SaveHandle]:
        return [handle for handle in manager._handles if handle not in self._handled]

    def wait(self, count: int) -> None:
        """Wait until no more than so many uploads are under way, and raise what one failed with."""
        while self._uploads and (len(self._uploads) > count or self._uploads[0].event.is_set()):
            self._uploads[0].wait()
            if (error := self._uploads[0].error) is not None:
                raise error
            del self._uploads[0]


_reports: weakref.WeakKeyDictionary[CheckpointManager, _Reports] = weakref.WeakKeyDictionary()
_noticed: set[str] = set()


class _Upload:
    """What Ray calls, on a thread of its own, to upload one checkpoint."""

    def __init__(self, saved: SaveHandle | SaveInfo, directory: str, storage: Any) -> None:
        self.ending = _Ending(self)
        self._saved = saved
        self._directory = directory
        self._storage = storage

    def __call__(self, _: Any, name: str) -> Any:
        ending = self.ending
        ending.event.clear()
        ending.error = None
        try:
            return self._run(name)
        except BaseException as error:
            ending.error = error
            if isinstance(error, Exception):
                raise
            # Ray would not notice it.
            raise RuntimeError(f"the upload of `{self._saved.path}` was ended") from error
        finally:
            ending.event.set()

    def _run(self, name: str) -> Any:
        saved, storage = self._saved, self._storage
        if isinstance(saved, SaveHandle):
            saved.result()
        path = os.path.join(self._directory, os.path.basename(saved.path))
        # One is uploaded after the other, so that those before this one have arrived.
        _remove_before(self._directory, saved.iteration)
        files, parent = storage.storage_filesystem, storage.experiment_fs_path
        if isinstance(files, fs.LocalFileSystem):
            _copy(path, parent, name, saved.iteration)
        else:
            _send(path, files, posixpath.join(parent, name))
        return ray.train.Checkpoint(path=posixpath.join(parent, name), filesystem=files)


def _copy(path: str, parent: str, name: str, iteration: int) -> None:
    """Copy a file into a new directory of a file system that is mounted; verified and durable."""
    if not os.path.isdir(parent):
        raise FileNotFoundError(
            f"Ray's storage `{parent}` does not exist on this node: `storage_path` must be a directory that "
            "all nodes share, or a URL"
        )
    needed, free = os.path.getsize(path) + _ROOM, shutil.disk_usage(parent).free
    if needed > free:
        raise OSError(
            errno.ENOSPC,
            f"`{parent}`: no space for `{os.path.basename(path)}`: {needed} bytes are needed, {free} are free",
        )
    staging = Staging(parent)
    try:
        copied = os.path.join(staging.path, os.path.basename(path))
        shutil.copyfile(path, copied)
        _check(copied, path, parent)
        staging.commit(name, _ABOUT, iteration)
    except BaseException:
        staging.abandon()
        raise


def _send(path: str, files: Any, directory: str) -> None:
    """Copy a file into a new directory of a remote file system, and read it back."""
    files.create_dir(directory)
    target = posixpath.join(directory, os.path.basename(path))
    with open(path, "rb") as near, files.open_output_stream(target) as far:
        shutil.copyfileobj(near, far, _CHUNK)
    with open(path, "rb") as near, files.open_input_stream(target) as far:
        if _digest(near) != _digest(far):
            raise DamagedError(f"`{target}` in Ray's storage is not what `{path}` is", target)
    _check(path, path, directory)


def _digest(stream: Any) -> bytes:
    digest = hashlib.blake2b()
    while chunk := stream.read(_CHUNK):
        digest.update(chunk)
    return digest.digest()


def _check(copied: str, path: str, storage: str) -> None:
    for damage in verify(copied).damage:
        raise DamagedError(
            f"`{path}` did not arrive in Ray's storage `{storage}`: {damage}", path
        ) from damage


# What is resumed from


def _iteration(name: str) -> int:
    """That of the name of a file; less than any if it is another name."""
    found = _NAME.fullmatch(name)
    return int(found[1]) if found else -1


def _name_in(checkpoint: Any) -> str:
    """The name of the file in a checkpoint of Ray.

    Raises:
        scai.errors.DamagedError: it is missing.
        scai.errors.NotACheckpointError: there are other files.
    """
    selector = fs.FileSelector(checkpoint.path, allow_not_found=True)
    names = [info.base_name for info in checkpoint.filesystem.get_file_info(selector)]
    found = [name for name in names if _iteration(name) >= 0]
    if not found and names and COMMIT not in names:
        raise NotACheckpointError(
            f"`{checkpoint.path}` holds {', '.join(sorted(names))}, and no file of scai: "
            "scai.integrations.ray did not report it"
        )
    if not found:
        raise DamagedError(
            f"`{checkpoint.path}`: the file of the checkpoint is missing", checkpoint.path
        )
    return str(found[0])


class _Search:
    """The checkpoint to go on from.

    Attributes:
        skipped: what could not be used, and why.
        newest: the iteration of the newest there was.
    """

    def __init__(self) -> None:
        self.skipped: list[Skipped] = []
        self.newest = -1

    def named(self, checkpoint: Any) -> str | None:
        """The name of the file; `None` if there is none."""
        try:
            name = _name_in(checkpoint)
        except DamagedError as error:
            self._skip(checkpoint.path, error)
            return None
        self.newest = max(self.newest, _iteration(name))
        return name

    def is_sound(self, checkpoint: Any, name: str) -> bool:
        try:
            with checkpoint.as_directory() as directory:
                _native.File(os.path.join(directory, name), False).check(THREADS)
        except (DamagedError, FileNotFoundError) as error:
            self._skip(posixpath.join(checkpoint.path, name), error)
            return False
        return True

    def _skip(self, path: str, error: Exception) -> None:
        _log.warning("`%s` is not resumed from: %s", path, error)
        self.skipped.append(Skipped(path, error, None))

    def run(self) -> tuple[Any, str] | None:
        """Ray's checkpoint, or the newest sound one before it that Ray has, and the name of its file."""
        latest = ray.train.get_checkpoint()
        if latest is None:
            return None
        name = self.named(latest)
        if name is not None and self.is_sound(latest, name):
            return latest, name
        # What was reported of later iterations, the training has gone back behind.
        limit = self.newest if name is not None else float("inf")
        mode = ray.train.CheckpointConsistencyMode.COMMITTED
        reported = [each.checkpoint for each in ray.train.get_all_reported_checkpoints(mode)]
        others = [each for each in reported if each.path != latest.path]
        older = [(each, name) for each in others if (name := self.named(each)) is not None]
        for each, name in sorted(older, key=lambda pair: _iteration(pair[1]), reverse=True):
            if _iteration(name) <= limit and self.is_sound(each, name):
                _log.warning("going on from `%s`", posixpath.join(each.path, name))
                return each, name
        reasons = "; ".join(f"`{one.path}`: {one.reason}" for one in self.skipped)
        raise NothingToResumeError(
            f"Ray has {len(others) + 1} checkpoints of this training (`CheckpointConfig(num_to_keep=…)`), "
            f"and none is sound: {reasons}"
        )


# The manager's own directory


def _claim(manager: CheckpointManager) -> None:
    """Note whose directory it is.

    Raises:
        ValueError: there are another training's checkpoints in it.
    """
    storage = ray.train.get_context().get_storage()
    owner = f"{storage.storage_filesystem.type_name}:{storage.experiment_fs_path}"
    path = os.path.join(manager.checkpoint_dir, _OWNER)
    found = ""
    with contextlib.suppress(FileNotFoundError), open(path) as file:
        found = file.read()
    if found == owner:
        return
    if manager.list_checkpoints():
        of = f"the training `{found}`" if found else "another training"
        raise ValueError(
            f"`{manager.checkpoint_dir}` holds checkpoints of {of}, and this one is `{owner}`; give the "
            "manager a directory of its own"
        )
    _native.write_bytes(path, owner.encode())


def _set_aside(manager: CheckpointManager, iteration: int) -> None:
    """Rename what is newer than the checkpoint that the training goes on from."""
    for path in manager.list_checkpoints():
        if _iteration(os.path.basename(path)) > iteration:
            aside = path + _ASIDE
            with contextlib.suppress(FileNotFoundError):
                os.remove(aside)
            os.link(path, aside)
            manager.delete(path)
            _log.warning("`%s` was never reported to Ray; it is now called `%s`", path, aside)


def _remove_before(directory: str, iteration: int) -> None:
    """Remove earlier checkpoints, except pinned ones, and what was set aside. A failure is logged."""
    for name in os.listdir(directory):
        path = os.path.join(directory, name)
        plain = name.removesuffix(_ASIDE)
        if not 0 <= _iteration(plain) < iteration + (plain != name) or os.path.exists(
            path + _PINNED
        ):
            continue
        try:
            os.remove(path)
        except OSError as error:
            _log.warning("`%s` is kept: %s", path, error)
