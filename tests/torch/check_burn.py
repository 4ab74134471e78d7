"""Compares a model trained by burn with the same model in PyTorch.

check_burn.py OURS THEIRS: `OURS` holds the states of a model and its optimizer, tokens and what
burn makes of them. The largest difference is printed. Two steps further, PyTorch's model, its
optimizer and their outputs are written to `THEIRS`.
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
        self.conv = nn.Conv2d(1, 2, (width, 1))
        self.bn = nn.BatchNorm2d(2)
        self.blocks = nn.ModuleList(Block(width) for _ in range(blocks))
        self.extra = nn.Linear(width, width)
        self.act = nn.PReLU()
        self.head = nn.Linear(2 * width, classes)
        self.register_buffer("scale", torch.zeros(1, dtype=torch.int32))
        self.register_buffer("mask", torch.zeros(2, dtype=torch.bool))

    def forward(self, tokens):
        x = self.embedding(tokens).reshape(-1, 1, self.width, self.width)
        x = self.bn(self.conv(x)).reshape(-1, 2, self.width)
        for block in self.blocks:
            x = x + block.fc(block.norm(x))
        return self.head(self.act(self.extra(x)).flatten(1))


ours_path, theirs_path = sys.argv[1:]
ours = torch.load(ours_path)
model = Net()
model.load_state_dict(ours["model"])
model.eval()
with torch.no_grad():
    difference = (model(ours["tokens"]) - ours["outputs"]).abs().max().item()
print(f"{difference:.3e}")
assert difference <= 1e-5, difference

# The optimizer goes on in PyTorch, with every moment.
optimizer = torch.optim.AdamW(model.parameters())
optimizer.load_state_dict(ours["optimizer"])
assert len(optimizer.state) == len(list(model.parameters()))
assert {int(state["step"]) for state in optimizer.state.values()} == {3}
for parameter, state in optimizer.state.items():
    assert state["exp_avg"].shape == parameter.shape
model.train()
for _ in range(2):
    optimizer.zero_grad()
    model(ours["tokens"]).square().mean().backward()
    optimizer.step()

model.eval()
for group in optimizer.param_groups:
    del group["param_names"]
with torch.no_grad():
    outputs = model(ours["tokens"])
torch.save(
    {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "outputs": outputs},
    theirs_path,
)
