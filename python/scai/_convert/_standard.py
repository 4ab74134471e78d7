"""Types of the standard library, each by its exact type."""

from __future__ import annotations

import argparse
import builtins
import datetime
import decimal
import fractions
import io
import pathlib
import types
import uuid
import zoneinfo
from array import array
from collections import ChainMap, deque
from collections.abc import Mapping
from typing import Any

from scai._convert._common import (
    Absent,
    Converted,
    FromPlain,
    ToPlain,
    as_bytes,
    exactly,
    non_empty,
)

_TYPES = frozenset(
    "bool bytearray bytes complex dict float frozenset int list object range set slice str tuple "
    "type".split()
)
_PATHS = (
    pathlib.PurePosixPath,
    pathlib.PureWindowsPath,
    pathlib.PosixPath,
    pathlib.WindowsPath,
)


def _tag(kind: str, make: Any) -> ToPlain:
    return lambda value: (make(value), [kind])


# Memory and sequences


def _memoryview(value: memoryview) -> Converted:
    known = value.format in tuple("cbB?hHiIlLqQnNfd")
    if not known or value.nbytes == 0 and value.ndim != 1:
        raise TypeError("a memoryview of this form cannot be made again; save bytes(value)")
    plain = non_empty(value.tobytes())
    return plain, ["memoryview", value.format, list(value.shape or ()), value.readonly]


def _to_memoryview(plain: object, form: str, shape: list[int], readonly: bool) -> object:
    data = as_bytes(plain)
    view: Any = memoryview(data if exactly(bool, readonly) else bytearray(data))
    if exactly(str, form) == "B" and shape == [len(data)]:
        return view
    return view.cast(form, shape) if data else view.cast(form)


def _array(value: array[Any]) -> Converted:
    return value.tolist(), ["array", value.typecode]


def _to_array(plain: object, typecode: str) -> array[Any]:
    return array(exactly(str, typecode), exactly(list, plain))


def _to_slice(plain: object) -> slice:
    start, stop, step = exactly(tuple, plain)
    return slice(start, stop, step)


def _to_range(plain: object) -> range:
    start, stop, step = exactly(tuple, plain)
    return range(start, stop, step)


def _to_deque(plain: object, maxlen: int | None) -> deque[Any]:
    if maxlen is not None and len(exactly(list, plain)) > maxlen:
        raise ValueError(f"more than {maxlen} items in a deque of at most {maxlen}")
    return deque(exactly(list, plain), maxlen)


# Mappings and namespaces


def _to_chain_map(plain: object) -> ChainMap[Any, Any]:
    maps = exactly(list, plain)
    if not all(isinstance(part, Mapping) for part in maps):
        raise ValueError("a ChainMap holds something that is no mapping")
    return ChainMap(*maps)


def _attributes(plain: object) -> dict[str, object]:
    attributes = exactly(dict, plain)
    if not all(type(name) is str for name in attributes):
        raise ValueError("an attribute whose name is no string")
    return attributes


def _to_simple_namespace(plain: object) -> types.SimpleNamespace:
    return types.SimpleNamespace(**_attributes(plain))


def _to_namespace(plain: object) -> argparse.Namespace:
    return argparse.Namespace(**_attributes(plain))


# Dates and times


def _zone(value: datetime.tzinfo | None) -> object:
    """A time zone as JSON: nothing, a name, or an offset in microseconds and its name."""
    if value is None:
        return None
    if type(value) is zoneinfo.ZoneInfo and value.key is not None:
        return value.key
    if type(value) is datetime.timezone:
        offset, *name = value.__getinitargs__()  # type: ignore[attr-defined]
        return [offset // datetime.timedelta(microseconds=1), *name]
    raise TypeError(
        f"a time zone of type {type(value).__module__}.{type(value).__qualname__} cannot be saved; "
        "use datetime.timezone, or zoneinfo.ZoneInfo with a key"
    )


def _to_zone(zone: object) -> datetime.tzinfo | None:
    if zone is None:
        return None
    if type(zone) is str:
        try:
            return zoneinfo.ZoneInfo(zone)
        except zoneinfo.ZoneInfoNotFoundError:
            raise Absent(
                f"the time zone `{zone}` is not known here, so a time in it is loaded as text; "
                "install the package tzdata"
            ) from None
    offset, *name = exactly(list, zone)
    delta = datetime.timedelta(microseconds=exactly(int, offset))
    if not name and not delta:
        return datetime.timezone.utc
    return datetime.timezone(delta, *name)


def _zone_value(value: datetime.tzinfo) -> Converted:
    return str(value), ["timezone", _zone(value)]


def _to_zone_value(plain: object, zone: object) -> datetime.tzinfo:
    exactly(str, plain)
    restored = _to_zone(zone)
    if restored is None:
        raise ValueError("a time zone without a value")
    return restored


def _zoned(kind: str) -> ToPlain:
    def convert(value: datetime.datetime | datetime.time) -> Converted:
        zone = _zone(value.tzinfo)  # first: of a strange one nothing can be asked
        return value.isoformat(), [kind, value.fold, zone]

    return convert


def _to_zoned(cls: type[datetime.datetime] | type[datetime.time]) -> FromPlain:
    def restore(plain: object, fold: int, zone: object) -> object:
        value = cls.fromisoformat(exactly(str, plain))
        return value.replace(tzinfo=_to_zone(zone), fold=fold)

    return restore


def _to_date(plain: object) -> datetime.date:
    return datetime.date.fromisoformat(exactly(str, plain))


def _timedelta(value: datetime.timedelta) -> Converted:
    """Seconds, or where these are not exact, days, seconds and microseconds."""
    seconds = value.total_seconds()
    try:
        exact = datetime.timedelta(seconds=seconds) == value
    except OverflowError:  # rounded to more than the longest one
        exact = False
    return seconds if exact else (value.days, value.seconds, value.microseconds), ["timedelta"]


def _to_timedelta(plain: object) -> datetime.timedelta:
    if type(plain) is float:
        return datetime.timedelta(seconds=plain)
    days, seconds, microseconds = exactly(tuple, plain)
    return datetime.timedelta(days, seconds, microseconds)


# Names, numbers and what stands for itself


def _path(value: pathlib.PurePath) -> Converted:
    return str(value), ["path", type(value).__name__]


def _to_path(plain: object, name: str) -> pathlib.PurePath:
    text = exactly(str, plain)
    if name == type(pathlib.Path()).__name__:
        return pathlib.Path(text)
    if name in ("PurePosixPath", "PosixPath"):
        return pathlib.PurePosixPath(text)
    if name in ("PureWindowsPath", "WindowsPath"):
        return pathlib.PureWindowsPath(text)
    raise ValueError(f"`{name}` is not a path class")


def _to_decimal(plain: object) -> decimal.Decimal:
    return decimal.Decimal(exactly(str, plain))


def _to_fraction(plain: object) -> fractions.Fraction:
    numerator, denominator = exactly(tuple, plain)
    return fractions.Fraction(exactly(int, numerator), exactly(int, denominator))


def _to_uuid(plain: object) -> uuid.UUID:
    return uuid.UUID(exactly(str, plain))


def _type(value: type) -> Converted:
    name = value.__name__
    if name in _TYPES and getattr(builtins, name) is value:
        return name, ["type"]
    from scai._convert import _numpy, _refuse

    converted = _numpy.type_to_plain(value)
    if converted is None:
        raise TypeError(_refuse.reason(value))
    return converted


def _to_type(plain: object) -> object:
    if plain not in _TYPES:
        raise ValueError(f"`{plain}` is not a built-in type")
    return getattr(builtins, exactly(str, plain))


def _constant(name: str) -> ToPlain:
    return lambda _: (name, ["constant"])


def _to_constant(plain: object) -> object:
    if plain == "Ellipsis":
        return Ellipsis
    if plain == "NotImplemented":
        return NotImplemented
    raise ValueError(f"`{plain}` is not a known constant")


def _to_stream(plain: object, position: object) -> io.BytesIO:
    stream = io.BytesIO(as_bytes(plain))
    stream.seek(exactly(int, position))
    return stream


TO_PLAIN: dict[type, ToPlain] = {
    bytes: lambda value: (non_empty(value), ["bytes"]),
    # weights_only=True refuses integers of more than 255 bytes.
    int: lambda value: (hex(value), ["int"]),
    memoryview: _memoryview,
    # What some modules keep as extra state.
    io.BytesIO: lambda value: (non_empty(value.getvalue()), ["BytesIO", value.tell()]),
    array: _array,
    # A tuple, since what is frozen may be a key.
    frozenset: _tag("frozenset", tuple),
    range: lambda value: ((value.start, value.stop, value.step), ["range"]),
    slice: lambda value: ((value.start, value.stop, value.step), ["slice"]),
    deque: lambda value: (list(value), ["deque", value.maxlen]),
    types.MappingProxyType: _tag("mappingproxy", dict),
    ChainMap: lambda value: (list(value.maps), ["ChainMap"]),
    types.SimpleNamespace: lambda value: (dict(vars(value)), ["SimpleNamespace"]),
    argparse.Namespace: lambda value: (dict(vars(value)), ["Namespace"]),
    datetime.datetime: _zoned("datetime"),
    datetime.date: lambda value: (value.isoformat(), ["date"]),
    datetime.time: _zoned("time"),
    datetime.timedelta: _timedelta,
    datetime.timezone: _zone_value,
    zoneinfo.ZoneInfo: _zone_value,
    **dict.fromkeys(_PATHS, _path),
    decimal.Decimal: _tag("Decimal", str),
    fractions.Fraction: lambda value: ((value.numerator, value.denominator), ["Fraction"]),
    uuid.UUID: _tag("UUID", str),
    type: _type,
    type(Ellipsis): _constant("Ellipsis"),
    type(NotImplemented): _constant("NotImplemented"),
}

FROM_PLAIN: dict[str, FromPlain] = {
    "bytes": as_bytes,
    "int": lambda plain: int(exactly(str, plain), 16),
    "memoryview": _to_memoryview,
    "BytesIO": _to_stream,
    "array": _to_array,
    "frozenset": lambda plain: frozenset(exactly(tuple, plain)),
    "range": _to_range,
    "slice": _to_slice,
    "deque": _to_deque,
    "mappingproxy": lambda plain: types.MappingProxyType(exactly(dict, plain)),
    "ChainMap": _to_chain_map,
    "SimpleNamespace": _to_simple_namespace,
    "Namespace": _to_namespace,
    "datetime": _to_zoned(datetime.datetime),
    "date": _to_date,
    "time": _to_zoned(datetime.time),
    "timedelta": _to_timedelta,
    "timezone": _to_zone_value,
    "path": _to_path,
    "Decimal": _to_decimal,
    "Fraction": _to_fraction,
    "UUID": _to_uuid,
    "type": _to_type,
    "constant": _to_constant,
}
