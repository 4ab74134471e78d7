"""Saving and loading compared: `make bench-python`, or `python bench/rivals.py --help`.

Every round measures each system once, in another order, so that what else the machine does hits all
of them; the tables show medians. "Durable" means that file and directory were synced.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import torch
from memory import peak_of
from states import KINDS, State
from systems import SYSTEMS, System

Times = dict[str, list[float]]


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def measure(system: System, state: State, found: Times) -> None:
    """One round of one system."""
    state.step()
    baseline = statistics.median(seconds(state.step) for _ in range(5))

    began = time.perf_counter()
    waiting = threading.Thread(target=system.begin(state))
    found["call"].append(time.perf_counter() - began)
    waiting.start()
    steps = 0
    while steps == 0 or waiting.is_alive():
        state.step()
        steps += 1
    found["lost"].append(time.perf_counter() - began - steps * baseline)
    waiting.join()

    began = time.perf_counter()
    system.begin(state)()
    found["durable"].append(time.perf_counter() - began)
    # Some write past the page cache, which the file is in for all from here on.
    system.load(state)
    found["load"].append(seconds(lambda: system.load(state)))


def peaks(name: str, kind: str, args: argparse.Namespace) -> dict[str, float]:
    """MiB beside the state for the first save and the first load of a process of its own."""
    command = [sys.executable, "-W", "ignore", __file__, "--peak", name, "--kinds", kind]
    options = ["--scale", str(args.scale), "--directory", str(args.directory)]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=True)
    save, load = done.stdout.split()[-2:]
    return {"save MiB": float(save), "load MiB": float(load)}


def print_peaks(args: argparse.Namespace) -> None:
    """What `peaks` reads."""
    state = KINDS[args.kinds[0]](args.scale)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=args.directory) as directory:
        system = next(s for s in SYSTEMS if s.name == args.peak)(Path(directory) / "peak")
        system.directory.mkdir(exist_ok=True)
        print(peak_of(lambda: system.begin(state)()), peak_of(lambda: system.load(state)))
        system.close()


def bench(kind: str, args: argparse.Namespace) -> dict[str, dict[str, float]]:
    state = KINDS[kind](args.scale)
    base = Path(tempfile.mkdtemp(prefix="bench-", dir=args.directory))
    wanted = [s for s in SYSTEMS if s.installed() and any(only in s.name for only in args.only)]
    found: dict[str, Times] = {system.name: defaultdict(list) for system in wanted}
    failed: set[str] = set()
    try:
        systems = {}
        for i, system in enumerate(wanted):
            directory = base / str(i)
            directory.mkdir()
            systems[system.name] = system(directory)
        for round_ in range(args.rounds + 1):
            for name, system in random.sample(sorted(systems.items()), len(systems)):
                if name in failed:
                    continue
                # The first round warms up.
                times: Times = found[name] if round_ else defaultdict(list)
                try:
                    measure(system, state, times)
                except Exception as error:
                    print(f"{name}: {type(error).__name__}: {error}")
                    failed.add(name)
        for system in systems.values():
            system.close()
    finally:
        shutil.rmtree(base, ignore_errors=True)
    print(f"\n## {kind}: {state.nbytes() / 1e6:.0f} MB in {state.count()} tensors\n")
    return {
        name: {key: statistics.median(values) for key, values in times.items()}
        | peaks(name, kind, args)
        for name, times in found.items()
        if name not in failed and times
    }


def table(results: dict[str, dict[str, float]]) -> None:
    base = results.get("torch.save + fsync", {})
    columns = ["call", "lost", "durable", "load"]
    print("| system | " + " | ".join(f"{c}, ms (× torch)" for c in columns) + " | save, MiB | load, MiB |")
    print("|---" * (len(columns) + 3) + "|")
    for name, times in results.items():
        cells = []
        for column in columns:
            ratio = f" ({times[column] / base[column]:.3f})" if base.get(column) else ""
            cells.append(f"{times[column] * 1e3:.1f}{ratio}")
        cells += [f"{times[key]:.0f}" for key in ("save MiB", "load MiB")]
        print(f"| {name} | " + " | ".join(cells) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--scale", type=float, default=1.0, help="of the states' size")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--only", nargs="+", default=[""], help="systems whose name contains one")
    parser.add_argument("--directory", type=Path, default=Path("."), help="on the disk to measure")
    parser.add_argument("--json", type=Path, help="write the medians here")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.peak:
        return print_peaks(args)
    print(
        f"torch {torch.__version__}, Python {platform.python_version()}, {platform.machine()}, "
        f"{args.threads} thread(s) of torch, {args.rounds} rounds, medians"
    )
    results = {}
    for kind in args.kinds:
        results[kind] = bench(kind, args)
        table(results[kind])
    if args.json:
        args.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
