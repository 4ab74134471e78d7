"""Small trainings of all kinds, whose states are large enough that a save takes its time."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

SIDE = 512


class Training:
    """A model, what optimizes it, and what else belongs into a checkpoint."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        step: Callable[[], object],
        before: Callable[[], object] = lambda: None,
        **parts: Any,
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.before = before
        """Forward and backward."""
        self.step = step
        """From the first step of an optimizer on."""
        self.parts = parts

    def state(self) -> dict[str, Any]:
        """A deep copy of what a save has to hold."""
        state = {
            "model_state_dict": self.model.state_dict(),
            "optimizer_state_dict": self.optimizer.state_dict(),
        }
        for name, part in self.parts.items():
            if name == "extra":
                state |= part
            else:
                state[f"{name}_state_dict"] = part.state_dict()
        return copy.deepcopy(state)


def mlp(depth: int = 2) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        *(part for _ in range(depth) for part in (nn.Linear(SIDE, SIDE), nn.Tanh()))
    )


def backward(model: nn.Module, scale: float = 1.0) -> None:
    (model(torch.randn(4, SIDE)).square().mean() * scale).backward()


def simple(model: nn.Module, optimizer: torch.optim.Optimizer, **parts: Any) -> Training:
    def before() -> None:
        optimizer.zero_grad()
        backward(model)

    return Training(model, optimizer, optimizer.step, before, **parts)


def optimizers() -> Iterator[tuple[str, Callable[[], Training]]]:
    """Every optimizer of PyTorch, in every implementation that works on a CPU."""
    settings: dict[str, list[dict[str, Any]]] = {
        "SGD": [{}, {"momentum": 0.9, "nesterov": True}],
        "RMSprop": [{"momentum": 0.9, "centered": True}],
        "Adam": [{"amsgrad": True}],
        "AdamW": [{}, {"maximize": True}],
    }
    for name, cls in vars(torch.optim).items():
        if not (isinstance(cls, type) and issubclass(cls, torch.optim.Optimizer)):
            continue
        if name in ("Optimizer", "LBFGS", "SparseAdam"):
            continue
        known = inspect.signature(cls).parameters
        impls: list[dict[str, Any]] = [
            {impl: True} for impl in ("foreach", "fused", "capturable") if impl in known
        ]
        for setting in settings.get(name, [{}]):
            for impl in [{}, *impls]:
                label = "-".join([name, *setting, *impl])

                def make(cls: type = cls, options: dict[str, Any] = {**setting, **impl}) -> Training:  # noqa: B006
                    model = mlp()
                    # Muon takes matrices only.
                    trained = [p for p in model.parameters() if p.ndim == 2]
                    return simple(model, cls(trained, lr=1e-3, **options))

                if works(make):
                    yield label, make


def works(make: Callable[[], Training]) -> bool:
    """Whether PyTorch has this implementation for a CPU."""
    global SIDE
    side, SIDE = SIDE, 4
    try:
        training = make()
        training.before()
        training.step()
    except (RuntimeError, AssertionError, ValueError):
        return False
    finally:
        SIDE = side
    return True


def lbfgs() -> Training:
    model = mlp(1)
    optimizer = torch.optim.LBFGS(model.parameters(), lr=1e-2, max_iter=2)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = model(torch.ones(4, SIDE)).square().mean()
        loss.backward()
        return loss

    return Training(model, optimizer, lambda: optimizer.step(closure))


def sparse_adam() -> Training:
    model = nn.Embedding(4 * SIDE, SIDE, sparse=True)
    optimizer = torch.optim.SparseAdam(model.parameters())

    def before() -> None:
        optimizer.zero_grad()
        model(torch.randint(0, 4 * SIDE, (300,))).square().mean().backward()

    return Training(model, optimizer, optimizer.step, before)


def buffers() -> Training:
    """A batch norm whose statistics are large, behind layers whose parameters are."""
    torch.manual_seed(0)
    channels = 1 << 15
    model = nn.Sequential(nn.Linear(64, channels), nn.BatchNorm1d(channels))
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)

    def before() -> None:
        optimizer.zero_grad()
        model(torch.randn(4, 64)).square().mean().backward()

    return Training(model, optimizer, optimizer.step, before)


def tied() -> Training:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(2048, SIDE)
            self.head = nn.Linear(SIDE, 2048, bias=False)
            self.head.weight = self.embedding.weight

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.embedding(x[:, 0].abs().long()))

    model = Tied()
    return simple(model, torch.optim.AdamW(model.parameters(), foreach=True))


def flat() -> Training:
    """Parameters that are views of one flat buffer, which also holds what a forward changes."""
    flat = torch.randn(2 * SIDE * SIDE + SIDE)

    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            area = SIDE * SIDE
            self.a = nn.Parameter(flat[:area].view(SIDE, SIDE))
            self.b = nn.Parameter(flat[area : 2 * area].view(SIDE, SIDE))
            self.register_buffer("seen", flat[2 * area :])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.seen.copy_(x.detach()[0])
            return x @ self.a @ self.b * 1e-3

    model = Flat()
    return simple(model, torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9))


def views() -> Training:
    """Parameters that are a part of their storage."""
    model = mlp()
    for part in model:
        if isinstance(part, nn.Linear):
            part.weight = nn.Parameter(torch.randn(3 * SIDE, SIDE)[SIDE : 2 * SIDE].t() * 0.01)
    return simple(model, torch.optim.AdamW(model.parameters(), fused=True))


def spectral() -> Training:
    model = mlp()
    model[0] = nn.utils.parametrizations.spectral_norm(model[0])
    model[2] = nn.utils.spectral_norm(model[2])
    return simple(model, torch.optim.Adam(model.parameters()))


def ema() -> Training:
    model = mlp()
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))

    def before() -> None:
        optimizer.zero_grad()
        backward(model)

    def step() -> None:
        optimizer.step()
        average.update_parameters(model)

    return Training(model, optimizer, step, before, ema=average)


def momentum_encoder() -> Training:
    """A part without gradients that each forward pass changes, as in MoCo and BYOL."""

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.online = mlp()
            self.target = mlp().requires_grad_(False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():
                for p, q in zip(self.target.parameters(), self.online.parameters(), strict=True):
                    p.lerp_(q, 0.1)
                target = self.target(x)
            return self.online(x) - target

    model = Two()
    trained = [p for p in model.parameters() if p.requires_grad]
    return simple(model, torch.optim.AdamW(trained, fused=True))


def frozen() -> Training:
    model = nn.Sequential(mlp().requires_grad_(False), mlp(1))
    trained = [p for p in model.parameters() if p.requires_grad]
    return simple(model, torch.optim.AdamW(trained))


def accumulation() -> Training:
    model = mlp()
    optimizer = torch.optim.AdamW(model.parameters())
    return Training(
        model,
        optimizer,
        lambda: (optimizer.step(), optimizer.zero_grad()),
        lambda: [backward(model, 0.25) for _ in range(4)],
    )


def scaler() -> Training:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    scaler = torch.amp.GradScaler("cpu", init_scale=16.0, growth_interval=2)

    def before() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model(torch.randn(4, SIDE)).square().mean()
        scaler.scale(loss).backward()

    def step() -> None:
        scaler.step(optimizer)
        scaler.update()

    return Training(model, optimizer, step, before, scaler=scaler)


def gan() -> Training:
    """Two optimizers; the second steps after the first, and its weights are clipped."""
    model = nn.ModuleDict({"g": mlp(), "d": mlp()})
    g = torch.optim.RMSprop(model["g"].parameters(), lr=1e-3)
    d = torch.optim.Adam(model["d"].parameters(), lr=1e-3, fused=True)

    def before() -> None:
        d.zero_grad()
        g.zero_grad()
        model["d"](model["g"](torch.randn(4, SIDE))).mean().backward()

    def step() -> None:
        d.step()
        for p in model["d"].parameters():
            p.data.clamp_(-0.01, 0.01)
        g.step()

    parts = {"extra": {"d_optimizer": d.state_dict()}}
    training = Training(model, g, step, before, **parts)
    # The state dict holds what there is when it is asked for.
    training.before()
    training.step()
    parts["extra"]["d_optimizer"] = d.state_dict()
    return training


def scheduler() -> Training:
    model = mlp()
    optimizer = torch.optim.AdamW(model.parameters(), lr=torch.tensor(1e-3), foreach=False)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 100)

    def before() -> None:
        optimizer.zero_grad()
        # In place, outside of any step.
        schedule.step()
        backward(model)

    return Training(model, optimizer, optimizer.step, before, scheduler=schedule)


def bfloat16() -> Training:
    model = mlp(4).bfloat16()
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)

    def before() -> None:
        optimizer.zero_grad()
        model(torch.randn(4, SIDE).bfloat16()).square().mean().backward()

    return Training(model, optimizer, optimizer.step, before)


def compiled() -> Training:
    model = mlp()
    optimizer = torch.optim.AdamW(model.parameters(), foreach=True)
    step = torch.compile(optimizer.step, backend="eager")

    def before() -> None:
        optimizer.zero_grad()
        backward(model)

    return Training(model, optimizer, step, before)


def max_norm() -> Training:
    """An embedding whose forward pass changes the parameter."""
    model = nn.Embedding(2048, SIDE, max_norm=1.0)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)

    def before() -> None:
        optimizer.zero_grad()
        model(torch.randint(0, 2048, (600,))).square().mean().backward()

    return Training(model, optimizer, optimizer.step, before)


def keeps_gradients() -> Training:
    """An optimizer of one's own, whose state is the gradient itself."""

    class Keeping(torch.optim.SGD):
        def step(self, closure: None = None) -> None:
            super().step()
            for group in self.param_groups:
                for p in group["params"]:
                    self.state[p]["last"] = p.grad

    model = mlp()
    optimizer = Keeping(model.parameters(), lr=1e-3)

    def before() -> None:
        optimizer.zero_grad(set_to_none=False)
        backward(model)

    return Training(model, optimizer, optimizer.step, before)


KINDS: dict[str, Callable[[], Training]] = dict(optimizers()) | {
    make.__name__: make
    for make in (
        *(lbfgs, sparse_adam, buffers, tied, flat, views, spectral, ema, momentum_encoder),
        *(frozen, accumulation, scaler, gan, scheduler, bfloat16, compiled, max_norm),
        keeps_gradients,
    )
}
