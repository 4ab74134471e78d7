"""Checkpoints of many files with names of their own, as frameworks write them: committed as one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scai import _native

COMMIT = "commit.json"
"""The file that makes a directory a checkpoint: it binds the names, sizes and digests of the others."""


class Staging:
    """A directory under a temporary name, in which files are written, and which becomes a checkpoint at
    once. What killed processes have left beside it is removed.

    Args:
        parent: the directory that it is in; created if it does not exist.

    Attributes:
        path: the directory, as an absolute path.

    Raises:
        OSError: it cannot be made.
    """

    def __init__(self, parent: str) -> None:
        self._native = _native.Staging(parent)
        self.path = self._native.path

    def commit(
        self, name: str, about: Mapping[str, str] | None = None, iteration: int | None = None
    ) -> str:
        """Make everything in it durable, and give it the name `name` beside its temporary one.

        A directory of this name is replaced in one step. Other threads go on meanwhile.

        Args:
            name: the name of the checkpoint.
            about: what its writer says of itself, such as the framework and its version.
            iteration: the iteration or step.

        Returns:
            The path of the checkpoint, when it is durable.

        Raises:
            OSError: a file cannot be read or synced, or the disk is full. What has the name is untouched
                then, and what was written is gone.
            ValueError: something in it is neither a file nor a directory.
            RuntimeError: it was committed or abandoned before.
        """
        return self._native.commit(name, dict(about or {}), iteration)

    def abandon(self) -> None:
        """Remove it."""
        self._native.abandon()


def commit_of(path: str) -> dict[str, Any] | None:
    """What a directory was committed as; `None` if it has no ``commit.json``.

    Returns:
        ``iteration, attempt, timestamp, about`` and ``files``, the sizes in bytes by name.

    Raises:
        FileNotFoundError: there is no such directory.
        scai.errors.DamagedError: the record is not what was written.
        scai.errors.UnsupportedError: it is of a newer version.
    """
    return _native.folder_commit(path)


def check(path: str) -> None:
    """Read every file of a committed directory.

    Raises:
        scai.errors.DamagedError: a file is missing or is not what was written; names it.
        scai.errors.NotACheckpointError: the directory was not committed.
    """
    for damage in _native.folder_verify(path, _native.THREADS):
        raise damage


def remove(path: str) -> None:
    """Remove a checkpoint as a whole: from one moment on none of it is there.

    Raises:
        OSError: it cannot be removed.
    """
    _native.folder_remove(path)


def sweep(parent: str) -> None:
    """Remove what killed processes have left in a directory, and bring back what one was about to replace.

    Raises:
        OSError: the directory cannot be read.
    """
    _native.folder_sweep(parent)
