"""Compares a model trained by candle with the same model in PyTorch.

check_candle.py OURS THEIRS: `OURS` holds the states of a model and its optimizer, tokens and what
candle makes of them, and the model after one step more. PyTorch does that step too, and the largest
differences are printed. Its model, its optimizer and their outputs are written to `THEIRS`.
"""

import sys

import torch
from torch import nn


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.fc = nn.Linear(width, width)


class Net(nn.Module):
    def __init__(self, width=4, blocks=2, classes=3):
        super().__init__()
        self.width = width
        self.embedding = nn.Embedding(5, width * width)
        self.conv = nn.Conv2d(1, 2, 3, padding=1)
        self.bn = nn.BatchNorm2d(2)
        self.up = nn.ConvTranspose2d(2, 2, 1)
        self.group = nn.GroupNorm(2, 2)
        self.mix = nn.Conv1d(2 * width, 2, 3, padding=1)
        self.blocks = nn.ModuleList(Block(width) for _ in range(blocks))
        self.rms = nn.RMSNorm(width, eps=1e-6)
        self.lstm = nn.LSTM(width, width, batch_first=True)
        self.gru = nn.GRU(width, width, batch_first=True)
        self.act = nn.PReLU()
        self.head = nn.Linear(2 * width, classes)

    def forward(self, tokens):
        x = self.embedding(tokens).reshape(-1, 1, self.width, self.width)
        x = self.group(self.up(self.bn(self.conv(x))))
        x = self.mix(x.reshape(-1, 2 * self.width, self.width))
        for block in self.blocks:
            x = x + block.fc(block.norm(x))
        x, _ = self.lstm(self.rms(x))
        x, _ = self.gru(x)
        return self.head(self.act(x).flatten(1))


def largest(pairs):
    return max((a.double() - b.double()).abs().max().item() for a, b in pairs)


ours_path, theirs_path = sys.argv[1:]
ours = torch.load(ours_path)
model = Net()
model.load_state_dict(ours["model"])
model.eval()
with torch.no_grad():
    difference = largest([(model(ours["tokens"]), ours["outputs"])])
print(f"outputs {difference:.3e}")
assert difference <= 1e-5, difference

# The optimizer goes on in PyTorch, with every moment and by position.
names = [name for name, _ in model.named_parameters()]
assert ours["optimizer"]["param_groups"][0]["param_names"] == names
optimizer = torch.optim.AdamW(model.named_parameters())
optimizer.load_state_dict(ours["optimizer"])
assert optimizer.param_groups[0]["lr"] == 0.01
assert len(optimizer.state) == len(names)
assert {int(state["step"]) for state in optimizer.state.values()} == {3}
for parameter, state in optimizer.state.items():
    assert state["exp_avg"].shape == parameter.shape
model.train()
(model(ours["step_tokens"]) - 0.3).square().mean().backward()
optimizer.step()
state = model.state_dict()
# A bias before a norm has no gradient but rounding errors, which Adam enlarges. Candle 0.11 computes the
# gradient of the kernel of a one-dimensional convolution wrongly (as in its issue 3735).
others = {"conv.bias", "bn.bias", "up.bias", "mix.weight", "bn.num_batches_tracked"}
after = {name: tensor for name, tensor in ours["after"].items() if name not in others}
difference = largest((state[name], tensor) for name, tensor in after.items())
print(f"after a step {difference:.3e}")
assert difference <= 1e-5, difference

model.eval()
with torch.no_grad():
    outputs = model(ours["tokens"])
named = optimizer.state_dict()
unnamed = {
    "state": named["state"],
    "param_groups": [
        {key: value for key, value in group.items() if key != "param_names"}
        for group in named["param_groups"]
    ],
}
torch.save(
    {"model": state, "named": named, "unnamed": unnamed, "outputs": outputs},
    theirs_path,
)
