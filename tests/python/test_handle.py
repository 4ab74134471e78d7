"""A save in the background is a future: what it returns, how it fails, who is called, who may wait."""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import scai
import torch
from programs import run_python
from scai import CheckpointManager, SaveHandle
from scai.errors import ChangedError
from scai.utils.checkpoint import SaveInfo
from test_live import wait_until
from test_live_violations import held_back, no_grad_add, training_of

WEIGHTS = {"w": torch.ones(1000)}


class Held:
    """A native handle whose save does not seem to end before `go` is set."""

    def __init__(self, save: Any, go: threading.Event) -> None:
        self._save = save
        self._go = go

    def done(self) -> bool:
        return self._go.is_set() and bool(self._save.done())

    def wait(self) -> None:
        # A test that fails must not leave a thread that waits for ever.
        assert self._go.wait(60)
        self._save.wait()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._save, name)


@pytest.fixture
def go(manager: CheckpointManager) -> Iterator[threading.Event]:
    """Saves of `manager` seem to be under way until this is set."""
    go = threading.Event()
    begin = manager._capture.begin

    def begin_held(*arguments: Any) -> Any:
        save, fence = begin(*arguments)
        return Held(save, go), fence

    manager._capture.begin = begin_held  # type: ignore[method-assign, assignment]
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


@pytest.mark.parametrize("where", ["on_commit", "done callback"])
@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, asyncio.CancelledError])
def test_a_callback_that_raises_more_than_an_exception_does_not_stop_later_saves(
    where: str, kind: type[BaseException], tmp_path: Path
) -> None:
    # In a program of its own, since a thread that is gone would be waited for at its end.
    out = run_python(
        f"""
import asyncio, faulthandler, sys, torch
from builtins import *
from scai import CheckpointManager

faulthandler.dump_traceback_later(20, exit=True)

def fail(_):
    raise {kind.__name__ if kind is not asyncio.CancelledError else "asyncio.CancelledError"}("no more")

where = sys.argv[2]
with CheckpointManager(sys.argv[1], on_commit=[fail] if where == "on_commit" else []) as manager:
    for iteration in (1, 2):
        handle = manager.save_checkpoint({{"w": torch.ones(5)}}, iteration=iteration, wait=False)
        if where != "on_commit":
            handle.add_done_callback(fail)
        handle.result()
print(manager.all_iterations())
""",
        tmp_path,
        where,
    )
    assert out.splitlines()[-1] == "[1, 2]"


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
import faulthandler, sys, threading, torch
from scai import CheckpointManager

faulthandler.dump_traceback_later(60, exit=True)
where, directory = sys.argv[1:]
weights = {"w": torch.ones(1000)}

def flush(manager, iteration):
    manager.flush()

def save(manager, iteration):
    manager.save_checkpoint(weights, iteration=iteration)

def save_in_background(manager, iteration):
    manager.save_checkpoint(weights, iteration=iteration, wait=False).result()

def wait_in_exception(manager, iteration):
    assert manager.save_checkpoint(weights, iteration=iteration, wait=False).exception() is None

def leave_in_background(manager, iteration):
    for further in range(3):
        manager.save_checkpoint(weights, iteration=iteration + further, wait=False)

def load(manager, iteration):
    manager.load_checkpoint()

def close(manager, iteration):
    manager.close()

for act in (flush, save, save_in_background, wait_in_exception, leave_in_background, load, close):
    called, errors = [], []

    def call(event):
        # Saves of the action call this as well.
        if event.iteration > 2:
            return
        called.append(event.iteration)
        try:
            act(manager, 10 * event.iteration)
        except BaseException as error:
            errors.append(error)

    on_commit = [call] if where == "on_commit" else []
    manager = CheckpointManager(f"{directory}/{act.__name__}", on_commit=on_commit)
    handles = []
    for iteration in (1, 2):
        handle = manager.save_checkpoint(weights, iteration=iteration, wait=False)
        handles.append(handle)
        if where != "on_commit":
            handle.add_done_callback(call)
    manager.flush()
    for handle in handles:
        assert handle.result() == handle.path
    manager.close()
    assert called == [1, 2] and not errors, (act.__name__, called, errors)
    assert {1, 2} <= set(manager.all_iterations()), act.__name__
    if act in (save, save_in_background, wait_in_exception):
        assert manager.all_iterations() == [1, 2, 10, 20], act.__name__
    print(act.__name__, flush=True)
"""


@pytest.mark.parametrize("where", ["on_commit", "done callback"])
def test_a_callback_may_save_and_wait(where: str, tmp_path: Path) -> None:
    assert len(run_python(ACTIONS, where, tmp_path).split()) == 7


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
import faulthandler, os, sys, threading, time, torch
from scai import CheckpointManager

faulthandler.dump_traceback_later(60, exit=True)
directory, when = sys.argv[1:]
torch.set_num_threads(1)
weights = {"w": torch.ones(64 << 20, dtype=torch.uint8)}
parent = os.getpid()
go = threading.Event()
busy = threading.Event()

def block(_):
    busy.set()
    if os.getpid() == parent:
        go.wait(60)

manager = CheckpointManager(directory)
handle = manager.save_checkpoint(weights, iteration=1, wait=False)
if when == "while the save is under way":
    go.set()
elif when == "while a callback is called":
    handle.add_done_callback(block)
    busy.wait(60)
elif when == "while handles are locked":
    # As a thread that is completing them might have it just then.
    handle._condition.acquire()
    manager._completing._changed.acquire()
else:
    handle.result()

child = os.fork()
if child == 0:
    # It inherits no watch.
    faulthandler.dump_traceback_later(20, exit=True)
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
    assert manager.list_checkpoints() is not None
    own = CheckpointManager(directory + "-own")
    called = []
    saved = own.save_checkpoint({"w": torch.ones(5)}, iteration=1, wait=False)
    saved.add_done_callback(called.append)
    own.flush()
    assert called == [saved] and saved.result() == own.get_latest_checkpoint()
    sys.exit(7)

if when == "while handles are locked":
    manager._completing._changed.release()
    handle._condition.release()
_, status = os.waitpid(child, 0)
assert os.waitstatus_to_exitcode(status) == 7, status
go.set()
assert handle.result() == handle.path
manager.close()
print("well")
"""


@pytest.mark.parametrize(
    "when",
    [
        "while the save is under way",
        "while a callback is called",
        "while handles are locked",
        "after the save",
    ],
)
def test_in_a_forked_child_a_handle_says_so_and_nothing_hangs(when: str, tmp_path: Path) -> None:
    assert run_python(FORK, tmp_path / "run", when) == "well\n"


def test_a_handle_is_not_pickled(manager: CheckpointManager) -> None:
    with pytest.raises(TypeError):
        pickle.dumps(background(manager))


# Ctrl-C

INTERRUPT = """
import faulthandler, os, signal, sys, threading, time, torch
from scai import CheckpointManager
from test_handle import Held

faulthandler.dump_traceback_later(60, exit=True)
signal.signal(signal.SIGINT, signal.default_int_handler)
which, directory = sys.argv[1:]
model = torch.nn.Linear(1024, 1024)
optimizer = torch.optim.AdamW(model.parameters())
busy = {"busy": torch.zeros(256 << 20, dtype=torch.uint8)}
manager = CheckpointManager(directory, threads=1, keep_last=1)
numbers = iter(range(1000))
go = threading.Event()

def begin_held(*arguments):
    save, fence = begin(*arguments)
    return Held(save, go), fence

begin = manager._capture.begin
if which in ("result", "wait", "exception", "the end of flush"):
    # Interrupted for certain: the handles are not complete before this program says so.
    manager._capture.begin = begin_held
else:
    go.set()

def model_step():
    optimizer.zero_grad()
    model(torch.ones(1, 1024)).sum().backward()
    optimizer.step()

model_step()
for _ in range(20):
    started = time.monotonic()
    if go.is_set():
        manager.save_checkpoint(busy, iteration=next(numbers), wait=False)
    expected = model.weight.detach().clone()
    iteration = next(numbers)
    handle = manager.save_checkpoint(model, optimizer, iteration, wait=False)
    calls = {
        "result": handle.result,
        "wait": handle.wait,
        "exception": handle.exception,
        "the end of flush": manager.flush,
        "flush": manager.flush,
        "a save that waits": lambda: manager.save_checkpoint(busy, iteration=1000, wait=False),
        "a step": model_step,
        "a load": lambda: model.load_state_dict(model.state_dict()),
    }
    timer = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT))
    has_returned = False
    timer.start()
    try:
        calls[which]()
        has_returned = True
        timer.join()
        time.sleep(1)
    except KeyboardInterrupt:
        if not has_returned:
            break
    # On a busy machine the signal came too late.
    manager.flush()
else:
    raise AssertionError("nothing was interrupted")
if not go.is_set():
    assert handle.running() and not handle.done()
go.set()
assert torch.equal(model.weight, expected)
# What was interrupted can be done again.
calls[which]()
assert handle.result() == handle.path
manager.close()
saved = CheckpointManager(directory).load_checkpoint()
if which != "a save that waits":
    assert saved["iteration"] == iteration
    assert torch.equal(saved["model_state_dict"]["weight"], expected)
print("interrupted")
"""


@pytest.mark.parametrize(
    "which",
    [
        "result",
        "wait",
        "exception",
        "flush",
        "the end of flush",
        "a save that waits",
        "a step",
        "a load",
    ],
)
def test_ctrl_c_interrupts_a_wait(which: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", INTERRUPT, which, str(tmp_path)]
    done = subprocess.run(
        command,
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
        cwd=Path(__file__).parent,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == "interrupted\n"
