"""A training of tic-tac-toe that takes a tenth of a second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scai.training.trainer import Trainer

SETTINGS: dict[str, Any] = {
    "seed": 7,
    "game": "tictactoe",
    "model": {"num_blocks": 2, "channels": 8},
    "self_play": {
        "games_per_iteration": 8,
        "parallel_games": 4,
        "simulations": 8,
        "temperature_moves": 4,
        "threads": 2,
    },
    "training": {
        "iterations": 6,
        "save_interval": 2,
        "steps_per_iteration": 3,
        "batch_size": 16,
        "warmup_steps": 4,
    },
    "replay_buffer": {"capacity": 150, "min_positions": 20},
    "evaluation": {"interval": 3, "games": 4, "simulations": 8, "opponents": ["random"]},
    "checkpoint": {"keep": "all"},
}

ENDLESS = {"iterations": 100_000, "save_interval": 100_000}
"""Of the section ``training``; nothing is saved before the end."""


def small(directory: Path, **settings: Any) -> Trainer:
    """A small training in `directory`, with these settings in place of some."""
    for section, default in [
        ("checkpoint", {"directory": directory}),
        ("logging", {"directory": directory / "logs"}),
    ]:
        settings[section] = {**default, **settings.get(section, {})}
    return Trainer(SETTINGS, **settings)


def names(directory: Path) -> list[str]:
    """The names of the checkpoints."""
    return sorted(path.name for path in directory.glob("checkpoint_iter_*.pt"))


def state(path: Path) -> dict[str, Any]:
    """What a checkpoint holds, as PyTorch reads it, without what depends on the clock."""
    import torch

    checkpoint: dict[str, Any] = torch.load(path, weights_only=True)
    del checkpoint["metadata"], checkpoint["timestamp"]
    return checkpoint


def differences(a: Any, b: Any, path: str = "") -> list[str]:
    """The paths of what is not the same, bit for bit."""
    import torch

    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        same = a.dtype == b.dtype and a.shape == b.shape and bool((a == b).all())
        return [] if same else [path]
    if isinstance(a, dict) and isinstance(b, dict):
        found = [] if list(a) == list(b) else [f"{path}: keys"]
        return found + [
            x for key in a if key in b for x in differences(a[key], b[key], f"{path}.{key}")
        ]
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        found = [] if len(a) == len(b) else [f"{path}: length"]
        return found + [
            z for i, (x, y) in enumerate(zip(a, b)) for z in differences(x, y, f"{path}.{i}")
        ]
    return [] if type(a) is type(b) and a == b else [path]
