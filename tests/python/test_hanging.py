"""`make test` ends, whatever ran it and whatever hangs."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run_tests(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


def test_ctrl_c_is_heard_where_the_shell_that_began_the_tests_ignores_it() -> None:
    # As `nohup make test &` does; what is ignored stays ignored in the processes that it starts.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    done = run_tests("tests/python/test_trainer.py", "-k", "ctrl_c_ends_an_evaluation")
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("hang", ["time.sleep(60)", "subprocess.run(['sleep', '60'])"])
def test_a_test_that_hangs_is_ended_and_named(tmp_path: Path, hang: str) -> None:
    path = tmp_path / "test_it.py"
    path.write_text(f"import subprocess, time\ndef test_that_hangs():\n    {hang}\n")
    config = str(ROOT / "pyproject.toml")
    done = run_tests("-c", config, str(path), "-o", "faulthandler_timeout=2")
    assert done.returncode == 1
    assert "in test_that_hangs" in done.stderr


def test_every_test_has_a_time_limit(pytestconfig: pytest.Config) -> None:
    assert 0 < float(pytestconfig.getini("faulthandler_timeout")) <= 600
    assert pytestconfig.getini("faulthandler_exit_on_timeout")
