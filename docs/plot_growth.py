"""Plots how costs grow: plot_growth.py POINTS.jsonl OUT.svg

The points come from `cargo run --release -p scai-checkpoint --example growth`. Also prints, for
each curve, the exponent of size that fits its upper decade: 1 is linear growth, 0 none at all.
"""

import json
import math
import sys
from collections import defaultdict

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import FuncFormatter, LogLocator

SWEEPS = {
    "bytes": ("Bytes, in 64 tensors", "size of the state"),
    "tensors": ("Tensors, 64 floats each", "tensors"),
    "checkpoints": ("Checkpoints in a directory", "checkpoints"),
}


def exponent(points):
    """The slope of a line through the logarithms, by least squares."""
    upper = [(size, time) for size, time in points if size >= points[-1][0] / 10]
    if len(upper) < 2:
        return math.nan
    xs, ys = ([math.log(value) for value in values] for values in zip(*upper))
    x, y = sum(xs) / len(xs), sum(ys) / len(ys)
    return sum((a - x) * (b - y) for a, b in zip(xs, ys)) / sum((a - x) ** 2 for a in xs)


def with_unit(units):
    """Formats numbers in the largest unit that leaves 1 or more."""

    def text(value, _position=None):
        unit, name = next((unit for unit in units if value >= unit[0]), units[-1])
        return f"{value / unit:,g}{name}"

    return FuncFormatter(text)


COUNT = with_unit([(1, "")])
SIZE = with_unit([(1 << 30, " GiB"), (1 << 20, " MiB"), (1 << 10, " KiB")])
TIME = with_unit([(1, " s"), (1e-3, " ms"), (1e-6, " µs")])


def plot(axes, sweep, curves):
    title, unit = SWEEPS[sweep]
    for (operation, points), marker in zip(curves.items(), "osD^vP*X"):
        label = f"{operation}: {exponent(points):.2f}"
        axes.plot(*zip(*points), label=label, marker=marker, markersize=4, linewidth=1.3)
    sizes = [size for size, _ in next(iter(curves.values()))]
    # Linear growth, above all curves at the end.
    end = 2 * max(points[-1][1] for points in curves.values())
    low = min(time for points in curves.values() for _, time in points)
    start = max(sizes[0], sizes[-1] * low / end)
    axes.plot([start, sizes[-1]], [end * start / sizes[-1], end], "--", color="grey", linewidth=1.3,
              label="linear: 1")
    axes.set(xscale="log", yscale="log", title=title, xlabel=unit)
    if sweep == "bytes":
        axes.xaxis.set_major_locator(LogLocator(base=2, numticks=99))
        axes.set_xticks(sizes[:: 2 if len(sizes) > 5 else 1])
    axes.minorticks_off()
    axes.xaxis.set_major_formatter(SIZE if sweep == "bytes" else COUNT)
    axes.yaxis.set_major_formatter(TIME)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=9, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.14),
                title="exponent over the upper decade", title_fontsize=9)


curves = defaultdict(lambda: defaultdict(list))
for line in map(json.loads, open(sys.argv[1])):
    curves[line["sweep"]][line["operation"]].append((line["size"], line["median_s"]))
plt.rcParams["svg.hashsalt"] = "growth"
figure, panels = plt.subplots(1, len(curves), figsize=(5 * len(curves), 5.4), squeeze=False,
                              layout="constrained")
print(f"{'':<42} {'largest':>10} {'time':>10} {'exponent':>9}")
for axes, (sweep, operations) in zip(panels[0], curves.items()):
    for operation, points in operations.items():
        points.sort()
        size, time = points[-1]
        shown = (SIZE if sweep == "bytes" else COUNT)(size)
        print(f"{sweep + ': ' + operation:<42} {shown:>10} {time:>8.4f} s {exponent(points):>9.2f}")
    plot(axes, sweep, operations)
panels[0][0].set_ylabel("time, median")
figure.savefig(sys.argv[2], dpi=110)
