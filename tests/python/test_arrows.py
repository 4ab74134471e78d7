"""The imports of the package follow the map in ARCHITECTURE.md."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "python" / "scai"


def order() -> dict[str, int]:
    """The modules of the map with their lines: what is further up may import what is further down."""
    text = (ROOT / "ARCHITECTURE.md").read_text()
    block = text.partition("## Inside the Python package")[2].partition("```text\n")[2]
    lines = block.partition("```")[0].splitlines()
    return {line.split()[0].replace("/", "."): number for number, line in enumerate(lines)}


def modules() -> dict[str, Path]:
    """The modules of the package by their names in the map; `_convert` is one."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if path.stat().st_size and parts != ("__main__",) and parts[0] != "_convert":
            found[".".join(parts)] = path
    return found | {"_convert": PACKAGE / "_convert" / "__init__.py"}


def imported(source: str) -> Iterator[tuple[str, str | None]]:
    """The modules of the package that a source imports, and the names that it takes from them."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((a.name.removeprefix("scai."), None) for a in node.names if a.name.startswith("scai."))
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            module, _, rest = node.module.partition(".")
            if module != "scai":
                continue
            for alias in node.names:
                if rest:
                    yield rest, alias.name
                elif (PACKAGE / f"{alias.name}.py").exists() or alias.name in ("_native", "_convert"):
                    yield alias.name, None
                else:
                    yield "__init__", alias.name


def wrong(name: str, source: str, lines: dict[str, int]) -> list[str]:
    """The arrows of a source that are not drawn."""
    found = []
    for module, taken in imported(source):
        target = "_convert" if module.startswith("_convert") else module
        if target == name:
            continue
        if lines[target] <= lines[name]:
            found.append(f"{name} imports {target}, which is drawn above it")
        if taken is not None and taken.startswith("_") and not taken.startswith("__"):
            found.append(f"{name} imports {taken}, which is private to {target}")
    return found


def test_every_module_is_drawn_and_no_other() -> None:
    assert set(order()) == set(modules()) | {"_native"}


def test_modules_import_only_what_is_drawn_below_them() -> None:
    lines = order()
    assert not [
        arrow
        for name, path in modules().items()
        for arrow in wrong(name, path.read_text(), lines)
    ]


def test_an_arrow_that_is_not_drawn_is_found_however_it_is_written() -> None:
    lines = {"_manager": 0, "_load": 1, "_native": 2}
    assert wrong("_load", "from scai._manager import CheckpointManager", lines)
    assert wrong("_load", "import scai._manager", lines)
    assert wrong("_load", "def f():\n    from scai import _manager", lines)
    assert wrong("_manager", "from scai._load import _private", lines)
    assert not wrong("_manager", "from scai import _native\nfrom scai._load import Load", lines)
