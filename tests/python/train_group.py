"""A training for one process, which is also one for several: the two lines of scai are the same.

``python train_group.py DIRECTORY ITERATIONS EVERY [divide]`` by itself or under torchrun, with a model of which
each rank has a copy, or a part (FSDP2). It prints a digest of all that training has left on each rank.
"""

from __future__ import annotations

import hashlib
import os
import random
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from scai import CheckpointManager
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel


class Positions:
    """A data loader of its own on each rank."""

    def __init__(self, rank: int) -> None:
        self.position = rank

    def batch(self) -> torch.Tensor:
        self.position += 2
        generator = torch.Generator().manual_seed(self.position)
        return torch.randn(8, 8, generator=generator) + torch.rand(8, 8) * random.random()

    def state_dict(self) -> dict[str, int]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.position = state["position"]


def train(
    directory: Path, iterations: int, every: int, pause: float = 0, divide: bool = False
) -> tuple[str, int]:
    """Train, and return a digest of all there is at the end, and where the training began."""
    rank = dist.get_rank() if dist.is_initialized() else 0
    torch.manual_seed(5)
    model: nn.Module = nn.Sequential(
        nn.Linear(8, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.3), nn.Linear(32, 32), nn.Linear(32, 4)
    )
    if dist.is_initialized() and divide:
        mesh = init_device_mesh("cpu", (dist.get_world_size(),))
        for part in (model[0], model[4], model[5]):
            fully_shard(part, mesh=mesh)
        fully_shard(model, mesh=mesh)
    elif dist.is_initialized():
        model = DistributedDataParallel(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, iterations)
    torch.manual_seed(100 + rank)
    random.seed(100 + rank)
    data = Positions(rank)

    manager = CheckpointManager(directory, keep_last=3)
    resumed = manager.resume(model, optimizer, scheduler=scheduler, dataloader=data)
    begin = resumed.iteration if resumed else 0
    for iteration in range(begin + 1, iterations + 1):
        optimizer.zero_grad()
        model(data.batch()).square().mean().backward()
        optimizer.step()
        scheduler.step()
        time.sleep(pause)
        if every and iteration % every == 0:
            wait = iteration % (2 * every) == 0
            manager.save_checkpoint(
                model, optimizer, iteration, scheduler=scheduler, dataloader=data, wait=wait
            )
    manager.close()
    parts: list[Any] = [optimizer, scheduler, data]
    states: list[Any] = [dict(model.named_parameters()), *(part.state_dict() for part in parts)]
    if rank == 0:
        # The others have its buffers from the next forward pass on, or from a checkpoint.
        states.append([buffer for _, buffer in model.named_buffers()])
    return digest_of([*states, torch.get_rng_state(), random.getstate()]), begin


def digest_of(state: Any) -> str:
    digest = hashlib.sha256()

    def add(value: Any) -> None:
        if isinstance(value, torch.Tensor):
            value = getattr(value, "_local_tensor", value)
            digest.update(value.detach().contiguous().numpy().tobytes())
        elif isinstance(value, dict):
            for key, part in value.items():
                digest.update(repr(key).encode())
                add(part)
        elif isinstance(value, (list, tuple)):
            for part in value:
                add(part)
        else:
            digest.update(repr(value).encode())

    add(state)
    return digest.hexdigest()


if __name__ == "__main__":
    torch.set_num_threads(1)
    if "RANK" in os.environ:
        dist.init_process_group("gloo")
    directory, iterations, every, *more = sys.argv[1:]
    digest, begin = train(Path(directory), int(iterations), int(every), 0.002, divide=bool(more))
    Path(f"{directory}.{os.environ.get('RANK', 0)}").write_text(digest)
    print(begin, digest)
