"""The network of the trainer as a module of PyTorch, by the same names."""

import torch
from torch import nn

POLICY_CHANNELS, VALUE_CHANNELS, VALUE_HIDDEN = 16, 8, 64


class ResidualBlock(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x):
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + x)


class Backbone(nn.Module):
    def __init__(self, planes, channels, num_blocks):
        super().__init__()
        self.conv = nn.Conv2d(planes, channels, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(channels)
        self.blocks = nn.Sequential(*(ResidualBlock(channels) for _ in range(num_blocks)))

    def forward(self, x):
        return self.blocks(torch.relu(self.bn(self.conv(x))))


class PolicyHead(nn.Module):
    def __init__(self, channels, cells, actions):
        super().__init__()
        self.conv = nn.Conv2d(channels, POLICY_CHANNELS, 1, bias=False)
        self.bn = nn.BatchNorm2d(POLICY_CHANNELS)
        self.fc = nn.Linear(POLICY_CHANNELS * cells, actions)

    def forward(self, x):
        return self.fc(torch.relu(self.bn(self.conv(x))).flatten(1))


class ValueHead(nn.Module):
    def __init__(self, channels, cells):
        super().__init__()
        self.conv = nn.Conv2d(channels, VALUE_CHANNELS, 1, bias=False)
        self.bn = nn.BatchNorm2d(VALUE_CHANNELS)
        self.fc1 = nn.Linear(VALUE_CHANNELS * cells, VALUE_HIDDEN)
        self.fc2 = nn.Linear(VALUE_HIDDEN, 1)

    def forward(self, x):
        x = torch.relu(self.bn(self.conv(x))).flatten(1)
        return torch.tanh(self.fc2(torch.relu(self.fc1(x))))


class DualResNet(nn.Module):
    """Planes [batch, channels, rows, columns] to logits [batch, actions] and values [batch, 1]."""

    def __init__(self, num_blocks, channels, planes, actions):
        super().__init__()
        depth, rows, columns = planes
        self.backbone = Backbone(depth, channels, num_blocks)
        self.policy_head = PolicyHead(channels, rows * columns, actions)
        self.value_head = ValueHead(channels, rows * columns)

    def forward(self, planes):
        features = self.backbone(planes)
        return self.policy_head(features), self.value_head(features)
