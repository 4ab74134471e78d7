"""Run PyTorch's own tests of `torch.save` and `torch.load` with scai in place of one of them.

    python tests/upstream_serialization.py save|load|none test_serialization.py \
        [--without PART] [unittest options]

`--without` leaves out the tests with PART in their name; it may be given several times.

The test file comes with PyTorch's source. What scai does not have goes to torch: code of pickles
(``weights_only=False``), other pickle modules, the format before 1.6. Prints how often scai was
called: without a call nothing was judged.
"""

from __future__ import annotations

import argparse
import collections
import importlib.util
import io
import os
import sys
import tempfile
import unittest
from pathlib import Path
from typing import Any

import scai
import torch

calls: collections.Counter[str] = collections.Counter()
torch_save, torch_load = torch.save, torch.load


def save(obj: object, f: Any, pickle_module: Any = None, pickle_protocol: int = 2,
         _use_new_zipfile_serialization: bool = True, **more: Any) -> None:
    if pickle_module is not None or not _use_new_zipfile_serialization or more:
        calls["save: left to torch"] += 1
        if pickle_module is not None:
            more["pickle_module"] = pickle_module
        more["_use_new_zipfile_serialization"] = _use_new_zipfile_serialization
        return torch_save(obj, f, pickle_protocol=pickle_protocol, **more)
    calls["save: scai"] += 1
    if isinstance(f, (str, os.PathLike)):
        return scai.save(obj, f)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file.pt"
        scai.save(obj, path)
        f.write(path.read_bytes())
        f.flush()
    return None


def load(f: Any, map_location: Any = None, pickle_module: Any = None, *,
         weights_only: bool | None = None, mmap: bool | None = None, **more: Any) -> Any:
    if pickle_module is not None or weights_only is False or more:
        calls["load: left to torch"] += 1
        return torch_load(f, map_location, pickle_module, weights_only=weights_only, mmap=mmap,
                          **more)
    calls["load: scai"] += 1
    options: Any = {"mmap": bool(mmap), "allow_unprotected": True}
    if isinstance(f, (str, os.PathLike)):
        return scai.load(f, map_location, **options)
    if not isinstance(f, io.IOBase) and not hasattr(f, "read"):
        return torch_load(f, map_location)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file.pt"
        path.write_bytes(f.read())
        return scai.load(path, map_location, **options)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("which", choices=["save", "load", "none"])
    parser.add_argument("path", type=Path)
    parser.add_argument("--without", action="append", default=[], metavar="PART")
    arguments, options = parser.parse_known_args()
    which, path = arguments.which, arguments.path
    sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    for case in [c for c in vars(module).values() if isinstance(c, type)]:
        for name in [n for n in dir(case) if any(part in n for part in arguments.without)]:
            if name.startswith("test_"):
                setattr(case, name, None)
    if which == "save":
        torch.save = save
    elif which == "load":
        torch.load = load  # type: ignore[assignment]
    program = unittest.main(module=path.stem, argv=[str(path), *options], exit=False)
    print(dict(calls))
    sys.exit(not program.result.wasSuccessful())


if __name__ == "__main__":
    main()
