#!/usr/bin/env python3
"""make.py [ONLY...]: write the golden files of the torch version that runs this script.

    files/torch-<version>/NAME.pt + NAME.json           content, see describe.py
    files/torch-<version>/refused/NAME.pt + NAME.json   {"globals": [...]}: what a safe reader must refuse

Every file comes from the real `torch.save`. What a version cannot save is skipped
and listed at the end. Seeded; the legacy files still hold memory addresses as
storage keys, so those differ between runs.
"""
import collections
import copy
import io
import math
import os
import random
import sys
import warnings

if os.environ.get("PYTHONHASHSEED") != "0":
    os.environ["PYTHONHASHSEED"] = "0"  # order of sets
    os.execv(sys.executable, [sys.executable] + sys.argv)

warnings.simplefilter("ignore")
import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch import nn  # noqa: E402

from describe import describe, dumps  # noqa: E402
import pickle_tree  # noqa: E402

VERSION = torch.__version__.split("+")[0]
V = tuple(int(x) for x in VERSION.split(".")[:2])
FULL = V in ((1, 13), (2, 15))
HERE = os.path.dirname(os.path.abspath(__file__))
OUT = os.path.join(HERE, "files", f"torch-{VERSION}")
ONLY = sys.argv[1:]
torch.set_num_threads(1)

written, skipped, notes = [], [], []
LEGACY = {"_use_new_zipfile_serialization": False}


class Skip(Exception):
    pass


def load(path, weights_only, map_location=None):
    return torch.load(path, map_location=map_location, weights_only=weights_only)


def loaded(name, path, map_location, unsafe=True):
    """(description of what torch loads or None, was weights_only=True accepted)"""
    try:
        return describe(load(path, True, map_location)), True
    except Exception:
        if not unsafe:
            return None, False
    try:
        return describe(load(path, False, map_location)), False
    except Exception as e:
        notes.append(f"{name}: torch {VERSION} cannot load its own file: {type(e).__name__}: {str(e).splitlines()[0][:120]}")
        return None, False


def leave_out(name):
    """What the versions in the middle do without, to keep the corpus small."""
    if name.startswith("refused_"):
        return name[8:] not in ("module", "numpy_array", "numpy_scalar_f32", "datetime", "namedtuple", "bytes_empty", "evil_system", "optimizer", "legacy_module", "protocol4_datetime", "mixed_checkpoint", "nested_tensor", "tensor_subclass")
    if name.startswith("py_"):
        return name not in ("py_all", "py_torch_types", "py_ordered_dict", "py_counter", "py_layouts")
    if name in ("archive_name_spaces", "archive_name_no_extension", "alignment_512", "rng_python", "dtypes_all", "many_storages"):
        return name != "dtypes_all"
    if name.startswith("dtype_"):
        return True
    return name.endswith(("_foreach", "_maximize", "_max", "_initial", "_linear", "_exp"))


def save(name, obj, map_location=None, via=None, context=None, **kw):
    """torch.save `obj` and write its description; `via` = "bytesio" or a file name to save under."""
    if (ONLY and name not in ONLY) or (not FULL and leave_out(name)):
        return
    os.makedirs(OUT, exist_ok=True)
    path = os.path.join(OUT, name + ".pt")
    refused_dir = os.path.join(OUT, "refused")
    bad = os.path.join(refused_dir, name[8:] if name.startswith("refused_") else name)
    for p in (path, path[:-2] + "json", bad + ".pt", bad + ".json"):
        if os.path.exists(p):
            os.remove(p)
    try:
        if via == "bytesio":
            b = io.BytesIO()
            torch.save(obj, b, **kw)
            with open(path, "wb") as f:
                f.write(b.getvalue())
        elif via:
            torch.save(obj, os.path.join(OUT, via), **kw)
            os.rename(os.path.join(OUT, via), path)
        else:
            torch.save(obj, path, **kw)
    except Exception as e:
        if os.path.exists(path):
            os.remove(path)
        skipped.append(f"{name}: save: {type(e).__name__}: {str(e).splitlines()[0][:120]}")
        return
    _, info = pickle_tree.read(path, walk=False)
    if info["refused"] or info["opcodes"]:
        os.makedirs(refused_dir, exist_ok=True)
        os.rename(path, bad + ".pt")
        with open(bad + ".json", "w", encoding="utf-8") as f:
            f.write(dumps({"globals": info["refused"], "opcodes": info["opcodes"], "all_globals": info["globals"]}) + "\n")
        written.append("refused/" + name)
        return
    tree, info = pickle_tree.read(path)
    got, safe = loaded(name, path, map_location)
    d = dict(tree)
    if got is None:
        d["torch_loads"] = False
    elif got != tree:
        d["loaded_differs"] = True
        notes.append(f"{name}: what torch loads is described differently from what the pickle says")
        if os.environ.get("SHOW"):
            print("PICKLE", dumps(tree), "\nLOADED", dumps(got))
    if got is not None and not safe:
        d["weights_only"] = False
    with open(path[:-2] + "json", "w", encoding="utf-8") as f:
        f.write(dumps(d) + "\n")
    written.append(name)


CASES = []


def case(f):
    CASES.append(f)
    return f


# --------------------------------------------------------------------------- tensors
def all_dtypes():
    for n in sorted(dir(torch)):
        d = getattr(torch, n)
        if isinstance(d, torch.dtype) and str(d) == "torch." + n:
            yield n, d


def filled(dtype, *shape):
    """A tensor of any dtype from seeded random bytes (bool: 0 and 1)."""
    if dtype == torch.bool:
        return torch.randint(0, 2, shape).bool()
    n = math.prod(shape) if shape else 1
    item = torch.empty(0, dtype=dtype).element_size()
    raw = torch.randint(0, 256, (n * item,), dtype=torch.uint8)
    return raw.view(dtype).reshape(shape)


@case
def dtypes():
    old, new = {}, {}
    for n, d in all_dtypes():
        if n.startswith("q"):
            continue
        torch.manual_seed(1)
        try:
            x = {"vec": filled(d, 5), "mat": filled(d, 2, 3), "scalar": filled(d), "empty": torch.empty(0, dtype=d)}
        except Exception as e:
            skipped.append(f"dtype_{n}: make: {str(e).splitlines()[0][:100]}")
            continue
        try:
            torch.save(x["vec"], io.BytesIO())
        except Exception as e:
            skipped.append(f"dtype_{n}: save: {type(e).__name__}: {str(e)[:80]}")
            continue
        save(f"dtype_{n}", x)
        # the new dtypes have no storage class of their own and are saved as UntypedStorage + dtype
        (old if d in torch.storage._dtype_to_storage_type_map() else new)[n] = x["vec"]
    save("dtypes_all", {**old, **new})
    save("legacy_dtypes", old, **LEGACY)
    if new:
        save("legacy_dtypes_untyped", new, **LEGACY)  # torch writes these and cannot read them back


@case
def float_values():
    v = [0.0, -0.0, 1.0, -1.0, math.inf, -math.inf, math.nan, 1e-45, 1.1754944e-38, 3.4028235e38, 5e-324, 1.7976931348623157e308]
    save("float_values", {str(d): torch.tensor(v, dtype=torch.float64).to(d) for d in (torch.float64, torch.float32, torch.float16, torch.bfloat16)})


@case
def bare_tensor():
    save("bare_tensor", torch.randn(2, 3))
    save("legacy_bare_tensor", torch.randn(2, 3), **LEGACY)


@case
def views():
    b = torch.arange(24.0).reshape(2, 3, 4)
    x = {
        "base": b,
        "t": b[0].t(),
        "permute": b.permute(2, 0, 1),
        "row1": b[1],
        "elem": b[1, 2, 3],
        "step": b.flatten()[1::5],
        "narrow": b.narrow(2, 1, 2),
        "expand": b[0, 0, :1].expand(3, 5),
        "expand_new": b[0].unsqueeze(1).expand(3, 2, 4),
        "overlap_a": b.flatten()[0:10],
        "overlap_b": b.flatten()[5:15],
        "unfold": b.flatten().unfold(0, 4, 2),
        "diag": b[0].diagonal(),
        "empty_tail": b.flatten()[24:],
        "empty_mid": b[1:1, 1:],
        "as_strided": b.as_strided((3, 3), (1, 2), 4),
    }
    save("views", x)
    save("legacy_views", x, **LEGACY)
    save("view_small_part", torch.arange(300.0)[100:103])
    save("view_before_base", [x["row1"], x["base"]])
    z = torch.arange(12, dtype=torch.float32)
    save("view_complex_real", {"c": torch.view_as_complex(z.view(6, 2).clone()), "r": torch.view_as_real(torch.randn(3, dtype=torch.complex64))})


@case
def memory_formats():
    x = torch.randn(2, 3, 4, 5)
    save("channels_last", {"cl": x.to(memory_format=torch.channels_last), "c": x, "cl3d": torch.randn(1, 2, 2, 3, 2).to(memory_format=torch.channels_last_3d)})


@case
def tied():
    w = torch.randn(4, 3)
    save("tied_same_object", {"a": w, "b": w})
    save("tied_views", {"a": w, "b": w.view(12), "c": w.detach(), "d": w.t()})
    save("legacy_tied", {"a": w, "b": w.view(12), "c": w, "other": torch.randn(2)}, **LEGACY)


@case
def small_shapes():
    save("zero_dim", {"f": torch.tensor(3.5), "i": torch.tensor(-7), "b": torch.tensor(True)})
    e = {"_".join(map(str, s)): torch.empty(s) for s in [(0,), (0, 3), (3, 0), (2, 0, 4), (0, 0, 0)]}
    e["i64"] = torch.empty(0, dtype=torch.int64)
    save("empty_shapes", e)
    save("legacy_empty_shapes", e, **LEGACY)
    b = torch.empty(0, 3)
    save("empty_shared_storage", [b, b.t(), torch.empty(0)])
    save("ones_dims", {"1": torch.randn(1), "1111": torch.randn(1, 1, 1, 1), "odd_stride": torch.randn(3).as_strided((1, 3), (77, 1))})
    save("high_rank", torch.arange(64.0).reshape((2,) * 6).permute(5, 4, 3, 2, 1, 0))
    save("huge_shapes", {"expand": torch.zeros(1).expand(2**40), "empty": torch.empty(0, 2**33), "big_stride": torch.zeros(1).as_strided((1,), (2**50,))})


@case
def conj_neg():
    c = torch.randn(3, 2, dtype=torch.complex64)
    # (a complex tensor and a real view of the same storage cannot go into one file)
    d = torch.randn(3, 2, dtype=torch.complex64)
    both = torch.randn(3, dtype=torch.complex128).conj().imag
    x = {"c": c, "conj": c.conj(), "conj_t": c.conj().t(), "neg": d.conj().imag, "plain_imag": d.imag, "conj128": torch.randn(2, dtype=torch.complex128).conj(), "neg64": both}
    save("conj_neg", x)
    save("legacy_conj_neg", x, **LEGACY)
    save("conj_parameter", nn.Parameter(c.conj()))


@case
def parameters():
    x = torch.randn(2, 2, requires_grad=True)
    save("requires_grad", {"leaf": x, "nonleaf": x * 2, "plain": torch.randn(2), "conj": torch.randn(2, dtype=torch.complex64, requires_grad=True).conj()})
    p, q = nn.Parameter(torch.randn(2, 3)), nn.Parameter(torch.randn(3), requires_grad=False)
    save("parameters", {"p": p, "frozen": q, "int": nn.Parameter(torch.arange(3), requires_grad=False), "data_of_p": p.data, "list": nn.ParameterList([p]).state_dict(), "bf16": nn.Parameter(torch.randn(3).bfloat16())})
    save("legacy_parameters", [p, q], **LEGACY)
    save("bare_parameter", p)
    a = nn.Parameter(torch.randn(2))
    a.tag = "weight"
    a.info = {"rank": 3, "mask": torch.ones(2, dtype=torch.bool)}
    save("parameter_with_attributes", {"a": a, "again": a})
    t = torch.randn(2)
    t.note = "hello"
    t.other = t.detach()
    save("tensor_with_attributes", [t, {"x": t}])
    if hasattr(nn, "Buffer"):
        save("buffer", {"b": nn.Buffer(torch.randn(2)), "np": nn.Buffer(torch.randn(2), persistent=False)})
    m = nn.Linear(2, 2)
    save("module_parameters", list(m.parameters()))
    save("state_dict_keep_vars", m.state_dict(keep_vars=True))


@case
def sparse():
    d = torch.tensor([[0, 1.5, 0, 2], [3, 0, 0, 0], [0, 0, 0, 0], [0, -4, 0, 0]])
    coo = d.to_sparse()
    un = torch.sparse_coo_tensor(torch.tensor([[0, 0, 1], [1, 1, 0]]), torch.tensor([1.0, 2.0, 3.0]), (2, 2))
    x = {"coo": coo, "uncoalesced": un, "hybrid": torch.randn(3, 2).to_sparse(1), "empty": torch.sparse_coo_tensor((3, 3))}
    save("sparse_coo", x)
    save("legacy_sparse_coo", x, **LEGACY)
    save("sparse_coo_grad", coo.clone().requires_grad_())
    for n, f in {
        "csr": lambda: d.to_sparse_csr(),
        "csc": lambda: d.to_sparse_csc(),
        "bsr": lambda: d.to_sparse_bsr((2, 2)),
        "bsc": lambda: d.to_sparse_bsc((2, 2)),
    }.items():
        try:
            save("sparse_" + n, f())
        except Exception as e:
            skipped.append(f"sparse_{n}: {e}")


@case
def quantized():
    x = torch.randn(4, 6)
    ch = (torch.rand(4, dtype=torch.float64) + 0.1, torch.tensor([0, 1, 2, 3]))
    q = {"q8": torch.quantize_per_tensor(x, 0.1, 10, torch.quint8), "s8": torch.quantize_per_tensor(x, 0.05, 0, torch.qint8), "s32": torch.quantize_per_tensor(x, 0.01, 0, torch.qint32)}
    save("quantized_per_tensor", q)
    save("legacy_quantized", q, **LEGACY)
    save("quantized_per_channel", {"pc": torch.quantize_per_channel(x, ch[0], ch[1], 0, torch.qint8), "t": q["q8"].t()})
    fl = torch.quantize_per_channel(x, ch[0].float(), ch[1].float(), 0, torch.quint4x2)
    save("quantized_4bit", fl)
    for n, item in (("quint2x4", torch.quint2x4), ("quint4x2", torch.quint4x2)):
        e = torch._empty_affine_quantized([6], scale=0.5, zero_point=1, dtype=item)
        u = e.untyped_storage() if hasattr(e, "untyped_storage") else e.storage()._storage
        u.fill_(0x1B)
        save("quantized_empty_" + n, e)
    torch.backends.quantized.engine = "fbgemm"
    import torch.ao.quantization as aq

    m = aq.quantize_dynamic(nn.Sequential(nn.Linear(3, 2)), {nn.Linear}, dtype=torch.qint8)
    save("quantized_module_state_dict", m.state_dict())


@case
def meta():
    save("meta", {"m": torch.empty(2, 3, device="meta"), "t": torch.empty(2, 3, device="meta", dtype=torch.int8).t(), "real": torch.ones(2)})
    save("meta_parameter", nn.Linear(2, 3, device="meta").state_dict(keep_vars=True))


@case
def storages():
    def untyped(t):
        return t.untyped_storage() if hasattr(t, "untyped_storage") else t.storage()._storage

    a, b = torch.arange(4.0), torch.arange(3, dtype=torch.int16)
    save("storage_untyped", [untyped(a), torch.UntypedStorage(0), untyped(b)])
    save("storage_typed", {"f": a.storage(), "s": b.storage(), "tensor": a})
    save("legacy_storage_typed", {"f": a.storage(), "tensor": a, "s": b.storage()}, **LEGACY)
    if hasattr(torch, "uint16"):
        u = filled(torch.uint8, 16)
        save("storage_untyped_two_dtypes", [u.view(torch.uint16), u.view(torch.float8_e4m3fn)])
    # a storage whose size is no multiple of the item: new torch refuses to load its own file
    save("storage_odd_bytes", torch.arange(10, dtype=torch.uint8)[:8].view(torch.int32))
    save("many_storages", [torch.full((i % 3 + 1,), float(i)) for i in range(25)])
    save("storage_larger_than_page", {"x": torch.arange(3000, dtype=torch.int32), "y": torch.ones(1)})


# --------------------------------------------------------------------------- modules
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)
        self.bn = nn.BatchNorm2d(2)
        self.fc = nn.Linear(2, 3)

    def forward(self, x):
        return self.fc(self.bn(self.conv(x)).mean((2, 3)))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(5, 3)
        self.out = nn.Linear(3, 5, bias=False)
        self.out.weight = self.emb.weight


class Extra(nn.Linear):
    def get_extra_state(self):
        return {"calls": 3, "window": (1, 2.5), "t": torch.tensor([1, 2])}

    def set_extra_state(self, s):
        pass


@case
def modules():
    n = Net()
    n(torch.randn(2, 1, 5, 5))
    save("module_conv_bn", n.state_dict())
    save("legacy_module_conv_bn", n.state_dict(), **LEGACY)
    save("module_lstm", nn.LSTM(2, 3, num_layers=2, bidirectional=True).state_dict())
    save("module_transformer", nn.TransformerEncoderLayer(4, 2, 8).state_dict())
    save("module_tied_embedding", Tied().state_dict())
    save("module_extra_state", nn.Sequential(Extra(2, 1), nn.ReLU()).state_dict())
    save("module_bf16", Net().bfloat16().state_dict())
    save("module_half", nn.Linear(2, 2).half().state_dict())
    save("module_complex", nn.Linear(2, 2, dtype=torch.complex64).state_dict())
    save("module_empty", nn.ReLU().state_dict())
    try:
        from torch.nn.utils.parametrizations import spectral_norm, weight_norm

        save("module_parametrized", nn.Sequential(weight_norm(nn.Linear(2, 2)), spectral_norm(nn.Linear(2, 2))).state_dict())
    except ImportError:
        save("module_parametrized", nn.Sequential(nn.utils.weight_norm(nn.Linear(2, 2))).state_dict())
    save("module_running_stats_int", nn.BatchNorm1d(3).state_dict())


@case
def averaged():
    from torch.optim import swa_utils as s

    m = nn.Linear(2, 2)
    a = s.AveragedModel(m)
    a.update_parameters(m)
    save("averaged_model", a.state_dict())
    if hasattr(s, "get_ema_multi_avg_fn"):
        e = s.AveragedModel(nn.BatchNorm1d(2), multi_avg_fn=s.get_ema_multi_avg_fn(0.9), use_buffers=True)
        e.update_parameters(nn.BatchNorm1d(2))
        save("averaged_model_ema", e.state_dict())
    o = torch.optim.SGD(m.parameters(), lr=0.1)
    w = s.SWALR(o, swa_lr=0.05, anneal_epochs=3)
    for _ in range(2):
        o.step()
        w.step()
    save("sched_SWALR", w.state_dict())


# --------------------------------------------------------------------------- optimizers
def stepped(cls, params=None, steps=2, **kw):
    torch.manual_seed(2)
    if cls.__name__ == "SparseAdam":
        m = nn.Embedding(4, 2, sparse=True)
        o = cls(list(m.parameters()), **kw)
        for i in range(steps):
            o.zero_grad()
            m(torch.tensor([i, 1])).sum().backward()
            o.step()
        return o, m
    m = nn.Linear(3, 2, bias=cls.__name__ != "Muon")
    o = cls(params(m) if params else m.parameters(), **kw)
    x, y = torch.randn(4, 3), torch.randn(4, 2)

    def closure():
        o.zero_grad()
        loss = ((m(x) - y) ** 2).mean()
        loss.backward()
        return loss

    for _ in range(steps):
        o.step(closure)
    return o, m


VARIANTS = {
    "SGD": {"plain": {}, "momentum": dict(momentum=0.9), "nesterov": dict(momentum=0.9, nesterov=True, weight_decay=1e-2), "foreach": dict(momentum=0.9, foreach=True), "fused": dict(momentum=0.9, fused=True)},
    "Adam": {"amsgrad": dict(amsgrad=True), "foreach": dict(foreach=True), "fused": dict(fused=True), "maximize": dict(maximize=True), "capturable": dict(capturable=True), "tensor_lr": dict(lr=torch.tensor(0.01), foreach=False)},
    "AdamW": {"amsgrad": dict(amsgrad=True), "fused": dict(fused=True), "foreach_amsgrad": dict(foreach=True, amsgrad=True)},
    "Adagrad": {"fused": dict(fused=True), "initial": dict(initial_accumulator_value=0.5)},
    "RMSprop": {"centered": dict(centered=True, momentum=0.5)},
    "LBFGS": {"wolfe": dict(line_search_fn="strong_wolfe", max_iter=3)},
    "NAdam": {"decoupled": dict(decoupled_weight_decay=True)},
    "RAdam": {"decoupled": dict(decoupled_weight_decay=True)},
    "Adafactor": {"beta": dict(beta2_decay=-0.5)},
    "Muon": {"plain": dict(nesterov=False)},
}
NEEDS_LR = {"SGD": dict(lr=0.1), "LBFGS": dict(max_iter=4), "Muon": dict(lr=0.1)}


@case
def optimizers():
    for n in sorted(dir(torch.optim)):
        cls = getattr(torch.optim, n)
        if not (isinstance(cls, type) and issubclass(cls, torch.optim.Optimizer)) or cls is torch.optim.Optimizer:
            continue
        base = NEEDS_LR.get(n, {})
        for v, kw in [("", {})] + sorted(VARIANTS.get(n, {}).items()):
            if n == "SGD" and not v:
                continue
            name = f"optim_{n}" + (f"_{v}" if v else "")
            try:
                o, _ = stepped(cls, **{**base, **kw})
            except Exception as e:
                skipped.append(f"{name}: {type(e).__name__}: {str(e).splitlines()[0][:100]}")
                continue
            save(name, o.state_dict())
    o, m = stepped(torch.optim.AdamW, params=lambda m: [{"params": [m.weight], "lr": 0.01, "name": "w"}, {"params": [m.bias], "weight_decay": 0.0}], lr=0.1)
    save("optim_groups", o.state_dict())
    save("legacy_optim_groups", o.state_dict(), **LEGACY)
    try:
        o, m = stepped(torch.optim.AdamW, params=lambda m: list(m.named_parameters()), lr=0.1)
        save("optim_named_parameters", o.state_dict())
    except Exception as e:
        skipped.append(f"optim_named_parameters: {type(e).__name__}: {str(e)[:100]}")
    save("optim_fresh", stepped(torch.optim.Adam, steps=0)[0].state_dict())
    save("optim_with_scheduler", _opt_sched())


def _opt_sched():
    o, _ = stepped(torch.optim.SGD, lr=0.1, momentum=0.9)
    s = torch.optim.lr_scheduler.StepLR(o, 1)
    o.step()
    s.step()
    return {"optimizer": o.state_dict(), "scheduler": s.state_dict()}


# --------------------------------------------------------------------------- schedulers
class Decay:
    def __init__(self):
        self.rate, self.steps = 0.5, [1, 2]

    def __call__(self, epoch):
        return self.rate**epoch


@case
def schedulers():
    L = torch.optim.lr_scheduler
    new = lambda: torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1, momentum=0.9)  # noqa: E731
    two = lambda o: [L.ConstantLR(o, factor=0.1, total_iters=2), L.ExponentialLR(o, gamma=0.9)]  # noqa: E731
    make = {
        "StepLR": lambda o: L.StepLR(o, 2),
        "MultiStepLR": lambda o: L.MultiStepLR(o, [1, 2, 2, 5]),
        "CosineAnnealingLR": lambda o: L.CosineAnnealingLR(o, 10),
        "OneCycleLR": lambda o: L.OneCycleLR(o, max_lr=0.3, total_steps=10),
        "OneCycleLR_linear": lambda o: L.OneCycleLR(o, max_lr=[0.3], epochs=2, steps_per_epoch=5, anneal_strategy="linear", three_phase=True),
        "LambdaLR_function": lambda o: L.LambdaLR(o, lambda e: 0.5**e),
        "LambdaLR_object": lambda o: L.LambdaLR(o, Decay()),
        "MultiplicativeLR": lambda o: L.MultiplicativeLR(o, lambda e: 0.5),
        "ReduceLROnPlateau": lambda o: L.ReduceLROnPlateau(o, patience=1),
        "ReduceLROnPlateau_max": lambda o: L.ReduceLROnPlateau(o, mode="max", threshold_mode="abs"),
        "SequentialLR": lambda o: L.SequentialLR(o, two(o), milestones=[2]),
        "ChainedScheduler": lambda o: L.ChainedScheduler(two(o)),
        "CyclicLR": lambda o: L.CyclicLR(o, 0.01, 0.1),
        "CyclicLR_exp": lambda o: L.CyclicLR(o, 0.01, 0.1, mode="exp_range", gamma=0.9),
        "CosineAnnealingWarmRestarts": lambda o: L.CosineAnnealingWarmRestarts(o, 3),
        "LinearLR": lambda o: L.LinearLR(o),
        "ExponentialLR": lambda o: L.ExponentialLR(o, 0.9),
        "PolynomialLR": lambda o: L.PolynomialLR(o, 4, power=2.0),
        "ConstantLR": lambda o: L.ConstantLR(o),
    }
    for n, f in make.items():
        try:
            o = new()
            s = f(o)
            for i in range(3):
                o.step()
                s.step(1.0 + i) if "Plateau" in n else s.step()
            save("sched_" + n, s.state_dict())
        except Exception as e:
            skipped.append(f"sched_{n}: {type(e).__name__}: {str(e)[:100]}")
    base = getattr(L, "LRScheduler", None) or L._LRScheduler
    known = {n.split("_")[0] for n in make} | {"LRScheduler", "", "SWALR"}
    for n in dir(L):
        c = getattr(L, n)
        if isinstance(c, type) and issubclass(c, base) and n not in known and not n.startswith("_"):
            notes.append(f"scheduler {n} has no case")


@case
def scaler_and_rng():
    save("grad_scaler_disabled", torch.cuda.amp.GradScaler(enabled=False).state_dict())
    try:
        s = torch.amp.GradScaler("cpu", init_scale=1024.0)
        p = nn.Parameter(torch.ones(2))
        o = torch.optim.SGD([p], lr=0.1)
        s.scale((p * 2).sum()).backward()
        s.step(o)
        s.update()
        save("grad_scaler", s.state_dict())
    except Exception as e:
        skipped.append(f"grad_scaler as object ({type(e).__name__}); hand-made dict instead")
        save("grad_scaler", {"scale": 65536.0, "growth_factor": 2.0, "backoff_factor": 0.5, "growth_interval": 2000, "_growth_tracker": 0})
    random.seed(3)
    random.gauss(0, 1)
    g = torch.Generator()
    g.manual_seed(2**63)
    save("rng_torch", {"global": torch.get_rng_state(), "generator": g.get_state()})
    save("rng_python", random.getstate())
    save("rng_numpy_pcg64", np.random.Generator(np.random.PCG64(5)).bit_generator.state)
    ph = np.random.Philox(5).state
    save("refused_numpy_philox_state", ph)  # numpy arrays inside: refused


# --------------------------------------------------------------------------- Python values
INTS = [0, 1, -1, 2, 127, 128, -128, -129, 255, 256, -255, -256, 65535, 65536, 2**31 - 1, 2**31, -(2**31), -(2**31) - 1, 2**32, 2**62, 2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 2**64, -(2**64), 2**127, -(2**127), 2**200, 2**2039 - 1, -(2**2039), 2**1000 + 12345]
SCALARS = {
    "ints": INTS,
    "floats": [0.0, -0.0, 1.0, -1.5, math.inf, -math.inf, math.nan, 5e-324, 2.2250738585072014e-308, 1.7976931348623157e308, 0.1, math.pi],
    "bools": [True, False],
    "none": None,
    "complex": [1 + 2j, complex(-0.0, math.inf), 0j],
    "strs": ["", "a", "naïve", "日本語", "👩‍🚀 𝔘", "\0 nul", "line\nbreak\ttab\\back\"quote'", "\x7f\x80\xff\u2028\ufeff\uffff", "x" * 300],
    "surrogates": ["\ud800", "a\udc80b", "\udfff\ud800"],
    "bytes": [b"a", bytes(range(256)), b"\xff\xfe", b"z" * 300],
    "bytearrays": [bytearray(b"abc"), bytearray(range(250, 256))],
    "tuples": [(), (1,), (1, "b"), (1, 2, 3), (1, 2, 3, 4), (1, 2, 3, 4, 5), ((), ((),), (((1,),),))],
    "sets": [set(), {1}, {3, 1, 2}, {"b", "a", "c"}, {(1, 2), (0, "x")}, {None, True, 2.5}],
    "dict_keys": {1: "int", (1, "a"): "tuple", 2.5: "float", None: "none", True: "bool replaces 1", "s": "str", -(2**70): "long", ("n", (1, ())): "nested"},
    "nested": {"a": [{"b": ({"c": [1, [2, [3, {"d": ()}]]]},)}], "e": [[], {}, (), set()]},
}


@case
def scalars():
    for n, v in SCALARS.items():
        save("py_" + n, v)
    save("py_all", SCALARS)
    save("legacy_py_all", SCALARS, **LEGACY)
    save("py_bytearray_empty", bytearray())
    save("py_int_root", 12345678901234567890)
    save("py_str_root", "just a string")
    save("py_empty_dict", {})
    save("legacy_py_empty_dict", {}, **LEGACY)
    save("py_int_long4", {"too_long_for_LONG1": 2**2040, "negative": -(2**3000)})
    save("py_counter", {"c": collections.Counter("abracadabra"), "ints": collections.Counter({3: 1, 1: 0, 2: -5}), "empty": collections.Counter()})
    od = collections.OrderedDict([("z", 1), ("a", torch.ones(1)), (3, None)])
    wa = collections.OrderedDict(x=1)
    wa._metadata = collections.OrderedDict([("", {"version": 1})])
    wa.custom = [1, 2]
    save("py_ordered_dict", {"plain": od, "attrs": wa, "empty": collections.OrderedDict()})
    save("py_torch_types", {
        "size": [torch.Size([]), torch.Size([2, 3]), torch.zeros(4, 5).shape, torch.Size([2**40])],
        "dtype": [torch.float32, torch.bfloat16, torch.int64, torch.bool, torch.complex64, torch.quint8],
        "device": [torch.device("cpu"), torch.device("cuda:1"), torch.device("cuda"), torch.device("meta")],
    })  # fmt: skip
    save("py_layouts", [torch.strided, torch.sparse_coo, torch.sparse_csr])
    save("py_qschemes", [torch.per_tensor_affine, torch.per_channel_affine])
    deep = []
    for _ in range(30):
        deep = [deep]
    save("py_deep", deep)
    save("py_long_list", list(range(2500)))
    save("py_many_keys", {f"key{i:04d}": i for i in range(1200)})
    save("py_memo_long", {f"layer.{i}": torch.full((1,), i % 7, dtype=torch.uint8) for i in range(80)})


@case
def shared():
    inner, t = [1, 2, "three"], torch.ones(2)
    d = {"k": inner}
    save("shared_containers", {"a": inner, "b": inner, "c": d, "d": d, "e": (inner, d), "t1": t, "t2": [t], "str": ["same string", "same string"]})
    odd = collections.OrderedDict(a=1)
    tup = (1, 2, 3, 4)
    save("shared_more", [tup, tup, odd, odd, {1, 2}, b"xy", b"xy", 2**70, 2**70])


# --------------------------------------------------------------------------- whole checkpoints
def checkpoint():
    torch.manual_seed(7)
    random.seed(7)
    m = Net()
    o = torch.optim.AdamW(m.parameters(), lr=1e-3)
    s = torch.optim.lr_scheduler.CosineAnnealingLR(o, 10)
    losses = []
    for _ in range(2):
        o.zero_grad()
        loss = (m(torch.randn(2, 1, 5, 5)) ** 2).mean()
        loss.backward()
        o.step()
        s.step()
        losses.append(float(loss.detach()))
    return {
        "iteration": 2,
        "model_state_dict": m.state_dict(),
        "optimizer_state_dict": o.state_dict(),
        "training_stats": {"loss": losses, "best": min(losses), "lr": s.get_last_lr(), "epoch": 0, "tokens": 2**40, "nan_steps": 0},
        "metadata": {"run": "golden", "tags": ["a", "b"], "config": {"hidden": 3, "dropout": 0.1, "bias": True, "parent": None}, "torch": VERSION},
        "timestamp": "2024-05-01T12:34:56.789012",
        "rng_state": {"torch": torch.get_rng_state(), "python": random.getstate()},
        "scheduler_state_dict": s.state_dict(),
    }


@case
def checkpoints():
    c = checkpoint()
    save("checkpoint", c)
    save("legacy_checkpoint", c, **LEGACY)
    save("checkpoint_bytesio", {k: c[k] for k in ("iteration", "model_state_dict", "timestamp")}, via="bytesio")
    save("legacy_bytesio", {k: c[k] for k in ("iteration", "model_state_dict")}, via="bytesio", **LEGACY)


SMALL = None


def small():
    torch.manual_seed(4)
    o, m = stepped(torch.optim.Adam)
    return {"model": m.state_dict(), "optim": o.state_dict(), "step": 2, "bytes": b"\x00\xff", "s": "é", "big": 2**80, "set": {1, 2}, "tuple": (1, 2, 3, 4), "f": 0.1, "long": "y" * 300, "none": None, "cplx": 1j, "ba": bytearray(b"q")}


@case
def writer_options():
    x = small()
    for p in (1, 3, 4, 5):
        save(f"protocol{p}", x, pickle_protocol=p)
    save("legacy_protocol4", x, pickle_protocol=4, **LEGACY)
    t = {"a": torch.arange(5.0), "b": torch.ones(2, 2)}
    save("protocol4_tensors_only", t, pickle_protocol=4)
    save("archive_name_dots", t, via="my.model.v2.pt")
    save("archive_name_no_extension", t, via="weights")
    save("archive_name_unicode", t, via="модель_✓.pt")
    save("archive_name_spaces", t, via="a b (1).ckpt")
    save("archive_name_long", t, via="n" * 120 + ".pt")
    if V >= (2, 1):
        save("no_byteorder_record", t, _disable_byteorder_record=True)
        big = {"f": torch.arange(5.0), "i": torch.arange(3), "b": torch.tensor([True, False]), "h": torch.arange(4).half(), "c": torch.randn(2, dtype=torch.complex64)}
        saved = copy.deepcopy(big)
        for v in saved.values():
            v.untyped_storage().byteswap(v.dtype)
        try:
            sys.byteorder = "big"  # what a big-endian machine writes
            save_big(saved)
        finally:
            sys.byteorder = "little"
    if hasattr(torch.serialization, "set_crc32_options"):
        torch.serialization.set_crc32_options(False)
        try:
            save("crc32_off", x)
        finally:
            torch.serialization.set_crc32_options(True)
    try:
        from torch.utils.serialization import config
    except ImportError:
        config = None
    if config is not None and "save.storage_alignment" in getattr(config, "_config", {}):
        for a in (4096, 512):
            config.save.storage_alignment = a
            save(f"alignment_{a}", t)
        config.save.storage_alignment = 64

    locs = iter(["cuda:0", "cuda:1", "mps"])
    real = torch.serialization.location_tag
    try:  # exactly what a GPU machine writes: only the location string differs
        torch.serialization.location_tag = lambda s: next(locs)
        save("location_cuda", {"a": torch.arange(3.0), "b": torch.ones(2), "c": torch.zeros(1)}, map_location="cpu")
        locs = iter(["cuda:0", "cuda:1", "mps"])
        save("legacy_location_cuda", {"a": torch.arange(3.0), "b": torch.ones(2), "c": torch.zeros(1)}, map_location="cpu", **LEGACY)
    finally:
        torch.serialization.location_tag = real


def save_big(saved):
    # `loaded` must run with the true byte order, so hide it only during torch.save
    real = torch.save

    def wrapped(*a, **kw):
        try:
            return real(*a, **kw)
        finally:
            sys.byteorder = "little"

    torch.save = wrapped
    try:
        save("byteorder_big", saved)
    finally:
        torch.save = real


# --------------------------------------------------------------------------- refused
Point = collections.namedtuple("Point", "x y")


class Evil:
    def __init__(self, func, *args):
        self.r = (func, args)

    def __reduce__(self):
        return self.r


class SubTensor(torch.Tensor):
    pass


class Color(__import__("enum").Enum):
    RED = 1


@__import__("dataclasses").dataclass
class Config:
    lr: float = 0.1


@case
def refused():
    import argparse
    import datetime
    import decimal
    import fractions
    import functools
    import json
    import pathlib
    import types
    import uuid

    t = torch.ones(2)
    bad = {
        "module": nn.Linear(2, 2),
        "module_own_class": Net(),
        "optimizer": stepped(torch.optim.Adam)[0],
        "numpy_array": np.arange(3.0),
        "numpy_scalar_f32": np.float32(1.5),
        "numpy_int64": np.int64(3),
        "numpy_rng_state": np.random.RandomState(0).get_state(),
        "datetime": datetime.datetime(2024, 5, 1, 12, 0),
        "timedelta": datetime.timedelta(1),
        "defaultdict": collections.defaultdict(list, a=[1]),
        "deque": collections.deque([1, 2], maxlen=3),
        "path": pathlib.PurePosixPath("/tmp/x"),
        "namedtuple": Point(1, 2),
        "frozenset": frozenset([1, 2]),
        "bytes_empty": b"",
        "function": json.dumps,
        "builtin_function": len,
        "namespace": argparse.Namespace(lr=0.1, seed=1),
        "decimal": decimal.Decimal("1.5"),
        "fraction": fractions.Fraction(1, 3),
        "uuid": uuid.UUID(int=5),
        "range": range(3),
        "slice": slice(1, 2),
        "type": int,
        "ellipsis": ...,
        "enum": Color.RED,
        "dataclass": Config(),
        "simple_namespace": types.SimpleNamespace(a=1),
        "partial": functools.partial(int, base=2),
        "tensor_subclass": torch.ones(2).as_subclass(SubTensor),
        "evil_system": Evil(os.system, "true"),
        "evil_eval": {"weights": t, "x": Evil(eval, "1+1")},
        "evil_getattr": Evil(getattr, 3, "real"),
        "evil_torch_load": Evil(torch.load, "/nonexistent"),
        "evil_in_key": {("k", Evil(eval, "2")): t},
        "mixed_checkpoint": {"model": nn.Linear(2, 1).state_dict(), "args": argparse.Namespace(x=1), "date": datetime.date(2024, 5, 1), "np": np.float64(2.0)},
    }
    try:
        bad["torch_generator"] = torch.Generator()
        bad["nested_tensor"] = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])
    except Exception as e:
        skipped.append(f"refused nested_tensor: {e}")
    for n, v in bad.items():
        save("refused_" + n, {"value": v, "fine": 1} if n not in ("module", "numpy_array") else v)
    real = torch.serialization.get_source_lines_and_file
    try:  # legacy files carry the source and its path: keep this machine's paths out
        torch.serialization.get_source_lines_and_file = lambda *a, **k: (["class X: pass\n"], 1, "golden.py")
        save("refused_legacy_module", Net(), **LEGACY)
    finally:
        torch.serialization.get_source_lines_and_file = real
    save("refused_legacy_datetime", {"d": datetime.datetime(2024, 5, 1), "t": t}, **LEGACY)
    save("refused_protocol4_datetime", {"d": datetime.datetime(2024, 5, 1), "t": t}, pickle_protocol=4)
    save("refused_protocol4_frozenset", {"d": frozenset([1]), "t": t}, pickle_protocol=4)
    if V >= (2, 15):
        try:
            import tempfile

            import torch.distributed as dist
            from torch.distributed.device_mesh import init_device_mesh
            from torch.distributed.tensor import Shard, distribute_tensor

            with tempfile.TemporaryDirectory() as d:
                dist.init_process_group("gloo", init_method=f"file://{d}/s", rank=0, world_size=1)
                save("refused_dtensor", {"w": distribute_tensor(torch.ones(2), init_device_mesh("cpu", (1,)), [Shard(0)])})
                dist.destroy_process_group()
        except Exception as e:
            skipped.append(f"refused_dtensor: {type(e).__name__} {str(e)[:100]}")


def main():
    if not ONLY:
        import shutil

        shutil.rmtree(OUT, ignore_errors=True)
    for f in CASES:
        torch.manual_seed(0)
        random.seed(0)
        np.random.seed(0)
        try:
            f()
        except Exception as e:
            if os.environ.get("TRACE"):
                raise
            skipped.append(f"CASE {f.__name__}: {type(e).__name__}: {str(e).splitlines()[0][:160] if str(e) else ''}")
    for s in skipped:
        print("skipped", s)
    for n in notes:
        print("note   ", n)
    for n in written:
        if n.startswith("refused/") and not n.startswith("refused/refused_"):
            print("note    landed in refused/:", n)
        if n.startswith("refused_"):
            raise SystemExit(f"NOT refused: {n}")
    size = sum(os.path.getsize(os.path.join(d, f)) for d, _, fs in os.walk(OUT) for f in fs)
    print(f"torch {VERSION}: {len(written)} files ({sum(n.startswith('refused/') for n in written)} refused), {size} bytes")


if __name__ == "__main__":
    main()
