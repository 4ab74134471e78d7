"""A small loop with Ray Train for `kills.py`, resumed from what Ray has: `python bench/kills.py ray`.

What is killed is the program that starts Ray, and at once its worker, as when a machine stops. It is not among
what `kills.py` does by itself, since Ray is installed apart: see `make test-ray`.
"""

from __future__ import annotations

import json
import os
import select
import signal
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
# Ray takes one report each time; by itself every two seconds.
os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = "0.1"

import ray
import ray.train
import scai
import torch
from ray.train import Checkpoint, CheckpointConfig, CheckpointUploadMode, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from torch import nn

WAYS = ("scai", "Ray", "Ray, ASYNC")
STEPS, EVERY, WIDTH = 60, 3, 384


def die_with(program: int) -> None:
    """Kill this process when another one has ended. Ray itself takes a while to notice it."""
    select.select([os.pidfd_open(program)], [], [])
    os.kill(os.getpid(), signal.SIGKILL)


def loop(config: dict[str, Any]) -> None:
    """What the worker runs."""
    way = config["way"]

    def say(kind: str, step: int) -> None:
        with open(config["progress"], "a") as file:
            file.write(json.dumps([kind, step]) + "\n")

    threading.Thread(target=die_with, args=(config["program"],), daemon=True).start()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    layers = [nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Dropout(0.1)) for _ in range(6)]
    model = nn.Sequential(*layers)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    step = 0
    if way == "scai":
        import scai.integrations.ray as scai_ray
        from scai import CheckpointManager

        manager = CheckpointManager(config["near"])
        resumed = scai_ray.resume(manager, model, optimizer)
        step = 0 if resumed is None else resumed.iteration
    elif (checkpoint := ray.train.get_checkpoint()) is not None:
        with checkpoint.as_directory() as directory:
            state = torch.load(Path(directory, "checkpoint.pt"))
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["random"])
        step = state["step"]
    say("begin", step)
    while step < STEPS:
        loss = model(torch.randn(4, WIDTH)).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        step += 1
        if step % EVERY:
            continue
        metrics = {"loss": float(loss.detach())}
        if way == "scai":
            manager.save_checkpoint(model, optimizer, step, wait=False)
            scai_ray.report(manager, metrics)
        else:
            is_async = way == "Ray, ASYNC"
            # Ray removes it after the upload, or the program ends.
            directory = tempfile.mkdtemp(dir=config["near"])
            state = {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "random": torch.get_rng_state(),
                "step": step,
            }
            torch.save(state, Path(directory, "checkpoint.pt"))
            ray.train.report(
                metrics,
                Checkpoint.from_directory(directory),
                checkpoint_upload_mode=CheckpointUploadMode.ASYNC
                if is_async
                else CheckpointUploadMode.SYNC,
                delete_local_checkpoint_after_upload=True,
            )
        say("step", step)
    torch.save([model.state_dict(), optimizer.state_dict()], config["final"])


def train(way: str, directory: Path, tell: Callable[[str, int], None]) -> Any:
    """Train to the end, or go on where a training in `directory` was killed; returns the final state."""
    near, final = directory / "near", directory / "final.pt"
    near.mkdir(parents=True, exist_ok=True)
    progress = directory / f"progress-{os.getpid()}"
    progress.touch()
    ended = threading.Event()

    def follow() -> None:
        with progress.open() as file:
            rest, is_last = "", False
            while not is_last:
                # What is written before the end is read after it.
                is_last = ended.wait(0.005)
                *lines, rest = (rest + file.read()).split("\n")
                for line in lines:
                    tell(*json.loads(line))

    follower = threading.Thread(target=follow, daemon=True)
    follower.start()
    modules = f"{Path(__file__).parent}:{Path(scai.__file__).parents[1]}"
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=80 << 20,
        logging_level="error",
        log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": modules}},
    )
    trainer = TorchTrainer(
        loop,
        train_loop_config={
            "way": way,
            "program": os.getpid(),
            "near": str(near),
            "progress": str(progress),
            "final": str(final),
        },
        scaling_config=ScalingConfig(num_workers=1),
        run_config=RunConfig(
            name="run",
            storage_path=str(directory / "storage"),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
        ),
    )
    try:
        trainer.fit()
    finally:
        ray.shutdown()
        ended.set()
        follower.join()
    return torch.load(final)
