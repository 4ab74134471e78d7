"""Programs that end, fork or are interrupted while a save runs: each in a process of its own.

``python endings.py DIRECTORY`` runs all of them and prints how each ended. PyTorch is imported once
and the processes are forked from there; each leaves the interpreter by the way it is about.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch
from scai.errors import LockedError
from scai.utils.checkpoint import CheckpointManager, SaveHandle
from test_live import FULL, differing, save
from test_live_violations import held_back, no_grad_add, training_of

ENDINGS: dict[str, Callable[[], None]] = {}


def ending(run: Callable[[], None]) -> Callable[[], None]:
    ENDINGS[run.__name__] = run
    return run


def under_way() -> tuple[CheckpointManager, SaveHandle]:
    """A save that will take some time, and what must come of it in ``expected.pt``."""
    manager = CheckpointManager("run", threads=1)
    training = training_of()
    save(manager, training, 1).wait()
    torch.save(training.state(), "expected.pt")
    return manager, held_back(manager, training)


@ending
def end() -> None:
    under_way()


@ending
def exit_with_3() -> None:
    kept = under_way()
    sys.exit(3 if kept else 0)


@ending
def uncaught() -> None:
    kept = under_way()
    raise RuntimeError(kept)


@ending
def end_of_a_thread() -> None:
    thread = threading.Thread(target=under_way)
    thread.start()


@ending
def without_a_manager() -> None:
    manager, handle = under_way()
    del manager, handle
    gc.collect()


@ending
def at_once() -> None:
    under_way()
    os._exit(0)


@ending
def killed() -> None:
    under_way()
    os.kill(os.getpid(), signal.SIGKILL)


@ending
def changed() -> None:
    manager = CheckpointManager("run", threads=1)
    training = training_of()
    held_back(manager, training)
    no_grad_add(training)
    globals()["kept"] = manager


@ending
def interrupted() -> None:
    """Ctrl-C while the fence waits: the step has not happened, and the next one waits again."""
    # No memory for copies: the step waits until all has been read.
    manager = CheckpointManager("run", threads=1, memory=1)
    training = training_of()
    training.before()
    # On a busy machine the signal may come after the save has read all it needs.
    for _ in range(20):
        state = training.state()
        handle = held_back(manager, training)
        timer = threading.Timer(0.01, os.kill, (os.getpid(), signal.SIGINT))
        has_stepped = False
        try:
            timer.start()
            training.step()
            has_stepped = True
            time.sleep(1)
        except KeyboardInterrupt:
            if not has_stepped:
                break
        handle.wait()
    else:
        raise AssertionError("no step waited")
    training.step()
    assert differing(state, handle.wait()) == []


@ending
def fork() -> None:
    """A forked child does whatever it likes; nobody hangs."""
    manager = CheckpointManager("run", threads=1)
    training = training_of()
    for round in range(50 if FULL else 4):
        training.before()
        state = training.state()
        handle = held_back(manager, training, round + 1)
        time.sleep(0.004 * (round % 10))
        child = os.fork()
        if child == 0:
            in_child(manager, handle)
            training.step()
            own = CheckpointManager("own")
            save(own, training, 1).wait()
            own.load_checkpoint(None, training.model, training.optimizer)
            save(own, training, 2)
            del training.model
            gc.collect()
            sys.exit(7)
        training.step()
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 7, status
        manager.prune(False, keep_last=1)
        assert differing(state, handle.wait()) == []
        assert len(CheckpointManager("own").list_checkpoints()) == 2
        assert CheckpointManager("own").verify_checkpoint("checkpoint_iter_2.pt")["readable"]


def in_child(manager: CheckpointManager, handle: SaveHandle) -> None:
    assert not handle.done()
    try:
        handle.wait()
        raise AssertionError("nobody will ever end this save here")
    except RuntimeError:
        pass
    manager.flush()
    try:
        manager.save_checkpoint({}, iteration=1)
        raise AssertionError("the parent has the right to write")
    except LockedError:
        pass


@ending
def workers() -> None:
    """The workers of a DataLoader are forked while saves run."""
    manager = CheckpointManager("run", keep_last=1)
    training = training_of()
    saved = []
    for epoch in range(3):
        saved.append((training.state(), save(manager, training, epoch)))
        for _ in torch.utils.data.DataLoader(range(8), batch_size=4, num_workers=2):
            training.before()
            training.step()
        state, handle = saved.pop()
        assert differing(state, handle.wait()) == []


def main(directory: Path) -> None:
    # OpenMP does not survive a fork.
    torch.set_num_threads(1)
    ended: dict[str, int | str] = {}
    for name, run in ENDINGS.items():
        child = os.fork()
        if child == 0:
            (directory / name).mkdir()
            os.chdir(directory / name)
            with open("output", "w") as output:
                os.dup2(output.fileno(), 1)
                os.dup2(output.fileno(), 2)
            return run()
        ended[name] = status_of(child)
    print(json.dumps(ended))
    return None


def status_of(child: int) -> int | str:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "hangs"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
