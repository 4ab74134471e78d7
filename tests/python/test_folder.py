"""Directories of files that others write: committed as one, checked, replaced, removed."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest
import torch
from scai import _folder, _native
from scai.errors import DamagedError, NotACheckpointError


def staged(parent: Path, content: str = "weights") -> _folder.Staging:
    staging = _folder.Staging(str(parent))
    Path(staging.path, "model.bin").write_text(content)
    Path(staging.path, "below").mkdir()
    Path(staging.path, "below", "state.json").write_text("{}")
    return staging


def test_a_directory_is_committed_and_replaced(tmp_path: Path) -> None:
    parent = tmp_path / "runs"
    for content in ("one", "another"):
        path = staged(parent, content).commit("checkpoint-3", {"framework": "none"}, 3)
        assert path == str(parent / "checkpoint-3")
        assert Path(path, "model.bin").read_text() == content
        assert os.listdir(parent) == ["checkpoint-3"]
        _folder.check(path)
    commit = _folder.commit_of(path)
    assert commit is not None
    assert commit["iteration"] == 3 and commit["about"] == {"framework": "none"}
    assert commit["files"] == {"model.bin": 7, "below/state.json": 2}
    assert json.loads(Path(path, _folder.COMMIT).read_text())["files"].keys() == commit["files"].keys()
    _folder.remove(path)
    assert os.listdir(parent) == []


def test_damage_is_named(tmp_path: Path) -> None:
    path = Path(staged(tmp_path).commit("checkpoint"))
    (path / "model.bin").write_text("weightz")
    with pytest.raises(DamagedError, match="model.bin.*checksum"):
        _folder.check(str(path))
    (path / "model.bin").unlink()
    with pytest.raises(DamagedError, match="model.bin.*missing"):
        _folder.check(str(path))
    record = path / _folder.COMMIT
    record.write_text(record.read_text().replace('"size": 7', '"size": 8'))
    with pytest.raises(DamagedError, match="its own digest"):
        _folder.commit_of(str(path))


def test_what_was_not_committed_is_said_to_be_so(tmp_path: Path) -> None:
    assert _folder.commit_of(str(tmp_path)) is None
    with pytest.raises(NotACheckpointError, match="commit.json"):
        _folder.check(str(tmp_path))
    with pytest.raises(FileNotFoundError):
        _folder.commit_of(str(tmp_path / "nothing"))


def test_what_is_dropped_abandoned_or_used_twice(tmp_path: Path) -> None:
    staging = staged(tmp_path)
    staging.abandon()
    assert os.listdir(tmp_path) == []
    with pytest.raises(RuntimeError, match="committed or abandoned"):
        staging.commit("checkpoint")
    staging = staged(tmp_path)
    del staging
    assert os.listdir(tmp_path) == []
    # Left by a process that is gone.
    (tmp_path / f".scai-{'0' * 32}.tmp").mkdir()
    _folder.sweep(str(tmp_path))
    assert os.listdir(tmp_path) == []


def test_a_forked_child_leaves_it_alone(tmp_path: Path) -> None:
    staging = staged(tmp_path)
    child = os.fork()
    if child == 0:
        staging.abandon()
        os._exit(0)
    os.waitpid(child, 0)
    _folder.check(staging.commit("checkpoint"))


def test_committing_on_another_thread(tmp_path: Path) -> None:
    staging = staged(tmp_path)
    thread = threading.Thread(target=staging.commit, args=("checkpoint",))
    thread.start()
    thread.join()
    _folder.check(str(tmp_path / "checkpoint"))


def test_a_safetensors_file_with_its_metadata(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors")
    tensors = {"w": torch.arange(6.0).reshape(2, 3), "h": torch.ones(3).half()}
    path = tmp_path / "model.safetensors"
    _native.Tree.encode(tensors).write_safetensors(path, {"made by": "me"}, 1)
    with safetensors.safe_open(path, "pt") as file:
        assert file.metadata()["format"] == "pt" and file.metadata()["made by"] == "me"
        assert {name: file.get_tensor(name).tolist() for name in file.keys()} == {
            name: tensor.tolist() for name, tensor in tensors.items()
        }
