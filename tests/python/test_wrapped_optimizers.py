"""Optimizers that hold another one: loaded as their own `load_state_dict` does it, or not at all."""

from __future__ import annotations

import collections
import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from same import assert_same, without_names
from scai.errors import CheckpointError, MismatchError, MissingFieldError
from scai.utils.checkpoint import CheckpointManager
from torch import distributed, nn

Made = tuple[nn.Module, Any]


def of_held(name: str) -> Any:
    """An attribute that is that of the optimizer held."""
    return property(
        lambda self: getattr(self.optimizer, name),
        lambda self, value: setattr(self.optimizer, name, value),
    )


class Accelerated(torch.optim.Optimizer):
    """As accelerate's `AcceleratedOptimizer`: an optimizer by its class, which holds one."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer

    state, param_groups, defaults = map(of_held, ("state", "param_groups", "defaults"))

    def state_dict(self) -> Any:
        return self.optimizer.state_dict()

    def load_state_dict(self, state_dict: Any) -> None:
        self.optimizer.load_state_dict(state_dict)

    def step(self, closure: Any = None) -> Any:
        return self.optimizer.step(closure)


class Plain:
    """No optimizer by its class, without groups of its own."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._inner = optimizer

    def state_dict(self) -> Any:
        return self._inner.state_dict()

    def load_state_dict(self, state_dict: Any) -> None:
        self._inner.load_state_dict(state_dict)

    def step(self) -> None:
        self._inner.step()


class Lookahead(torch.optim.Optimizer):
    """As timm's: slow weights beside, and the state dict of the optimizer it holds."""

    def __init__(self, base_optimizer: torch.optim.Optimizer) -> None:
        self._base_optimizer = base_optimizer
        self.param_groups = base_optimizer.param_groups
        self.defaults = {**base_optimizer.defaults, "lookahead_k": 2, "lookahead_step": 0}
        self.state = collections.defaultdict(dict)
        for group in self.param_groups:
            group.setdefault("lookahead_k", 2)
            group.setdefault("lookahead_step", 0)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        loss = self._base_optimizer.step(closure)
        for group in self.param_groups:
            group["lookahead_step"] += 1
            if group["lookahead_step"] % group["lookahead_k"] == 0:
                for fast in group["params"]:
                    state = self._base_optimizer.state[fast]
                    slow = state.setdefault("lookahead_slow_buff", fast.clone())
                    slow.lerp_(fast, 0.5)
                    fast.copy_(slow)
        return loss

    def state_dict(self) -> Any:
        return self._base_optimizer.state_dict()

    def load_state_dict(self, state_dict: Any) -> None:
        self._base_optimizer.load_state_dict(state_dict)
        self.param_groups = self._base_optimizer.param_groups


class TwoStates:
    """As the first Lookahead: the groups of the fast optimizer, and two states beside them."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer
        self.param_groups = optimizer.param_groups
        self.slow = [p.detach().clone() for group in self.param_groups for p in group["params"]]

    def step(self) -> None:
        self.optimizer.step()
        with torch.no_grad():
            parameters = [p for group in self.param_groups for p in group["params"]]
            for slow, fast in zip(self.slow, parameters, strict=True):
                slow.lerp_(fast, 0.5)

    def state_dict(self) -> Any:
        fast = self.optimizer.state_dict()
        return {
            "fast_state": fast["state"],
            "slow_state": self.slow,
            "param_groups": fast["param_groups"],
        }

    def load_state_dict(self, state: Any) -> None:
        groups = state["param_groups"]
        self.optimizer.load_state_dict({"state": state["fast_state"], "param_groups": groups})
        self.param_groups = self.optimizer.param_groups
        self.slow = [slow.clone() for slow in state["slow_state"]]


class Sam(torch.optim.Optimizer):
    """As sharpness-aware minimisation is written: groups that two optimizers share."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        super().__init__(optimizer.param_groups, {"rho": 0.05})
        self.base_optimizer = optimizer
        self.base_optimizer.param_groups = self.param_groups

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter]["old_p"] = parameter.clone()
        return self.base_optimizer.step(closure)

    def load_state_dict(self, state_dict: Any) -> None:
        super().load_state_dict(state_dict)
        self.base_optimizer.param_groups = self.param_groups


class HalfPrecision:
    """As apex's `FP16_Optimizer`: masters of the parameters, which the model does not know."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer
        self.loss_scale = 1024.0
        self.model_parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.masters = [p.detach().clone() for p in self.model_parameters]
        masters = iter(self.masters)
        for group in optimizer.param_groups:
            group["params"] = [next(masters) for _ in group["params"]]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["optimizer"], name)

    def step(self) -> None:
        for parameter, master in zip(self.model_parameters, self.masters, strict=True):
            master.grad = parameter.grad
        self.optimizer.step()
        with torch.no_grad():
            for parameter, master in zip(self.model_parameters, self.masters, strict=True):
                parameter.copy_(master)
        self.loss_scale *= 2

    def state_dict(self) -> Any:
        return {
            "loss_scale": self.loss_scale,
            "optimizer_state_dict": self.optimizer.state_dict(),
            "fp32_from_fp16": self.masters,
        }

    def load_state_dict(self, state_dict: Any) -> None:
        self.loss_scale = state_dict["loss_scale"]
        self.optimizer.load_state_dict(state_dict["optimizer_state_dict"])
        for current, saved in zip(self.masters, state_dict["fp32_from_fp16"], strict=True):
            current.data.copy_(saved.data)


def nested(optimizer: torch.optim.Optimizer) -> Accelerated:
    return Accelerated(Lookahead(optimizer))


def bare(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    return optimizer


WRAPPERS: dict[str, Callable[[Any], Any]] = {
    cls.__name__: cls
    for cls in (Accelerated, Plain, Lookahead, TwoStates, Sam, HalfPrecision, nested)
}
# Those whose state dict is that of the optimizer they hold.
ALIKE = {name: WRAPPERS[name] for name in ("Accelerated", "Plain")} | {"bare": bare}


def made(wrap: Callable[[Any], Any], steps: int, seed: int, cls: Any = torch.optim.Adam) -> Made:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    groups = [{"params": layer.parameters(), "lr": 0.1 + seed} for layer in model]
    optimizer = wrap(cls(groups, lr=0.01))
    for number in range(steps):
        step(model, optimizer, number)
    return model, optimizer


def step(model: nn.Module, optimizer: Any, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    optimizer.step()


def state(thing: Any) -> Any:
    return copy.deepcopy(thing.state_dict())


def stripped(saved: Any) -> Any:
    """A saved state without the names that scai puts beside the groups."""
    return without_names(saved) if "param_groups" in saved else saved


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("wait", [True, False])
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_wrapper_is_loaded_as_it_loads_itself(
    wrapper: str, wait: bool, strict: bool, manager: CheckpointManager
) -> None:
    wrap = WRAPPERS[wrapper]
    model, optimizer = made(wrap, 3, 0)
    expected = state(optimizer)
    manager.save_checkpoint(model, optimizer, 1, wait=wait)
    manager.flush()
    path = Path(manager.checkpoint_dir, "checkpoint_iter_1.pt")
    saved = torch.load(path)
    assert_same(stripped(saved["optimizer_state_dict"]), expected)
    for steps in (0, 2):
        ours, theirs = made(wrap, steps, 0), made(wrap, steps, 0)
        manager.load_checkpoint(path, *ours, strict=strict)
        theirs[0].load_state_dict(saved["model_state_dict"])
        theirs[1].load_state_dict(copy.deepcopy(stripped(saved["optimizer_state_dict"])))
        # Without `strict` the hyperparameters stay, which only Lookahead changes.
        if strict or steps == 0 and wrapper not in ("Lookahead", "nested"):
            assert_same(state(ours[1]), state(theirs[1]))
        for seed in range(3):
            step(*ours, seed)
            step(*theirs, seed)
        if strict:
            assert_same(state(ours[0]), state(theirs[0]))
            assert_same(state(ours[1]), state(theirs[1]))


@pytest.mark.parametrize("after", ALIKE)
@pytest.mark.parametrize("before", ALIKE)
@pytest.mark.parametrize("steps", [0, 3])
def test_an_optimizer_may_be_wrapped_after_the_save_or_before(
    before: str, after: str, steps: int, manager: CheckpointManager
) -> None:
    path = manager.save_checkpoint(*(saved := made(ALIKE[before], steps, 0)), 1)
    for strict in (True, False):
        model, optimizer = made(ALIKE[after], 1, 0)
        report = manager.load_checkpoint(path, model, optimizer, strict=strict).report
        names = [name for name, _ in model.named_parameters()]
        if steps:
            assert report.optimizer is not None
            assert report.optimizer.loaded == names
            assert_same(state(optimizer), state(saved[1]))


@pytest.mark.parametrize("wrapper", ALIKE)
def test_what_is_wrapped_is_told_apart(wrapper: str, manager: CheckpointManager) -> None:
    path = manager.save_checkpoint(*made(ALIKE[wrapper], 2, 0), 1)
    model, optimizer = made(ALIKE[wrapper], 2, 1, torch.optim.SGD)
    before = state(model), state(optimizer)
    with pytest.raises(MismatchError, match=r"class in the checkpoint: torch\.optim\.Adam"):
        manager.load_checkpoint(path, model, optimizer)
    assert_same((state(model), state(optimizer)), before)


def test_the_state_of_a_wrapper_is_not_taken_for_that_of_what_it_holds(
    manager: CheckpointManager,
) -> None:
    path = manager.save_checkpoint(*made(Sam, 2, 0), 1)
    model, optimizer = made(bare, 2, 1)
    before = state(model), state(optimizer)
    with pytest.raises(MismatchError, match=r"class in the checkpoint: .*\.Sam"):
        manager.load_checkpoint(path, model, optimizer)
    assert_same((state(model), state(optimizer)), before)


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_what_a_wrapper_refuses_changes_nothing(wrapper: str, manager: CheckpointManager) -> None:
    wrap = WRAPPERS[wrapper]
    path = manager.save_checkpoint(*made(wrap, 2, 0), 1)

    class Stubborn(wrap if isinstance(wrap, type) else Accelerated):  # type: ignore[misc]
        refuses = True

        def load_state_dict(self, state_dict: Any) -> None:
            super().load_state_dict(state_dict)
            if self.refuses:
                type(self).refuses = False
                raise ValueError("not this one")

    model, optimizer = made(Stubborn, 1, 1)
    before = state(model), state(optimizer)
    with pytest.raises((ValueError, MismatchError)):
        manager.load_checkpoint(path, model, optimizer)
    assert_same((state(model), state(optimizer)), before)


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_checkpoint_without_an_optimizer_is_said_to_be_one(
    wrapper: str, manager: CheckpointManager
) -> None:
    path = manager.save_checkpoint(made(bare, 0, 0)[0], iteration=1)
    model, optimizer = made(WRAPPERS[wrapper], 1, 1)
    before = state(model), state(optimizer)
    with pytest.raises(MissingFieldError, match="saved without an optimizer"):
        manager.load_checkpoint(path, model, optimizer)
    assert_same((state(model), state(optimizer)), before)


class Derives(torch.optim.SGD):
    """An optimizer that makes something of its state when it is given one."""

    def __setstate__(self, state: Any) -> None:
        super().__setstate__(state)
        if "state" in state:
            self.norms = [values["momentum_buffer"].norm() for values in self.state.values()]


def test_an_optimizer_with_a_way_to_take_its_state_is_given_it_at_once(
    manager: CheckpointManager,
) -> None:
    def momentum(groups: Any, lr: float) -> Derives:
        return Derives(groups, lr=lr, momentum=0.9)

    path = manager.save_checkpoint(*made(bare, 2, 0, momentum), 1)
    ours, theirs = made(bare, 2, 1, momentum), made(bare, 2, 1, momentum)
    manager.load_checkpoint(path, *ours)
    theirs[1].load_state_dict(without_names(torch.load(path)["optimizer_state_dict"]))
    assert len(ours[1].norms) == 4
    assert_same(ours[1].norms, theirs[1].norms)


class Unequal(Accelerated):
    """A wrapper with other groups than those of its state, as optimizers that divide them have."""

    @property
    def param_groups(self) -> Any:
        return self.optimizer.param_groups[:1]

    def state_dict(self) -> Any:
        return copy.deepcopy(self.optimizer.state_dict())


def test_groups_that_are_not_those_of_the_state_are_left_to_the_wrapper(
    manager: CheckpointManager,
) -> None:
    path = manager.save_checkpoint(*(saved := made(Unequal, 2, 0)), 1)
    model, optimizer = made(Unequal, 1, 1)
    manager.load_checkpoint(path, model, optimizer)
    assert_same(state(optimizer), state(saved[1]))


@pytest.fixture
def one_rank(tmp_path: Path) -> Iterator[None]:
    if not distributed.is_available() or not distributed.is_gloo_available():
        pytest.skip("this PyTorch has no gloo")
    distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'ranks'}", rank=0, world_size=1
    )
    yield
    distributed.destroy_process_group()


@pytest.mark.usefixtures("one_rank")
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
def test_a_state_divided_among_processes_is_loaded_as_torch_loads_it(
    manager: CheckpointManager,
) -> None:
    from torch.distributed.optim import ZeroRedundancyOptimizer

    def zero(parameters: Any) -> Any:
        return ZeroRedundancyOptimizer(parameters, torch.optim.Adam, lr=0.1)

    def trained(make: Any, steps: int, seed: int) -> Made:
        torch.manual_seed(seed)
        model = nn.Linear(3, 4)
        optimizer = make(model.parameters())
        for number in range(steps):
            step(model, optimizer, number)
        return model, optimizer

    model, optimizer = trained(zero, 2, 0)
    with pytest.raises(RuntimeError, match="consolidate_state_dict"):
        manager.save_checkpoint(model, optimizer, 1)
    assert manager.list_checkpoints() == []
    optimizer.consolidate_state_dict(to=0)
    path = manager.save_checkpoint(model, optimizer, 1)
    saved = without_names(torch.load(path)["optimizer_state_dict"])

    ours, theirs = trained(zero, 1, 1), trained(zero, 1, 1)
    before = state(ours[0])
    with pytest.raises(CheckpointError, match="nothing was loaded.*consolidate_state_dict"):
        manager.load_checkpoint(path, *ours)
    assert_same(state(ours[0]), before)
    ours[1].consolidate_state_dict(to=0)
    manager.load_checkpoint(path, *ours)
    theirs[0].load_state_dict(model.state_dict())
    theirs[1].load_state_dict(copy.deepcopy(saved))
    for each in (ours, theirs):
        step(*each, 7)
        each[1].consolidate_state_dict(to=0)
    assert_same(state(ours[0]), state(theirs[0]))
    assert_same(state(ours[1]), state(theirs[1]))

    # An optimizer that is not divided takes it too, and the other way round.
    alone = trained(lambda parameters: torch.optim.Adam(parameters, lr=0.1), 1, 2)
    manager.load_checkpoint(path, *alone)
    assert_same(without_names(state(alone[1])), saved)
