"""A writer of DCP: shards with digests, and one commit that binds them."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import pickle
import secrets
import threading
import weakref
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch.distributed.checkpoint._extension import StreamTransformExtension
from torch.distributed.checkpoint.filesystem import (
    CURRENT_DCP_VERSION,
    FileSystemWriter,
    SerializationFormat,
    _StorageInfo,
    _StoragePrefix,
    _write_item,
)
from torch.distributed.checkpoint.metadata import Metadata, MetadataIndex, StorageMeta
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner, WriteItem, WriteItemType
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

from scai import _native
from scai._capture import Capture, Snapshot, checked_snapshot
from scai._files import THREADS
from scai.distributed._staging import Staged

_attempts: weakref.WeakValueDictionary[str, _native.Attempt] = weakref.WeakValueDictionary()
_replaced: weakref.WeakSet[_native.Attempt] = weakref.WeakSet()
COMMIT = "commit.json"


@dataclass(frozen=True)
class WrittenShard:
    """A shard that a process has written, as it tells the coordinator."""

    name: str
    size: int
    root: str


class _Thread(threading.local):
    """What belongs to the save that runs on this thread: one writer may have several under way."""

    attempt: _native.Attempt | _native.ShardedSave | None = None
    claim: _Claim | None = None


class _Claim:
    """Ends what was taken for a save when the thread of the save ends, since a stager does not hear of a save
    that has failed before `write_data`, and the next step would wait for it."""

    def __init__(self, staged: Staged, among: list[Staged]) -> None:
        staged.is_claimed = True
        self.staged = staged
        self._among = among

    def __del__(self) -> None:
        with contextlib.suppress(ValueError):
            self._among.remove(self.staged)
        self.staged.end()


class StorageWriter(FileSystemWriter):
    """Writes checkpoints of `torch.distributed.checkpoint`: ``dcp.save(state, storage_writer=StorageWriter(path))``.

    Every process writes one shard, whose bytes are bound by digests; process 0 commits them when all are
    durable. Until then, and if a process dies or the power fails, the directory holds the checkpoint that it
    held before; afterwards the new one, whose files have names of their own: parts of two saves cannot mix.
    Stock readers load it.

    With ``dcp.async_save(state, storage_writer=…)`` the call returns at once: pass the optimizers, and their
    parameters and state are read while training goes on, up to the next step, which copies what is left.
    Everything else is copied at once. Use a process group of gloo for such saves, other than training's.

    Args:
        path: the directory; ``checkpoint_id`` of ``dcp.save`` replaces it.
        overwrite: whether a checkpoint may be replaced that is there; it is an error otherwise.
        optimizers, models: whose tensors only a step of these optimizers changes, for ``async_save``.
        snapshot: how tensors are taken by ``async_save``, as by `CheckpointManager`.
        threads: threads that write; by default one per core, at most 8.
        io: as of `CheckpointManager`.

    The other arguments are those of `FileSystemWriter`. Files are always synced, and each process writes
    one, whatever `sync_files`, `single_file_per_rank` and `thread_count` say. Bytes that go through
    `_extensions` are read by stock readers with these extensions only.

    Raises:
        ValueError: `serialization_format` is not the default one, which is what DCP's reader reads.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        single_file_per_rank: bool = True,
        sync_files: bool = True,
        thread_count: int = 1,
        per_thread_copy_ahead: int = 10_000_000,
        cache_staged_state_dict: bool = False,
        overwrite: bool = True,
        _extensions: Sequence[StreamTransformExtension] | None = None,
        serialization_format: SerializationFormat = SerializationFormat.TORCH_SAVE,
        *,
        models: Collection[Any] = (),
        optimizers: Collection[Any] = (),
        snapshot: Snapshot = "live",
        threads: int | None = None,
        io: Literal["auto", "direct", "buffered"] = "auto",
    ) -> None:
        if serialization_format != SerializationFormat.TORCH_SAVE:
            raise ValueError(
                "`serialization_format` must be SerializationFormat.TORCH_SAVE: DCP's own reader cannot read "
                "the other; for safetensors use HuggingFaceStorageWriter, or `scai convert` afterwards"
            )
        # What is staged is kept by this class, so the base must not keep any: that needs a GPU.
        super().__init__(
            path,
            single_file_per_rank,
            sync_files,
            thread_count,
            per_thread_copy_ahead,
            False,
            overwrite,
            _extensions,
            serialization_format,
        )
        self._has_extensions = bool(_extensions)
        self._models, self._optimizers = models, optimizers
        self._snapshot = checked_snapshot(snapshot)
        self._threads = threads or max(thread_count, THREADS)
        self._io = io
        self._capture = Capture()
        self._staged: list[Staged] = []
        self._thread = _Thread()
        self._claiming = threading.Lock()

    # AsyncStager

    _synchronize_after_execute = False

    def stage(self, state_dict: dict[str, Any]) -> dict[str, Any]:
        """Take the state as it is now."""
        if self._has_extensions:
            # Their bytes are made later, from a copy.
            return super().stage(state_dict)
        staged = Staged(state_dict, self._capture, self._snapshot, self._models, self._optimizers)
        self._staged.append(staged)
        return staged.state  # type: ignore[no-any-return]

    def synchronize_staging(self) -> None:
        """Nothing is left to wait for."""

    def close(self) -> None:
        """Let go what was taken and never saved."""
        for staged in self._staged:
            staged.end()
        self._staged.clear()

    # StorageWriter

    def storage_meta(self) -> StorageMeta | None:
        """What is kept of the save; a save asks for it first of all."""
        self._claim()
        return super().storage_meta()

    def _claim(self) -> None:
        here = threading.get_ident()
        with self._claiming:
            taken = (each for each in self._staged if not each.is_claimed and each.thread != here)
            staged = next(taken, None)
            claim = _Claim(staged, self._staged) if staged is not None else None
        # What an earlier save on this thread has left ends here.
        self._thread.claim = claim

    def __getstate__(self) -> Any:
        """Refuse to go to another process."""
        self._claim()
        raise TypeError(
            "a StorageWriter cannot save from another process: what is to be saved is read from the memory of "
            "this one; use AsyncCheckpointerType.THREAD, the default"
        )

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """Refuse to save without a coordinator: there would be no commit."""
        super().set_up_storage_writer(is_coordinator, *args, **kwargs)
        if not self.use_collectives:
            raise ValueError(
                "`use_collectives=False` is not supported: processes that do not speak to one another cannot "
                "commit one checkpoint"
            )

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        """Refuse to replace a checkpoint, if so asked."""
        if not self.overwrite and self._exists():
            raise RuntimeError(f"Checkpoint already exists and self.overwrite={self.overwrite}.")
        return plan

    def _exists(self) -> bool:
        return os.path.exists(os.path.join(self.path, COMMIT)) or self._metadata_exists()

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """Begin an attempt, and give each process the name that its shard begins with."""
        attempt = self._thread.attempt = self.begin_attempt()
        prefixes = (_StoragePrefix(f"{attempt.id}_{rank}_") for rank in range(len(plans)))
        return [dataclasses.replace(plan, storage_data=prefix) for plan, prefix in zip(plans, prefixes)]

    def begin_attempt(self) -> _native.Attempt | _native.ShardedSave:
        """Begin to save to the directory."""
        path = os.path.abspath(self.path)
        if (earlier := _attempts.get(path)) is not None:
            # It failed in another process, or this save takes its place.
            earlier.abandon()
            _replaced.add(earlier)
        attempt = _attempts[path] = _native.Attempt(path)
        return attempt

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Write the shard of this process, and return when it is durable."""
        staged: Staged | None = None
        future: Future[list[WriteResult]] = Future()
        try:
            staged = self._staged_for(planner)
            future.set_result(self._written(plan, planner, staged))
        except BaseException:
            self._check_is_not_replaced()
            if self._thread.attempt is not None:
                self._thread.attempt.abandon()
            raise
        finally:
            if staged is not None:
                staged.end()
                self._thread.claim = None
        return future

    def _staged_for(self, planner: SavePlanner) -> Staged | None:
        """What was taken for this save; `None` if nothing was, and nothing changes meanwhile."""
        if not self._staged:
            return None
        if not hasattr(planner, "state_dict"):
            raise TypeError(
                f"{type(planner).__name__} has no `state_dict`, so what it saves cannot be told from what was "
                "taken; derive it from DefaultSavePlanner, or pass another `async_stager`"
            )
        for staged in tuple(self._staged):
            if staged.is_of(planner):
                self._staged.remove(staged)
                return staged
        claim = self._thread.claim
        if claim is not None and claim.staged.has_tensors():
            raise RuntimeError(
                f"none of the tensors that `stage` took is planned by {type(planner).__name__}: it makes new ones, "
                "and they cannot be saved in the background"
            )
        return None

    def _written(
        self, plan: SavePlan, planner: SavePlanner, staged: Staged | None
    ) -> list[WriteResult]:
        if not plan.items:
            return []
        name = _name(plan.storage_data)
        items: list[tuple[str, int | bytes]] = []
        descriptors: list[Sequence[str] | None] = []
        tensors: list[torch.Tensor] = []
        for item in plan.items:
            data: Any = planner.resolve_data(item)
            content: int | bytes | None = None
            described = None
            if self._has_extensions:
                content, described = self._transformed(item, data)
            elif item.type == WriteItemType.BYTE_IO:
                if staged is not None and staged.is_inside(planner, item.index.fqn):
                    raise RuntimeError(
                        f"`{item.index.fqn}` holds tensors and is saved as one value, which is not possible in the "
                        "background: flatten the state (`flatten_state_dict=True`)"
                    )
                content = data.getvalue()
            else:
                tensor = data.detach()
                if staged is not None:
                    content = staged.number(tensor)
                if content is None and staged is None:
                    content = len(tensors)
                    tensors.append(tensor)
                if content is None:
                    raise RuntimeError(
                        f"`{item.index.fqn}` was not among the tensors that `stage` took: the planner makes new "
                        "ones, and they cannot be saved in the background"
                    )
            items.append((_name_of(item), content))
            descriptors.append(described)
        shard = staged.shard if staged is not None else _native.Shard(_native.Tree.encode(tensors))
        ranges, size, root = shard.write(self.path, name, items, self._threads, self._io)
        results = [
            WriteResult(item.index, length, _StorageInfo(name, offset, length, described))
            for item, (offset, length), described in zip(plan.items, ranges, descriptors)
        ]
        return [*results, self.written(name, size, root)]

    def written(self, name: str, size: int, root: str) -> WriteResult:
        """What a process tells the coordinator of its shard, among what it tells of its items."""
        return WriteResult(MetadataIndex(name), size, WrittenShard(name, size, root))

    def _check_is_not_replaced(self) -> None:
        if self._thread.attempt in _replaced:
            raise RuntimeError(
                "another save to this directory began before this one had ended, and takes its place: wait for "
                "the future of `async_save` before the next save"
            )

    def _transformed(
        self, item: WriteItem, data: torch.Tensor | io.BytesIO
    ) -> tuple[bytes, Sequence[str] | None]:
        stream = io.BytesIO()
        if isinstance(data, torch.Tensor):
            data = data.detach().cpu()
            if data.untyped_storage().size() != data.nbytes:
                # `torch.save` would write all of the storage.
                data = data.clone()
        written = _write_item(self.transforms, stream, data, item, "", self.serialization_format)
        return stream.getvalue(), written.storage_data.transform_descriptors

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Commit what all processes have written, and return when it is durable."""
        attempt = self._thread.attempt
        if attempt is None:
            raise RuntimeError("`finish` was called without `prepare_global_plan`")
        self._check_is_not_replaced()
        shards: dict[str, tuple[int, str]] = {}
        places: dict[MetadataIndex, _StorageInfo] = {}
        for result in (result for of_process in results for result in of_process):
            if isinstance(result.storage_data, WrittenShard):
                shards[result.storage_data.name] = (result.storage_data.size, result.storage_data.root)
            else:
                places[result.index] = result.storage_data
        metadata.version = CURRENT_DCP_VERSION
        metadata.storage_data = places
        metadata.storage_meta = super().storage_meta()
        described = _native.Tree.encode(self.described())
        saved = attempt.commit(shards, pickle.dumps(metadata), described, len(results), {})
        self._thread.attempt = None
        self.committed(saved)

    def described(self) -> dict[str, Any]:
        """What listings show of the checkpoint."""
        return {}

    def committed(self, saved: dict[str, Any] | None) -> None:
        """The checkpoint is durable."""


def _name(place: _StoragePrefix) -> str:
    """The name of a shard. A planner that caches plans gives the place of an earlier save again, so that it has
    to stand for another name by then."""
    name = f"{place.prefix}0.distcp"
    _, rank = place.prefix.split("_", 1)
    place.prefix = f"{secrets.token_hex(16)}_{rank}"
    return name


def _name_of(item: WriteItem) -> str:
    offset = item.index.offset
    return item.index.fqn if not offset else f"{item.index.fqn} at {tuple(offset)}"
