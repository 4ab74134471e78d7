"""NumPy arrays, scalars, types and generators.

Arrays of numbers are tensors in the file, in the same memory where that is possible; text, dates
and structures are tensors of their bytes.
"""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING, Any

from scai._convert._common import (
    Absent,
    Converted,
    FromPlain,
    as_bytes,
    exactly,
    non_empty,
    tensor_of,
)

if TYPE_CHECKING:
    import numpy as np
    import torch

# The types of numbers that torch has too, as NumPy writes them, and how torch calls them.
_NUMBERS = {
    "b1": "bool",
    "i1": "int8",
    "i2": "int16",
    "i4": "int32",
    "i8": "int64",
    "u1": "uint8",
    "u2": "uint16",
    "u4": "uint32",
    "u8": "uint64",
    "f2": "float16",
    "f4": "float32",
    "f8": "float64",
    "c8": "complex64",
    "c16": "complex128",
}
_BIT_GENERATORS = ("MT19937", "PCG64", "PCG64DXSM", "Philox", "SFC64")
_SUBCLASSES = ("matrix", "recarray")


# Types of elements


def _dtype_json(dtype: np.dtype[Any]) -> object:
    """A dtype as JSON: NumPy's string for it, or its fields, or a type and a shape."""
    import numpy as np

    if dtype.hasobject:
        raise TypeError(
            "a NumPy array of Python objects cannot be saved; save value.tolist(), or an array of "
            "numbers or text"
        )
    if dtype.subdtype is not None:
        base, shape = dtype.subdtype
        return {"base": _dtype_json(base), "shape": list(shape)}
    if dtype.names is not None:
        by_name: Any = dtype.fields
        fields = [by_name[name] for name in dtype.names]
        return {
            "names": list(dtype.names),
            "formats": [_dtype_json(field[0]) for field in fields],
            "offsets": [field[1] for field in fields],
            "titles": [field[2] if len(field) > 2 else None for field in fields],
            "itemsize": dtype.itemsize,
            "aligned": dtype.isalignedstruct,
            "record": dtype.type is np.record,
        }
    if dtype.type.__module__ == "ml_dtypes":
        return f"ml_dtypes.{dtype.name}"
    if dtype.kind not in "biufcmMSUV" or dtype.type.__module__ != "numpy":
        raise TypeError(f"a NumPy value of type {dtype} cannot be saved; convert it with astype()")
    return dtype.str


def _dtype(json: object) -> np.dtype[Any]:
    import numpy as np

    if type(json) is str:
        library, _, name = json.rpartition(".")
        if library == "ml_dtypes":
            ml_dtypes = sys.modules.get("ml_dtypes")
            if ml_dtypes is None:
                raise Absent(
                    f"the module `ml_dtypes` is not loaded, so a NumPy value of type {name} is "
                    "loaded as a tensor; import it before loading"
                )
            return np.dtype(exactly(type, vars(ml_dtypes)[name]))
        try:
            dtype = np.dtype(json)
        except TypeError:
            if json[1:] in ("f12", "f16", "c24", "c32"):
                raise Absent(
                    f"this machine has no numbers of type {json}; a NumPy value is loaded as it is "
                    "in the file"
                ) from None
            raise
        if dtype.str != json or dtype.hasobject:
            raise ValueError(f"`{json}` is not a dtype of NumPy")
        return dtype
    parts: dict[str, Any] = exactly(dict, json)
    if set(parts) == {"base", "shape"}:
        return np.dtype((_dtype(parts["base"]), tuple(parts["shape"])))
    fields: Any = {
        "names": parts["names"],
        "formats": [_dtype(form) for form in parts["formats"]],
        "offsets": parts["offsets"],
        "itemsize": parts["itemsize"],
    }
    if any(parts["titles"]):
        fields["titles"] = parts["titles"]
    dtype = np.dtype(fields, align=exactly(bool, parts["aligned"]))
    return np.dtype((np.record, dtype)) if exactly(bool, parts["record"]) else dtype


def type_to_plain(value: type) -> Converted | None:
    """A class of NumPy scalars, such as `np.float32`, which often stands for a dtype."""
    np = sys.modules.get("numpy")
    if np is None or not issubclass(value, np.generic) or value.__module__ != "numpy":
        return None
    return value.__name__, ["numpy.type"]


def _to_type(plain: object) -> object:
    import numpy as np

    found = vars(np).get(exactly(str, plain))
    if not (isinstance(found, type) and issubclass(found, np.generic)):
        raise ValueError(f"`{plain}` is not a scalar type of NumPy")
    return found


def _to_dtype(plain: object, json: object) -> np.dtype[Any]:
    exactly(str, plain)
    return _dtype(json)


# Arrays


class _Writable:
    """The memory of an array that must not be written to, for torch, which warns of such arrays."""

    def __init__(self, array: np.ndarray[Any, Any]) -> None:
        interface = array.__array_interface__
        address, _ = interface["data"]
        self.__array_interface__ = {**interface, "data": (address, False)}
        self._array = array


def _tensor(array: np.ndarray[Any, Any]) -> torch.Tensor:
    """A tensor with the numbers of an array, in its memory where its layout allows that."""
    import numpy as np
    import torch

    if not array.dtype.isnative:
        array = array.byteswap().view(array.dtype.newbyteorder("="))
    # `long` and `long long` may be one size, and torch takes one of them.
    array = array.view(np.dtype(array.dtype.str))
    regular = all(stride >= 0 and stride % array.itemsize == 0 for stride in array.strides)
    if not (regular and array.flags.forc):
        # What lies between the elements is not to be saved.
        array = array.copy(order="K")
    if not array.flags.writeable:
        array = np.asarray(_Writable(array))
    return torch.from_numpy(array)


def _bytes(array: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], str]:
    """The bytes of an array and the order of its elements, C or F."""
    import numpy as np

    order = "F" if array.flags.f_contiguous and not array.flags.c_contiguous else "C"
    flat = np.ascontiguousarray(array.T if order == "F" else array).reshape(-1)
    if flat.nbytes == 0:
        return np.empty(0, np.uint8), order
    return flat.view(np.uint8), order


def _array(array: np.ndarray[Any, Any]) -> Converted:
    import numpy as np

    kind = "numpy.ndarray"
    if type(array) is np.memmap:
        array = np.asarray(array)
    elif type(array) is not np.ndarray:
        kind = f"numpy.{type(array).__name__}"
        array = array.view(np.ndarray)
    dtype = array.dtype
    json = _dtype_json(dtype)
    if dtype.str[1:] in _NUMBERS and type(json) is str and "." not in json:
        return _tensor(array), [kind, json]
    if dtype.kind in "mM":
        return _tensor(array.view(f"{dtype.str[0]}i8")), [kind, json]
    data, order = _bytes(array)
    return _tensor(data), [kind, json, list(array.shape), order]


def _to_array(plain: object, json: object, shape: object = None, order: object = None) -> object:
    import numpy as np

    dtype = _dtype(json)
    data = _from_tensor(plain)
    if data is None:
        return plain
    native = dtype.newbyteorder("=")
    if shape is None:
        expected = np.dtype(np.int64) if dtype.kind in "mM" else native
        if dtype.str[1:] not in _NUMBERS and dtype.kind not in "mM" or data.dtype != expected:
            raise ValueError(f"elements of {data.dtype} where those of {dtype} were saved")
        data = data.view(native)
        return data if dtype.isnative else data.byteswap().view(dtype)
    if data.dtype != np.uint8 or data.ndim != 1 or order not in ("C", "F"):
        raise ValueError(f"elements of {data.dtype} where bytes were saved")
    shape = exactly(list, shape)
    lengths = shape[::-1] if order == "F" else shape
    if data.size != math.prod(lengths) * dtype.itemsize:
        raise ValueError(f"{data.size} bytes for an array of shape {shape} and type {dtype}")
    array: np.ndarray[Any, Any] = np.ndarray(lengths, dtype, data.data)
    return array.T if order == "F" else array


def _from_tensor(plain: object) -> np.ndarray[Any, Any] | None:
    """The memory of a tensor; none where it has none, or stands for one on disk."""
    tensor = tensor_of(plain)
    if tensor is None:
        return None
    array: np.ndarray[Any, Any] = tensor.detach().cpu().numpy()
    return array


def _to_subclass(name: str) -> FromPlain:
    def restore(plain: object, *details: object) -> object:
        import numpy as np

        array = _to_array(plain, *details)
        return array.view(getattr(np, name)) if isinstance(array, np.ndarray) else array

    return restore


def _masked(array: np.ma.MaskedArray[Any, Any]) -> Converted:
    import numpy as np

    mask = None if array.mask is np.ma.nomask else np.asarray(array.mask)
    plain = {"data": np.asarray(array.data), "mask": mask, "fill_value": array.fill_value}
    return plain, ["numpy.MaskedArray", bool(array.hardmask)]


def _to_masked(plain: object, hard: object) -> object:
    import numpy as np

    parts = exactly(dict, plain)
    data, mask, fill_value = parts["data"], parts["mask"], parts["fill_value"]
    if type(data) is not np.ndarray:
        return plain
    return np.ma.MaskedArray(
        data,
        mask=np.ma.nomask if mask is None else mask,
        fill_value=fill_value,
        hard_mask=exactly(bool, hard),
    )


# Scalars


def _scalar(value: np.generic) -> Converted:
    import numpy as np

    dtype = value.dtype
    json = _dtype_json(dtype)
    tag = ["numpy.scalar", json]
    if isinstance(value, np.bool_):
        return bool(value), tag
    if isinstance(value, np.longdouble | np.clongdouble):
        # A Python float has less; the bytes stand in the tag.
        plain = complex(value) if isinstance(value, np.clongdouble) else float(value)
        return plain, [*tag, value.tobytes().hex()]
    if isinstance(value, np.datetime64 | np.timedelta64):
        return int(value.view(np.int64)), tag
    if isinstance(value, np.integer):
        return int(value), tag
    if isinstance(value, np.floating):
        return float(value), tag
    if isinstance(value, np.complexfloating):
        return complex(value), tag
    if isinstance(value, np.str_):
        return str.__str__(value), tag
    if isinstance(value, np.bytes_):
        return non_empty(bytes.__getitem__(value, slice(None))), tag
    return non_empty(value.tobytes()), tag


def _to_scalar(plain: object, json: object, exact: object = None) -> object:
    import numpy as np

    dtype = _dtype(json)
    data: Any = plain
    if exact is not None:
        data = bytes.fromhex(exactly(str, exact))
    elif dtype.kind in "mM":
        data = exactly(int, plain).to_bytes(8, sys.byteorder, signed=True)
        dtype = dtype.newbyteorder("=")
    elif dtype.kind == "V" and not isinstance(json, str) or dtype.kind == "V" and "V" in str(json):
        data = as_bytes(plain)
        if not data:
            return np.zeros((), dtype)[()]
    else:
        if dtype.kind == "S":
            return np.bytes_(as_bytes(plain))
        kinds = {"b": bool, "i": int, "u": int, "f": float, "c": complex, "U": str}
        return dtype.type(exactly(kinds.get(dtype.kind, float), plain))
    if len(data) != dtype.itemsize:
        raise ValueError(f"{len(data)} bytes for a value of {dtype.itemsize}")
    return np.frombuffer(bytearray(data), dtype)[0]


# Generators of random numbers


def _bit_generator_state(value: Any) -> dict[str, object]:
    name = type(value).__name__
    if name not in _BIT_GENERATORS or type(value).__module__.partition(".")[0] != "numpy":
        raise TypeError(f"a generator over `{type(value).__qualname__}` cannot be saved")
    seeds = getattr(value, "seed_seq", None)
    return {"state": value.state, "seed_seq": seeds if _is_seed_sequence(seeds) else None}


def _is_seed_sequence(value: object) -> bool:
    import numpy as np

    return type(value) is np.random.SeedSequence


def _to_bit_generator(plain: object) -> Any:
    import numpy as np

    parts = exactly(dict, plain)
    state, seeds = parts["state"], parts["seed_seq"]
    name = exactly(dict, state)["bit_generator"]
    if name not in _BIT_GENERATORS:
        raise ValueError(f"`{name}` is not a bit generator of NumPy")
    if seeds is not None and not _is_seed_sequence(seeds):
        raise ValueError("not a seed sequence")
    made = getattr(np.random, name)(0 if seeds is None else seeds)
    made.state = state
    return made


def _to_generator(plain: object) -> object:
    import numpy as np

    return np.random.Generator(_to_bit_generator(plain))


def _to_random_state(plain: object) -> object:
    import numpy as np

    state = exactly(dict, plain)
    name = state["bit_generator"]
    if name not in _BIT_GENERATORS:
        raise ValueError(f"`{name}` is not a bit generator of NumPy")
    made = np.random.RandomState(getattr(np.random, name)(0))
    made.set_state(state)
    return made


def _seed_sequence(value: np.random.SeedSequence) -> Converted:
    import numpy as np

    # What is random must not be drawn anew, so the entropy is as it was given or found.
    entropy: Any = value.entropy
    if isinstance(entropy, np.ndarray):
        entropy = entropy.tolist()
    plain = {
        "entropy": entropy,
        "spawn_key": tuple(value.spawn_key),
        "pool_size": value.pool_size,
        "n_children_spawned": value.n_children_spawned,
    }
    return plain, ["numpy.random.SeedSequence"]


def _to_seed_sequence(plain: object) -> object:
    import numpy as np

    parts = exactly(dict, plain)
    if exactly(int, parts["pool_size"]) > 1 << 16:
        raise ValueError(f"a pool of {parts['pool_size']}")
    return np.random.SeedSequence(
        parts["entropy"],
        spawn_key=parts["spawn_key"],
        pool_size=parts["pool_size"],
        n_children_spawned=parts["n_children_spawned"],
    )


def to_plain(value: object) -> Converted | None:
    """The plain value and tag of what is NumPy's; none where it is not."""
    import numpy as np

    if isinstance(value, np.ndarray):
        if type(value) is np.ma.MaskedArray:
            return _masked(value)
        if type(value) in (np.ndarray, np.memmap, np.recarray, np.matrix):
            return _array(value)
        raise TypeError(
            f"an array of class {type(value).__qualname__} cannot be saved; save np.asarray(value)"
        )
    if isinstance(value, np.generic):
        return _scalar(value)
    if isinstance(value, np.dtype):
        return str(value), ["numpy.dtype", _dtype_json(value)]
    if type(value) is np.random.Generator:
        return _bit_generator_state(value.bit_generator), ["numpy.random.Generator"]
    if type(value) is np.random.RandomState:
        return value.get_state(legacy=False), ["numpy.random.RandomState"]
    if isinstance(value, np.random.BitGenerator):
        return _bit_generator_state(value), ["numpy.random.BitGenerator"]
    if type(value) is np.random.SeedSequence:
        return _seed_sequence(value)
    return None


FROM_PLAIN: dict[str, FromPlain] = {
    "numpy.type": _to_type,
    "numpy.dtype": _to_dtype,
    "numpy.ndarray": _to_array,
    **{f"numpy.{name}": _to_subclass(name) for name in _SUBCLASSES},
    "numpy.MaskedArray": _to_masked,
    "numpy.scalar": _to_scalar,
    "numpy.random.Generator": _to_generator,
    "numpy.random.RandomState": _to_random_state,
    "numpy.random.BitGenerator": _to_bit_generator,
    "numpy.random.SeedSequence": _to_seed_sequence,
}
