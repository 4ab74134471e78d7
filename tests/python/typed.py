"""Every public function of the package, as type checkers see it. It is checked, and also runs."""

from __future__ import annotations

import datetime
import io
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import scai
import torch
from scai import CheckpointManager, ForeignObject, LazyTensor, SaveHandle, Verification
from scai.errors import CheckpointError, DamagedError, MismatchError
from scai.utils.checkpoint import (
    Checkpoint,
    LoadReport,
    Resumed,
    SaveInfo,
    Skipped,
    Timeline,
    Verdict,
)
from typing_extensions import assert_type


def files(folder: Path) -> None:
    """Single files."""
    assert_type(scai.__version__, str)
    assert_type(scai.save({"a": torch.ones(2)}, folder / "a.pt"), None)
    assert_type(scai.save({}, str(folder / "b.pt"), wait=True), None)
    future = assert_type(scai.save({}, folder / "b.pt", wait=False), Future[str])
    assert_type(future.result(), str)
    memory = io.BytesIO()
    assert_type(scai.save({}, memory), None)
    memory.seek(0)
    assert_type(scai.load(memory), Any)
    assert_type(scai.load(folder / "a.pt", "cpu", mmap=True, allow_unprotected=True), Any)
    lazy: LazyTensor = scai.load(folder / "a.pt", lazy=True, foreign="stand-in")["a"]
    assert_type(lazy.load(), torch.Tensor)
    assert_type(lazy.shape, tuple[int, ...])
    found = assert_type(scai.verify(folder / "a.pt"), Verification)
    assert_type(found.answers, dict[str, bool])
    assert_type(found.damage, list[Exception])
    assert_type(found.iteration, int | None)
    assert_type(found.condition, str)
    assert_type(found.obstacle, Exception | None)
    assert issubclass(ForeignObject, object)


def saving(folder: Path) -> None:
    """A manager that saves."""
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters())
    seen: list[SaveInfo] = []
    manager = CheckpointManager(
        folder / "run",
        keep="last:3, best:loss:min",
        keep_every=2,
        keep_within=datetime.timedelta(days=2),
        snapshot="copy",
        on_commit=seen.append,
        threads=2,
        io="auto",
        memory=64 << 20,
        save_interval=1,
    )
    assert_type(manager.checkpoint_dir, str)
    assert_type(manager.should_save(1), bool)
    path = assert_type(manager.save_checkpoint(model, optimizer, 1, {"loss": 1.0}), str)
    assert_type(manager.save_checkpoint(model, iteration=2, wait=True), str)
    handle = assert_type(manager.save_checkpoint(model, iteration=3, wait=False), SaveHandle)
    assert_type(handle.result(60), str)
    assert_type(handle.wait(timeout=60), str)
    assert_type(handle.exception(), BaseException | None)
    assert_type(handle.done(), bool)
    info = assert_type(handle.info, SaveInfo | None)
    assert info is not None
    assert_type(info.removed, list[str])
    assert_type(info.timeline, Timeline)
    assert_type(info.rate, float)
    handle.add_done_callback(lambda done: None)
    some: bool = bool(seen)
    assert_type(manager.save_checkpoint(model, iteration=4, wait=some), str | SaveHandle)
    manager.flush()
    models = {"a": model, "b": torch.nn.Linear(1, 1)}
    optimizers = {"a": optimizer}
    assert_type(manager.save_checkpoint(models, optimizers, 5, parts={"more": model}), str)

    assert_type(manager.list_checkpoints(), list[str])
    assert_type(manager.all_iterations(), list[int])
    assert_type(manager.latest_iteration(), int | None)
    assert_type(manager.get_latest_checkpoint(), str | None)
    assert_type(manager.best_checkpoint("loss:min"), str | None)
    assert_type(manager.verify_checkpoint(path), dict[str, bool])
    manager.pin(1)
    manager.unpin(path)
    verdicts = assert_type(manager.prune(keep_last=1, keep_best=["loss:min"]), list[Verdict])
    assert_type(verdicts[0].reasons, list[str])
    manager.delete(5)
    with manager as same:
        assert_type(same, CheckpointManager)
    manager.close()


def loading(folder: Path) -> None:
    """A manager that loads."""
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters())
    manager = CheckpointManager(folder / "run")
    checkpoint = assert_type(
        manager.load_checkpoint(
            None, model, None, "cpu", strict=False, remap={}, cast=True, dry_run=True
        ),
        Checkpoint,
    )
    assert_type(checkpoint.path, str)
    report = assert_type(checkpoint.report, LoadReport)
    assert_type(report.cast, list[str])
    assert_type(report.optimizer, LoadReport | None)
    assert_type(checkpoint["iteration"], Any)
    assert_type(manager.load_checkpoint(1, model, optimizer, rng=True), Checkpoint)
    resumed = assert_type(manager.resume(model, on_unreadable="skip"), Resumed | None)
    assert resumed is not None
    assert_type(resumed.iteration, int)
    assert_type(resumed.path, str)
    assert_type(resumed.skipped, list[Skipped])
    manager.rollback(resumed.iteration)
    try:
        manager.load_checkpoint(1, torch.nn.Linear(3, 3))
    except MismatchError as error:
        assert_type(error.report, dict[str, list[str]])
    assert issubclass(DamagedError, CheckpointError)
