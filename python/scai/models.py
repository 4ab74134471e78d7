"""The network of the trainer as a module of PyTorch.

`DualResNet` has the names, shapes and layouts of the network that the trainer trains in Rust: the
``model_state_dict`` of a checkpoint of one is that of the other. This module needs PyTorch.
"""

from __future__ import annotations

try:
    import torch
    from torch import Tensor, nn
except ImportError as error:
    message = "scai.models needs PyTorch, which is not installed: pip install torch"
    raise ImportError(message) from error

__all__ = ["DualResNet"]

POLICY_CHANNELS = 16
"""Channels of the policy head before its linear layer."""
VALUE_CHANNELS = 8
"""Channels of the value head before its linear layers."""
VALUE_HIDDEN = 64
"""Width of the value head's hidden layer."""


class DualResNet(nn.Module):
    """A residual tower with a policy head and a value head, as in AlphaZero.

    A stem of a 3×3 convolution with batch norm and ReLU; `num_blocks` blocks of two 3×3
    convolutions with batch norm and a skip connection; a policy head (1×1 convolution, linear) and
    a value head (1×1 convolution, two linear layers, tanh). Source: Silver et al., *A general
    reinforcement learning algorithm that masters chess, shogi, and Go through self-play*, 2018.

    Parameters are initialised as PyTorch does it for these layers: weights and biases of
    convolutions and linear layers uniform within ±1/√fan_in, batch norm at 1 and 0. The trainer
    draws from the same distributions, and other numbers, from the seed of its settings.

    Args:
        num_blocks: residual blocks.
        channels: channels of the tower.
        planes: channels, rows and columns of the input. Of Connect Four; tic-tac-toe has
            ``(3, 3, 3)``.
        actions: actions of the game. Of Connect Four; tic-tac-toe has 9.
    """

    def __init__(
        self,
        num_blocks: int = 4,
        channels: int = 32,
        planes: tuple[int, int, int] = (3, 6, 7),
        actions: int = 7,
    ) -> None:
        super().__init__()
        depth, rows, columns = planes
        self.backbone = Backbone(depth, channels, num_blocks)
        self.policy_head = PolicyHead(channels, rows * columns, actions)
        self.value_head = ValueHead(channels, rows * columns)

    def forward(self, planes: Tensor) -> tuple[Tensor, Tensor]:
        """Judge positions.

        Args:
            planes: ``[batch, depth, rows, columns]``, floating point: 0 or 1.

        Returns:
            Logits of the policy, ``[batch, actions]``, illegal actions included; and the value for
            the player to move, ``[batch, 1]``, from −1 (a loss) to 1.
        """
        features = self.backbone(planes)
        return self.policy_head(features), self.value_head(features)


class Backbone(nn.Module):
    """``[batch, planes, rows, columns]`` to ``[batch, channels, rows, columns]``."""

    def __init__(self, planes: int, channels: int, num_blocks: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(planes, channels, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(channels)
        self.blocks = nn.Sequential(*(ResidualBlock(channels) for _ in range(num_blocks)))

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.blocks(torch.relu(self.bn(self.conv(x))))
        return features


class ResidualBlock(nn.Module):
    """``[batch, channels, rows, columns]`` to the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + x)


class PolicyHead(nn.Module):
    """``[batch, channels, rows, columns]`` to logits ``[batch, actions]``."""

    def __init__(self, channels: int, cells: int, actions: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, POLICY_CHANNELS, 1, bias=False)
        self.bn = nn.BatchNorm2d(POLICY_CHANNELS)
        self.fc = nn.Linear(POLICY_CHANNELS * cells, actions)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(torch.relu(self.bn(self.conv(x))).flatten(1))
        return logits


class ValueHead(nn.Module):
    """``[batch, channels, rows, columns]`` to values ``[batch, 1]``."""

    def __init__(self, channels: int, cells: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, VALUE_CHANNELS, 1, bias=False)
        self.bn = nn.BatchNorm2d(VALUE_CHANNELS)
        self.fc1 = nn.Linear(VALUE_CHANNELS * cells, VALUE_HIDDEN)
        self.fc2 = nn.Linear(VALUE_HIDDEN, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn(self.conv(x))).flatten(1)
        return torch.tanh(self.fc2(torch.relu(self.fc1(x))))
