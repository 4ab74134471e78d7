"""Checkpoints in an object store: a server that speaks S3 (moto), on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import scai
import torch
from scai import CheckpointManager
from scai.errors import DamagedError, LockedError
from test_guide import STORES, run
from torch import nn

boto3 = pytest.importorskip("boto3")

ACCESS = {"aws_access_key_id": "key", "aws_secret_access_key": "secret", "aws_region": "us-east-1"}


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """A server, in a process of its own."""
    import socket

    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(url, timeout=1).close()
                break
            except OSError:
                time.sleep(0.1)
        yield url
    finally:
        server.kill()
        server.wait()


@pytest.fixture
def bucket(endpoint: str, request: pytest.FixtureRequest) -> Any:
    """A new bucket, through Amazon's own client."""
    client = boto3.resource(
        "s3", endpoint_url=endpoint, aws_access_key_id="key", aws_secret_access_key="secret",
        region_name="us-east-1",
    )
    return client.create_bucket(Bucket=f"bucket-{abs(hash(request.node.nodeid))}")


@pytest.fixture
def options(endpoint: str) -> dict[str, str]:
    return {**ACCESS, "aws_endpoint": endpoint}


def model_and_optimizer(seed: int = 0) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(1024, 1024), nn.Linear(1024, 1024))
    optimizer = torch.optim.AdamW(model.parameters())
    step(model, optimizer)
    return model, optimizer


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    model(torch.randn(2, 1024)).square().mean().backward()
    optimizer.step()


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values()))


def keys(bucket: Any) -> list[str]:
    return [each.key for each in bucket.objects.all()]


@pytest.mark.parametrize("wait", [True, False])
def test_a_training_saves_and_resumes(bucket: Any, options: dict[str, str], wait: bool, tmp_path: Path) -> None:
    url = f"s3://{bucket.name}/runs/one"
    model, optimizer = model_and_optimizer()
    manager = CheckpointManager(url, keep_last=2, storage_options=options)
    assert manager.resume(model, optimizer) is None and manager.list_checkpoints() == []
    for iteration in (1, 2, 3):
        step(model, optimizer)
        saved = manager.save_checkpoint(model, optimizer, iteration, {"loss": iteration / 2}, wait=wait)
        path = saved if isinstance(saved, str) else saved.result()
        assert path == f"{url}/checkpoint_iter_{iteration}.pt"
    manager.flush()
    assert manager.list_checkpoints() == [f"{url}/checkpoint_iter_{each}.pt" for each in (2, 3)]
    assert manager.get_latest_checkpoint() == f"{url}/checkpoint_iter_3.pt"
    assert manager.best_checkpoint("loss:min") == f"{url}/checkpoint_iter_2.pt"
    manager.pin(2)
    manager.close()

    other, its_optimizer = model_and_optimizer(1)
    again = CheckpointManager(url, keep_last=1, storage_options=options)
    resumed = again.resume(other, its_optimizer)
    assert resumed is not None and resumed.iteration == 3 and same(model, other)
    assert resumed.path == f"{url}/checkpoint_iter_3.pt" and not resumed.skipped
    step(other, its_optimizer)
    again.save_checkpoint(other, its_optimizer, 4)
    assert again.all_iterations() == [2, 4], "a pinned one stays"
    assert all(again.verify_checkpoint(4).values())
    again.unpin(2)
    again.load_checkpoint(2, model, optimizer)
    loaded = scai.load(f"{url}/latest.pt", storage_options=options)
    assert loaded["iteration"] == 4
    assert scai.verify(f"{url}/checkpoint_iter_4.pt", storage_options=options)

    # What is uploaded is an ordinary file.
    [key] = [key for key in keys(bucket) if "/checkpoint_iter_4.pt/" in key and key.endswith(".pt")]
    bucket.download_file(key, str(tmp_path / "a.pt"))
    assert torch.load(tmp_path / "a.pt", weights_only=True)["iteration"] == 4
    again.close()


def test_damage_in_the_store_is_named_and_the_one_before_is_resumed_from(
    bucket: Any, options: dict[str, str]
) -> None:
    url = f"s3://{bucket.name}/run"
    model, optimizer = model_and_optimizer()
    manager = CheckpointManager(url, storage_options=options)
    for iteration in (1, 2):
        manager.save_checkpoint(model, optimizer, iteration)
    [key] = [key for key in keys(bucket) if "/checkpoint_iter_2.pt/" in key and key.endswith(".pt")]
    content = bytearray(bucket.Object(key).get()["Body"].read())
    content[len(content) // 2] ^= 1
    bucket.Object(key).put(Body=bytes(content))
    with pytest.raises(DamagedError, match=r"checkpoint_iter_2\.pt.*_state_dict"):
        manager.load_checkpoint(2, model, optimizer)
    resumed = manager.resume(model, optimizer)
    assert resumed is not None and resumed.iteration == 1
    assert resumed.skipped[0].set_aside == f"{url}/checkpoint_iter_2.pt.damaged"
    manager.close()


def test_the_next_run_takes_over(bucket: Any, options: dict[str, str]) -> None:
    url = f"s3://{bucket.name}/run"
    model, optimizer = model_and_optimizer()
    old = CheckpointManager(url, storage_options=options)
    old.save_checkpoint(model, optimizer, 1)
    new = CheckpointManager(url, storage_options=options)
    new.save_checkpoint(model, optimizer, 2)
    with pytest.raises(LockedError, match=f"process {os.getpid()} on .* took over at"):
        old.save_checkpoint(model, optimizer, 3)
    assert new.all_iterations() == [1, 2]
    new.close()


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"bucket": "no-such-bucket"}, FileNotFoundError, "no such bucket or container"),
        ({"aws_endpoint": "http://127.0.0.1:9"}, OSError, "check the endpoint"),
    ],
)
def test_what_is_wrong_with_a_store_is_said(
    bucket: Any, options: dict[str, str], change: dict[str, str], kind: type[Exception], message: str
) -> None:
    name = change.pop("bucket", bucket.name)
    manager = CheckpointManager(f"s3://{name}/run", storage_options={**options, **change, "timeout": "3"})
    began = time.monotonic()
    with pytest.raises(kind, match=message):
        manager.save_checkpoint(*model_and_optimizer(), 1)
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("page", STORES)
def test_the_page_on_object_stores_runs(
    page: str, endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {**ACCESS, "aws_endpoint": endpoint}.items():
        monkeypatch.setenv(name.upper(), value)
    client = boto3.client("s3", endpoint_url=endpoint)
    client.create_bucket(Bucket="my-bucket")
    run(page, tmp_path, monkeypatch, kinds={"python", "text"})
    for content in client.list_objects_v2(Bucket="my-bucket")["Contents"]:
        client.delete_object(Bucket="my-bucket", Key=content["Key"])


def test_the_command_takes_urls(
    bucket: Any, options: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in options.items():
        monkeypatch.setenv(name.upper(), value)
    monkeypatch.chdir(tmp_path)
    url = f"s3://{bucket.name}/run"
    model, optimizer = model_and_optimizer()
    with CheckpointManager(url) as manager:
        for iteration in (1, 2, 3):
            manager.save_checkpoint(model, optimizer, iteration)

    def command(*arguments: str, status: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "scai", *arguments], capture_output=True, text=True, timeout=120
        )
        assert done.returncode == status, done
        return done.stdout + done.stderr

    listed = json.loads(command("list", url, "--json"))
    assert [each["iteration"] for each in listed] == [1, 2, 3]
    assert "every digest matches" in command("verify", url)
    assert "model_state_dict" in command("show", f"{url}/checkpoint_iter_1.pt")
    assert "17 of 17 tensors equal" in command(
        "diff", f"{url}/checkpoint_iter_1.pt", f"{url}/latest.pt", status=1
    )
    command("convert", f"{url}/checkpoint_iter_1.pt", "a.safetensors")
    assert "identical bit for bit" in command("diff", f"{url}/checkpoint_iter_1.pt", "a.safetensors")
    command("pin", f"{url}/checkpoint_iter_1.pt")
    assert "1 checkpoint deleted" in command("prune", url, "--keep", "last:1", "--yes")
    command("rollback", url, "1")
    listed = json.loads(command("list", url, "--json"))
    assert [(each["iteration"], each["pinned"]) for each in listed] == [(1, True), (3, False)]
    assert "there is no file" in command("show", f"{url}/checkpoint_iter_9.pt", status=2)


def test_of_many_that_begin_at_once_one_goes_on_writing(bucket: Any, options: dict[str, str]) -> None:
    url = f"s3://{bucket.name}/run"
    model, optimizer = model_and_optimizer()
    managers = [CheckpointManager(url, storage_options=options) for _ in range(8)]
    with ThreadPoolExecutor(len(managers)) as pool:
        saved = pool.map(lambda each: _outcome(each, model, optimizer, 1), managers)
        assert set(saved) <= {"saved", "locked"}
    # Whoever came last, and nobody else.
    outcomes = [_outcome(each, model, optimizer, 2) for each in managers]
    assert outcomes.count("saved") == 1 and outcomes.count("locked") == len(managers) - 1
    assert all(managers[0].verify_checkpoint(2).values())


def _outcome(manager: CheckpointManager, model: nn.Module, optimizer: Any, iteration: int) -> str:
    try:
        manager.save_checkpoint(model, optimizer, iteration)
        return "saved"
    except LockedError:
        return "locked"


def test_shards_are_refused_in_words(bucket: Any, options: dict[str, str]) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        model = nn.Linear(4, 4)
        fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
        manager = CheckpointManager(f"s3://{bucket.name}/run", storage_options=options)
        with pytest.raises(OSError, match="shards"):
            manager.save_checkpoint(model, None, 1)
        assert manager.all_iterations() == []
    finally:
        torch.distributed.destroy_process_group()


def test_arguments_are_checked(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="takes no storage options"):
        CheckpointManager(tmp_path, storage_options={"aws_region": "a"})
    with pytest.raises(ValueError, match="`aws_regoin` is not an option"):
        CheckpointManager("s3://bucket/run", storage_options={"aws_regoin": "a"})
    with pytest.raises(ValueError, match="`timeout` must be a number of seconds"):
        CheckpointManager("s3://bucket/run", storage_options={"timeout": "soon"})
    with pytest.raises(TypeError, match="write a dict"):
        CheckpointManager("s3://bucket/run", storage_options="aws")  # type: ignore[arg-type]
    with pytest.raises(OSError, match="`ftp` is not supported"):
        CheckpointManager("ftp://host/run")
    # `pathlib` merges the slashes.
    for url in ("s3://bucket/run", Path("s3://bucket/run")):
        manager = CheckpointManager(url, storage_options=ACCESS)
        assert (manager.checkpoint_dir, manager._snapshot) == ("s3://bucket/run", "copy")
    assert CheckpointManager(tmp_path / "run")._snapshot == "live"
