"""Training states of three kinds, each with a step of training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn


@dataclass
class State:
    """A model and its optimizer after a step, and how to make another step."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    step: Callable[[], None]

    def nbytes(self) -> int:
        tensors = [*self.model.state_dict().values()]
        for state in self.optimizer.state_dict()["state"].values():
            tensors += [value for value in state.values() if isinstance(value, torch.Tensor)]
        return sum(tensor.nbytes for tensor in tensors)

    def count(self) -> int:
        moments = sum(len(s) for s in self.optimizer.state_dict()["state"].values())
        return len(self.model.state_dict()) + moments


class Rows(nn.Module):
    """Many parameters of a few elements, each used in the forward pass."""

    def __init__(self, count: int, elements: int) -> None:
        super().__init__()
        self.rows = nn.ParameterList(nn.Parameter(torch.randn(elements)) for _ in range(count))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ torch.stack(list(self.rows)).T


def large(scale: float) -> State:
    """0.6 GB in 36 large tensors: twelve matrices, and two moments each."""
    side = int(2048 * scale**0.5)
    model = nn.Sequential(*(nn.Linear(side, side, bias=False) for _ in range(12)))
    return _state(model, torch.randn(64, side))


def middling(scale: float) -> State:
    """0.6 GB in 4,000 tensors of 150 KB, and as many step counters as parameters."""
    return _state(Rows(int(1333 * scale), 37_500), torch.randn(8, 37_500))


def tiny(scale: float) -> State:
    """20,000 tensors of 64 elements and less."""
    return _state(Rows(int(5000 * scale), 64), torch.randn(8, 64))


KINDS = {"large": large, "middling": middling, "tiny": tiny}


def _state(model: nn.Module, x: torch.Tensor) -> State:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        model(x).pow(2).mean().backward()
        optimizer.step()

    step()
    return State(model, optimizer, step)
