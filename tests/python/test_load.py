"""Loading into live objects: all of what is saved, or what of it fits."""

from __future__ import annotations

import copy
import datetime
import os
import random
import re
import time
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nets import Lstm, Owner, ResNet, WithExtra, images, mlp, rows, train, training
from same import assert_same, frozen, random_state, without_names
from scai.errors import (
    MismatchError,
)
from scai.utils.checkpoint import CheckpointManager
from torch import nn
from torch.optim import lr_scheduler

# What fits


def test_a_strict_load_says_all_that_does_not_fit(manager: CheckpointManager) -> None:
    saved = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2), nn.Linear(2, 2))
    path = manager.save_checkpoint(saved, iteration=0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 5, bias=False))
    model.half_ = nn.Linear(2, 2).half()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(RuntimeError) as raised:
        manager.load_checkpoint(path, model)
    assert str(raised.value) == (
        f"checkpoint `{path}`: the state does not match, and nothing was loaded\n"
        "  loaded: 2\n"
        "  missing in the checkpoint: 2\n"
        "    half_.weight\n"
        "    half_.bias\n"
        "  unexpected in the checkpoint: 3\n"
        "    1.bias\n"
        "    2.weight\n"
        "    2.bias\n"
        "  mismatched: 1\n"
        "    1.weight: float32 [2, 4] in the checkpoint, float32 [5, 4] in the model"
    )
    assert isinstance(raised.value, MismatchError)
    assert raised.value.report["loaded"] == ["0.weight", "0.bias"]
    assert_same(model.state_dict(), before)


def test_another_element_type_is_a_mismatch(manager: CheckpointManager) -> None:
    path = manager.save_checkpoint(nn.Linear(2, 2, bias=False), iteration=0)
    with pytest.raises(
        MismatchError, match=r"weight: float32 \[2, 2\] in the checkpoint, bfloat16"
    ) as raised:
        manager.load_checkpoint(path, nn.Linear(2, 2, bias=False).bfloat16())
    assert str(raised.value).endswith(
        "hint: only the element types differ: load with `cast`, which converts floating-point "
        "types, or into a model with the saved types"
    )


def test_what_fits_is_loaded_and_the_rest_stays(manager: CheckpointManager) -> None:
    saved = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 3), "old": nn.Linear(1, 1)})
    path = manager.save_checkpoint(saved, iteration=0)
    model = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 4), "new": nn.Linear(1, 1)})
    before = copy.deepcopy(model.state_dict())
    report = manager.load_checkpoint(path, model, strict=False).report
    assert report.loaded == ["a.weight", "a.bias"]
    assert report.missing == ["new.weight", "new.bias"]
    assert report.unexpected == ["old.weight", "old.bias"]
    assert report.mismatched == [
        "b.weight: float32 [3, 2] in the checkpoint, float32 [4, 2] in the model",
        "b.bias: float32 [3] in the checkpoint, float32 [4] in the model",
    ]
    assert not report.complete
    assert report.optimizer is None
    after = model.state_dict()
    for name in after:
        source = saved.state_dict() if name.startswith("a.") else before
        assert_same(after[name], source[name])


def test_the_state_of_an_optimizer_follows_its_parameters_into_a_deeper_model(
    manager: CheckpointManager,
) -> None:
    small, optimizer = training(lambda: ResNet(blocks=20, width=2), steps=2, lr=0.01)
    path = manager.save_checkpoint(small, optimizer, 2)
    deep, deep_optimizer = training(lambda: ResNet(blocks=25, width=2), steps=1, lr=0.5)
    before = copy.deepcopy([deep.state_dict(), deep_optimizer.state_dict()["state"]])
    report = manager.load_checkpoint(path, deep, deep_optimizer, strict=False).report
    assert len(report.loaded) == len(small.state_dict())
    assert all(re.match(r"blocks\.2[0-4]\.", name) for name in report.missing)
    assert not report.unexpected and not report.mismatched
    assert set(report.optimizer.loaded) == {name for name, _ in small.named_parameters()}
    assert len(report.optimizer.missing) == 5 * 6
    assert deep_optimizer.param_groups[0]["lr"] == 0.5
    theirs = dict(small.named_parameters())
    for name, parameter in deep.named_parameters():
        state = deep_optimizer.state[parameter]
        if name in theirs:
            assert_same(parameter.detach(), theirs[name].detach())
            assert_same(state, optimizer.state[theirs[name]])
        else:
            assert_same(parameter.detach(), before[0][name])
            at = [other for other, _ in deep.named_parameters()].index(name)
            assert_same(state, before[1][at])
    train(deep, deep_optimizer, images, range(2))


def with_names_of(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict:
    """The state of an optimizer as a checkpoint has it that names the parameters as this model does."""
    state = optimizer.state_dict()
    names = [name for name, _ in model.named_parameters()]
    return {**state, "param_groups": [{**state["param_groups"][0], "param_names": names}]}


def test_a_file_with_the_names_of_a_wrapper_is_hinted_at_and_remapped_with_its_optimizer(
    manager: CheckpointManager,
) -> None:
    wrapped = nn.DataParallel(mlp())
    optimizer = torch.optim.Adam(wrapped.parameters())
    train(wrapped, optimizer, rows, range(2))
    path = manager.save_checkpoint(wrapped.state_dict(), with_names_of(wrapped, optimizer), 2)
    model = mlp()
    own = torch.optim.Adam(model.parameters())
    with pytest.raises(MismatchError) as raised:
        manager.load_checkpoint(path, model)
    assert str(raised.value).endswith(
        "\n  hint: every saved name begins with `module.`, which a wrapper adds; "
        r"remap `^module\.` to nothing"
    )
    report = manager.load_checkpoint(path, model, own, remap={r"^module\.": ""}).report
    assert report.complete and report.optimizer.complete
    assert_same(model.state_dict(), wrapped.module.state_dict())
    assert_same(own.state_dict(), optimizer.state_dict())
    # A wrapped model needs no remap, and one that was written when it did is still fine.
    for remap in ({}, {r"^module\.": ""}):
        other = nn.DataParallel(mlp())
        its = torch.optim.Adam(other.parameters())
        report = manager.load_checkpoint(path, other, its, remap=remap).report
        assert report.complete and report.optimizer.complete
        assert_same(other.module.state_dict(), model.state_dict())
        assert_same(its.state_dict(), optimizer.state_dict())
    back = manager.save_checkpoint(model, own, 3)
    manager.load_checkpoint(back, wrapped, optimizer, remap={"^": "module."})
    manager.load_checkpoint(back, wrapped, optimizer)
    assert_same(wrapped.module.state_dict(), model.state_dict())


@pytest.mark.parametrize(
    "wrap",
    [
        nn.DataParallel,
        lambda module: torch.compile(module, backend="eager"),
        lambda module: torch.compile(nn.DataParallel(module), backend="eager"),
        lambda module: nn.DataParallel(torch.compile(module, backend="eager")),
    ],
    ids=["data parallel", "compiled", "compiled data parallel", "data parallel compiled"],
)
@pytest.mark.parametrize("snapshot", ["live", "copy"])
def test_wrappers_are_seen_through(wrap: Any, snapshot: str, manager: CheckpointManager) -> None:
    # A module called like what a wrapper adds.
    inner = nn.ModuleDict({"module": mlp()})
    inner.forward = lambda x: inner["module"](x)
    wrapped = wrap(inner)
    optimizer = torch.optim.Adam(wrapped.parameters())
    train(wrapped, optimizer, rows, range(2))
    handle = manager.save_checkpoint(wrapped, optimizer, 2, wait=False, snapshot=snapshot)
    path = handle.result()
    saved = torch.load(path, weights_only=True)
    assert list(saved["model_state_dict"]) == list(inner.state_dict())
    names = [name for name, _ in inner.named_parameters()]
    assert saved["optimizer_state_dict"]["param_groups"][0]["param_names"] == names
    for target in (wrap(nn.ModuleDict({"module": mlp()})), nn.ModuleDict({"module": mlp()})):
        its = torch.optim.Adam(target.parameters())
        report = manager.load_checkpoint(path, target, its).report
        assert report.complete and report.optimizer.complete
        assert_same(list(target.state_dict().values()), list(inner.state_dict().values()))
        assert_same(its.state_dict(), optimizer.state_dict())
    # And each layer's names are still those of files that have them.
    old = manager.save_checkpoint(wrapped.state_dict(), with_names_of(wrapped, optimizer), 3)
    target = wrap(nn.ModuleDict({"module": mlp()}))
    its = torch.optim.Adam(target.parameters())
    assert manager.load_checkpoint(old, target, its).report.complete
    assert_same(target.state_dict(), wrapped.state_dict())


def test_a_remap_may_use_groups_and_must_be_an_expression(manager: CheckpointManager) -> None:
    path = manager.save_checkpoint({"layer.0.w": torch.ones(2)}, iteration=0)
    model = {"blocks.0.w": torch.zeros(2)}
    manager.load_checkpoint(path, model, remap={r"layer\.(\d)": "blocks.$1"})
    assert model["blocks.0.w"].tolist() == [1, 1]
    with pytest.raises(ValueError, match="in the remap table: regex parse error"):
        manager.load_checkpoint(path, model, remap={"(": ""})
    two = manager.save_checkpoint({"a": torch.ones(2), "b": torch.ones(2)}, iteration=1)
    with pytest.raises(ValueError, match="the remap table maps two saved tensors to the name `c`"):
        manager.load_checkpoint(two, {"c": torch.ones(2)}, strict=False, remap={"a|b": "c"})


def test_a_dry_run_reports_and_changes_nothing(manager: CheckpointManager) -> None:
    saved = training(Lstm)
    scheduler = lr_scheduler.StepLR(saved[1], 1)
    path = manager.save_checkpoint(*saved, 2, scheduler=scheduler)
    model, optimizer = training(Lstm)
    other = lr_scheduler.StepLR(optimizer, 5)
    before = frozen(model, optimizer, other)
    checkpoint = manager.load_checkpoint(
        path, model, optimizer, scheduler=other, rng=True, dry_run=True
    )
    assert checkpoint.report.complete
    assert len(checkpoint.report.loaded) == len(model.state_dict())
    assert_same(frozen(model, optimizer, other), before)
    with pytest.raises(MismatchError):
        manager.load_checkpoint(path, mlp(), dry_run=True)


def test_a_report_reads_as_a_table(manager: CheckpointManager) -> None:
    path = manager.save_checkpoint(*training(lambda: nn.Linear(3, 3)), 0)
    model = nn.Sequential(nn.Linear(3, 3))
    optimizer = torch.optim.AdamW(model.parameters())
    report = manager.load_checkpoint(path, model, optimizer, strict=False).report
    assert str(report) == (
        "  loaded: 0\n"
        "  missing in the checkpoint: 2\n"
        "    0.weight\n"
        "    0.bias\n"
        "  unexpected in the checkpoint: 2\n"
        "    weight\n"
        "    bias\n"
        "  hint: `0.weight` in the model may be `weight` in the checkpoint\n"
        "optimizer state\n"
        "  loaded: 0\n"
        "  missing in the checkpoint: 2\n"
        "    0.weight\n"
        "    0.bias\n"
        "  unexpected in the checkpoint: 2\n"
        "    weight\n"
        "    bias"
    )


def test_extra_state_counts_in_a_strict_load(manager: CheckpointManager) -> None:
    plain = nn.Sequential(nn.Linear(3, 3))
    with_extra = nn.Sequential(WithExtra({"seen": 1}))
    renamed = {f"0.fc.{name}": tensor for name, tensor in plain[0].state_dict().items()}
    plain_path = manager.save_checkpoint(renamed, iteration=0)
    path = manager.save_checkpoint(with_extra, iteration=1)
    before = copy.deepcopy(with_extra.state_dict())
    with pytest.raises(MismatchError, match="missing in the checkpoint: 1\n    0._extra_state"):
        manager.load_checkpoint(plain_path, with_extra)
    assert_same(with_extra.state_dict(), before)
    model = nn.Sequential(nn.ModuleDict({"fc": nn.Linear(3, 3)}))
    with pytest.raises(MismatchError, match="unexpected in the checkpoint: 1\n    0._extra_state"):
        manager.load_checkpoint(path, model)
    wrapped = nn.ModuleDict({"module": nn.Sequential(WithExtra(None))})
    manager.load_checkpoint(path, wrapped, remap={"^": "module."})
    assert wrapped["module"][0].extra == {"seen": 1}


# What may be loaded into


def test_a_mapping_is_a_model(manager: CheckpointManager) -> None:
    state = {"w": torch.arange(4.0), "step": 3, "nested": {"b": torch.ones(2)}}
    path = manager.save_checkpoint(state, iteration=0)
    kept = torch.zeros(4)
    model = {"w": kept, "step": 0, "nested": {}}
    report = manager.load_checkpoint(path, model).report
    assert report.complete
    assert model["w"] is kept
    assert_same(model, state)
    frozen_model = types.MappingProxyType({"w": torch.zeros(4)})
    with pytest.raises(MismatchError):
        manager.load_checkpoint(path, frozen_model)
    manager.load_checkpoint(path, frozen_model, strict=False)
    assert_same(frozen_model["w"], state["w"])
    with pytest.raises(TypeError, match="`model` cannot be changed, and holds more than tensors"):
        manager.load_checkpoint(path, types.MappingProxyType(dict(model)))
    again = manager.save_checkpoint(types.MappingProxyType(state), iteration=1)
    assert_same(torch.load(again)["model_state_dict"], state)


def test_anything_with_the_two_methods_is_a_model_and_an_optimizer(
    manager: CheckpointManager,
) -> None:
    path = manager.save_checkpoint(Owner(1), Owner(2), 0, dataloader=Owner(3), ema=Owner(4))
    parts = [Owner(0) for _ in range(4)]
    model, optimizer, dataloader, ema = parts
    manager.load_checkpoint(path, model, optimizer, dataloader=dataloader, ema=ema)
    assert [part.count for part in parts] == [1, 2, 3, 4]
    assert [part.weight.tolist() for part in parts] == [[count] * 3 for count in (1, 2, 3, 4)]


@pytest.mark.parametrize("what", ["model", "optimizer", "scheduler", "scaler", "dataloader", "ema"])
def test_what_has_no_state_is_refused(what: str, manager: CheckpointManager) -> None:
    model = mlp()
    parts = {"scheduler": Owner(1), "scaler": Owner(1), "dataloader": Owner(1), "ema": mlp()}
    path = manager.save_checkpoint(model, torch.optim.SGD(model.parameters()), 0, **parts)
    message = rf"`{what}` is a int, which has no (load_)?state_dict\(\)"
    with pytest.raises(TypeError, match=message):
        manager.load_checkpoint(path, **{what: 5})
    with pytest.raises(TypeError, match=message):
        manager.save_checkpoint(**{"model": model, what: 5}, iteration=1)
    half = types.SimpleNamespace(state_dict=lambda: {"a": torch.ones(1)})
    with pytest.raises(TypeError, match=rf"`{what}` is a SimpleNamespace.* load_state_dict\(\)"):
        manager.load_checkpoint(path, strict=False, **{what: half})


def test_parameters_in_any_order_of_memory_are_filled(manager: CheckpointManager) -> None:
    saved = nn.Linear(6, 4, bias=False)
    saved.extra = nn.Parameter(torch.randn(8, 8)[::2, 1::3])
    path = manager.save_checkpoint(saved, iteration=0)
    model = nn.Linear(6, 4, bias=False)
    model.weight = nn.Parameter(torch.randn(6, 4).t())
    model.extra = nn.Parameter(torch.randn(3, 4).t())
    kept = model.weight
    manager.load_checkpoint(path, model)
    assert model.weight is kept and model.weight.stride() == (1, 4)
    assert torch.equal(model.weight, saved.weight) and torch.equal(model.extra, saved.extra)


def test_a_model_without_memory_is_told_what_to_do(manager: CheckpointManager) -> None:
    path = manager.save_checkpoint(mlp(), iteration=0)
    with torch.device("meta"):
        model = mlp()
    with pytest.raises(ValueError, match=r"`0.weight` of `model` is on the meta device.*to_empty"):
        manager.load_checkpoint(path, model)
    model.to_empty(device="cpu")
    manager.load_checkpoint(path, model)


def test_a_load_is_seen_by_autograd(manager: CheckpointManager) -> None:
    model = nn.Linear(2, 2)
    path = manager.save_checkpoint(model, iteration=0)
    loss = model(torch.randn(1, 2, requires_grad=True)).square().sum()
    manager.load_checkpoint(path, model)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


# What comes back


def test_what_comes_back_is_what_torch_loads_and_has_a_path_and_a_report(
    manager: CheckpointManager,
) -> None:
    path = manager.save_checkpoint(*training(), 0, extra={"more": torch.rand(5)})
    checkpoint = manager.load_checkpoint(path)
    assert isinstance(checkpoint, dict)
    assert checkpoint.path == path
    assert checkpoint.report.loaded == []
    fields = ["iteration", "model_state_dict", "optimizer_state_dict", "training_stats"]
    assert list(checkpoint)[:6] == [*fields, "metadata", "timestamp"]
    loaded = torch.load(path)
    assert_same({**checkpoint}, loaded)
    stamp = datetime.datetime.fromisoformat(checkpoint["timestamp"])
    assert abs(stamp.timestamp() - time.time()) < 600


def test_what_comes_back_outlives_the_model_and_the_file(manager: CheckpointManager) -> None:
    model, optimizer = training()
    path = manager.save_checkpoint(model, optimizer, 0)
    saved = copy.deepcopy([model.state_dict(), without_names(optimizer.state_dict())])
    checkpoint = manager.load_checkpoint(path, model, optimizer)
    train(model, optimizer, rows, range(5))
    manager.save_checkpoint(model, optimizer, 0)
    os.unlink(path)
    state = checkpoint["optimizer_state_dict"]
    assert_same([checkpoint["model_state_dict"], without_names(state)], saved)
    live = copy.deepcopy(model.state_dict())
    for tensor in checkpoint["model_state_dict"].values():
        tensor.zero_()
    assert_same(model.state_dict(), live)


def test_the_device_is_where_the_result_goes(manager: CheckpointManager) -> None:
    model = mlp()
    path = manager.save_checkpoint(model, iteration=0)
    for device in ("meta", torch.device("meta")):
        own = mlp()
        checkpoint = manager.load_checkpoint(path, own, device=device)
        assert all(tensor.is_meta for tensor in checkpoint["model_state_dict"].values())
        assert_same(own.state_dict(), model.state_dict())
    for device in ("cpu", torch.device("cpu"), {"cpu": "cpu"}, lambda storage, location: storage):
        checkpoint = manager.load_checkpoint(path, device=device)
        assert_same(checkpoint["model_state_dict"], model.state_dict())


def test_the_generators_go_on_where_they_were(manager: CheckpointManager) -> None:
    def draw() -> list[object]:
        return [random.random(), np.random.random(), torch.rand(1).item()]

    path = manager.save_checkpoint({}, iteration=0)
    expected = draw()
    draw()
    before = random_state()
    manager.load_checkpoint(path)
    assert_same(random_state(), before)
    manager.load_checkpoint(path, rng=True)
    assert draw() == expected
    manager.resume()
    assert draw() == expected
    before = random_state()
    manager.resume(rng=False)
    assert_same(random_state(), before)


def test_values_of_all_kinds_come_back_through_the_manager(manager: CheckpointManager) -> None:
    metadata = {"path": Path("a/b"), "when": datetime.date(2026, 1, 2), "none": b"", "s": {1, 2}}
    stats = {"array": np.arange(3), "scalar": np.float32(0.5)}
    path = manager.save_checkpoint(
        {}, iteration=np.int64(5), training_stats=stats, metadata=metadata
    )
    assert os.path.basename(path) == "checkpoint_iter_5.pt"
    checkpoint = manager.load_checkpoint(path)
    assert checkpoint["iteration"] == 5 and type(checkpoint["iteration"]) is int
    assert_same([checkpoint["training_stats"], checkpoint["metadata"]], [stats, metadata])
    assert torch.load(path)["metadata"]["path"] == "a/b"
