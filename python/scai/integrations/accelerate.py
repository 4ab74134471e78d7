"""Accelerate: `save_state` and `load_state` whose checkpoints are there as a whole or not at all.

``ScaiAccelerator`` in place of ``Accelerator``. Made for accelerate 1; ``pip install "scai[accelerate]"``.
"""

from __future__ import annotations

import fnmatch
import functools
import logging
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import accelerate  # type: ignore[import-untyped]
import accelerate.checkpointing  # type: ignore[import-untyped]
import accelerate.utils.other  # type: ignore[import-untyped]
import numpy as np
import torch
from accelerate import Accelerator, DistributedType
from accelerate.utils import load

from scai import _native
from scai._arguments import checked_flags
from scai._folder import Staging
from scai._ranks import agreed, attempted
from scai._staged import (
    Claim,
    Files,
    Saves,
    check_together,
    claimed,
    files_taken,
    foreign,
    newest_sound,
    nothing,
    numbered,
    publish,
    swept,
    taking,
    wrap_safetensors,
)

__all__ = ["ScaiAccelerator"]

_log = logging.getLogger("scai")

_HANDLED = {
    DistributedType.NO,
    *(each for each in DistributedType if each.name.startswith("MULTI_")),
}
_NAMES = (
    "model*.safetensors",
    "pytorch_model*.bin",
    "optimizer*.bin",
    "scheduler*.bin",
    "sampler*.bin",
    "dl_state_dict*.bin",
    "scaler.pt",
    "random_states_*.pkl",
    "custom_checkpoint_*.pkl",
)


# Where weights are written, and where all else is.
wrap_safetensors(accelerate.utils.other, "safe_save_file")
_save = accelerate.checkpointing.save


@functools.wraps(_save)
def _taken(obj: Any, f: Any, *args: Any, safe_serialization: bool = False, **kwargs: Any) -> None:
    files = files_taken()
    if files is None or safe_serialization or args or not files.torch(obj, f):
        _save(obj, f, *args, safe_serialization=safe_serialization, **kwargs)


accelerate.checkpointing.save = _taken


class ScaiAccelerator(Accelerator):  # type: ignore[misc]
    """An Accelerator whose `save_state` publishes a directory at once, and whose `load_state` checks it.

    A save writes the same files as Accelerator's into a directory of its own, syncs them, binds them by a
    ``commit.json`` with their digests, and gives the directory its name in one step. With
    ``automatic_checkpoint_naming`` a new process goes on counting, and ``total_limit`` removes older ones
    after the new one is durable, and only if it was read back and found right.

    ``load_state()`` without a path takes the newest that is complete and sound, and logs what it skipped and
    why. A path that is given is checked. If random states cannot be restored, that is an error, unless the
    number of processes has changed. Checkpoints that Accelerator wrote alone are loaded as well, after what
    checks they allow.

    A save replaces the whole directory; it fails if that holds anything that is not of a checkpoint.

    FSDP, DeepSpeed, Megatron-LM and XLA are left to Accelerator, with a warning. With automatic naming, one
    process (or group of processes) saves in a project at a time.

    Args:
        wait: whether `save_state` returns only when the checkpoint is durable. Otherwise it copies the
            tensors, and the files are written while training goes on; what fails is raised by the next
            save, by `load_state`, `flush` or `end_training`.
    """

    def __init__(self, *args: Any, wait: bool = True, **kwargs: Any) -> None:
        checked_flags(wait=wait)
        self._scai_wait = wait
        self._scai_saves = Saves()
        self._scai_claim: Claim | None = None
        self._scai_has_warned = False
        super().__init__(*args, **kwargs)

    def save_state(
        self,
        output_dir: str | os.PathLike[str] | None = None,
        safe_serialization: bool = True,
        **save_model_func_kwargs: Any,
    ) -> Path:
        """Save as `Accelerator.save_state`, and return the directory of the checkpoint. All processes call it.

        Raises:
            FileExistsError: `output_dir` holds files that are not of a checkpoint.
            scai.errors.LockedError: another process saves in this project.
            OSError: the file system refused, such as a full disk; what was there is unchanged.
            Exception: what an earlier save failed with, and this one is then not made.
        """
        config = self.project_configuration
        automatic = config.automatic_checkpoint_naming
        given = self.project_dir if automatic else output_dir
        if given is None or self._scai_is_left():
            saved: Path = super().save_state(
                output_dir, safe_serialization, **save_model_func_kwargs
            )
            return saved
        agreed(None, self._scai_saves.failure())
        above = os.path.join(given, "checkpoints") if automatic else None
        number = config.iteration if above is None else self._scai_number(above)
        path = str(output_dir) if above is None else os.path.join(above, f"checkpoint_{number}")

        def write(directory: str) -> None:
            config.automatic_checkpoint_naming, config.iteration = False, number
            try:
                super(ScaiAccelerator, self).save_state(
                    directory, safe_serialization, **save_model_func_kwargs
                )
            finally:
                config.automatic_checkpoint_naming = automatic

        take = functools.partial(self._scai_take, write, path, number, automatic)
        if self._scai_wait:
            _, error = attempted(take(_native.Tree.encode), None)
            agreed(None, error)
        elif self._scai_writes():
            self._scai_saves.begin(path, take)
        else:
            take(_native.Tree.encode)
        return Path(path)

    def load_state(
        self,
        input_dir: str | os.PathLike[str] | None = None,
        load_kwargs: dict[str, Any] | None = None,
        **load_model_func_kwargs: Any,
    ) -> None:
        """Load as `Accelerator.load_state`, after every byte was checked. All processes call it.

        Raises:
            FileNotFoundError: without a path, there are no checkpoints.
            scai.errors.NothingToResumeError: without a path, there are checkpoints, and none is sound.
            scai.errors.DamagedError: the checkpoint is not what was saved.
            Exception: the random states cannot be restored; or what an earlier save failed with.
        """
        self.flush()
        path = None if input_dir is None else os.path.expanduser(input_dir)
        if path is None and self.project_configuration.automatic_checkpoint_naming:
            path = self._scai_newest()
        elif path is not None and os.path.isdir(path):
            check_together(path, reads=self._scai_writes())
        states = None if path is None or not os.path.isdir(path) else self._scai_random_states(path)
        super().load_state(path, load_kwargs, **load_model_func_kwargs)
        if states is not None:
            _restore_random(states)

    def flush(self) -> None:
        """Wait until all checkpoints that were saved are durable. All processes call it.

        Raises:
            Exception: what the first that failed, failed with.
        """
        self._scai_saves.wait()
        agreed(None, self._scai_saves.failure())

    def end_training(self) -> None:
        """As `Accelerator.end_training`, after `flush`; another process may save in this project then."""
        try:
            self.flush()
        finally:
            self._scai_saves.close()
            self._scai_claim = None
            super().end_training()

    # Saving

    def _scai_is_left(self) -> bool:
        is_left = self.distributed_type not in _HANDLED
        if is_left and not self._scai_has_warned:
            self._scai_has_warned = True
            kind = self.distributed_type.value
            _log.warning("checkpoints are written by Accelerator alone, unprotected: %s", kind)
        return is_left

    def _scai_writes(self) -> bool:
        """Whether this process writes what is not of one process."""
        each_node = self.project_configuration.save_on_each_node
        return bool(self.is_local_main_process if each_node else self.is_main_process)

    def _scai_number(self, above: str) -> int:
        """The number of the next checkpoint, the same on all processes."""

        def found() -> int:
            if self._scai_claim is None:
                self._scai_claim = claimed(above)
            newest = max((number for number, _ in _checkpoints(above)), default=-1)
            return max(int(self.save_iteration), newest + 1)

        number, error = attempted(found, 0) if self._scai_writes() else (0, None)
        return max(agreed(number, error))

    def _scai_take(
        self,
        write: Callable[[str], None],
        path: str,
        number: int,
        automatic: bool,
        encode: Callable[[Any], _native.Tree],
    ) -> Callable[[], None]:
        """Let Accelerator write into a directory of its own, and return what publishes that at `path`."""
        target = os.path.abspath(path)
        staging: Staging | None = None
        error: Exception | None = None
        if self._scai_writes():
            staging, error = attempted(lambda: Staging(os.path.dirname(target)), None)
        try:
            said = agreed(None if staging is None else staging.path, error)
            each_node = self.project_configuration.save_on_each_node
            writer = self.process_index - self.local_process_index if each_node else 0
            directory = str(said[writer])
            files = Files(directory, encode)
            with taking(None if staging is None else files):
                write(directory)
            # The files of all processes are there.
            agreed(None)
            if staging is None:
                return nothing
            if not automatic:
                _check_replaceable(target, {*os.listdir(directory), *files.names()})
        except BaseException:
            if staging is not None:
                staging.abandon()
            raise
        about = {
            "framework": f"accelerate {accelerate.__version__}",
            "world_size": str(self.num_processes),
        }
        limit = self.project_configuration.total_limit if automatic else None
        surplus = functools.partial(_surplus, os.path.dirname(target), limit)
        name = os.path.basename(target)
        return functools.partial(publish, staging, files, name, about, number, surplus)

    # Loading

    def _scai_newest(self) -> str:
        above = os.path.join(self.project_dir, "checkpoints")
        if self._scai_writes():
            swept(above)
        paths = [os.path.join(above, name) for _, name in reversed(_checkpoints(above))]
        failed = f"no checkpoint in `{above}` can be loaded"
        path = newest_sound(paths, self._scai_missing, failed, reads=self._scai_writes())
        if path is None:
            raise FileNotFoundError(f"there is no checkpoint in `{above}`")
        return path

    def _scai_missing(self, path: str) -> str | None:
        """What a checkpoint that Accelerator wrote alone lacks to be complete."""
        if self._scai_is_left():
            return None
        kinds = [
            ("optimizer{}.bin", len(self._optimizers)),
            ("scheduler{}.bin", len(self._schedulers)),
            # Hooks may save models in ways of their own.
            ("model{}.safetensors", 0 if self._load_model_state_pre_hook else len(self._models)),
        ]
        names = [form.format(f"_{i}" if i else "") for form, count in kinds for i in range(count)]
        names += [f"custom_checkpoint_{i}.pkl" for i in range(len(self._custom_objects))]
        names += ["random_states_0.pkl"] + ["scaler.pt"] * (self.scaler is not None)
        there = {name.replace("pytorch_model", "model") for name in os.listdir(path)}
        there |= {
            f"{name.removesuffix('.bin')}.safetensors" for name in there if name.startswith("model")
        }
        lacking = [name for name in names if name not in there]
        return f"it has no `{lacking[0]}`" if lacking else None

    def _scai_random_states(self, path: str) -> dict[str, Any] | None:
        """The random states of this process; `None` if they were saved by another number of processes."""
        saved = len(fnmatch.filter(os.listdir(path), "random_states_*.pkl"))
        if saved != self.num_processes and saved:
            _log.warning(
                "`%s` was saved by %d processes, and there are %d: their random states are left as they are",
                *(path, saved, self.num_processes),
            )
            return None
        states: dict[str, Any] = load(os.path.join(path, f"random_states_{self.process_index}.pkl"))
        return states


def _checkpoints(directory: str) -> list[tuple[int, str]]:
    return numbered(directory, "checkpoint_")


def _surplus(directory: str, limit: int | None) -> list[str]:
    """The checkpoints in a directory that are to go; all stay without a limit."""
    names = [name for _, name in _checkpoints(directory)]
    return (
        [] if limit is None else [os.path.join(directory, name) for name in names[: -max(limit, 1)]]
    )


def _check_replaceable(path: str, staged: set[str]) -> None:
    """Refuse to put a checkpoint in place of a directory with anything else in it."""
    others = foreign(path, staged, lambda name: any(fnmatch.fnmatch(name, each) for each in _NAMES))
    if others:
        raise FileExistsError(
            f"`{path}` holds `{others[0]}`, which is not of a checkpoint: a checkpoint replaces its whole "
            f"directory; save to one of its own, such as `{os.path.join(path, 'state')}`"
        )


def _restore_random(states: dict[str, Any]) -> None:
    random.setstate(states["random_state"])
    np.random.set_state(states["numpy_random_seed"])
    torch.set_rng_state(states["torch_manual_seed"])
    for name in ("cuda", "xpu"):
        saved, devices = states.get(f"torch_{name}_manual_seed", []), getattr(torch, name)
        count = devices.device_count() if devices.is_available() else 0
        if count != len(saved):
            _log.warning(
                "random states of %d %s devices were saved, and there are %d",
                len(saved),
                name,
                count,
            )
        for index, state in enumerate(saved[:count]):
            devices.set_rng_state(state, index)
