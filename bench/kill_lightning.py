"""A small training with Lightning for `kills.py`: resumed by Lightning itself, with ``ckpt_path="last"``.

Each epoch is the same batches in the same order and ends with a save, since Lightning repeats batches when it
resumes in the middle of an epoch, and keeps no random states.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.plugins.io import AsyncCheckpointIO, TorchCheckpointIO
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

WAYS = ("scai", "scai, a link", "Lightning", "Lightning, async", "Lightning, async, a link")
EPOCHS, BATCHES, WIDTH = 30, 4, 384


class Model(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(*(nn.Linear(WIDTH, WIDTH) for _ in range(6)))

    def training_step(self, batch: Any) -> torch.Tensor:
        loss: torch.Tensor = self.layers(batch[0]).square().mean()
        # It gets better with every epoch: a new best is saved, and the one before is removed.
        self.log("loss", -float(self.current_epoch), on_step=False, on_epoch=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


class Telling(Callback):
    def __init__(self, tell: Callable[[str, int], None]) -> None:
        self.tell = tell

    def on_train_start(self, trainer: Trainer, _: Any) -> None:
        self.tell("begin", trainer.global_step)

    def on_train_epoch_start(self, trainer: Trainer, _: Any) -> None:
        if trainer.current_epoch > 0:
            self.tell("step", trainer.global_step)


def io_of(way: str) -> list[Any]:
    if way.startswith("scai"):
        from scai.integrations.lightning import ScaiCheckpointIO

        return [ScaiCheckpointIO()]
    return [AsyncCheckpointIO() if "async" in way else TorchCheckpointIO()]


def train(way: str, directory: Path, tell: Callable[[str, int], None]) -> dict[str, Any]:
    """Train to the end, or go on where a training in `directory` was killed; returns the final state."""
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    save_last: Any = "link" if "link" in way else True
    saving = ModelCheckpoint(directory, monitor="loss", save_last=save_last)
    trainer = Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=directory,
        callbacks=[saving, Telling(tell)],
        plugins=io_of(way),
    )
    model = Model()
    data = torch.randn(BATCHES * 4, WIDTH, generator=torch.Generator().manual_seed(1))
    trainer.fit(model, DataLoader(TensorDataset(data), batch_size=4), ckpt_path="last")
    return {"model": model.state_dict(), "optimizer": trainer.optimizers[0].state_dict()}
