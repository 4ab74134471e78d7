"""How much memory there is to take without asking."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

_PROC, _CGROUP = Path("/proc"), Path("/sys/fs/cgroup")


def free_memory(proc: Path = _PROC, cgroup: Path = _CGROUP) -> int:
    """Bytes that this process can take before the system, or the limit of its container, is reached; 0 if
    that is not known."""
    known = [*_of_system(proc), *_of_container(proc, cgroup)]
    return max(min(known, default=0), 0)


def _of_system(proc: Path) -> Iterator[int]:
    for line in _text(proc / "meminfo").splitlines():
        if line.startswith("MemAvailable:") and line.split()[1].isdecimal():
            yield int(line.split()[1]) * 1024


def _of_container(proc: Path, cgroup: Path) -> Iterator[int]:
    """What is left below the limits of the control group (version 2, or 1) and those above it."""
    for line in _text(proc / "self" / "cgroup").splitlines():
        _, separator, rest = line.partition(":")
        controllers, again, path = rest.partition(":")
        if not (separator and again) or controllers not in ("", "memory"):
            continue
        is_second = controllers == ""
        folder = cgroup if is_second else cgroup / "memory"
        names = ("memory.max", "memory.current") if is_second else (
            "memory.limit_in_bytes", "memory.usage_in_bytes"
        )  # fmt: skip
        group = folder / path.lstrip("/")
        for each in (group, *group.parents):
            limit, used = (_text(each / name).strip() for name in names)
            if limit.isdecimal() and used.isdecimal():
                yield int(limit) - int(used) + _reclaimable(each)
            if each == folder:
                break


def _reclaimable(group: Path) -> int:
    """The page cache of a group, which counts as used and is given up first."""
    for line in _text(group / "memory.stat").splitlines():
        if line.startswith(("inactive_file ", "total_inactive_file ")):
            return int(line.split()[1])
    return 0


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        return ""
