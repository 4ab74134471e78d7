"""Plots how systems compare: plot_rivals.py RESULTS.json OUT.svg

The results come from `python bench/rivals.py --json RESULTS.json`. Each bar is a median as a
multiple of what `torch.save` and `torch.load` take in the same run; shorter is better.
"""

import json
import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

BASE = "torch.save + fsync"
KINDS = {
    "large": "0.6 GB in large tensors",
    "middling": "0.6 GB in thousands of tensors",
    "tiny": "20,000 tiny tensors",
}
COLUMNS = {
    "call": "until the call returns",
    "lost": "training time lost",
    "durable": "until it is durable",
    "load": "load into the live state",
}
# What is lost can be nothing at all, and a logarithm has no place for that.
LEAST = 1e-3


def main(results, out):
    kinds = [kind for kind in KINDS if kind in results]
    figure, rows = plt.subplots(
        len(kinds), len(COLUMNS), figsize=(13, 2.9 * len(kinds)), sharey="row", squeeze=False
    )
    for row, kind in zip(rows, kinds):
        systems = list(results[kind])[::-1]
        base = results[kind][BASE]
        for axes, (column, title) in zip(row, COLUMNS.items()):
            ratios = [results[kind][system][column] / base[column] for system in systems]
            colors = ["tab:blue" if system.startswith("scai") else "lightgrey" for system in systems]
            bars = axes.barh(systems, [max(ratio, LEAST) for ratio in ratios], color=colors)
            axes.bar_label(bars, [f"{max(ratio, 0):.3g}" for ratio in ratios], padding=2, fontsize=8)
            axes.set_xscale("log")
            axes.set_xlim(LEAST, 60)
            axes.axvline(1, color="grey", linewidth=0.8)
            axes.tick_params(labelsize=8)
            axes.set_title(f"{KINDS[kind]}\n{title}" if axes is row[0] else title, fontsize=9)
    figure.supxlabel("times torch.save + fsync, or torch.load; shorter is better", fontsize=9)
    figure.tight_layout()
    figure.savefig(out)


if __name__ == "__main__":
    with open(sys.argv[1]) as file:
        main(json.load(file), sys.argv[2])
