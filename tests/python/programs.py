"""Programs of their own, for what a test must not do itself."""

from __future__ import annotations

import subprocess
import sys


def run_python(code: str, *arguments: object, timeout: float = 120) -> str:
    """The output of a program that must end well."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
