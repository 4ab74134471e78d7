"""What people ran into who tried the package: each is said plainly, and nothing is lost."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import scai
import torch
from scai.errors import DamagedError, MismatchError
from scai.utils.checkpoint import CheckpointManager


def model() -> torch.nn.Module:
    return torch.nn.Linear(2, 2)


def test_a_wrong_name_of_a_statistic_deletes_nothing(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path, keep_best="los:min")
    for iteration in range(3):
        manager.save_checkpoint(model(), iteration=iteration, training_stats={"loss": 0.5})
    assert len(manager.list_checkpoints()) == 3
    assert manager.prune()[0].reasons == ["no checkpoint has a number `los`"]


def test_a_tensor_of_one_number_counts_as_a_statistic(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path, keep_best="loss:min")
    for iteration, loss in enumerate([0.1, 0.9, 0.8]):
        stats = {"loss": torch.tensor(loss, requires_grad=True)}
        manager.save_checkpoint(model(), iteration=iteration, training_stats=stats)
    kept = [Path(path).name for path in manager.list_checkpoints()]
    assert kept == ["checkpoint_iter_0.pt", "checkpoint_iter_2.pt"]


def test_keys_that_are_saved_as_the_same_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="cannot save `x`: two keys would both be saved"):
        scai.save({"x": {Path("a"): 1, "a": 2}}, tmp_path / "x.pt")


def test_integers_of_any_length_come_back(tmp_path: Path) -> None:
    scai.save([1 << 3000, -(1 << 2038)], tmp_path / "x.pt")
    assert scai.load(tmp_path / "x.pt") == [1 << 3000, -(1 << 2038)]


def test_damage_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    scai.save({"weight": torch.zeros(1 << 18)}, path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedError) as caught:
        scai.load(path)
    assert caught.value.path == str(path)
    assert caught.value.tensor == "weight"


def test_a_directory_that_is_missing_is_said_to_be(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="x.pt`: cannot open its directory"):
        scai.save(1, tmp_path / "missing" / "x.pt")


def test_the_state_of_another_optimizer_is_refused(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path)
    net = model()
    manager.save_checkpoint(net, torch.optim.AdamW(net.parameters()), 1)
    sgd = torch.optim.SGD(net.parameters(), momentum=0.9)
    before = sgd.state_dict()
    with pytest.raises(MismatchError, match="in the checkpoint only: amsgrad, betas"):
        manager.load_checkpoint(None, net, sgd)
    assert sgd.state_dict() == before


def test_a_checkpoint_is_shown_on_one_line(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path)
    path = manager.save_checkpoint(model(), iteration=7)
    shown = repr(manager.load_checkpoint(path))
    assert shown.startswith(f"Checkpoint('{path}', iteration=7: iteration, model_state_dict")
    assert "tensor" not in shown


def test_a_manager_that_was_closed_lets_others_write(tmp_path: Path) -> None:
    with CheckpointManager(tmp_path) as manager:
        manager.save_checkpoint(model(), iteration=1)
    other = (
        "import sys, torch; from scai.utils.checkpoint import CheckpointManager;"
        "CheckpointManager(sys.argv[1]).save_checkpoint({'w': torch.ones(1)}, iteration=2)"
    )
    subprocess.run([sys.executable, "-c", other, str(tmp_path)], check=True)
    assert Path(manager.save_checkpoint(model(), iteration=3)).exists()


def test_a_long_report_is_cut(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path)
    deep = torch.nn.Sequential(*(torch.nn.Linear(1, 1) for _ in range(40)))
    manager.save_checkpoint({f"module.{k}": v for k, v in deep.state_dict().items()}, iteration=1)
    with pytest.raises(MismatchError, match="… and 60 more") as caught:
        manager.load_checkpoint(None, deep)
    assert len(str(caught.value).splitlines()) < 60
    assert "remap" in str(caught.value)
    assert len(caught.value.report["missing"]) == 80


@pytest.mark.parametrize("io", ["auto", "direct", "buffered"])
def test_every_way_to_write_gives_the_same_file(tmp_path: Path, io: str) -> None:
    manager = CheckpointManager(tmp_path, io=io)  # type: ignore[arg-type]
    weights = {"w": torch.arange(1 << 21, dtype=torch.float32), "b": torch.ones(3)}
    path = manager.save_checkpoint(weights, iteration=1)
    assert torch.equal(torch.load(path)["model_state_dict"]["w"], weights["w"])
    with pytest.raises(ValueError, match="`io` must be .*, got 'fast'"):
        CheckpointManager(tmp_path, io="fast")  # type: ignore[arg-type]
