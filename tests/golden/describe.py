#!/usr/bin/env python3
"""describe(obj) -> dict: a framework-neutral description of a loaded checkpoint.

Runs on torch 1.13 .. 2.15. See README.md for the node types. The description is
meant to equal what the pickle in the file says, so a reader that never imports
torch (the Rust one, or pickle_tree.py here) can produce the same JSON.

    python describe.py FILE.pt      print the description of torch.load(FILE.pt)
"""
import collections
import hashlib
import json
import struct
import sys

__all__ = ["describe", "dumps", "Walker"]


def dumps(x):
    """The one JSON text used everywhere here (files, sorting of sets)."""
    return json.dumps(x, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def f64(x):
    return struct.pack(">d", x).hex()


def text(s):
    try:
        s.encode("utf-8")
    except UnicodeEncodeError:
        return {"t": "wtf8", "v": s.encode("utf-8", "surrogatepass").hex()}
    return {"t": "str", "v": s}


class Walker:
    """Plain Python values. Subclasses say what else there is (`leaf`)."""

    def __init__(self):
        self.storages = []
        self.numbers = {}
        self.keep = []  # keeps temporaries alive: identity is by address

    def storage_number(self, key, data):
        """`key` identifies the storage, `data()` gives its bytes."""
        n = self.numbers.get(key)
        if n is None:
            n = self.numbers[key] = len(self.storages)
            raw = data()
            self.storages.append({"nbytes": len(raw), "sha256": hashlib.sha256(raw).hexdigest()})
        return n

    def pairs(self, d):
        return [[self.node(k), self.node(v)] for k, v in d.items()]

    def items(self, seq):
        return [self.node(x) for x in seq]

    def node(self, x):
        c = type(x)
        if x is None:
            return {"t": "none"}
        if c is bool:
            return {"t": "bool", "v": x}
        if c is int:
            return {"t": "int", "v": str(x)}
        if c is float:
            return {"t": "float", "v": f64(x)}
        if c is complex:
            return {"t": "complex", "re": f64(x.real), "im": f64(x.imag)}
        if c is str:
            return text(x)
        if c is bytes:
            return {"t": "bytes", "v": x.hex()}
        if c is bytearray:
            return {"t": "bytearray", "v": x.hex()}
        if c is list:
            return {"t": "list", "v": self.items(x)}
        if c is tuple:
            return {"t": "tuple", "v": self.items(x)}
        if c is set:
            return {"t": "set", "v": sorted(self.items(x), key=dumps)}
        if c is dict:
            return {"t": "dict", "v": self.pairs(x)}
        if c is collections.OrderedDict:
            v = self.pairs(x)
            attrs = {"t": "dict", "v": self.pairs(x.__dict__)} if x.__dict__ else None
            return {"t": "odict", "v": v, "attrs": attrs}
        if c is collections.Counter:
            return {"t": "counter", "v": self.pairs(x)}
        return self.leaf(x)

    def leaf(self, x):
        raise TypeError(f"cannot describe {type(x).__module__}.{type(x).__qualname__}")

    def run(self, obj):
        return {"root": self.node(obj), "storages": self.storages}


class TorchWalker(Walker):
    def __init__(self, data=True):
        super().__init__()
        import torch

        self.torch = torch
        self.data = data  # False: shapes only (fake tensors), no bytes are read

    def untyped(self, s):
        """TypedStorage / UntypedStorage -> UntypedStorage (its name moved between versions)."""
        if isinstance(s, self.torch.storage.TypedStorage):
            return s._untyped_storage if hasattr(s, "_untyped_storage") else s._storage
        return s

    def storage(self, s):
        torch = self.torch
        u = self.untyped(s)
        self.keep.append(u)
        n = u.nbytes()
        key = ("ptr", u.data_ptr()) if n > 0 and self.data else ("cdata", u._cdata)

        def raw():
            if not self.data or n == 0:
                return b""
            return torch.empty(0, dtype=torch.uint8).set_(u, 0, (n,), (1,)).numpy().tobytes()

        return self.storage_number(key, raw)

    def tensor(self, t):
        torch = self.torch
        s = t.untyped_storage() if hasattr(t, "untyped_storage") else t.storage()
        return {
            "t": "tensor",
            "dtype": str(t.dtype).replace("torch.", ""),
            "shape": [int(i) for i in t.shape],
            "stride": [int(i) for i in t.stride()],
            "offset": int(t.storage_offset()),
            "storage": self.storage(s),
            "requires_grad": bool(t.requires_grad),
            "parameter": isinstance(t, torch.nn.Parameter),
            "conj": bool(t.is_conj()),
            "neg": bool(t.is_neg()),
        }

    def leaf(self, x):
        torch = self.torch
        if isinstance(x, torch.Tensor):
            plain = (
                type(x) in (torch.Tensor, torch.nn.Parameter)
                and x.layout == torch.strided
                and not x.is_quantized
                and x.device.type != "meta"
                and not x.__dict__
            )
            if plain or not self.data:
                return self.tensor(x)
            r = x.__reduce_ex__(2)
            self.keep.append(r)
            return {
                "t": "call",
                "global": f"{r[0].__module__}.{r[0].__qualname__}",
                "args": self.items(r[1]),
                "state": self.node(r[2]) if len(r) > 2 and r[2] is not None else None,
            }
        if isinstance(x, torch.storage.TypedStorage):
            return {"t": "storage", "dtype": str(x.dtype).replace("torch.", ""), "storage": self.storage(x)}
        if torch.is_storage(x):
            return {"t": "storage", "dtype": "uint8", "storage": self.storage(x)}
        if isinstance(x, torch.Size):
            return {"t": "size", "v": [int(i) for i in x]}
        if isinstance(x, torch.dtype):
            return {"t": "dtype", "v": str(x).replace("torch.", "")}
        if isinstance(x, torch.device):
            return {"t": "device", "v": str(x)}
        if isinstance(x, torch.layout):
            return {"t": "layout", "v": str(x)}
        if isinstance(x, torch.qscheme):
            return {"t": "qscheme", "v": str(x).replace("torch.", "")}
        if isinstance(x, type) or callable(x):
            return {"t": "global", "v": f"{x.__module__}.{x.__qualname__}"}
        return super().leaf(x)


def describe(obj, data=True):
    """The description of a loaded object; `data=False` skips the bytes (fake tensors)."""
    return TorchWalker(data).run(obj)


if __name__ == "__main__":
    import torch

    kw = {"map_location": "cpu"}
    try:
        o = torch.load(sys.argv[1], weights_only=True, **kw)
    except Exception as e:
        print(f"weights_only=True: {str(e).splitlines()[0]}; loading without", file=sys.stderr)
        o = torch.load(sys.argv[1], weights_only=False, **kw)
    print(dumps(describe(o)))
