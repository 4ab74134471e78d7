"""Values of classes that somebody wrote: enums, named tuples, dataclasses, derived builtins."""

from __future__ import annotations

import dataclasses
import enum
import functools
import sys
import types
import warnings
from collections import Counter, OrderedDict, defaultdict, deque
from typing import Any

from scai._convert._common import (
    Absent,
    Converted,
    FromPlain,
    as_bytes,
    exactly,
    non_empty,
)

# The builtins that a class may be derived from, in the order in which they are tried.
_BASES: dict[str, type] = {
    "OrderedDict": OrderedDict,
    "Counter": Counter,
    "defaultdict": defaultdict,
    "dict": dict,
    "list": list,
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "str": str,
    "int": int,
    "float": float,
    "complex": complex,
    "bytes": bytes,
    "bytearray": bytearray,
    "deque": deque,
}
_FACTORIES = {name: base for name, base in _BASES.items() if name != "defaultdict"} | {"bool": bool}
_SIMPLE = (type(None), bool, int, float, complex, str)


# Classes by name


def _name(cls: type) -> list[object]:
    """Module and name of a class. Warns where it cannot be found by them when it is loaded."""
    if _look_up(cls.__module__, cls.__qualname__) is None:
        warnings.warn(
            f"`{cls.__module__}.{cls.__qualname__}` cannot be found by its name, so its values "
            "will be loaded as plain ones; define the class at the top of a module",
            UserWarning,
            stacklevel=2,
        )
    return [cls.__module__, cls.__qualname__]


def _look_up(module: str, qualname: str) -> type | None:
    """A class of a module that is loaded; no attribute is computed, so nothing is run."""
    found: object = sys.modules.get(module)
    for part in qualname.split("."):
        if not isinstance(found, (types.ModuleType, type)):
            return None
        found = vars(found).get(part)
    return found if isinstance(found, type) else None


def _find(module: object, qualname: object, what: str) -> type:
    module, qualname = exactly(str, module), exactly(str, qualname)
    cls = _look_up(module, qualname)
    if cls is None:
        raise Absent(
            f"the class `{module}.{qualname}` is not loaded, so {what} is loaded as a plain value; "
            f"import the module `{module}`, in which it must be defined, before loading"
        )
    return cls


def _other_kind(cls: type, what: str) -> Absent:
    return Absent(
        f"the class `{cls.__module__}.{cls.__qualname__}` is no longer one for {what}, which is "
        "loaded as a plain value"
    )


# Attributes, past anything that a class says of them

_IMMUTABLE_TYPE = 1 << 8  # Py_TPFLAGS_IMMUTABLETYPE: made in C, not by a class statement


def _builtin_base(cls: type) -> type:
    """The nearest class that is made in C: values are laid out as its are."""
    return next(base for base in cls.__mro__ if base.__flags__ & _IMMUTABLE_TYPE)


def _members(cls: type) -> dict[str, types.MemberDescriptorType]:
    """The slots of a class and of those it is derived from."""
    return {
        name: member
        for base in reversed(cls.__mro__)
        if not base.__flags__ & _IMMUTABLE_TYPE
        for name, member in vars(base).items()
        if isinstance(member, types.MemberDescriptorType)
    }


def _dict_of(value: object) -> dict[str, object] | None:
    try:
        attributes = object.__getattribute__(value, "__dict__")
    except AttributeError:
        return None
    return attributes if isinstance(attributes, dict) else None


def _state(value: object) -> dict[str, object]:
    """The attributes of a value, but for what a `cached_property` computed."""
    cls = type(value)
    state: dict[str, object] = {}
    for name, member in _members(cls).items():
        try:
            state[name] = member.__get__(value, cls)
        except AttributeError:  # never set
            pass
    attributes = _dict_of(value)
    if attributes is None or attributes is value:
        return state
    for name, attribute in attributes.items():
        if not any(isinstance(vars(b).get(name), functools.cached_property) for b in cls.__mro__):
            state[name] = attribute
    return state


def _set_state(value: object, state: object) -> None:
    members = _members(type(value))
    attributes = _dict_of(value)
    for name, attribute in exactly(dict, state).items():
        if exactly(str, name) in members:
            members[name].__set__(value, attribute)
        elif attributes is None:
            raise ValueError(f"`{type(value).__qualname__}` has no attribute `{name}`")
        else:
            attributes[name] = attribute


# Enums


def _enum(value: enum.Enum) -> Converted:
    """The value where it is a simple one, else the name, so that it can always be a key."""
    plain = value._value_ if type(value._value_) in _SIMPLE else value._name_
    return plain, ["enum", *_name(type(value)), value._name_]


def _to_enum(plain: object, module: object, qualname: object, name: object) -> object:
    cls = _find(module, qualname, "a member of it")
    if not issubclass(cls, enum.Enum):
        raise _other_kind(cls, f"the member `{name}`")
    member = cls.__members__.get(name) if isinstance(name, str) else None
    if member is None and type(plain) in _SIMPLE:
        member = cls._value2member_map_.get(plain)
    if member is None and issubclass(cls, enum.Flag) and type(plain) is int:
        # Members combined; an enum that computes them in its own way is not asked.
        own = next(base for base in cls.__mro__ if "_missing_" in vars(base))
        if own in (enum.Flag, enum.IntFlag, enum.Enum):
            try:
                member = cls(plain)
            except ValueError:
                pass
    if member is None:
        raise Absent(
            f"the enum `{module}.{qualname}` has no member `{name}` any more, which is loaded as "
            f"its value {plain!r}"
        )
    return member


# Named tuples and the named tuples of C


def _is_named_tuple(cls: type) -> bool:
    fields = getattr(cls, "_fields", None)
    return (
        issubclass(cls, tuple)
        and type(fields) is tuple
        and all(type(field) is str for field in fields)
        and isinstance(getattr(cls, "_field_defaults", None), dict)
    )


def _named_tuple(value: Any) -> Converted:
    cls = type(value)
    return tuple(value), ["namedtuple", *_name(cls), list(cls._fields)]


def _to_named_tuple(
    plain: object, module: object, qualname: object, fields: list[str]
) -> tuple[object, ...]:
    values = exactly(tuple, plain)
    if len(exactly(list, fields)) != len(values):
        raise ValueError(f"{len(values)} values for {len(fields)} fields")
    cls: Any = _find(module, qualname, "a named tuple")
    if not _is_named_tuple(cls):
        raise _other_kind(cls, "a named tuple")
    named = {**cls._field_defaults, **dict(zip(fields, values, strict=True))}
    if set(named) != set(cls._fields):
        differing = ", ".join(sorted(set(named) ^ set(cls._fields)))
        raise Absent(
            f"the named tuple `{module}.{qualname}` has other fields now ({differing}); it is "
            "loaded as a plain tuple"
        )
    return tuple.__new__(cls, [named[field] for field in cls._fields])


def _is_struct_sequence(cls: type) -> bool:
    """Whether it is a named tuple made in C, such as `torch.return_types.max`."""
    return (
        issubclass(cls, tuple)
        and isinstance(vars(cls).get("n_sequence_fields"), int)
        and isinstance(cls.__new__, types.BuiltinFunctionType)
    )


def _struct_sequence(value: Any) -> Converted:
    cls = type(value)
    if cls.n_fields != cls.n_sequence_fields:
        raise TypeError(f"a {cls.__module__}.{cls.__qualname__} cannot be saved; save tuple(value)")
    return tuple(value), ["structseq", *_name(cls)]


def _to_struct_sequence(plain: object, module: object, qualname: object) -> object:
    values = exactly(tuple, plain)
    cls = _find(module, qualname, "a named tuple")
    if not _is_struct_sequence(cls):
        raise _other_kind(cls, "a named tuple")
    return cls(values)


# Dataclasses


def _dataclass(value: Any) -> Converted:
    cls = type(value)
    names = [field.name for field in dataclasses.fields(value)]
    return _state(value), ["dataclass", *_name(cls), names]


def _to_dataclass(plain: object, module: object, qualname: object, names: list[str]) -> object:
    state = dict(exactly(dict, plain))
    saved = set(exactly(list, names))
    cls = _find(module, qualname, "a dataclass")
    if not _is_plain_dataclass(cls):
        raise _other_kind(cls, "a dataclass")
    fields: dict[str, dataclasses.Field[Any]] = {f.name: f for f in dataclasses.fields(cls)}
    for name in saved - set(fields):
        warnings.warn(
            f"`{module}.{qualname}` has no field `{name}` any more; its value is left out",
            UserWarning,
            stacklevel=2,
        )
        state.pop(name, None)
    for name in set(fields) - saved - set(state):
        field = fields[name]
        if field.default is not dataclasses.MISSING:
            state[name] = field.default
        elif (factory := _plain_factory(field)) is not None:
            state[name] = factory()
        else:
            raise Absent(
                f"`{module}.{qualname}` has a new field `{name}` without a plain default, so it is "
                "loaded as a dict of its fields"
            )
    value: object = object.__new__(cls)
    _set_state(value, state)
    return value


def _plain_factory(field: dataclasses.Field[Any]) -> type | None:
    """The builtin type that makes a field's default, if it is one."""
    factory: object = field.default_factory
    return next((known for known in _FACTORIES.values() if known is factory), None)


def _is_plain_dataclass(cls: type) -> bool:
    """Whether values of a dataclass are nothing but their attributes."""
    return dataclasses.is_dataclass(cls) and _may_be_made(cls) and _builtin_base(cls) is object


# Default dicts and classes derived from builtins


def _factory(factory: object) -> object:
    """A default factory as JSON: nothing, a builtin, a class, or one that cannot be named."""
    if factory is None:
        return None
    for name, known in _FACTORIES.items():
        if factory is known:
            return name
    if isinstance(factory, type) and not _is_of_python(factory.__module__):
        return _name(factory)
    return {"lost": getattr(factory, "__qualname__", type(factory).__qualname__)}


def _is_of_python(module: str) -> bool:
    return module.partition(".")[0] in sys.stdlib_module_names and module != "__main__"


def _to_factory(factory: object) -> Any:
    if factory is None:
        return None
    if type(factory) is str:
        return _FACTORIES[factory]
    if type(factory) is dict:
        reason = f"`{factory['lost']}`, which is code and was not saved"
    else:
        module, qualname = exactly(list, factory)
        found = _look_up(exactly(str, module), exactly(str, qualname))
        if found is not None and not _is_of_python(module):
            return found
        reason = f"`{module}.{qualname}`, which is not loaded"
    warnings.warn(
        f"the default factory of a defaultdict was {reason}; it is None now, so set "
        "`default_factory` again",
        UserWarning,
        stacklevel=2,
    )
    return None


def _defaultdict(value: defaultdict[Any, Any]) -> Converted:
    return dict(value), ["defaultdict", _factory(value.default_factory)]


def _to_defaultdict(plain: object, factory: object) -> defaultdict[Any, Any]:
    return defaultdict(_to_factory(factory), exactly(dict, plain))


def _derived(value: Any, base_name: str) -> Converted:
    """The value as one of the builtin type and, where it has attributes, these beside it."""
    cls = type(value)
    base = _BASES[base_name]
    plain: object
    extra: object = None
    # By the methods of the builtin type, whatever the class makes of its own.
    if base is OrderedDict:
        plain = OrderedDict(OrderedDict.items(value))
    elif base is Counter:
        plain = Counter()
        dict.update(plain, dict.items(value))
    elif base is defaultdict:
        plain, extra = dict(dict.items(value)), _factory(value.default_factory)
    elif base is dict:
        plain = dict(dict.items(value))
    elif base is deque:
        plain, extra = list(deque.__iter__(value)), value.maxlen
    elif base is frozenset:
        plain = tuple(frozenset.__iter__(value))
    elif base is bytes:
        plain = non_empty(bytes.__getitem__(value, slice(None)))
    elif base is str:
        plain = str.__str__(value)
    elif base is int:
        plain = int.__int__(value)
    elif base is float:
        plain = float.__float__(value)
    elif base is complex:
        plain = complex(value.real, value.imag)
    else:
        plain = base(base.__iter__(value))  # type: ignore[attr-defined]
    state = _state(value)
    is_own_dict = _dict_of(value) is value
    attributes: object = bool(state)
    if state and isinstance(plain, dict):
        attributes = _named_attributes(state, plain)
    tag = ["derived", base_name, *_name(cls), extra, attributes, is_own_dict]
    return (plain, state) if attributes is True else plain, tag


def _named_attributes(state: dict[str, object], items: dict[Any, Any]) -> object:
    """The attributes of a derived dict as JSON, so that what is saved is a dict: each is an entry
    of the dict under its own name, or simple. `True` where they are neither."""
    entries = [name for name, value in state.items() if name in items and items[name] is value]
    simple = {name: value for name, value in state.items() if name not in entries}
    if all(_fits_json(value) for value in simple.values()):
        return {"entries": entries, "simple": simple}
    return True


def _fits_json(value: object) -> bool:
    if type(value) is float:
        return value - value == 0
    if type(value) is int:
        return abs(value) < 2**53
    return value is None or type(value) in (bool, str)


def _to_derived(
    plain: object,
    base_name: str,
    module: object,
    qualname: object,
    extra: object,
    has_state: bool | dict[str, Any],
    is_own_dict: bool,
) -> object:
    base: Any = _BASES[exactly(str, base_name)]
    state: object = {}
    if type(has_state) is dict:
        items: Any = plain
        state = {**has_state["simple"], **{name: items[name] for name in has_state["entries"]}}
    elif exactly(bool, has_state):
        plain, state = exactly(tuple, plain)
    cls: Any = _find(module, qualname, f"a value derived from {base_name}")
    if not issubclass(cls, base) or cls is base or not _may_be_made(cls):
        raise _other_kind(cls, f"a value derived from {base_name}")
    value: Any
    if base in (tuple, str, int, float, complex):
        value = base.__new__(cls, exactly(base, plain))
    elif base is frozenset:
        value = frozenset.__new__(cls, exactly(tuple, plain))
    elif base is bytes:
        value = bytes.__new__(cls, as_bytes(plain))
    else:
        value = base.__new__(cls)
        if base is list:
            list.extend(value, exactly(list, plain))
        elif base is set:
            set.update(value, exactly(set, plain))
        elif base is bytearray:
            bytearray.extend(value, exactly(bytearray, plain))
        elif base is deque:
            _BASES["deque"].__init__(value, exactly(list, plain), extra)  # type: ignore[misc]
        elif base is OrderedDict:
            for key, item in exactly(OrderedDict, plain).items():
                OrderedDict.__setitem__(value, key, item)
        elif base is defaultdict:
            defaultdict.__init__(value, _to_factory(extra))
            dict.update(value, exactly(dict, plain))
        else:
            dict.update(value, exactly(base, plain))
    if exactly(bool, is_own_dict):
        object.__setattr__(value, "__dict__", value)
    _set_state(value, state)
    return value


def _may_be_made(cls: type) -> bool:
    """Whether a value of the class, made past its `__init__`, does nothing by itself."""
    return not hasattr(cls, "__del__") and not _is_of_python(cls.__module__)


def to_plain(value: object) -> Converted | None:
    """The plain value and tag of what is of a class of a kind that can be made again."""
    cls = type(value)
    if isinstance(value, enum.Enum):
        return _enum(value)
    if cls is defaultdict:
        return _defaultdict(value)  # type: ignore[arg-type]
    if _is_named_tuple(cls) and not _state(value):
        return _named_tuple(value)
    if _is_struct_sequence(cls):
        return _struct_sequence(value)
    if not _may_be_made(cls):
        return None
    builtin = _builtin_base(cls)
    for name, base in _BASES.items():
        if issubclass(cls, base) and builtin in (base, base.__base__):
            return _derived(value, name)
    if _is_plain_dataclass(cls):
        return _dataclass(value)
    return None


FROM_PLAIN: dict[str, FromPlain] = {
    "enum": _to_enum,
    "namedtuple": _to_named_tuple,
    "structseq": _to_struct_sequence,
    "dataclass": _to_dataclass,
    "defaultdict": _to_defaultdict,
    "derived": _to_derived,
}
