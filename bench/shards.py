"""Checkpoints of several ranks compared: `python bench/shards.py --help`.

Ranks of gloo on this machine train a small FSDP2 model and save it with PyTorch's own writer and with scai's, in
turns, round by round; the table shows medians over rounds of the slowest rank. "Durable" is a `dcp.save` of which
files and names were synced: PyTorch's writer syncs its files, and here the directory is synced after it, as it does
not do. "The bytes alone" are as many, written past the page cache and synced, or read into the same tensors, and
neither looked at nor named: no way to save and load takes less. ``--scale`` shows how the cost grows with the number of tensors, and what rank 0 would have to do for more
ranks than there are here.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import pickle
import random
import resource
import shutil
import statistics
import sys
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from memory import peak_of
from scai import _native
from scai.distributed import StorageReader, StorageWriter
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

Times = dict[str, list[float]]


class Training:
    """An FSDP2 model with AdamW, of which each rank holds a part."""

    def __init__(self, layers: int, width: int) -> None:
        torch.manual_seed(0)
        self.width = width
        self.model = nn.Sequential(*(nn.Linear(width, width) for _ in range(layers)))
        mesh = init_device_mesh("cpu", (dist.get_world_size(),))
        for layer in self.model:
            fully_shard(layer, mesh=mesh)
        fully_shard(self.model, mesh=mesh)
        self.optimizer = torch.optim.AdamW(self.model.parameters())
        self.step()

    def step(self) -> None:
        self.optimizer.zero_grad()
        self.model(torch.randn(2, self.width)).square().mean().backward()
        self.optimizer.step()

    def state(self) -> dict[str, Any]:
        model, optimizer = get_state_dict(self.model, self.optimizer)
        return {"model": model, "optimizer": optimizer}

    def nbytes(self) -> int:
        """Bytes of the whole state."""
        return sum(3 * p.numel() * p.element_size() for p in self.model.parameters())


def synced(directory: Path) -> None:
    """What PyTorch's writer leaves out for a save to survive a power failure."""
    for each in (directory, directory.parent):
        number = os.open(each, os.O_RDONLY)
        os.fsync(number)
        os.close(number)


def forget(directory: Path) -> None:
    """Let later reads come from the device."""
    for path in directory.glob("*"):
        number = os.open(path, os.O_RDONLY)
        os.posix_fadvise(number, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(number)


def together(work: Callable[[], object]) -> float:
    """Seconds until the slowest rank is done."""
    dist.barrier()
    began = time.perf_counter()
    work()
    took = torch.tensor(time.perf_counter() - began, dtype=torch.float64)
    dist.all_reduce(took, dist.ReduceOp.MAX)
    return float(took)


class Way:
    """One way to save and load: PyTorch's, or scai's."""

    def __init__(self, name: str, training: Training, group: Any) -> None:
        self.name = name
        self._training = training
        self._group = group
        # One for all rounds, as in a training: it uses its memory again.
        self._background: Any = None

    def _writer(self, directory: Path) -> Any:
        return dcp.FileSystemWriter(directory) if self.name == "PyTorch" else StorageWriter(directory)

    def save(self, state: dict[str, Any], directory: Path) -> None:
        dcp.save(state, storage_writer=self._writer(directory), process_group=self._group)
        if self.name == "PyTorch" and dist.get_rank() == 0:
            synced(directory)

    def load(self, state: dict[str, Any], directory: Path) -> None:
        reader = dcp.FileSystemReader if self.name == "PyTorch" else StorageReader
        dcp.load(state, storage_reader=reader(directory), process_group=self._group)

    def begin(self, state: dict[str, Any], directory: Path) -> Any:
        """A save in the background."""
        if self.name == "PyTorch":
            writer = self._writer(directory)
        else:
            models, optimizers = [self._training.model], [self._training.optimizer]
            if self._background is None:
                self._background = StorageWriter(directory, models=models, optimizers=optimizers)
            writer = self._background
            writer.reset(directory)
        return dcp.async_save(state, storage_writer=writer, process_group=self._group)

    def measure(self, directory: Path, found: Times) -> None:
        """One round."""
        state = self._training.state()
        note = self.save_and_load(state, directory, found)
        futures: list[Any] = []
        note("async_save blocks", together(lambda: futures.append(self.begin(state, directory))))
        note("the step after it", together(self._training.step))
        futures[0].result()


    def save_and_load(
        self, state: dict[str, Any], directory: Path, found: Times
    ) -> Callable[[str, float], None]:
        """The part of a round that training waits for; returns what notes a figure."""
        if dist.get_rank() == 0:
            shutil.rmtree(directory, ignore_errors=True)
        memory: list[float] = []
        note = lambda what, value: found[f"{self.name}, {what}"].append(value)  # noqa: E731
        note("durable save", together(lambda: memory.append(peak_of(lambda: self.save(state, directory)))))
        note("MiB", memory[0])
        # Each rank forgets all of it, and none begins before all have.
        forget(directory)
        note("load from the device", together(lambda: self.load(state, directory)))
        note("load from memory", together(lambda: self.load(state, directory)))
        return note


class Bytes(Way):
    """What the device and the memory do with as many bytes."""

    PIECE = 8 << 20

    def __init__(self, training: Training) -> None:
        super().__init__("bytes", training, None)
        # Begins at a page, as the device wants it.
        self._piece = mmap.mmap(-1, self.PIECE)
        self._piece.write(random.Random(0).randbytes(self.PIECE))

    def save(self, state: dict[str, Any], directory: Path) -> None:
        directory.mkdir(exist_ok=True)
        file = os.open(directory / f"{dist.get_rank()}", os.O_CREAT | os.O_WRONLY | os.O_DIRECT, 0o644)
        nbytes = sum(memory.nbytes for memory in memories(state))
        os.posix_fallocate(file, 0, nbytes)
        for at in range(0, nbytes, self.PIECE):
            os.pwrite(file, self._piece, at)
        os.fsync(file)
        os.close(file)
        synced(directory)

    def load(self, state: dict[str, Any], directory: Path) -> None:
        file = os.open(directory / f"{dist.get_rank()}", os.O_RDONLY)
        at = 0
        for memory in memories(state):
            os.preadv(file, [memory], at)
            at += memory.nbytes
        os.close(file)

    def measure(self, directory: Path, found: Times) -> None:
        """One round, in which nothing is saved: the tensors get back what they had."""
        state = self._training.state()
        before = [bytes(memory) for memory in memories(state)]
        self.save_and_load(state, directory, found)
        for memory, kept in zip(memories(state), before):
            memory[:] = kept


def memories(state: Any) -> list[memoryview]:
    """The memory of all tensors of this rank."""
    if isinstance(state, dict):
        return [memory for value in state.values() for memory in memories(value)]
    if not isinstance(state, torch.Tensor):
        return []
    tensor = state.to_local() if hasattr(state, "to_local") else state
    return [memoryview(tensor.detach().view(-1).view(torch.uint8).numpy())]


def measure(training: Training, root: Path, rounds: int) -> Times:
    group = dist.new_group(backend="gloo")
    ways = [Bytes(training), *(Way(name, training, group) for name in ("PyTorch", "scai"))]
    found: Times = defaultdict(list)
    first: Times = defaultdict(list)
    for number in range(rounds + 1):
        order = random.Random(number).sample(ways, len(ways))
        for way in order:
            # The first round only warms up, but memory that is used again was new in it.
            way.measure(root / f"{way.name}-{number % 2}", found if number else first)
    return {**found, **{what: values for what, values in first.items() if what.endswith("MiB")}}


def rank(number: int, size: int, store: str, args: argparse.Namespace, out: str) -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=number, world_size=size, store=dist.FileStore(store, size))
    training = Training(args.layers, args.width)
    found = measure(training, Path(args.directory), args.rounds)
    if number == 0:
        Path(out).write_text(json.dumps({"times": found, "bytes": training.nbytes()}))
    dist.barrier()


def forked(size: int, body: Callable[[int], None]) -> None:
    """Run `body` in processes that share what this one has imported."""
    pids = []
    for number in range(size):
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                body(number)
                status = 0
            except BaseException:
                import traceback

                traceback.print_exc()
            finally:
                sys.stdout.flush()
                os._exit(status)
        pids.append(pid)
    for pid in pids:
        if os.waitpid(pid, 0)[1]:
            raise SystemExit("a rank failed")


def compare(size: int, args: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(dir=args.directory) as directory:
        ranks = argparse.Namespace(**{**vars(args), "directory": directory})
        store, out = f"{directory}/store", f"{directory}/out.json"
        forked(size, lambda number: rank(number, size, store, ranks, out))
        found = json.loads(Path(out).read_text())
    show(size, found["bytes"], {key: statistics.median(each) for key, each in found["times"].items()})


def show(size: int, nbytes: int, found: dict[str, float]) -> None:
    print(f"\n{size} ranks, {nbytes / 1e6:.0f} MB\n")
    print("| | the bytes alone | PyTorch | scai | ratio |\n|---|---|---|---|---|")
    for what in (
        "durable save",
        "load from the device",
        "load from memory",
        "async_save blocks",
        "the step after it",
    ):
        stock, ours = found[f"PyTorch, {what}"] * 1e3, found[f"scai, {what}"] * 1e3
        alone = found.get(f"bytes, {what}")
        floor = "" if alone is None else f"{alone * 1e3:.1f}"
        print(f"| {what}, ms | {floor} | {stock:.1f} | {ours:.1f} | {stock / ours:.2f} |")
    print(f"| memory of rank 0 in the first save, MiB | | {found['PyTorch, MiB']:.0f} | {found['scai, MiB']:.0f} | |")


# How the cost grows


def cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def tensors(count: int, directory: Path) -> tuple[float, float, float]:
    """CPU seconds of a save and a load of so many tensors of 1 KB, and bytes of metadata."""
    state = {f"layer.{i}.weight": torch.full((16, 16), float(i)) for i in range(count)}
    began = cpu()
    dcp.save(state, storage_writer=StorageWriter(directory), no_dist=True)
    saved = cpu()
    dcp.load(state, storage_reader=StorageReader(directory), no_dist=True)
    loaded = cpu()
    return saved - began, loaded - saved, os.path.getsize(directory / ".metadata")


def many_ranks(size: int, per_rank: int, directory: Path) -> tuple[float, int, int, int]:
    """What rank 0 does in a save of so many ranks: CPU seconds, bytes of the plans it gathers, of the metadata
    and of the commit. The shards are small and written here, all else is what a save does."""
    from torch.distributed.checkpoint.default_planner import create_default_global_save_plan
    from torch.distributed.checkpoint.filesystem import _StorageInfo
    from torch.distributed.checkpoint.metadata import (
        ChunkStorageMetadata,
        MetadataIndex,
        TensorProperties,
    )
    from torch.distributed.checkpoint.planner import (
        SavePlan,
        TensorWriteData,
        WriteItem,
        WriteItemType,
    )
    from torch.distributed.checkpoint.storage import WriteResult

    rows = 4
    shape = torch.Size([rows * size, 8])

    def plan(number: int) -> SavePlan:
        offset = torch.Size([rows * number, 0])
        items = []
        for i in range(per_rank):
            chunk = ChunkStorageMetadata(offset, torch.Size([rows, 8]))
            data = TensorWriteData(chunk, TensorProperties(torch.float32), shape)
            index = MetadataIndex(f"layer.{i}.weight", offset)
            items.append(WriteItem(index, WriteItemType.SHARD, tensor_data=data))
        return SavePlan(items)

    plans = [pickle.dumps(plan(number)) for number in range(size)]
    writer = StorageWriter(directory)
    writer.set_up_storage_writer(True, rank=0)
    began = cpu()
    gathered, metadata = create_default_global_save_plan([pickle.loads(each) for each in plans])
    gathered = writer.prepare_global_plan(gathered)
    planned = cpu() - began
    results: list[list[WriteResult]] = []
    for each in gathered:
        name = f"{each.storage_data.prefix}0.distcp"
        shard = _native.Shard(_native.Tree.encode([torch.zeros(rows, 8)]))
        ranges, nbytes, root = shard.write(directory, name, [("x", 0)], 1, "buffered")
        place = _StorageInfo(name, *ranges[0])
        written = [WriteResult(item.index, 1, place) for item in each.items]
        results.append([*written, writer.written(name, nbytes, root)])
    sent = [pickle.dumps(each) for each in results]
    began = cpu()
    writer.finish(metadata, [pickle.loads(each) for each in sent])
    planned += cpu() - began
    return (
        planned,
        sum(map(len, plans)) + sum(map(len, sent)),
        os.path.getsize(directory / ".metadata"),
        os.path.getsize(directory / "commit.json"),
    )


def scale(args: argparse.Namespace) -> None:
    print("\n| tensors | save, CPU s | load, CPU s | metadata, KB |\n|---|---|---|---|")
    for count in (100, 1_000, 10_000, 100_000):
        with tempfile.TemporaryDirectory(dir=args.directory) as directory:
            saved, loaded, nbytes = tensors(count, Path(directory))
        print(f"| {count:,} | {saved:.2f} | {loaded:.2f} | {nbytes / 1e3:,.0f} |")
    print(
        "\n| ranks, 100 tensors each | rank 0, CPU s | gathered by rank 0, MB | metadata, MB | commit, KB |"
        "\n|---|---|---|---|---|"
    )
    for size in (1, 2, 4, 8, 64, 256, 1_024):
        with tempfile.TemporaryDirectory(dir=args.directory) as directory:
            used, gathered, metadata, commit = many_ranks(size, 100, Path(directory))
        print(
            f"| {size:,} | {used:.2f} | {gathered / 1e6:.1f} | {metadata / 1e6:.1f} | {commit / 1e3:.1f} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--directory", default=None, help="where checkpoints go; a temporary directory")
    parser.add_argument("--scale", action="store_true", help="how the cost grows, instead of a comparison")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    if args.scale:
        scale(args)
        return
    for size in args.ranks:
        compare(size, args)


if __name__ == "__main__":
    main()
