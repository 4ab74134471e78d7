"""What type checkers know of the public names."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import typed

FILE = Path(typed.__file__)


def test_what_type_checkers_are_told_is_true_when_it_runs(tmp_path: Path) -> None:
    typed.files(tmp_path)
    typed.saving(tmp_path)
    typed.loading(tmp_path)


def test_mypy_knows_the_types_of_all_public_functions() -> None:
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", str(FILE)]
    checked = subprocess.run(command, capture_output=True, text=True, cwd=FILE.parents[2])
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_pyright_knows_the_types_of_all_public_functions(tmp_path: Path) -> None:
    if importlib.util.find_spec("basedpyright") is None:
        pytest.skip("basedpyright is not installed")
    config = tmp_path / "pyrightconfig.json"
    settings = {
        "include": [str(FILE)],
        "extraPaths": [str(FILE.parents[2] / "python")],
        "typeCheckingMode": "strict",
        "reportMissingTypeStubs": False,
    }
    config.write_text(json.dumps(settings))
    python = ["--pythonpath", sys.executable]
    command = [sys.executable, "-m", "basedpyright", "-p", str(config), "--level", "error", *python]
    checked = subprocess.run(command, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr
