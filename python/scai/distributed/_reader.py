"""A reader of DCP: what it loads is checked, and no code of a checkpoint is run."""

from __future__ import annotations

import io
import os
import pickle
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

import torch
from torch.distributed.checkpoint.filesystem import FileSystemReader, _StorageReaderTransforms
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta
from torch.distributed.checkpoint.planner import LoadItemType, LoadPlan, LoadPlanner, ReadItem
from torch.futures import Future

from scai import _native
from scai._files import THREADS
from scai._versions import count_writes
from scai.distributed._writer import COMMIT
from scai.errors import CheckpointError, NeedsCodeError, UnsupportedError

_OF_ATTEMPT = re.compile(r"[0-9a-f]{32}_")
"""What names of shards begin with that scai wrote."""
_METADATA = "torch.distributed.checkpoint.metadata"
_ALLOWED = {
    (_METADATA, "Metadata"),
    (_METADATA, "MetadataIndex"),
    (_METADATA, "TensorStorageMetadata"),
    (_METADATA, "BytesStorageMetadata"),
    (_METADATA, "ChunkStorageMetadata"),
    (_METADATA, "TensorProperties"),
    (_METADATA, "StorageMeta"),
    (_METADATA, "_MEM_FORMAT_ENCODING"),
    # Where PyTorch before 2.3 had the properties of tensors.
    ("torch.distributed._shard.sharded_tensor.metadata", "TensorProperties"),
    ("torch.distributed._shard.sharded_tensor.metadata", "MEM_FORMAT_ENCODING"),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    ("torch.serialization", "_get_layout"),
    ("torch", "Size"),
    ("collections", "OrderedDict"),
    ("pathlib", "Path"),
    ("pathlib", "PosixPath"),
    ("pathlib._local", "PosixPath"),
}


class _Unpickler(pickle.Unpickler):
    """Makes the objects that DCP's metadata consist of, and no others."""

    def find_class(self, module: str, name: str) -> Any:
        """A class by its name."""
        if (module, name) in _ALLOWED:
            return super().find_class(module, name)
        if module == "torch" and isinstance(found := getattr(torch, name, None), torch.dtype):
            return found
        raise UnsupportedError(
            f"the metadata of the checkpoint hold a `{module}.{name}`, which DCP's own do not; if you trust "
            "the checkpoint, load it with torch.distributed.checkpoint.FileSystemReader"
        )


def _without_code(content: bytes, tree: Callable[[], _native.Tree]) -> bytes:
    """A value as a file of `torch.save`, written anew, so that to load it runs no code.

    Raises:
        NeedsCodeError: to make the value runs code.
    """
    try:
        return tree().to_bytes(1)
    except NeedsCodeError:
        # A stream of bytes, which is where torchtitan keeps losses; what a program calls safe is it here too.
        try:
            with torch.serialization.safe_globals([io.BytesIO]):
                value = torch.load(io.BytesIO(content), weights_only=True)
        except pickle.UnpicklingError:
            value = None
        if value is None:
            raise
    stream = io.BytesIO()
    torch.save(value, stream)
    return stream.getvalue()


class _Transforms(_StorageReaderTransforms):
    """Undoes what extensions did, and checks what comes out of it.

    Args:
        weights_only: whether values are written anew, so that to load them runs no code.
    """

    def __init__(self, registry: Any, weights_only: bool) -> None:
        super().__init__(registry)
        self._weights_only = weights_only

    def transform_load_stream(
        self, read_item: ReadItem, transform_descriptors: Sequence[str], raw_stream: IO[bytes]
    ) -> IO[bytes]:
        """The bytes of an item as they were saved."""
        stream = super().transform_load_stream(read_item, transform_descriptors, raw_stream)
        content = stream.read(-1)
        is_value = read_item.type == LoadItemType.BYTE_IO
        if not is_value or self._weights_only:
            file = _native.File.of_bytes(content, True)
            file.check(1)
            if is_value:
                content = _without_code(content, file.tree)
        return io.BytesIO(content)


class StorageReader(FileSystemReader):
    """Reads checkpoints of `torch.distributed.checkpoint`: ``dcp.load(state, storage_reader=StorageReader(path))``.

    In what `StorageWriter` and `CheckpointManager` have written every byte that is needed is checked before the
    state of this process is changed; in what PyTorch has written, checksums of tensors where these were saved.
    Of a tensor only the part is read that this process needs.

    Args:
        path: the directory; ``checkpoint_id`` of ``dcp.load`` replaces it.
        weights_only: whether values are read without running code that they name; of classes only those are made
            that `torch.serialization.add_safe_globals` was told of, and `io.BytesIO`. Without, all values are
            handed to DCP's planner, which runs the code: do that with files of people you trust only.
        threads: threads that read and check; by default one per core, at most 8.

    Raises:
        scai.errors.DamagedError: something is not what was saved. DCP raises it as one of the failures of a
            `CheckpointException`, on all processes.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        _extension_registry: Any = None,
        *,
        weights_only: bool = True,
        threads: int | None = None,
    ) -> None:
        super().__init__(path, _extension_registry)
        self._weights_only = weights_only
        self._threads = threads or THREADS
        self._file: _native.File | None = None
        self._is_transformed = False
        self.transforms = _Transforms(_extension_registry, weights_only)

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """Read another checkpoint from now on."""
        super().reset(checkpoint_id)
        self._file = None

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """What the checkpoint holds."""
        metadata: Metadata = _Unpickler(io.BytesIO(self._metadata(kwargs.get("rank")))).load()
        meta = getattr(metadata, "storage_meta", None) or StorageMeta()
        meta.load_id = self.load_id
        metadata.storage_meta = meta
        return metadata

    def _metadata(self, rank: int | None) -> bytes:
        """The pickled metadata; of one rank, if the processes did not speak to one another."""
        if rank is not None:
            if self.fs.exists(self.fs.concat_path(self.path, COMMIT)):
                raise UnsupportedError(f"`{self.path}` has one commit, and no checkpoint for each rank")
            return Path(self._get_metadata_path(rank)).read_bytes()
        try:
            content = self._opened().metadata() or b""
        except UnsupportedError:
            # What extensions have transformed only DCP can read.
            name = self._committed_metadata() or ".metadata"
            content = (Path(self.path) / name).read_bytes()
        self._check_is_last(content)
        return content

    def _check_is_last(self, content: bytes) -> None:
        """Refuse to choose between a commit and what PyTorch's writer has saved over it.

        `.metadata` may also be that of the save before, if the last one was killed after its commit.
        """
        try:
            last = Path(self._get_metadata_path()).read_bytes()
            places = {} if last == content else _Unpickler(io.BytesIO(last)).load().storage_data
        except Exception:
            # It is a copy for others: what is wrong with it does not matter here.
            return
        if not all(_OF_ATTEMPT.match(place.relative_path) for place in places.values()):
            raise UnsupportedError(
                f"`{self.path}` has a commit of scai, and a later `.metadata` of PyTorch's own writer: remove "
                f"`{COMMIT}` to load what PyTorch saved, or `.metadata` to load what scai saved"
            )

    def _committed_metadata(self) -> str | None:
        """The name of the metadata that are bound by a commit; `None` in a directory of PyTorch."""
        commit = _native.folder_commit(self.path)
        names = commit["files"] if commit is not None else ()
        return next((name for name in names if name.endswith(".metadata")), None)

    def set_up_storage_reader(self, metadata: Metadata, *args: Any, **kwargs: Any) -> None:
        """Read what these metadata are about."""
        super().set_up_storage_reader(metadata, *args, **kwargs)
        places = self.storage_data.values()
        self._is_transformed = any(place.transform_descriptors for place in places)

    def _opened(self) -> _native.File:
        if self._file is None:
            self._file = _native.File(self.path, True)
        return self._file

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Check what is needed of the checkpoint, and then load it."""
        if self._is_transformed or not self.use_collectives:
            self._check_each(plan)
            return super().read_data(plan, planner)
        file = self._opened()
        tensors = [item for item in plan.items if item.type != LoadItemType.BYTE_IO]
        tree = file.items([self._request(item) for item in tensors])
        tree.check(self._threads)
        values = [
            (item, self._content(file, item)) for item in plan.items if item.type == LoadItemType.BYTE_IO
        ]
        targets = [planner.resolve_tensor(item).detach() for item in tensors]
        for item, target in zip(tensors, targets):
            if target.size() != item.lengths:
                raise AssertionError(
                    f"req {item.storage_index} mismatch sizes {target.size()} vs {item.lengths}"
                )
        self._fill(tree, targets)
        for item, target in zip(tensors, targets):
            planner.commit_tensor(item, target)
        for item, content in values:
            planner.load_bytes(item, content)
        future: Future[None] = Future()
        future.set_result(None)
        return future

    def _check_each(self, plan: LoadPlan) -> None:
        """Check all that will be read, as far as there are checksums."""
        if self.use_collectives and self._committed_metadata() is not None:
            _native.shards_check(self.path, self._threads)
        for item in plan.items:
            place = self.storage_data[item.storage_index]
            path = self.fs.concat_path(self.path, place.relative_path)
            with self.fs.create_stream(path, "rb") as stream:
                raw, descriptors = self._slice_file(stream, place), place.transform_descriptors or ()
                try:
                    self.transforms.transform_load_stream(item, descriptors, raw)
                except CheckpointError as error:
                    raise self._named(error, item) from error

    def _named(self, error: CheckpointError, item: ReadItem) -> CheckpointError:
        """The error, with the item that it is about."""
        path = self.fs.concat_path(self.path, self.storage_data[item.storage_index].relative_path)
        way = "; StorageReader(…, weights_only=False) runs it" if isinstance(error, NeedsCodeError) else ""
        return type(error)(f"`{path}`: `{item.storage_index.fqn}`: {error}{way}")

    def _request(self, item: ReadItem) -> tuple[str, int, int, list[int], list[int]]:
        place = self.storage_data[item.storage_index]
        return (
            place.relative_path,
            place.offset,
            place.length,
            list(item.storage_offsets),
            list(item.lengths),
        )

    def _content(self, file: _native.File, item: ReadItem) -> io.BytesIO:
        """The bytes of a value; written anew, so that to load them runs no code."""
        place = self.storage_data[item.storage_index]
        where = place.relative_path, place.offset, place.length
        content = file.item_bytes(*where)
        if self._weights_only:
            try:
                content = _without_code(content, lambda: file.item(*where))
            except NeedsCodeError as error:
                raise self._named(error, item) from error
        return io.BytesIO(content)

    def _fill(self, tree: _native.Tree, targets: list[torch.Tensor]) -> None:
        template = {str(number): target for number, target in enumerate(targets)}
        loaded, filling = tree.decode_into(template, self._threads)
        filling.check()
        filling.fill(self._threads)
        with torch.no_grad():
            for name, tensor in loaded.items():
                if tensor is not template[name]:
                    template[name].copy_(tensor)
        count_writes([target for name, target in template.items() if loaded[name] is target])
