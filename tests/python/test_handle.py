"""A save in the background is a future: what it returns, how it fails, who is called, who may wait."""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import pickle
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import scai
import torch
from held import hold
from programs import run_python
from scai import CheckpointManager, SaveHandle
from scai.errors import ChangedError
from scai.utils.checkpoint import SaveInfo
from test_live import wait_until
from test_live_violations import held_back, no_grad_add, training_of

WEIGHTS = {"w": torch.ones(1000)}


@pytest.fixture
def go(manager: CheckpointManager) -> Iterator[threading.Event]:
    """Saves of `manager` seem to be under way until this is set."""
    go = hold(manager)
    yield go
    go.set()


def background(manager: CheckpointManager, iteration: int = 1) -> SaveHandle:
    return manager.save_checkpoint(WEIGHTS, iteration=iteration, wait=False)


@pytest.fixture
def failed(tmp_path: Path) -> Iterator[SaveHandle]:
    """A save that fails since a tensor was changed; `failed.manager` is its manager."""
    manager = CheckpointManager(tmp_path / "failing", threads=1)
    training = training_of()
    handle = held_back(manager, training)
    no_grad_add(training)
    handle.manager = manager  # type: ignore[attr-defined]
    yield handle
    manager.close()


def threads_of_handles() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "scai-handles"]


# What comes of it


def test_result_is_the_path_that_a_blocking_save_returns(manager: CheckpointManager) -> None:
    blocking = manager.save_checkpoint(WEIGHTS, iteration=1)
    handle = background(manager)
    assert isinstance(handle, concurrent.futures.Future) and isinstance(handle, SaveHandle)
    assert handle.result() == blocking == handle.path == manager.list_checkpoints()[0]
    assert type(handle.result()) is str
    assert handle.wait() == handle.result(timeout=0) == blocking
    assert handle.exception() is None and handle.exception(timeout=0) is None
    assert handle.iteration == 1 and scai.verify(handle.path)


def test_a_save_that_ended_is_done_and_one_under_way_is_running(
    manager: CheckpointManager, go: threading.Event
) -> None:
    handle = background(manager)
    assert (handle.running(), handle.done()) == (True, False)
    assert repr(handle) == f"SaveHandle({handle.path!r}, under way)"
    go.set()
    handle.result()
    assert (handle.running(), handle.done()) == (False, True)
    assert repr(handle) == f"SaveHandle({handle.path!r}, ended)"


def test_there_is_no_info_before_the_checkpoint_is_durable(
    manager: CheckpointManager, go: threading.Event
) -> None:
    handle = background(manager, 7)
    assert handle.info is None
    go.set()
    path = handle.result()
    info = handle.info
    assert isinstance(info, SaveInfo)
    assert (info.path, info.iteration, info.bytes) == (path, 7, Path(path).stat().st_size)
    assert info.removed == [] and info.warnings == []
    assert 0 < info.timeline.waited <= info.seconds
    with pytest.raises(AttributeError):
        handle.info = None  # type: ignore[misc]


def test_the_info_of_a_handle_is_what_on_commit_is_called_with(tmp_path: Path) -> None:
    infos: list[SaveInfo] = []
    with CheckpointManager(tmp_path, keep_last=1, on_commit=infos.append) as manager:
        handles = [background(manager, iteration) for iteration in (1, 2)]
        manager.flush()
    assert infos == [handle.info for handle in handles]
    assert infos[1].removed == [handles[0].path]


@pytest.mark.parametrize("ask", ["result", "wait", "exception"])
def test_a_save_that_is_not_durable_in_time_is_a_timeout_error_of_python(
    ask: str, manager: CheckpointManager, go: threading.Event
) -> None:
    handle = background(manager)
    for timeout in (0, 0.01):
        with pytest.raises(TimeoutError) as raised:
            getattr(handle, ask)(timeout)
        # Before Python 3.11, that of `concurrent.futures` is another class.
        assert type(raised.value) is TimeoutError
        assert str(raised.value) == f"{handle.path} is not durable yet after {timeout} s"
    assert handle.running()
    go.set()
    assert getattr(handle, ask)(timeout=60) == (None if ask == "exception" else handle.path)


def test_a_save_cannot_be_cancelled(manager: CheckpointManager, go: threading.Event) -> None:
    handle = background(manager)
    assert (handle.cancel(), handle.cancelled(), handle.running()) == (False, False, True)
    go.set()
    handle.result()
    assert (handle.cancel(), handle.cancelled(), handle.done()) == (False, False, True)
    assert scai.verify(handle.path)


# What it fails with


@pytest.mark.parametrize("ask", ["result", "wait"])
def test_what_a_save_failed_with_is_raised_as_often_as_it_is_asked(
    ask: str, failed: SaveHandle
) -> None:
    for _ in range(2):
        with pytest.raises(ChangedError, match="model_state_dict"):
            getattr(failed, ask)()
    assert failed.done() and not failed.running() and failed.info is None
    assert not Path(failed.path).exists()


@pytest.mark.parametrize("ask", ["result", "wait", "exception"])
def test_a_failure_that_the_handle_was_asked_for_is_not_raised_again_by_the_manager(
    ask: str, failed: SaveHandle
) -> None:
    if ask == "exception":
        assert isinstance(failed.exception(), ChangedError)
        assert failed.exception() is failed.exception()
    else:
        with pytest.raises(ChangedError):
            getattr(failed, ask)()
    manager = failed.manager  # type: ignore[attr-defined]
    manager.flush()
    manager.save_checkpoint(WEIGHTS, iteration=3)


CALLS: dict[str, Callable[[CheckpointManager], object]] = {
    "flush": lambda manager: manager.flush(),
    "close": lambda manager: manager.close(),
    "save": lambda manager: manager.save_checkpoint(WEIGHTS, iteration=3),
    "save in the background": lambda manager: background(manager, 3),
    "load": lambda manager: manager.load_checkpoint(),
    "list": lambda manager: manager.list_checkpoints(),
    "latest": lambda manager: manager.latest_iteration(),
    "delete": lambda manager: manager.delete(0),
    "prune": lambda manager: manager.prune(),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_failure_that_nobody_asked_for_is_raised_by_the_next_call_of_the_manager(
    call: str, failed: SaveHandle
) -> None:
    manager = failed.manager  # type: ignore[attr-defined]
    # None of these is a question for the outcome.
    concurrent.futures.wait([failed])
    assert failed.done() and failed.info is None and "ended" in repr(failed)
    with pytest.raises(ChangedError, match="model_state_dict"):
        CALLS[call](manager)
    # Once is enough.
    manager.flush()
    manager.save_checkpoint(WEIGHTS, iteration=3)
    # The handle still has it.
    assert isinstance(failed.exception(), ChangedError)


def test_a_failure_in_a_context_is_raised_at_its_end(tmp_path: Path) -> None:
    training = training_of()
    with pytest.raises(ChangedError), CheckpointManager(tmp_path, threads=1) as manager:
        held_back(manager, training)
        no_grad_add(training)


# Those who wait


def test_wait_and_as_completed_of_concurrent_futures_take_handles(
    manager: CheckpointManager, go: threading.Event
) -> None:
    handles = [background(manager, iteration) for iteration in (1, 2)]
    done, not_done = concurrent.futures.wait(handles, timeout=0.01)
    assert (done, not_done) == (set(), set(handles))
    go.set()
    done, not_done = concurrent.futures.wait(handles, timeout=60)
    assert (done, not_done) == (set(handles), set())
    more = [background(manager, iteration) for iteration in (3, 4, 5)]
    completed = list(concurrent.futures.as_completed([*handles, *more], timeout=60))
    assert set(completed) == {*handles, *more}
    assert [handle.result() for handle in (*handles, *more)] == manager.list_checkpoints()


def test_saves_end_in_the_order_in_which_they_were_begun(manager: CheckpointManager) -> None:
    ended: list[int] = []
    for iteration in range(6):
        background(manager, iteration).add_done_callback(
            lambda handle: ended.append(handle.iteration)  # type: ignore[attr-defined]
        )
    manager.flush()
    assert ended == list(range(6))


def test_wait_returns_at_the_first_exception(failed: SaveHandle) -> None:
    wait = concurrent.futures.wait([failed], 60, concurrent.futures.FIRST_EXCEPTION)
    assert wait.done == {failed}
    assert isinstance(failed.exception(), ChangedError)


def test_a_handle_can_be_awaited(manager: CheckpointManager, failed: SaveHandle) -> None:
    async def main() -> str:
        path = await asyncio.wrap_future(background(manager))
        with pytest.raises(ChangedError):
            await asyncio.wrap_future(failed)
        return path

    assert asyncio.run(main()) == manager.list_checkpoints()[0]
    failed.manager.flush()  # type: ignore[attr-defined]


def test_many_threads_may_wait_for_one_handle(
    manager: CheckpointManager, go: threading.Event
) -> None:
    handle = background(manager)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        results = [pool.submit(handle.result, 60) for _ in range(8)]
        go.set()
        assert {result.result() for result in results} == {handle.path}


# Those who are called


def test_a_done_callback_is_called_with_the_handle_on_a_thread_of_the_package(
    manager: CheckpointManager, go: threading.Event
) -> None:
    called: list[tuple[Any, str, str, SaveInfo | None]] = []

    def call(future: concurrent.futures.Future[str]) -> None:
        assert isinstance(future, SaveHandle)
        name = threading.current_thread().name
        called.append((future, name, future.result(), future.info))

    handle = background(manager)
    handle.add_done_callback(call)
    handle.add_done_callback(call)
    assert called == []
    go.set()
    manager.flush()
    expected = (handle, "scai-handles", handle.path, handle.info)
    assert called == [expected, expected] and handle.info is not None


def test_a_done_callback_is_called_at_once_if_the_save_has_ended(
    manager: CheckpointManager,
) -> None:
    called: list[tuple[Any, threading.Thread]] = []
    handle = background(manager)
    handle.result()
    handle.add_done_callback(lambda handle: called.append((handle, threading.current_thread())))
    assert called == [(handle, threading.current_thread())]


def test_a_done_callback_is_called_for_a_save_that_failed(failed: SaveHandle) -> None:
    errors: list[BaseException | None] = []
    failed.add_done_callback(lambda handle: errors.append(handle.exception()))
    failed.manager.flush()  # type: ignore[attr-defined]
    assert [type(error) for error in errors] == [ChangedError]


@pytest.mark.parametrize("when", ["before the end", "after the end"])
def test_what_a_done_callback_raises_is_logged_and_harms_nothing(
    when: str, manager: CheckpointManager, go: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(handle: object) -> None:
        raise ArithmeticError("no more")

    called: list[object] = []
    handle = background(manager)
    if when == "after the end":
        go.set()
        handle.result()
    handle.add_done_callback(fail)
    handle.add_done_callback(called.append)
    go.set()
    manager.flush()
    assert called == [handle]
    assert caplog.text.count("ArithmeticError: no more") == 1
    assert handle.result() == handle.path and handle.info is not None
    assert background(manager, 2).result() in manager.list_checkpoints()


def test_a_callback_that_ends_its_thread_does_not_stop_later_saves(tmp_path: Path) -> None:
    code = """
import asyncio, faulthandler, sys, torch
from scai import CheckpointManager

faulthandler.dump_traceback_later(20, exit=True)

def fail(_):
    raise error("no more")

for error in (SystemExit, asyncio.CancelledError):
    for where in ("on_commit", "done callback"):
        directory = f"{sys.argv[1]}/{error.__name__}/{where}"
        on_commit = [fail] if where == "on_commit" else []
        with CheckpointManager(directory, on_commit=on_commit) as manager:
            for iteration in (1, 2):
                handle = manager.save_checkpoint({"w": torch.ones(5)}, iteration=iteration, wait=False)
                if where == "done callback":
                    try:
                        handle.add_done_callback(fail)
                    except BaseException:
                        pass  # the save had ended, and it was called right here
                handle.result()
        assert manager.all_iterations() == [1, 2]
print("well")
"""
    assert run_python(code, tmp_path).splitlines()[-1] == "well"


def test_a_warning_of_the_engine_is_logged_though_nobody_asks(
    manager: CheckpointManager, caplog: pytest.LogCaptureFixture
) -> None:
    manager.save_checkpoint(WEIGHTS, iteration=5)
    with caplog.at_level(logging.WARNING, "scai"):
        handle = background(manager, 4)
        del handle
        wait_until(lambda: "was saved below" in caplog.text)
        manager.flush()
    assert caplog.text.count("was saved below") == 1


def test_a_handle_that_is_dropped_is_still_completed(tmp_path: Path) -> None:
    infos: list[SaveInfo] = []
    manager = CheckpointManager(tmp_path, on_commit=infos.append)
    background(manager)
    wait_until(lambda: infos)
    assert infos[0].path == manager.get_latest_checkpoint()


# What a callback may do

ACTIONS = """
import faulthandler, sys, torch
from scai import CheckpointManager

faulthandler.dump_traceback_later(60, exit=True)
weights = {"w": torch.ones(1000)}

def flush(manager, iteration):
    manager.flush()

def save(manager, iteration):
    manager.save_checkpoint(weights, iteration=iteration)

def save_in_background(manager, iteration):
    handle = manager.save_checkpoint(weights, iteration=iteration, wait=False)
    assert handle.result() == handle.path

def wait_in_exception(manager, iteration):
    assert manager.save_checkpoint(weights, iteration=iteration, wait=False).exception() is None

def leave_in_background(manager, iteration):
    for further in range(3):
        manager.save_checkpoint(weights, iteration=iteration + further, wait=False)

def load(manager, iteration):
    manager.load_checkpoint()

def close(manager, iteration):
    manager.close()

def run(act, where):
    called, errors = [], []

    def call(event):
        # What the action saves calls this as well.
        if event.iteration > 2:
            return
        called.append(event.iteration)
        try:
            act(manager, 10 * event.iteration)
        except BaseException as error:
            errors.append(error)

    on_commit = [call] if where == "on_commit" else []
    manager = CheckpointManager(f"{sys.argv[1]}/{where}/{act.__name__}", on_commit=on_commit)
    handles = []
    for iteration in (1, 2):
        handle = manager.save_checkpoint(weights, iteration=iteration, wait=False)
        handles.append(handle)
        if where == "done callback":
            handle.add_done_callback(call)
    manager.flush()
    assert [handle.result() for handle in handles] == [handle.path for handle in handles]
    manager.close()
    assert called == [1, 2] and not errors, (called, errors)
    return manager.all_iterations()

for where in ("on_commit", "done callback"):
    for act in (flush, load, close):
        print(where, act.__name__, flush=True)
        assert run(act, where) == [1, 2]
    for act in (save, save_in_background, wait_in_exception):
        print(where, act.__name__, flush=True)
        assert run(act, where) == [1, 2, 10, 20]
    print(where, leave_in_background.__name__, flush=True)
    assert run(leave_in_background, where) == [1, 2, 10, 11, 12, 20, 21, 22]
print("well")
"""


def test_a_callback_may_save_load_and_wait(tmp_path: Path) -> None:
    assert run_python(ACTIONS, tmp_path).splitlines()[-1] == "well"


def test_a_callback_waits_no_longer_than_its_timeout(
    manager: CheckpointManager, go: threading.Event
) -> None:
    errors: list[BaseException] = []
    handles: list[SaveHandle] = []

    def call(_: object) -> None:
        # The first save has ended, the second one goes on for a while.
        go.clear()
        threading.Timer(2, go.set).start()
        for ask in (handles[1].result, handles[1].exception):
            began = time.monotonic()
            try:
                ask(timeout=0.01)
            except TimeoutError as error:
                errors.append(error)
            assert time.monotonic() - began < 1

    for iteration in (1, 2):
        handles.append(background(manager, iteration))
        if iteration == 1:
            handles[0].add_done_callback(call)
    wait_until(lambda: handles[1]._save._save.done())
    go.set()
    assert handles[1].result(timeout=60) == handles[1].path
    assert len(errors) == 2


def test_a_callback_of_a_blocking_save_may_save_and_wait(tmp_path: Path) -> None:
    code = """
import faulthandler, sys, torch
from scai import CheckpointManager

faulthandler.dump_traceback_later(60, exit=True)
weights = {"w": torch.ones(1000)}

def call(info):
    if info.iteration < 10:
        manager.save_checkpoint(weights, iteration=info.iteration + 10, wait=False).result()
        manager.save_checkpoint(weights, iteration=info.iteration + 20)
        manager.flush()

manager = CheckpointManager(sys.argv[1], on_commit=call)
manager.save_checkpoint(weights, iteration=1)
manager.save_checkpoint(weights, iteration=2, wait=False)
manager.save_checkpoint(weights, iteration=3)
manager.flush()
print(sorted(manager.all_iterations()))
"""
    assert run_python(code, tmp_path) == "[1, 2, 3, 11, 12, 13, 21, 22, 23]\n"


# Threads


def test_the_thread_that_completes_handles_is_gone_when_there_is_nothing_to_complete(
    tmp_path: Path,
) -> None:
    wait_until(lambda: not threads_of_handles())
    manager = CheckpointManager(tmp_path)
    assert not threads_of_handles()
    manager.save_checkpoint(WEIGHTS, iteration=1)
    assert not threads_of_handles()
    go = threading.Event()
    for iteration in (2, 3, 4):
        background(manager, iteration).add_done_callback(lambda _: go.wait(60))
    assert len(threads_of_handles()) == 1 and threads_of_handles()[0].daemon
    go.set()
    manager.flush()
    wait_until(lambda: not threads_of_handles())
    assert background(manager, 5).result() == manager.get_latest_checkpoint()
    wait_until(lambda: not threads_of_handles())


def test_a_save_is_completed_where_no_thread_can_be_started(tmp_path: Path) -> None:
    code = """
import faulthandler, sys, threading, torch
from scai import CheckpointManager

faulthandler.dump_traceback_later(20, exit=True)
called = []

def call(info):
    called.append(info.iteration)
    manager.flush()

manager = CheckpointManager(sys.argv[1], on_commit=call)

def refuse(self):
    raise RuntimeError("can't create new thread at interpreter shutdown")

start, threading.Thread.start = threading.Thread.start, refuse
handle = manager.save_checkpoint({"w": torch.ones(5)}, iteration=1, wait=False)
assert handle.done() and handle.result() == handle.path
threading.Thread.start = start
assert manager.save_checkpoint({"w": torch.ones(5)}, iteration=2, wait=False).result()
manager.flush()
print(called)
"""
    assert run_python(code, tmp_path) == "[1, 2]\n"


def test_saves_of_a_program_that_ends_are_completed(tmp_path: Path) -> None:
    code = """
import atexit, sys, torch
from scai import CheckpointManager

manager = CheckpointManager(sys.argv[1], on_commit=lambda info: print("durable", info.iteration))
manager.save_checkpoint({"w": torch.ones(5)}, iteration=1, wait=False).add_done_callback(
    lambda handle: print("done", handle.iteration)
)
"""
    assert sorted(run_python(code, tmp_path).splitlines()) == ["done 1", "durable 1"]


# A forked child

FORK = """
import faulthandler, os, signal, sys, threading, torch
from scai import CheckpointManager

# Whoever hangs shows where, and is ended; a timer of `faulthandler` does not survive a fork.
faulthandler.register(signal.SIGALRM, chain=True)
signal.alarm(60)
torch.set_num_threads(1)
weights = {"w": torch.ones(64 << 20, dtype=torch.uint8)}

def run(when):
    parent = os.getpid()
    go = threading.Event()
    busy = threading.Event()

    def block(_):
        busy.set()
        if os.getpid() == parent:
            go.wait(60)

    def lock():
        # As the thread that completes handles does for a moment.
        with handle._condition, manager._completing._changed:
            block(None)

    manager = CheckpointManager(f"{sys.argv[1]}/{when}")
    handle = manager.save_checkpoint(weights, iteration=1, wait=False)
    if when == "while a callback is called":
        handle.add_done_callback(block)
        busy.wait(60)
    elif when == "while handles are locked":
        threading.Thread(target=lock).start()
        busy.wait(60)
    elif when == "after the save":
        handle.result()
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        in_child(manager, handle)
        sys.exit(7)
    go.set()
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 7, status
    assert handle.result() == handle.path
    manager.close()

def in_child(manager, handle):
    for name, arguments in [
        ("result", ()), ("wait", ()), ("exception", ()), ("result", (0,)), ("exception", (0,)),
        ("add_done_callback", (print,)),
    ]:
        try:
            getattr(handle, name)(*arguments)
        except RuntimeError as error:
            assert "forked" in str(error), error
        else:
            raise AssertionError(name)
    assert handle.done() is False and handle.running() is False
    assert handle.cancel() is False and handle.cancelled() is False
    assert "SaveHandle" in repr(handle)
    manager.flush()
    manager.list_checkpoints()
    own = CheckpointManager(manager.checkpoint_dir + " of the child")
    called = []
    saved = own.save_checkpoint({"w": torch.ones(5)}, iteration=1, wait=False)
    saved.add_done_callback(called.append)
    own.flush()
    assert called == [saved] and saved.result() == own.get_latest_checkpoint()

for when in (
    "while the save is under way",
    "while a callback is called",
    "while handles are locked",
    "after the save",
):
    print(when, flush=True)
    run(when)
print("well")
"""


def test_in_a_forked_child_a_handle_says_so_and_nothing_hangs(tmp_path: Path) -> None:
    assert run_python(FORK, tmp_path).splitlines()[-1] == "well"


def test_a_handle_is_not_pickled(manager: CheckpointManager) -> None:
    with pytest.raises(TypeError):
        pickle.dumps(background(manager))


# Ctrl-C

INTERRUPT = """
import faulthandler, os, signal, sys, threading, time, torch
from held import hold
from scai import CheckpointManager

faulthandler.dump_traceback_later(100, exit=True)
signal.signal(signal.SIGINT, signal.default_int_handler)
busy = {"busy": torch.zeros(256 << 20, dtype=torch.uint8)}
model = torch.nn.Linear(1024, 1024)
optimizer = torch.optim.AdamW(model.parameters())

def step():
    optimizer.zero_grad()
    model(torch.ones(1, 1024)).sum().backward()
    optimizer.step()

def run(which):
    manager = CheckpointManager(f"{sys.argv[1]}/{which}", threads=1, keep_last=2)
    # A step waits for what is not read yet, and does not copy it.
    manager._capture._room = lambda: 0
    # The handle is not complete before this program says so, or the engine is really busy.
    is_held = which in ("result", "wait", "exception", "the end of flush")
    go = hold(manager) if is_held else None
    # On a busy machine the signal may come too late.
    for iteration in range(0, 40, 2):
        if not is_held:
            manager.save_checkpoint(busy, iteration=iteration, wait=False)
        expected = model.weight.detach().clone()
        handle = manager.save_checkpoint(model, optimizer, iteration + 1, wait=False)
        call = {
            "result": handle.result,
            "wait": handle.wait,
            "exception": handle.exception,
            "the end of flush": manager.flush,
            "flush": manager.flush,
            "close": manager.close,
            "a save that waits": lambda: manager.save_checkpoint({}, iteration=100, wait=False),
            "a step": step,
            "a load": lambda: model.load_state_dict(model.state_dict()),
        }[which]
        if was_interrupted(call):
            break
        manager.flush()
    else:
        raise AssertionError("nothing was interrupted")
    if is_held:
        assert handle.running() and not handle.done()
        go.set()
    assert torch.equal(model.weight, expected)
    # What was interrupted can be done again.
    call()
    assert torch.equal(model.weight, expected) == (which != "a step")
    saved = torch.load(handle.result())
    assert saved["iteration"] == iteration + 1
    assert torch.equal(saved["model_state_dict"]["weight"], expected)
    manager.close()

def was_interrupted(call):
    has_returned = False
    timer = threading.Timer(0.03, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    try:
        call()
        has_returned = True
        time.sleep(10)
    except KeyboardInterrupt:
        return not has_returned

step()
for which in (
    "result",
    "wait",
    "exception",
    "the end of flush",
    "flush",
    "close",
    "a save that waits",
    "a step",
    "a load",
):
    print(which, flush=True)
    run(which)
print("well")
"""


def test_ctrl_c_interrupts_a_wait() -> None:
    with tempfile.TemporaryDirectory() as directory:
        # The programs of this directory are imported.
        done = subprocess.run(
            [sys.executable, "-c", INTERRUPT, directory],
            check=False,
            capture_output=True,
            text=True,
            timeout=120,
            cwd=Path(__file__).parent,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "well"
