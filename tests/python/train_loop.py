"""A training that can be killed at any moment and run again until it has finished.

python train_loop.py DIRECTORY [--iterations 60] [--every 3]
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import scai
import torch
from scai.utils.checkpoint import CheckpointManager
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.fc1 = nn.Linear(8 * 64, 512)
        self.fc2 = nn.Linear(512, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.bn(self.conv(x)))
        return self.fc2(F.dropout(F.relu(self.fc1(x.flatten(1))), 0.2, self.training))


class Batches:
    """Endless shuffled batches that know where they are."""

    def __init__(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        self.generator = torch.Generator().manual_seed(7)
        data = TensorDataset(images, labels)
        self.loader = DataLoader(data, 16, shuffle=True, generator=self.generator)
        self.epoch_began = self.generator.get_state()
        self.taken = 0

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        while True:
            skip = self.taken
            for i, batch in enumerate(self.loader):
                if i >= skip:
                    self.taken = i + 1
                    yield batch
            self.epoch_began = self.generator.get_state()
            self.taken = 0

    def state_dict(self) -> dict[str, object]:
        return {"epoch_began": self.epoch_began, "taken": self.taken}

    def load_state_dict(self, state: dict[str, object]) -> None:
        self.epoch_began, self.taken = state["epoch_began"], state["taken"]
        self.generator.set_state(self.epoch_began)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("directory", type=Path)
    parser.add_argument("--iterations", type=int, default=60)
    parser.add_argument("--every", type=int, default=3)
    args = parser.parse_args()

    torch.set_num_threads(1)
    random.seed(1)
    np.random.seed(2)
    torch.manual_seed(3)
    images, labels = torch.rand(150, 1, 8, 8), torch.randint(0, 10, (150,))
    batches = Batches(images, labels)
    model = Net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.003)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, total_steps=args.iterations)
    stats = {"total_iterations": 0, "losses": []}
    parts = {"scheduler": scheduler, "dataloader": batches}

    with CheckpointManager(args.directory, keep_last=2, keep_every=30) as manager:
        resumed = manager.resume(model, optimizer, **parts)
        if resumed is not None:
            stats = resumed.checkpoint["training_stats"]
        stream = iter(batches)
        for iteration in range(stats["total_iterations"] + 1, args.iterations + 1):
            x, y = next(stream)
            if random.random() < 0.5:
                x = x.flip(-1)
            x = x + 0.01 * float(np.random.randn())
            loss = F.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
            stats["total_iterations"] = iteration
            stats["losses"].append(loss.item())
            if args.every and iteration % args.every == 0:
                manager.save_checkpoint(model, optimizer, iteration, stats, wait=False, **parts)
            print(iteration, flush=True)

    final = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
        "batches": batches.state_dict(),
        "stats": stats,
        "random": [random.getstate(), np.random.get_state(), torch.get_rng_state()],
    }
    scai.save(final, args.directory / "final.pt")


if __name__ == "__main__":
    main()
