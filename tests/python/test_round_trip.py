"""What a manager saved is what torch loads, and what is loaded trains on as if nothing had been."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from nets import NETS, ResNet, Transformer, made, mlp, rows, step, train, words
from same import assert_same, without_names
from scai._versions import plain_state
from scai._wrappers import unwrapped
from scai.errors import NotACheckpointError, UnprotectedError
from scai.utils.checkpoint import CheckpointManager
from torch import nn
from torch.optim import lr_scheduler
from torch.optim.swa_utils import SWALR, AveragedModel, get_ema_multi_avg_fn

STATS = {"total_iterations": 3, "losses": [0.5, float("inf")], "best": {"loss": 0.25}}

pytestmark = pytest.mark.filterwarnings(
    "ignore::FutureWarning", "ignore:.*lr_scheduler:UserWarning"
)


def assert_torch_loads(path: Path, expected: dict[str, object]) -> None:
    """All ways in which torch loads a file give what is expected."""
    for mmap in (False, True):
        loaded = torch.load(path, mmap=mmap)
        for name, value in expected.items():
            found = loaded[name]
            if name == "optimizer_state_dict":
                found, value = without_names(found), without_names(value)
            assert_same(found, value)


def assert_goes_on(
    manager: CheckpointManager,
    path: Path,
    make: Callable[[], tuple[nn.Module, torch.optim.Optimizer]],
    batch: Callable[[torch.Generator], torch.Tensor],
    original: tuple[nn.Module, torch.optim.Optimizer],
) -> None:
    """A fresh pair and one that has been trained take up a checkpoint and go on as the original."""
    saved = copy.deepcopy([original[0].state_dict(), original[1].state_dict()])
    fresh, stepped = make(), make()
    train(*stepped, batch, range(50, 52))
    pairs = [fresh, stepped]
    for pair in pairs:
        manager.load_checkpoint(path, *pair)
        assert_same([pair[0].state_dict(), pair[1].state_dict()], saved)
    for pair in [original, *pairs]:
        train(*pair, batch, range(100, 103))
    for pair in pairs:
        assert_same(pair[0].state_dict(), original[0].state_dict())
        assert_same(pair[1].state_dict(), original[1].state_dict())


@pytest.mark.parametrize("name", NETS)
def test_a_network_is_loaded_by_torch_and_trains_on(name: str, tmp_path: Path) -> None:
    net, batch = NETS[name]
    seeds = iter(range(10))

    def make() -> tuple[nn.Module, torch.optim.Optimizer]:
        model = made(net, next(seeds))
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        return model, torch.optim.AdamW(trained, lr=0.01)

    original = make()
    train(*original, batch, range(2))
    manager = CheckpointManager(tmp_path)
    path = manager.save_checkpoint(*original, iteration=2, training_stats=STATS)
    expected = {"optimizer_state_dict": original[1].state_dict(), "training_stats": STATS}
    if name != "extra state that is an array":  # plain torch.load gives a tensor there
        # The names are those of the module itself.
        expected["model_state_dict"] = unwrapped(original[0]).state_dict()
    assert_torch_loads(path, expected)
    assert_goes_on(manager, path, make, batch, original)


def test_tied_embeddings_are_one_in_the_file_and_one_when_loaded(tmp_path: Path) -> None:
    model = Transformer()
    manager = CheckpointManager(tmp_path)
    path = manager.save_checkpoint(model, iteration=0)
    untied_path = manager.save_checkpoint(Transformer(tied=False), iteration=1)
    assert os.stat(path).st_size < os.stat(untied_path).st_size
    for loaded in (torch.load(path), torch.load(path, mmap=True), manager.load_checkpoint(path)):
        state = loaded["model_state_dict"]
        assert state["out.weight"].data_ptr() == state["embedding.weight"].data_ptr()
    again = Transformer()
    manager.load_checkpoint(path, again)
    assert again.out.weight is again.embedding.weight
    assert_same(again.state_dict(), model.state_dict())


def test_a_file_with_two_weights_is_loaded_into_a_tied_model_as_torch_does_it(
    tmp_path: Path,
) -> None:
    manager = CheckpointManager(tmp_path)
    path = manager.save_checkpoint(Transformer(tied=False), iteration=0)
    ours, torchs = Transformer(), Transformer()
    manager.load_checkpoint(path, ours)
    torchs.load_state_dict(torch.load(path)["model_state_dict"])
    assert_same(ours.state_dict(), torchs.state_dict())


def matrices() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 6, bias=False), nn.Tanh(), nn.Linear(6, 3, bias=False))


class Embedded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(11, 4, sparse=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.table(x)


Make = Callable[[list[nn.Parameter]], torch.optim.Optimizer]
OPTIMIZERS: dict[str, Make] = {}


def optimizer(name: str, **options: object) -> None:
    shown = ", ".join(f"{key}={value}" for key, value in options.items())
    made_by = getattr(torch.optim, name, None)
    if made_by is None:
        # The oldest version that is supported lacks some.
        return
    # A tensor of its own for each that is made.
    OPTIMIZERS[f"{name}({shown})"] = lambda parameters: made_by(
        parameters, **{key: copy.deepcopy(value) for key, value in options.items()}
    )


for each in ("Adam", "AdamW", "NAdam", "RAdam", "Adamax", "Adadelta", "Adagrad", "RMSprop"):
    for foreach in (False, True):
        optimizer(each, foreach=foreach)
for each in ("ASGD", "Rprop", "Adafactor"):
    for foreach in (False, True):
        optimizer(each, foreach=foreach)
for each in ("Adam", "AdamW", "Adagrad"):
    optimizer(each, fused=True)
for each in ("Adam", "AdamW"):
    for how in ({"foreach": False}, {"foreach": True}, {"fused": True}):
        optimizer(each, amsgrad=True, weight_decay=0.1, **how)
    optimizer(each, lr=torch.tensor(0.01), foreach=False)
    optimizer(each, lr=torch.tensor(0.01), fused=True)
optimizer("Adam", maximize=True, betas=(0.5, 0.9))
for how in ({"foreach": False}, {"foreach": True}, {"fused": True}):
    optimizer("SGD", lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1, **how)
optimizer("SGD", lr=0.1)
optimizer("SGD", lr=torch.tensor(0.1), momentum=0.9, foreach=False)
optimizer("RMSprop", momentum=0.9, centered=True)
optimizer("RAdam", decoupled_weight_decay=True, weight_decay=0.1)
optimizer("NAdam", decoupled_weight_decay=True, weight_decay=0.1)
optimizer("Adagrad", initial_accumulator_value=0.1, lr_decay=0.1)
optimizer("LBFGS", max_iter=4, history_size=3)
optimizer("LBFGS", max_iter=4, line_search_fn="strong_wolfe")
optimizer("SparseAdam")
optimizer("Muon")


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_is_loaded_by_torch_and_goes_on(name: str, tmp_path: Path) -> None:
    kind = name.partition("(")[0]
    net, batch = {"SparseAdam": (Embedded, words), "Muon": (matrices, rows)}.get(kind, (mlp, rows))
    seeds = iter(range(10))

    def make() -> tuple[nn.Module, torch.optim.Optimizer]:
        model = made(net, next(seeds))
        return model, OPTIMIZERS[name](list(model.parameters()))

    original = make()
    train(*original, batch, range(3))
    manager = CheckpointManager(tmp_path)
    path = manager.save_checkpoint(*original, iteration=3)
    expected = {"optimizer_state_dict": original[1].state_dict()}
    assert_torch_loads(path, expected)
    names = torch.load(path)["optimizer_state_dict"]["param_groups"][0]["param_names"]
    assert names == [name for name, _ in original[0].named_parameters()]
    assert_goes_on(manager, path, make, batch, original)


def test_every_optimizer_of_torch_is_tested() -> None:
    kinds = {name.partition("(")[0] for name in OPTIMIZERS} | {"Optimizer"}
    found = {
        name
        for name, value in vars(torch.optim).items()
        if isinstance(value, type) and issubclass(value, torch.optim.Optimizer)
    }
    assert found == kinds


def test_an_optimizer_with_groups_made_from_names_goes_on(tmp_path: Path) -> None:
    def make() -> tuple[nn.Module, torch.optim.Optimizer]:
        model = ResNet()
        body, head = list(model.named_parameters())[:-2], list(model.named_parameters())[-2:]
        groups = [{"params": body}, {"params": head, "lr": 0.1, "weight_decay": 0.5}]
        return model, torch.optim.AdamW(groups)

    try:
        original = make()
    except TypeError:
        pytest.skip("this PyTorch makes no groups of names")
    batch = NETS["resnet"][1]
    train(*original, batch, range(2))
    manager = CheckpointManager(tmp_path)
    path = manager.save_checkpoint(*original, iteration=2)
    assert_same(torch.load(path)["optimizer_state_dict"], original[1].state_dict())
    assert_goes_on(manager, path, make, batch, original)


def test_an_optimizer_that_has_not_stepped_replaces_the_state_of_one_that_has(
    tmp_path: Path,
) -> None:
    model = mlp()
    manager = CheckpointManager(tmp_path)
    path = manager.save_checkpoint(model, torch.optim.Adam(model.parameters()), iteration=0)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.5)
    train(model, optimizer, rows, range(2))
    manager.load_checkpoint(path, model, optimizer)
    assert not optimizer.state
    assert optimizer.param_groups[0]["lr"] == 0.001


def test_state_that_shares_memory_when_loaded_into_is_told_apart(tmp_path: Path) -> None:
    model = mlp()
    optimizer = torch.optim.Adam(model.parameters())
    train(model, optimizer, rows, range(2))
    manager = CheckpointManager(tmp_path)
    path = manager.save_checkpoint(model, optimizer, iteration=0)
    saved = copy.deepcopy(optimizer.state_dict())
    for state in optimizer.state.values():
        state["exp_avg_sq"] = state["exp_avg"]
    manager.load_checkpoint(path, model, optimizer)
    assert_same(optimizer.state_dict(), saved)
    shared = torch.zeros(1000)
    start = 0
    for state in optimizer.state.values():
        for name in ("exp_avg", "exp_avg_sq"):
            length = state[name].numel()
            state[name] = shared[start : start + length].view_as(state[name])
            start += length // 2
    manager.load_checkpoint(path, model, optimizer)
    assert_same(optimizer.state_dict(), saved)


def chained(optimizer: torch.optim.Optimizer) -> object:
    parts = [lr_scheduler.ExponentialLR(optimizer, 0.9), lr_scheduler.ConstantLR(optimizer)]
    return lr_scheduler.ChainedScheduler(parts, optimizer=optimizer)


def sequential(optimizer: torch.optim.Optimizer) -> object:
    warmup = lr_scheduler.LinearLR(optimizer, total_iters=2)
    rest = lr_scheduler.CosineAnnealingLR(optimizer, T_max=5)
    return lr_scheduler.SequentialLR(optimizer, [warmup, rest], milestones=[2])


class Decay:
    """A schedule with a state of its own."""

    def __init__(self, rate: float) -> None:
        self.rate = rate

    def __call__(self, epoch: int) -> float:
        return self.rate**epoch


SCHEDULERS: dict[str, Callable[[torch.optim.Optimizer], object]] = {
    "LRScheduler": lambda optimizer: lr_scheduler.LambdaLR(optimizer, lambda epoch: 0.5**epoch),
    "LambdaLR": lambda optimizer: lr_scheduler.LambdaLR(optimizer, Decay(0.8)),
    "MultiplicativeLR": lambda optimizer: lr_scheduler.MultiplicativeLR(optimizer, Decay(0.9)),
    "StepLR": lambda optimizer: lr_scheduler.StepLR(optimizer, 2),
    "MultiStepLR": lambda optimizer: lr_scheduler.MultiStepLR(optimizer, [2, 2, 4]),
    "ConstantLR": lambda optimizer: lr_scheduler.ConstantLR(optimizer, total_iters=4),
    "LinearLR": lambda optimizer: lr_scheduler.LinearLR(optimizer, total_iters=4),
    "ExponentialLR": lambda optimizer: lr_scheduler.ExponentialLR(optimizer, 0.9),
    "SequentialLR": sequential,
    "PolynomialLR": lambda optimizer: lr_scheduler.PolynomialLR(optimizer, total_iters=9),
    "CosineAnnealingLR": lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, 9),
    "ChainedScheduler": chained,
    "ReduceLROnPlateau": lambda optimizer: lr_scheduler.ReduceLROnPlateau(optimizer, patience=1),
    "CyclicLR": lambda optimizer: lr_scheduler.CyclicLR(optimizer, 0.01, 0.1, step_size_up=2),
    "CosineAnnealingWarmRestarts": lambda optimizer: lr_scheduler.CosineAnnealingWarmRestarts(
        optimizer, 3
    ),
    "OneCycleLR": lambda optimizer: lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=20),
    "SWALR": lambda optimizer: SWALR(optimizer, swa_lr=0.05),
}


def scheduled(
    model: nn.Module, optimizer: torch.optim.Optimizer, scheduler: object, n: int
) -> None:
    for seed in range(n):
        step(model, optimizer, rows, seed)
        plateau = isinstance(scheduler, lr_scheduler.ReduceLROnPlateau)
        scheduler.step(1.0) if plateau else scheduler.step()


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_scheduler_is_loaded_by_torch_and_goes_on(name: str, tmp_path: Path) -> None:
    def make(seed: int) -> tuple[nn.Module, torch.optim.Optimizer, object]:
        model = made(mlp, seed)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        return model, optimizer, SCHEDULERS[name](optimizer)

    original = make(0)
    scheduled(*original, 3)
    manager = CheckpointManager(tmp_path)
    model, optimizer, scheduler = original
    path = manager.save_checkpoint(model, optimizer, 3, scheduler=scheduler)
    assert_torch_loads(path, {"scheduler_state_dict": plain_state(scheduler.state_dict())})
    fresh, stepped = make(1), make(2)
    scheduled(*stepped, 2)
    for model, optimizer, scheduler in (fresh, stepped):
        manager.load_checkpoint(path, model, optimizer, scheduler=scheduler)
    for each in (original, fresh, stepped):
        scheduled(*each, 4)
    for each in (fresh, stepped):
        for loaded, kept in zip(each, original):
            assert_same(loaded.state_dict(), kept.state_dict())


def test_every_scheduler_of_torch_is_tested() -> None:
    found = {
        name
        for name, value in vars(lr_scheduler).items()
        if isinstance(value, type) and issubclass(value, lr_scheduler.LRScheduler)
    }
    assert found - {"_LRScheduler"} == set(SCHEDULERS) - {"SWALR"}


def test_mixed_precision_averages_and_all_parts_go_on(tmp_path: Path) -> None:
    def make(seed: int) -> dict[str, object]:
        model = made(ResNet, seed)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        return {
            "model": model,
            "optimizer": optimizer,
            "scheduler": lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=50),
            "scaler": torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=2),
            "ema": AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True),
        }

    def run(parts: dict[str, object], seeds: range) -> None:
        model, optimizer, scheduler, scaler, ema = parts.values()
        for seed in seeds:
            torch.manual_seed(seed)
            images = torch.randn(4, 3, 6, 6)
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = model(images).square().mean()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            scheduler.step()
            ema.update_parameters(model)

    original = make(0)
    run(original, range(3))
    manager = CheckpointManager(tmp_path)
    path = manager.save_checkpoint(iteration=3, training_stats=STATS, **original)
    expected = {
        f"{name}_state_dict": part.state_dict()
        for name, part in original.items()
        if name != "optimizer"
    }
    assert_torch_loads(path, {**expected, "training_stats": STATS})
    others = [make(1), make(2)]
    run(others[1], range(7))
    for parts in others:
        manager.load_checkpoint(path, **parts)
    for parts in [original, *others]:
        run(parts, range(100, 103))
    for parts in others:
        for name, part in parts.items():
            assert_same(part.state_dict(), original[name].state_dict())


@pytest.mark.parametrize("snapshot", ["live", "copy", "sync"])
def test_a_save_in_the_background_holds_the_same(snapshot: str, tmp_path: Path) -> None:
    model = ResNet(width=16)
    optimizer = torch.optim.AdamW(model.parameters())
    train(model, optimizer, NETS["resnet"][1], range(2))
    with CheckpointManager(tmp_path) as manager:
        handle = manager.save_checkpoint(model, optimizer, 2, wait=False, snapshot=snapshot)
        expected = copy.deepcopy([model.state_dict(), optimizer.state_dict()])
        train(model, optimizer, NETS["resnet"][1], range(2, 4))
        path = handle.wait()
    loaded = torch.load(path)
    assert_same(loaded["model_state_dict"], expected[0])
    assert_same(without_names(loaded["optimizer_state_dict"]), expected[1])


# Files of torch.save


def saved_by_torch(path: Path, model: nn.Module, optimizer: object, **options: object) -> Path:
    state = {
        "iteration": 7,
        "model_state_dict": model.state_dict(),
        "optimizer_state_dict": optimizer.state_dict(),
        "training_stats": STATS,
        "metadata": {"config": "config.yaml"},
        "timestamp": "2026-01-01T00:00:00+00:00",
    }
    torch.save(state, path, **options)
    return path


@pytest.mark.parametrize("name", ["resnet", "resnet in channels_last", "lstm", "bfloat16"])
@pytest.mark.parametrize("legacy", [False, True])
def test_a_file_of_torch_is_taken_up(name: str, legacy: bool, tmp_path: Path) -> None:
    net, batch = NETS[name]
    seeds = iter(range(10))

    def make() -> tuple[nn.Module, torch.optim.Optimizer]:
        model = made(net, next(seeds))
        return model, torch.optim.AdamW(model.parameters(), lr=0.01)

    original = make()
    train(*original, batch, range(2))
    path = tmp_path / "theirs.pt"
    saved_by_torch(path, *original, _use_new_zipfile_serialization=not legacy)
    manager = CheckpointManager(tmp_path, allow_unprotected=legacy)
    checkpoint = manager.load_checkpoint(path)
    assert_same(dict(checkpoint), torch.load(path))
    assert checkpoint["iteration"] == 7
    assert_goes_on(manager, path, make, batch, original)


def test_a_file_without_checksums_is_refused_unless_it_is_allowed(tmp_path: Path) -> None:
    model = mlp()
    optimizer = torch.optim.Adam(model.parameters())
    path = saved_by_torch(
        tmp_path / "old.pt", model, optimizer, _use_new_zipfile_serialization=False
    )
    with pytest.raises(UnprotectedError) as raised:
        CheckpointManager(tmp_path).load_checkpoint(path, model)
    assert str(path) in str(raised.value)
    assert "checksums" in str(raised.value)


@pytest.mark.parametrize("iteration", [7.5, "7", None, -1, True, [7]])
def test_an_iteration_that_is_no_number_is_a_clear_error(iteration: object, tmp_path: Path) -> None:
    model = mlp()
    before = copy.deepcopy(model.state_dict())
    path = tmp_path / "odd.pt"
    state = {"iteration": iteration, "model_state_dict": mlp().state_dict()}
    torch.save({**state, "optimizer_state_dict": {}}, path)
    words = f"checkpoint `{path}`: not a checkpoint: `iteration` is .*integer of 0 or more"
    with pytest.raises(NotACheckpointError, match=words):
        CheckpointManager(tmp_path).load_checkpoint(path, model)
    assert_same(model.state_dict(), before)
