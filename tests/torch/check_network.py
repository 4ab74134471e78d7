"""Compares a network trained by scai with the same network in PyTorch.

check_network.py CHECKPOINT JUDGED FRESH: `JUDGED` holds planes and what Rust thinks of them. The
largest difference is printed. A network that PyTorch initialised is written to `FRESH`.
"""

import runpy
import sys
from pathlib import Path

import torch

# By its file: the package itself need not be installed.
MODELS = Path(__file__).parents[2] / "python" / "scai" / "models.py"
DualResNet = runpy.run_path(str(MODELS))["DualResNet"]

checkpoint_path, judged_path, fresh_path = sys.argv[1:]
checkpoint = torch.load(checkpoint_path)
judged = torch.load(judged_path)
planes = judged["planes"].float()
model = checkpoint["metadata"]["config"]["model"]
size = dict(
    num_blocks=model["num_blocks"],
    channels=model["channels"],
    planes=planes.shape[1:],
    actions=judged["policies"].shape[1],
)
network = DualResNet(**size)
network.load_state_dict(checkpoint["model_state_dict"])
network.eval()
with torch.no_grad():
    logits, values = network(planes)
difference = max(
    (logits.softmax(1) - judged["policies"]).abs().max().item(),
    (values - judged["values"]).abs().max().item(),
)
print(f"{difference:.3e}")
assert difference <= 1e-5, difference

# The optimizer goes on in PyTorch, with every moment.
optimizer = torch.optim.AdamW(network.parameters())
optimizer.load_state_dict(checkpoint["optimizer_state_dict"])
assert len(optimizer.state) == len(list(network.parameters()))
steps = {int(state["step"]) for state in optimizer.state.values()}
assert steps == {checkpoint["training_stats"]["total_steps"]}, steps
network.train()
logits, values = network(planes)
(values.square().mean() + logits.logsumexp(1).mean()).backward()
optimizer.step()

torch.manual_seed(3)
torch.save(DualResNet(**size).state_dict(), fresh_path)
