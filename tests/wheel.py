"""Installs a wheel in an empty environment of each Python and uses it, without Rust on the path.

    python tests/wheel.py dist/scai-*.whl --python python3.10 --python python3.13 [--torch]

Without `--torch` only what works without PyTorch is tried; with it a training is saved, killed and
resumed. Prints a line for each Python: seconds to install, megabytes of the wheel and installed, seconds
to import.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WITHOUT_TORCH = """
import io, pathlib, scai, subprocess, sys
assert scai.__version__
scai.save({"a": [1, 2.5, "x"], "path": pathlib.Path("a/b")}, "plain.pt")
assert scai.load("plain.pt") == {"a": [1, 2.5, "x"], "path": pathlib.Path("a/b")}
assert scai.verify("plain.pt")
manager = scai.CheckpointManager("run", keep_last=2)
for iteration in range(4):
    manager.save_checkpoint({}, iteration=iteration, training_stats={"loss": 1.0 / (iteration + 1)})
assert manager.all_iterations() == [2, 3] and manager.best_checkpoint("loss:min").endswith("_3.pt")
assert "torch" not in sys.modules
"""

WITH_TORCH = """
import os, scai, signal, sys, torch
torch.manual_seed(0)
model = torch.nn.Linear(64, 64)
optimizer = torch.optim.AdamW(model.parameters())
manager = scai.CheckpointManager("trained", keep_last=2)
resumed = manager.resume(model, optimizer)
for iteration in range(resumed.iteration + 1 if resumed else 1, 21):
    model(torch.randn(8, 64)).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()
    handle = manager.save_checkpoint(model, optimizer, iteration, wait=False)
    if iteration == 10 and not resumed:
        handle.result()
        os.kill(os.getpid(), signal.SIGKILL)
manager.flush()
torch.save(model.state_dict(), sys.argv[1])
"""


def without_rust() -> dict[str, str]:
    path = [
        folder
        for folder in os.environ["PATH"].split(os.pathsep)
        if not (Path(folder) / "cargo").exists()
    ]
    return {**os.environ, "PATH": os.pathsep.join(path), "PYTHONNOUSERSITE": "1"}


def size(folder: Path) -> float:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6


def tried(wheel: Path, python: str, with_torch: bool) -> str:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        environment = without_rust()

        def run(*command: str | Path, ok: bool = True) -> None:
            ended = subprocess.run(
                command, cwd=folder, env=environment, capture_output=True, text=True
            )
            if ok and ended.returncode != 0:
                sys.exit(f"{python}: {' '.join(map(str, command))}\n{ended.stdout}{ended.stderr}")

        run(python, "-m", "venv", "empty")
        bin_folder = folder / "empty" / "bin"
        began = time.monotonic()
        run(bin_folder / "pip", "install", "--quiet", "--no-deps", wheel)
        installed = time.monotonic() - began
        took = size(next((folder / "empty" / "lib").glob("python*/site-packages/scai")))
        run(bin_folder / "python", "-c", WITHOUT_TORCH)
        run(bin_folder / "scai", "list", "run")
        run(bin_folder / "scai", "verify", "plain.pt")
        run(bin_folder / "python", "-m", "scai", "train", "--help")
        began = time.monotonic()
        run(bin_folder / "python", "-c", "import scai")
        imported = time.monotonic() - began
        if with_torch:
            run(bin_folder / "pip", "install", "--quiet", "torch", "numpy")
            run(bin_folder / "python", "-c", WITH_TORCH, "whole.pt", ok=False)
            if (folder / "whole.pt").exists():
                sys.exit(f"{python}: the training was not killed")
            run(bin_folder / "python", "-c", WITH_TORCH, "resumed.pt")
            (folder / "trained").rename(folder / "first")
            uninterrupted = WITH_TORCH.replace("iteration == 10", "False")
            run(bin_folder / "python", "-c", uninterrupted, "whole.pt")
            same = (
                "import torch; a, b = torch.load('whole.pt'), torch.load('resumed.pt');"
                "assert all(torch.equal(a[k], b[k]) for k in a)"
            )
            run(bin_folder / "python", "-c", same)
        return (
            f"{python}: installed in {installed:.1f} s; wheel {wheel.stat().st_size / 1e6:.1f} MB, "
            f"installed {took:.1f} MB; Python and `import scai` {imported:.2f} s"
            + ("; killed and resumed with the same bits" if with_torch else "")
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--python", action="append", help="default: the one that runs this")
    parser.add_argument("--torch", action="store_true", help="also install PyTorch and train")
    arguments = parser.parse_args()
    for python in arguments.python or [sys.executable]:
        print(tried(arguments.wheel.resolve(), python, arguments.torch), flush=True)


if __name__ == "__main__":
    main()
