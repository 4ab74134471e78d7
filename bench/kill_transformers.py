"""A small training with the Trainer of transformers for `kills.py`, resumed with ``resume_from_checkpoint=True``.

Every fourth step is saved, in the middle of epochs too: Trainer skips the batches it had, and keeps random states.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint
from transformers.utils import logging

WAYS = ("scai", "scai, wait", "Trainer")
STEPS, EVERY, WIDTH = 80, 4, 384


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        layers = [nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Dropout(0.1)) for _ in range(6)]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> Any:
        return {"loss": self.layers(x).square().mean()}


class Telling(TrainerCallback):
    def __init__(self, tell: Callable[[str, int], None]) -> None:
        self.tell = tell

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.tell("begin", state.global_step)

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step % EVERY == 0 and state.global_step > 0:
            self.tell("step", state.global_step)


def train(way: str, directory: Path, tell: Callable[[str, int], None]) -> dict[str, Any]:
    """Train to the end, or go on where a training in `directory` was killed; returns the final state."""
    warnings.simplefilter("ignore")
    logging.set_verbosity_error()
    torch.set_num_threads(1)
    data = torch.randn(28, WIDTH, generator=torch.Generator().manual_seed(1))
    arguments = TrainingArguments(
        str(directory),
        max_steps=STEPS,
        save_steps=EVERY,
        save_total_limit=1,
        per_device_train_batch_size=4,
        learning_rate=1e-3,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
    )
    kind: type[Trainer] = Trainer
    more = {}
    if way.startswith("scai"):
        from scai.integrations.transformers import ScaiTrainer

        kind, more = ScaiTrainer, {"wait": "wait" in way}
    dataset: Any = [{"x": row} for row in data]
    trainer = kind(Model(), arguments, train_dataset=dataset, callbacks=[Telling(tell)], **more)
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(directory)) is not None)
    optimizer: Any = trainer.optimizer
    model: Any = trainer.model
    return {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
