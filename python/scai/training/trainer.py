"""Training by self-play, as AlphaZero does: it can be killed anywhere, and goes on bit for bit."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scai import _native, load
from scai._checkpoint import Checkpoint
from scai._report import LoadReport
from scai._results import Skipped, within

__all__ = ["Checkpoint", "LoadReport", "ResumedAt", "Skipped", "Trainer"]


@dataclass(frozen=True)
class ResumedAt:
    """Where a training goes on.

    Attributes:
        path: the checkpoint.
        iteration: its iteration.
        skipped: newer checkpoints that could not be used, newest first.
        iterations_lost: iterations between the newest checkpoint there was and this one.
    """

    path: str
    iteration: int
    skipped: list[Skipped]
    iterations_lost: int


class Trainer:
    """Trains a `scai.models.DualResNet` by self-play; the same as the command ``scai train``.

    It computes in Rust and needs PyTorch only to give a checkpoint back. The same settings and seed
    give the same network, bit for bit on one machine, however often the training was stopped or
    killed and resumed.

    A trainer does one thing at a time: a call from another thread, or from a callback, while one is
    under way is a `RuntimeError`. `training_stats`, `config`, `checkpoint_dir` and `stop` can be
    used at any time.

    Args:
        config: the file of the settings, such as ``config.yaml``, or a mapping with the nesting of
            that file. What it leaves out has its default.
        settings: what stands in place of that, with the same nesting:
            ``training={"iterations": 500}, seed=3``.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a key does not exist, a value is of another type, or no run could work with it.
            The message names the key, and in a file the line; all that is wrong is said at once.
        TypeError: a value is no setting at all.
        OSError: the directory of the checkpoints cannot be created.
    """

    def __init__(
        self,
        config: str | os.PathLike[str] | Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        if config is None or isinstance(config, Mapping):
            self._native = _native.Trainer(None, [config or {}, settings])
        else:
            self._native = _native.Trainer(os.fspath(config), [settings])

    @property
    def config(self) -> dict[str, Any]:
        """The settings, each with its value. A copy: changing it changes nothing."""
        return self._native.config

    @property
    def checkpoint_dir(self) -> str:
        """The directory of the checkpoints."""
        return os.path.normpath(self._native.checkpoint_dir)

    @property
    def training_stats(self) -> dict[str, Any]:
        """The statistics after the last iteration that is done. A copy; assign it to change them.

        ``total_iterations``, ``total_games``, ``total_positions``, ``total_steps``; ``loss``,
        ``policy_loss`` (nats), ``value_loss``, ``learning_rate``, ``game_length`` (plies),
        ``first_player_rate``; and the results of the last evaluation, as `evaluate` gives them.
        """
        return self._native.training_stats

    @training_stats.setter
    def training_stats(self, stats: Mapping[str, Any]) -> None:
        """Go on from other statistics, such as those of a checkpoint; what they lack stays.

        The next checkpoint holds them, and training goes on after `total_iterations`.
        """
        self._native.training_stats = stats

    def train(
        self,
        iterations: int | None = None,
        on_event: Callable[[dict[str, Any]], object] | None = None,
    ) -> bool:
        """Train until all iterations are done; say whether they are.

        A checkpoint is saved in the background every ``training.save_interval`` iterations, with
        ``"auto"`` as often as ``training.save_overhead`` allows, and one when this returns or
        raises. A save that fails is a `RuntimeWarning`, and training goes on.
        Metrics are written as the settings say.

        Ctrl-C, and an exception of `on_event`, drop the iteration under way, save the last one that
        was done, and are raised; a resumed training does the dropped iteration again, with the same
        result.

        Args:
            iterations: do so many more at most, and not all that ``training.iterations`` says. The
                learning rate follows its schedule for all.
            on_event: called on this thread with each event, a dict as ``scai train --json`` prints
                it, while the training waits: ``event`` is ``self_play``, ``learning``,
                ``evaluating``, ``iteration`` (with ``training_stats``), ``saving``, ``saved`` (with
                its timeline: ``waited_ms``, ``plan_ms``, ``write_ms``, ``sync_ms``, ``commit_ms``,
                ``after_ms``, ``gb_per_s``, and the ``interval`` to the next) or ``save_failed``.

        Raises:
            scai.errors.LockedError: another process writes to the directory.
            RuntimeError: training has diverged.
            Exception: what the last save raised; the state is lost when this object goes.
        """
        if iterations is not None and iterations < 0:
            raise ValueError(f"`iterations`: expected 0 or more, found {iterations}")
        if on_event is not None and not callable(on_event):
            raise TypeError(f"`on_event`: expected a callable, found {type(on_event).__name__}")
        return self._native.train(iterations, on_event)

    def stop(self) -> None:
        """Ask a `train` that is under way, in a callback or another thread, to stop and save."""
        self._native.stop()

    def evaluate(
        self,
        opponent: str | Sequence[str] | None = None,
        *,
        games: int | None = None,
        simulations: int | None = None,
        positions: bool | None = None,
    ) -> dict[str, float]:
        """Measure how strong the network plays. What is left out is as the settings say.

        Args:
            opponent: ``"random"``, ``"alphabeta:DEPTH"``, or several.
            games: games against each, an even number: each side moves first in half of them.
            simulations: simulations of the tree search for each move.
            positions: measure the share of solved positions that are played perfectly (Connect
                Four only).

        Returns:
            ``win_rate_random``, ``win_rate_alphabeta4`` and the like, where a draw counts half;
            ``optimal_moves`` with the search, ``optimal_moves_policy`` by the network alone.
        """
        given = {
            "opponents": [opponent] if isinstance(opponent, str) else opponent,
            "games": games,
            "simulations": simulations,
            "positions": positions,
        }
        given = {key: value for key, value in given.items() if value is not None}
        return self._native.evaluate(given)

    def save_checkpoint(self, iteration: int | None = None) -> str:
        """Save the state after the last iteration that is done; return once it is durable.

        Args:
            iteration: the iteration it is called by; that of the state otherwise.

        Raises:
            OSError: the file system refused; ``errno`` says why. The directory is as it was.
            scai.errors.LockedError: another process writes to the directory.
        """
        return self._native.save_checkpoint(iteration)

    def load_checkpoint(
        self,
        path: str | os.PathLike[str],
        strict: bool = True,
        remap: Mapping[str, str] | None = None,
        *,
        network_only: bool = False,
    ) -> Checkpoint:
        """Go on from a checkpoint, of this training or another. It needs PyTorch.

        Args:
            path: the file: one of a trainer, or one that PyTorch wrote.
            strict: every name, shape and element type must match. Otherwise what matches is loaded,
                the optimizer's state by the names of its parameters, and the rest is in the report:
                a network of 25 blocks begins with the 20 of a smaller one.
            remap: changes made to the saved names, regular expressions to replacements, where
                ``$1`` is the first group.
            network_only: load the network and the optimizer's state, and not the iteration, the
                statistics, the replay buffer and the random state: for a new training. The file
                may then be a bare state dict.

        Returns:
            What the file holds: ``iteration``, ``model_state_dict``, ``optimizer_state_dict``,
            ``training_stats``, ``metadata``, ``timestamp`` and further parts. Its `report` says
            what was loaded.

        Raises:
            FileNotFoundError: there is no such file.
            scai.errors.MissingFieldError: a required field is missing.
            scai.errors.MismatchError: it does not fit; the message is the report.
            scai.errors.DamagedError: a byte is not what was saved; tensor and place are named.
            Exception: whatever is raised, the training is as it was.
        """
        content = load(path)
        network, optimizer = self._native.load_checkpoint(
            path, strict, network_only, list((remap or {}).items())
        )
        checkpoint = Checkpoint(content)
        checkpoint.path = os.fspath(path)
        checkpoint.report = LoadReport.of(network)
        checkpoint.report.optimizer = LoadReport.of(optimizer)
        return checkpoint

    def resume(self) -> ResumedAt | None:
        """Go on from the newest checkpoint of the directory that is sound; `None` without any.

        Damaged ones are set aside: renamed to ``….pt.damaged``, never deleted.

        Raises:
            scai.errors.NothingToResumeError: there are checkpoints, and none is sound.
            scai.errors.MismatchError: it is of another network.
        """
        found = self._native.resume()
        if found is None:
            return None
        directory = self.checkpoint_dir
        return ResumedAt(
            within(directory, found["name"]),
            found["iteration"],
            Skipped.all_of(directory, found["skipped"]),
            found["iterations_lost"],
        )

    def __repr__(self) -> str:
        done, of = self.training_stats["total_iterations"], self.config["training"]["iterations"]
        return f"<Trainer: iteration {done} of {of}, checkpoints in {self.checkpoint_dir!r}>"
