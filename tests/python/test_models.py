"""The network in PyTorch is that of the trainer."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import scai
import torch
from scai.models import DualResNet
from scai.training.trainer import Trainer
from small import differences, small, state

TIC_TAC_TOE = {"num_blocks": 2, "channels": 8, "planes": (3, 3, 3), "actions": 9}


def test_the_defaults_are_those_of_the_trainer_for_connect_four(tmp_path: Path) -> None:
    trainer = Trainer(checkpoint={"directory": tmp_path})
    saved = state(trainer.save_checkpoint())["model_state_dict"]
    network = DualResNet()
    assert list(saved) == list(network.state_dict())
    network.load_state_dict(saved, strict=True)
    assert differences(dict(network.state_dict()), dict(saved)) == []


def test_the_number_of_blocks_is_all_it_needs() -> None:
    network = DualResNet(num_blocks=20)
    assert len(network.backbone.blocks) == 20
    logits, value = network(torch.zeros(5, 3, 6, 7))
    assert logits.shape == (5, 7)
    assert value.shape == (5, 1)
    assert value.abs().max() <= 1


def test_a_trained_network_and_its_optimizer_go_on_in_pytorch(tmp_path: Path) -> None:
    trainer = small(tmp_path)
    trainer.train(iterations=2)
    checkpoint = torch.load(tmp_path / "checkpoint_iter_2.pt", weights_only=True)
    network = DualResNet(**TIC_TAC_TOE)  # type: ignore[arg-type]
    optimizer = torch.optim.AdamW(network.parameters())
    network.load_state_dict(checkpoint["model_state_dict"])
    optimizer.load_state_dict(checkpoint["optimizer_state_dict"])
    names = checkpoint["optimizer_state_dict"]["param_groups"][0]["param_names"]
    assert names == [name for name, _ in network.named_parameters()]
    planes, policies, values = (
        checkpoint["replay_buffer"][key] for key in ("planes", "policies", "values")
    )
    network.eval()
    logits, value = network(planes.float().reshape(-1, 3, 3, 3))
    policies, values = policies.reshape(-1, 9), values.reshape(-1, 1)
    loss = -(policies * logits.log_softmax(1)).sum(1).mean() + (value - values).square().mean()
    # What it learnt from is what it knows: a network with names exchanged would be far off.
    assert loss.item() < trainer.training_stats["loss"] + 0.5
    network.train()
    loss.backward()
    optimizer.step()


def test_a_network_of_pytorch_is_one_to_train(tmp_path: Path) -> None:
    torch.manual_seed(3)
    network = DualResNet(**TIC_TAC_TOE)  # type: ignore[arg-type]
    torch.save(network.state_dict(), tmp_path / "fresh.pt")
    trainer = small(tmp_path)
    report = trainer.load_checkpoint(tmp_path / "fresh.pt", network_only=True).report
    assert report.complete
    assert trainer.training_stats["total_iterations"] == 0
    saved = state(trainer.save_checkpoint())["model_state_dict"]
    assert differences(dict(saved), dict(network.state_dict())) == []
    trainer.train(iterations=1)


def test_without_pytorch_it_says_what_to_install() -> None:
    code = "import sys; sys.modules['torch'] = None; import scai.models"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert "ImportError: scai.models needs PyTorch" in done.stderr
    assert "pip install torch" in done.stderr


def test_without_pytorch_tensors_say_what_to_install(tmp_path: Path) -> None:
    scai.save({"a": torch.ones(2)}, tmp_path / "tensors.pt")
    scai.save({"a": 1}, tmp_path / "plain.pt")
    code = (
        "import sys; sys.modules['torch'] = None; import scai; "
        "assert scai.load('plain.pt') == {'a': 1}; scai.load('tensors.pt')"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1
    expected = "ImportError: tensors need PyTorch, which is not installed: pip install torch\n"
    assert done.stderr.endswith(expected)


@pytest.mark.parametrize("module", ["scai", "scai.training.trainer", "scai.utils.checkpoint"])
def test_pytorch_is_imported_only_where_it_is_used(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
