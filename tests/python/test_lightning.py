"""Checkpoints of Lightning and Fabric with `ScaiCheckpointIO`: real trainings of a second."""

from __future__ import annotations

import argparse
import collections
import copy
import datetime
import enum
import errno
import functools
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scai
import torch
from programs import run_python
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

pytest.importorskip("lightning", reason="needs scai[lightning]")

from lightning.fabric import Fabric
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from scai.integrations.lightning import ScaiCheckpointIO

ROOT = Path(__file__).parents[2]
KILLS = 30 if os.environ.get("SCAI_PROOFS") == "full" else 2

pytestmark = pytest.mark.filterwarnings("ignore")


class Model(LightningModule):
    """Gets better with every epoch, as its metric has it."""

    def __init__(self, width: int = 64, **hparams: Any) -> None:
        super().__init__()
        self.save_hyperparameters()
        torch.manual_seed(0)
        self.layers = nn.Sequential(
            nn.Linear(width, width), nn.BatchNorm1d(width), nn.Linear(width, width)
        )

    def training_step(self, batch: Any) -> torch.Tensor:
        loss: torch.Tensor = self.layers(batch[0]).square().mean()
        self.log("falling", -float(self.current_epoch), on_step=False, on_epoch=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


def data(width: int = 64) -> DataLoader[Any]:
    x = torch.randn(16, width, generator=torch.Generator().manual_seed(1))
    return DataLoader(TensorDataset(x), batch_size=4)


def trainer(
    directory: Path, io: Any, *callbacks: Callback, epochs: int = 3, logger: Any = False
) -> Trainer:
    return Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=logger,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=any(isinstance(each, ModelCheckpoint) for each in callbacks),
        default_root_dir=directory,
        callbacks=list(callbacks),
        plugins=[io],
    )


def equal(one: Any, other: Any) -> bool:
    """Whether two checkpoints are the same, types and all."""
    if type(one) is not type(other):
        return False
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other) and one.dtype == other.dtype
    if isinstance(one, dict):
        return list(one) == list(other) and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(equal, one, other))
    if isinstance(one, np.ndarray):
        return bool(np.array_equal(one, other))
    return bool(one == other)


def damage(path: Path) -> None:
    """Flip a bit in the middle, where the weights are."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.fixture
def io() -> Iterator[ScaiCheckpointIO]:
    plugin = ScaiCheckpointIO()
    yield plugin
    plugin.teardown()


class Gate:
    """Holds up what a plugin does in the background."""

    def __init__(self, io: ScaiCheckpointIO) -> None:
        self._open = threading.Event()
        # A test that fails does not wait for ever.
        io._queue().then(functools.partial(self._open.wait, 20))

    def open(self) -> None:
        self._open.set()


STATE = {"state_dict": {"weight": torch.arange(50_000.0)}, "epoch": 3, "global_step": 12}


# Saving


def test_a_save_returns_at_once_and_holds_the_moment_of_the_call(
    io: ScaiCheckpointIO, tmp_path: Path
) -> None:
    weight, path = torch.zeros(50_000), tmp_path / "deep" / "a.ckpt"
    gate = Gate(io)
    io.save_checkpoint({"state_dict": {"weight": weight}}, path)
    weight += 1
    assert not path.exists()
    gate.open()
    io.flush()
    assert torch.equal(torch.load(path)["state_dict"]["weight"], torch.zeros(50_000))


def test_with_wait_the_file_is_there_when_the_call_returns(tmp_path: Path) -> None:
    io = ScaiCheckpointIO(wait=True)
    io.save_checkpoint(STATE, tmp_path / "a.ckpt")
    assert equal(torch.load(tmp_path / "a.ckpt"), STATE)
    io.save_checkpoint(STATE, tmp_path / "b.ckpt")
    io.remove_checkpoint(tmp_path / "a.ckpt")
    assert os.listdir(tmp_path) == ["b.ckpt"]


def test_what_a_training_saves_stock_lightning_loads_and_what_it_saves_scai_loads(
    io: ScaiCheckpointIO, tmp_path: Path
) -> None:
    ours, theirs = ModelCheckpoint(tmp_path / "ours"), ModelCheckpoint(tmp_path / "theirs")
    trainer(tmp_path, io, ours).fit(Model(), data())
    trainer(tmp_path, TorchCheckpointIO(), theirs).fit(Model(), data())
    stock = TorchCheckpointIO()
    for path in (ours.best_model_path, theirs.best_model_path):
        assert equal(io.load_checkpoint(path), stock.load_checkpoint(path))
        loaded = stock.load_checkpoint(path, weights_only=True)
        assert loaded["global_step"] == 12 and len(loaded["optimizer_states"]) == 1
    assert scai.verify(ours.best_model_path).condition == "sound"
    for key in ("state_dict", "optimizer_states", "loops"):
        assert equal(
            stock.load_checkpoint(ours.best_model_path)[key],
            stock.load_checkpoint(theirs.best_model_path)[key],
        )
    trainer(tmp_path, stock, epochs=4).fit(Model(), data(), ckpt_path=ours.best_model_path)
    trainer(tmp_path, io, epochs=4).fit(Model(), data(), ckpt_path=theirs.best_model_path)
    assert torch.equal(
        Model.load_from_checkpoint(ours.best_model_path).layers[0].weight,
        Model.load_from_checkpoint(theirs.best_model_path).layers[0].weight,
    )


@pytest.mark.parametrize("ckpt_path", ["last", "best"])
def test_a_training_goes_on_where_it_was(
    ckpt_path: str, io: ScaiCheckpointIO, tmp_path: Path
) -> None:
    def saving(name: str) -> ModelCheckpoint:
        return ModelCheckpoint(tmp_path / name, monitor="falling", save_last=True)

    whole, part = Model(), Model()
    trainer(tmp_path, io, saving("whole"), epochs=4).fit(whole, data())
    begun = trainer(tmp_path, io, saving("part"), epochs=2)
    begun.fit(part, data())
    rest = begun if ckpt_path == "best" else trainer(tmp_path, io, saving("part"))
    rest.fit_loop.max_epochs = 4
    other = Model()
    rest.fit(other, data(), ckpt_path=ckpt_path)
    assert rest.global_step == 16
    assert equal(dict(whole.state_dict()), dict(other.state_dict()))


def test_files_go_only_after_those_that_replace_them_are_there(
    io: ScaiCheckpointIO, tmp_path: Path
) -> None:
    old, new = tmp_path / "old.ckpt", tmp_path / "new.ckpt"
    io.save_checkpoint(STATE, old)
    io.flush()
    gate = Gate(io)
    io.save_checkpoint(STATE, new)
    io.remove_checkpoint(old)
    time.sleep(0.05)
    assert os.listdir(tmp_path) == ["old.ckpt"]
    gate.open()
    io.flush()
    assert os.listdir(tmp_path) == ["new.ckpt"]


def test_a_training_never_has_fewer_checkpoints_than_it_keeps(
    io: ScaiCheckpointIO, tmp_path: Path
) -> None:
    class Watching(Callback):
        counts: set[int] = set()

        def on_train_batch_end(self, *_: Any) -> None:
            directory = tmp_path / "run"
            names = os.listdir(directory) if directory.exists() else []
            self.counts.add(len([name for name in names if "epoch" in name]))

    saving = ModelCheckpoint(tmp_path / "run", monitor="falling", save_top_k=2)
    trainer(tmp_path, io, saving, Watching(), epochs=8).fit(Model(), data())
    assert sorted(os.listdir(tmp_path / "run")) == ["epoch=6-step=28.ckpt", "epoch=7-step=32.ckpt"]
    seen = sorted(Watching.counts)
    assert seen[0] == 0 and {1, 2} <= set(seen)
    files = [scai.verify(tmp_path / "run" / name) for name in os.listdir(tmp_path / "run")]
    assert all(files)


# Failures


def fail(io: ScaiCheckpointIO, directory: Path) -> None:
    """Begin a save that fails in the background."""
    (directory / "taken.ckpt").mkdir(exist_ok=True)
    io.save_checkpoint(STATE, directory / "taken.ckpt")


def test_what_replaces_nothing_costs_nothing(io: ScaiCheckpointIO, tmp_path: Path) -> None:
    old, last = tmp_path / "old.ckpt", tmp_path / "last.ckpt"
    io.save_checkpoint(STATE, last)
    io.save_checkpoint(STATE, old)
    io.flush()
    gate = Gate(io)

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "no space")

    io._write = full  # type: ignore[method-assign]
    io.save_checkpoint({**STATE, "epoch": 4}, last)
    io.remove_checkpoint(old)
    gate.open()
    with pytest.raises(OSError, match="no space"):
        io.flush()
    assert equal(io.load_checkpoint(old), STATE)
    assert equal(io.load_checkpoint(last), STATE)


def test_a_checkpoint_that_is_damaged_on_the_disk_replaces_none(
    io: ScaiCheckpointIO, tmp_path: Path
) -> None:
    old, new = tmp_path / "old.ckpt", tmp_path / "new.ckpt"
    io.save_checkpoint(STATE, old)
    gate = Gate(io)
    io.save_checkpoint(STATE, new)
    io._queue().then(functools.partial(damage, new))
    io.remove_checkpoint(old)
    gate.open()
    with pytest.raises(scai.errors.DamagedError, match=r"new\.ckpt"):
        io.flush()
    assert equal(io.load_checkpoint(old), STATE)


def test_with_wait_it_replaces_none_either(tmp_path: Path) -> None:
    io = ScaiCheckpointIO(wait=True)
    io.save_checkpoint(STATE, tmp_path / "old.ckpt")
    io.save_checkpoint(STATE, tmp_path / "new.ckpt")
    damage(tmp_path / "new.ckpt")
    with pytest.raises(scai.errors.DamagedError, match=r"new\.ckpt"):
        io.remove_checkpoint(tmp_path / "old.ckpt")
    assert equal(io.load_checkpoint(tmp_path / "old.ckpt"), STATE)


def test_a_checkpoint_that_somebody_deleted_replaces_none(
    io: ScaiCheckpointIO, tmp_path: Path
) -> None:
    io.save_checkpoint(STATE, tmp_path / "old.ckpt")
    io.save_checkpoint(STATE, tmp_path / "new.ckpt")
    io.flush()
    os.remove(tmp_path / "new.ckpt")
    io.remove_checkpoint(tmp_path / "old.ckpt")
    io.flush()
    assert os.listdir(tmp_path) == ["old.ckpt"]


@pytest.mark.parametrize(
    "call",
    [
        lambda io, path: io.save_checkpoint(STATE, path),
        lambda io, path: io.remove_checkpoint(path),
        lambda io, path: io.load_checkpoint(path),
        lambda io, path: io.flush(),
        lambda io, path: io.teardown(),
    ],
    ids=["save", "remove", "load", "flush", "teardown"],
)
def test_a_failure_is_raised_once_by_whatever_is_called_next(
    call: Callable[[ScaiCheckpointIO, Path], None], io: ScaiCheckpointIO, tmp_path: Path
) -> None:
    io.save_checkpoint(STATE, tmp_path / "a.ckpt")
    fail(io, tmp_path)
    io._queue().then(lambda: None).result()
    with pytest.raises(OSError, match=r"taken\.ckpt"):
        call(io, tmp_path / "a.ckpt")
    assert (tmp_path / "a.ckpt").exists()
    call(io, tmp_path / "a.ckpt")


def test_a_directory_that_cannot_be_made_is_an_error_at_once(
    io: ScaiCheckpointIO, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        io.save_checkpoint(STATE, tmp_path / "file" / "a.ckpt")


def test_a_failure_ends_the_training(
    io: ScaiCheckpointIO, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for epoch in range(9):
        (tmp_path / f"epoch={epoch}.ckpt").mkdir()
    saving = ModelCheckpoint(tmp_path, filename="{epoch}", enable_version_counter=False)
    with pytest.raises(OSError, match=r"epoch=\d\.ckpt"):
        trainer(tmp_path, io, saving, epochs=9).fit(Model(), data())
    assert "was not saved" in caplog.text


def test_a_full_disk_is_said_and_harms_nothing(tmp_path: Path) -> None:
    printed = run_python(
        """
import resource, signal, sys, torch
from scai.integrations.lightning import ScaiCheckpointIO
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
io, path = ScaiCheckpointIO(), sys.argv[1] + "/last.ckpt"
io.save_checkpoint({"epoch": 1, "state_dict": {"weight": torch.zeros(10)}}, path)
io.flush()
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
for weight in (torch.zeros(100_000), torch.nn.Linear(300, 300)):
    try:
        io.save_checkpoint({"epoch": 2, "state_dict": {"weight": weight}}, path)
        io.flush()
    except OSError as error:
        print(error)
print(io.load_checkpoint(path)["epoch"])
""",
        tmp_path,
    )
    *messages, epoch = printed.splitlines()
    assert epoch == "1" and len(messages) == 2
    assert all("last.ckpt" in message and "no space" in message for message in messages)


def test_an_interrupted_training_leaves_whole_files(tmp_path: Path) -> None:
    class Interrupting(Callback):
        def on_train_epoch_start(self, trainer: Trainer, _: Any) -> None:
            if trainer.current_epoch == 3:
                raise KeyboardInterrupt

    saving = ModelCheckpoint(tmp_path / "run", save_last=True)
    io = ScaiCheckpointIO()
    with pytest.raises(SystemExit):
        trainer(tmp_path, io, saving, Interrupting(), epochs=9).fit(Model(), data())
    assert io.load_checkpoint(tmp_path / "run" / "last.ckpt")["epoch"] == 2
    assert len(os.listdir(tmp_path / "run")) == 2


# Values


class Colour(enum.Enum):
    RED = 1


PLAIN: dict[str, Any] = {
    "numbers": [1, 2**70, -0.5, True, None, 1 + 2j],
    "text": "ü",
    "bytes": b"abc",
    "bytearray": bytearray(b"abc"),
    "nested": {"tuple": (1, (2, [3])), "set": {1, 2}, 3: "three"},
    "ordered": collections.OrderedDict(b=1, a=2),
    "torch": [torch.float16, torch.device("cpu"), torch.Size([2, 3]), torch.strided],
    "parameter": nn.Parameter(torch.ones(3)),
    "module": nn.BatchNorm1d(3).state_dict(),
}
OBJECTS: dict[str, Any] = {
    "enum": Colour.RED,
    "namespace": argparse.Namespace(lr=0.1),
    "numpy": np.arange(3),
    "scalar": np.float32(0.5),
    "path": Path("data"),
    "time": datetime.timedelta(days=1),
    "default": collections.defaultdict(list, a=[1]),
    "partial": functools.partial(int, base=2),
    "type": nn.Linear,
    "deque": collections.deque([1, 2]),
    "empty": b"",
}


@pytest.mark.parametrize("name", PLAIN)
def test_plain_values_come_back_by_everybody(
    name: str, io: ScaiCheckpointIO, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state, path = {**STATE, "hyper_parameters": {name: PLAIN[name]}}, tmp_path / "a.ckpt"
    io.save_checkpoint(state, path)
    assert equal(io.load_checkpoint(path), state)
    for weights_only in (True, False):
        assert equal(torch.load(path, weights_only=weights_only), state)
    metadata = getattr(PLAIN[name], "_metadata", None)
    loaded = torch.load(path)["hyper_parameters"][name]
    assert getattr(loaded, "_metadata", None) == metadata
    assert not caplog.records


@pytest.mark.parametrize("name", OBJECTS)
def test_objects_come_back_as_with_stock_lightning(
    name: str, io: ScaiCheckpointIO, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state, path = {**STATE, "hyper_parameters": {name: OBJECTS[name]}}, tmp_path / "a.ckpt"
    io.save_checkpoint(state, path)
    io.save_checkpoint(state, tmp_path / "b.ckpt")
    io.flush()
    assert f"hyper_parameters.{name}" in caplog.text and len(caplog.records) == 1
    for loaded in (
        io.load_checkpoint(path, weights_only=False),
        TorchCheckpointIO().load_checkpoint(path, weights_only=False),
    ):
        value = loaded["hyper_parameters"][name]
        if name == "partial":
            assert value("11") == 3
        else:
            assert equal(value, OBJECTS[name])
        assert equal(loaded["state_dict"], STATE["state_dict"])


def test_code_is_run_only_where_it_is_allowed(io: ScaiCheckpointIO, tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    io.save_checkpoint({**STATE, "hyper_parameters": {"colour": Colour.RED}}, path)
    for weights_only in (None, True):
        with pytest.raises(pickle.UnpicklingError, match="weights_only"):
            io.load_checkpoint(path, weights_only=weights_only)
    with torch.serialization.safe_globals([Colour]):
        loaded = io.load_checkpoint(path)
    assert loaded["hyper_parameters"] == {"colour": Colour.RED}
    damage(path)
    with pytest.raises(scai.errors.DamagedError):
        io.load_checkpoint(path, weights_only=False)


def test_a_module_is_made_with_the_hyperparameters_it_had(
    io: ScaiCheckpointIO, tmp_path: Path
) -> None:
    omegaconf = pytest.importorskip("omegaconf")
    given = {"colour": Colour.RED, "config": omegaconf.OmegaConf.create({"depth": 3})}
    saving = ModelCheckpoint(tmp_path)
    trainer(tmp_path, io, saving, epochs=1).fit(Model(**given), data())
    loaded = Model.load_from_checkpoint(saving.best_model_path, weights_only=False)
    assert loaded.hparams["colour"] is Colour.RED and loaded.hparams["config"].depth == 3


def test_what_cannot_be_pickled_raises_at_the_call(io: ScaiCheckpointIO, tmp_path: Path) -> None:
    with pytest.raises((AttributeError, pickle.PicklingError)):
        io.save_checkpoint({**STATE, "hyper_parameters": lambda: None}, tmp_path / "a.ckpt")
    io.save_checkpoint(STATE, tmp_path / "b.ckpt")
    io.flush()
    assert os.listdir(tmp_path) == ["b.ckpt"]


# Loading


def test_nothing_damaged_is_loaded(io: ScaiCheckpointIO, tmp_path: Path) -> None:
    saving = ModelCheckpoint(tmp_path, save_last=True)
    trainer(tmp_path, io, saving).fit(Model(), data())
    path = tmp_path / "last.ckpt"
    whole = path.read_bytes()
    damage(path)
    TorchCheckpointIO().load_checkpoint(path)  # does not notice
    with pytest.raises(scai.errors.DamagedError, match=r"last\.ckpt"):
        trainer(tmp_path, io, saving).fit(Model(), data(), ckpt_path=str(path))
    for length in (0, 100, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(scai.errors.DamagedError, match=r"last\.ckpt"):
            io.load_checkpoint(path)


def test_a_file_that_is_missing_is_reported_as_by_stock_lightning(
    io: ScaiCheckpointIO, tmp_path: Path
) -> None:
    for each in (io, TorchCheckpointIO()):
        with pytest.raises(FileNotFoundError, match=r"Checkpoint file not found: .*a\.ckpt"):
            each.load_checkpoint(tmp_path / "a.ckpt")


def test_files_without_checksums_and_old_ones_load_with_a_warning(
    io: ScaiCheckpointIO, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    old = tmp_path / "old.ckpt"
    torch.save(STATE, old, _use_new_zipfile_serialization=False)
    assert equal(io.load_checkpoint(old), STATE)
    assert "no checksums" in caplog.text
    torch.save({**STATE, "colour": Colour.RED}, old, _use_new_zipfile_serialization=False)
    assert io.load_checkpoint(old, weights_only=False)["colour"] is Colour.RED


@pytest.mark.parametrize(
    "where", [None, "cpu", torch.device("meta"), {"cpu": "meta"}, lambda s, _: s], ids=str
)
def test_tensors_go_where_map_location_says(
    where: Any, io: ScaiCheckpointIO, tmp_path: Path
) -> None:
    io.save_checkpoint(STATE, tmp_path / "a.ckpt")
    loaded = io.load_checkpoint(tmp_path / "a.ckpt", map_location=where)
    stock = TorchCheckpointIO().load_checkpoint(tmp_path / "a.ckpt", map_location=where)
    weight, expected = loaded["state_dict"]["weight"], stock["state_dict"]["weight"]
    assert weight.device == expected.device


# Where Lightning looks at once


def test_saves_outside_of_a_training_are_there_when_they_return(
    io: ScaiCheckpointIO, tmp_path: Path
) -> None:
    running = trainer(tmp_path, io, epochs=1)
    running.fit(Model(), data())
    gate = Gate(io)
    threading.Timer(0.2, gate.open).start()
    running.save_checkpoint(tmp_path / "a.ckpt")
    assert torch.load(tmp_path / "a.ckpt")["global_step"] == 4


def slow(io: ScaiCheckpointIO) -> None:
    """From now on every write takes its time."""
    write = io._write

    def later(*args: Any) -> None:
        time.sleep(0.2)
        write(*args)

    io._write = later  # type: ignore[method-assign]


class Uploading(CSVLogger):
    """Uploads what a callback has saved, if it is there."""

    seen: list[tuple[int, bool]] = []

    def after_save_checkpoint(self, checkpoint_callback: Any) -> None:
        paths = [checkpoint_callback.best_model_path, checkpoint_callback.last_model_path]
        self.seen += [os.path.isfile(path) for path in paths if path]


def test_loggers_find_the_files_they_upload(io: ScaiCheckpointIO, tmp_path: Path) -> None:
    slow(io)
    saving = ModelCheckpoint(tmp_path / "run", save_last=True)
    running = trainer(tmp_path, io, saving, epochs=2, logger=Uploading(tmp_path))
    running.fit(Model(), data())
    assert Uploading.seen and all(Uploading.seen)


def test_a_logger_that_uploads_nothing_makes_nobody_wait(
    io: ScaiCheckpointIO, tmp_path: Path
) -> None:
    gate, directory = Gate(io), tmp_path / "run"

    class Opening(Callback):
        found: list[str] | None = None

        def on_train_end(self, *_: Any) -> None:
            self.found = os.listdir(directory)
            gate.open()

    opening, logger = Opening(), CSVLogger(tmp_path)
    running = trainer(tmp_path, io, ModelCheckpoint(directory), opening, epochs=1, logger=logger)
    running.fit(Model(), data())
    assert opening.found == []
    assert len(os.listdir(directory)) == 1


def test_a_link_never_leads_nowhere(io: ScaiCheckpointIO, tmp_path: Path) -> None:
    class Following(ModelCheckpoint):
        found: list[bool] = []

        @staticmethod
        def _link_checkpoint(trainer: Trainer, filepath: str, linkpath: str) -> None:
            ModelCheckpoint._link_checkpoint(trainer, filepath, linkpath)
            Following.found.append(os.path.exists(linkpath))

    slow(io)
    saving = Following(tmp_path, monitor="falling", save_last="link")
    trainer(tmp_path, io, saving, epochs=3).fit(Model(), data())
    assert Following.found == [True] * 3
    assert io.load_checkpoint(tmp_path / "last.ckpt")["epoch"] == 2


def test_a_link_is_replaced_and_not_what_it_leads_to(io: ScaiCheckpointIO, tmp_path: Path) -> None:
    best, last = tmp_path / "best.ckpt", tmp_path / "last.ckpt"
    io.save_checkpoint({**STATE, "epoch": 1}, best)
    last.symlink_to("best.ckpt")
    io.save_checkpoint({**STATE, "epoch": 2}, last)
    io.flush()
    assert not last.is_symlink()
    assert [torch.load(path)["epoch"] for path in (best, last)] == [1, 2]
    last.unlink()
    last.symlink_to("best.ckpt")
    io.save_checkpoint({**STATE, "colour": Colour.RED, "epoch": 3}, last)
    io.flush()
    loaded = [torch.load(path, weights_only=False)["epoch"] for path in (best, last)]
    assert loaded == [1, 3]


def test_two_callbacks_never_take_the_same_name(io: ScaiCheckpointIO, tmp_path: Path) -> None:
    slow(io)
    saving = [
        ModelCheckpoint(tmp_path / "run", monitor="falling", mode=mode) for mode in ("min", "max")
    ]
    trainer(tmp_path, io, *saving, epochs=1).fit(Model(), data())
    assert sorted(os.listdir(tmp_path / "run")) == [
        "epoch=0-step=4-v1.ckpt",
        "epoch=0-step=4.ckpt",
    ]


class Saving(Callback):
    """Saves in the middle of a training."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.found: bool | None = None

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if self.found is None:
            trainer.save_checkpoint(self.path)
            self.found = self.path.exists()


class Counting(ModelCheckpoint):
    def file_exists(self, filepath: Any, trainer: Trainer) -> bool:
        return super().file_exists(filepath, trainer)


@pytest.mark.parametrize(
    ("name", "saving", "waits"),
    [
        ("a.ckpt", ModelCheckpoint, False),
        ("hpc_ckpt_1.ckpt", ModelCheckpoint, True),
        ("a.ckpt", Counting, True),
    ],
    ids=["a callback", "before SLURM requeues", "a callback that looks for names itself"],
)
def test_a_save_in_a_training_waits_where_the_file_is_needed_at_once(
    name: str, saving: type[ModelCheckpoint], waits: bool, io: ScaiCheckpointIO, tmp_path: Path
) -> None:
    slow(io)
    callback = Saving(tmp_path / name)
    trainer(tmp_path, io, callback, saving(tmp_path / "run"), epochs=1).fit(Model(), data())
    assert callback.found is waits
    assert torch.load(tmp_path / name)["global_step"] == 1


def test_trainers_with_other_plugins_are_as_before(tmp_path: Path) -> None:
    saving = ModelCheckpoint(tmp_path / "run", save_last="link")
    running = trainer(tmp_path, TorchCheckpointIO(), saving, epochs=1)
    running.fit(Model(), data())
    running.save_checkpoint(tmp_path / "a.ckpt")
    assert len(os.listdir(tmp_path / "run")) == 2 and (tmp_path / "a.ckpt").exists()


# The rest


def test_fabric_saves_and_loads(tmp_path: Path) -> None:
    fabric = Fabric(accelerator="cpu", devices=1, plugins=[ScaiCheckpointIO()])
    model = nn.Linear(8, 8)
    model, optimizer = fabric.setup(model, torch.optim.SGD(model.parameters(), lr=0.1))
    state: dict[str, Any] = {"model": model, "optimizer": optimizer, "step": 5}
    fabric.save(tmp_path / "a.ckpt", state)
    expected = model.weight.detach().clone()
    with torch.no_grad():
        model.weight.zero_()
    state["step"] = 0
    fabric.load(tmp_path / "a.ckpt", state)
    assert torch.equal(model.weight, expected) and state["step"] == 5


def test_a_program_that_ends_waits_for_its_saves(tmp_path: Path) -> None:
    run_python(
        """
import sys, torch
from lightning.fabric import Fabric
from scai.integrations.lightning import ScaiCheckpointIO
fabric = Fabric(accelerator="cpu", devices=1, plugins=[ScaiCheckpointIO()])
fabric.save(sys.argv[1] + "/a.ckpt", {"weight": torch.zeros(4_000_000)})
""",
        tmp_path,
    )
    assert torch.load(tmp_path / "a.ckpt")["weight"].shape == (4_000_000,)


def test_several_processes_save_once_and_load_together(tmp_path: Path) -> None:
    code = """
import sys, warnings
warnings.simplefilter("ignore")
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.demos.boring_classes import BoringModel
from scai.integrations.lightning import ScaiCheckpointIO

class Looking(Callback):
    def on_train_end(self, trainer, _):
        trainer.save_checkpoint(sys.argv[1] + f"/{trainer.current_epoch}.ckpt")

def run(epochs, ckpt_path):
    saving = ModelCheckpoint(sys.argv[1] + "/run", save_last=True)
    trainer = Trainer(
        max_epochs=epochs, limit_train_batches=4, limit_val_batches=0, accelerator="cpu", devices=2,
        strategy="ddp_fork", logger=False, enable_progress_bar=False, enable_model_summary=False,
        callbacks=[saving, Looking()], plugins=[ScaiCheckpointIO()],
    )
    model = BoringModel()
    trainer.fit(model, ckpt_path=ckpt_path)

run(2, None)
run(3, "last")
"""
    run_python(code, tmp_path)
    steps = {name: torch.load(tmp_path / name)["global_step"] for name in ("2.ckpt", "3.ckpt")}
    assert steps == {"2.ckpt": 8, "3.ckpt": 12}
    assert torch.load(tmp_path / "run" / "last.ckpt")["global_step"] == 12


def test_a_plugin_around_this_one_saves_in_its_own_thread(tmp_path: Path) -> None:
    from lightning.pytorch.plugins.io import AsyncCheckpointIO

    io = ScaiCheckpointIO()
    around = AsyncCheckpointIO(io)
    around.save_checkpoint(STATE, tmp_path / "a.ckpt")
    around.teardown()
    assert equal(torch.load(tmp_path / "a.ckpt"), STATE)


def test_remote_paths_are_left_to_lightning(io: ScaiCheckpointIO) -> None:
    fsspec = pytest.importorskip("fsspec")
    path = "memory://run/a.ckpt"
    io.save_checkpoint(STATE, path)
    assert fsspec.filesystem("memory").exists("/run/a.ckpt")
    assert equal(io.load_checkpoint(path), STATE)
    io.remove_checkpoint(path)
    with pytest.raises(FileNotFoundError):
        io.load_checkpoint(path)


def test_storage_options_are_refused_as_by_stock_lightning(
    io: ScaiCheckpointIO, tmp_path: Path
) -> None:
    with pytest.raises(TypeError, match="storage_options"):
        io.save_checkpoint(STATE, tmp_path / "a.ckpt", storage_options={})


def test_a_plugin_goes_to_other_processes(io: ScaiCheckpointIO, tmp_path: Path) -> None:
    io.save_checkpoint(STATE, tmp_path / "a.ckpt")
    for other in (copy.deepcopy(io), pickle.loads(pickle.dumps(io))):
        other.save_checkpoint(STATE, tmp_path / "b.ckpt")
        other.flush()
    assert sorted(os.listdir(tmp_path)) == ["a.ckpt", "b.ckpt"]


def test_a_forked_process_saves_by_itself(io: ScaiCheckpointIO, tmp_path: Path) -> None:
    gate = Gate(io)
    io.save_checkpoint(STATE, tmp_path / "a.ckpt")
    child = os.fork()
    if child == 0:
        status = 1
        try:
            # A hang ends here.
            signal.alarm(10)
            io.save_checkpoint(STATE, tmp_path / "b.ckpt")
            io.flush()
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert os.listdir(tmp_path) == ["b.ckpt"]
    gate.open()
    io.flush()
    assert sorted(os.listdir(tmp_path)) == ["a.ckpt", "b.ckpt"]


def test_scai_alone_imports_no_lightning() -> None:
    code = "import sys, scai, scai.integrations; print('lightning' in sys.modules)"
    assert run_python(code).strip() == "False"


@pytest.mark.parametrize("way", ["scai", "scai, a link"])
def test_a_killed_training_goes_on_and_ends_with_the_same_bits(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    import kills

    found = kills.campaign("lightning", way, KILLS, tmp_path, seed=sys.maxsize)
    assert found.kills == KILLS
    assert not found.failed and not found.over and not found.wrong
    # What is being saved, and the one that waits, may be lost.
    assert max(found.lost) <= 3 * 4
