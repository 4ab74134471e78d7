"""A small loop with accelerate for `kills.py`, resumed with ``load_state()``.

Accelerate alone has to be told the number of the next checkpoint in a new process.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration
from torch import nn

WAYS = ("scai", "scai, later", "accelerate")
STEPS, EVERY, WIDTH = 80, 4, 384


class Position:
    """How far the loop is."""

    def __init__(self) -> None:
        self.step = 0

    def state_dict(self) -> dict[str, int]:
        return {"step": self.step}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.step = state["step"]


def accelerator_of(way: str, project: ProjectConfiguration) -> Accelerator:
    if way.startswith("scai"):
        from scai.integrations.accelerate import ScaiAccelerator

        return ScaiAccelerator(cpu=True, project_config=project, wait="later" not in way)
    return Accelerator(cpu=True, project_config=project)


def train(way: str, directory: Path, tell: Callable[[str, int], None]) -> dict[str, Any]:
    """Train to the end, or go on where a training in `directory` was killed; returns the final state."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    project = ProjectConfiguration(str(directory), automatic_checkpoint_naming=True, total_limit=1)
    accelerator = accelerator_of(way, project)
    layers = [nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Dropout(0.1)) for _ in range(6)]
    plain = nn.Sequential(*layers)
    model, optimizer = accelerator.prepare(plain, torch.optim.AdamW(plain.parameters(), lr=1e-3))
    position = Position()
    accelerator.register_for_checkpointing(position)
    saved = (directory / "checkpoints").glob("checkpoint_*")
    there = [int(path.name.partition("_")[2]) for path in saved]
    if there:
        if way == "accelerate":
            project.iteration = max(there) + 1
        accelerator.load_state()
    tell("begin", position.step)
    while position.step < STEPS:
        loss = model(torch.randn(4, WIDTH)).square().mean()
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        position.step += 1
        if position.step % EVERY == 0:
            accelerator.save_state()
            tell("step", position.step)
    accelerator.end_training()
    return {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
