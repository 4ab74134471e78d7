"""Checkpoints of the Trainer of transformers with `ScaiTrainer`: trainings of a moment."""

from __future__ import annotations

import functools
import itertools
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import scai
import torch
from programs import run_python

pytest.importorskip("transformers", reason="needs scai[transformers]")

import safetensors.torch
import transformers.trainer
from huggingface_hub.utils import filter_repo_objects
from regression import FILES, Line, trainer, weights
from scai import _staged
from scai.errors import DamagedError, LockedError, NothingToResumeError
from scai.integrations.transformers import ScaiTrainer, ScaiTrainerMixin
from transformers import Trainer, TrainerCallback

ROOT = Path(__file__).parents[2]
KILLS = 30 if os.environ.get("SCAI_PROOFS") == "full" else 2
TOTAL = 24

pytestmark = pytest.mark.filterwarnings("ignore")


def damage(path: Path) -> None:
    """Flip a bit in the middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def names(directory: Path) -> list[str]:
    return sorted(os.listdir(directory), key=lambda name: (len(name), name))


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


class At(TrainerCallback):
    """Does something at the end of a step."""

    def __init__(self, step: int, work: Callable[[], Any]) -> None:
        self.step, self.work = step, work

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            self.work()


class Gate:
    """Holds up what a trainer does in the background."""

    def __init__(self, of: Any) -> None:
        self._open = threading.Event()
        of._scai_saves.begin("nothing", lambda _: self._wait)

    def _wait(self) -> None:
        self._open.wait(60)

    def open(self) -> None:
        self._open.set()


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Any]:
    """Trains with a model of nobody's, and a save at every eighth step."""
    return functools.partial(trainer, directory=tmp_path / "run", pretrained=False, save_steps=8)


# What is saved


@pytest.mark.parametrize("pretrained", [True, False])
@pytest.mark.parametrize("wait", [True, False])
def test_the_files_hold_what_those_of_trainer_hold(
    tmp_path: Path, pretrained: bool, wait: bool
) -> None:
    for kind in (Trainer, ScaiTrainer):
        one = trainer(
            kind, tmp_path / kind.__name__, pretrained=pretrained, save_steps=8, wait=wait
        )
        one.train()
    for step in (8, 16, 24):
        stock, mine = (tmp_path / kind / f"checkpoint-{step}" for kind in ("Trainer", "ScaiTrainer"))
        assert {*os.listdir(mine)} == {*os.listdir(stock), "commit.json"}
        assert same(*(safetensors.torch.load_file(d / "model.safetensors") for d in (stock, mine)))
        assert same(*(torch.load(d / "optimizer.pt") for d in (stock, mine)))
        assert same(*(torch.load(d / "scheduler.pt") for d in (stock, mine)))
        states = [json.loads((d / "trainer_state.json").read_text()) for d in (stock, mine)]
        assert states[0]["global_step"] == states[1]["global_step"] == step
    commit = json.loads((tmp_path / "ScaiTrainer" / "checkpoint-24" / "commit.json").read_text())
    assert commit["iteration"] == 24
    assert {*commit["files"]} >= FILES
    assert names(tmp_path / "ScaiTrainer") == ["checkpoint-8", "checkpoint-16", "checkpoint-24"]


def test_each_goes_on_from_what_the_other_saved(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Stopping(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            control.should_training_stop = state.global_step == 16

    whole = trainer(Trainer, tmp_path / "whole", pretrained=False)
    whole.train()
    for first, second in ((Trainer, ScaiTrainer), (ScaiTrainer, Trainer), (ScaiTrainer, ScaiTrainer)):
        run = functools.partial(trainer, directory=tmp_path / "run", pretrained=False, save_steps=8)
        run(first, callbacks=[Stopping()]).train()
        shutil.rmtree(tmp_path / "run" / "checkpoint-8")
        again = run(second)
        caplog.clear()
        again.train(resume_from_checkpoint=True)
        assert same(weights(again), weights(whole))
        assert same(again.optimizer.state_dict(), whole.optimizer.state_dict())
        assert (first is Trainer) == ("was not written with scai" in caplog.text)
        shutil.rmtree(tmp_path / "run")


def test_a_save_returns_at_once_and_holds_the_moment_of_the_call(
    run: Callable[..., Any], tmp_path: Path
) -> None:
    seen: list[Any] = []
    one = run(ScaiTrainer)
    gates: list[Gate] = []
    one.add_callback(At(1, lambda: gates.append(Gate(one))))
    one.add_callback(At(8, lambda: seen.append(weights(one))))
    one.add_callback(At(12, lambda: seen.append(names(tmp_path / "run"))))
    one.add_callback(At(14, lambda: gates[0].open()))
    one.train()
    assert len(seen[1]) == 1 and seen[1][0].startswith(".scai-")
    found = safetensors.torch.load_file(tmp_path / "run" / "checkpoint-8" / "model.safetensors")
    assert same(found, seen[0])
    assert not same(seen[0], weights(one))


def test_weights_in_several_files_are_saved_as_such(tmp_path: Path) -> None:
    one = trainer(ScaiTrainer, tmp_path, save_steps=8)
    one.model.save_pretrained = functools.partial(one.model.save_pretrained, max_shard_size=4)
    one.train()
    there = {*os.listdir(tmp_path / "checkpoint-24")}
    shards = {f"model-{i:05}-of-00002.safetensors" for i in (1, 2)}
    assert there > shards | {"model.safetensors.index.json", "commit.json"}
    (tmp_path / "checkpoint-24" / "model-00002-of-00002.safetensors").unlink()
    again = trainer(ScaiTrainer, tmp_path, save_steps=8, num_train_epochs=4)
    again.train(resume_from_checkpoint=True)
    assert again.state.global_step == 32


def test_only_the_model_is_saved_if_that_is_asked_for(
    run: Callable[..., Any], tmp_path: Path
) -> None:
    run(ScaiTrainer, save_only_model=True).train()
    assert {*os.listdir(tmp_path / "run" / "checkpoint-24")} == {
        *("model.safetensors", "trainer_state.json", "training_args.bin", "commit.json")
    }
    run(ScaiTrainer, save_only_model=True).train(resume_from_checkpoint=True)


def test_what_is_not_plain_is_written_as_by_trainer(run: Callable[..., Any], tmp_path: Path) -> None:
    class Odd(torch.optim.SGD):
        def state_dict(self) -> Any:
            return super().state_dict() | {"path": Path("x")}

    model = Line()
    one = run(ScaiTrainer, model=model)
    one.optimizer = Odd(model.parameters(), lr=0.1)
    one.train()
    path = tmp_path / "run" / "checkpoint-24" / "optimizer.pt"
    assert torch.load(path, weights_only=False)["path"] == Path("x")


def test_tied_weights_are_refused_as_by_trainer_where_it_refuses_them(
    run: Callable[..., Any], tmp_path: Path
) -> None:
    for kind in (Trainer, ScaiTrainer):
        model = Line()
        model.tied = model.ballast
        with pytest.raises(RuntimeError, match="share memory"):
            run(kind, model=model).train()
    assert [name for name in names(tmp_path / "run") if name.startswith(".")] == []


def test_a_data_loader_that_lives_on_does_not_hold_the_directory(
    run: Callable[..., Any], tmp_path: Path
) -> None:
    arguments = {"dataloader_num_workers": 1, "dataloader_persistent_workers": True, "max_steps": 8}
    loaders = []

    class Holding(ScaiTrainer):
        def get_train_dataloader(self) -> Any:
            loaders.append(super().get_train_dataloader())
            return loaders[-1]

    for _ in range(2):
        run(Holding, **arguments).train()
    assert names(tmp_path / "run") == ["checkpoint-8"]


# When it is there


def test_a_callback_that_looks_for_a_checkpoint_finds_it(
    run: Callable[..., Any], tmp_path: Path
) -> None:
    class Looking(TrainerCallback):
        found: list[bool] = []

        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            path = tmp_path / "run" / f"checkpoint-{state.global_step}"
            self.found.append((path / "commit.json").exists())

    run(ScaiTrainer, callbacks=[Looking()]).train()
    assert Looking.found == [True] * 3


def test_callbacks_that_look_for_nothing_make_nobody_wait() -> None:
    from scai.integrations.transformers import _looks
    from transformers.integrations import MLflowCallback, TrackioCallback, WandbCallback
    from transformers.integrations.integration_utils import WandbLogModel

    wandb, mlflow = object.__new__(WandbCallback), object.__new__(MLflowCallback)
    for value, waits in ((WandbLogModel.FALSE, False), (WandbLogModel.END, False), (WandbLogModel.CHECKPOINT, True)):
        wandb._log_model = value
        assert _looks(wandb) == waits
    for value, waits in ((False, False), (True, True)):
        mlflow._log_artifacts = value
        assert _looks(mlflow) == waits
    assert not _looks(object.__new__(TrackioCallback))
    assert not _looks(TrainerCallback())


def test_an_upload_finds_whole_checkpoints_only(
    run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Api:
        uploads: list[list[str]] = []

        def create_repo(self, *_: Any, **__: Any) -> Any:
            return type("Repo", (), {"repo_id": "me/run"})()

        def upload_folder(self, folder_path: str, **_: Any) -> Any:
            self.uploads.append(sorted(os.listdir(folder_path)))
            return type("Job", (), {"done": lambda self: True, "is_done": lambda self: True})()

    monkeypatch.setattr(transformers.trainer, "hf_api", Api)
    one = run(ScaiTrainer, push_to_hub=True, hub_always_push=True, hub_strategy="all_checkpoints")
    one.train()
    assert len(Api.uploads) == 6
    for top, checkpoint in zip(Api.uploads[::2], Api.uploads[1::2], strict=True):
        assert {"model.safetensors", "training_args.bin"} <= {*top}
        assert {*checkpoint} == FILES | {"commit.json"}
    # What is being written while an upload in the background lists files.
    from huggingface_hub import hf_api

    there = ["README.md", ".scai-0a.tmp/model.safetensors", "run-1/.scai-0a.tmp/optimizer.pt"]
    ignored = hf_api.DEFAULT_IGNORE_PATTERNS
    assert list(filter_repo_objects(there, ignore_patterns=ignored)) == ["README.md"]


# Which ones stay


def test_older_ones_go_when_the_new_one_is_there(
    run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run" / "checkpoint-mine").mkdir(parents=True)
    seen = []
    commit = _staged.Staging.commit

    def committed(self: Any, *args: Any) -> str:
        seen.append([name for name in names(tmp_path / "run") if name.startswith("checkpoint-")])
        return commit(self, *args)

    monkeypatch.setattr(_staged.Staging, "commit", committed)
    run(ScaiTrainer, save_total_limit=1).train()
    assert seen[1:] == [["checkpoint-8", "checkpoint-mine"], ["checkpoint-16", "checkpoint-mine"]]
    assert names(tmp_path / "run") == ["checkpoint-24", "checkpoint-mine"]


def test_an_older_one_is_kept_if_the_new_one_cannot_be_read_back(
    run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    check = _staged.check

    def failing(path: str) -> None:
        if path.endswith("checkpoint-24"):
            damage(Path(path) / "optimizer.pt")
        check(path)

    monkeypatch.setattr(_staged, "check", failing)
    run(ScaiTrainer, save_total_limit=1).train()
    assert names(tmp_path / "run") == ["checkpoint-16", "checkpoint-24"]
    assert "older checkpoints" in caplog.text and "optimizer.pt" in caplog.text


def falling(scores: Iterator[int], _: Any) -> dict[str, float]:
    return {"score": -float(next(scores))}


def test_the_best_one_is_checked_before_it_is_loaded_or_all_there_is(
    run: Callable[..., Any], tmp_path: Path
) -> None:
    best = tmp_path / "run" / "checkpoint-8"
    for loads, limit in ((True, 1), (False, 1), (True, 2)):
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        one = run(
            ScaiTrainer,
            save_total_limit=limit,
            eval_strategy="steps",
            eval_steps=8,
            metric_for_best_model="score",
            greater_is_better=True,
            load_best_model_at_end=loads,
            compute_metrics=functools.partial(falling, itertools.count()),
        )
        one.add_callback(At(23, one.flush))
        one.add_callback(At(23, lambda: damage(best / "model.safetensors")))
        with pytest.raises(DamagedError, match="checkpoint-8`: the file `model.safetensors`"):
            one.train()
        assert names(tmp_path / "run") == ["checkpoint-8", "checkpoint-24"]


# Going on


def test_the_newest_sound_one_is_resumed_from_and_others_are_named(
    run: Callable[..., Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = run(ScaiTrainer, save_steps=4)
    whole.train()
    for step, name in ((24, "model.safetensors"), (20, "optimizer.pt"), (16, "rng_state.pth")):
        damage(tmp_path / "run" / f"checkpoint-{step}" / name)
    (tmp_path / "run" / "checkpoint-12" / "scheduler.pt").unlink()
    (tmp_path / "run" / "checkpoint-99").mkdir()
    again = run(ScaiTrainer, save_steps=4)
    starts: list[int] = []
    again.add_callback(At(9, lambda: starts.append(again._initial_global_step)))
    again.train(resume_from_checkpoint=True)
    assert starts == [8]
    assert same(weights(again), weights(whole))
    for step, name in (
        (24, "model.safetensors"),
        (20, "optimizer.pt"),
        (16, "rng_state.pth"),
        (12, "scheduler.pt"),
    ):
        assert f"checkpoint-{step}`: the file `{name}`" in caplog.text
    assert "it has no `trainer_state.json`" in caplog.text
    # What was damaged was saved again.
    scai._staged.check_directory(str(tmp_path / "run" / "checkpoint-24"))


@pytest.mark.parametrize("left", ["trainer_state.json", "optimizer.pt", "model.safetensors", "sentinel"])
def test_what_trainer_left_incomplete_is_passed_over(
    run: Callable[..., Any], tmp_path: Path, left: str, caplog: pytest.LogCaptureFixture
) -> None:
    run(Trainer).train()
    newest = tmp_path / "run" / "checkpoint-24"
    if left == "sentinel":
        (newest / "checkpoint-is-incomplete.txt").touch()
    else:
        (newest / left).unlink()
    again = run(ScaiTrainer, num_train_epochs=4)
    again.train(resume_from_checkpoint=True)
    assert again.state.global_step == 32
    assert "checkpoint-24" in caplog.text and "it was not finished" in caplog.text
    assert "commit.json" in os.listdir(newest)


@pytest.mark.parametrize("name", [*sorted(FILES), "commit.json"])
@pytest.mark.parametrize("wrong", ["damaged", "removed"])
def test_a_path_that_is_not_what_was_saved_raises(
    tmp_path: Path, name: str, wrong: str
) -> None:
    # Written once for all of them.
    source = tmp_path.parent / "one-checkpoint"
    if not source.exists():
        trainer(ScaiTrainer, source, pretrained=False, max_steps=1, save_steps=1).train()
    path = tmp_path / "checkpoint-1"
    shutil.copytree(source / "checkpoint-1", path)
    again = trainer(ScaiTrainer, tmp_path / "run", pretrained=False, max_steps=2)
    if wrong == "damaged":
        damage(path / name)
    else:
        (path / name).unlink()
        if name == "commit.json":
            # Whoever removes it says that it is a checkpoint like Trainer's.
            again.train(resume_from_checkpoint=str(path))
            return
    before = weights(again)
    with pytest.raises(DamagedError, match=name):
        again.train(resume_from_checkpoint=str(path))
    assert same(weights(again), before)


def test_where_all_are_damaged_that_is_an_error(run: Callable[..., Any], tmp_path: Path) -> None:
    run(ScaiTrainer).train()
    for name in names(tmp_path / "run"):
        damage(tmp_path / "run" / name / "model.safetensors")
    message = "No valid checkpoint found in output directory.*checkpoint-24.*checkpoint-8"
    with pytest.raises(NothingToResumeError, match=message):
        run(ScaiTrainer).train(resume_from_checkpoint=True)


# What goes wrong


def test_a_failure_ends_the_training_at_the_next_save(
    run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    commit = _staged.Staging.commit

    def failing(self: Any, name: str, *args: Any) -> str:
        if name == failed:
            raise OSError("the device is gone")
        return commit(self, name, *args)

    monkeypatch.setattr(_staged.Staging, "commit", failing)
    for failed, ends in (("checkpoint-8", 16), ("checkpoint-24", 24)):
        for wait in (False, True):
            shutil.rmtree(tmp_path / "run", ignore_errors=True)
            one = run(ScaiTrainer, wait=wait)
            one.add_callback(At(15, one._scai_saves.wait))
            with pytest.raises(OSError, match="the device is gone"):
                one.train()
            assert one.state.global_step == (int(failed.partition("-")[2]) if wait else ends)
            assert failed not in names(tmp_path / "run")
            assert not [name for name in names(tmp_path / "run") if name.startswith(".")]
            # It was told, and is not told again.
            one.flush()
    assert "checkpoint-8` was not saved: the device is gone" in caplog.text


FULL = """
import os, resource, signal, sys
sys.path.insert(0, sys.argv[2])
from regression import Line, trainer
from scai.integrations.transformers import ScaiTrainer
from test_transformers import At
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
one = trainer(ScaiTrainer, sys.argv[1], model=Line(ballast=100_000), save_steps=8, wait=sys.argv[3] == "True")
limit = lambda: (one.flush(), resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16)))
one.add_callback(At(9, limit))
try:
    one.train()
except OSError as error:
    print("said", error)
print("there", os.listdir(sys.argv[1]))
again = trainer(ScaiTrainer, sys.argv[1], model=Line(ballast=100_000), max_steps=8, save_strategy="no")
again.train(resume_from_checkpoint=True)
"""


@pytest.mark.parametrize("wait", [True, False])
def test_a_full_disk_is_said_and_harms_nothing(tmp_path: Path, wait: bool) -> None:
    printed = run_python(FULL, tmp_path, ROOT / "tests" / "python", wait).splitlines()
    assert "there ['checkpoint-8']" in printed
    message = next(line for line in printed if line.startswith("said"))
    assert "model.safetensors" in message and "no space" in message


def test_an_interrupted_save_leaves_nothing(
    run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    one = run(ScaiTrainer, pretrained=True)
    one.add_callback(At(9, lambda: monkeypatch.setattr(one, "_save_rng_state", interrupted)))
    with pytest.raises(KeyboardInterrupt) as _held:
        one.train()
    assert names(tmp_path / "run") == ["checkpoint-8"]


def test_an_interrupted_training_has_saved_what_it_was_saving(
    run: Callable[..., Any], tmp_path: Path
) -> None:
    def interrupted() -> None:
        gate.open()
        raise KeyboardInterrupt

    one = run(ScaiTrainer)
    gate = Gate(one)
    one._scai_saves.wait = lambda: None
    one.add_callback(At(9, lambda: one.__dict__["_scai_saves"].__dict__.pop("wait", None)))
    one.add_callback(At(10, interrupted))
    with pytest.raises(KeyboardInterrupt):
        one.train()
    assert names(tmp_path / "run") == ["checkpoint-8"]


def test_a_directory_that_cannot_be_written_is_an_error(
    run: Callable[..., Any], tmp_path: Path
) -> None:
    path = str(tmp_path / "run")
    if os.geteuid() == 0:
        freeze, thaw = (["chattr", sign, path] for sign in ("+i", "-i"))
    else:
        freeze, thaw = (["chmod", mode, path] for mode in ("a-w", "u+w"))
    os.mkdir(path)
    if subprocess.run(freeze, check=False, capture_output=True).returncode:
        pytest.skip("this file system has no directories that are immutable")
    try:
        with pytest.raises(PermissionError, match="run"):
            run(ScaiTrainer).train()
    finally:
        subprocess.run(thaw, check=True)
    run(ScaiTrainer).train()


HOLDING = """
import sys
sys.path.insert(0, sys.argv[2])
from regression import trainer
from scai.integrations.transformers import ScaiTrainer
from test_transformers import At
one = trainer(ScaiTrainer, sys.argv[1], save_steps=1)
wait = lambda: (one.flush(), print("ready", flush=True), sys.stdin.readline())
one.add_callback(At(2, wait))
one.train()
"""


def test_two_trainings_do_not_share_a_directory(
    run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_staged, "STALE", 0.2)
    other = subprocess.Popen(
        [sys.executable, "-c", HOLDING, str(tmp_path / "run"), str(ROOT / "tests" / "python")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert other.stdout is not None
    try:
        assert b"ready\n" in iter(other.stdout.readline, b"")
        with pytest.raises(LockedError, match="another process"):
            run(ScaiTrainer).train()
        # What saves nothing is no harm.
        run(ScaiTrainer, save_strategy="no", max_steps=1).train()
    finally:
        other.communicate(b"\n", timeout=120)
    run(ScaiTrainer).train()


def test_a_mixin_in_the_wrong_place_is_refused() -> None:
    class Mine(Trainer):
        pass

    class Right(ScaiTrainerMixin, Mine):
        pass

    assert Right._save_checkpoint is ScaiTrainerMixin._save_checkpoint
    with pytest.raises(TypeError, match=r"class Wrong\(ScaiTrainerMixin, …\)"):

        class Wrong(Mine, ScaiTrainerMixin):
            pass


def test_what_subclasses_do_is_done(run: Callable[..., Any], tmp_path: Path) -> None:
    class Mine(ScaiTrainer):
        def _get_output_dir(self, trial: Any) -> str:
            return str(tmp_path / "elsewhere")

        def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
            super()._save(output_dir, state_dict)
            assert output_dir is not None
            Path(output_dir, "note.txt").write_text("mine")

    run(Mine).train()
    assert names(tmp_path / "elsewhere") == ["checkpoint-8", "checkpoint-16", "checkpoint-24"]
    path = tmp_path / "elsewhere" / "checkpoint-24"
    assert {*os.listdir(path)} == FILES | {"note.txt", "commit.json"}
    assert "note.txt" in json.loads((path / "commit.json").read_text())["files"]


def test_sharded_strategies_are_left_to_trainer(
    run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(ScaiTrainerMixin, "_scai_left_to_trainer", lambda self: "FSDP")
    run(ScaiTrainer).train()
    assert {*os.listdir(tmp_path / "run" / "checkpoint-24")} == FILES
    assert caplog.text.count("unprotected: FSDP") == 1
    run(ScaiTrainer, num_train_epochs=4).train(resume_from_checkpoint=True)


def test_a_checkpoint_on_a_signal_is_whole(run: Callable[..., Any], tmp_path: Path) -> None:
    one = run(ScaiTrainer, enable_jit_checkpoint=True)
    jit = next(c for c in one.callback_handler.callbacks if hasattr(c, "jit_manager"))
    one.add_callback(At(3, lambda: jit.jit_manager._enable_checkpoint()))
    one.train()
    assert len(names(tmp_path / "run")) == 1
    path = tmp_path / "run" / names(tmp_path / "run")[0]
    assert {*os.listdir(path)} == FILES | {"commit.json"}


# Several processes


RANKS = """
import os, sys, torch
sys.path.insert(0, sys.argv[2])
from regression import trainer, weights
from scai.integrations.transformers import ScaiTrainer
from test_transformers import same
from pathlib import Path
directory, way = Path(sys.argv[1]), sys.argv[3]
arguments = dict(pretrained=False, save_steps=4, wait=way == "wait", ddp_backend="gloo")
whole = trainer(ScaiTrainer, directory, save_total_limit=3, **arguments)
whole.train()
rank = whole.args.process_index
def say(*values):
    # In one piece, since another process says something too.
    os.write(1, (" ".join(map(str, (rank, *values))) + "\\n").encode())
files = sorted(os.listdir(directory))
torch.distributed.barrier()
if rank == 0:
    content = bytearray((directory / "checkpoint-12" / "rng_state_1.pth").read_bytes())
    content[len(content) // 2] ^= 1
    (directory / "checkpoint-12" / "rng_state_1.pth").write_bytes(content)
torch.distributed.barrier()
try:
    trainer(ScaiTrainer, directory, **arguments).train(resume_from_checkpoint=str(directory / "checkpoint-12"))
except Exception as error:
    say(type(error).__name__, "rng_state_1.pth" in str(error))
again = trainer(ScaiTrainer, directory, **arguments)
again.train(resume_from_checkpoint=True)
assert again._initial_global_step == 8, again._initial_global_step
assert same(weights(again), weights(whole))
say(files)
# PyTorch may abort when it tears down what DDP used, with Trainer alone too.
os._exit(0)
"""


@pytest.mark.parametrize("way", ["wait", "later"])
def test_several_processes_save_one_checkpoint_together(tmp_path: Path, way: str) -> None:
    script = tmp_path / "script.py"
    script.write_text(RANKS)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    done = subprocess.run(
        [*command, str(script), str(tmp_path / "run"), str(ROOT / "tests" / "python"), way],
        check=False,
        capture_output=True,
        text=True,
        timeout=400,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line for line in done.stdout.splitlines() if line[:2] in ("0 ", "1 ")]
    there = "['checkpoint-12', 'checkpoint-4', 'checkpoint-8']"
    assert sorted(lines) == [
        *("0 DamagedError True", f"0 {there}", "1 CheckpointError True", f"1 {there}")
    ]
    expected = FILES - {"rng_state.pth"} | {"rng_state_0.pth", "rng_state_1.pth", "commit.json"}
    assert {*os.listdir(tmp_path / "run" / "checkpoint-12")} == expected


def test_scai_alone_imports_no_transformers() -> None:
    run_python("import sys, scai; assert 'transformers' not in sys.modules, 'imported'")


@pytest.mark.parametrize("way", ["scai", "scai, wait"])
def test_a_killed_training_goes_on_and_ends_with_the_same_bits(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    import kills

    found = kills.campaign("transformers", way, KILLS, tmp_path, seed=sys.maxsize)
    assert found.kills == KILLS
    assert not found.failed and not found.over and not found.wrong
    # What is being saved, and the one that waits, may be lost.
    assert max(found.lost) <= 3 * 4
