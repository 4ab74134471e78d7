#!/usr/bin/env python3
"""make_safetensors.py: write files/safetensors/*.safetensors with the safetensors package, and what is in them.

    flat.safetensors   save_file: every dtype that both know, an empty and a 0-dim tensor, metadata
    tied.safetensors   save_model: a tied weight, stored once

NAME.json: {"tensors": {name: {"dtype", "shape", "sha256"}}, "metadata": {...}}
"""
import hashlib
import json
import os

import torch
from safetensors import safe_open
from safetensors.torch import save_file, save_model
from torch import nn

OUT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "files", "safetensors")
torch.manual_seed(0)

DTYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
    torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.bool, torch.complex64, torch.float8_e4m3fn,
    torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz,
]


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("steps", torch.tensor(7))


def describe(path):
    tensors = {}
    with safe_open(path, "pt") as file:
        for name in file.keys():
            tensor = file.get_tensor(name)
            raw = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
            tensors[name] = {
                "dtype": str(tensor.dtype).removeprefix("torch."),
                "shape": list(tensor.shape),
                "sha256": hashlib.sha256(raw).hexdigest(),
            }
        metadata = file.metadata()
    with open(os.path.splitext(path)[0] + ".json", "w") as out:
        json.dump({"tensors": tensors, "metadata": metadata}, out, sort_keys=True, separators=(",", ":"))
        out.write("\n")


def main():
    os.makedirs(OUT, exist_ok=True)
    flat = {}
    for dtype in DTYPES:
        name = str(dtype).removeprefix("torch.")
        values = torch.randint(0, 2, (2, 3)) if dtype == torch.bool else torch.randn(2, 3).mul(20).abs()
        flat[f"dtype.{name}"] = values.to(dtype)
    flat["empty"] = torch.empty(0, 4)
    flat["scalar"] = torch.tensor(2.5)
    flat["größe.重み"] = torch.arange(4.0)
    path = os.path.join(OUT, "flat.safetensors")
    save_file(flat, path, metadata={"format": "pt", "note": "made by the safetensors package"})
    describe(path)
    path = os.path.join(OUT, "tied.safetensors")
    save_model(Tied(), path)
    describe(path)


main()
