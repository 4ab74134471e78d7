"""Writes TorchScript archives and what is in them to files/torchscript/.

    python make_script.py

NAME.jit is what torch.jit.save wrote, without the records that say where on this machine the source is. NAME.json has
each tensor of it, as torch.jit.load gives it: its name, dtype, shape, and its bytes as hexadecimal digits. A model's
constants have the names that its code gives them.
"""

import json
import pathlib
import warnings
import zipfile

import torch
from torch import nn

OUT = pathlib.Path(__file__).parent / "files" / "torchscript"


class Backbone(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 2, 3, padding="same")
        self.bn = nn.BatchNorm2d(2)
        self.names = ["a", "b"]

    def forward(self, x):
        return self.bn(self.conv1(x))


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = Backbone()
        self.layers = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
        self.head = nn.Linear(2, 3, bias=False)
        self.tied = self.head.weight
        self.table = torch.arange(5)
        self.pair = (torch.ones(1), torch.zeros(2))
        self.by_name = {"k": torch.full((3,), 0.5)}
        self.register_buffer("none", None)
        self.register_buffer("scratch", torch.zeros(2), persistent=False)

    def forward(self, x):
        y = self.backbone(x).mean((2, 3))
        for layer in self.layers:
            y = layer(y)
        return self.head(y)


def tensors(value, name):
    """The tensors in a value, with their names."""
    if isinstance(value, torch.Tensor):
        return {name: value}
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, (list, tuple)) else ()
    return {k: v for key, item in items for k, v in tensors(item, f"{name}.{key}").items()}


def contents(path):
    model = torch.jit.load(path)
    found = dict(model.state_dict(keep_vars=True))
    for name in ("table", "pair", "by_name", "scratch"):
        if hasattr(model, name):
            found |= tensors(getattr(model, name), name)
    for name, tensor in getattr(model, "code_with_constants", (None, None))[1].const_mapping.items():
        found[f"CONSTANTS.{name}"] = tensor
    return {
        name: [str(t.dtype)[len("torch.") :], list(t.shape), bytes(t.detach().flatten().view(torch.uint8).tolist()).hex()]
        for name, t in sorted(found.items())
    }


def without_paths(path):
    """Takes out the records with the places of source lines, which torch.jit.load does without."""
    with zipfile.ZipFile(path) as archive:
        records = [(record, archive.read(record)) for record in archive.infolist()]
    with zipfile.ZipFile(path, "w") as archive:
        for record, content in records:
            if not record.filename.endswith(".debug_pkl"):
                archive.writestr(zipfile.ZipInfo(record.filename), content, record.compress_type)


def main():
    warnings.simplefilter("ignore")
    OUT.mkdir(exist_ok=True)
    torch.manual_seed(0)
    model = Model().eval()
    scripted = torch.jit.script(model)
    traced = torch.jit.trace(model, torch.ones(1, 1, 4, 4))
    made = {"scripted": scripted, "traced": traced, "frozen": torch.jit.freeze(scripted)}
    for name, script in made.items():
        path = OUT / f"{name}.jit"
        torch.jit.save(script, path)
        without_paths(path)
        path.with_suffix(".json").write_text("{\n" + ",\n".join(f"{json.dumps(name)}: {json.dumps(tensor)}" for name, tensor in contents(path).items()) + "\n}" + "\n")


main()
