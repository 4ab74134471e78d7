"""Plots the learning curve of a training: plot_learning.py METRICS.jsonl OUT.png"""

import datetime
import json
import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

lines = [json.loads(line) for line in open(sys.argv[1])]
evaluated = [line for line in lines if "evaluation/win_rate_random" in line]
begun = datetime.datetime.fromisoformat(lines[0]["time"])
first = lines[0]["time/self_play_s"] + lines[0]["time/learning_s"]


def minutes(line):
    elapsed = datetime.datetime.fromisoformat(line["time"]) - begun
    return (elapsed.total_seconds() + first) / 60


def curve(axes, name, label, of):
    points = [(minutes(line), line[name]) for line in of if line.get(name) is not None]
    axes.plot(*zip(*points), label=label, marker="o" if len(points) < 30 else None, markersize=4)


figure, (strength, loss) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
curve(strength, "evaluation/win_rate_random", "win rate against random", evaluated)
curve(strength, "evaluation/win_rate_alphabeta4", "win rate against alpha-beta, depth 4", evaluated)
curve(strength, "evaluation/optimal_moves", "solver-optimal moves, search", evaluated)
curve(strength, "evaluation/optimal_moves_policy", "solver-optimal moves, network alone", evaluated)
strength.set(xlabel="minutes", ylim=(0, 1.03), title="Strength")
strength.legend(loc="lower right", fontsize=8)
learnt = [line for line in lines if "loss/policy" in line]
curve(loss, "loss/policy", "policy loss (nats)", learnt)
curve(loss, "loss/value", "value loss", learnt)
loss.set(xlabel="minutes", title="Loss", ylim=(0, None))
loss.legend(fontsize=8)
for axes in (strength, loss):
    axes.grid(alpha=0.3)
figure.savefig(sys.argv[2], dpi=110)
