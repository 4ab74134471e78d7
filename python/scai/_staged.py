"""Checkpoints of frameworks: directories of files with fixed names, written elsewhere and committed at once.

A framework writes its files into a directory under a temporary name. What is large is taken from its hands
and written later, by a thread; then the directory is committed, and only then are older ones removed.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import itertools
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from typing import Any

from scai import _native
from scai._background import Background
from scai._files import verify
from scai._folder import COMMIT, Staging, check, commit_of, remove, sweep
from scai._plain import first_object
from scai._ranks import agreed, attempted
from scai.errors import (
    DamagedError,
    LockedError,
    NothingToResumeError,
    UnprotectedError,
    UnsupportedError,
)

_log = logging.getLogger("scai")

_CHECKED = (".safetensors", ".pt", ".pth", ".bin", ".pkl")
STALE = 10.0
"""Seconds for which a killed process may seem alive: its data loaders inherit what it held."""


class Files:
    """The files of one save that are written later: their content is taken now.

    Args:
        directory: where the framework would write them.
        encode: takes the content of one.
    """

    def __init__(self, directory: str, encode: Callable[[Any], _native.Tree]) -> None:
        self._directory = directory
        self._encode = encode
        self._later: list[tuple[str, Callable[[str], None]]] = []

    def names(self) -> list[str]:
        """The files that are not written yet, by their names in the directory."""
        return [name for name, _ in self._later]

    def torch(self, obj: Any, path: str | os.PathLike[str]) -> bool:
        """Take what ``torch.save`` would write; `False` if only code could make it again."""
        name = self._name(path)
        if name is None or first_object(obj) is not None:
            return False
        try:
            tree = self._encode(obj)
        except (TypeError, ValueError, UnsupportedError):
            return False
        self._later.append((name, lambda path: tree.write(path, _native.THREADS)))
        return True

    def safetensors(
        self,
        tensors: Mapping[str, Any],
        path: str | os.PathLike[str],
        metadata: Mapping[str, str] | None,
    ) -> bool:
        """Take what ``safetensors.torch.save_file`` would write; `False` if it is not known here."""
        name = self._name(path)
        if name is None or not _are_separate([*tensors.values()]):
            return False
        try:
            tree = self._encode(dict(tensors))
        except (TypeError, ValueError, UnsupportedError):
            return False
        about = dict(metadata or {})
        self._later.append((name, lambda path: tree.write_safetensors(path, about, _native.THREADS)))
        return True

    def _name(self, path: str | os.PathLike[str]) -> str | None:
        name = os.path.relpath(os.path.abspath(path), self._directory)
        return None if name.startswith(os.pardir) else name

    def write(self, directory: str) -> None:
        """Write all of them into `directory`, and give back what they held."""
        while self._later:
            name, write = self._later.pop(0)
            write(os.path.join(directory, name))


def _are_separate(values: list[Any]) -> bool:
    """Whether these are tensors that safetensors takes: contiguous, and none in the memory of another."""
    import torch

    if not all(
        isinstance(each, torch.Tensor) and each.layout is torch.strided and each.is_contiguous()
        for each in values
    ):
        return False
    places = sorted((str(t.device), t.data_ptr(), t.data_ptr() + t.nbytes) for t in values if t.nbytes)
    return all(
        device != other or end <= begin
        for (device, _, end), (other, begin, _) in itertools.pairwise(places)
    )


_of_thread = threading.local()


@contextlib.contextmanager
def taking(files: Files | None) -> Iterator[None]:
    """Let `files` take what this thread writes through functions wrapped by `taken`."""
    _of_thread.files = files
    try:
        yield
    finally:
        _of_thread.files = None


def files_taken() -> Files | None:
    """The files that are taken from this thread now."""
    return getattr(_of_thread, "files", None)


def wrap_safetensors(module: Any, name: str) -> None:
    """Let the function of a module that writes safetensors files be one whose files can be taken."""
    original = getattr(module, name, None)
    if original is None:
        return

    @functools.wraps(original)
    def save_file(tensors: Any, filename: Any, metadata: Any = None, **more: Any) -> Any:
        files = files_taken()
        if files is None or more or not files.safetensors(tensors, filename, metadata):
            return original(tensors, filename, metadata, **more)
        return None

    setattr(module, name, save_file)


class Saves:
    """The saves of one trainer in the background. What fails comes out of the next call."""

    def __init__(self) -> None:
        self._process = os.getpid()
        self._background: Background | None = None
        self._unfinished: list[Future[None]] = []

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        Saves.__init__(self)

    def begin(
        self, path: str, take: Callable[[Callable[[Any], _native.Tree]], Callable[[], None]]
    ) -> None:
        """Take a state now, and publish it at `path` after what came before. Two may be unfinished.

        Args:
            path: what is saved.
            take: takes it, given what makes a copy, and returns what publishes it.
        """
        if self._process != os.getpid():
            Saves.__init__(self)
        if self._background is None:
            self._background = Background()
        future = self._background.save(path, lambda capture: take(capture.copied))
        self._unfinished.append(future)

    def wait(self) -> None:
        """Wait until all saves have ended, well or not."""
        if self._process == os.getpid():
            for future in tuple(self._unfinished):
                future.exception()

    def close(self) -> None:
        """Wait, and give back the memory for copies."""
        self.wait()
        self._background = None

    def failure(self) -> Exception | None:
        """What the first of the saves that have ended failed with; it is told once, and was logged."""
        if self._process != os.getpid():
            return None
        first: Exception | None = None
        while self._unfinished and self._unfinished[0].done():
            error = self._unfinished.pop(0).exception()
            if first is None and isinstance(error, Exception):
                first = error
        return first


def why_unsound(path: str, missing: Callable[[str], str | None]) -> str | None:
    """Why a directory is not to be loaded; `None` if it is complete and sound.

    Args:
        path: the directory.
        missing: what it lacks to be complete, of one that was not committed.
    """
    try:
        if (found := commit_of(path)) is not None and not _is_resharded(path, found):
            check(path)
            return None
        if (reason := missing(path)) is not None:
            return f"{reason}: it was not finished, or a file was removed"
        check_unprotected(path)
    except DamagedError as error:
        return str(error)
    except OSError as error:
        # Anything else, such as permissions, is for the user to mend, and no reason to go back.
        if error.errno != errno.EIO:
            raise
        return str(error)
    return None


def check_directory(path: str) -> None:
    """Read all of a checkpoint before it is loaded.

    Raises:
        scai.errors.DamagedError: a file is missing, or holds other bytes than were saved.
    """
    found = commit_of(path)
    if found is None or _is_resharded(path, found):
        check_unprotected(path)
    else:
        check(path)


def check_together(path: str, *, reads: bool) -> None:
    """`check_directory` in the processes that read it; what one of them finds ends the load in all.

    Raises:
        scai.errors.DamagedError: as `check_directory`.
        scai.errors.CheckpointError: another process found it.
    """
    _, error = attempted(lambda: check_directory(path), None) if reads else (None, None)
    agreed(None, error)


def check_unprotected(path: str) -> None:
    """Read the files of a directory that is not bound by a commit, as far as they can be checked; and say so.

    Raises:
        scai.errors.DamagedError: a file is damaged.
    """
    _log.warning(
        "`%s` was not written with scai, or its weights were replaced: only what its files say of themselves "
        "can be checked, and damage in tensors may not be noticed",
        path,
    )
    for entry in sorted(os.scandir(path), key=lambda entry: entry.name):
        if entry.name.endswith(_CHECKED) and entry.is_file():
            for damage in verify(entry.path).damage:
                if not isinstance(damage, UnprotectedError):
                    raise damage


def _is_resharded(path: str, commit: Mapping[str, Any]) -> bool:
    """Whether somebody has put shards in place of the file of weights, by hand."""
    weights, index = "model.safetensors", "model.safetensors.index.json"
    bound = commit["files"]
    return (
        weights in bound
        and index not in bound
        and not os.path.exists(os.path.join(path, weights))
        and os.path.exists(os.path.join(path, index))
    )


def newest_sound(
    paths: list[str], missing: Callable[[str], str | None], nothing: str, *, reads: bool
) -> str | None:
    """The first of `paths` that every process that reads finds complete and sound; `None` if there are none.

    What is skipped is logged.

    Args:
        paths: the newest first.
        missing: as of `why_unsound`.
        nothing: how an error begins that says that none is sound.
        reads: whether this process reads them; the others wait for its word.

    Raises:
        scai.errors.NothingToResumeError: there are some, and none is sound.
    """
    skipped: list[str] = []
    for path in agreed(paths)[0]:
        judge = functools.partial(why_unsound, path, missing)
        reason, error = attempted(judge, None) if reads else (None, None)
        found = [each for each in agreed(reason, error) if each is not None]
        if not found:
            for line in skipped:
                _log.warning("skipped %s", line)
            _log.log(logging.WARNING if skipped else logging.INFO, "going on from `%s`", path)
            return str(path)
        skipped.append(f"`{path}`: {found[0]}")
    if skipped:
        raise NothingToResumeError(f"{nothing}: {'; '.join(skipped)}")
    return None


def foreign(path: str, staged: Iterable[str], is_known: Callable[[str], bool]) -> list[str]:
    """What a directory holds that is not of a checkpoint, and would be lost if one took its place.

    Args:
        path: the directory; it may not exist.
        staged: names in what would take its place.
        is_known: whether a name is one that checkpoints have.
    """
    try:
        names = sorted(os.listdir(path))
    except FileNotFoundError:
        return []
    found, error = attempted(lambda: commit_of(path), None)
    bound = {COMMIT, *(staged if error is None else names)}
    bound |= {name.split("/")[0] for name in (found or {"files": ()})["files"]}
    return [name for name in names if name not in bound and not is_known(name)]


def numbered(directory: str, prefix: str) -> list[tuple[int, str]]:
    """The directories in one whose names are `prefix` and a number, by their numbers."""
    found = []
    with contextlib.suppress(FileNotFoundError):
        for entry in os.scandir(directory):
            number = entry.name.removeprefix(prefix)
            if entry.name != number and number.isdecimal() and entry.is_dir():
                found.append((int(number), entry.name))
    return sorted(found)


def swept(directory: str) -> None:
    """Clean up after killed processes, and bring back what one was about to replace, as far as the file system
    allows."""
    with contextlib.suppress(OSError):
        sweep(directory)


def _remove(paths: list[str], newest: str) -> None:
    """Remove directories, now that `newest` is durable, if it is read back as it was written. A failure is
    logged: more is kept then, not less."""
    try:
        if paths:
            check(newest)
        for path in paths:
            remove(path)
    except (DamagedError, OSError) as error:
        _log.error("older checkpoints than `%s` are kept: %s", newest, error)


def publish(
    staging: Staging,
    files: Files,
    name: str,
    about: Mapping[str, str],
    iteration: int,
    surplus: Callable[[], list[str]],
) -> None:
    """Write what was taken, commit the directory as `name`, and then remove what `surplus` returns."""
    try:
        files.write(staging.path)
        path = staging.commit(name, about, iteration)
    except BaseException:
        staging.abandon()
        raise
    _remove(surplus(), path)


def nothing() -> None:
    """What processes publish that write nothing."""


class Claim:
    """The right to write checkpoints to a directory, as long as this object lives.

    Those of one process share it. The directory itself is locked, so that no file is needed.
    """

    def __init__(self, directory: str) -> None:
        self._number = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        weakref.finalize(self, _release, self._number, os.getpid())
        until = time.monotonic() + STALE
        while True:
            try:
                fcntl.flock(self._number, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > until:
                    raise LockedError(
                        f"`{directory}`: another process writes checkpoints here, and two trainings would "
                        "remove each other's; give each a directory of its own, or stop the other"
                    ) from None
                time.sleep(0.05)
            except OSError as error:
                _log.debug("`%s` cannot be locked: %s", directory, error)
                return


def _release(number: int, process: int) -> None:
    # Data loaders may have inherited it, and live on. What they forget is no business of others.
    if os.getpid() == process:
        fcntl.flock(number, fcntl.LOCK_UN)
    os.close(number)


_claims: weakref.WeakValueDictionary[tuple[int, int, int], Claim] = weakref.WeakValueDictionary()


def claimed(directory: str) -> Claim:
    """Claim a directory, which is made if it does not exist.

    Raises:
        scai.errors.LockedError: another process has claimed it.
    """
    os.makedirs(directory, exist_ok=True)
    status = os.stat(directory)
    key = (os.getpid(), status.st_dev, status.st_ino)
    claim = _claims.get(key)
    if claim is None:
        claim = _claims[key] = Claim(directory)
    return claim
