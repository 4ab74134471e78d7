"""How much memory may be taken: what the system has left, and what the limits of a container leave."""

from __future__ import annotations

from pathlib import Path

import pytest
from scai._room import free_memory

GIB = 1 << 30


def write(path: Path, text: str | int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{text}\n")


def system(tmp_path: Path, available: int, groups: str = "0::/\n") -> tuple[Path, Path]:
    proc, cgroup = tmp_path / "proc", tmp_path / "cgroup"
    write(proc / "meminfo", f"MemTotal: 99 kB\nMemAvailable: {available // 1024} kB")
    write(proc / "self" / "cgroup", groups)
    cgroup.mkdir()
    return proc, cgroup


def test_without_limits_it_is_what_the_system_has(tmp_path: Path) -> None:
    assert free_memory(*system(tmp_path, 3 * GIB)) == 3 * GIB


@pytest.mark.parametrize("limited", ["job", "job/step"])
def test_the_limit_of_any_group_above_counts(tmp_path: Path, limited: str) -> None:
    proc, cgroup = system(tmp_path, 8 * GIB, "0::/job/step\n")
    for group in ("job", "job/step"):
        write(cgroup / group / "memory.max", 2 * GIB if group == limited else "max")
        write(cgroup / group / "memory.current", GIB)
    assert free_memory(proc, cgroup) == GIB
    # The page cache is given up first.
    write(cgroup / limited / "memory.stat", f"anon 5\ninactive_file {GIB // 2}")
    assert free_memory(proc, cgroup) == GIB + GIB // 2


def test_the_first_version_of_control_groups_counts(tmp_path: Path) -> None:
    proc, cgroup = system(tmp_path, 8 * GIB, "12:memory:/box\n3:cpu:/box\n")
    write(cgroup / "memory" / "box" / "memory.limit_in_bytes", GIB)
    write(cgroup / "memory" / "box" / "memory.usage_in_bytes", GIB // 4)
    assert free_memory(proc, cgroup) == GIB - GIB // 4


def test_a_group_over_its_limit_has_nothing_left(tmp_path: Path) -> None:
    proc, cgroup = system(tmp_path, 8 * GIB)
    write(cgroup / "memory.max", GIB)
    write(cgroup / "memory.current", 2 * GIB)
    assert free_memory(proc, cgroup) == 0


def test_where_nothing_is_known_nothing_is_taken(tmp_path: Path) -> None:
    assert free_memory(tmp_path, tmp_path) == 0


def test_this_machine_has_some() -> None:
    if Path("/proc/meminfo").exists():
        assert free_memory() > 0
