"""What transformers' own tests ask of a Trainer's checkpoints, of Trainer and of ScaiTrainer.

Scenarios of ``tests/trainer/test_trainer_checkpointing.py`` of transformers that need no network, by their
names there, written anew: that file is in no package.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("transformers", reason="needs scai[transformers]")

import safetensors.torch
from regression import FILES, Line, PretrainedLine, trainer, weights
from scai.integrations.transformers import ScaiTrainer
from torch import nn
from transformers import Trainer, TrainerCallback, TrainerState, set_seed
from transformers.trainer_utils import get_last_checkpoint, rotate_checkpoints, sort_checkpoints

pytestmark = pytest.mark.filterwarnings("ignore")

EPOCHS = 3
TOTAL = EPOCHS * 64 // 8


@pytest.fixture(params=[Trainer, ScaiTrainer])
def kind(request: pytest.FixtureRequest) -> Iterator[type[Trainer]]:
    yield request.param


def checkpoints(directory: Path) -> list[str]:
    return sorted(os.listdir(directory), key=lambda name: int(name.partition("-")[2]))


def check_saved(directory: Path, steps: Any, pretrained: bool = True) -> None:
    """All that is in a directory are these checkpoints, each with its files."""
    assert checkpoints(directory) == [f"checkpoint-{step}" for step in steps]
    for step in steps:
        there = {*os.listdir(directory / f"checkpoint-{step}")} - {"commit.json"}
        assert there == FILES | ({"config.json"} if pretrained else set())


def every(freq: int, total: int = TOTAL) -> list[int]:
    return sorted({*range(freq, total + 1, freq), total})


def plain(state: TrainerState) -> Any:
    """A state without what depends on time."""
    found = dataclasses.asdict(state)
    for entry in found["log_history"]:
        for name in [name for name in entry if "runtime" in name or "per_second" in name]:
            del entry[name]
    found["log_history"] = [entry for entry in found["log_history"] if "train_loss" not in entry]
    return found


def check_resumed(kind: type[Trainer], directory: Path, change: Any = None, **arguments: Any) -> None:
    """A training that goes on from two of its checkpoints ends as it did."""
    whole = trainer(kind, directory, length=128, save_steps=5, logging_steps=5, **arguments)
    whole.train()
    for step in (5, 15):
        checkpoint = directory / f"checkpoint-{step}"
        if not checkpoint.exists():
            continue
        if change is not None:
            change(checkpoint)
        again = trainer(kind, directory, length=128, save_steps=5, logging_steps=5, **arguments)
        again.train(resume_from_checkpoint=str(checkpoint))
        assert all(torch.equal(weights(whole)[name], each) for name, each in weights(again).items())
        assert plain(again.state) == plain(whole.state)


@pytest.mark.parametrize("pretrained", [True, False])
def test_save_checkpoints(kind: type[Trainer], tmp_path: Path, pretrained: bool) -> None:
    trainer(kind, tmp_path, save_steps=5, pretrained=pretrained).train()
    check_saved(tmp_path, every(5), pretrained)


@pytest.mark.parametrize("pretrained", [True, False])
def test_can_resume_training(kind: type[Trainer], tmp_path: Path, pretrained: bool) -> None:
    check_resumed(kind, tmp_path / "run", pretrained=pretrained)
    with pytest.raises(Exception, match="Can't find a valid checkpoint at"):
        trainer(kind, tmp_path / "new").train(resume_from_checkpoint=f"{tmp_path}/checkpoint-5-bogus")
    with pytest.raises(Exception, match="No valid checkpoint found in output directory"):
        trainer(kind, tmp_path / "new").train(resume_from_checkpoint=True)


def test_resume_training_with_different_batch_size(kind: type[Trainer], tmp_path: Path) -> None:
    one = trainer(kind, tmp_path, max_steps=2, save_steps=1, per_device_train_batch_size=2)
    one.train()
    checkpoint = tmp_path / "checkpoint-1"
    state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
    assert state.train_batch_size == 2
    other = trainer(kind, tmp_path, max_steps=4, save_steps=1, per_device_train_batch_size=4)
    other.train(resume_from_checkpoint=str(checkpoint))
    assert other._train_batch_size == 4


def test_training_with_resume_from_checkpoint_false(kind: type[Trainer], tmp_path: Path) -> None:
    for _ in range(2):
        one = trainer(kind, tmp_path, save_steps=5)
        one.train(resume_from_checkpoint=False)
        assert one.state.global_step == TOTAL


def into_shards(checkpoint: Path) -> None:
    """Put a file for each tensor in place of the file of weights."""
    tensors = safetensors.torch.load_file(checkpoint / "model.safetensors")
    (checkpoint / "model.safetensors").unlink()
    names = {key: f"model-{i + 1:05}-of-{len(tensors):05}.safetensors" for i, key in enumerate(tensors)}
    for key, name in names.items():
        safetensors.torch.save_file({key: tensors[key]}, checkpoint / name, {"format": "pt"})
    index = {"metadata": {}, "weight_map": names}
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps(index))


def test_resume_training_with_shard_checkpoint(kind: type[Trainer], tmp_path: Path) -> None:
    check_resumed(kind, tmp_path, into_shards)


def test_resume_training_with_checkpoint(kind: type[Trainer], tmp_path: Path) -> None:
    check_resumed(kind, tmp_path)


def test_resume_training_with_gradient_accumulation(kind: type[Trainer], tmp_path: Path) -> None:
    check_resumed(kind, tmp_path, gradient_accumulation_steps=2, per_device_train_batch_size=4)


def test_resume_training_with_frozen_params(kind: type[Trainer], tmp_path: Path) -> None:
    arguments = {"save_steps": 5, "per_device_train_batch_size": 4}
    whole = trainer(kind, tmp_path, **arguments)
    whole.model.a.requires_grad_(False)
    whole.train()
    again = trainer(kind, tmp_path, **arguments)
    again.model.a.requires_grad_(False)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))
    assert not again.model.a.requires_grad
    assert all(torch.equal(weights(whole)[name], each) for name, each in weights(again).items())


class OutOfMemory(TrainerCallback):
    """Says that there is no memory for large batches."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.train_batch_size >= 16:
            raise RuntimeError("CUDA out of memory.")


def test_auto_batch_size_with_resume_from_checkpoint(kind: type[Trainer], tmp_path: Path) -> None:
    arguments: Any = {
        "length": 128,
        "max_steps": 2,
        "save_steps": 1,
        "per_device_train_batch_size": 16,
        "auto_find_batch_size": True,
    }
    one = trainer(kind, tmp_path, callbacks=[OutOfMemory()], **arguments)
    one.train()
    size = one._train_batch_size
    assert size < 16
    again = trainer(kind, tmp_path, **arguments)
    assert again._train_batch_size == 16
    again.train(resume_from_checkpoint=True)
    assert again._train_batch_size == size


def test_checkpoint_sorting(kind: type[Trainer], tmp_path: Path) -> None:
    trainer(kind, tmp_path, save_steps=5).train()
    found = [os.path.basename(path) for path in sort_checkpoints(str(tmp_path))]
    assert found == [f"checkpoint-{step}" for step in every(5)]
    best = str(tmp_path / "checkpoint-5")
    found = [os.path.basename(p) for p in sort_checkpoints(str(tmp_path), best_model_checkpoint=best)]
    assert found == [f"checkpoint-{step}" for step in (10, 15, 20, 5, 24)]
    assert get_last_checkpoint(str(tmp_path)) == str(tmp_path / f"checkpoint-{TOTAL}")


@pytest.mark.parametrize(
    ("limit", "best", "left"),
    [(2, None, [20, 25]), (2, 5, [5, 25]), (1, 25, [25]), (1, 5, [5, 25])],
)
def test_checkpoint_rotation(
    kind: type[Trainer], tmp_path: Path, limit: int, best: int | None, left: list[int]
) -> None:
    for step in (5, 10, 15, 20, 25):
        (tmp_path / f"checkpoint-{step}").mkdir()
    chosen = None if best is None else str(tmp_path / f"checkpoint-{best}")
    rotate_checkpoints(str(tmp_path), limit, chosen)
    assert checkpoints(tmp_path) == [f"checkpoint-{step}" for step in left]
    # The same by a save, with directories made by hand beside.
    for step in (5, 10, 15, 20):
        (tmp_path / f"checkpoint-{step}").mkdir(exist_ok=True)
    one = trainer(kind, tmp_path, max_steps=30, save_steps=30, save_total_limit=limit)
    one.add_callback(Remembering(chosen))
    one.train()
    kept = {30} if best is None else {30, best}
    there = {int(name.partition("-")[2]) for name in os.listdir(tmp_path)}
    assert there >= kept or limit == 1 and there == {best}
    assert len(there) == max(limit, len(kept)) or there == {best}


class Remembering(TrainerCallback):
    """Says which checkpoint is the best."""

    def __init__(self, best: str | None) -> None:
        self.best = best

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        state.best_model_checkpoint = self.best


def test_compare_trainer_and_checkpoint_args_logging(
    kind: type[Trainer], tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers.utils import logging

    monkeypatch.setattr(logging.get_logger(), "propagate", True)
    logging.warning_once.cache_clear()
    trainer(kind, tmp_path, length=128, save_steps=5, eval_steps=5).train()
    other = trainer(
        kind, tmp_path, length=256, save_steps=10, eval_steps=10, per_device_train_batch_size=4
    )
    other.train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))
    assert "save_steps: 10 (from args) != 5 (from trainer_state.json)" in caplog.text
    assert "eval_steps: 10 (from args) != 5 (from trainer_state.json)" in caplog.text
    assert "per_device_train_batch_size: 4 (from args) != 8" in caplog.text


def test_resume_from_interrupted_training(kind: type[Trainer], tmp_path: Path) -> None:
    arguments: Any = {
        "model": Line(),
        "length": 100,
        "num_train_epochs": 1,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 3,
        "save_steps": 1,
    }
    trainer(kind, tmp_path / "one", max_steps=2, **arguments).train()
    checkpoint = tmp_path / "one" / "checkpoint-2"
    assert checkpoint.exists()
    other = trainer(kind, tmp_path / "other", **arguments)
    other.train(resume_from_checkpoint=str(checkpoint))
    assert other.state.global_step == 17
    assert (tmp_path / "other" / "checkpoint-17" / "model.safetensors").exists()


class Ordered(nn.Module):
    """Remembers the order in which it saw data, in a buffer that grows."""

    order: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.zeros(()))
        self.register_buffer("order", torch.empty(0))

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        self.order = state_dict["order"].clone()
        return super().load_state_dict(state_dict, strict=strict, assign=assign)

    def forward(self, input_x: torch.Tensor, labels: torch.Tensor | None = None) -> Any:
        self.order = torch.cat([self.order, input_x.detach()])
        output = self.a * input_x
        return {"loss": nn.functional.mse_loss(output, labels), "logits": output}  # type: ignore[arg-type]


def test_resume_batch_order(kind: type[Trainer], tmp_path: Path) -> None:
    def run(name: str, checkpoint: str | None) -> torch.Tensor:
        set_seed(42)
        arguments: Any = {"length": 10, "per_device_train_batch_size": 2, "save_steps": 1, "optim": "sgd"}
        one = trainer(kind, tmp_path / name, model=Ordered(), **arguments)
        one.train(resume_from_checkpoint=checkpoint)
        last = get_last_checkpoint(str(tmp_path / name))
        assert last is not None and last.endswith("checkpoint-15")
        return safetensors.torch.load_file(os.path.join(last, "model.safetensors"))["order"]

    whole = run("whole", None)
    again = run("again", str(tmp_path / "whole" / "checkpoint-6"))
    assert len(whole) == 30 and torch.equal(whole, again)


class Metrics:
    """Metrics that were thought up, one after the other."""

    def __init__(self, **values: list[float]) -> None:
        self.rows = [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]
        self.next = itertools.count()

    def __call__(self, _: Any) -> dict[str, float]:
        return self.rows[min(next(self.next), len(self.rows) - 1)]


def check_best_is_loaded(one: Any) -> None:
    best = one.state.best_model_checkpoint
    assert best is not None
    found = safetensors.torch.load_file(os.path.join(best, "model.safetensors"))
    assert all(torch.equal(each, found[name]) for name, each in weights(one).items())


def test_load_best_model_with_save_best(kind: type[Trainer], tmp_path: Path) -> None:
    one = trainer(
        kind,
        tmp_path,
        save_strategy="best",
        eval_strategy="steps",
        eval_steps=5,
        load_best_model_at_end=True,
        save_total_limit=2,
        max_steps=11,
    )
    one.train()
    check_best_is_loaded(one)


def test_load_best_model_with_save(kind: type[Trainer], tmp_path: Path) -> None:
    arguments: Any = {"save_steps": 5, "eval_strategy": "steps", "eval_steps": 5}
    one = trainer(kind, tmp_path / "one", max_steps=9, **arguments)
    one.train()
    assert (tmp_path / "one" / "checkpoint-9").exists()
    other = trainer(
        kind,
        tmp_path / "other",
        max_steps=11,
        load_best_model_at_end=True,
        save_total_limit=2,
        **arguments,
    )
    other.train()
    assert checkpoints(tmp_path / "other") == ["checkpoint-10", "checkpoint-11"]
    check_best_is_loaded(other)


@pytest.mark.parametrize("metric", ["accuracy", "loss"])
def test_save_best_checkpoint(kind: type[Trainer], tmp_path: Path, metric: str) -> None:
    values = {"accuracy": [0.6, 0.65, 0.64], "loss": [0.03, 0.02, 0.03]}
    one = trainer(
        kind, tmp_path, eval_strategy="epoch", save_strategy="best", metric_for_best_model=metric
    )
    rows = iter(
        {"eval_loss": loss, "eval_accuracy": accuracy}
        for loss, accuracy in zip(values["loss"], values["accuracy"], strict=True)
    )
    one._evaluate = lambda *_, **__: next(rows)
    one.train()
    check_saved(tmp_path, [8, 16])


def test_metric_for_best_model_behavior(kind: type[Trainer], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="metric_for_best_model"):
        trainer(kind, tmp_path, eval_strategy="epoch", save_strategy="best")
    one = trainer(
        kind, tmp_path, eval_strategy="steps", save_strategy="steps", load_best_model_at_end=True
    )
    assert one.args.metric_for_best_model == "loss"


@pytest.mark.parametrize(
    ("case", "step", "count"),
    [
        ({"eval_strategy": "no", "save_steps": 1}, None, TOTAL),
        ({"eval_strategy": "no", "save_steps": 1, "save_total_limit": 1}, None, 1),
        ({"eval_strategy": "epoch", "save_strategy": "epoch"}, 8, EPOCHS),
        ({"eval_strategy": "epoch", "save_steps": 1}, 8, TOTAL),
        ({"eval_strategy": "steps", "eval_steps": 1, "save_steps": 1, "save_total_limit": 1}, 1, 1),
        # The best is not among those that are saved.
        ({"eval_strategy": "steps", "eval_steps": 3, "save_steps": 2}, 3, TOTAL // 2),
    ],
)
def test_best_model_checkpoint_behavior(
    kind: type[Trainer], tmp_path: Path, case: dict[str, Any], step: int | None, count: int
) -> None:
    one = trainer(
        kind,
        tmp_path,
        metric_for_best_model="accuracy",
        greater_is_better=True,
        compute_metrics=Metrics(accuracy=[0.9, 0.8, 0.7]),
        **case,
    )
    one.train()
    assert one.state.best_global_step == step
    assert one.state.best_metric == (None if step is None else 0.9)
    is_saved = step is not None and "eval_steps" not in case or case.get("save_steps") == 1
    best = str(tmp_path / f"checkpoint-{step}") if step is not None and is_saved else None
    assert one.state.best_model_checkpoint == best
    assert len(os.listdir(tmp_path)) == count
    if best is not None:
        assert os.path.isdir(best)
        for name in checkpoints(tmp_path):
            state = json.loads((tmp_path / name / "trainer_state.json").read_text())
            is_known = state["best_global_step"] is not None
            assert state["best_model_checkpoint"] == (best if is_known else None)


@pytest.mark.parametrize(
    ("metric", "by", "pretrained"),
    [("loss", "steps", True), ("accuracy", "steps", True), ("accuracy", "epoch", True), ("loss", "steps", False)],
)
def test_load_best_model_at_end(
    kind: type[Trainer], tmp_path: Path, metric: str, by: str, pretrained: bool
) -> None:
    one = trainer(
        kind,
        tmp_path,
        eval_strategy=by,
        save_strategy=by,
        eval_steps=5,
        save_steps=5,
        load_best_model_at_end=True,
        metric_for_best_model=metric,
        compute_metrics=Metrics(accuracy=[0.5, 0.9, 0.7, 0.6]),
        pretrained=pretrained,
    )
    assert one.args.greater_is_better == (metric == "accuracy")
    one.train()
    check_saved(tmp_path, every(5 if by == "steps" else 8), pretrained)
    check_best_is_loaded(one)


@pytest.mark.parametrize("pretrained", [True, False])
def test_load_best_model_from_safetensors(kind: type[Trainer], tmp_path: Path, pretrained: bool) -> None:
    one = trainer(
        kind,
        tmp_path,
        eval_strategy="steps",
        eval_steps=5,
        save_steps=5,
        load_best_model_at_end=True,
        pretrained=pretrained,
    )
    one.train()
    check_saved(tmp_path, every(5), pretrained)
    check_best_is_loaded(one)
    if pretrained:
        again = PretrainedLine.from_pretrained(one.state.best_model_checkpoint)
        assert torch.equal(again.a, one.model.a)
