"""Live saves equal the state at the moment of the call, under training of every kind."""

from __future__ import annotations

import copy
import gc
import os
import resource
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trainings
from scai import _live, _native
from scai._handle import Completing
from scai.utils.checkpoint import CheckpointManager, SaveHandle

FULL = os.environ.get("SCAI_PROOFS") == "full"
SAVES = max(1000 // len(trainings.KINDS) + 1, 5) if FULL else 1


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        if not isinstance(b, torch.Tensor) or a.dtype != b.dtype or a.shape != b.shape:
            return False
        return torch.equal(a, b) or torch.equal(a.isnan(), b.isnan()) and torch.equal(
            a.nan_to_num(), b.nan_to_num()
        )
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def loaded(path: str | Path) -> dict[str, Any]:
    state = torch.load(path, weights_only=True)
    for group in state["optimizer_state_dict"].get("param_groups", []):
        group.pop("param_names", None)
    return state


def differing(state: dict[str, Any], path: str | Path) -> list[str]:
    """The parts of a file that are not what they should be."""
    found = loaded(path)
    return [name for name in state if not same(state[name], found.get(name))]


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[CheckpointManager]:
    manager = CheckpointManager(tmp_path, threads=1, keep_last=2)
    yield manager
    manager.flush()


under_way = {"steps": 0, "still reading": 0}


@pytest.mark.parametrize("kind", trainings.KINDS)
def test_a_live_save_is_the_state_at_the_moment_of_the_call(
    kind: str, manager: CheckpointManager
) -> None:
    training = trainings.KINDS[kind]()
    for iteration in range(SAVES):
        # Before the first save, after the backward pass, or just after the step.
        if iteration > 0 or not FULL:
            training.before()
            training.step()
        early = (iteration + len(kind)) % 2 == 0
        if not early:
            training.before()
        state = training.state()
        handle = save(manager, training, iteration)
        if early:
            training.before()
        under_way["steps"] += 1
        under_way["still reading"] += not handle._save.is_captured()
        training.step()
        assert handle._save.is_captured()
        training.before()
        training.step()
        assert differing(state, handle.wait()) == []


def test_most_steps_came_while_memory_was_still_being_read() -> None:
    if under_way["steps"] < len(trainings.KINDS):
        pytest.skip("looks at the saves of the test before, which did not run")
    print(under_way)
    assert under_way["still reading"] > under_way["steps"] / 3


@pytest.mark.parametrize("snapshot", ["copy", "sync"])
@pytest.mark.parametrize("kind", ["AdamW-fused", "buffers", "flat", "momentum_encoder", "ema"])
def test_other_snapshots_are_the_state_too(
    kind: str, snapshot: Any, manager: CheckpointManager
) -> None:
    training = trainings.KINDS[kind]()
    for iteration in range(3):
        training.before()
        training.step()
        state = training.state()
        handle = save(manager, training, iteration, snapshot=snapshot)
        # No hook is needed for these.
        with torch.no_grad():
            for parameter in training.model.parameters():
                parameter.data.add_(1.0)
        assert differing(state, handle.wait()) == []


def test_saves_that_follow_each_other_closely_are_each_of_their_moment(
    manager: CheckpointManager,
) -> None:
    training = trainings.KINDS["AdamW-fused"]()
    manager = CheckpointManager(Path(manager.checkpoint_dir, "many"))
    saved = []
    for iteration in range(8):
        training.before()
        training.step()
        saved.append((training.state(), save(manager, training, iteration)))
    for state, handle in saved:
        assert differing(state, handle.wait()) == []


def test_frozen_parameters_are_read_live_once_they_are_known_to_rest() -> None:
    training = trainings.KINDS["frozen"]()
    versions = _live.Versions()
    first = _live.live_memory([training.model], [training.optimizer], versions)
    second = _live.live_memory([training.model], [training.optimizer], versions)
    assert first is not None and second is not None
    # Biases are small, and copied.
    frozen = [p for p in training.model.parameters() if p.ndim == 2 and not p.requires_grad]
    assert frozen
    assert not any(first.covers(p.data_ptr(), p.nbytes) for p in frozen)
    assert all(second.covers(p.data_ptr(), p.nbytes) for p in frozen)


def test_memory_that_others_write_to_is_not_live() -> None:
    memory = torch.zeros(100_000)
    apart = torch.zeros(50_000)
    parts = [memory[:50_000], apart]

    def covers(live: _native.Live, tensor: torch.Tensor) -> bool:
        storage = tensor.untyped_storage()
        return live.covers(storage.data_ptr(), storage.nbytes())

    alone = _native.Live(parts, [])
    beside = _native.Live(parts, [memory[99_999:]])
    assert covers(alone, memory) and covers(alone, apart)
    assert not covers(beside, memory) and covers(beside, apart)
    # What is short is copied in any case.
    assert not _native.Live([memory[:10]], parts)
    # Not one byte further.
    assert not alone.covers(memory.data_ptr() - 64, 64)
    assert not alone.covers(apart.data_ptr() + 1, apart.nbytes)


def test_an_optimizer_whose_steps_nobody_hears_of_is_copied() -> None:
    class Deaf(torch.optim.SGD):
        def _patch_step_function(self) -> None:
            pass

        step = torch.optim.SGD.step.__wrapped__

    model = trainings.mlp()
    optimizer = Deaf(model.parameters(), lr=1e-3)
    assert _live.waiting([optimizer]) == []
    assert _live.live_memory([model], _live.waiting([optimizer]), _live.Versions()) is None


def test_no_hook_stays_on_model_or_optimizer(manager: CheckpointManager) -> None:
    training = trainings.KINDS["AdamW-fused"]()
    training.before()
    hooks = (
        training.optimizer._optimizer_load_state_dict_pre_hooks,
        training.model._load_state_dict_pre_hooks,
    )
    handle = save(manager, training, 0)
    assert all(hooks)
    # What is under way must not keep a model from being copied.
    copy.deepcopy(training.model)
    copy.deepcopy(training.optimizer)
    training.step()
    assert not any(hooks) and not _live._fences
    handle.wait()
    save(manager, training, 1).wait()
    assert not any(hooks) and not _live._fences
    with pytest.raises(TypeError, match="extra"):
        manager.save_checkpoint(
            training.model, training.optimizer, 2, extra={"extra": object()}, wait=False
        )
    assert not any(hooks) and not _live._fences


def test_a_save_is_let_go_of_when_it_has_ended(tmp_path: Path) -> None:
    """The memory of a process does not grow with the saves it makes."""
    manager = CheckpointManager(tmp_path, keep_last=1)
    training = trainings.KINDS["AdamW-fused"]()
    sizes = []
    for iteration in range(200 if FULL else 24):
        training.before()
        training.step()
        save(manager, training, iteration, snapshot="copy" if iteration % 3 == 2 else "live")
        if iteration % 4 == 3:
            manager.flush()
            gc.collect()
            sizes.append(resident())
    manager.flush()
    size = sum(p.nbytes for p in training.model.parameters())
    assert manager._capture._pool.nbytes() < 10 * size
    # Other things of the process come and go; a leak would be one state for each save.
    assert sizes[-1] < sizes[1] + 4 * size, [f"{size >> 20} MiB" for size in sizes]


def test_a_model_that_is_gone_takes_its_memory_with_it(manager: CheckpointManager) -> None:
    memory = np.random.default_rng(0).random((1024, 1024), dtype=np.float32)
    freed = []
    weakref.finalize(memory, freed.append, True)
    model = torch.nn.Linear(1024, 1024)
    model.weight = torch.nn.Parameter(torch.from_numpy(memory))
    del memory
    training = trainings.Training(model, torch.optim.SGD(model.parameters()), lambda: None)
    state = training.state()
    handle = save(manager, training, 0)
    del model, training
    gc.collect()
    assert differing(state, handle.wait()) == []
    manager.flush()
    wait_until(lambda: freed)


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def save(
    manager: CheckpointManager, training: trainings.Training, iteration: int, **options: Any
) -> SaveHandle:
    handle = manager.save_checkpoint(
        training.model, training.optimizer, iteration, wait=False, **training.parts, **options
    )
    assert isinstance(handle, SaveHandle)
    return handle


def test_what_a_step_waited_for_a_save_is_in_its_timeline(tmp_path: Path) -> None:
    class Slow:
        """A save that has read what is live after 100 ms."""

        def is_captured(self) -> bool:
            return False

        def copy_rest(self, room: int) -> None:
            pass

        def wait_captured(self) -> None:
            time.sleep(0.1)

        def release(self) -> None:
            pass

        def mark_reported(self) -> None:
            pass

        def outcome(self) -> dict[str, Any]:
            saved = {"name": "a.pt", "bytes": 5, "removed": [], "warnings": [], "rate": 1.0}
            return {**saved, "timeline": [0.1, 0.2, 0.3, 0.4, 0.5]}

    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters())
    slow: Any = Slow()

    def handle() -> SaveHandle:
        began = time.monotonic() - 2
        path = str(tmp_path / "a.pt")
        return SaveHandle(path, 1, slow, fence, began, Completing([]))

    with _live.Fence([model], [optimizer], lambda: 0) as fence:
        fence.guard(slow, None)
    try:
        before, after = handle(), handle()
        before._complete()
        optimizer.step()
        after._complete()
    finally:
        # Otherwise all steps of later tests would wait for it.
        fence.remove()
    assert not _live._fences
    assert before.info is not None and after.info is not None
    assert before.info.path == after.result(0) == str(tmp_path / "a.pt")
    assert before.info.timeline.waited == pytest.approx(2, abs=0.5)
    assert before.info.timeline.total == pytest.approx(1.5)
    assert 0.1 <= after.info.timeline.waited - before.info.timeline.waited < 0.6
