"""Writes the checkpoints that the README shows: a small residual network under Adam.

Usage: python make.py checkpoints        (torch 2.15.0)

Plain `torch.save`, as a training loop without scai would write them.
"""

import sys
from pathlib import Path

import torch
from torch import nn


class Block(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x):
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(x + y)


class DualResNet(nn.Module):
    def __init__(self, num_blocks=2, channels=8):
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 3, padding=1)
        self.blocks = nn.ModuleList(Block(channels) for _ in range(num_blocks))
        self.policy_head = nn.Linear(channels * 42, 7)
        self.value_head = nn.Linear(channels * 42, 1)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        for block in self.blocks:
            x = block(x)
        x = x.flatten(1)
        return self.policy_head(x), torch.tanh(self.value_head(x))


def main(folder):
    torch.manual_seed(0)
    folder.mkdir(parents=True, exist_ok=True)
    model = DualResNet()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for iteration in (100, 200, 300):
        for _ in range(5):
            policy, value = model(torch.randn(16, 3, 6, 7))
            loss = policy.logsumexp(1).mean() + value.pow(2).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        torch.save(
            {
                "iteration": iteration,
                "model_state_dict": model.state_dict(),
                "optimizer_state_dict": optimizer.state_dict(),
                "training_stats": {
                    "total_iterations": iteration,
                    "total_games": iteration * 20,
                    "loss": round(loss.item(), 4),
                    "win_rate": 0.5 + iteration / 1000,
                },
                "metadata": {"config": "config.yaml"},
                "timestamp": f"2026-11-23T0{iteration // 100}:00:00+00:00",
            },
            folder / f"checkpoint_iter_{iteration}.pt",
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
