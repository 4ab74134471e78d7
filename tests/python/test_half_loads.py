"""A load changes all or nothing, also if the file changes meanwhile, or a signal comes."""

from __future__ import annotations

import copy
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import scai
import torch
from nets import rows, train
from same import assert_same, frozen
from scai import _load, _load_module, _load_optimizer
from scai.errors import DamagedError, PartialLoadError
from scai.utils.checkpoint import CheckpointManager
from torch import nn
from torch.optim import lr_scheduler

Parts = tuple[nn.Module, torch.optim.Optimizer]


def parts(seed: int, steps: int = 2, width: int = 3) -> Parts:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, width), nn.Linear(width, 3))
    optimizer = torch.optim.Adam(model.parameters())
    train(model, optimizer, rows, range(steps))
    return model, optimizer


def flip(path: str | Path, needle: bytes, bit: int = 1) -> None:
    with open(path, "r+b") as file:
        content = file.read()
        at = content.index(needle) + len(needle) // 2
        file.seek(at)
        file.write(bytes([content[at] ^ bit]))


def bytes_of(path: str | Path, field: str, name: str) -> bytes:
    state = torch.load(path)[field]
    for part in name.split(".") if field.startswith("optimizer") else [name]:
        state = state[int(part) if part.isdigit() else part]
    return state.numpy().tobytes()


class Between:
    """Does something once everything is checked and before the first part is changed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, do: Any) -> None:
        apply_all = _load.signals_held

        def held() -> Any:
            do()
            return apply_all()

        monkeypatch.setattr(_load, "signals_held", held)


@pytest.mark.parametrize("by_torch", [False, True], ids=["scai", "torch"])
def test_bits_that_flip_between_check_and_filling_are_told_and_block_saves(
    by_torch: bool, manager: CheckpointManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = manager.save_checkpoint(*parts(0), 1)
    if by_torch:
        torch.save(torch.load(path), path)
    needle = bytes_of(path, "optimizer_state_dict", "state.1.exp_avg")
    model, optimizer = parts(1)
    with monkeypatch.context() as patched:
        Between(patched, lambda: flip(path, needle))
        with pytest.raises(PartialLoadError) as raised:
            manager.load_checkpoint(path, model, optimizer)
    assert "model.0.weight" in raised.value.changed
    assert "optimizer.state.1.exp_avg" in raised.value.changed
    assert isinstance(raised.value.__cause__, DamagedError)
    assert "load a checkpoint into the same objects" in str(raised.value)
    for what in ({"model": model}, {"model": nn.Sequential(model)}):
        with pytest.raises(PartialLoadError, match="`model` was partly changed"):
            manager.save_checkpoint(**what, iteration=2)
    with pytest.raises(PartialLoadError, match="`optimizer` was partly changed"):
        manager.save_checkpoint(nn.Linear(1, 1), optimizer, 2)
    flip(path, flipped(needle))
    manager.load_checkpoint(path, model)
    manager.save_checkpoint(model, iteration=2)
    with pytest.raises(PartialLoadError):
        manager.save_checkpoint(model, optimizer, 2)
    manager.load_checkpoint(path, model, optimizer)
    manager.save_checkpoint(model, optimizer, 2)


def flipped(needle: bytes) -> bytes:
    at = len(needle) // 2
    return needle[:at] + bytes([needle[at] ^ 1]) + needle[at + 1 :]


def test_what_is_loaded_by_a_way_of_its_own_is_given_back_if_the_file_fails(
    manager: CheckpointManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved, optimizer = parts(0)
    path = manager.save_checkpoint(
        saved, optimizer, 1, scheduler=lr_scheduler.StepLR(optimizer, 1), ema=nn.BatchNorm1d(2)
    )
    needle = bytes_of(path, "model_state_dict", "0.weight")
    model, own = parts(1)
    scheduler, ema = lr_scheduler.StepLR(own, 7), nn.BatchNorm1d(2)
    ema.register_load_state_dict_post_hook(lambda *_: None)
    ema.running_mean.fill_(5)
    before = frozen(own, scheduler, ema)
    Between(monkeypatch, lambda: flip(path, needle))
    with pytest.raises(PartialLoadError) as raised:
        manager.load_checkpoint(path, model, own, scheduler=scheduler, ema=ema, rng=True)
    assert all(name.startswith("model.") for name in raised.value.changed)
    assert_same(frozen(own, scheduler, ema), before)


def test_an_optimizer_without_state_changes_not_at_all_if_the_file_fails(
    manager: CheckpointManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = manager.save_checkpoint(*parts(0), 1)
    needle = bytes_of(path, "model_state_dict", "1.weight")
    model, optimizer = parts(1, steps=0)
    before = copy.deepcopy(optimizer.state_dict())
    Between(monkeypatch, lambda: flip(path, needle))
    with pytest.raises(PartialLoadError) as raised:
        manager.load_checkpoint(path, model, optimizer)
    assert all(name.startswith("model.") for name in raised.value.changed)
    assert_same(optimizer.state_dict(), before)


def test_a_bit_that_toggles_is_read_again(manager: CheckpointManager) -> None:
    path = manager.save_checkpoint(*parts(0, width=20_000), 1)
    needle = bytes_of(path, "model_state_dict", "0.weight")
    stop = threading.Event()

    def toggle() -> None:
        descriptor = os.open(path, os.O_RDWR)
        content = Path(path).read_bytes()
        at = content.index(needle) + len(needle) // 2
        byte = content[at]
        while not stop.is_set():
            os.pwrite(descriptor, bytes([byte ^ 1]), at)
            os.pwrite(descriptor, bytes([byte]), at)
            time.sleep(random.random() / 1000)
        os.close(descriptor)

    expected = torch.load(path)["model_state_dict"]
    thread = threading.Thread(target=toggle)
    thread.start()
    try:
        for _ in range(30):
            model, optimizer = parts(1, width=20_000)
            before = copy.deepcopy(model.state_dict())
            try:
                checkpoint = manager.load_checkpoint(path, model, optimizer)
                shown = checkpoint["model_state_dict"]
            except PartialLoadError:
                continue
            except DamagedError:
                state = model.state_dict()
                assert any(
                    all(torch.equal(state[name], each[name]) for name in state)
                    for each in (before, expected)
                )
                continue
            assert_same(dict(model.state_dict()), dict(expected))
            assert_same(dict(shown), dict(expected))
    finally:
        stop.set()
        thread.join()


@pytest.fixture
def loud() -> Iterator[None]:
    """Ctrl-C is a `KeyboardInterrupt`, however the tests were started."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("when", ["model", "optimizer", "scheduler", "own"])
def test_an_interrupt_waits_until_all_is_loaded(
    when: str, loud: None, manager: CheckpointManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved, theirs = parts(0)
    path = manager.save_checkpoint(saved, theirs, 1, scheduler=lr_scheduler.StepLR(theirs, 3))
    model, optimizer = parts(1)
    scheduler = lr_scheduler.StepLR(optimizer, 7)
    if when == "own":
        model.register_load_state_dict_post_hook(lambda *_: signal.raise_signal(signal.SIGINT))
    cls = {
        "model": _load_module.MappingLoad,
        "optimizer": _load_optimizer.OptimizerLoad,
        "scheduler": _load.PartLoad,
        "own": _load_module.ModuleLoad,
    }[when]
    apply = cls.apply

    def interrupted(self: Any) -> None:
        signal.raise_signal(signal.SIGINT)
        apply(self)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(cls, "apply", interrupted)
    with pytest.raises(KeyboardInterrupt):
        manager.load_checkpoint(path, model, optimizer, scheduler=scheduler)
    assert_same(model.state_dict(), saved.state_dict())
    assert_same(optimizer.state_dict()["state"], theirs.state_dict()["state"])
    assert scheduler.step_size == 3
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_signals_that_come_at_any_time_leave_old_or_new(
    loud: None, manager: CheckpointManager
) -> None:
    saved, theirs = parts(0, width=2000)
    path = manager.save_checkpoint(saved, theirs, 1)
    new = [saved.state_dict(), theirs.state_dict()["state"]]
    chance = random.Random(1)
    interrupted = 0
    for _ in range(60):
        model, optimizer = parts(1, width=2000)
        old = copy.deepcopy([model.state_dict(), optimizer.state_dict()["state"]])
        main = threading.main_thread().ident
        alarm = threading.Timer(
            chance.random() * 0.01, lambda: signal.pthread_kill(main, signal.SIGINT)  # noqa: B023
        )
        try:
            alarm.start()
            manager.load_checkpoint(path, model, optimizer)
            alarm.join()
        except KeyboardInterrupt:
            interrupted += 1
        now = [model.state_dict(), optimizer.state_dict()["state"]]
        kinds = [all_equal(now, each) for each in (old, new)]
        assert any(kinds)
    assert interrupted


def all_equal(a: list, b: list) -> bool:
    def flat(state: list) -> list[torch.Tensor]:
        return [*state[0].values(), *(t for values in state[1].values() for t in values.values())]

    return all(map(torch.equal, flat(a), flat(b)))


@pytest.mark.parametrize("resumed", [False, True])
def test_a_random_state_of_another_kind_leaves_all_as_it_was(
    resumed: bool, manager: CheckpointManager
) -> None:
    path = manager.save_checkpoint(*parts(0), 1, rng=False, extra={"rng_state": {"mine": 1}})
    model, optimizer = parts(1)
    before = frozen(model, optimizer)
    load = manager.resume if resumed else lambda *a: manager.load_checkpoint(path, *a, rng=True)
    with pytest.raises(ValueError, match="rng=False"):
        load(model, optimizer)
    assert_same(frozen(model, optimizer), before)
    manager.resume(model, optimizer, rng=False)


def test_a_resume_for_the_meta_device_restores_the_generators(manager: CheckpointManager) -> None:
    torch.manual_seed(5)
    model, optimizer = parts(0)
    manager.save_checkpoint(model, optimizer, 1)
    expected = torch.rand(3)
    resumed = manager.resume(*parts(1), device="meta")
    assert torch.equal(torch.rand(3), expected)
    assert resumed.checkpoint["model_state_dict"]["0.weight"].is_meta


def test_tensors_that_overlap_are_refused_before_anything_changes(
    manager: CheckpointManager,
) -> None:
    path = manager.save_checkpoint({"a": torch.ones(4), "b": torch.ones(4)}, iteration=1, ema=nn.Linear(2, 2))
    memory = torch.zeros(6)
    model, ema = {"a": memory[:4], "b": memory[2:]}, nn.Linear(2, 2)
    before = copy.deepcopy(ema.state_dict())
    manager.load_checkpoint(path, model, ema=ema)
    assert memory.tolist() == [1] * 6
    assert not torch.equal(ema.weight, before["weight"])


def test_the_check_of_a_file_reads_once_more_what_does_not_match(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    scai.save({"w": torch.arange(100_000)}, path)
    flip(path, torch.arange(50_000, 50_100).numpy().tobytes())
    assert not scai.verify(path)
    with pytest.raises(DamagedError):
        scai.load(path)
