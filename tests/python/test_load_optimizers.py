"""An optimizer is loaded as PyTorch loads it, or not at all; once it is loaded, it can step."""

from __future__ import annotations

import copy
import itertools
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from same import assert_same, difference, without_names
from scai.errors import MismatchError
from scai.utils.checkpoint import CheckpointManager
from torch import nn
from torch.optim import lr_scheduler

optimizers = pytest.importorskip("torch.testing._internal.common_optimizers")

KINDS = {
    f"{info.optim_cls.__name__}-{number}": (info.optim_cls, given.kwargs)
    for info in optimizers.optim_db
    for number, given in enumerate(info.optim_inputs_func(device="cpu"))
}
FIRST = [name for name in KINDS if name.endswith("-0")]


class Matrices(nn.Module):
    """Two matrices, which all optimizers take."""

    def __init__(self, names: tuple[str, str] = ("a", "b")) -> None:
        super().__init__()
        for name in names:
            setattr(self, name, nn.Linear(3, 3, bias=False))


def trained(kind: str, steps: int, seed: int, model: nn.Module | None = None) -> tuple[Any, Any]:
    torch.manual_seed(seed)
    model = Matrices() if model is None else model
    cls, arguments = KINDS[kind]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        optimizer = cls(model.parameters(), **copy.deepcopy(arguments))
    for number in range(steps):
        step(model, optimizer, number)
    return model, optimizer


def step(model: nn.Module, optimizer: Any, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)

    def closure() -> torch.Tensor:
        for parameter in model.parameters():
            gradient = torch.randn(parameter.shape, generator=generator) + parameter.detach()
            sparse = type(optimizer) is torch.optim.SparseAdam
            parameter.grad = gradient.to_sparse() if sparse else gradient.to(parameter.dtype)
        return torch.tensor(0.0)

    optimizer.step(closure)


@pytest.mark.parametrize("kind", KINDS)
def test_every_optimizer_of_torch_is_loaded_as_torch_loads_it(
    kind: str, manager: CheckpointManager
) -> None:
    model, optimizer = trained(kind, 3, 0)
    path = manager.save_checkpoint(model, optimizer, 1)
    for steps in (0, 2):
        ours, theirs = trained(kind, steps, 1), trained(kind, steps, 1)
        manager.load_checkpoint(path, *ours)
        saved = torch.load(path)
        theirs[0].load_state_dict(saved["model_state_dict"])
        theirs[1].load_state_dict(without_names(saved["optimizer_state_dict"]))
        assert_same(ours[1].state_dict(), theirs[1].state_dict())
        for seed in range(2):
            step(*ours, seed)
            step(*theirs, seed)
        assert_same(ours[0].state_dict(), theirs[0].state_dict())
        assert_same(ours[1].state_dict(), theirs[1].state_dict())


@pytest.mark.parametrize(("one", "other"), list(itertools.permutations(FIRST, 2)))
@pytest.mark.parametrize("said", [True, False], ids=["scai", "torch"])
def test_the_state_of_another_optimizer_is_never_one_that_cannot_step(
    one: str, other: str, said: bool, manager: CheckpointManager, tmp_path: Path
) -> None:
    model, optimizer = trained(one, 2, 0)
    path = manager.save_checkpoint(model, optimizer, 1)
    if not said:
        # A file of PyTorch does not say which class wrote it.
        torch.save(torch.load(path), path)
    for strict in (True, False):
        into, their = trained(other, 1, 1)
        before = copy.deepcopy([into.state_dict(), their.state_dict()])
        try:
            report = manager.load_checkpoint(path, into, their, strict=strict).report
        except MismatchError:
            assert strict
            assert_same([into.state_dict(), their.state_dict()], before)
        else:
            related = {one, other} == {"Adam-0", "AdamW-0"}
            if not strict:
                assert_same(their.param_groups[0]["lr"], before[1]["param_groups"][0]["lr"])
            if said and not related:
                assert not strict and not report.optimizer.loaded and report.optimizer.hints
                assert_same(their.state_dict()["state"], before[1]["state"])
        step(into, their, 5)


def test_another_class_is_named_in_a_strict_load(manager: CheckpointManager) -> None:
    path = manager.save_checkpoint(*trained("Adam-0", 1, 0), 1)
    with pytest.raises(MismatchError) as raised:
        manager.load_checkpoint(path, *trained("Adamax-0", 1, 0))
    assert str(raised.value) == (
        f"checkpoint `{path}`: the optimizer does not match, and nothing was loaded\n"
        "  class in the checkpoint: torch.optim.Adam\n"
        "  class of the optimizer: torch.optim.Adamax\n"
        "it was saved from an optimizer of another class; leave `optimizer` out of the call to "
        "load the model alone"
    )
    loaded = torch.load(path)["optimizer_state_dict"]
    assert set(loaded) == {"state", "param_groups"}


def test_a_load_that_is_not_strict_keeps_the_hyperparameters_and_says_so(
    manager: CheckpointManager,
) -> None:
    model = Matrices()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.5, betas=(0.5, 0.6))
    step(model, optimizer, 0)
    path = manager.save_checkpoint(model, optimizer, 1)
    into = Matrices()
    own = torch.optim.AdamW(into.parameters(), lr=0.001)
    report = manager.load_checkpoint(path, into, own, strict=False).report.optimizer
    assert own.param_groups[0]["lr"] == 0.001 and own.param_groups[0]["betas"] == (0.9, 0.999)
    assert report.loaded == ["a.weight", "b.weight"]
    assert "kept: lr 0.001 (0.5 in the checkpoint)" in report.hints
    assert_same(own.state_dict()["state"], optimizer.state_dict()["state"])


def test_state_that_the_own_hyperparameters_need_more_of_is_left_out(
    manager: CheckpointManager,
) -> None:
    model = Matrices()
    optimizer = torch.optim.Adam(model.parameters())
    step(model, optimizer, 0)
    path = manager.save_checkpoint(model, optimizer, 1)
    into = Matrices()
    own = torch.optim.Adam(into.parameters(), amsgrad=True)
    report = manager.load_checkpoint(path, into, own, strict=False).report.optimizer
    assert report.missing == ["a.weight", "b.weight"]
    assert "the state has no max_exp_avg_sq" in report.hints[-1]
    step(into, own, 0)


def test_state_of_a_parameter_of_another_shape_is_left_out(manager: CheckpointManager) -> None:
    def make(width: int) -> tuple[Any, Any]:
        model = nn.ModuleDict({"a": nn.Linear(3, width, bias=False), "b": nn.Linear(3, 3)})
        return model, torch.optim.Adafactor(model.parameters())

    model, optimizer = make(3)
    train(model, optimizer)
    path = manager.save_checkpoint(model, optimizer, 1)
    into, own = make(5)
    report = manager.load_checkpoint(path, into, own, strict=False).report.optimizer
    assert report.loaded == ["b.weight", "b.bias"]
    assert report.mismatched[0].startswith("a.weight: float32 [3, 1] in the checkpoint")
    train(into, own)


def train(model: nn.Module, optimizer: Any) -> None:
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()


def test_a_resume_with_remap_equals_one_without(manager: CheckpointManager) -> None:
    def make(names: tuple[str, str], lr: float) -> tuple[Any, Any, Any]:
        torch.manual_seed(3)
        model = Matrices(names)
        groups = [
            {"params": [getattr(model, names[0]).weight], "lr": lr, "weight_decay": lr / 7},
            {"params": [getattr(model, names[1]).weight], "betas": (0.5 + lr, 0.6)},
        ]
        optimizer = torch.optim.AdamW(groups, lr=lr / 3)
        return model, optimizer, lr_scheduler.OneCycleLR(optimizer, [0.3, 0.2], total_steps=20)

    def go_on(parts: tuple[Any, Any, Any]) -> object:
        for seed in range(5):
            torch.manual_seed(seed)
            train(*parts[:2])
            parts[2].step()
        return [list(parts[0].state_dict().values()), *(part.state_dict() for part in parts[1:])]

    saved = make(("a", "b"), 0.1)
    go_on(saved)
    manager.save_checkpoint(*saved[:2], 1, scheduler=saved[2])
    plain, renamed = make(("a", "b"), 0.9), make(("c", "d"), 0.9)
    manager.resume(*plain[:2], scheduler=plain[2])
    remap = {"^a": "c", "^b": "d"}
    report = manager.resume(*renamed[:2], scheduler=renamed[2], remap=remap).checkpoint.report
    assert report.optimizer.loaded == ["c.weight", "d.weight"]
    expected = go_on(plain)
    assert_same(go_on(renamed), expected)
    assert_same(expected, go_on(saved))
    # In another order within a group, the state still goes by the name.
    turned = Matrices(("d", "c"))
    other = torch.optim.AdamW(turned.parameters(), lr=0.7)
    one = Matrices(("a", "b"))
    theirs = torch.optim.AdamW(one.parameters(), lr=0.2)
    train(one, theirs)
    path = manager.save_checkpoint(one, theirs, 2)
    manager.load_checkpoint(path, turned, other, remap=remap)
    assert other.param_groups[0]["lr"] == 0.2
    assert_same(other.state[turned.c.weight], theirs.state[one.a.weight])
    with pytest.raises(MismatchError, match="other names or another order after `remap`"):
        apart = [{"params": [turned.c.weight]}, {"params": [turned.d.weight]}]
        manager.load_checkpoint(path, turned, torch.optim.AdamW(apart), remap=remap)


@pytest.mark.parametrize("warm", [False, True])
def test_state_of_another_type_than_its_parameter_is_converted_as_torch_does_and_reported(
    warm: bool, manager: CheckpointManager
) -> None:
    def make(steps: int) -> tuple[Any, Any]:
        torch.manual_seed(steps)
        model = Matrices().bfloat16()
        optimizer = torch.optim.SGD(model.parameters(), momentum=0.9)
        for parameter in model.parameters() if steps else ():
            optimizer.state[parameter]["momentum_buffer"] = torch.randn(3, 3)
        return model, optimizer

    path = manager.save_checkpoint(*make(1), 1)
    (model, ours), (_, theirs) = make(2 * warm), make(2 * warm)
    report = manager.load_checkpoint(path, model, ours).report.optimizer
    theirs.load_state_dict(without_names(torch.load(path)["optimizer_state_dict"]))
    assert_same(ours.state_dict(), theirs.state_dict())
    assert report.hints == [
        "converted to the element type of the parameter, as PyTorch does: "
        "a.weight.momentum_buffer: float32 in the checkpoint, bfloat16 in the optimizer; "
        "b.weight.momentum_buffer: float32 in the checkpoint, bfloat16 in the optimizer"
    ]


def test_steps_that_old_torch_saved_as_numbers_are_made_tensors(manager: CheckpointManager) -> None:
    model, optimizer = trained("Adam-0", 2, 0)
    state = optimizer.state_dict()
    for values in state["state"].values():
        values["step"] = int(values["step"])
    path = manager.save_checkpoint(model, state, 1)
    into, own = trained("Adam-0", 1, 1)
    manager.load_checkpoint(path, into, own)
    assert isinstance(own.state[into.a.weight]["step"], torch.Tensor)
    step(into, own, 0)


# Schedulers

SCHEDULERS = {
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda epoch: 0.9**epoch),
    "MultiplicativeLR": lambda o: lr_scheduler.MultiplicativeLR(o, lambda epoch: 0.9),
    "StepLR": lambda o: lr_scheduler.StepLR(o, 2),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, [1, 4]),
    "ConstantLR": lambda o: lr_scheduler.ConstantLR(o, total_iters=3),
    "LinearLR": lambda o: lr_scheduler.LinearLR(o, total_iters=7),
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, 0.9),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.ConstantLR(o), lr_scheduler.ExponentialLR(o, 0.9)], [2]
    ),
    "PolynomialLR": lambda o: lr_scheduler.PolynomialLR(o, 9),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, 9),
    "ChainedScheduler": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ConstantLR(o), lr_scheduler.ExponentialLR(o, 0.9)]
    ),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=1),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.1, step_size_up=3),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 4),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 0.3, total_steps=50),
    "SWALR": lambda o: torch.optim.swa_utils.SWALR(o, 0.05),
}


def test_no_scheduler_of_torch_is_left_out() -> None:
    bases = {"LRScheduler", "_LRScheduler", "Optimizer"}
    there = {
        name
        for name, cls in vars(lr_scheduler).items()
        if isinstance(cls, type) and issubclass(cls, lr_scheduler.LRScheduler)
    }
    assert there - bases <= set(SCHEDULERS)


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("resumed", [False, True])
def test_every_scheduler_of_torch_is_loaded_as_torch_loads_it(
    name: str, resumed: bool, manager: CheckpointManager
) -> None:
    def make(steps: int, lr: float) -> tuple[Any, Any, Any]:
        torch.manual_seed(steps)
        model = Matrices()
        optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
        scheduler = SCHEDULERS[name](optimizer)
        go_on((model, optimizer, scheduler), steps)
        return model, optimizer, scheduler

    def go_on(parts: tuple[Any, Any, Any], steps: int) -> list[float]:
        rates = []
        for seed in range(steps):
            torch.manual_seed(seed)
            train(*parts[:2])
            parts[2].step(*([0.5] if name == "ReduceLROnPlateau" else []))
            rates.append(parts[1].param_groups[0]["lr"])
        return rates

    saved = make(3, 0.1)
    path = manager.save_checkpoint(*saved[:2], 1, scheduler=saved[2])
    ours, theirs = make(1, 0.2), make(1, 0.2)
    load = manager.resume if resumed else lambda *a, **k: manager.load_checkpoint(path, *a, **k)
    load(*ours[:2], scheduler=ours[2])
    state = torch.load(path)
    theirs[0].load_state_dict(state["model_state_dict"])
    theirs[1].load_state_dict(without_names(state["optimizer_state_dict"]))
    theirs[2].load_state_dict(state["scheduler_state_dict"])
    assert difference(ours[2].state_dict(), theirs[2].state_dict()) is None
    assert go_on(ours, 6) == go_on(theirs, 6)
    assert_same(ours[0].state_dict(), theirs[0].state_dict())
