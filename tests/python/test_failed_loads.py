"""A load that fails changes nothing: no bit of model, optimizer, parts or generators."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest
import torch
from nets import Owner, rows, train
from same import assert_same, frozen
from scai.errors import (
    DamagedError,
    MismatchError,
    MissingFieldError,
    UnsupportedError,
)
from scai.utils.checkpoint import CheckpointManager
from torch import nn
from torch.optim import lr_scheduler


class Moody(nn.Module):
    """Its load fails half way."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        self.calm = True

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x))

    def load_state_dict(self, state: dict, strict: bool = True, assign: bool = False) -> object:
        with torch.no_grad():
            self.first.weight.copy_(state["first.weight"])
        if not self.calm:
            raise RuntimeError("in no mood")
        return super().load_state_dict(state, strict, assign)


class MoodyOptimizer(torch.optim.AdamW):
    calm = True

    def load_state_dict(self, state: dict) -> None:
        super().load_state_dict(state)
        if not self.calm:
            raise RuntimeError("in no mood")


class MoodyScheduler(lr_scheduler.StepLR):
    calm = True

    def load_state_dict(self, state: dict) -> None:
        self.last_epoch = state["last_epoch"]
        if not self.calm:
            raise RuntimeError("in no mood")
        super().load_state_dict(state)


Parts = dict[str, object]


def all_parts(seed: int) -> Parts:
    torch.manual_seed(seed)
    model = Moody()
    optimizer = MoodyOptimizer(model.parameters(), lr=0.01 * (seed + 1))
    train(model, optimizer, rows, range(seed + 2))
    scheduler = MoodyScheduler(optimizer, 3 + seed)
    scheduler.step()
    return {
        "model": model,
        "optimizer": optimizer,
        "scheduler": scheduler,
        "scaler": torch.amp.GradScaler("cpu", init_scale=2.0 ** (3 + seed)),
        "ema": torch.optim.swa_utils.AveragedModel(nn.Linear(2, 2)),
        "dataloader": Owner(seed),
    }


def assert_nothing_changes(
    manager: CheckpointManager,
    path: Path,
    parts: Parts,
    error: type[Exception],
    match: str | None = None,
) -> Exception:
    before = frozen(*parts.values())
    gradients = [parameter.grad for parameter in parts["model"].parameters()]
    with pytest.raises(error, match=match) as raised:
        manager.load_checkpoint(path, rng=True, **parts)
    assert_same(frozen(*parts.values()), before)
    after = [parameter.grad for parameter in parts["model"].parameters()]
    assert all(x is y for x, y in zip(gradients, after))
    return raised.value


@pytest.fixture
def full(manager: CheckpointManager) -> Path:
    """A checkpoint with all parts."""
    parts = all_parts(0)
    return Path(manager.save_checkpoint(iteration=1, extra={"more": torch.rand(5)}, **parts))


def test_all_parts_are_loaded_where_nothing_fails(manager: CheckpointManager, full: Path) -> None:
    parts, saved = all_parts(1), all_parts(0)
    manager.load_checkpoint(full, rng=True, **parts)
    for name, part in parts.items():
        if name != "ema":
            assert_same(part.state_dict(), saved[name].state_dict())


@pytest.mark.parametrize("moody", ["model", "optimizer", "scheduler"])
def test_what_fails_by_its_own_way_to_load_leaves_all_as_it_was(
    moody: str, manager: CheckpointManager, full: Path
) -> None:
    parts = all_parts(1)
    parts[moody].calm = False
    assert_nothing_changes(manager, full, parts, RuntimeError, "in no mood")


def test_a_hook_of_an_optimizer_that_fails_leaves_all_as_it_was(
    manager: CheckpointManager, full: Path
) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("not now")

    for register in ("register_load_state_dict_pre_hook", "register_load_state_dict_post_hook"):
        parts = all_parts(1)
        getattr(parts["optimizer"], register)(refuse)
        assert_nothing_changes(manager, full, parts, RuntimeError, "not now")


def test_a_scaler_that_refuses_leaves_all_as_it_was(manager: CheckpointManager) -> None:
    parts = all_parts(0)
    parts["scaler"] = torch.amp.GradScaler("cpu", enabled=False)
    path = manager.save_checkpoint(iteration=1, **parts)
    assert_nothing_changes(manager, path, all_parts(1), RuntimeError, "source state dict is empty")


def test_a_mismatch_of_any_part_leaves_all_as_it_was(
    manager: CheckpointManager, full: Path
) -> None:
    parts = all_parts(1)
    parts["model"].second = nn.Linear(4, 3)
    assert_nothing_changes(manager, full, parts, MismatchError, "second.weight: float32")
    parts = all_parts(1)
    parts["ema"] = torch.optim.swa_utils.AveragedModel(nn.Linear(2, 3))
    assert_nothing_changes(manager, full, parts, MismatchError, "module.weight: float32")
    parts = all_parts(1)
    parts["optimizer"].add_param_group({"params": [nn.Parameter(torch.zeros(2))]})
    error = assert_nothing_changes(manager, full, parts, MismatchError)
    assert str(error) == (
        f"checkpoint `{full}`: the optimizer does not match, and nothing was loaded\n"
        "  parameters by group in the checkpoint: 4\n"
        "  parameters by group in the optimizer: 4, 1"
    )
    parts = all_parts(1)
    parameters = list(parts["model"].parameters())
    parts["optimizer"] = torch.optim.AdamW(parameters[::-1])
    error = assert_nothing_changes(manager, full, parts, MismatchError)
    assert "the saved parameters have other names or another order" in str(error)
    parts["optimizer"] = torch.optim.AdamW([{"params": parameters[:1]}, {"params": parameters[1:]}])
    assert_nothing_changes(manager, full, parts, MismatchError)


@pytest.mark.parametrize("part", ["scheduler", "scaler", "ema", "rng", "dataloader", "optimizer"])
def test_a_part_that_is_not_there_leaves_all_as_it_was(
    part: str, manager: CheckpointManager
) -> None:
    parts = all_parts(0)
    field = {"rng": "rng_state"}.get(part, f"{part}_state_dict")
    given = {name: value for name, value in parts.items() if name != part}
    path = manager.save_checkpoint(iteration=1, rng=part != "rng", **given)
    error = assert_nothing_changes(manager, path, all_parts(1), KeyError)
    assert isinstance(error, MissingFieldError)
    if part != "optimizer":
        assert error.field == field
        assert str(error).startswith(f"checkpoint `{path}`: the field `{field}` is missing; the fi")
    else:
        assert str(error) == (
            "the saved `optimizer_state_dict` is empty: the checkpoint was saved without an "
            "optimizer; leave `optimizer` out of the call to load the rest"
        )


@pytest.mark.parametrize("field", ["iteration", "model_state_dict", "optimizer_state_dict"])
def test_a_file_without_a_field_that_all_have_is_a_key_error(
    field: str, manager: CheckpointManager, full: Path
) -> None:
    state = torch.load(full)
    del state[field]
    torch.save(state, full)
    error = assert_nothing_changes(manager, full, all_parts(1), KeyError)
    assert isinstance(error, MissingFieldError)
    assert error.field == field
    assert str(error) == (
        f"checkpoint `{full}`: the field `{field}` is missing; the fields are: {', '.join(state)}; "
        "read files that are not training checkpoints with scai.load()"
    )


def test_a_state_of_the_generators_that_is_none_leaves_all_as_it_was(
    manager: CheckpointManager, full: Path
) -> None:
    for wrong in (5, {}, {"python": [1]}, {**torch.load(full)["rng_state"], "torch": [1, 2]}):
        state = torch.load(full)
        state["rng_state"] = wrong
        torch.save(state, full)
        assert_nothing_changes(manager, full, all_parts(1), ValueError, "random")


@pytest.mark.parametrize(
    "field", ["model_state_dict", "optimizer_state_dict", "ema_state_dict", "rng_state", "more"]
)
def test_damage_anywhere_is_named_and_leaves_all_as_it_was(
    field: str, manager: CheckpointManager, full: Path
) -> None:
    tensor, name = {
        "model_state_dict": (lambda state: state["second.bias"], "second.bias"),
        "optimizer_state_dict": (lambda state: state["state"][3]["exp_avg"], "state.3.exp_avg"),
        "ema_state_dict": (lambda state: state["module.weight"], "module.weight"),
        "rng_state": (lambda state: state["torch"], "torch"),
        "more": (lambda state: state, ""),
    }[field]
    content = bytearray(full.read_bytes())
    needle = tensor(torch.load(full)[field]).numpy().tobytes()
    at = content.index(needle)
    assert content.count(needle) == 1
    content[at + len(needle) // 2] ^= 1
    full.write_bytes(content)
    error = assert_nothing_changes(manager, full, all_parts(1), DamagedError)
    whole = f"{field}.{name}".rstrip(".")
    assert error.tensor == whole
    assert error.path == str(full)
    start, end = error.bytes
    assert start <= at + len(needle) // 2 < end
    assert re.fullmatch(
        rf"checkpoint `{full}`: tensor `{re.escape(whole)}` \(record `data/\d+`\): "
        rf"bytes {start}\.\.{end}: .+",
        str(error),
    )
    answers = manager.verify_checkpoint(full)
    assert answers["readable"] is False and answers["exists"] is True


def test_every_kind_of_damage_leaves_all_as_it_was(manager: CheckpointManager, full: Path) -> None:
    whole = full.read_bytes()
    chance = random.Random(0)
    parts = all_parts(1)
    places = {chance.randrange(len(whole)) for _ in range(40)}
    for at in sorted(places):
        content = bytearray(whole)
        content[at] ^= 1 << chance.randrange(8)
        full.write_bytes(content)
        assert_nothing_changes(manager, full, parts, (DamagedError, UnsupportedError))
    for length in (0, 1, 100, len(whole) // 2, len(whole) - 1):
        full.write_bytes(whole[:length])
        assert_nothing_changes(manager, full, parts, DamagedError)


def test_a_device_that_is_not_there_leaves_all_as_it_was(
    manager: CheckpointManager, full: Path
) -> None:
    parts = all_parts(1)
    before = frozen(*parts.values())
    with pytest.raises(RuntimeError):
        manager.load_checkpoint(full, device="nowhere", rng=True, **parts)
    assert_same(frozen(*parts.values()), before)
