"""Checkpoints of Ray Train with `scai.integrations.ray`: real workers of a small cluster on this machine."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import scai
import torch
from same import assert_same
from scai import CheckpointManager
from scai.errors import DamagedError, NotACheckpointError
from torch import nn

pytest.importorskip("ray", reason="needs scai[ray]")

import ray
import ray.train
import scai.integrations.ray as scai_ray
from pyarrow import fs
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

SETTINGS = {
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1",
    "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "0.2",
}


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    patch = pytest.MonkeyPatch()
    for name, value in SETTINGS.items():
        patch.setenv(name, value)
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=80 << 20,
        logging_level="error",
        log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join(map(str, paths()))}},
    )
    yield
    ray.shutdown()
    patch.undo()


def paths() -> list[Path]:
    return [Path(__file__).parent, Path(scai.__file__).parents[1]]


# The training that workers run


def parts() -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = nn.Sequential(nn.Linear(16, 16), nn.Dropout(0.5), nn.Linear(16, 1))
    return model, torch.optim.AdamW(model.parameters(), lr=0.1)


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> float:
    loss = model(torch.randn(4, 16)).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return float(loss.detach())


def state(model: nn.Module, optimizer: torch.optim.Optimizer) -> Any:
    return [model.state_dict(), optimizer.state_dict(), torch.rand(3)]


def undisturbed(steps: int, seeded: bool = False) -> Any:
    model, optimizer = parts()
    for iteration in range(steps):
        if seeded:
            torch.manual_seed(iteration)
        step(model, optimizer)
    return state(model, optimizer)


def no_long_files() -> None:
    """As on a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))


def train(config: dict[str, Any]) -> None:
    """Train, save and report after each step; `config` says what happens meanwhile."""
    rank = ray.train.get_context().get_world_rank()

    def note(**what: Any) -> None:
        with open(f"{config['near']}-{rank}.jsonl", "a") as file:
            file.write(json.dumps(what) + "\n")

    if seconds := config.get("slow"):
        copy = scai_ray._copy
        scai_ray._copy = lambda *args: (time.sleep(seconds), copy(*args))[1]
    model, optimizer = parts()
    manager = CheckpointManager(config["near"])
    resumed = scai_ray.resume(manager, model, optimizer)
    first = 0 if resumed is None else resumed.iteration + 1
    note(
        first=first,
        path=resumed and resumed.path,
        skipped=[] if resumed is None else [f"{one.path}: {one.reason}" for one in resumed.skipped],
        lost=resumed and resumed.iterations_lost,
        near=sorted(os.listdir(config["near"])),
    )
    for iteration in range(first, config["steps"]):
        if config.get("seeded"):
            torch.manual_seed(iteration)
        loss = step(model, optimizer)
        if rank == 0:
            full = config.get("full") if iteration == 2 else None
            if full == "near":
                no_long_files()
            manager.save_checkpoint(model, optimizer, iteration, wait=full == "storage")
            if full == "storage":
                no_long_files()
            if config.get("kill") == iteration and first == 0:
                manager.flush()
                # What was reported before has arrived, and this has not been reported.
                while ray.train.get_checkpoint() is None:
                    time.sleep(0.01)
                time.sleep(0.5)
                os.kill(os.getpid(), signal.SIGKILL)
        began = time.monotonic()
        wait = "full" in config and iteration < 2
        scai_ray.report(manager, {"loss": loss, "iteration": iteration}, wait=wait)
        note(seconds=time.monotonic() - began, there=len(stored(config)))
    torch.save(state(model, optimizer), f"{config['near']}-{rank}.final")


def stored(config: dict[str, Any]) -> list[str]:
    """The directories of checkpoints in Ray's storage."""
    return sorted(str(path) for path in Path(config["storage"], "run").glob("checkpoint_*-*"))


def fit(
    tmp_path: Path,
    loop: Any = train,
    workers: int = 1,
    keep: CheckpointConfig | None = None,
    failures: int = 0,
    files: Any = None,
    name: str = "run",
    **config: Any,
) -> ray.train.Result:
    config = {"near": str(tmp_path / "near"), "storage": str(tmp_path), "steps": 4, **config}
    run = RunConfig(
        name=name,
        storage_path="/" if files else str(tmp_path),
        storage_filesystem=files,
        checkpoint_config=keep,
        failure_config=FailureConfig(max_failures=failures),
    )
    scaling = ScalingConfig(num_workers=workers)
    return TorchTrainer(
        loop, train_loop_config=config, scaling_config=scaling, run_config=run
    ).fit()


def notes(tmp_path: Path, rank: int = 0) -> list[dict[str, Any]]:
    lines = (tmp_path / f"near-{rank}.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def file_in(directory: str | Path) -> Path:
    return next(Path(directory).glob("*.pt"))


def damage(path: Path) -> None:
    """Flip a bit in the middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


# What arrives


def test_report_returns_before_the_upload_and_ray_keeps_what_it_is_told_to(tmp_path: Path) -> None:
    result = fit(tmp_path, keep=CheckpointConfig(num_to_keep=2), slow=1.0)
    kept = [checkpoint.path for checkpoint, _ in result.best_checkpoints]
    assert stored({"storage": tmp_path}) == sorted(kept)
    assert [file_in(path).name for path in sorted(kept)] == [
        "checkpoint_iter_2.pt",
        "checkpoint_iter_3.pt",
    ]
    for path in kept:
        file = file_in(path)
        assert sorted(os.listdir(path)) == [file.name, "commit.json"]
        assert scai.verify(file).condition == "sound"
    loaded = torch.load(file_in(result.checkpoint.path), weights_only=True)
    assert_same(loaded["model_state_dict"], undisturbed(4)[0])
    assert result.metrics["iteration"] == 3

    reports = notes(tmp_path)[1:]
    # Two may be unfinished; the third report waits for the first.
    assert [report["there"] for report in reports[:2]] == [0, 0]
    assert max(report["seconds"] for report in reports[:2]) < 0.7
    assert reports[2]["there"] == 1
    # What has been uploaded is removed near the worker, once a newer one is to be uploaded.
    assert sorted(path.name for path in (tmp_path / "near").glob("*_iter_*")) == [
        "checkpoint_iter_3.pt"
    ]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_worker_goes_on_bit_for_bit(tmp_path: Path, workers: int) -> None:
    # Two of them have a storage that is not mounted, and random numbers of their own.
    several = workers > 1
    files = fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem()) if several else None
    fit(tmp_path, workers=workers, failures=1, files=files, steps=5, kill=3, seeded=several)
    for rank in range(workers):
        final = torch.load(tmp_path / f"near-{rank}.final", weights_only=True)
        assert_same(final, undisturbed(5, several))
    (again,) = [note for note in notes(tmp_path)[1:] if "first" in note]
    assert again["first"] == 3 and again["lost"] == 0
    # What Ray was never told of was set aside, and removed with the next that arrived.
    assert "checkpoint_iter_3.pt.unreported" in again["near"]
    assert "checkpoint_iter_3.pt" not in again["near"]
    assert not list((tmp_path / "near").glob("*.unreported"))
    assert {scai.verify(file_in(path)).condition for path in stored({"storage": tmp_path})} == {
        "sound"
    }


def scored(config: dict[str, Any]) -> None:
    """Report checkpoints with scores, with `ray.train.report` or with that of scai."""
    model, optimizer = parts()
    manager = CheckpointManager(config["near"])
    scai_ray.resume(manager, model, optimizer)
    for iteration, score in enumerate(config["scores"]):
        if config["stock"]:
            with tempfile.TemporaryDirectory() as directory:
                torch.save(model.state_dict(), Path(directory) / "model.pt")
                checkpoint = ray.train.Checkpoint.from_directory(directory)
                ray.train.report({"score": score}, checkpoint=checkpoint)
        else:
            manager.save_checkpoint(model, optimizer, iteration, wait=False)
            scai_ray.report(manager, {"score": score})
    reported = ray.train.get_all_reported_checkpoints()
    Path(f"{config['near']}.json").write_text(json.dumps([each.metrics for each in reported]))


def test_ray_ranks_and_removes_as_with_its_own_report(tmp_path: Path) -> None:
    found = []
    for stock in (True, False):
        base = tmp_path / str(stock)
        base.mkdir()
        best = CheckpointConfig(
            num_to_keep=2, checkpoint_score_attribute="score", checkpoint_score_order="min"
        )
        result = fit(base, loop=scored, keep=best, stock=stock, scores=[5, 1, 3, 2, 4])
        there = stored({"storage": base})
        assert {checkpoint.path for checkpoint, _ in result.best_checkpoints} <= set(there)
        kept = [metrics for _, metrics in result.best_checkpoints]
        inside = json.loads((base / "near.json").read_text())
        found.append([kept, inside, result.metrics, len(there)])
    assert found[0] == found[1]


def test_a_copy_that_is_not_what_was_saved_is_not_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copyfile

    def copies_wrongly(source: Any, target: Any) -> None:
        copy(source, target)
        damage(Path(target))

    scai.save({"weights": torch.arange(1000.0)}, tmp_path / "checkpoint_iter_1.pt")
    storage = tmp_path / "storage"
    storage.mkdir()
    monkeypatch.setattr(shutil, "copyfile", copies_wrongly)
    with pytest.raises(DamagedError, match=r"checkpoint_iter_1.pt` did not arrive"):
        scai_ray._copy(str(tmp_path / "checkpoint_iter_1.pt"), str(storage), "one", 1)
    assert os.listdir(storage) == []


class Remote:
    """A file system that is not mounted, and stores something else."""

    def __init__(self, directory: Path) -> None:
        self.files = fs.SubTreeFileSystem(str(directory), fs.LocalFileSystem())
        self.create_dir = self.files.create_dir
        self.open_output_stream = self.files.open_output_stream
        self.directory = directory

    def open_input_stream(self, path: str) -> Any:
        damage(self.directory / path)
        return self.files.open_input_stream(path)


def test_what_a_remote_storage_returns_is_compared(tmp_path: Path) -> None:
    file = tmp_path / "checkpoint_iter_1.pt"
    scai.save({"weights": torch.arange(1000.0)}, file)
    remote = Remote(tmp_path)
    scai_ray._send(str(file), remote.files, "sound")
    assert (tmp_path / "sound" / file.name).read_bytes() == file.read_bytes()
    with pytest.raises(DamagedError, match=r"`wrong/checkpoint_iter_1.pt` in Ray's storage"):
        scai_ray._send(str(file), remote, "wrong")
    damage(file)
    with pytest.raises(DamagedError, match="did not arrive"):
        scai_ray._send(str(file), remote.files, "damaged before")


def test_a_report_that_ray_leaves_out_is_made_with_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As when it ends a group of workers: it logs a warning, and returns.
    told: list[Any] = []
    monkeypatch.setattr(
        ray.train, "report", lambda _, **options: told.append("checkpoint" in options)
    )
    context = SimpleNamespace(get_world_rank=lambda: 0, get_storage=lambda: None)
    monkeypatch.setattr(ray.train, "get_context", lambda: context)
    manager = CheckpointManager(tmp_path)
    reports = scai_ray._reports[manager] = scai_ray._Reports()
    manager._on_commit.append(reports.committed)
    model, optimizer = parts()
    scai_ray.report(manager, {})
    manager.save_checkpoint(model, optimizer, 1)
    scai_ray.report(manager, {})
    scai_ray.report(manager, {})
    assert told == [False, True, True]


# What goes wrong


def failure(error: BaseException) -> str:
    """All that an error of Ray says; of what workers say, its own message has the beginning and the end."""
    said = []
    cause: BaseException | None = error
    while cause is not None:
        said += [str(cause), *map(str, getattr(cause, "worker_failures", {}).values())]
        cause = cause.__cause__ or cause.__context__
    return "\n".join(said)


@pytest.mark.parametrize("full", ["near", "storage"])
def test_a_save_or_upload_that_fails_ends_the_run(tmp_path: Path, full: str) -> None:
    with pytest.raises(Exception) as error:
        fit(tmp_path, full=full)
    said = failure(error.value)
    assert "File too large" in said and "checkpoint_iter_" in said
    assert [file_in(path).name for path in stored({"storage": tmp_path})] == [
        "checkpoint_iter_0.pt",
        "checkpoint_iter_1.pt",
    ]
    assert not list((tmp_path / "run").glob(".scai-*"))


def test_a_damaged_checkpoint_is_skipped_and_named(tmp_path: Path) -> None:
    fit(tmp_path, steps=3)
    older, newer, newest = stored({"storage": tmp_path})
    damage(file_in(newest))
    file_in(newer).unlink()
    fit(tmp_path, steps=1)
    found = notes(tmp_path)[-1]
    assert found["first"] == 1 and found["lost"] == 2
    assert found["path"] == str(file_in(older))
    assert [reason.split(":")[0] for reason in found["skipped"]] == [
        str(file_in(newest)),
        newer,
    ]
    # They stay where Ray wants them.
    assert stored({"storage": tmp_path}) == [older, newer, newest]
    damage(file_in(older))
    with pytest.raises(Exception) as error:
        fit(tmp_path, steps=1)
    said = failure(error.value)
    assert "NothingToResumeError" in said and str(file_in(newest)) in said


def refused(config: dict[str, Any]) -> None:
    """Calls that raise, one after the other; what they say."""
    said = {}
    rank = ray.train.get_context().get_world_rank()

    def attempt(name: str, work: Any) -> None:
        try:
            work()
        except Exception as error:
            said[name] = f"{type(error).__name__}: {error}"

    near = Path(config["near"])
    model, optimizer = parts()
    attempt("not resumed", lambda: scai_ray.report(CheckpointManager(near), {}))
    attempt("rules", lambda: scai_ray.resume(CheckpointManager(near, keep_last=1)))
    if rank == 0:
        other = CheckpointManager(f"{near}-other")
        other.save_checkpoint(model, optimizer, 1)
        attempt("other", lambda: scai_ray.resume(other))
    mine = CheckpointManager(f"{near}-{rank}")
    assert scai_ray.resume(mine, model, optimizer) is None
    if rank == 1:
        mine.save_checkpoint(model, optimizer, 1)
        attempt("rank", lambda: scai_ray.report(mine, {}))
    Path(f"{near}-{rank}.json").write_text(json.dumps(said))


def test_calls_that_would_lose_something_are_refused(tmp_path: Path) -> None:
    fit(tmp_path, loop=refused, workers=2)
    said = json.loads((tmp_path / "near-0.json").read_text())
    assert said["not resumed"].startswith("RuntimeError: call `scai.integrations.ray.resume")
    assert said["rules"].startswith("ValueError: the manager keeps `last:1`")
    assert said["other"].startswith("ValueError: `" + str(tmp_path / "near-other"))
    said = json.loads((tmp_path / "near-1.json").read_text())
    assert "rank 1 has saved" in said["rank"]


def test_a_checkpoint_of_ray_alone_is_refused_by_name(tmp_path: Path) -> None:
    torch.save({}, tmp_path / "model.pt")
    with pytest.raises(NotACheckpointError, match=r"holds model\.pt, and no file of scai"):
        scai_ray._name_in(ray.train.Checkpoint.from_directory(tmp_path))


# Preemption. The node is not used again: this is the last test.


def drained(config: dict[str, Any]) -> None:
    """Have the node announce that it will be taken away, and save in time."""
    from ray._raylet import GcsClient
    from ray.core.generated import autoscaler_pb2

    model, optimizer = parts()
    manager = CheckpointManager(config["near"])
    scai_ray.resume(manager, model, optimizer)
    rank = ray.train.get_context().get_world_rank()
    answers: list[bool] = []
    arrived = None
    for iteration in range(1000):
        if iteration == 3 and rank == 0:
            context = ray.get_runtime_context()
            GcsClient(address=context.gcs_address).drain_node(
                context.get_node_id(),
                autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION"),
                "the node is to be taken away",
                int((time.time() + 3600) * 1000),
            )
        step(model, optimizer)
        answers.append(scai_ray.preempted())
        if answers[-1]:
            if rank == 0:
                manager.save_checkpoint(model, optimizer, iteration, wait=False)
            scai_ray.report(manager, {"iteration": iteration}, wait=True)
            arrived = len(stored(config))
        if any(answers[:-2]):
            break
        time.sleep(0.05)
    Path(f"{config['near']}-{rank}.json").write_text(json.dumps([answers, arrived]))


def test_a_notice_of_preemption_is_told_once_and_leaves_time_to_save(tmp_path: Path) -> None:
    result = fit(tmp_path, loop=drained, workers=2)
    for rank in (0, 1):
        answers, arrived = json.loads((tmp_path / f"near-{rank}.json").read_text())
        assert answers.count(True) == 1 and answers[-3]
        assert arrived == 1 or rank == 1
    assert file_in(result.checkpoint.path).name.startswith("checkpoint_iter_")
