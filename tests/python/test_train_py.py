"""``train.py``, as the guide uses it."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from small import ENDLESS, SETTINGS, differences, names, state

SCRIPT = Path(__file__).parents[2] / "train.py"


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory with a ``config.yaml``; where the package is found stays as it is."""
    paths = [os.path.abspath(path) for path in os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "config.yaml")
    yield tmp_path


def write(path: Path, **training: int) -> None:
    """The settings of a small training. JSON is YAML."""
    path.write_text(json.dumps({**SETTINGS, "training": {**SETTINGS["training"], **training}}))


def train(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )


def train_on_a_terminal(typed: str, *arguments: str) -> tuple[int, str]:
    """The exit code of a training, and what a terminal shows where `typed` is typed."""
    shown = bytearray()
    # Whatever the tests run in.
    environment = {**os.environ, "TERM": "xterm"}
    child, terminal = pty.fork()
    if child == 0:
        os.execve(sys.executable, [sys.executable, str(SCRIPT), *arguments], environment)
    os.write(terminal, typed.encode())
    try:
        while part := os.read(terminal, 4096):
            shown += part
    except OSError:
        pass  # It was closed with the process.
    os.close(terminal)
    _, status = os.waitpid(child, 0)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
    return os.waitstatus_to_exitcode(status), text


def test_it_saves_at_the_interval_of_the_settings(directory: Path) -> None:
    done = train("--config", "config.yaml")
    assert done.returncode == 0, done.stderr
    assert names(directory / "checkpoints") == [f"checkpoint_iter_{n}.pt" for n in (2, 4, 6)]
    assert "finished: 6 iterations" in done.stderr
    assert "saved checkpoint_iter_4.pt" in done.stdout


def test_it_resumes_from_the_file_it_is_given(directory: Path) -> None:
    train("--config", "config.yaml")
    whole = state(directory / "checkpoints/checkpoint_iter_6.pt")
    for name in ("checkpoint_iter_6.pt", "checkpoint_iter_4.pt"):
        (directory / "checkpoints" / name).unlink()
    done = train("--config", "config.yaml", "--resume", "checkpoints/checkpoint_iter_2.pt")
    assert done.returncode == 0, done.stderr
    assert "resumed from `checkpoints/checkpoint_iter_2.pt`, iteration 2 of 6" in done.stderr
    assert differences(state(directory / "checkpoints/checkpoint_iter_6.pt"), whole) == []


def test_without_a_terminal_it_goes_on_from_the_newest_and_says_so(directory: Path) -> None:
    train("--config", "config.yaml", "--iterations", "4")
    done = train("--config", "config.yaml")
    assert done.returncode == 0, done.stderr
    assert "resumed from `checkpoint_iter_4.pt`, iteration 4 of 6" in done.stderr
    assert "[Y/n]" not in done.stderr


@pytest.mark.parametrize(
    ("typed", "begins"),
    [
        ("\n", "resumed from `checkpoint_iter_4.pt`, iteration 4 of 6"),
        ("y\n", "resumed from `checkpoint_iter_4.pt`, iteration 4 of 6"),
        ("what\nn\n", "training from scratch"),
    ],
)
def test_on_a_terminal_it_asks_whether_to_resume(typed: str, begins: str) -> None:
    train("--config", "config.yaml", "--iterations", "4")
    code, shown = train_on_a_terminal(typed, "--config", "config.yaml")
    assert code == 0, shown
    assert "checkpoint_iter_4.pt" in shown
    assert "iteration 4 of 6, saved 20" in shown
    assert "Resume from the newest checkpoint? [Y/n]" in shown
    assert ("please answer y or n" in shown) == ("what" in typed)
    assert begins in shown


def test_on_a_terminal_it_does_not_ask_what_it_was_told() -> None:
    train("--config", "config.yaml", "--iterations", "4")
    code, shown = train_on_a_terminal("", "--config", "config.yaml", "--resume", "auto")
    assert code == 0, shown
    assert "[Y/n]" not in shown
    assert "resumed from `checkpoint_iter_4.pt`" in shown


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_leaves(directory: Path, number: int, code: int) -> None:
    write(directory / "config.yaml", **ENDLESS)
    process = subprocess.Popen(
        [sys.executable, str(SCRIPT), "--config", "config.yaml"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stderr is not None
    for line in process.stdout:
        if line.startswith("iteration"):
            break
    process.send_signal(number)
    _, told = process.communicate()
    assert process.returncode == code, told
    stopped = re.search(r"stopped: iteration (\d+) of 100000 is saved in `checkpoints`", told)
    assert stopped is not None, told
    assert names(directory / "checkpoints") == [f"checkpoint_iter_{stopped[1]}.pt"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config", "nowhere.yaml"], "there is no file `nowhere.yaml`"),
        (["--resume", "checkpoints/checkpoint_iter_100.pt"], "checkpoint_iter_100.pt"),
        (["--iterations", "0"], "0 is not in 1.."),
        (["--epochs", "3"], "unexpected argument '--epochs'"),
    ],
)
def test_what_makes_no_sense_is_said(arguments: list[str], message: str) -> None:
    done = train(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_wrong_setting_is_named_with_its_line(directory: Path) -> None:
    (directory / "config.yaml").write_text("training:\n  save_intervall: 3\n")
    done = train("--config", "config.yaml")
    assert done.returncode == 2
    assert "config.yaml:2:3: `training.save_intervall` is not a key" in done.stderr


def test_where_the_package_is_missing_it_says_how_to_install_it() -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(SCRIPT), "--config", "config.yaml"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "train.py: No module named 'scai'; install the package in this directory: pip install ."
    ]
