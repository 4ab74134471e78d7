"""How much memory a process needs for a piece of work (Linux)."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path


def peak_of(work: Callable[[], object]) -> float:
    """MiB that the process held more at the most while it worked."""
    gc.collect()
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return float("nan")
    before = _status("VmRSS")
    work()
    return (_status("VmHWM") - before) / 1024


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1])
    return 0
