"""Too little memory is an exception, whatever it was wanted for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import faulthandler, resource, sys
from pathlib import Path
import torch
from scai.utils.checkpoint import CheckpointManager
import scai

what, left, directory = sys.argv[1], int(sys.argv[2]), sys.argv[3]
torch.set_num_threads(1)
torch.manual_seed(0)
model = torch.nn.Sequential(*(torch.nn.Linear(512, 512) for _ in range(8)))
optimizer = torch.optim.AdamW(model.parameters(), foreach=False)
model(torch.randn(2, 512)).sum().backward()
optimizer.step()
before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
extra = {"blob": bytes(3 << 20), "text": "x" * (3 << 20), "many": [torch.ones(1) for _ in range(2000)]}
manager = CheckpointManager(directory, threads=4)
manager.save_checkpoint(model, optimizer, 1, extra=extra)
with torch.no_grad():
    for parameter in model.parameters():
        parameter.zero_()

with open("/proc/self/statm") as file:
    used = int(file.read().split()[0]) * resource.getpagesize()
_, hard = resource.getrlimit(resource.RLIMIT_AS)
resource.setrlimit(resource.RLIMIT_AS, (used + left, hard))
end = "done"
try:
    if what == "load":
        manager.load_checkpoint(f"{directory}/checkpoint_iter_1.pt", model, optimizer)
    elif what == "resume":
        manager.resume(model, optimizer)
    elif what == "scai.load":
        scai.load(f"{directory}/checkpoint_iter_1.pt")
    elif what == "verify":
        scai.verify(f"{directory}/checkpoint_iter_1.pt")
    elif what == "sync":
        manager.save_checkpoint(model, optimizer, 2, extra=extra)
    else:
        manager.save_checkpoint(
            model, optimizer, 2, extra=extra, wait=False, snapshot=what
        ).wait()
except MemoryError:
    end = "MemoryError"
except BaseException as error:
    end = f"{type(error).__name__}: {error}"
finally:
    resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
print(end, flush=True)
# Whatever happened, training goes on, and so do saves; nothing was called damaged.
changed = any(parameter.any() for parameter in model.parameters())
print("changed" if changed else "unchanged", flush=True)
manager.save_checkpoint(model, optimizer, 3)
assert sorted(path.name for path in Path(manager.checkpoint_dir).glob("*.damaged*")) == []
assert scai.verify(f"{directory}/checkpoint_iter_1.pt").answers["readable"]
"""

LEFT = [0, 1 << 20, 4 << 20, 16 << 20, 28 << 20, 96 << 20]


@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space as Linux does")
@pytest.mark.parametrize("what", ["sync", "copy", "live", "load", "resume", "scai.load", "verify"])
def test_too_little_memory_is_an_exception_and_nothing_is_lost(what: str, tmp_path: Path) -> None:
    ended = []
    for number, left in enumerate(LEFT):
        directory = tmp_path / str(number)
        command = [sys.executable, "-c", PROGRAM, what, str(left), str(directory)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, (left, done.returncode, done.stdout, done.stderr[-2000:])
        end, changed = done.stdout.splitlines()
        assert end in ("done", "MemoryError"), (left, end)
        if what in ("load", "resume"):
            assert (changed == "changed") == (end == "done"), (left, end, changed)
        ended.append(end)
    assert ended[0] == "MemoryError" or what == "verify"
    assert ended[-1] == "done"
