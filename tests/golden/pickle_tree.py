#!/usr/bin/env python3
"""Describe a `.pt` file WITHOUT torch: a symbolic unpickler over the standard library.

Nothing named by the file is ever imported or called. `read(path)` returns
(description, info): the description is the same JSON as describe.py makes from the
loaded object (None if something must be refused), info holds the globals met (in
order), the globals and opcodes that a safe reader must refuse, the storage
locations, and the format.

    python pickle_tree.py FILE.pt
"""
import collections
import io
import pickle
import struct
import sys
import zipfile

from describe import Walker, dumps

# dtypes whose tensors pickle with their own storage class
STORAGES = {
    "DoubleStorage": ("float64", 8), "FloatStorage": ("float32", 4), "HalfStorage": ("float16", 2),
    "LongStorage": ("int64", 8), "IntStorage": ("int32", 4), "ShortStorage": ("int16", 2),
    "CharStorage": ("int8", 1), "ByteStorage": ("uint8", 1), "BoolStorage": ("bool", 1),
    "BFloat16Storage": ("bfloat16", 2), "ComplexDoubleStorage": ("complex128", 16),
    "ComplexFloatStorage": ("complex64", 8), "QUInt8Storage": ("quint8", 1), "QInt8Storage": ("qint8", 1),
    "QInt32Storage": ("qint32", 4), "QUInt4x2Storage": ("quint4x2", 1), "QUInt2x4Storage": ("quint2x4", 1),
    "UntypedStorage": ("uint8", 1),
}  # fmt: skip
DTYPES = set(
    """float64 float32 float16 bfloat16 float8_e4m3fn float8_e5m2 float8_e4m3fnuz float8_e5m2fnuz float8_e8m0fnu
    float4_e2m1fn_x2 int64 int32 int16 int8 uint64 uint32 uint16 uint8 bool complex128 complex64 complex32 bcomplex32
    quint8 qint8 qint32 quint4x2 quint2x4 bits8 bits16 bits1x8 bits2x4 bits4x2
    int1 int2 int3 int4 int5 int6 int7 uint1 uint2 uint3 uint4 uint5 uint6 uint7
    double float half long int short cdouble cfloat chalf""".split()
)
QSCHEMES = set(
    "per_tensor_affine per_channel_affine per_tensor_symmetric per_channel_symmetric per_channel_affine_float_qparams".split()
)
CALLS = set(
    """torch._utils._rebuild_tensor torch._utils._rebuild_tensor_v2 torch._utils._rebuild_tensor_v3
    torch._utils._rebuild_parameter torch._utils._rebuild_parameter_with_state torch._utils._rebuild_qtensor
    torch._utils._rebuild_sparse_tensor torch._utils._rebuild_meta_tensor_no_storage
    torch._tensor._rebuild_from_type_v2 torch.serialization._get_layout""".split()
)
NAMES = {"torch.Tensor", "torch.nn.parameter.Parameter"}
BUILTIN = ("__builtin__", "builtins", "copy_reg", "copyreg", "_codecs", "collections")


class Bad(Exception):
    pass


class Global:
    def __init__(self, tree, module, name):
        self.tree, self.module, self.name = tree, module, name
        self.full = f"{module}.{name}"

    def __call__(self, *args):
        return self.tree.call(self, args)

    def __hash__(self):
        return hash(self.full)

    def __eq__(self, o):
        return isinstance(o, Global) and o.full == self.full


class Call:
    """An object made by REDUCE / NEWOBJ of a global that we only describe."""

    def __init__(self, func, args):
        self.func, self.args, self.state, self.extra = func, args, None, []

    def __setstate__(self, state):
        self.state = state

    def append(self, x):
        self.extra.append(x)

    def extend(self, xs):
        self.extra.extend(xs)

    def add(self, x):
        self.extra.append(x)

    def __setitem__(self, k, v):
        self.extra.append((k, v))


class Storage:
    def __init__(self, cls, key, location, numel, view):
        self.dtype, self.itemsize = STORAGES[cls.name]
        self.cls, self.key, self.location, self.numel, self.view = cls, key, location, numel, view


class Special:
    def __init__(self, node):
        self.node = node


class Unpickler(pickle._Unpickler):
    """The pure Python one, so that no opcode can reach a real class."""

    dispatch = dict(pickle._Unpickler.dispatch)

    def __init__(self, tree, f):
        super().__init__(f, encoding="utf-8", errors="surrogatepass")
        self.tree = tree

    def find_class(self, module, name):
        return self.tree.find(module, name)

    def get_extension(self, code):
        raise Bad("extension opcode")

    def persistent_load(self, pid):
        return self.tree.persistent(pid)

    def load_newobj(self):
        args = self.stack.pop()
        cls = self.stack.pop()
        self.append(Call(cls, args))

    dispatch[pickle.NEWOBJ[0]] = load_newobj

    def load_newobj_ex(self):
        self.stack.pop()
        args = self.stack.pop()
        cls = self.stack.pop()
        self.append(Call(cls, args))

    dispatch[pickle.NEWOBJ_EX[0]] = load_newobj_ex

    def load_frozenset(self):  # FROZENSET names no global, but a safe reader has no such type
        self.tree.opcode("FROZENSET")
        items = self.pop_mark()
        self.append(Call(Global(self.tree, "builtins", "frozenset"), (items,)))

    dispatch[pickle.FROZENSET[0]] = load_frozenset

    def load_build(self):
        state = self.stack.pop()
        inst = self.stack[-1]
        if isinstance(inst, collections.OrderedDict):
            if not isinstance(state, dict):
                raise Bad("BUILD of an OrderedDict without a dict")
            inst.__dict__.update(state)
        elif isinstance(inst, Call):
            inst.state = state
        elif isinstance(inst, Special):
            pass
        else:
            raise Bad(f"BUILD on {type(inst).__name__}")

    dispatch[pickle.BUILD[0]] = load_build


class TreeWalker(Walker):
    def __init__(self, tree):
        super().__init__()
        self.tree = tree

    def storage(self, s):
        if s.key not in self.numbers:
            self.tree.locations.append(s.location)
        return self.storage_number(s.key, lambda: self.tree.bytes_of(s))

    def tensor(self, x):
        """A node if `x` is a plain tensor or Parameter, else None."""
        if not isinstance(x, Call) or x.state is not None:
            return None
        n, a = x.func.full, x.args
        if n in ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor_v3", "torch._utils._rebuild_tensor"):
            if n.endswith("v3"):
                st, off, size, stride, rg, hooks, dt = a[:7]
                meta = a[7] if len(a) > 7 else None
                dtype = dt.node["v"]
            elif n.endswith("v2"):
                st, off, size, stride, rg, hooks = a[:6]
                meta = a[6] if len(a) > 6 else None
                dtype = st.dtype
            else:
                st, off, size, stride = a
                rg, hooks, meta, dtype = False, {}, None, st.dtype
            if hooks:
                return None
            meta = meta or {}
            return {
                "t": "tensor", "dtype": dtype, "shape": self.ints(size), "stride": list(stride), "offset": off,
                "storage": self.storage(st), "requires_grad": rg, "parameter": False,
                "conj": bool(meta.get("conj")), "neg": bool(meta.get("neg")),
            }  # fmt: skip
        if n == "torch._utils._rebuild_parameter":
            data, rg, hooks = a
            if hooks:
                return None
            t = self.tensor(data)
            if t is None or t["parameter"]:
                return None
            t.update(requires_grad=rg, parameter=True)
            return t
        return None

    def ints(self, size):
        return list(size.node["v"] if isinstance(size, Special) else size)

    def leaf(self, x):
        if isinstance(x, Special):
            return x.node
        if isinstance(x, Global):
            return {"t": "global", "v": x.full}
        if isinstance(x, Storage):
            return {"t": "storage", "dtype": x.dtype, "storage": self.storage(x)}
        if isinstance(x, type) or callable(x):
            return {"t": "global", "v": f"{x.__module__}.{x.__qualname__}"}
        if isinstance(x, Call):
            t = self.tensor(x)
            if t is not None:
                return t
            return {
                "t": "call", "global": x.func.full, "args": self.items(x.args),
                "state": None if x.state is None else self.node(x.state),
            }  # fmt: skip
        return super().leaf(x)


class Tree:
    def __init__(self):
        self.globals, self.refused, self.locations, self.opcodes = [], [], [], []
        self.persistent_ids = []
        self.storages = {}

    def note(self, module, name, ok):
        full = f"{module}.{name}"
        if full not in self.globals:
            self.globals.append(full)
        if not ok and full not in self.refused:
            self.refused.append(full)

    def opcode(self, name):
        if name not in self.opcodes:
            self.opcodes.append(name)

    def find(self, module, name):
        full = f"{module}.{name}"
        if module in BUILTIN:
            # `bytes` is understood (b"" pickles as bytes()), but torch's safe unpickler refuses it
            real = {
                "OrderedDict": collections.OrderedDict, "Counter": collections.Counter, "set": set,
                "complex": complex, "bytearray": bytearray, "encode": lambda s, e="utf-8": s.encode(e),
            }.get(name)  # fmt: skip
            right = {"OrderedDict": "collections", "Counter": "collections", "encode": "_codecs"}.get(name)
            if real and (module == right or (right is None and module in ("__builtin__", "builtins"))):
                self.note(module, name, True)
                return real
        if module == "torch" and name in DTYPES:
            self.note(module, name, True)
            return Special({"t": "dtype", "v": name})
        if module == "torch" and name in QSCHEMES:
            self.note(module, name, True)
            return Special({"t": "qscheme", "v": name})
        ok = (
            full in CALLS
            or full in NAMES
            or full in ("torch.Size", "torch.device")
            or (module in ("torch", "torch.cuda", "torch.storage") and name in STORAGES)
        )
        self.note(module, name, ok)
        return Global(self, module, name)

    def call(self, g, args):
        if g.full == "torch.Size":
            return Special({"t": "size", "v": list(args[0]) if args else []})
        if g.full == "torch.device":
            return Special({"t": "device", "v": args[0] if len(args) == 1 or args[1] is None else f"{args[0]}:{args[1]}"})
        if g.full == "torch.serialization._get_layout":
            return Special({"t": "layout", "v": args[0]})
        return Call(g, args)

    def persistent(self, pid):
        if not isinstance(pid, tuple) or not pid:
            raise Bad("persistent id is not a tuple")
        if pid[0] == "module":
            return pid[1]
        if pid[0] != "storage":
            raise Bad(f"persistent id {pid[0]!r}")
        self.persistent_ids.append(pid)
        s = Storage(*pid[1:5], pid[5] if len(pid) > 5 else None)
        # the first mention of a key decides how many bytes there are
        return self.storages.setdefault((s.key, s.cls.name), s)

    # -- files ----------------------------------------------------------------
    def record(self, name):
        """A zip record; CRCs are not checked, as torch does not (`set_crc32_options(False)` leaves wrong ones)."""
        with self.z.open(f"{self.prefix}/{name}") as f:
            f._expected_crc = None
            return f.read()

    def read_zip(self, path):
        self.z = zipfile.ZipFile(path)
        self.prefix = self.z.namelist()[0].split("/", 1)[0]
        names = set(self.z.namelist())
        self.big = f"{self.prefix}/byteorder" in names and self.record("byteorder") == b"big"
        u = Unpickler(self, io.BytesIO(self.record("data.pkl")))
        return u.load()

    def bytes_of(self, s):
        n = s.numel * s.itemsize
        if self.legacy is not None:
            return self.legacy[s.key]
        raw = self.record(f"data/{s.key}")
        if len(raw) < n:
            raise Bad("storage record too short")
        raw = raw[:n]
        if self.big:
            w = {"complex64": 4, "complex128": 8}.get(s.dtype, s.itemsize)
            raw = b"".join(raw[i : i + w][::-1] for i in range(0, len(raw), w)) if w > 1 else raw
        return raw

    def read_legacy(self, path):
        with open(path, "rb") as f:
            r = [Unpickler(self, f).load() for _ in range(3)]
            if r[0] != 0x1950A86A20F9469CFC6C or r[1] != 1001:
                raise Bad("not a legacy torch file")
            obj = Unpickler(self, f).load()
            keys = Unpickler(self, f).load()
            first = {}
            for (k, _), s in self.storages.items():
                first.setdefault(k, s)
            for k in keys:
                (count,) = struct.unpack("<q", f.read(8))
                self.legacy[k] = f.read(count * first[k].itemsize)
            if f.read(1):
                raise Bad("bytes after the last storage")
        return obj

    def read(self, path):
        with open(path, "rb") as f:
            head = f.read(4)
        if head == b"PK\3\4":
            self.legacy, self.format = None, "zip"
            obj = self.read_zip(path)
        else:
            self.legacy, self.format = {}, "legacy"
            obj = self.read_legacy(path)
        self.obj = obj
        return obj


def read(path, walk=True):
    t = Tree()
    obj = t.read(path)
    d = TreeWalker(t).run(obj) if walk and not (t.refused or t.opcodes) else None
    info = {"format": t.format, "big_endian": getattr(t, "big", False), "globals": t.globals, "refused": t.refused, "opcodes": t.opcodes, "locations": t.locations}
    return d, info


if __name__ == "__main__":
    for p in sys.argv[1:]:
        d, info = read(p)
        print(dumps(d))
        print(dumps(info), file=sys.stderr)
