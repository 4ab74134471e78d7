"""`scai.save` and `scai.load` with objects in place of paths, and saves in the background."""

from __future__ import annotations

import io
import logging
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import scai
import torch
from scai.errors import DamagedError, NotACheckpointError, UnprotectedError


def state() -> dict[str, Any]:
    torch.manual_seed(0)
    return {"w": torch.randn(300, 300), "step": 3, "tied": torch.arange(10), "text": "é"}


def assert_equal(first: dict[str, Any], second: dict[str, Any]) -> None:
    assert first.keys() == second.keys()
    for key, value in first.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, second[key])
        else:
            assert value == second[key]


def saved_bytes(content: Any) -> bytes:
    file = io.BytesIO()
    scai.save(content, file)
    return file.getvalue()


def test_a_file_in_memory_is_the_file_on_disk(tmp_path: Path) -> None:
    scai.save(state(), tmp_path / "a.pt")
    content = saved_bytes(state())
    assert content == (tmp_path / "a.pt").read_bytes()
    assert_equal(torch.load(io.BytesIO(content)), state())
    assert_equal(scai.load(io.BytesIO(content)), state())
    lazy = scai.load(io.BytesIO(content), lazy=True)
    assert torch.equal(lazy["w"].load(), state()["w"])


def test_a_zip_reader_finds_every_checksum_right(tmp_path: Path) -> None:
    for shapes in ([1 << 20] * 3, [3, 1 << 20, 1 << 20, 5], [1], []):
        state = {str(i): torch.full((n,), i + 0.5) for i, n in enumerate(shapes)}
        scai.save(state, tmp_path / "a.pt")
        with zipfile.ZipFile(tmp_path / "a.pt") as archive:
            assert archive.testzip() is None


def test_what_is_left_of_an_open_file_is_read(tmp_path: Path) -> None:
    with open(tmp_path / "both", "wb") as file:
        file.write(b"before")
        scai.save(state(), file)
    with open(tmp_path / "both", "rb") as file:
        file.seek(6)
        assert_equal(scai.load(file), state())
    with open(tmp_path / "both", "rb") as file, pytest.raises((DamagedError, NotACheckpointError)):
        scai.load(file)


def test_values_of_all_kinds_come_back_from_memory() -> None:
    value = {"path": Path("a/b"), "set": {1, 2}, "range": range(3)}
    assert scai.load(io.BytesIO(saved_bytes(value))) == value


def test_damage_and_a_lack_of_checksums_are_noticed_in_memory_too() -> None:
    content = bytearray(saved_bytes(state()))
    content[len(content) // 2] ^= 1
    with pytest.raises(DamagedError, match="tensor `w`"):
        scai.load(io.BytesIO(content))
    with pytest.raises(DamagedError):
        scai.load(io.BytesIO(content[:-1000]))
    legacy = io.BytesIO()
    torch.save(state(), legacy, _use_new_zipfile_serialization=False)
    legacy.seek(0)
    with pytest.raises(UnprotectedError):
        scai.load(legacy)
    legacy.seek(0)
    assert_equal(scai.load(legacy, allow_unprotected=True), state())
    with pytest.raises(NotACheckpointError):
        scai.load(io.BytesIO(b"no checkpoint at all"))


def test_what_cannot_be_read_or_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("x")
    with open(tmp_path / "text") as file, pytest.raises(TypeError, match="open the file in binary"):
        scai.load(file)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="`path` must be a path or have read"):
        scai.load(3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="`path` must be a path or have write"):
        scai.save({}, 3)  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="`wait=False` needs a path"):
        scai.save({}, io.BytesIO(), wait=False)  # type: ignore[call-overload]
    memory = io.BytesIO()
    with pytest.raises(TypeError, match="`f`"):
        scai.save({"f": lambda: None}, memory)
    assert memory.getvalue() == b""


def test_a_save_in_the_background_is_of_the_moment_of_the_call(tmp_path: Path) -> None:
    content = state()
    futures = []
    for step in range(5):
        content["step"] = step
        futures.append(scai.save(content, tmp_path / "a.pt", wait=False))
        futures.append(scai.save(content, tmp_path / f"{step}.pt", wait=False))
        content["w"].add_(1)
    assert [future.result() for future in futures][-1] == str(tmp_path / "4.pt")
    for step in range(5):
        expected = {**state(), "step": step}
        for _ in range(step):
            expected["w"].add_(1)
        assert_equal(torch.load(tmp_path / f"{step}.pt"), expected)
    # They are written one after the other.
    assert torch.load(tmp_path / "a.pt")["step"] == 4


def test_a_save_in_the_background_that_fails_says_so_and_harms_no_later_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR, "scai"):
        future = scai.save({}, tmp_path / "missing" / "a.pt", wait=False)
        assert isinstance(future.exception(), FileNotFoundError)
        scai.save({}, tmp_path / "b.pt", wait=False).result()
    assert "missing/a.pt` was not saved" in caplog.text
    with pytest.raises(TypeError, match="`f`"):
        scai.save({"f": lambda: None}, tmp_path / "c.pt", wait=False)
    for _ in range(4):
        # What failed has given its place back.
        scai.save({}, tmp_path / "d.pt", wait=False).result()


def test_the_path_is_that_of_the_moment_of_the_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").mkdir()
    monkeypatch.chdir(tmp_path / "a")
    future = scai.save(state(), "x.pt", wait=False)
    monkeypatch.chdir(tmp_path)
    assert future.result() == "x.pt" and (tmp_path / "a" / "x.pt").exists()


def test_a_program_that_ends_waits_for_its_saves(tmp_path: Path) -> None:
    program = (
        "import scai, torch, sys\n"
        "for i in range(3): scai.save({'w': torch.ones(2_000_000)}, f'{sys.argv[1]}/{i}.pt', wait=False)\n"
    )
    subprocess.run([sys.executable, "-c", program, tmp_path], check=True, timeout=120)
    for i in range(3):
        assert torch.load(tmp_path / f"{i}.pt")["w"].sum() == 2_000_000


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_forked_process_saves_in_the_background_by_itself(tmp_path: Path) -> None:
    program = (
        "import os, scai, sys, warnings\n"
        "warnings.simplefilter('ignore')\n"
        "scai.save({'a': 1}, sys.argv[1] + '/a.pt', wait=False)\n"
        "if os.fork() == 0:\n"
        "    scai.save({'a': 2}, sys.argv[1] + '/b.pt', wait=False).result(60)\n"
        "    os._exit(0)\n"
        "assert os.waitstatus_to_exitcode(os.wait()[1]) == 0\n"
    )
    subprocess.run([sys.executable, "-c", program, tmp_path], check=True, timeout=120)
    assert (scai.load(tmp_path / "a.pt"), scai.load(tmp_path / "b.pt")) == ({"a": 1}, {"a": 2})
