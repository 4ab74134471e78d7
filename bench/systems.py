"""The systems that are compared, each in the way its documentation shows."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from states import State

Wait = Callable[[], None]


def make_durable(path: Path) -> None:
    """Do what a system left undone: sync every file and directory at `path`, and its parent."""
    inside = [*path.rglob("*"), path] if path.is_dir() else [path]
    for item in [*inside, path.parent]:
        number = os.open(item, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def whole(state: State) -> dict[str, Any]:
    return {
        "model_state_dict": state.model.state_dict(),
        "optimizer_state_dict": state.optimizer.state_dict(),
    }


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        # The package that it would be in.
        return False


class System:
    """One way to save and load."""

    name = ""
    needs: tuple[str, ...] = ()

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.path = directory / "checkpoint"

    @classmethod
    def installed(cls) -> bool:
        return all(map(_is_installed, cls.needs))

    def begin(self, state: State) -> Wait:
        """Save; what is returned waits until it is durable."""
        raise NotImplementedError

    def load(self, state: State) -> None:
        """Load into the live model and optimizer."""
        raise NotImplementedError

    def close(self) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)


class Torch(System):
    name = "torch.save + fsync"

    def begin(self, state: State) -> Wait:
        draft = self.path.with_suffix(".tmp")
        torch.save(whole(state), draft)
        make_durable(draft)
        draft.rename(self.path)
        make_durable(self.directory)
        return lambda: None

    def load(self, state: State) -> None:
        loaded = torch.load(self.path, weights_only=True)
        state.model.load_state_dict(loaded["model_state_dict"])
        state.optimizer.load_state_dict(loaded["optimizer_state_dict"])


class Scai(System):
    name = "scai"
    mode: dict[str, Any] = {"wait": True}

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        from scai.utils.checkpoint import CheckpointManager

        self.manager = CheckpointManager(directory)

    def begin(self, state: State) -> Wait:
        saved = self.manager.save_checkpoint(state.model, state.optimizer, 1, **self.mode)
        return getattr(saved, "wait", lambda: None)

    def load(self, state: State) -> None:
        self.manager.load_checkpoint(None, state.model, state.optimizer)

    def close(self) -> None:
        self.manager.close()
        super().close()


class ScaiLive(Scai):
    name = "scai, live"
    mode = {"wait": False, "snapshot": "live"}


class ScaiLiveAlone(ScaiLive):
    """A step waits until all live memory has been read, and copies nothing."""

    name = "scai, live, without copying"

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.manager._capture._room = lambda: 0


class ScaiCopy(Scai):
    name = "scai, copy"
    mode = {"wait": False, "snapshot": "copy"}


class Safetensors(System):
    name = "safetensors + fsync"
    needs = ("safetensors",)

    def begin(self, state: State) -> Wait:
        from safetensors.torch import save_file

        save_file(_flat(state), self.path)
        make_durable(self.path)
        return lambda: None

    def load(self, state: State) -> None:
        from safetensors.torch import load_file

        loaded = load_file(self.path)
        with torch.no_grad():
            for name, tensor in _flat(state).items():
                tensor.copy_(loaded[name])


class Dcp(System):
    name = "torch.distributed.checkpoint"

    def begin(self, state: State) -> Wait:
        import torch.distributed.checkpoint as dcp

        dcp.save(whole(state), checkpoint_id=self.path, no_dist=True)
        make_durable(self.path)
        return lambda: None

    def load(self, state: State) -> None:
        import torch.distributed.checkpoint as dcp

        target = whole(state)
        dcp.load(target, checkpoint_id=self.path, no_dist=True)
        state.model.load_state_dict(target["model_state_dict"])
        state.optimizer.load_state_dict(target["optimizer_state_dict"])


class DcpAsync(Dcp):
    name = "torch.distributed.checkpoint, async"

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        import torch.distributed as dist

        if not dist.is_initialized():
            store = dist.HashStore()
            dist.init_process_group("gloo", store=store, rank=0, world_size=1)

    def begin(self, state: State) -> Wait:
        import torch.distributed.checkpoint as dcp

        future: Any = dcp.async_save(whole(state), checkpoint_id=self.path)

        def wait() -> None:
            getattr(future, "upload_completion", future).result()
            make_durable(self.path)

        return wait


class LightningAsync(System):
    name = "Lightning AsyncCheckpointIO"
    needs = ("lightning",)

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        from lightning.pytorch.plugins.io import AsyncCheckpointIO, TorchCheckpointIO

        self.io = AsyncCheckpointIO(TorchCheckpointIO())
        if hasattr(self.io, "setup"):
            self.io.setup()

    def begin(self, state: State) -> Wait:
        self.path.unlink(missing_ok=True)
        self.io.save_checkpoint(whole(state), self.path)

        def wait() -> None:
            self.io._executor.submit(lambda: None).result()
            make_durable(self.path)

        return wait

    def load(self, state: State) -> None:
        loaded = self.io.load_checkpoint(self.path)
        state.model.load_state_dict(loaded["model_state_dict"])
        state.optimizer.load_state_dict(loaded["optimizer_state_dict"])

    def close(self) -> None:
        self.io.teardown()
        super().close()


class LightningScai(LightningAsync):
    """scai's plug-in for Lightning, called as Lightning calls it."""

    name = "scai in Lightning"

    def __init__(self, directory: Path) -> None:
        System.__init__(self, directory)
        from scai.integrations.lightning import ScaiCheckpointIO

        self.io: Any = ScaiCheckpointIO()

    def begin(self, state: State) -> Wait:
        self.io.save_checkpoint(whole(state), self.path)
        return self.io.flush


class TrainerStock(System):
    """The Trainer of transformers, whose files are synced after it has written them."""

    name = "Trainer + fsync"
    needs = ("transformers", "accelerate")

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.trainer: Any = None

    def kind(self) -> Any:
        from transformers import Trainer

        return Trainer

    def begin(self, state: State) -> Wait:
        if self.trainer is None:
            from transformers import TrainingArguments

            arguments = TrainingArguments(
                str(self.directory), save_total_limit=1, use_cpu=True, report_to=[]
            )
            self.trainer = self.kind()(state.model, arguments, optimizers=(state.optimizer, None))
            self.trainer.create_scheduler(1000)
        self.trainer.state.global_step += 1
        self.path = self.directory / f"checkpoint-{self.trainer.state.global_step}"
        self.trainer._save_checkpoint(state.model, None)
        return self.durable()

    def durable(self) -> Wait:
        make_durable(self.path)
        return lambda: None

    def load(self, state: State) -> None:
        self.trainer._load_from_checkpoint(str(self.path))
        self.trainer._load_optimizer_and_scheduler(str(self.path))


class TrainerScai(TrainerStock):
    """scai's Trainer, called as Trainer calls itself."""

    name = "scai in Trainer"

    def kind(self) -> Any:
        from scai.integrations.transformers import ScaiTrainer

        return ScaiTrainer

    def durable(self) -> Wait:
        return self.trainer.flush  # type: ignore[no-any-return]

    def load(self, state: State) -> None:
        from scai._staged import check_directory

        check_directory(str(self.path))
        super().load(state)


class Orbax(System):
    name = "Orbax, async"
    needs = ("orbax.checkpoint", "jax")

    def __init__(self, directory: Path) -> None:
        super().__init__(directory.absolute())
        import orbax.checkpoint as ocp

        self.checkpointer: Any = ocp.AsyncCheckpointer(ocp.PyTreeCheckpointHandler())

    def begin(self, state: State) -> Wait:
        arrays = {name: tensor.numpy() for name, tensor in _flat(state).items()}
        self.checkpointer.save(self.path, arrays, force=True)

        def wait() -> None:
            self.checkpointer.wait_until_finished()
            make_durable(self.path)

        return wait

    def load(self, state: State) -> None:
        loaded = self.checkpointer.restore(self.path)
        with torch.no_grad():
            for name, tensor in _flat(state).items():
                tensor.copy_(torch.from_numpy(loaded[name]))

    def close(self) -> None:
        self.checkpointer.close()
        super().close()


def _flat(state: State) -> dict[str, torch.Tensor]:
    flat = {f"model.{name}": tensor for name, tensor in state.model.state_dict().items()}
    for index, values in state.optimizer.state_dict()["state"].items():
        flat |= {f"optimizer.{index}.{key}": value for key, value in values.items()}
    return {name: tensor.detach() for name, tensor in flat.items()}


SYSTEMS: list[type[System]] = [
    Torch,
    Scai,
    ScaiLive,
    ScaiLiveAlone,
    ScaiCopy,
    Safetensors,
    Dcp,
    DcpAsync,
    LightningAsync,
    LightningScai,
    TrainerStock,
    TrainerScai,
    Orbax,
]
