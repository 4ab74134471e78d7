"""Instructions that the engine executes: `make instructions`, or `python bench/instructions.py`.

Callgrind counts them, so that a regression shows on a machine that is busy with other things. Each
case of the example `instructions` is run once: equal code gives equal counts, to the instruction.
They are compared with those in `instructions.json`, which `--update` writes.

What the C library chooses by the size of caches, or by what was allocated before, is fixed: how it
copies and fills memory, and from which size on memory comes from the system.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

BASELINE = Path(__file__).with_suffix(".json")
LIMIT = 5.0  # percent

BUILD = "cargo build --release -p scai-checkpoint --example instructions --message-format json"
VALGRIND = [
    "valgrind",
    "--tool=callgrind",
    "--callgrind-out-file=/dev/null",
    "--toggle-collect=*instructions::measured*",
]
# A repeated string instruction counts once for each byte, which says nothing of its cost.
TUNABLES = {
    "glibc.cpu.x86_rep_movsb_threshold": 1 << 30,
    "glibc.cpu.x86_rep_stosb_threshold": 1 << 30,
    "glibc.malloc.mmap_threshold": 1 << 20,
    "glibc.malloc.trim_threshold": 1 << 30,
}


def output(command: list[str]) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def build() -> str:
    """Builds the example and returns where it is."""
    messages = map(json.loads, output(BUILD.split()).splitlines())
    return next(path for message in messages if (path := message.get("executable")))


def count(example: str, case: str) -> int:
    env = {"GLIBC_TUNABLES": ":".join(f"{name}={value}" for name, value in TUNABLES.items())}
    command = [*VALGRIND, example, case]
    run = subprocess.run(command, env=env, executable=shutil.which("valgrind"), text=True,
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    found = re.search(r"Collected : (\d+)", run.stdout)
    if run.returncode or not found or not int(found[1]):
        sys.exit(f"`{case}` was not counted:\n{run.stdout}")
    return int(found[1])


def made_with() -> dict[str, str]:
    """What changes counts besides the engine."""
    return {
        "rustc": output(["rustc", "--version"]).strip(),
        "valgrind": output(["valgrind", "--version"]).strip(),
        "libc": " ".join(platform.libc_ver()),
        "machine": platform.machine(),
    }


def compare(counts: dict[str, int], baseline: dict[str, int]) -> list[str]:
    """Prints a table, and returns what is wrong."""
    wrong, fewer = [], []
    print(f"{'':<20} {'baseline':>12} {'now':>12} {'change':>9}")
    for case in {**baseline, **counts}:
        if case not in baseline or case not in counts:
            wrong.append(f"`{case}` is not in {'counts' if case in baseline else 'the baseline'}")
            continue
        change = 100 * (counts[case] / baseline[case] - 1)
        print(f"{case:<20} {baseline[case]:>12,} {counts[case]:>12,} {change:>+8.2f}%")
        if change > LIMIT:
            wrong.append(f"`{case}` executes {change:.1f}% more instructions")
        elif change < -LIMIT:
            fewer.append(case)
    if fewer:
        print(f"Fewer than before, which --update would record: {', '.join(fewer)}")
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--update", action="store_true", help="make the counts the baseline")
    parser.add_argument("--require", action="store_true", help="fail where valgrind is missing")
    arguments = parser.parse_args()
    if not shutil.which("valgrind"):
        print("SKIPPED: instructions are not counted, since valgrind is missing", file=sys.stderr)
        sys.exit(arguments.require)

    example = build()
    cases = output([example]).splitlines()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        counts = dict(zip(cases, pool.map(lambda case: count(example, case), cases)))
    if arguments.update:
        content = {"made_with": made_with(), "instructions": counts}
        BASELINE.write_text(json.dumps(content, indent=2) + "\n")
        return
    baseline = json.loads(BASELINE.read_text())
    wrong = compare(counts, baseline["instructions"])
    for name, now in made_with().items():
        if now != (then := baseline["made_with"][name]):
            print(f"The baseline was made with another {name}: {then}; this is {now}")
    if wrong:
        sys.exit("\n".join([*wrong, "Where that is meant: python bench/instructions.py --update"]))


if __name__ == "__main__":
    main()
