"""One file: `scai.save`, `scai.load` and `scai.verify`."""

from __future__ import annotations

import functools
import mmap as _mmap
import os
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, Literal, overload

from scai import _native
from scai._arguments import checked_options
from scai._background import save_later
from scai._foreign import warn_of_objects
from scai._garbage import no_collections

if TYPE_CHECKING:
    import torch

PathLike = str | os.PathLike[str]

THREADS = _native.THREADS
"""Threads that read, write and check a file."""


@dataclass(frozen=True)
class Verification:
    """What is known of a file once every byte of it was read. True where it is sound.

    Attributes:
        answers: ``exists, readable, has_required_fields, has_model_state, has_optimizer_state,
            has_training_stats, has_metadata, has_timestamp``; ``readable`` says that every byte was
            checked and is right.
        damage: all that is wrong, as the exceptions that a load would raise.
        iteration: the iteration that the file says it is of.
        condition: all of it in one word: ``sound``, ``unprotected``, ``damaged``, ``needs_code``,
            ``unsupported``, ``not_a_checkpoint`` or ``unreadable``.
        obstacle: why no state can be made of a file whose bytes are right, as the exception that a
            load would raise: a `NeedsCodeError`, a `NotACheckpointError`.
    """

    answers: dict[str, bool]
    damage: list[Exception]
    iteration: int | None
    condition: str = "sound"
    obstacle: Exception | None = None

    def __bool__(self) -> bool:
        return self.answers["readable"]


class LazyTensor:
    """A tensor that is still on disk.

    Attributes:
        shape: length of each dimension.
        dtype: the name of the element type, such as ``float32``.
    """

    def __init__(
        self, tree: _native.Tree, path: tuple[int, ...], dtype: str, shape: tuple[int, ...]
    ) -> None:
        self._tree = tree
        self._path = path
        self.dtype = dtype
        self.shape = shape

    def load(self) -> torch.Tensor:
        """The tensor, in new memory; every byte was checked.

        Raises:
            scai.errors.DamagedError: where bytes are not what was saved.
        """
        part = self._tree.at(list(self._path))
        assert part is not None
        tensor: torch.Tensor = part.decode(threads=THREADS)
        return tensor

    def __repr__(self) -> str:
        return f"LazyTensor(shape={self.shape}, dtype={self.dtype})"


@overload
def save(obj: object, path: PathLike | IO[bytes], *, wait: Literal[True] = True) -> None: ...


@overload
def save(obj: object, path: PathLike, *, wait: Literal[False]) -> Future[str]: ...


def save(obj: object, path: PathLike | IO[bytes], *, wait: bool = True) -> Future[str] | None:
    """Save an object as a `.pt` file, and return when it is durable.

    In place of `torch.save`: what was at `path` is replaced in one step, and is there unchanged
    until then. The file holds only what ``torch.load(path, weights_only=True)`` accepts; NumPy
    arrays, paths, dates, enums, dataclasses and the like are stored as plain values and come back
    as what they were from `scai.load`.

    Args:
        obj: the object.
        path: the file; or an object with `write()` such as `io.BytesIO`, which is given all bytes at
            once. That takes memory of the size of the file, and how durable it is, is up to the object.
        wait: whether to return only when the file is durable. Otherwise all tensors are copied, and
            the file is written in the background, after those that were saved before it.

    Returns:
        With ``wait=False`` a future of the path; a save that fails is also logged as an error. A
        program that ends waits for them.

    Raises:
        TypeError: a value cannot be saved; the message has its path in the object.
        OSError: the file system refuses, such as a full disk.
    """
    if isinstance(path, (str, os.PathLike)):
        if os.fspath(path).endswith(".safetensors"):
            raise ValueError(
                f"`{os.fspath(path)}` ends in `.safetensors`, and scai.save writes the format of PyTorch; save "
                "it as `.pt` and convert it: scai convert model.pt model.safetensors"
            )
        if not wait:
            return save_later(obj, os.fspath(path))
        _native.Tree.encode(obj).write(os.fspath(path), THREADS)
        return None
    if not callable(getattr(path, "write", None)):
        raise TypeError(f"`path` must be a path or have write(), got {type(path).__name__}")
    if not wait:
        raise ValueError("`wait=False` needs a path; an object with write() may be used by others")
    path.write(_native.Tree.encode(obj).to_bytes(THREADS))
    return None


@no_collections()
def load(
    path: PathLike | IO[bytes],
    map_location: Any = None,
    *,
    mmap: bool = False,
    lazy: bool = False,
    weights_only: bool = True,
    allow_unprotected: bool = False,
    foreign: Literal["refuse", "stand-in"] = "refuse",
    storage_options: Mapping[str, str] | None = None,
) -> Any:
    """Load what `scai.save` or `torch.save` wrote; nothing damaged is returned, and no code is run.

    Args:
        path: a file that torch (from 1.6 on, and before) or scai wrote, or a safetensors file; a URL such as
            ``s3://bucket/run/checkpoint_iter_100.pt``; or an object with `read()` such as `io.BytesIO`, of
            which all that is left is read into memory.
        map_location: where tensors go that were saved from another device, as in `torch.load`.
        mmap: leave tensors in a private memory map of the file, after every byte was checked.
            If the file is cut short while they are in use the process ends (SIGBUS), and if it is
            overwritten in place they change; replacing or deleting it is fine.
        lazy: leave tensors on disk, as `LazyTensor`: each is checked when it is loaded.
        weights_only: there for the sake of calls written for torch; must be true.
        allow_unprotected: also load files without any checksums, in which damage is not noticed.
        foreign: what becomes of objects that only code could make: ``"refuse"`` raises an error
            that names their classes, ``"stand-in"`` logs a warning and gives a `ForeignObject` for
            each, with the tensors and other data that it is made of.
        storage_options: as of `CheckpointManager`.

    Raises:
        FileNotFoundError: there is no such file.
        scai.errors.DamagedError: bytes are not what was saved; says where.
        scai.errors.UnprotectedError: the file has no checksums.
        scai.errors.NeedsCodeError: objects in the file can be made only by running code.
        scai.errors.NotACheckpointError: the file is something else; the message says what.
        scai.errors.UnsupportedError: the file holds something else that is not read here.
    """
    if foreign not in ("refuse", "stand-in"):
        raise ValueError(f'`foreign` must be "refuse" or "stand-in", got {foreign!r}')
    if not weights_only:
        raise ValueError(
            "scai.load never runs code from a file; load it with torch.load(weights_only=False) "
            "where you trust it"
        )
    file = _opened(path, allow_unprotected, checked_options("storage_options", storage_options))
    tree = file.tree(foreign=foreign == "stand-in")
    if foreign == "stand-in":
        warn_of_objects(tree, path if isinstance(path, (str, os.PathLike)) else repr(path))
    if lazy:
        return tree.decode(disk=lambda *place: LazyTensor(tree, *place), threads=THREADS)
    locate = locator(map_location)
    if mmap and (mapping := mapped(file)) is not None:
        file.check(THREADS)
        return tree.decode(map=mapping, locate=locate, threads=THREADS)
    return tree.decode(locate=locate, threads=THREADS)


def verify(path: PathLike, *, storage_options: Mapping[str, str] | None = None) -> Verification:
    """Read every byte of a file, and report all that is wrong with it.

    Args:
        path: of the file, or a URL such as ``s3://bucket/run/checkpoint_iter_100.pt``.
        storage_options: as of `CheckpointManager`.

    Raises:
        OSError: the file is there but cannot be opened.
    """
    options = checked_options("storage_options", storage_options)
    return Verification(**_native.verify(os.fspath(path), THREADS, options))


def _opened(
    path: PathLike | IO[bytes], allow_unprotected: bool, options: dict[str, str] | None
) -> _native.File:
    if isinstance(path, (str, os.PathLike)):
        return _native.File(os.fspath(path), allow_unprotected, options)
    if not callable(getattr(path, "read", None)):
        raise TypeError(f"`path` must be a path or have read(), got {type(path).__name__}")
    content = path.read()
    if not isinstance(content, (bytes, bytearray, memoryview)):
        raise TypeError(
            f"read() of `path` returned {type(content).__name__}, not bytes; open the file in binary mode"
        )
    return _native.File.of_bytes(bytes(content), allow_unprotected)


def mapped(file: _native.File) -> _mmap.mmap | None:
    """A private memory map of an open file, if it is one of PyTorch's on a disk."""
    number = file.fileno()
    if number is None:
        return None
    # Tensors can be written to; what is written stays in memory.
    return _mmap.mmap(
        number, 0, flags=_mmap.MAP_PRIVATE, prot=_mmap.PROT_READ | _mmap.PROT_WRITE
    )


def locator(map_location: Any) -> Callable[[str], Any]:
    """The device for a location such as ``cuda:0``; `None` is the CPU.

    `map_location` is as in `torch.load`. A function of storage and location gets an empty storage
    on the CPU: what counts is the device of what it returns.
    """

    def locate(location: str) -> Any:
        import torch

        target: Any = location
        if callable(map_location):
            empty: Any = torch.UntypedStorage
            storage = map_location(empty(0), location)
            target = location if storage is None else storage.device
        elif isinstance(map_location, dict):
            target = map_location.get(location, location)
        elif map_location is not None:
            target = map_location
        device = torch.device(target)
        _check_available(device)
        return None if device.type == "cpu" else device

    # A function may say another device each time; all else says the same of each storage.
    return locate if callable(map_location) else functools.cache(locate)


def _check_available(device: torch.device) -> None:
    """Refuse a device that is not there, where its kind can count them."""
    import torch

    module = getattr(torch, device.type, None)
    count = getattr(module, "device_count", None)
    if device.type == "cpu" or count is None:
        return
    devices = count()
    if (device.index or 0) >= devices:
        there_is = f"there are {devices} of its kind" if devices else "there is none of its kind"
        raise RuntimeError(
            f"tensors are to go to the device `{device}`, and {there_is} here; choose where they go "
            'with `device` (`map_location` of scai.load), such as "cpu"'
        )
