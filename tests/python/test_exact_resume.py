"""A training that was killed and resumed ends with the same bits as one that was not."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import scai
import torch
from same import assert_same
from scai.utils.checkpoint import CheckpointManager

FULL = os.environ.get("SCAI_PROOFS") == "full"
KILLS, ITERATIONS = (20, 240) if FULL else (4, 60)
LOOP = Path(__file__).with_name("train_loop.py")


def start(directory: Path, every: int) -> subprocess.Popen[str]:
    options = ["--iterations", str(ITERATIONS), "--every", str(every)]
    command = [sys.executable, str(LOOP), str(directory), *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def killed_after(process: subprocess.Popen[str], lines: int, seconds: float) -> list[int]:
    """Kills a training so many iterations and seconds after it began; where it was."""
    seen = []
    for line in process.stdout:
        seen.append(int(line))
        if len(seen) == lines:
            time.sleep(seconds)
            process.kill()
    process.wait()
    return seen


def test_a_training_that_is_killed_and_resumed_ends_bit_identical(tmp_path: Path) -> None:
    chance = random.Random(os.environ.get("SCAI_SEED", "1"))
    # The one that is not killed saves nothing either: that a save changes nothing is shown too.
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    reference = start(whole, every=0)
    begins = []
    most = ITERATIONS // KILLS - 4
    for kill in range(KILLS):
        # Every other one has time for a checkpoint.
        lines, seconds = chance.randint(1, most) if kill % 2 else most, chance.uniform(0, 0.03)
        process = start(killed, every=3)
        begins += killed_after(process, lines, seconds)[:1]
        if process.returncode == 0:
            # It was at its end before the signal came.
            break
        assert process.returncode == -signal.SIGKILL
        for path in CheckpointManager(killed).list_checkpoints():
            assert scai.verify(path), scai.verify(path).damage
    assert len(begins) > KILLS // 2
    last = start(killed, every=3)
    assert last.communicate()[0] is not None and last.returncode == 0
    assert reference.communicate()[0] is not None and reference.returncode == 0
    assert max(begins) > 1, "no run took up a checkpoint"
    assert_same(scai.load(killed / "final.pt"), scai.load(whole / "final.pt"))
    newest = CheckpointManager(killed).get_latest_checkpoint()
    assert torch.load(newest)["iteration"] == ITERATIONS
    assert not [path for path in killed.iterdir() if "damaged" in path.name]
