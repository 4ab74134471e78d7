"""The trainer from Python: training, stopping, saving, resuming, loading, measuring."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scai
import torch
from scai import errors
from scai.training.trainer import Trainer
from small import ENDLESS, differences, names, small, state

Event = dict[str, Any]


def at_iteration(number: int, act: Any) -> Any:
    """A callback that acts when the iteration of this number is done."""

    def on_event(event: Event) -> None:
        if event["event"] == "iteration" and event["iteration"] == number:
            act()

    return on_event


def fail(error: BaseException) -> Any:
    def act() -> None:
        raise error

    return act


def interrupt_in(seconds: float) -> None:
    """Send what Ctrl-C sends."""
    threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGINT)).start()


# Training


def test_a_training_saves_at_its_interval_and_counts_what_it_did(tmp_path: Path) -> None:
    trainer = small(tmp_path)
    assert trainer.training_stats["total_iterations"] == 0
    assert trainer.train() is True
    assert names(tmp_path) == [f"checkpoint_iter_{n}.pt" for n in (2, 4, 6)]
    stats = trainer.training_stats
    assert (stats["total_iterations"], stats["total_games"]) == (6, 48)
    assert stats["total_steps"] > 0
    assert "win_rate_random" in stats
    saved = torch.load(tmp_path / "latest.pt", weights_only=True)
    assert saved["training_stats"] == stats
    assert saved["metadata"]["config"] == trainer.config
    assert trainer.train() is True, "nothing is left to do"


def test_a_training_that_chooses_when_to_save_tells_what_saves_cost(tmp_path: Path) -> None:
    events: list[Event] = []
    training = {"save_interval": "auto", "save_overhead": 1e-9}
    trainer = small(tmp_path, training=training)
    assert trainer.config["training"]["save_interval"] == "auto"
    assert trainer.train(on_event=events.append) is True
    saved = [event for event in events if event["event"] == "saved"]
    assert (saved[0]["iteration"], saved[0]["interval"], saved[-1]["iteration"]) == (1, 2, 6)
    for event in saved:
        stages = ("waited", "plan", "write", "sync", "commit", "after")
        assert all(event[f"{stage}_ms"] >= 0 for stage in stages)
        assert event["gb_per_s"] > 0
    straight = small(tmp_path / "straight")
    straight.train()
    ends = [state(path / "checkpoint_iter_6.pt") for path in (tmp_path, tmp_path / "straight")]
    assert differences(*ends) == []


def test_a_training_in_parts_and_resumed_is_that_of_one_go(tmp_path: Path) -> None:
    one, parts = tmp_path / "one", tmp_path / "parts"
    small(one).train()
    trainer = small(parts)
    assert trainer.train(iterations=2) is False
    assert trainer.train(iterations=0) is False
    assert trainer.train(iterations=1) is False
    del trainer
    trainer = small(parts)
    resumed = trainer.resume()
    assert resumed is not None
    assert (resumed.iteration, resumed.path) == (3, str(parts / "checkpoint_iter_3.pt"))
    assert (resumed.skipped, resumed.iterations_lost) == ([], 0)
    assert trainer.train(iterations=100) is True
    for name in ("checkpoint_iter_4.pt", "checkpoint_iter_6.pt"):
        assert differences(state(one / name), state(parts / name)) == []


def test_events_come_on_the_calling_thread_while_the_training_waits(tmp_path: Path) -> None:
    trainer = small(tmp_path)
    events: list[Event] = []

    def on_event(event: Event) -> None:
        assert threading.get_ident() == here
        if event["event"] == "iteration":
            assert trainer.training_stats == event["training_stats"]
        events.append(event)

    here = threading.get_ident()
    trainer.train(on_event=on_event)
    of = {kind: [e for e in events if e["event"] == kind] for kind in {e["event"] for e in events}}
    assert [e["iteration"] for e in of["iteration"]] == [1, 2, 3, 4, 5, 6]
    assert [e["evaluated"] for e in of["iteration"]] == [False, False, True] * 2
    assert [e["name"] for e in of["saved"]] == names(tmp_path)
    assert [e["games"] for e in of["self_play"] if e["iteration"] == 1] == list(range(9))
    assert of["evaluating"][0] == {"event": "evaluating", "iteration": 3, "what": "random"}
    assert of["learning"][-1]["steps"] == of["learning"][-1]["of"] == 3


def test_metrics_have_every_iteration_once_however_it_was_trained(tmp_path: Path) -> None:
    trainer = small(tmp_path)
    trainer.train(iterations=3)
    trainer.train(iterations=1)
    again = small(tmp_path)
    again.load_checkpoint(tmp_path / "checkpoint_iter_2.pt")
    again.train()
    lines = (tmp_path / "logs" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["iteration"] for line in lines] == [1, 2, 3, 4, 5, 6]


def test_metrics_that_cannot_be_written_are_a_warning(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("in the way")
    trainer = small(tmp_path)
    with pytest.warns(RuntimeWarning, match="training continues without metrics") as warned:
        assert trainer.train() is True
    assert [Path(warning.filename).name for warning in warned] == ["test_trainer.py"]


def test_statistics_can_be_assigned_and_are_in_the_next_checkpoint(tmp_path: Path) -> None:
    trainer = small(tmp_path)
    trainer.train(iterations=1)
    # As the guide that this package follows does it.
    saved = {**trainer.training_stats, "total_games": 5000, "avg_reward": 0.5}
    trainer.training_stats = saved
    assert trainer.training_stats == saved
    trainer.training_stats = {"loss": 1}
    assert trainer.training_stats == {**saved, "loss": 1.0}
    assert state(trainer.save_checkpoint())["training_stats"] == {**saved, "loss": 1.0}
    trainer.train(iterations=1)
    assert trainer.training_stats["total_iterations"] == 2
    assert trainer.training_stats["total_games"] > 5000
    assert trainer.training_stats["avg_reward"] == 0.5


@pytest.mark.parametrize(
    ("stats", "message"),
    [
        ([1], "expected a mapping, found list"),
        ({"loss": "low"}, "`training_stats.loss`: expected a number"),
        ({"total_games": 0.5}, "`training_stats.total_games`: expected a number"),
        ({"history": [1, 2]}, "`training_stats.history`: expected a number"),
    ],
)
def test_what_are_no_statistics_is_refused_and_changes_nothing(
    tmp_path: Path, stats: Any, message: str
) -> None:
    trainer = small(tmp_path)
    before = trainer.training_stats
    with pytest.raises(TypeError, match=re.escape(message)):
        trainer.training_stats = stats
    assert trainer.training_stats == before


# Stopping


def test_ctrl_c_saves_the_last_iteration_that_was_done(tmp_path: Path) -> None:
    trainer = small(tmp_path, training=ENDLESS)
    with pytest.raises(KeyboardInterrupt):
        trainer.train(on_event=at_iteration(3, lambda: interrupt_in(0.05)))
    done = trainer.training_stats["total_iterations"]
    assert done >= 3
    assert names(tmp_path) == [f"checkpoint_iter_{done}.pt"]
    # It is as if nothing had happened.
    other = small(tmp_path / "other", training=ENDLESS)
    other.train(iterations=done)
    name = f"checkpoint_iter_{done}.pt"
    assert differences(state(tmp_path / name), state(tmp_path / "other" / name)) == []
    trainer.train(iterations=1)
    assert trainer.training_stats["total_iterations"] == done + 1


def test_ctrl_c_is_heard_where_there_is_no_callback(tmp_path: Path) -> None:
    trainer = small(tmp_path, training=ENDLESS)
    interrupt_in(0.3)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    done = trainer.training_stats["total_iterations"]
    assert names(tmp_path) == ([f"checkpoint_iter_{done}.pt"] if done else [])


def test_ctrl_c_ends_an_evaluation(tmp_path: Path) -> None:
    trainer = small(tmp_path)
    interrupt_in(0.3)
    with pytest.raises(KeyboardInterrupt):
        trainer.evaluate("random", games=100_000, simulations=1000)


@pytest.mark.parametrize("kind", ["iteration", "self_play", "learning", "evaluating", "saved"])
def test_an_exception_of_the_callback_saves_and_is_raised(tmp_path: Path, kind: str) -> None:
    trainer = small(tmp_path)
    error = RuntimeError("enough")

    def on_event(event: Event) -> None:
        if event["event"] == kind and event["iteration"] >= 2:
            raise error

    with pytest.raises(RuntimeError, match="enough") as raised:
        trainer.train(on_event=on_event)
    assert raised.value is error
    assert raised.value.__cause__ is None
    done = trainer.training_stats["total_iterations"]
    assert f"checkpoint_iter_{done}.pt" in names(tmp_path)
    assert trainer.train() is True
    other = small(tmp_path / "other")
    other.train()
    name = "checkpoint_iter_6.pt"
    assert differences(state(tmp_path / name), state(tmp_path / "other" / name)) == []


def test_a_callback_can_ask_to_stop(tmp_path: Path) -> None:
    trainer = small(tmp_path)
    assert trainer.train(on_event=at_iteration(3, trainer.stop)) is False
    assert names(tmp_path) == ["checkpoint_iter_2.pt", "checkpoint_iter_3.pt"]
    assert trainer.train() is True, "a stop is of one training only"


def test_another_thread_can_look_and_stop_and_nothing_else(tmp_path: Path) -> None:
    trainer = small(tmp_path, training=ENDLESS)
    ended: list[bool] = []
    thread = threading.Thread(target=lambda: ended.append(trainer.train()))
    thread.start()
    while trainer.training_stats["total_iterations"] < 2:
        pass
    for call in (trainer.train, trainer.save_checkpoint, trainer.resume, trainer.evaluate):
        with pytest.raises(RuntimeError, match="busy in another call"):
            call()
    trainer.stop()
    thread.join()
    assert ended == [False]
    trainer.save_checkpoint()


def test_a_callback_that_saves_is_told_why_it_cannot(tmp_path: Path) -> None:
    trainer = small(tmp_path)
    with pytest.raises(RuntimeError, match="busy in another call"):
        trainer.train(on_event=at_iteration(1, trainer.save_checkpoint))


# Failing


def in_the_way(directory: Path, *iterations: int) -> list[Path]:
    """Directories with the names of checkpoints, which no file can replace."""
    paths = [directory / f"checkpoint_iter_{number}.pt" for number in iterations]
    for path in paths:
        path.mkdir()
    return paths


@pytest.mark.filterwarnings("ignore:iteration 6 could not be saved")
def test_a_save_that_fails_is_a_warning_and_the_last_one_an_error(tmp_path: Path) -> None:
    trainer = small(tmp_path, training={"save_interval": 1})
    paths = in_the_way(tmp_path, 3, 6)
    events: list[Event] = []
    with pytest.warns(RuntimeWarning, match="iteration 3 could not be saved") as warned:
        with pytest.raises(OSError, match="after iteration 6 could not be saved") as raised:
            trainer.train(on_event=events.append)
    assert raised.value.errno is not None
    failed = [e["iteration"] for e in events if e["event"] == "save_failed"]
    # The last one is tried twice.
    assert failed == [3, 6, 6]
    assert len(warned) == 3
    assert trainer.training_stats["total_iterations"] == 6
    paths[1].rmdir()
    assert trainer.save_checkpoint() == str(paths[1])


def test_a_warning_that_is_an_error_stops_the_training(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("in the way")
    trainer = small(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(RuntimeWarning, match="without metrics"):
            trainer.train()
    assert trainer.training_stats["total_iterations"] == 0


def test_a_state_that_is_lost_after_an_exception_is_its_cause(tmp_path: Path) -> None:
    trainer = small(tmp_path)
    in_the_way(tmp_path, 3)
    with pytest.raises(KeyError, match="mine") as raised:
        trainer.train(on_event=at_iteration(3, fail(KeyError("mine"))))
    assert isinstance(raised.value.__cause__, OSError)
    assert "the state after iteration 3 could not be saved" in str(raised.value.__cause__)


def test_a_training_that_diverges_says_so_and_keeps_the_last_sound_state(tmp_path: Path) -> None:
    trainer = small(
        tmp_path, training={"learning_rate": 1e30, "warmup_steps": 0, "schedule": "constant"}
    )
    with pytest.raises(RuntimeError, match="training has diverged"):
        trainer.train()
    done = trainer.training_stats["total_iterations"]
    assert names(tmp_path) == ([f"checkpoint_iter_{done}.pt"] if done else [])


def test_a_panic_is_an_error_and_the_training_as_it_was(tmp_path: Path) -> None:
    trainer = small(tmp_path, evaluation={"interval": 2, "games": 2**62})
    with pytest.raises(RuntimeError, match="the trainer panicked: capacity overflow"):
        trainer.train()
    assert trainer.training_stats["total_iterations"] == 1
    assert trainer.save_checkpoint() == str(tmp_path / "checkpoint_iter_1.pt")


def test_another_process_that_writes_keeps_the_training_out(tmp_path: Path) -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from pathlib import Path\nfrom small import small\n"
        "trainer = small(Path(sys.argv[2]))\ntrainer.save_checkpoint()\n"
        "print('ready', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(Path(__file__).parent), str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdin is not None
    assert process.stdout.readline() == "ready\n"
    trainer = small(tmp_path)
    with pytest.raises(errors.LockedError, match=str(process.pid)):
        trainer.train()
    process.stdin.close()
    process.wait()
    trainer.train(iterations=1)


# Saving, loading, resuming


def test_a_save_is_called_as_it_is_told(tmp_path: Path) -> None:
    trainer = small(tmp_path)
    trainer.train(iterations=1)
    assert trainer.save_checkpoint() == str(tmp_path / "checkpoint_iter_1.pt")
    path = trainer.save_checkpoint(iteration=100)
    assert path == str(tmp_path / "checkpoint_iter_100.pt")
    assert torch.load(path, weights_only=True)["iteration"] == 100
    assert scai.verify(path)


def test_a_checkpoint_brings_everything_back(tmp_path: Path) -> None:
    trainer = small(tmp_path)
    trainer.train()
    other = small(tmp_path / "other")
    checkpoint = other.load_checkpoint(tmp_path / "checkpoint_iter_4.pt")
    assert checkpoint.path == str(tmp_path / "checkpoint_iter_4.pt")
    assert checkpoint.report.complete
    plain = torch.load(checkpoint.path, weights_only=True)
    assert differences(dict(checkpoint), plain) == []
    required = ["iteration", "model_state_dict", "optimizer_state_dict"]
    assert {*required, "training_stats", "metadata", "timestamp"} <= set(checkpoint)
    assert other.training_stats == plain["training_stats"]
    other.train()
    name = "checkpoint_iter_6.pt"
    assert differences(state(tmp_path / name), state(tmp_path / "other" / name)) == []


def test_more_blocks_begin_with_those_of_a_smaller_network(tmp_path: Path) -> None:
    small(tmp_path / "small").train(iterations=2)
    path = tmp_path / "small" / "checkpoint_iter_2.pt"
    trainer = small(tmp_path, model={"num_blocks": 3})
    before = state(trainer.save_checkpoint())
    with pytest.raises(errors.MismatchError, match=r"backbone\.blocks\.2\.conv1\.weight") as raised:
        trainer.load_checkpoint(path)
    assert len(raised.value.report["missing"]) == 12
    assert differences(state(trainer.save_checkpoint()), before) == [], "it is as it was"

    report = trainer.load_checkpoint(path, strict=False).report
    # Of a block two convolutions and two batch norms of five tensors; moments of what is trained.
    assert len(report.missing) == 12
    assert report.optimizer is not None
    assert len(report.optimizer.missing) == 6
    assert (report.unexpected, report.mismatched) == ([], [])
    assert trainer.training_stats["total_iterations"] == 2
    saved, moved = state(path), state(trainer.save_checkpoint())
    for name, tensor in saved["model_state_dict"].items():
        assert differences(moved["model_state_dict"][name], tensor) == [], name

    def moments(checkpoint: dict[str, Any]) -> dict[str, Any]:
        optimizer = checkpoint["optimizer_state_dict"]
        names = optimizer["param_groups"][0]["param_names"]
        return {names[index]: entry for index, entry in optimizer["state"].items()}

    assert differences(moments(moved), moments(saved)) == []
    trainer.train()


def test_the_network_alone_begins_a_new_training(tmp_path: Path) -> None:
    small(tmp_path / "first").train(iterations=2)
    trainer = small(tmp_path)
    checkpoint = trainer.load_checkpoint(
        tmp_path / "first" / "checkpoint_iter_2.pt", network_only=True
    )
    assert checkpoint["iteration"] == 2
    assert trainer.training_stats["total_iterations"] == 0
    saved = state(trainer.save_checkpoint())["model_state_dict"]
    assert differences(dict(saved), dict(checkpoint["model_state_dict"])) == []


def test_names_of_a_wrapper_are_remapped(tmp_path: Path) -> None:
    trainer = small(tmp_path)
    network = state(trainer.save_checkpoint())["model_state_dict"]
    torch.save({f"module.{name}": tensor for name, tensor in network.items()}, tmp_path / "a.pt")
    with pytest.raises(errors.MismatchError, match=r"begins with `module\.`"):
        trainer.load_checkpoint(tmp_path / "a.pt", network_only=True)
    remap = {r"^module\.": ""}
    assert trainer.load_checkpoint(
        tmp_path / "a.pt", remap=remap, network_only=True
    ).report.complete
    with pytest.raises(ValueError, match="remap"):
        trainer.load_checkpoint(tmp_path / "a.pt", remap={"(": ""}, network_only=True)


def test_what_cannot_be_loaded_leaves_the_training_as_it_was(tmp_path: Path) -> None:
    trainer = small(tmp_path)
    trainer.train(iterations=3)
    before = state(trainer.save_checkpoint())
    good = tmp_path / "checkpoint_iter_2.pt"
    damaged = tmp_path / "damaged.pt"
    content = bytearray(good.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    with pytest.raises(errors.DamagedError) as raised:
        trainer.load_checkpoint(damaged)
    assert raised.value.bytes is not None
    assert isinstance(raised.value, RuntimeError)
    with pytest.raises(FileNotFoundError):
        trainer.load_checkpoint(tmp_path / "checkpoint_iter_5.pt")
    torch.save({"iteration": 3}, tmp_path / "incomplete.pt")
    with pytest.raises(KeyError, match="model_state_dict"):
        trainer.load_checkpoint(tmp_path / "incomplete.pt")
    whole = torch.load(good, weights_only=True)
    del whole["rng_state"]
    torch.save(whole, tmp_path / "without.pt")
    with pytest.raises(errors.MismatchError, match="rng_state"):
        trainer.load_checkpoint(tmp_path / "without.pt")
    assert differences(state(trainer.save_checkpoint()), before) == []


def test_a_resume_says_what_it_skipped(tmp_path: Path) -> None:
    assert small(tmp_path).resume() is None
    small(tmp_path).train()
    for number in (4, 6):
        path = tmp_path / f"checkpoint_iter_{number}.pt"
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.unlink()
        path.write_bytes(content)
    trainer = small(tmp_path)
    resumed = trainer.resume()
    assert resumed is not None
    assert (resumed.iteration, resumed.iterations_lost) == (2, 4)
    assert [Path(skipped.path).name for skipped in resumed.skipped] == [
        "checkpoint_iter_6.pt", "checkpoint_iter_4.pt"
    ]  # fmt: skip
    for skipped in resumed.skipped:
        assert isinstance(skipped.reason, errors.DamagedError)
        assert skipped.set_aside is not None and Path(skipped.set_aside).exists()
    assert trainer.training_stats["total_iterations"] == 2


def test_a_resume_without_any_sound_checkpoint_is_an_error(tmp_path: Path) -> None:
    small(tmp_path).train(iterations=1)
    (tmp_path / "checkpoint_iter_1.pt").unlink()
    (tmp_path / "checkpoint_iter_1.pt").write_bytes(b"nothing")
    (tmp_path / "latest.pt").unlink()
    with pytest.raises(errors.NothingToResumeError):
        small(tmp_path).resume()


# Measuring


def test_strength_is_measured_against_whom_one_likes(tmp_path: Path) -> None:
    trainer = small(tmp_path)
    trainer.train(iterations=2)
    assert list(trainer.evaluate()) == ["win_rate_random"]
    found = trainer.evaluate(["random", "alphabeta:2"], games=2, simulations=4)
    assert sorted(found) == ["win_rate_alphabeta2", "win_rate_random"]
    assert all(0 <= share <= 1 for share in found.values())
    assert trainer.evaluate("random", games=2) == trainer.evaluate("random", games=2)
    assert "win_rate_random" not in trainer.training_stats, "it is no part of the training"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"opponent": "alpha_beta"}, "`alpha_beta` is not an opponent; write `random` or"),
        ({"games": 3}, "`evaluation.games`: expected an even number"),
        ({"simulations": 0}, "`evaluation.simulations`: expected 1 or more, found 0"),
        ({"simulations": "many"}, "`evaluation.simulations`: expected a whole number"),
    ],
)
def test_a_measurement_that_makes_no_sense_is_refused(
    tmp_path: Path, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        small(tmp_path).evaluate(**arguments)


# Settings


def test_settings_come_from_a_file_and_from_arguments(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("seed: 3\ntraining: {iterations: 5, batch_size: 32}\n")
    for given in (file, str(file)):
        trainer = Trainer(
            given,
            game="tictactoe",
            checkpoint={"directory": tmp_path / "a"},
            training={"iterations": np.int64(7), "learning_rate": np.float32(0.5)},
            evaluation={"opponents": ("random",)},
        )
        config = trainer.config
        assert (config["seed"], config["game"]) == (3, "tictactoe")
        assert config["training"]["iterations"] == 7
        assert config["training"]["batch_size"] == 32
        assert config["training"]["learning_rate"] == 0.5
        assert config["evaluation"]["opponents"] == ["random"]
        assert trainer.checkpoint_dir == str(tmp_path / "a")
    assert "iteration 0 of 7" in repr(trainer)


def test_the_file_of_the_repository_says_the_defaults(tmp_path: Path) -> None:
    there = {"directory": str(tmp_path)}
    file = Path(__file__).parents[2] / "config.yaml"
    assert Trainer(file, checkpoint=there).config == Trainer(checkpoint=there).config


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"training": {"save_intervall": 3}},
            "`training.save_intervall` is not a key; did you mean `save_interval`?",
        ),
        (
            {"training": {"save_interval": "often"}},
            "`training.save_interval`: expected a whole number of 1 or more or `auto`, found a",
        ),
        (
            {"training": {"save_overhead": 0}},
            "`training.save_overhead`: expected a number above 0 and at most 1, found 0",
        ),
        (
            {"save_interval": 3},
            "`save_interval` is not a key; did you mean `training.save_interval`?",
        ),
        (
            {"training": {"iterations": "x"}},
            '`training.iterations`: expected a whole number, found a string "x"',
        ),
        ({"training": {"iterations": 0}}, "`training.iterations`: expected 1 or more, found 0"),
        (
            {"training": {"iterations": 2.5}},
            "`training.iterations`: expected a whole number, found 2.5",
        ),
        (
            {"training": {"augment": 1}},
            "`training.augment`: expected `true` or `false`, found 1",
        ),
        (
            {"training": {"learning_rate": float("nan")}},
            "`training.learning_rate`: expected a number, found NaN",
        ),
        ({"seed": 2**64}, "`seed`: expected a whole number"),
        ({"game": "chess"}, "`game`: expected one of `connect4`, `tictactoe`"),
        (
            {"model": {"channels": 10**6}},
            "`model.channels` (1000000) have 72000000000000 parameters",
        ),
    ],
)
def test_settings_that_cannot_be_used_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        Trainer(settings)
    with pytest.raises(ValueError, match=re.escape(message)):
        Trainer({"model": {"num_blocks": 4}}, **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"notes": object()}, "`notes`: expected a string"),
        ({"model": {3: 4}}, "`model`: expected a string as key, found int"),
    ],
)
def test_what_is_no_setting_is_a_type_error(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        Trainer(settings)


def test_a_mapping_in_itself_is_refused() -> None:
    endless: dict[str, Any] = {}
    endless["model"] = endless
    with pytest.raises(ValueError, match="deeper than any setting"):
        Trainer(endless)


def test_a_file_that_cannot_be_used_is_named_with_its_lines(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.yaml"):
        Trainer(tmp_path / "nowhere.yaml")
    with pytest.raises(IsADirectoryError):
        Trainer(tmp_path)
    file = tmp_path / "config.yaml"
    file.write_text("seed: x\ntraining:\n  iteration: 5\n")
    with pytest.raises(ValueError) as raised:
        Trainer(file)
    lines = str(raised.value).splitlines()
    assert lines == [
        f'{file}:1:7: `seed`: expected a whole number, found a string "x"',
        f"{file}:3:3: `training.iteration` is not a key; did you mean `iterations`?",
    ]


def test_a_directory_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="create the directory"):
        small(tmp_path / "file" / "checkpoints")


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"iterations": -1}, ValueError),
        ({"iterations": "x"}, TypeError),
        ({"on_event": 3}, TypeError),
    ],
)
def test_arguments_of_a_training_are_checked(
    tmp_path: Path, arguments: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        small(tmp_path).train(**arguments)
