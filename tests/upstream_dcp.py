"""Run PyTorch's own tests of torch.distributed.checkpoint on CPUs, with its storage classes or with scai's.

    python tests/upstream_dcp.py TESTS [--stock] [--quick] [--only FILE]... [--trusted] [pytest options]

TESTS is the folder `test/distributed/checkpoint` of PyTorch 2.6.0. PyPI has no source distribution; Debian has
(27 MB), with `sources.list` holding one `deb-src` line for the suite `trixie`, component `main`, of a Debian mirror:

    mkdir -p lists/partial cache/archives/partial
    options="-o Dir::Etc::sourcelist=$PWD/sources.list -o Dir::Etc::sourceparts=/dev/null \
        -o Dir::State::lists=$PWD/lists -o Dir::Cache=$PWD/cache"
    apt-get $options update
    apt-get $options source --download-only pytorch
    tar -xJf pytorch_2.6.0+dfsg.orig.tar.xz --wildcards '*/test/distributed/*'

The tests need `expecttest parameterized pytest-timeout`. They were written for GPUs: a copy is edited so that
they run with gloo on CPUs. Prints a table with the calls of scai's classes (`write_data`, `finish`,
`read_metadata`, `read_data`): without a call nothing was judged.
"""

from __future__ import annotations

import argparse
import collections
import functools
import importlib.abc
import importlib.machinery
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

QUICK = [
    "test_file_system_checkpoint_cpu.py",
    "test_save_load_api.py",
    "test_compatibility.py",
    "test_planner.py",
    "test_dedup_tensors.py",
]
"""What needs no more than two processes."""
FILES = [
    *QUICK,
    "test_checkpoint.py",
    "test_format_utils.py",
    "test_fsspec.py",
    "test_dtensor_checkpoint.py",
    "test_dtensor_resharding.py",
    "test_tp_checkpoint.py",
    "test_fsdp_tp_checkpoint_conversion.py",
    "test_hsdp_checkpoint.py",
    "test_fsdp_model_state.py",
    "e2e/test_e2e_save_and_load.py",
    "e2e/test_fine_tuning.py",
]
CALLS = ["write_data", "finish", "read_metadata", "read_data"]
EDITS = [
    (r"/cuda:(\d|\{[^}]*\})", "/cpu"),
    (r"\.cuda\((?:[^()]|\([^()]*\))*\)", ""),
    (r'f?"cuda:(\d|\{[^}]*\})"', '"cpu"'),
    (r'device="cuda"', 'device="cpu"'),
    (r"device=(self\.rank|dist\.get_rank\(\))", 'device="cpu"'),
    (r'torch\.device\("cuda"\)', 'torch.device("cpu")'),
    (r'init_device_mesh\(\s*"cuda"', 'init_device_mesh("cpu"'),
    (r'"cpu:gloo,cuda:nccl"', '"gloo"'),
    (r"torch\.cuda\.device_count\(\)", "4"),
    # What `read_metadata` raises is wrapped by later versions of PyTorch.
    (r"(fail_read_metadata=\[\d\])", r"\1, ignore_exception_type=True"),
    # A folder of the run's own.
    (r'"/tmp/dcp_testing"', '__import__("tempfile").gettempdir() + "/dcp_testing"'),
]

# In the processes of the tests: these are spawned, so each patches what it imports.


def install() -> None:
    """Patch modules of PyTorch as they are imported."""
    sys.meta_path.insert(0, _Patching())


class _Patching(importlib.abc.MetaPathFinder):
    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        patch = PATCHES.get(name)
        if patch is None:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        assert spec is not None and spec.loader is not None, name
        execute = spec.loader.exec_module

        def exec_module(module: Any) -> None:
            execute(module)
            patch(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def _without_gpus(module: Any) -> None:
    def on_any_machine(*args: Any, **kwargs: Any) -> Any:
        return lambda test: test

    module.skip_if_lt_x_gpu = module.requires_nccl = on_any_machine


def _with_gloo(module: Any) -> None:
    with_comms = module.with_comms

    def with_gloo(func: Any = None, init_rpc: bool = False, backend: str = "gloo") -> Any:
        return with_comms(func, init_rpc=False, backend="gloo")

    module.with_comms = with_gloo


def _on_cpus(module: Any) -> None:
    import torch

    cls = module.FullyShardedDataParallel
    init = cls.__init__

    @functools.wraps(init)
    def on_cpu(self: Any, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("device_id", torch.device("cpu"))
        init(self, *args, **kwargs)

    cls.__init__ = on_cpu


def _with_scai(module: Any) -> None:
    if os.environ["SCAI_UPSTREAM"] == "stock":
        return
    from scai.distributed import StorageReader, StorageWriter

    if os.environ["SCAI_UPSTREAM"] == "scai, trusted":
        StorageReader.__init__.__kwdefaults__["weights_only"] = False  # type: ignore[index]
    for cls, name in [(StorageWriter, "FileSystemWriter"), (StorageReader, "FileSystemReader")]:
        for call in CALLS:
            if hasattr(cls, call):
                setattr(cls, call, _counted(getattr(cls, call)))
        for holder in ("", ".filesystem", "._storage_utils", ".format_utils"):
            if found := sys.modules.get(module.__name__ + holder):
                setattr(found, name, cls)


def _counted(method: Any) -> Any:
    @functools.wraps(method)
    def counted(*args: Any, **kwargs: Any) -> Any:
        # Short lines that are appended do not mix, whichever processes write them.
        with open(os.environ["SCAI_UPSTREAM_CALLS"], "a") as file:
            file.write(f"{method.__name__}\n")
        return method(*args, **kwargs)

    return counted


PATCHES = {
    "torch.testing._internal.common_distributed": _without_gpus,
    "torch.testing._internal.distributed._shard.sharded_tensor": _with_gloo,
    "torch.distributed.fsdp.fully_sharded_data_parallel": _on_cpus,
    "torch.distributed.checkpoint": _with_scai,
}

# The runner.


def edited_copy(tests: Path, to: Path) -> None:
    """A copy of the tests that asks for no GPU."""
    shutil.copytree(tests, to)
    for path in to.rglob("*.py"):
        text = path.read_text()
        for pattern, replacement in EDITS:
            text = re.sub(pattern, replacement, text)
        path.write_text(text)


def run(folder: Path, file: str, name: str, options: list[str]) -> tuple[list[str], bool]:
    """Run one file; returns its line of the table, and whether all passed."""
    report, calls = folder / "report.xml", folder / "calls"
    report.unlink(missing_ok=True)
    calls.write_text("")
    temporary = folder / "tmp"
    temporary.mkdir()
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(
            [str(folder), str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
        ),
        "SCAI_UPSTREAM": name,
        "SCAI_UPSTREAM_CALLS": str(calls),
        "TMPDIR": str(temporary),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    command = [sys.executable, "-m", "pytest", "-q", "--color=no", "-p", "no:cacheprovider"]
    command += ["--timeout", "600", f"--junitxml={report}", *options, file]
    print(f"\n## {file}, {name}", flush=True)
    began = time.monotonic()
    subprocess.run(command, cwd=folder / "checkpoint", env=environment, check=False)
    seconds = time.monotonic() - began
    shutil.rmtree(temporary, ignore_errors=True)
    counts = counted_cases(report)
    called = collections.Counter(calls.read_text().split())
    shown = " / ".join(str(called[call]) for call in CALLS) if name != "stock" else "–"
    run_cases = counts["passed"] + counts["failed"]
    line = [file, name, *map(str, [run_cases, counts["passed"], counts["failed"], counts["skipped"]])]
    return [*line, shown, f"{seconds:.0f}"], bool(run_cases) and not counts["failed"]


def counted_cases(report: Path) -> collections.Counter[str]:
    """How many cases ended how; an error outside of the tests is a failure."""
    counts: collections.Counter[str] = collections.Counter()
    if not report.exists():
        counts["failed"] = 1
        return counts
    for case in ElementTree.parse(report).iter("testcase"):
        children = {child.tag for child in case}
        if children & {"failure", "error"}:
            counts["failed"] += 1
        else:
            counts["skipped" if "skipped" in children else "passed"] += 1
    return counts


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("tests", type=Path)
    parser.add_argument("--stock", action="store_true", help="with PyTorch's classes")
    parser.add_argument("--quick", action="store_true", help=f"only {', '.join(QUICK)}")
    parser.add_argument("--only", action="append", metavar="FILE")
    parser.add_argument(
        "--trusted", action="store_true", help="load values of any type: StorageReader(…, weights_only=False)"
    )
    arguments, options = parser.parse_known_args()
    name = "stock" if arguments.stock else "scai, trusted" if arguments.trusted else "scai"
    files = arguments.only or (QUICK if arguments.quick else FILES)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        edited_copy(arguments.tests, folder / "checkpoint")
        (folder / "sitecustomize.py").write_text("import upstream_dcp\n\nupstream_dcp.install()\n")
        outcomes = [run(folder, file, name, options) for file in files]
    header = ["file", "classes", "run", "passed", "failed", "skipped", f"calls: {' / '.join(CALLS)}", "s"]
    print()
    for line in [header, ["---"] * len(header), *(line for line, _ in outcomes)]:
        print(f"| {' | '.join(line)} |")
    sys.exit(not all(passed for _, passed in outcomes))


if __name__ == "__main__":
    main()
