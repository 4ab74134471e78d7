"""Trainings killed at random moments and begun again by the same program: `python bench/kills.py --help`.

For each way to save there is one training that nobody disturbs, and N that are killed once (SIGKILL) at a
random moment after it has saved a few times; then the same program is run again, and resumes as its framework
does. Counted are the runs that

* could not go on: the program failed when it was run again;
* started over, though checkpoints had been saved;
* went on wrong: what they ended with differs in a bit from the training that was not disturbed.

A framework is a module `kill_NAME.py` beside this one with WAYS and
``train(way, directory, tell) -> final state``; ``tell("begin", step)`` says where a run begins, and
``tell("step", step)`` after each save how far it is.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import os
import pickle
import random
import shutil
import signal
import statistics
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

FRAMEWORKS = ("lightning", "transformers", "accelerate")
SAVES = 3
"""What is asked to be saved before a kill. In the background two may not be durable."""


@dataclass
class Run:
    """What a run of the program said until it ended or was killed."""

    begun: int | None = None
    step: int = 0
    saves: int = 0
    digest: str | None = None
    error: str = ""


@dataclass
class Result:
    """What became of the trainings that were killed."""

    kills: int = 0
    failed: list[str] = field(default_factory=list)
    over: int = 0
    wrong: int = 0
    lost: list[int] = field(default_factory=list)


def digest_of(state: Any) -> str:
    """A digest of all tensors and numbers of a state."""
    digest = hashlib.sha256()

    def add(value: Any) -> None:
        if isinstance(value, torch.Tensor):
            digest.update(
                value.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
            )
        elif isinstance(value, dict):
            for key, item in value.items():
                digest.update(repr(key).encode())
                add(item)
        elif isinstance(value, (list, tuple)):
            for item in value:
                add(item)
        else:
            digest.update(repr(value).encode())

    add(state)
    return digest.hexdigest()


def run(train: Callable[..., Any], way: str, directory: Path, kill_at: float | None = None) -> Run:
    """Train in a process of its own; kill it after so many saves, and a part of the time of one."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _train_in_child(train, way, directory, writing)
    os.close(writing)
    found, began = Run(), time.monotonic()
    timer: threading.Timer | None = None
    with os.fdopen(reading, "rb") as messages:
        while True:
            try:
                kind, value = pickle.load(messages)
            except (EOFError, pickle.UnpicklingError):
                break
            if kind == "begin":
                found.begun, began = value, time.monotonic()
            elif kind == "step":
                found.step, found.saves = value, found.saves + 1
                if kill_at is not None and found.saves == int(kill_at):
                    each = (time.monotonic() - began) / found.saves
                    timer = threading.Timer(kill_at % 1 * each, os.kill, (child, signal.SIGKILL))
                    timer.start()
            elif kind == "end":
                found.digest = value
            else:
                found.error = value
    _, status = os.waitpid(child, 0)
    if timer is not None:
        timer.cancel()
        timer.join()
    if found.digest is None and not found.error and not os.WIFSIGNALED(status):
        found.error = f"ended with status {status}"
    return found


def _train_in_child(train: Callable[..., Any], way: str, directory: Path, writing: int) -> None:
    """Never returns."""
    # What frameworks print is of no interest here.
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)

    def tell(kind: str, value: Any) -> None:
        os.write(writing, pickle.dumps((kind, value)))

    try:
        tell("end", digest_of(train(way, directory, tell)))
    except BaseException as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        tell("error", f"{type(error).__name__}: {error} ({Path(last.filename).name}:{last.lineno})")
    # Threads that still save are waited for, as at the end of any program.
    threading._shutdown()  # type: ignore[attr-defined]
    os._exit(0)


def campaign(framework: str, way: str, kills: int, base: Path, seed: int) -> Result:
    """Kill `kills` trainings once each, and run each to its end."""
    train = importlib.import_module(f"kill_{framework}").train
    directory = Path(tempfile.mkdtemp(prefix="kills-", dir=base))
    result = Result()
    try:
        whole = run(train, way, directory / "whole")
        if whole.digest is None:
            raise RuntimeError(f"{way} does not run even undisturbed: {whole.error}")
        chance = random.Random(f"{seed} {way}")
        while result.kills < kills:
            place = directory / str(result.kills)
            first = run(train, way, place, chance.uniform(SAVES, whole.saves))
            if first.digest is not None:
                # It was faster than the kill.
                shutil.rmtree(place)
                continue
            result.kills += 1
            again = run(train, way, place)
            if again.digest is None:
                result.failed.append(again.error)
            elif not again.begun:
                result.over += 1
            else:
                # It may have been killed after a save, before it said so.
                result.lost.append(max(first.step - again.begun, 0))
            result.wrong += again.digest is not None and again.digest != whole.digest
            shutil.rmtree(place)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("frameworks", nargs="*", metavar="FRAMEWORK", help=", ".join(FRAMEWORKS))
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="ways whose name contains this")
    parser.add_argument("--directory", type=Path, help="where checkpoints are written")
    args = parser.parse_args()
    base = args.directory or Path(tempfile.gettempdir())
    base.mkdir(parents=True, exist_ok=True)
    print(
        "| way to save | kills | could not go on | started over | went on wrong | steps lost, median (most) |"
    )
    print("|---" * 6 + "|")
    for framework in args.frameworks or FRAMEWORKS:
        for way in importlib.import_module(f"kill_{framework}").WAYS:
            if args.only not in way:
                continue
            found = campaign(framework, way, args.kills, base, args.seed)
            lost = f"{statistics.median(found.lost):.0f} ({max(found.lost)})" if found.lost else "–"
            print(
                f"| {way} | {found.kills} | {len(found.failed)} | {found.over} | {found.wrong} | {lost} |",
                flush=True,
            )
            for error in sorted(set(found.failed)):
                print(f"    {found.failed.count(error)} × {error}"[:300], file=sys.stderr)


if __name__ == "__main__":
    main()
