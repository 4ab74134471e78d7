"""What a load returns: a dict whose fields are read from the file when they are touched."""

from __future__ import annotations

from collections.abc import Callable, ItemsView, Iterator, ValuesView
from typing import Any

from scai import _native
from scai._garbage import no_collections
from scai._report import LoadReport


class _File:
    """An open file whose bytes have been checked, and what is read from it."""

    def __init__(
        self, tree: _native.Tree, locate: Callable[[str], Any], threads: int
    ) -> None:
        self.tree = tree
        self._locate = locate
        self._threads = threads

    @no_collections()
    def read(self, numbers: list[int]) -> dict[Any, Any]:
        """Copies of these fields; every byte is checked again."""
        fields: dict[Any, Any] = self.tree.decode(
            locate=self._locate, threads=self._threads, only=numbers
        )
        return fields


class _Unread:
    """What stands for a field that is still in the file."""

    def __init__(self, file: _File, number: int) -> None:
        self.file = file
        self.number = number

    def __repr__(self) -> str:
        return "<not read yet>"


class Checkpoint(dict[str, Any]):
    """What a checkpoint holds, as `torch.load` gives it.

    A field is read from the file when it is first touched, and checked again: what it holds is a
    copy, which nothing that happens to the file can change. The file stays open until all fields
    were read or the checkpoint is dropped; replacing or deleting it is fine.

    Touching a field raises `scai.errors.DamagedError` if the file was cut short or overwritten in
    place meanwhile.

    Attributes:
        path: the file.
        report: what was loaded, and what was not.
    """

    path: str
    report: LoadReport

    @classmethod
    def of(
        cls, tree: _native.Tree, locate: Callable[[str], Any], threads: int
    ) -> Checkpoint:
        """The fields of an open file, none of which is read yet."""
        file = _File(tree, locate, threads)
        keys = tree.decode_keys()
        return cls((key, _Unread(file, number)) for number, key in enumerate(keys))

    def _field(self, key: Any, value: Any) -> Any:
        """The field that a stored value is or stands for."""
        if type(value) is not _Unread:
            return value
        # Fields that share memory are read together, and share it still.
        self._read(value.file, value.file.tree.linked(value.number))
        return super().__getitem__(key)

    def _read(self, file: _File, numbers: list[int]) -> None:
        unread = {
            value.number: key
            for key, value in super().items()
            if type(value) is _Unread and value.file is file
        }
        for key, value in file.read([number for number in numbers if number in unread]).items():
            super().__setitem__(key, value)

    def _read_all(self) -> None:
        unread = [value for value in super().values() if type(value) is _Unread]
        for file in {id(value.file): value.file for value in unread}.values():
            self._read(file, [value.number for value in unread if value.file is file])

    # Whatever gives out values reads them. Python itself goes past these methods where a dict is
    # copied into another one, unless iteration is a method of the class.

    def __iter__(self) -> Iterator[str]:
        return super().__iter__()

    def __getitem__(self, key: str) -> Any:
        return self._field(key, super().__getitem__(key))

    def get(self, key: str, default: Any = None) -> Any:
        """The field, or `default` if there is none."""
        return self[key] if key in self else default

    def setdefault(self, key: str, default: Any = None) -> Any:
        """The field; `default` becomes it if there is none."""
        return self._field(key, super().setdefault(key, default))

    def pop(self, key: str, *default: Any) -> Any:
        """The field, which the dict then lacks."""
        if key in self:
            self[key]
        return super().pop(key, *default)

    def popitem(self) -> tuple[str, Any]:
        """The last field, which the dict then lacks."""
        for key in reversed(self):
            return key, self.pop(key)
        return super().popitem()

    def values(self) -> ValuesView[Any]:  # type: ignore[override]
        """All fields."""
        self._read_all()
        return super().values()

    def items(self) -> ItemsView[str, Any]:  # type: ignore[override]
        """All fields with their names."""
        self._read_all()
        return super().items()

    def copy(self) -> dict[str, Any]:
        """A plain dict of all fields."""
        return dict(self.items())

    def __eq__(self, other: object) -> bool:
        self._read_all()
        if isinstance(other, Checkpoint):
            other._read_all()
        return super().__eq__(other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __or__(self, other: Any) -> Any:
        return self.copy() | other

    def __ror__(self, other: Any) -> Any:
        return other | self.copy()

    def __repr__(self) -> str:
        # Its tensors would fill many screens.
        path = getattr(self, "path", None)
        return f"Checkpoint({path!r}, iteration={self.get('iteration')}: {', '.join(self)})"
