"""Checkpoints without frozen parameters: small, and only for the model that they belong to."""

from __future__ import annotations

import copy
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from same import assert_same
from scai import CheckpointManager
from scai.errors import MismatchError
from torch import nn


class Adapted(nn.Module):
    """A linear layer that stays as it is, and a product of small matrices beside it (LoRA)."""

    def __init__(self, width: int = 64, rank: int = 2) -> None:
        super().__init__()
        self.base = nn.Linear(width, width)
        self.norm = nn.BatchNorm1d(width)
        self.a = nn.Parameter(torch.randn(rank, width))
        self.b = nn.Parameter(torch.zeros(width, rank))
        self.base.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> Any:
        return self.norm(self.base(x) + x @ self.a.T @ self.b.T)


def adapted(seed: int = 0) -> Adapted:
    torch.manual_seed(seed)
    return Adapted()


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(8, 64)).square().mean().backward()
        optimizer.step()


def test_a_run_goes_on_with_the_same_bits_from_a_file_without_the_base(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path)
    model = adapted()
    optimizer = optimizer_of(model)
    train(model, optimizer, 3)
    whole = manager.save_checkpoint(model, optimizer, 2)
    path = manager.save_checkpoint(model, optimizer, 3, only="trainable")
    train(model, optimizer, 3)

    base = sum(p.nbytes for p in model.base.parameters())
    assert Path(whole).stat().st_size - Path(path).stat().st_size > base * 0.9
    checkpoint = torch.load(path, weights_only=True)
    assert set(checkpoint["frozen_parameters"]) == {"base.weight", "base.bias"}
    assert {"a", "b", "norm.weight", "norm.running_mean"} < set(checkpoint["model_state_dict"])
    assert "base.weight" not in checkpoint["model_state_dict"]

    again = adapted()
    its_optimizer = optimizer_of(again)
    places = [p.data_ptr() for p in again.parameters()]
    resumed = manager.resume(again, its_optimizer)
    assert resumed is not None and resumed.iteration == 3
    assert resumed.checkpoint.report.complete
    assert "base.weight" not in resumed.checkpoint.report.loaded
    assert places == [p.data_ptr() for p in again.parameters()]
    train(again, its_optimizer, 3)
    assert_same(model.state_dict(), again.state_dict())
    assert_same(optimizer.state_dict(), its_optimizer.state_dict())


@pytest.mark.parametrize("has_a_say", [False, True])
def test_another_base_is_refused_and_nothing_is_changed(tmp_path: Path, has_a_say: bool) -> None:
    manager = CheckpointManager(tmp_path)
    manager.save_checkpoint(adapted(), iteration=1, only="trainable")
    other = adapted(seed=1)
    if has_a_say:
        other.register_load_state_dict_post_hook(lambda *_: None)
    before = copy.deepcopy(other.state_dict())
    with pytest.raises(MismatchError, match="2 of the frozen parameters .* weights that the run"):
        manager.load_checkpoint(1, other)
    assert_same(before, other.state_dict())

    report = manager.load_checkpoint(1, other, strict=False).report
    assert sorted(report.missing) == ["base.bias", "base.weight"]
    assert "frozen parameters" in str(report)
    assert torch.equal(other.base.weight, before["base.weight"])
    assert torch.equal(other.a, adapted().a)


def test_one_bit_of_the_base_is_noticed(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path)
    manager.save_checkpoint(adapted(), iteration=1, only="trainable")
    other = adapted()
    other.base.weight.data.view(torch.int32)[17, 5] ^= 1
    with pytest.raises(MismatchError, match="base.weight"):
        manager.load_checkpoint(1, other)


def test_a_module_with_a_way_of_its_own_keeps_its_base(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path)
    model = adapted()
    train(model, optimizer_of(model), 2)
    manager.save_checkpoint(model, iteration=1, only="trainable")
    again = adapted()
    again.register_load_state_dict_post_hook(lambda *_: None)
    report = manager.load_checkpoint(1, again).report
    assert report.complete and "base.weight" not in report.loaded
    assert_same(model.state_dict(), again.state_dict())


def test_several_models_and_other_names(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path)
    models = {"actor": adapted(), "critic": adapted(1)}
    manager.save_checkpoint(models, iteration=1, only="trainable")
    again = {"actor": adapted(), "critic": adapted(1)}
    assert manager.load_checkpoint(1, again).report.complete
    with pytest.raises(MismatchError, match="frozen"):
        manager.load_checkpoint(1, {"actor": adapted(1), "critic": adapted(1)})

    manager.save_checkpoint(nn.ModuleDict({"inner": adapted()}), iteration=2, only="trainable")
    renamed = manager.load_checkpoint(2, adapted(), remap={"^inner[.]": ""})
    assert renamed.report.complete


def test_a_frozen_parameter_that_changes_is_saved(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As a momentum encoder's does, past PyTorch's counter of writes too."""
    manager = CheckpointManager(tmp_path)
    model = adapted()
    manager.save_checkpoint(model, iteration=1, only="trainable")
    model.base.weight.data.mul_(0.5)
    with caplog.at_level(logging.WARNING, "scai"):
        path = manager.save_checkpoint(model, iteration=2, only="trainable")
    assert "`base.weight` needs no gradient, but has changed" in caplog.text
    assert set(torch.load(path)["frozen_parameters"]) == {"base.bias"}

    # Also after a resume, in which it comes out of the file and does not change again.
    again = adapted()
    manager.load_checkpoint(2, again)
    assert torch.equal(again.base.weight, model.base.weight)
    path = manager.save_checkpoint(again, iteration=3, only="trainable")
    assert set(torch.load(path)["frozen_parameters"]) == {"base.bias"}


def test_what_was_trained_before_it_was_frozen_is_saved(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path)
    model = adapted()
    optimizer = optimizer_of(model)
    train(model, optimizer, 1)
    model.a.requires_grad_(False)
    path = manager.save_checkpoint(model, optimizer, 1, only="trainable")
    assert set(torch.load(path)["frozen_parameters"]) == {"base.weight", "base.bias"}

    # Known from an earlier save, without its optimizer.
    other = adapted()
    manager.save_checkpoint(other, iteration=2, only="trainable")
    other.b.requires_grad_(False)
    path = manager.save_checkpoint(other, iteration=3, only="trainable")
    assert set(torch.load(path)["frozen_parameters"]) == {"base.weight", "base.bias"}


def test_after_a_whole_checkpoint_its_values_are_the_base(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path)
    manager.save_checkpoint(adapted(), iteration=1)
    model = adapted(seed=1)
    manager.load_checkpoint(1, model)
    path = manager.save_checkpoint(model, iteration=2, only="trainable")
    assert set(torch.load(path)["frozen_parameters"]) == {"base.weight", "base.bias"}


def test_digests_are_computed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import scai._frozen

    manager = CheckpointManager(tmp_path)
    model = adapted()
    computed: list[str] = []
    compute = scai._frozen._computed

    def counting(tensors: Any) -> Any:
        computed.extend(tensors)
        return compute(tensors)

    monkeypatch.setattr(scai._frozen, "_computed", counting)
    for iteration in range(1, 4):
        manager.save_checkpoint(model, iteration=iteration, only="trainable")
    assert sorted(computed) == ["base.bias", "base.weight"]


@pytest.mark.parametrize("wait", [True, False])
def test_in_the_background_and_with_tied_names(tmp_path: Path, wait: bool) -> None:
    manager = CheckpointManager(tmp_path)
    model = adapted()
    model.tied = model.base
    handle: Any = manager.save_checkpoint(model, iteration=1, only="trainable", wait=wait)
    path = handle if wait else handle.result()
    names = {"base.weight", "base.bias", "tied.weight", "tied.bias"}
    assert set(torch.load(path)["frozen_parameters"]) == names
    again = adapted()
    again.tied = again.base
    assert manager.load_checkpoint(1, again).report.complete


def test_wrong_calls(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path)
    only: Any = "lora"
    with pytest.raises(ValueError, match='`only` is \'lora\'; it is "trainable"'):
        manager.save_checkpoint(adapted(), iteration=1, only=only)
    with pytest.raises(TypeError, match="needs a module"):
        manager.save_checkpoint({"w": torch.ones(2)}, iteration=1, only="trainable")
    with pytest.raises(ValueError, match="all parameters of `model` are frozen"):
        manager.save_checkpoint(adapted().requires_grad_(False), iteration=1, only="trainable")
    assert manager.list_checkpoints() == []
