"""Copies of the memory of GPUs.

What needs a GPU is skipped where there is none, and has run on none so far: the order of streams
and events in `scai._cuda` follows from what PyTorch documents, not from a measurement. What is
tested everywhere is the seam, with a device that is made up: that nothing is read before `wait` has
returned, and that a copy that fails ends the save.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import scai
import torch
from scai import _cuda, _native
from scai.utils.checkpoint import CheckpointManager

BYTES = 3 << 20


class Device:
    """Copies the memory of a device without any, and is there late."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.target = torch.zeros(BYTES, dtype=torch.uint8)
        self.failure = failure
        self.waits = 0

    def copy(self, storage: torch.UntypedStorage) -> torch.UntypedStorage:
        assert storage.nbytes() == BYTES
        return self.target.untyped_storage()

    def wait(self) -> None:
        self.waits += 1
        if self.failure is not None:
            raise self.failure
        self.target.fill_(7)


def state() -> dict[str, Any]:
    return {
        "iteration": 3,
        "model_state_dict": {"weight": torch.UntypedStorage(BYTES, device="meta")},
        "optimizer_state_dict": {},
    }


def test_nothing_is_read_before_the_device_has_copied_it(tmp_path: Path) -> None:
    device = Device()
    tree = _native.Tree.encode(state(), _native.Pool(), False, device)
    assert device.waits == 0
    manager = _native.Manager(tmp_path, "all", 4)
    handle = manager.save_in_background(tree)
    handle.wait()
    assert isinstance(handle.outcome(), dict)
    assert device.waits == 1
    saved = scai.load(tmp_path / "checkpoint_iter_3.pt", map_location="cpu")
    weight = torch.empty(0, dtype=torch.uint8).set_(saved["model_state_dict"]["weight"])
    assert weight.numel() == BYTES and (weight == 7).all()


def test_a_copy_that_fails_ends_the_save(tmp_path: Path) -> None:
    tree = _native.Tree.encode(state(), _native.Pool(), False, Device(RuntimeError("no kernel")))
    with pytest.raises(ValueError, match="cannot copy from the device: no kernel"):
        tree.write(tmp_path / "x.pt", 1)
    assert list(tmp_path.iterdir()) == []


def test_pinned_memory_is_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    new = []

    def pageable(self: _cuda.PinnedPool, nbytes: int) -> torch.Tensor:
        new.append(nbytes)
        return torch.empty(nbytes, dtype=torch.uint8)

    monkeypatch.setattr(_cuda.PinnedPool, "_new", pageable)
    pool = _cuda.PinnedPool()
    buffers = [pool.take(nbytes) for nbytes in (100, 1000, 10_000)]
    pool.give_back(buffers)
    assert pool.take(900) is buffers[1]
    assert pool.take(100) is buffers[0]
    # Much too large, it waits for a tensor of its size.
    assert pool.take(100).nbytes == 100
    pool.trim()
    pool.take(10_000)
    assert new == [100, 1000, 10_000, 100, 10_000]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("snapshot", ["live", "copy", "sync"])
def test_saves_from_a_gpu_are_the_state_at_the_moment_of_the_call(
    snapshot: Any, tmp_path: Path
) -> None:
    """Skipped without CUDA."""
    manager = CheckpointManager(tmp_path)
    model = torch.nn.Sequential(
        torch.nn.Linear(4096, 4096), torch.nn.BatchNorm1d(4096), torch.nn.Linear(4096, 4096)
    ).cuda()
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)

    def before() -> None:
        optimizer.zero_grad()
        model(torch.randn(64, 4096, device="cuda")).square().mean().backward()

    for iteration in range(50):
        before()
        optimizer.step()
        expected = {name: value.clone() for name, value in model.state_dict().items()}
        moments = {p: optimizer.state[p]["exp_avg"].clone() for p in model.parameters()}
        handle = manager.save_checkpoint(
            model, optimizer, iteration, wait=False, snapshot=snapshot
        )
        before()
        optimizer.step()
        saved = torch.load(handle.wait(), map_location="cuda")
        for name, value in expected.items():
            assert torch.equal(saved["model_state_dict"][name], value), name
        for i, moment in enumerate(moments.values()):
            assert torch.equal(saved["optimizer_state_dict"]["state"][i]["exp_avg"], moment)
