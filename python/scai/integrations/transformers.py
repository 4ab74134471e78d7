"""The Trainer of Hugging Face: checkpoints that are committed as one, written while training goes on.

``ScaiTrainer`` in place of ``Trainer``, or ``class MyTrainer(ScaiTrainerMixin, AnyTrainer)``. Made for
transformers 5; ``pip install "scai[transformers]"``.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors.torch
import torch
import transformers
from huggingface_hub.utils._paths import DEFAULT_IGNORE_PATTERNS
from transformers import Trainer, TrainerCallback, modeling_utils
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME, TRAINER_STATE_NAME
from transformers.trainer_utils import (
    PREFIX_CHECKPOINT_DIR,
    HubStrategy,
    SaveStrategy,
    TrainOutput,
    sort_checkpoints,
)
from transformers.utils.import_utils import is_sagemaker_mp_enabled, is_torch_xla_available

from scai import _native
from scai._arguments import checked_flags
from scai._folder import Staging, remove
from scai._ranks import agreed, attempted
from scai._staged import (
    Claim,
    Files,
    Saves,
    check_together,
    claimed,
    files_taken,
    newest_sound,
    nothing,
    numbered,
    publish,
    swept,
    taking,
    wrap_safetensors,
)

__all__ = ["ScaiTrainer", "ScaiTrainerMixin"]

_log = logging.getLogger("scai")

# Where weights are written: models of transformers, and all others.
wrap_safetensors(modeling_utils, "safe_save_file")
wrap_safetensors(safetensors.torch, "save_file")
# An upload of the output directory in the background may find a checkpoint that is being written.
DEFAULT_IGNORE_PATTERNS.extend([".scai-*", "*/.scai-*"])

_WEIGHTS = re.compile(r"(adapter_)?(model|pytorch_model)(\.safetensors|\.bin)(\.index\.json)?")
_INCOMPLETE = "checkpoint-is-incomplete.txt"

if TYPE_CHECKING:
    _Trainer = Trainer
else:
    _Trainer = object


class ScaiTrainerMixin(_Trainer):
    """Makes each ``checkpoint-N`` of a Trainer a directory that is there as a whole or not at all.

    A save copies the tensors and returns; the files, the same as Trainer's, are written meanwhile beside
    the checkpoints, synced, bound by a ``commit.json`` with their digests, and get their name in one step.
    ``save_total_limit`` removes older ones afterwards, and only if the new one was read back and found
    right. What fails is logged, and raised by the next save, by `flush` or at the end of training, which
    waits for all saves.

    ``train(resume_from_checkpoint=True)`` takes the newest checkpoint that is complete and sound, and logs
    what it skipped and why. A path that is given is checked, and so is the best model before it is loaded.
    Checkpoints that Trainer wrote alone are resumed from as well, after what checks they allow.

    A save returns only when the checkpoint is durable if it is looked for at once: with ``push_to_hub``,
    and with callbacks that have an ``on_save``, such as those that upload checkpoints.

    FSDP, DeepSpeed, tensor parallelism, XLA and SageMaker are left to Trainer, with a warning. One process
    trains in an output directory at a time.

    Args:
        wait: whether each save returns only when the checkpoint is durable.
    """

    def __init__(self, *args: Any, wait: bool = False, **kwargs: Any) -> None:
        checked_flags(wait=wait)
        self._scai_wait = wait
        self._scai_saves = Saves()
        # The last checkpoint that was saved; it may not be there yet.
        self._scai_last: str | None = None
        self._scai_has_warned = False
        super().__init__(*args, **kwargs)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        order = cls.__mro__
        if Trainer in order and order.index(Trainer) < order.index(ScaiTrainerMixin):
            raise TypeError(
                f"`{cls.__name__}` would save as Trainer does: name the mixin first, as in "
                f"`class {cls.__name__}(ScaiTrainerMixin, …)`"
            )

    def train(
        self,
        resume_from_checkpoint: str | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> TrainOutput:
        """As `Trainer.train`; a checkpoint is checked before it is loaded.

        Raises:
            scai.errors.DamagedError: the checkpoint is not what was saved.
            scai.errors.NothingToResumeError: with ``resume_from_checkpoint=True``, there are checkpoints,
                and none is sound.
            scai.errors.LockedError: another process trains in the output directory.
        """
        # What an earlier training failed with was logged.
        self._scai_saves.wait()
        self._scai_saves.failure()
        self._scai_last = None
        claim = self._scai_claim(trial)
        if resume_from_checkpoint is True:
            resume_from_checkpoint = self._scai_newest() or True
        elif resume_from_checkpoint and os.path.isdir(resume_from_checkpoint):
            check_together(str(resume_from_checkpoint), reads=self.args.should_save)
        try:
            return super().train(resume_from_checkpoint, trial, ignore_keys_for_eval)
        finally:
            # Whatever ended it: what was saved before is there when this returns.
            self._scai_saves.close()
            del claim

    def flush(self) -> None:
        """Wait until all checkpoints that were saved are durable. All processes call it.

        Raises:
            Exception: what the first that failed, failed with.
        """
        self._scai_saves.wait()
        agreed(None, self._scai_saves.failure())

    def _scai_claim(self, trial: Any) -> Claim | None:
        claim: Claim | None = None
        error: Exception | None = None
        if self.args.should_save and self.args.save_strategy != SaveStrategy.NO:
            claim, error = attempted(lambda: claimed(self._get_output_dir(trial)), None)
        agreed(None, error)
        return claim

    # Saving

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        if (reason := self._scai_left_to_trainer()) is not None:
            if not self._scai_has_warned:
                self._scai_has_warned = True
                _log.warning("checkpoints are written by Trainer alone, unprotected: %s", reason)
            return super()._save_checkpoint(model, trial)
        name = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        path = os.path.join(self._get_output_dir(trial), name)
        take = functools.partial(self._scai_take, model, trial, path)
        uploads = self.args.push_to_hub and self.args.hub_strategy != HubStrategy.END
        waits = self._scai_wait or uploads or self._scai_is_looked_for()
        if any(agreed(waits, self._scai_saves.failure())):
            self._scai_saves.wait()
            # On this thread: nothing changes a tensor meanwhile, so that none is copied.
            _, error = attempted(take(_native.Tree.encode), None)
            agreed(None, self._scai_saves.failure() or error)
            if uploads:
                self._push_from_checkpoint(path)
        elif self.args.should_save:
            self._scai_saves.begin(path, take)
        else:
            take(_native.Tree.encode)
        return None

    def _scai_take(
        self, model: Any, trial: Any, path: str, encode: Callable[[Any], _native.Tree]
    ) -> Callable[[], None]:
        """Let Trainer write into a directory of its own, and return what publishes that at `path`."""
        run_dir, name = os.path.split(os.path.abspath(path))
        args, state = self.args, self.state
        staging: Staging | None = None
        error: Exception | None = None
        if args.should_save:
            staging, error = attempted(lambda: Staging(run_dir), None)
        best = state.best_model_checkpoint
        try:
            said = agreed(None if staging is None else staging.path, error)
            writer = args.process_index - args.local_process_index if args.save_on_each_node else 0
            directory = str(said[writer])
            files = Files(os.path.join(directory, name), encode)
            with self._scai_redirected(directory), taking(files):
                super()._save_checkpoint(model, trial)
            # The files of all processes are there.
            agreed(None)
            written, state.best_model_checkpoint = state.best_model_checkpoint, best
            best = state.best_model_checkpoint = self._scai_best(path)
            self._scai_last = path
            if staging is None:
                return nothing
            for entry in os.listdir(os.path.join(directory, name)):
                os.rename(os.path.join(directory, name, entry), os.path.join(directory, entry))
            os.rmdir(os.path.join(directory, name))
            if best != written:
                state.save_to_json(os.path.join(directory, TRAINER_STATE_NAME))
        except BaseException:
            state.best_model_checkpoint = best
            if staging is not None:
                staging.abandon()
            raise
        about = {
            "framework": f"transformers {transformers.__version__}",
            "world_size": str(args.world_size),
        }
        keep = {name}
        if best is not None and os.path.dirname(os.path.abspath(best)) == run_dir:
            keep.add(os.path.basename(best))
        surplus = functools.partial(_surplus, run_dir, args.save_total_limit, keep)
        return functools.partial(publish, staging, files, name, about, state.global_step, surplus)

    @contextlib.contextmanager
    def _scai_redirected(self, directory: str) -> Iterator[None]:
        """Let Trainer take `directory` for its output directory, whatever subclasses do."""
        vars(self)["_get_output_dir"] = lambda trial: directory
        try:
            yield
        finally:
            del vars(self)["_get_output_dir"]

    def _scai_best(self, path: str) -> str | None:
        """The checkpoint of the best model, now that `path` is saved."""
        step = self.state.best_global_step
        if step:
            best = os.path.join(os.path.dirname(path), f"{PREFIX_CHECKPOINT_DIR}-{step}")
            if best in (path, self._scai_last) or os.path.exists(best):
                return best
        return self.state.best_model_checkpoint

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        files = files_taken()
        if files is None:
            return super()._save_optimizer_and_scheduler(output_dir)
        if self.args.should_save:
            parts: dict[str, Any] = {
                OPTIMIZER_NAME: self.optimizer,
                SCHEDULER_NAME: self.lr_scheduler,
            }
            for name, part in parts.items():
                path, value = os.path.join(output_dir, name), part.state_dict()
                if not files.torch(value, path):
                    torch.save(value, path)
        return None

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        # What is being written is uploaded when it is there.
        if files_taken() is None:
            super()._push_from_checkpoint(checkpoint_folder)

    def _scai_left_to_trainer(self) -> str | None:
        """What is used that is not handled here."""
        used = {
            "FSDP": self.is_fsdp_enabled,
            "DeepSpeed": self.is_deepspeed_enabled,
            "tensor parallelism": getattr(self, "is_distributed_loading_by_transformers", False),
            "XLA": is_torch_xla_available(),
            "SageMaker model parallelism": is_sagemaker_mp_enabled(),
        }
        return next((name for name, is_used in used.items() if is_used), None)

    def _scai_is_looked_for(self) -> bool:
        """Whether a callback looks for a checkpoint as soon as it has been saved."""
        return any(map(_looks, self.callback_handler.callbacks))

    def _finalize_training(self, *args: Any, **kwargs: Any) -> TrainOutput:
        self.flush()
        best = self.state.best_model_checkpoint
        is_left = self._scai_left_to_trainer() is not None
        if (
            best is not None
            and self.args.save_total_limit == 1
            and not is_left
            and os.path.isdir(best)
        ):
            # Trainer keeps no other then.
            check_together(best, reads=self.args.should_save)
            if self.args.should_save:
                run_dir, name = os.path.split(os.path.abspath(best))
                for path in _checkpoints(run_dir):
                    if path != name:
                        remove(os.path.join(run_dir, path))
        output: TrainOutput = super()._finalize_training(*args, **kwargs)  # type: ignore[no-untyped-call]
        return output

    # Loading

    def _load_best_model(self) -> None:
        best = self.state.best_model_checkpoint
        if best is not None and os.path.isdir(best):
            check_together(best, reads=self.args.should_save)
        super()._load_best_model()

    def _scai_newest(self) -> str | None:
        directory = str(self.args.output_dir)
        if self.args.should_save:
            swept(directory)
        return newest_sound(
            [os.path.join(directory, name) for name in reversed(_checkpoints(directory))],
            self._scai_missing,
            f"No valid checkpoint found in output directory ({directory})",
            reads=self.args.should_save,
        )

    def _scai_missing(self, path: str) -> str | None:
        """What a checkpoint that Trainer wrote alone lacks to be complete."""
        names = os.listdir(path)
        if _INCOMPLETE in names:
            return f"it holds `{_INCOMPLETE}`"
        # It is written last.
        try:
            json.loads(Path(path, TRAINER_STATE_NAME).read_bytes())
        except FileNotFoundError:
            return f"it has no `{TRAINER_STATE_NAME}`"
        except ValueError:
            return f"its `{TRAINER_STATE_NAME}` is not JSON"
        if self._scai_left_to_trainer() is not None:
            return None
        adapters = any(
            map(_WEIGHTS.fullmatch, (each.name for each in Path(path).glob("*/adapter_model.*")))
        )
        if not adapters and not any(map(_WEIGHTS.fullmatch, names)):
            return "it has no weights"
        expected = set() if self.args.save_only_model else {OPTIMIZER_NAME, SCHEDULER_NAME}
        for index in (name for name in names if name.endswith(".index.json")):
            expected |= {*json.loads(Path(path, index).read_bytes())["weight_map"].values()}
        lacking = sorted(expected - set(names))
        return f"it has no `{lacking[0]}`" if lacking else None


class ScaiTrainer(ScaiTrainerMixin, Trainer):
    """The Trainer of transformers with `ScaiTrainerMixin`: its arguments, and ``wait``."""


def _checkpoints(directory: str) -> list[str]:
    """The names of the checkpoints in a directory, by their steps."""
    return [name for _, name in numbered(directory, f"{PREFIX_CHECKPOINT_DIR}-")]


def _surplus(directory: str, limit: int | None, keep: set[str]) -> list[str]:
    """The checkpoints in a directory that are to go, the oldest first, as `rotate_checkpoints` has it.

    Args:
        directory: where they are.
        limit: how many stay; all, if it is not positive.
        keep: the names of those that stay in any case.
    """
    there = set(_checkpoints(directory))
    if limit is None or limit <= 0:
        return []
    by_age = [
        path
        for path in sort_checkpoints(directory, use_mtime=True)
        if os.path.basename(path) in there
    ]
    excess = len(by_age) - max(limit, len(keep & there))
    return [path for path in by_age if os.path.basename(path) not in keep][: max(excess, 0)]


def _looks(callback: TrainerCallback) -> bool:
    """Whether a callback may open a checkpoint that has just been saved. Those of transformers say so."""
    own = type(callback).on_save
    if own is TrainerCallback.on_save:
        return False
    if not own.__module__.startswith("transformers."):
        return True
    flags = ("_log_model", "_log_artifacts", "_should_upload_checkpoint", "sync_checkpoints")
    values = (getattr(callback, flag, False) for flag in flags)
    return any(
        getattr(value, "value", value) not in (False, None, "false", "end") for value in values
    )
