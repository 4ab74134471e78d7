"""Several models and optimizers by name, and further parts as one mapping."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from scai import CheckpointManager
from scai.errors import MismatchError, MissingFieldError, PartialLoadError
from torch import nn

Models = dict[str, nn.Module]
Optimizers = dict[str, torch.optim.Optimizer]


class Buffer:
    """A replay buffer that knows its state."""

    def __init__(self) -> None:
        self.items: list[torch.Tensor] = []

    def state_dict(self) -> dict[str, Any]:
        return {"items": self.items}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.items = list(state["items"])


def actor_and_critic(seed: int = 0) -> tuple[Models, Optimizers]:
    torch.manual_seed(seed)
    models: Models = {"actor": nn.Linear(3, 4), "critic": nn.Sequential(nn.Linear(4, 1))}
    optimizers: Optimizers = {
        "actor": torch.optim.Adam(models["actor"].parameters()),
        "critic": torch.optim.SGD(models["critic"].parameters(), momentum=0.9),
    }
    return models, optimizers


def step(models: Models, optimizers: Optimizers) -> None:
    models["critic"](models["actor"](torch.ones(2, 3))).sum().backward()
    for optimizer in optimizers.values():
        optimizer.step()
        optimizer.zero_grad()


def states(things: dict[str, Any]) -> dict[str, Any]:
    return {name: thing.state_dict() for name, thing in things.items()}


def assert_equal(first: Any, second: Any) -> None:
    torch.testing.assert_close(first, second, rtol=0, atol=0)


@pytest.mark.parametrize("wait", [True, False])
def test_a_run_with_several_networks_goes_on_bit_for_bit(tmp_path: Path, wait: bool) -> None:
    models, optimizers = actor_and_critic()
    target, buffer = nn.Linear(3, 4), Buffer()
    buffer.items = [torch.arange(3), torch.ones(2, 2)]
    step(models, optimizers)
    manager = CheckpointManager(tmp_path)
    parts = {"target": target, "replay": buffer}
    saved = manager.save_checkpoint(models, optimizers, 5, parts=parts, wait=wait)
    for _ in range(2):
        step(models, optimizers)
    if not isinstance(saved, str):
        assert saved.result() == manager.list_checkpoints()[0]

    fresh, their = actor_and_critic(seed=1)
    other_target, other_buffer = nn.Linear(3, 4), Buffer()
    resumed = CheckpointManager(tmp_path).resume(
        fresh, their, parts={"target": other_target, "replay": other_buffer}
    )
    assert resumed is not None and resumed.iteration == 5
    report = resumed.checkpoint.report
    assert report.complete and report.loaded == [
        "actor.weight", "actor.bias", "critic.0.weight", "critic.0.bias"
    ]  # fmt: skip
    assert report.optimizer is not None and report.optimizer.complete
    for _ in range(2):
        step(fresh, their)
    assert_equal(states(fresh), states(models))
    assert_equal(states(their), states(optimizers))
    assert_equal(other_target.state_dict(), target.state_dict())
    assert_equal(other_buffer.items, buffer.items)


def test_plain_torch_finds_them_by_name(tmp_path: Path) -> None:
    models, optimizers = actor_and_critic()
    step(models, optimizers)
    manager = CheckpointManager(tmp_path)
    path = manager.save_checkpoint(models, optimizers, 1, parts={"buffer": Buffer()})
    content = torch.load(path)
    assert_equal(content["model_state_dict"], states(models))
    assert content["optimizer_state_dict"].keys() == {"actor", "critic"}
    assert content["buffer_state_dict"] == {"items": []}
    # Its own optimizers take them over.
    fresh, their = actor_and_critic(seed=1)
    for name in fresh:
        fresh[name].load_state_dict(content["model_state_dict"][name])
        their[name].load_state_dict(content["optimizer_state_dict"][name])
    step(fresh, their)
    step(models, optimizers)
    assert_equal(states(fresh), states(models))


def test_one_optimizer_of_several_models_knows_whose_each_parameter_is(tmp_path: Path) -> None:
    models, _ = actor_and_critic()
    shared = torch.optim.Adam([p for model in models.values() for p in model.parameters()])
    step(models, {"all": shared})
    manager = CheckpointManager(tmp_path)
    path = manager.save_checkpoint(models, shared, 1)
    group = torch.load(path)["optimizer_state_dict"]["param_groups"][0]
    assert group["param_names"] == [
        "actor.weight", "actor.bias", "critic.0.weight", "critic.0.bias"
    ]  # fmt: skip
    # In another order, the state of each follows its name.
    fresh, _ = actor_and_critic(seed=1)
    turned = torch.optim.Adam([p for name in ("critic", "actor") for p in fresh[name].parameters()])
    report = manager.load_checkpoint(1, fresh, turned, strict=False).report
    assert report.optimizer is not None and len(report.optimizer.loaded) == 4
    step(fresh, {"all": turned})
    step(models, {"all": shared})
    assert_equal(states(fresh), states(models))


def test_a_mapping_of_tensors_is_a_state_dict_as_ever(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path)
    manager.save_checkpoint({"weight": torch.ones(2)}, iteration=1)
    target = {"weight": torch.zeros(2)}
    manager.load_checkpoint(1, target)
    assert_equal(target, {"weight": torch.ones(2)})
    manager.save_checkpoint({}, iteration=2)


MIXED = r"`model` is a mapping in which `net` has a state_dict\(\) and `w`, a Tensor, has none"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": {"net": nn.Linear(1, 1), "w": torch.ones(1)}}, MIXED),
        (
            {"model": {"net": torch.optim.SGD([torch.ones(1)])}},
            r"`model\['net'\]` is an optimizer \(SGD\)",
        ),
        (
            {"model": nn.Linear(1, 1), "optimizer": {"net": nn.Linear(1, 1)}},
            r"`optimizer\['net'\]` is a model \(Linear\)",
        ),
        ({"model": {3: nn.Linear(1, 1)}}, "the names in `model` must be strings, got int"),
        ({"model": {}, "parts": {3: Buffer()}}, "the names in `parts` must be strings, got int"),
        ({"model": {}, "parts": [Buffer()]}, "`parts` must be a mapping, got list"),
        ({"model": {}, "parts": {"lr": 3.5}}, r"`lr` is a float, which has no state_dict\(\)"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    tmp_path: Path, arguments: dict[str, Any], message: str
) -> None:
    manager = CheckpointManager(tmp_path)
    with pytest.raises(TypeError, match=message):
        manager.save_checkpoint(**arguments, iteration=1)
    assert manager.list_checkpoints() == []


@pytest.mark.parametrize("name", ["model", "optimizer", "scheduler"])
def test_a_name_that_is_an_argument_is_not_used_twice(tmp_path: Path, name: str) -> None:
    manager = CheckpointManager(tmp_path)
    scheduler = Buffer() if name == "scheduler" else None
    with pytest.raises(ValueError, match=f"`{name}` is an argument of its own"):
        manager.save_checkpoint({}, iteration=1, scheduler=scheduler, parts={name: Buffer()})


def test_names_that_differ_are_an_error_that_names_them_and_changes_nothing(tmp_path: Path) -> None:
    models, optimizers = actor_and_critic()
    manager = CheckpointManager(tmp_path)
    manager.save_checkpoint(models, optimizers, 1)
    fresh, their = actor_and_critic(seed=1)
    before = states(fresh)
    cases: list[tuple[type[Exception], dict[str, Any], str]] = [
        (MismatchError, {"model": {"actor": fresh["actor"]}}, "also has critic"),
        (
            MissingFieldError,
            {"model": {**fresh, "target": nn.Linear(1, 1)}},
            "`model_state_dict` has no `target`, but actor, critic",
        ),
        (
            MissingFieldError,
            {"model": fresh, "optimizer": {"other": their["actor"]}},
            "`optimizer_state_dict` has no `other`, but actor, critic",
        ),
        (MissingFieldError, {"parts": {"replay": Buffer()}}, "replay_state_dict"),
        (MismatchError, {"model": fresh["actor"]}, "actor"),
    ]
    for error, arguments, message in cases:
        with pytest.raises(error, match=message):
            manager.load_checkpoint(1, **arguments)
    assert_equal(states(fresh), before)


def test_a_load_that_is_not_strict_takes_the_names_that_are_there(tmp_path: Path) -> None:
    models, optimizers = actor_and_critic()
    manager = CheckpointManager(tmp_path)
    manager.save_checkpoint(models, optimizers, 1)
    fresh, _ = actor_and_critic(seed=1)
    mine: Models = {"actor": fresh["actor"], "target": nn.Linear(1, 1)}
    report = manager.load_checkpoint(1, mine, strict=False).report
    assert report.loaded == ["actor.weight", "actor.bias"]
    assert report.missing == ["target.weight", "target.bias"]
    assert report.unexpected == ["critic"]
    assert_equal(fresh["actor"].state_dict(), models["actor"].state_dict())


def test_a_load_changes_all_of_them_or_none(tmp_path: Path) -> None:
    class Refuses(Buffer):
        """Refuses the first state it is given, and takes its own back."""

        calls = 0

        def load_state_dict(self, state: dict[str, Any]) -> None:
            self.calls += 1
            if self.calls == 1:
                raise ValueError("not today")
            super().load_state_dict(state)

    models, optimizers = actor_and_critic()
    step(models, optimizers)
    manager = CheckpointManager(tmp_path)
    manager.save_checkpoint(models, optimizers, 1, parts={"a": Buffer(), "b": Buffer()})
    fresh, their = actor_and_critic(seed=1)
    before = states(fresh), states(their)
    with pytest.raises(ValueError, match="not today"):
        manager.load_checkpoint(1, fresh, their, parts={"a": Buffer(), "b": Refuses()})
    assert_equal((states(fresh), states(their)), before)


def test_one_that_was_changed_in_part_is_not_saved_among_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from scai import _load

    models, optimizers = actor_and_critic()
    monkeypatch.setattr(_load, "_unsound", _load._Unsound())
    _load._unsound.add(models["critic"])
    with pytest.raises(PartialLoadError, match=r"`model\['critic'\]` was partly changed"):
        CheckpointManager(tmp_path).save_checkpoint(models, optimizers, 1)


def test_a_step_of_any_of_the_optimizers_waits(tmp_path: Path) -> None:
    from scai import _live

    models: Models = {"a": nn.Linear(600, 600), "b": nn.Linear(600, 600)}
    optimizers: Optimizers = {
        name: torch.optim.Adam(model.parameters()) for name, model in models.items()
    }
    for name, model in models.items():
        model(torch.ones(1, 600)).sum().backward()
        optimizers[name].step()
    versions = _live.Versions()
    live = _live.live_memory(models.values(), _live.waiting(optimizers.values()), versions)
    assert live is not None
    for name, model in models.items():
        weight = model.weight
        moment = optimizers[name].state[weight]["exp_avg"]
        assert isinstance(weight, torch.Tensor)
        for tensor in (weight, moment):
            assert live.covers(tensor.data_ptr(), tensor.nbytes)
    handle = CheckpointManager(tmp_path).save_checkpoint(models, optimizers, 1, wait=False)
    expected = states(models)
    expected = {name: {k: v.clone() for k, v in state.items()} for name, state in expected.items()}
    for optimizer in optimizers.values():
        optimizer.step()
    assert_equal(torch.load(handle.result())["model_state_dict"], expected)
