"""Checkpoints of accelerate with `ScaiAccelerator`: loops of a few steps, written by hand."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scai
import torch
from programs import run_python
from torch import nn

pytest.importorskip("accelerate", reason="needs scai[accelerate]")

import accelerate.checkpointing
from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration
from scai import _staged
from scai.errors import DamagedError, LockedError, NothingToResumeError
from scai.integrations.accelerate import ScaiAccelerator

ROOT = Path(__file__).parents[2]
KILLS = 30 if os.environ.get("SCAI_PROOFS") == "full" else 2

STOCK = {"model.safetensors", "optimizer.bin", "scheduler.bin", "random_states_0.pkl"}


class Loop:
    """A model, its optimizer and its scheduler, prepared."""

    def __init__(self, accelerator: Accelerator, width: int = 16) -> None:
        torch.manual_seed(0)
        self.accelerator = accelerator
        model = nn.Sequential(nn.Linear(width, width), nn.Dropout(0.5), nn.Linear(width, 1))
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.9)
        self.width = width
        self.model, self.optimizer, self.scheduler = accelerator.prepare(
            model, optimizer, scheduler
        )

    def step(self, count: int = 1) -> None:
        for _ in range(count):
            loss = self.model(torch.randn(4, self.width)).square().mean()
            self.accelerator.backward(loss)
            self.optimizer.step()
            self.scheduler.step()
            self.optimizer.zero_grad()

    def state(self) -> Any:
        return {
            "model": {name: value.clone() for name, value in self.model.state_dict().items()},
            "optimizer": self.optimizer.state_dict()["state"][0]["exp_avg"].clone(),
            "rate": self.scheduler.get_last_lr(),
            "random": (random.random(), float(np.random.rand()), float(torch.rand(1))),
        }


def same(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[name], other[name]) for name in one)
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    return bool(one == other)


def project(directory: Path, limit: int | None = None, **more: Any) -> Any:
    return {
        "project_config": ProjectConfiguration(
            str(directory), automatic_checkpoint_naming=True, total_limit=limit, **more
        ),
        "cpu": True,
    }


def loop(directory: Path, limit: int | None = None, **more: Any) -> Loop:
    return Loop(ScaiAccelerator(**project(directory, limit), **more))


def names(directory: Path) -> list[str]:
    return sorted(os.listdir(directory / "checkpoints"))


def damage(path: Path) -> None:
    """Flip a bit in the middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


# What is saved


@pytest.mark.parametrize("wait", [True, False])
@pytest.mark.parametrize("safe", [True, False])
def test_the_files_are_those_of_accelerate_and_stock_loads_them(
    tmp_path: Path, wait: bool, safe: bool
) -> None:
    stock = Loop(Accelerator(cpu=True))
    stock.step(2)
    stock.accelerator.save_state(str(tmp_path / "stock"), safe_serialization=safe)
    mine = Loop(ScaiAccelerator(cpu=True, wait=wait))
    mine.step(2)
    saved = mine.accelerator.save_state(str(tmp_path / "mine"), safe_serialization=safe)
    mine.accelerator.flush()
    state = mine.state()

    assert saved == tmp_path / "mine"
    written = {*os.listdir(tmp_path / "mine")}
    assert written == {*os.listdir(tmp_path / "stock"), "commit.json"}
    assert not safe or written == STOCK | {"commit.json"}
    assert os.listdir(tmp_path) == ["stock", "mine"] or len(os.listdir(tmp_path)) == 2
    mine.step()
    stock.step()
    stock.accelerator.load_state(str(saved))
    assert same(stock.state(), state)
    mine.accelerator.load_state(saved)
    assert same(mine.state(), state)


def test_what_training_changes_meanwhile_is_not_in_a_save_that_does_not_wait(tmp_path: Path) -> None:
    mine = loop(tmp_path, wait=False)
    mine.step()
    gate = Gate(mine.accelerator)
    mine.accelerator.save_state()
    state = mine.state()
    mine.step(3)
    assert names(tmp_path)[-1].startswith(".scai-")
    gate.open()
    mine.accelerator.load_state()
    assert same(mine.state(), state)
    assert names(tmp_path) == ["checkpoint_0"]


class Gate:
    """Holds up what an accelerator does in the background."""

    def __init__(self, accelerator: Any) -> None:
        import threading

        self._open = threading.Event()
        accelerator._scai_saves.begin("nothing", lambda _: self._wait)

    def _wait(self) -> None:
        self._open.wait(60)

    def open(self) -> None:
        self._open.set()


def test_objects_of_ones_own_and_hooks_are_saved_as_before(tmp_path: Path) -> None:
    class Counter:
        def __init__(self) -> None:
            self.count = 0

        def state_dict(self) -> dict[str, int]:
            return {"count": self.count}

        def load_state_dict(self, state: dict[str, int]) -> None:
            self.count = state["count"]

    for wait in (True, False):
        counter = Counter()
        mine = loop(tmp_path / str(wait), wait=wait)
        mine.accelerator.register_for_checkpointing(counter)

        def hook(models: list[Any], weights: list[Any], output_dir: str) -> None:
            os.mkdir(os.path.join(output_dir, "unet"))
            torch.save(weights.pop(), os.path.join(output_dir, "unet", "weights.pt"))

        mine.accelerator.register_save_state_pre_hook(hook)
        mine.accelerator.register_load_state_pre_hook(lambda models, _: models.clear())
        counter.count = 7
        saved = Path(mine.accelerator.save_state())
        counter.count = 0
        mine.accelerator.load_state()
        assert counter.count == 7
        assert (saved / "unet" / "weights.pt").exists()
        assert not (saved / "model.safetensors").exists()
        damage(saved / "unet" / "weights.pt")
        with pytest.raises(NothingToResumeError, match="unet/weights.pt"):
            mine.accelerator.load_state()


def test_tied_weights_are_saved_once_as_by_accelerate(tmp_path: Path) -> None:
    def tied(accelerator: Accelerator) -> Any:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
        model[1].weight = model[0].weight
        return accelerator.prepare(model)

    for name, accelerator in {
        "stock": Accelerator(cpu=True),
        "wait": ScaiAccelerator(cpu=True),
        "later": ScaiAccelerator(cpu=True, wait=False),
    }.items():
        accelerator.prepare(tied(accelerator))
        accelerator.save_state(str(tmp_path / name))
        if name == "later":
            accelerator.flush()
    tensors = [scai.load(tmp_path / name / "model.safetensors", allow_unprotected=True)
               for name in ("stock", "wait", "later")]
    assert same(tensors[0], tensors[1]) and same(tensors[0], tensors[2])


def test_a_checkpoint_is_replaced_at_once_and_nothing_else_is(tmp_path: Path) -> None:
    mine = Loop(ScaiAccelerator(cpu=True))
    state = tmp_path / "state"
    for _ in range(2):
        mine.step()
        mine.accelerator.save_state(str(state))
    # Of accelerate alone, too.
    stock = Loop(Accelerator(cpu=True))
    stock.step()
    stock.accelerator.save_state(str(tmp_path / "stock"))
    mine.accelerator.save_state(str(tmp_path / "stock"))
    assert {*os.listdir(tmp_path / "stock")} == STOCK | {"commit.json"}

    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"holds `notes.txt`.*such as .*state") as _held:
        mine.accelerator.save_state(str(tmp_path))
    assert sorted(os.listdir(tmp_path)) == ["notes.txt", "state", "stock"]
    assert not [name for name in os.listdir(tmp_path.parent) if name.startswith(".scai-")]


# Names and how many there are


def test_a_new_process_goes_on_counting(tmp_path: Path) -> None:
    first = loop(tmp_path)
    for _ in range(2):
        first.accelerator.save_state()
    stock = Loop(Accelerator(**project(tmp_path)))
    with pytest.raises(ValueError, match="already exists"):
        stock.accelerator.save_state()
    second = loop(tmp_path)
    assert second.accelerator.save_state() == tmp_path / "checkpoints" / "checkpoint_2"
    assert second.accelerator.save_iteration == 3
    chosen = Loop(ScaiAccelerator(**project(tmp_path, iteration=9)))
    assert chosen.accelerator.save_state().name == "checkpoint_9"


@pytest.mark.parametrize("wait", [True, False])
def test_older_ones_go_when_the_new_one_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wait: bool
) -> None:
    mine = loop(tmp_path, limit=1, wait=wait)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "notes").touch()
    seen = []
    commit = _staged.Staging.commit

    def committed(self: Any, *args: Any) -> str:
        seen.append(names(tmp_path))
        return commit(self, *args)

    monkeypatch.setattr(_staged.Staging, "commit", committed, raising=True)
    for _ in range(12):
        mine.accelerator.save_state()
    mine.accelerator.flush()
    assert names(tmp_path) == ["checkpoint_11", "notes"]
    assert all(f"checkpoint_{number - 1}" in there for number, there in enumerate(seen) if number)


def test_an_older_one_is_kept_if_the_new_one_cannot_be_read_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    mine = loop(tmp_path, limit=1)
    mine.accelerator.save_state()
    check = _staged.check

    def failing(path: str) -> None:
        damage(Path(path) / "optimizer.bin")
        check(path)

    monkeypatch.setattr(_staged, "check", failing)
    mine.step()
    mine.accelerator.save_state()
    assert names(tmp_path) == ["checkpoint_0", "checkpoint_1"]
    assert "older checkpoints" in caplog.text and "optimizer.bin" in caplog.text


# Loading


def test_the_newest_sound_one_is_loaded_and_others_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mine = loop(tmp_path)
    states = []
    for _ in range(3):
        mine.step()
        mine.accelerator.save_state()
        states.append(mine.state())
    damage(tmp_path / "checkpoints" / "checkpoint_2" / "model.safetensors")
    (tmp_path / "checkpoints" / "checkpoint_1" / "scheduler.bin").unlink()
    again = loop(tmp_path)
    again.accelerator.load_state()
    assert same(again.state(), states[0])
    assert "checkpoint_2" in caplog.text and "model.safetensors" in caplog.text
    assert "checkpoint_1" in caplog.text and "scheduler.bin" in caplog.text
    assert again.accelerator.save_state().name == "checkpoint_3"


def test_a_path_that_is_damaged_raises_and_changes_nothing(tmp_path: Path) -> None:
    mine = Loop(ScaiAccelerator(cpu=True))
    mine.step()
    saved = mine.accelerator.save_state(str(tmp_path / "state"))
    for name in sorted(STOCK):
        content = (saved / name).read_bytes()
        damage(saved / name)
        mine.step()
        before = mine.state()
        with pytest.raises(DamagedError, match=name):
            mine.accelerator.load_state(saved)
        assert same(mine.state()["model"], before["model"])
        (saved / name).unlink()
        with pytest.raises(DamagedError, match=f"{name}.*missing"):
            mine.accelerator.load_state(saved)
        (saved / name).write_bytes(content)
    mine.accelerator.load_state(saved)


def test_where_nothing_can_be_loaded_that_is_an_error(tmp_path: Path) -> None:
    mine = loop(tmp_path)
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        mine.accelerator.load_state()
    mine.accelerator.save_state()
    damage(tmp_path / "checkpoints" / "checkpoint_0" / "commit.json")
    with pytest.raises(NothingToResumeError, match="checkpoint_0"):
        mine.accelerator.load_state()
    with pytest.raises(ValueError, match="folder does not exist"):
        mine.accelerator.load_state(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="No input_dir"):
        ScaiAccelerator(cpu=True).load_state()


def test_what_accelerate_wrote_alone_loads_if_it_is_complete(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stock = Loop(Accelerator(**project(tmp_path)))
    stock.step()
    stock.accelerator.save_state()
    state = stock.state()
    stock.accelerator.save_state()
    (tmp_path / "checkpoints" / "checkpoint_1" / "random_states_0.pkl").unlink()
    stock.accelerator.save_state()
    damage(tmp_path / "checkpoints" / "checkpoint_2" / "optimizer.bin")
    mine = loop(tmp_path)
    mine.accelerator.load_state()
    assert same(mine.state(), state)
    assert "it has no `random_states_0.pkl`" in caplog.text
    assert "optimizer.bin" in caplog.text
    assert "was not written with scai" in caplog.text


def test_random_states_that_cannot_be_restored_are_an_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stock = Loop(Accelerator(cpu=True))
    stock.accelerator.save_state(str(tmp_path / "state"))
    path = tmp_path / "state" / "random_states_0.pkl"
    states = torch.load(path, weights_only=False)

    torch.save(states | {"random_state": (3, (1, 2), None)}, path)
    stock.accelerator.load_state(str(tmp_path / "state"))  # without a word
    mine = Loop(ScaiAccelerator(cpu=True))
    with pytest.raises((ValueError, TypeError)):
        mine.accelerator.load_state(tmp_path / "state")

    path.unlink()
    with pytest.raises(FileNotFoundError, match="random_states_0"):
        mine.accelerator.load_state(tmp_path / "state")

    for rank in range(2):
        torch.save(states, path.with_name(f"random_states_{rank}.pkl"))
    mine.accelerator.load_state(tmp_path / "state")
    assert "saved by 2 processes, and there are 1" in caplog.text


# What goes wrong


@pytest.mark.parametrize("wait", [True, False])
def test_a_full_disk_is_said_and_harms_nothing(tmp_path: Path, wait: bool) -> None:
    printed = run_python(
        """
import os, resource, signal, sys
sys.path.insert(0, sys.argv[2])
from test_accelerate import Loop, ScaiAccelerator, project
from pathlib import Path
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
mine = Loop(ScaiAccelerator(**project(Path(sys.argv[1]), 1), wait=sys.argv[3] == "True"), width=200)
mine.step()
mine.accelerator.save_state()
mine.accelerator.flush()
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
try:
    mine.accelerator.save_state()
    mine.accelerator.flush()
except OSError as error:
    print(error)
print(os.listdir(sys.argv[1] + "/checkpoints"))
mine.accelerator.load_state()
""",
        tmp_path,
        ROOT / "tests" / "python",
        wait,
    )
    message, there = printed.splitlines()
    assert there == "['checkpoint_0']"
    assert "model.safetensors" in message and "no space" in message


def test_an_interrupted_save_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = loop(tmp_path)
    mine.step()
    mine.accelerator.save_state()

    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(accelerate.checkpointing, "save", interrupted)
        with pytest.raises(KeyboardInterrupt) as _held:
            mine.accelerator.save_state()
    assert names(tmp_path) == ["checkpoint_0"]
    assert mine.accelerator.save_state().name == "checkpoint_1"


def test_a_failure_in_the_background_is_raised_by_the_next_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    mine = loop(tmp_path, wait=False)

    def failing(*_: Any) -> None:
        raise OSError("the device is gone")

    calls = [mine.accelerator.save_state, mine.accelerator.load_state, mine.accelerator.flush]
    for call in [*calls, mine.accelerator.end_training]:
        with monkeypatch.context() as patch:
            patch.setattr(_staged.Staging, "commit", failing)
            mine.accelerator.save_state()
            mine.accelerator._scai_saves.wait()
        with pytest.raises(OSError, match="the device is gone"):
            call()
        mine.accelerator.flush()
    assert "was not saved: the device is gone" in caplog.text
    assert names(tmp_path) == []


def test_a_directory_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    mine = loop(tmp_path)
    mine.accelerator.save_state()
    path = str(tmp_path / "checkpoints")
    if os.geteuid() == 0:
        freeze, thaw = (["chattr", sign, path] for sign in ("+i", "-i"))
        if subprocess.run(freeze, check=False, capture_output=True).returncode:
            pytest.skip("this file system has no directories that are immutable")
    else:
        freeze, thaw = (["chmod", mode, path] for mode in ("a-w", "u+w"))
        subprocess.run(freeze, check=True)
    try:
        with pytest.raises(PermissionError, match="checkpoints"):
            mine.accelerator.save_state()
        mine.accelerator.load_state()
    finally:
        subprocess.run(thaw, check=True)
    mine.accelerator.save_state()


def test_two_processes_do_not_save_in_one_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = """
import sys
sys.path.insert(0, sys.argv[2])
from test_accelerate import loop
from pathlib import Path
other = loop(Path(sys.argv[1]))
other.accelerator.save_state()
print("ready", flush=True)
sys.stdin.readline()
"""
    monkeypatch.setattr(_staged, "STALE", 0.2)
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path), str(ROOT / "tests" / "python")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert other.stdout is not None and other.stdin is not None
    try:
        assert other.stdout.readline() == b"ready\n"
        mine = loop(tmp_path)
        with pytest.raises(LockedError, match="another process"):
            mine.accelerator.save_state()
        mine.accelerator.load_state()
        assert names(tmp_path) == ["checkpoint_0"]
    finally:
        other.communicate(b"\n", timeout=60)
    mine.accelerator.save_state()
    mine.accelerator.end_training()
    assert names(tmp_path) == ["checkpoint_0", "checkpoint_1"]


def test_sharded_strategies_are_left_to_accelerate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    mine = loop(tmp_path)
    monkeypatch.setattr("scai.integrations.accelerate._HANDLED", set())
    mine.accelerator.save_state()
    mine.accelerator.save_state()
    assert {*os.listdir(tmp_path / "checkpoints" / "checkpoint_1")} == STOCK
    assert caplog.text.count("unprotected") == 1


RANKS = """
import os, sys, torch
sys.path.insert(0, sys.argv[2])
from test_accelerate import loop, project, same
from pathlib import Path
os.environ["ACCELERATE_USE_CPU"] = "true"
mine = loop(Path(sys.argv[1]), 2, wait=sys.argv[3] == "wait")
rank = mine.accelerator.process_index
torch.manual_seed(rank)
for _ in range(3):
    mine.step()
    saved = mine.accelerator.save_state()
mine.accelerator.flush()
state = mine.state()
mine.accelerator.wait_for_everyone()
if mine.accelerator.is_main_process:
    content = bytearray((saved / "random_states_1.pkl").read_bytes())
mine.step()
again = loop(Path(sys.argv[1]), 2)
again.accelerator.load_state()
assert same(again.state(), state)
# What one finds is said by all.
again.accelerator.wait_for_everyone()
if rank == 0:
    (saved / "random_states_1.pkl").unlink()
again.accelerator.wait_for_everyone()
try:
    again.accelerator.load_state(saved)
except Exception as error:
    # In one piece, since another process says something too.
    said = f"{rank} {type(error).__name__} {'random_states_1.pkl' in str(error)}\\n"
    os.write(1, said.encode())
again.accelerator.wait_for_everyone()
mine.accelerator.end_training()
# PyTorch may abort when it tears down models whose process group is gone, with Accelerator alone too.
os._exit(0)
"""


@pytest.mark.parametrize("way", ["wait", "later"])
def test_several_processes_save_one_checkpoint_together(tmp_path: Path, way: str) -> None:
    script = tmp_path / "script.py"
    script.write_text(RANKS)
    (tmp_path / "run").mkdir()
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    done = subprocess.run(
        [*command, str(script), str(tmp_path / "run"), str(ROOT / "tests" / "python"), way],
        check=False,
        capture_output=True,
        text=True,
        timeout=240,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(done.stdout.split("\n"))[1:] == ["0 DamagedError True", "1 CheckpointError True"]
    assert names(tmp_path / "run") == ["checkpoint_1", "checkpoint_2"]
    assert {*os.listdir(tmp_path / "run" / "checkpoints" / "checkpoint_1")} == STOCK | {
        "commit.json",
        "random_states_1.pkl",
    }


def test_scai_alone_imports_no_accelerate() -> None:
    run_python("import sys, scai; assert 'accelerate' not in sys.modules, 'imported'")


@pytest.mark.parametrize("way", ["scai", "scai, later"])
def test_a_killed_loop_goes_on_and_ends_with_the_same_bits(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    import kills

    found = kills.campaign("accelerate", way, KILLS, tmp_path, seed=sys.maxsize)
    assert found.kills == KILLS
    assert not found.failed and not found.over and not found.wrong
    # What is being saved, and the one that waits, may be lost.
    assert max(found.lost) <= 3 * 4
