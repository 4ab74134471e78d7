"""Small networks of the kinds that people train, and a step of training for all of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize

torch.set_num_threads(1)


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(x + self.bn2(self.conv2(y)))


class ResNet(nn.Module):
    def __init__(self, blocks: int = 2, width: int = 4, classes: int = 3) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width))
        self.blocks = nn.ModuleList(Block(width) for _ in range(blocks))
        self.fc = nn.Linear(width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.fc(x.mean((2, 3)))


class Lstm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 6)
        self.lstm = nn.LSTM(6, 5, num_layers=2, dropout=0.2, bidirectional=True, batch_first=True)
        self.out = nn.Linear(10, 11)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.lstm(self.embedding(x))[0])


class Transformer(nn.Module):
    """A language model whose output shares the weight of its embedding."""

    def __init__(self, tied: bool = True) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.register_buffer("positions", torch.randn(5, 8), persistent=True)
        self.register_buffer("scratch", torch.zeros(3), persistent=False)
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.out = nn.Linear(8, 11, bias=False)
        if tied:
            self.out.weight = self.embedding.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.encoder(self.embedding(x) + self.positions))


class WithExtra(nn.Module):
    """Keeps in its state dict what is no tensor, and gets it back."""

    def __init__(self, extra: object) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 3)
        self.extra = extra

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x)

    def get_extra_state(self) -> object:
        return self.extra

    def set_extra_state(self, state: object) -> None:
        self.extra = state


class Sparse(nn.Module):
    """A graph network with its adjacency, and an embedding with sparse gradients."""

    def __init__(self) -> None:
        super().__init__()
        ends = torch.tensor([[0, 1, 2], [1, 2, 0]])
        adjacency = torch.sparse_coo_tensor(ends, torch.rand(3), (3, 3), check_invariants=True)
        self.register_buffer("adjacency", adjacency.coalesce())
        self.fc = nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(torch.sparse.mm(self.adjacency, x[:3]))


def images(generator: torch.Generator) -> torch.Tensor:
    return torch.randn(4, 3, 6, 6, generator=generator)


def words(generator: torch.Generator) -> torch.Tensor:
    return torch.randint(0, 11, (3, 5), generator=generator)


def rows(generator: torch.Generator) -> torch.Tensor:
    return torch.randn(4, 3, generator=generator)


def of_dtype(dtype: torch.dtype) -> Callable[[torch.Generator], torch.Tensor]:
    return lambda generator: rows(generator).to(dtype)


def mlp(*wrap: Callable[[nn.Module], nn.Module]) -> nn.Module:
    layers = [nn.Linear(3, 6), nn.LayerNorm(6), nn.GELU(), nn.Dropout(0.1), nn.Linear(6, 3)]
    for function in wrap:
        layers[0] = function(layers[0])
    return nn.Sequential(*layers)


def partly_frozen() -> nn.Module:
    net = ResNet()
    net.stem.requires_grad_(False)
    net.blocks[0].eval()
    return net


class Symmetric(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.triu() + x.triu(1).transpose(-1, -2)


def symmetric() -> nn.Module:
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    parametrize.register_parametrization(net[0], "weight", Symmetric())
    return net


def old_weight_norm() -> nn.Module:
    return mlp(nn.utils.weight_norm)


Net = tuple[Callable[[], nn.Module], Callable[[torch.Generator], torch.Tensor]]

NETS: dict[str, Net] = {
    "resnet": (ResNet, images),
    "resnet in channels_last": (
        lambda: ResNet(width=8).to(memory_format=torch.channels_last),
        lambda generator: images(generator).to(memory_format=torch.channels_last),
    ),
    "resnet partly frozen": (partly_frozen, images),
    "resnet in double": (
        lambda: ResNet().double(),
        lambda generator: images(generator).double(),
    ),
    "lstm": (Lstm, words),
    "transformer with tied embeddings": (Transformer, words),
    "transformer": (lambda: Transformer(tied=False), words),
    "bfloat16": (lambda: mlp().bfloat16(), of_dtype(torch.bfloat16)),
    "half": (lambda: mlp().half(), of_dtype(torch.half)),
    "weight_norm": (lambda: mlp(parametrizations.weight_norm), rows),
    "spectral_norm": (lambda: mlp(parametrizations.spectral_norm), rows),
    "orthogonal": (lambda: mlp(parametrizations.orthogonal), rows),
    "parametrization": (symmetric, rows),
    "old spectral_norm": (lambda: mlp(nn.utils.spectral_norm), rows),
    "old weight_norm": (old_weight_norm, rows),
    "extra state of plain values": (lambda: WithExtra({"seen": 7, "names": ["a"]}), rows),
    "extra state that is a tensor": (lambda: WithExtra(torch.arange(3)), rows),
    "extra state that is an array": (lambda: WithExtra(np.arange(3)), rows),
    "sparse buffer": (Sparse, rows),
    "data parallel": (lambda: nn.DataParallel(mlp()), rows),
    "compiled": (lambda: torch.compile(mlp(), backend="eager", disable=True), rows),
    "wrapped in wrappers": (
        lambda: torch.compile(nn.DataParallel(nn.ModuleDict({"a": mlp()})["a"]), disable=True),
        rows,
    ),
    "group and instance norm": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 4, 3),
            nn.GroupNorm(2, 4),
            nn.InstanceNorm2d(4, affine=True, track_running_stats=True),
            nn.PReLU(),
        ),
        images,
    ),
}


def step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Callable[[torch.Generator], torch.Tensor],
    seed: int,
) -> None:
    """One step that depends on nothing but the state and the seed."""
    torch.manual_seed(seed)
    inputs = batch(torch.Generator().manual_seed(seed))

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = (model(inputs).float() - 0.5).square().mean()
        loss.backward()
        return loss

    optimizer.step(closure)


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Callable[[torch.Generator], torch.Tensor],
    seeds: range,
) -> None:
    for seed in seeds:
        step(model, optimizer, batch, seed)


def made(make: Callable[[], nn.Module], seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return make()


Training = tuple[nn.Module, torch.optim.Optimizer]


def training(make: Callable[[], nn.Module] = mlp, steps: int = 2, **options: object) -> Training:
    """A model and an optimizer that have been trained a little."""
    model = make()
    optimizer = torch.optim.AdamW(model.parameters(), **options)
    batch = {ResNet: images, Lstm: words}.get(type(model), rows)
    train(model, optimizer, batch, range(steps))
    return model, optimizer


class Owner:
    """Has a state dict, and is no module."""

    def __init__(self, value: float) -> None:
        self.weight = torch.full((3,), value)
        self.count = int(value)

    def state_dict(self) -> dict[str, object]:
        return {"weight": self.weight.clone(), "count": self.count}

    def load_state_dict(self, state: dict[str, object]) -> None:
        self.weight = state["weight"].clone()
        self.count = state["count"]
