"""Trainings of several ranks that are killed and started again end with the same bits as others."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import scai
from ranks import Died, Ranks, run
from scai import CheckpointManager
from train_group import train

FULL = os.environ.get("SCAI_PROOFS") == "full"
KILLS, LAUNCHES = (200, 20) if FULL else (8, 1)
ITERATIONS, EVERY = 60, 3
LONGER = 600 if FULL else ITERATIONS
"""Iterations with torchrun, which takes seconds to start."""
PROGRAM = Path(__file__).with_name("train_group.py")


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("divide", [False, True], ids=["ddp", "fsdp"])
def test_ranks_that_are_killed_and_started_again_end_bit_identical(tmp_path: Path, divide: bool) -> None:
    chance = random.Random(os.environ.get("SCAI_SEED", "1"))
    reference = [digest for digest, _ in run(2, lambda rank: train(tmp_path / "whole", ITERATIONS, 0, 0, divide))]
    assert len(set(reference)) == 2
    kills, ends, begins = 0, 0, []
    while kills < KILLS or not ends:
        directory = tmp_path / f"run{ends}"
        while (result := attempt(directory, chance, kills, divide)) is None:
            kills += 1
            for path in CheckpointManager(directory).list_checkpoints():
                assert scai.verify(path), path
        digests, begun = zip(*result)
        assert list(digests) == reference, (kills, ends)
        assert not [path for path in directory.iterdir() if "damaged" in path.name]
        begins += begun
        ends += 1
    assert max(begins) > 0
    print(f"{kills} kills, {ends} trainings ended, the last parts of which began at {begins[::2]}")


def attempt(
    directory: Path, chance: random.Random, number: int, divide: bool
) -> list[tuple[str, int]] | None:
    """Train until the end, or until it is killed: then `None`."""
    started = directory.parent / f"started{number}.{chance.random()}"

    def body(rank: int) -> tuple[str, int]:
        started.touch()
        return train(directory, ITERATIONS, EVERY, 0.002, divide)

    ranks = Ranks(2, body, store=chance.choice(["rank 0", "parent"]), limit=120)
    if number >= KILLS or newest(directory) == ITERATIONS:
        # However slow the machine is, this one gets to the end.
        done = ranks.results()
        assert all(type(each) is tuple for each in done), done
        return done
    ranks.wait_for(started)
    if chance.random() < 0.8:
        # After it has saved, or anywhere.
        before, until = newest(directory), time.monotonic() + 60
        while newest(directory) == before < ITERATIONS and time.monotonic() < until:
            time.sleep(0.002)
    time.sleep(chance.uniform(0, 0.2))
    dying = chance.choice([(0,), (1,), (0, 1), (1, 0)])
    ranks.kill(*dying)
    # Whoever launched them ends the others.
    time.sleep(chance.uniform(0, 0.1))
    ranks.kill(0, 1)
    results = ranks.results()
    assert Died("hung") not in results
    done = [result for result in results if not isinstance(result, Died)]
    return done if len(done) == 2 and all(type(each) is tuple for each in done) else None


@pytest.mark.parametrize("divide", [False, True], ids=["ddp", "fsdp"])
def test_torchrun_starts_a_program_for_one_process(tmp_path: Path, divide: bool) -> None:
    chance = random.Random(os.environ.get("SCAI_SEED", "2"))
    expected = [
        digest for digest, _ in run(2, lambda rank: train(tmp_path / "whole", LONGER, 0, 0, divide))
    ]
    directory, reached = tmp_path / "killed", []
    for _ in range(LAUNCHES):
        job = launch(directory, divide)
        # It is killed after one or more saves, or while it starts.
        before, more = newest(directory), chance.choice([None, 0, 0, EVERY])
        until = time.monotonic() + (120 if more is not None else chance.uniform(0, 10))
        while job.poll() is None and time.monotonic() < until:
            if more is not None and newest(directory) > before + more:
                break
            time.sleep(0.005)
        time.sleep(chance.uniform(0, 0.1))
        reached.append(newest(directory))
        children = children_of(job.pid)
        # One rank, and the launcher ends the job; or the whole job.
        if children and chance.random() < 0.5:
            kill(chance.choice(children))
        else:
            for pid in (job.pid, *children):
                kill(pid)
        job.wait(120)
    print("checkpoints at the kills:", reached)
    # A rank is killed once more, and this time the launcher starts all of them again.
    last = launch(directory, divide, "--max-restarts", "2")
    while last.poll() is None and not (children := children_of(last.pid)):
        time.sleep(0.05)
    time.sleep(chance.uniform(0, 8))
    if children := children_of(last.pid):
        kill(chance.choice(children))
    assert last.wait(300) == 0
    assert digests(directory) == expected
    # And a single process takes it up from there.
    alone = subprocess.run(
        [sys.executable, str(PROGRAM), str(directory), str(LONGER), str(EVERY)],
        capture_output=True, text=True, check=True,
    )
    assert alone.stdout.startswith(f"{LONGER} ")


def newest(directory: Path) -> int:
    return CheckpointManager(directory).latest_iteration() or 0 if directory.exists() else 0


def kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def digests(directory: Path) -> list[str]:
    return [Path(f"{directory}.{rank}").read_text() for rank in range(2)]


def children_of(pid: int) -> list[int]:
    try:
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def launch(directory: Path, divide: bool, *options: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    return subprocess.Popen(
        [*command, *options, str(PROGRAM), str(directory), str(LONGER), str(EVERY), *["divide"] * divide],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.DEVNULL,
    )
