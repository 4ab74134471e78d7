"""Time of a training step and of inference of the trainer's network in PyTorch, in milliseconds.

bench_step.py NUM_BLOCKS CHANNELS BATCH INFERENCE_BATCH THREADS: prints the two medians.
"""

import runpy
import statistics
import sys
import time
from pathlib import Path

import torch

# By its file: the package itself need not be installed.
MODELS = Path(__file__).parents[2] / "python" / "scai" / "models.py"
DualResNet = runpy.run_path(str(MODELS))["DualResNet"]

num_blocks, channels, batch, inference_batch, threads = map(int, sys.argv[1:])
torch.set_num_threads(threads)
network = DualResNet(num_blocks, channels, (3, 6, 7), 7)
optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
planes = torch.randint(0, 2, (batch, 3, 6, 7)).float()
targets, results = torch.rand(batch, 7).softmax(1), torch.rand(batch, 1)


def step():
    optimizer.zero_grad()
    logits, values = network(planes)
    policy_loss = -(targets * logits.log_softmax(1)).sum(1).mean()
    (policy_loss + (values - results).square().mean()).backward()
    optimizer.step()


@torch.no_grad()
def infer():
    logits, values = network(planes[:inference_batch])
    return logits.softmax(1).tolist(), values.tolist()


def median(work, times):
    work()
    taken = []
    for _ in range(times):
        begun = time.perf_counter()
        work()
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken) * 1e3


network.train()
trained = median(step, 9)
network.eval()
print(trained, median(infer, 31))
