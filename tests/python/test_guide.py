"""The guides and the READMEs do what they say: their blocks run in order, each guide in a folder.

Python blocks of a document share one namespace, as if they were one script. What a block prints
stands in the `text` block below it, and what a command prints below its `$` line; `…` stands for
anything, and a line of its own for any lines. A block whose first line is a comment with the name
of a file is written to that file.

``UPDATE=1 pytest tests/python/test_guide.py`` writes what was printed into the documents, except
where there is a `…`.
"""

from __future__ import annotations

import ast
import contextlib
import io
import os
import pty
import re
import shlex
import shutil
import subprocess
import sys
import types
import warnings
from collections.abc import Collection
from pathlib import Path
from typing import Literal

import pytest
import scai
from sybil import Document, Example, Sybil
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser

ROOT = Path(__file__).parents[2]
GUIDES = ("docs/guide.md", "docs/guide.zh.md")
READMES = ("README.md", "README.zh.md")
FRAMEWORKS = tuple(
    (f"docs/integrations/{name}.md", f"docs/integrations/{name}.zh.md", package)
    for name, package in (
        ("lightning", "lightning"),
        ("transformers", "transformers"),
        ("accelerate", "accelerate"),
    )
)
RANKS = ("docs/distributed.md", "docs/distributed.zh.md")
STORES = ("docs/stores.md", "docs/stores.zh.md")  # `test_stores.py` runs them
UPDATE = "UPDATE" in os.environ
# No colours and no moving bars, also where a variable such as CI says that a terminal is there.
PLAIN = {"TERM": "dumb", "NO_COLOR": "1", "TZ": "UTC"}
COMMANDS = {"scai": [sys.executable, "-m", "scai"], "python": [sys.executable]}


def parse(name: str) -> Document:
    """The blocks of a document; evaluating those that are not Python is done here."""
    languages = ("console", "text", "yaml")
    others = [CodeBlockParser(language, lambda _: None) for language in languages]
    return Sybil([PythonCodeBlockParser(), *others], path=str(ROOT)).parse(ROOT / name)


def language(example: Example) -> str:
    opening = example.document.text[example.start :].lstrip().splitlines()[0]
    return opening.lstrip("`").split()[0]


def matches(expected: str, printed: str) -> bool:
    pattern = "".join(
        r"(?:.*\n)*" if line == "…" else ".*".join(map(re.escape, line.split("…"))) + r"\n"
        for line in expected.rstrip().splitlines()
    )
    return re.fullmatch(pattern, printed.rstrip() + "\n" if printed.strip() else "") is not None


def execute(command: list[str], on_a_terminal: bool) -> str:
    """What a command prints; on a terminal it is told `y` when it asks."""
    ours, theirs = pty.openpty() if on_a_terminal else (None, subprocess.DEVNULL)
    process = subprocess.Popen(
        command,
        stdin=theirs,
        stdout=theirs if on_a_terminal else subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=os.environ | PLAIN | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    if ours is None:
        printed, _ = process.communicate(timeout=300)
        return printed.decode()
    os.close(theirs)
    os.write(ours, b"y\n")  # the terminal keeps it until somebody reads, and shows it at once
    printed = b""
    with contextlib.suppress(OSError):  # how Linux says that the other side is gone
        while data := os.read(ours, 1 << 16):
            printed += data
    os.close(ours)
    process.wait(timeout=300)
    return printed.decode().replace("\r\n", "\n").removeprefix("y\n").replace("[Y/n] ", "[Y/n] y\n")


class Run:
    """A document that is being run."""

    def __init__(self, document: Document, kinds: Collection[str]) -> None:
        self.document = document
        self.kinds = kinds
        self.printed: str | None = None
        self.changes: list[tuple[int, str, str]] = []
        self.wrong: list[str] = []
        self.before = Path.cwd()

    def compare(self, example: Example, what: str, expected: str, printed: str) -> None:
        if matches(expected, printed):
            return
        where = f"{self.document.path}:{example.line}"
        self.wrong.append(f"{where}: {what} prints\n{printed}\nand not\n{expected}")
        if expected.strip() and "…" not in expected:
            self.changes.append((example.start, expected.rstrip("\n"), printed.rstrip("\n")))

    def updated(self) -> str:
        text = self.document.text
        for start, old, new in reversed(self.changes):
            at = text.index(f"\n{old}\n", start) + 1
            text = text[:at] + new + text[at + len(old) :]
        return text

    def run(self) -> None:
        for example in self.document.examples():
            kind, source = language(example), str(example.parsed)
            if kind not in self.kinds:
                continue
            if kind != "text" and self.printed:
                self.compare(example, "the block before", "", self.printed)
            name = re.match(r"# ([\w/]+\.\w+)\n", source)
            if name:
                Path(name[1]).write_text(source)
            elif kind == "python":
                output = io.StringIO()
                with contextlib.redirect_stdout(output):
                    example.evaluate()
                self.printed = output.getvalue()
                continue
            elif kind == "console":
                self.console(example, source)
            elif kind == "text" and self.printed is not None:
                self.compare(example, "the block above", source, self.printed)
            self.printed = None

    def console(self, example: Example, source: str) -> None:
        for part in re.split(r"^\$ ", source, flags=re.MULTILINE)[1:]:
            command, _, expected = part.partition("\n")
            program, *arguments = shlex.split(command)
            if program == "cd":
                here = Path.cwd()
                os.chdir(self.before if arguments == ["-"] else arguments[0])
                self.before = here
            else:
                printed = execute([*COMMANDS[program], *arguments], "[Y/n] y" in expected)
                self.compare(example, command, expected, printed)


def run(
    name: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    kinds: Collection[str] = ("python", "console", "text", "yaml"),
    on_warning: Literal["error", "ignore"] = "error",
) -> None:
    """Runs the blocks of some kinds of a document in `folder`."""
    document = parse(name)
    module = types.ModuleType("__main__")
    document.namespace = module.__dict__
    monkeypatch.setitem(sys.modules, "__main__", module)
    monkeypatch.chdir(folder)
    running = Run(document, kinds)
    with warnings.catch_warnings():
        warnings.simplefilter(on_warning)
        # PyTorch 2.4 and 2.5 warn of `torch.load` in an example.
        warnings.filterwarnings("ignore", ".*weights_only=False", FutureWarning)
        running.run()
    if UPDATE:
        (ROOT / name).write_text(running.updated())
    else:
        assert not running.wrong, "\n\n".join(running.wrong)


@pytest.mark.parametrize("name", GUIDES)
def test_a_guide_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "scai").mkdir()  # stands for a clone of the repository
    (tmp_path / "work").mkdir()
    shutil.copy(ROOT / "train.py", tmp_path / "scai")
    run(name, tmp_path / "work", monkeypatch)


@pytest.mark.parametrize("name", READMES)
def test_the_python_of_a_readme_runs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(name, tmp_path, monkeypatch, kinds={"python", "text"})


@pytest.mark.parametrize(
    ("name", "package"), [(page, package) for *pages, package in FRAMEWORKS for page in pages]
)
def test_a_page_on_a_framework_runs(
    name: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(package)
    # Frameworks warn of much that is theirs.
    run(name, tmp_path, monkeypatch, on_warning="ignore")


@pytest.mark.parametrize("name", RANKS)
def test_the_page_on_several_processes_runs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(name, tmp_path, monkeypatch, kinds={"python", "text"}, on_warning="ignore")
    if name != RANKS[0]:
        return
    # Its programs, on two ranks and then again, and one of them by itself.
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    runs = (("ddp.py", [sys.executable]), ("ddp.py", launch), ("fsdp.py", launch), ("dcp.py", launch))
    for program, command in runs:
        folder = tmp_path / f"{program}{len(command)}"
        folder.mkdir()
        for _ in range(2):
            done = subprocess.run(
                [*command, str(tmp_path / program)],
                cwd=folder,
                env=os.environ | PLAIN | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
                capture_output=True,
                text=True,
                timeout=300,
            )
            # PyTorch may abort at the very end, when the ranks leave.
            assert done.returncode == 0 or "Traceback" not in done.stderr, done.stderr
        if program == "dcp.py":
            assert scai.verify(folder / "checkpoint")
            continue
        [newest] = (folder / "run").glob("checkpoint_iter_10*")
        assert newest.is_dir() == (program == "fsdp.py")


def code(example: Example) -> object:
    """A block without its comments, which are in the language of the guide."""
    kind, source = language(example), str(example.parsed)
    if kind == "python":
        return ast.dump(ast.parse(source))
    return kind, re.sub(r" *#.*", "", source) if kind == "yaml" else source


@pytest.mark.parametrize(
    ("english_page", "chinese_page", "least"),
    [(*GUIDES, 20), (*RANKS, 2), (*STORES, 2), *((*pages, 1) for *pages, _ in FRAMEWORKS)],
)
def test_both_languages_have_the_same_code(
    english_page: str, chinese_page: str, least: int
) -> None:
    pages = english_page, chinese_page
    english, chinese = ([code(example) for example in parse(page).examples()] for page in pages)
    assert len(english) > least
    for number, (one, other) in enumerate(zip(english, chinese, strict=True)):
        assert one == other, f"block {number + 1} differs"


def test_every_fence_of_the_guides_is_known() -> None:
    for name in (*GUIDES, *RANKS, *STORES, *(page for *pages, _ in FRAMEWORKS for page in pages)):
        fences = re.findall(r"^```(\S*)", (ROOT / name).read_text(), flags=re.MULTILINE)
        assert set(fences[::2]) <= {"python", "console", "text", "yaml", "sh"}, name
        assert set(fences[1::2]) == {""}, name
