"""A training with the Trainer of transformers that takes a moment: a line through noisy points."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from transformers import (
    PreTrainedConfig,
    PreTrainedModel,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

FILES = {
    "model.safetensors",
    "optimizer.pt",
    "rng_state.pth",
    "scheduler.pt",
    "trainer_state.json",
    "training_args.bin",
}


class Points(torch.utils.data.Dataset[Any]):
    """Of the line 2x + 3."""

    def __init__(self, length: int = 64, seed: int = 42) -> None:
        chance = np.random.RandomState(seed)
        self.x = chance.normal(size=length).astype(np.float32)
        self.y = (2 * self.x + 3 + chance.normal(scale=0.1, size=length)).astype(np.float32)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"input_x": self.x[index], "labels": self.y[index]}


def loss_of(output: torch.Tensor, labels: torch.Tensor | None) -> Any:
    return (output,) if labels is None else (nn.functional.mse_loss(output, labels), output)


class Line(nn.Module):
    """A model of nobody's; random while it trains, and with `ballast` that makes its files larger."""

    def __init__(self, a: float = 0.0, b: float = 0.0, ballast: int = 1) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(a))
        self.b = nn.Parameter(torch.tensor(b))
        self.ballast = nn.Parameter(torch.zeros(ballast))

    def forward(self, input_x: torch.Tensor, labels: torch.Tensor | None = None) -> Any:
        noise = torch.randn(()) * 0.01 if self.training else 0.0
        return loss_of(input_x * self.a + self.b + noise + self.ballast.mean(), labels)


class LineConfig(PreTrainedConfig):
    def __init__(self, a: float = 0.0, b: float = 0.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.a, self.b = a, b
        self.hidden_size = 1


class PretrainedLine(PreTrainedModel):
    config_class = LineConfig
    base_model_prefix = "line"

    def __init__(self, config: LineConfig) -> None:
        super().__init__(config)
        self.a = nn.Parameter(torch.tensor(config.a))
        self.b = nn.Parameter(torch.tensor(config.b))
        self.post_init()

    def forward(self, input_x: torch.Tensor, labels: torch.Tensor | None = None, **_: Any) -> Any:
        return loss_of(input_x * self.a + self.b, labels)


def trainer(
    kind: type[Trainer],
    directory: Path | str,
    *,
    pretrained: bool = True,
    length: int = 64,
    model: Any = None,
    callbacks: list[TrainerCallback] | None = None,
    compute_metrics: Any = None,
    **arguments: Any,
) -> Any:
    """A trainer whose training is the same each time."""
    wait = arguments.pop("wait", False)
    more = {} if kind is Trainer else {"wait": wait}
    if model is None:
        model = PretrainedLine(LineConfig()) if pretrained else Line()
    settings: dict[str, Any] = {
        "use_cpu": True,
        "disable_tqdm": True,
        "report_to": [],
        "learning_rate": 0.1,
        "per_device_train_batch_size": 8,
        "per_device_eval_batch_size": 8,
    }
    return kind(
        model,
        TrainingArguments(str(directory), **(settings | arguments)),
        train_dataset=Points(length),
        eval_dataset=Points(),
        callbacks=callbacks,
        compute_metrics=compute_metrics,
        **more,
    )


def weights(of: Any) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in of.model.state_dict().items()}
