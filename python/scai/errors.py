"""What goes wrong, named by what can be done about it.

Besides these, a checkpoint that does not exist is a `FileNotFoundError`, a full disk or another
refusal of the file system an `OSError` with its `errno`, a value that cannot be saved a
`TypeError` with its path in the tree, an argument that makes no sense a `ValueError`, and memory
that cannot be had a `MemoryError`.
"""

from __future__ import annotations

__all__ = [
    "ChangedError",
    "CheckpointError",
    "DamagedError",
    "GroupError",
    "LockedError",
    "MismatchError",
    "MissingFieldError",
    "NeedsCodeError",
    "NotACheckpointError",
    "NotDurableError",
    "NothingToResumeError",
    "PartialLoadError",
    "UnprotectedError",
    "UnsupportedError",
]


class CheckpointError(RuntimeError):
    """What all errors about the content of a checkpoint have in common."""


class DamagedError(CheckpointError):
    """The bytes are not the bytes that were saved: use another checkpoint.

    Attributes:
        path: the file, as far as it is known.
        record: the record in the file, such as ``data/17``.
        tensor: the path of the tensor in the tree, such as ``model_state_dict.conv1.weight``.
        bytes: first and last byte of the file that are concerned, as ``(start, end)``.
    """

    def __init__(
        self,
        message: str,
        path: str | None = None,
        record: str | None = None,
        tensor: str | None = None,
        bytes: tuple[int, int] | None = None,
    ) -> None:
        super().__init__(message)
        self.path = path
        self.record = record
        self.tensor = tensor
        self.bytes = bytes


class UnprotectedError(DamagedError):
    """The file carries no checksums at all, so damage in it could not be noticed."""


class UnsupportedError(CheckpointError):
    """The file is sound, but holds something that is not read here; the message names it."""


class NeedsCodeError(UnsupportedError):
    """The file is sound, but objects in it can be made only by running code that it names."""


class NotACheckpointError(UnsupportedError):
    """The file is sound as far as it was read, and is not a checkpoint; the message says what it is."""


class MismatchError(CheckpointError):
    """The saved state does not fit the model; nothing was changed. The message is the report.

    Attributes:
        report: names by what was found of them: ``loaded``, ``missing``, ``unexpected``,
            ``mismatched``, ``cast``, and ``hints``.
    """

    def __init__(self, message: str, report: dict[str, list[str]] | None = None) -> None:
        super().__init__(message)
        self.report = report or {}


class PartialLoadError(CheckpointError):
    """A load failed after it had begun to change things, and not all of it could be undone.

    It takes a second failure: bytes that were right when they were checked cannot be read any more
    when memory is filled with them. What was changed in part is not saved before a load into it has
    succeeded.

    Attributes:
        changed: the names of what may hold the saved values or the ones before, such as
            ``model.conv1.weight``.
    """

    def __init__(self, message: str, changed: list[str] | None = None) -> None:
        super().__init__(message)
        self.changed = changed or []


class MissingFieldError(KeyError):
    """A checkpoint lacks a field that the call needs.

    Attributes:
        field: the name of the field.
    """

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field

    def __str__(self) -> str:
        # KeyError shows its argument as a literal.
        return str(self.args[0])


class GroupError(CheckpointError):
    """The ranks of a process group could not save or load together; the message names those concerned.

    One did not come, cannot be reached, cannot see the files of another, or failed with an error of a
    class that is not known here.
    """


class LockedError(CheckpointError):
    """Another process is writing to the directory."""


class NotDurableError(CheckpointError):
    """The file was written, but may be gone after a power loss. The save is not acknowledged."""


class NothingToResumeError(CheckpointError):
    """Every checkpoint of the directory was tried, and none is sound."""


class ChangedError(CheckpointError):
    """The memory of a tensor was changed while it was being saved; nothing was published.

    It was written to outside `optimizer.step()`, or its memory was moved or freed. Save with
    ``snapshot="copy"``.
    """
