"""Loading into a model of another floating-point type, where that is asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from scai import CheckpointManager
from scai.errors import MismatchError
from torch import nn

TYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def network(dtype: torch.dtype, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).to(dtype)


@pytest.mark.parametrize("saved", TYPES)
@pytest.mark.parametrize("wanted", TYPES)
def test_numbers_are_converted_as_torch_converts_them(
    tmp_path: Path, saved: torch.dtype, wanted: torch.dtype
) -> None:
    manager = CheckpointManager(tmp_path)
    source = network(saved)
    manager.save_checkpoint(source, iteration=1)
    model = network(wanted, seed=1)
    places = [parameter.data_ptr() for parameter in model.parameters()]
    report = manager.load_checkpoint(1, model, cast=True).report
    expected = network(wanted, seed=2)
    expected.load_state_dict(source.state_dict())
    for name, tensor in model.state_dict().items():
        assert tensor.dtype == expected.state_dict()[name].dtype
        assert torch.equal(tensor, expected.state_dict()[name])
    assert places == [parameter.data_ptr() for parameter in model.parameters()]
    assert report.complete and len(report.loaded) == 9
    # The counter of batches is a whole number in both.
    assert len(report.cast) == (0 if saved == wanted else 8)
    if saved != wanted:
        theirs, ours = (str(dtype).removeprefix("torch.") for dtype in (saved, wanted))
        line = f"0.bias: {theirs} [4] in the checkpoint, {ours} [4] in the model"
        assert line in report.cast
        assert "converted to the element type of the model: 8" in str(report)


@pytest.mark.parametrize("strict", [True, False])
def test_only_floating_point_is_converted(tmp_path: Path, strict: bool) -> None:
    manager = CheckpointManager(tmp_path)
    manager.save_checkpoint({"n": torch.arange(3), "w": torch.ones(3).half()}, iteration=1)
    target = {"n": torch.zeros(3), "w": torch.zeros(3)}
    if strict:
        with pytest.raises(MismatchError, match="n: int64"):
            manager.load_checkpoint(1, target, cast=True)
        assert not target["w"].any()
    else:
        report = manager.load_checkpoint(1, target, strict=False, cast=True).report
        assert report.loaded == ["w"] and len(report.mismatched) == 1
        assert torch.equal(target["w"], torch.ones(3))
    assert not target["n"].any()


def test_shapes_must_match_all_the_same(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path)
    manager.save_checkpoint({"w": torch.ones(3).half()}, iteration=1)
    with pytest.raises(MismatchError, match=r"w: float16 \[3\]"):
        manager.load_checkpoint(1, {"w": torch.zeros(4)}, cast=True)


def test_without_it_another_type_is_a_mismatch_that_says_what_to_do(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path)
    manager.save_checkpoint(network(torch.float16), iteration=1)
    model = network(torch.float32, seed=1)
    with pytest.raises(MismatchError, match="load with `cast`"):
        manager.load_checkpoint(1, model)
    with pytest.raises(MismatchError, match="load with `cast`"):
        manager.resume(model)


def test_a_run_goes_on_in_another_type_with_its_optimizer(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path)
    model = network(torch.float64)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(5, 3, dtype=torch.float64)).sum().backward()
    optimizer.step()
    manager.save_checkpoint(model, optimizer, 1)
    half = network(torch.bfloat16, seed=1)
    its = torch.optim.AdamW(half.parameters())
    resumed = manager.resume(half, its, cast=True)
    assert resumed is not None and resumed.checkpoint.report.complete
    moments = its.state[half[0].weight]["exp_avg"]
    assert moments.dtype == torch.bfloat16
    expected = optimizer.state[model[0].weight]["exp_avg"].bfloat16()
    assert torch.equal(moments, expected)


def test_a_dry_run_reports_it_and_changes_nothing(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path)
    manager.save_checkpoint(network(torch.float16), iteration=1)
    model = network(torch.float32, seed=1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    report = manager.load_checkpoint(1, model, cast=True, dry_run=True).report
    assert len(report.cast) == 8
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
