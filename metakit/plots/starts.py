"""Networks that start from different places, raced on the same new tasks."""

from __future__ import annotations

import torch
from matplotlib.axes import Axes

from metakit.plots.figures import CYCLE, DASHES, plain_log_axis
from metakit.records.starts import EXPLODED, HeadStart

_LOW, _HIGH = 0.05, EXPLODED


def draw_head_start(ax: Axes, record: HeadStart) -> None:
    """Mean query loss of each racer against its gradient steps, with the 95% band over tasks."""
    steps = range(record.steps + 1)
    mean, half = record.mean().nan_to_num(_HIGH), record.half().nan_to_num(0.0)
    band = torch.stack([mean - half, mean, mean + half]).clamp(_LOW, _HIGH)
    for i, name in enumerate(record.names):
        low, middle, high = band[:, i].tolist()
        mark = "o" if record.steps <= 20 else None
        ax.plot(steps, middle, color=CYCLE[i % 7], ls=DASHES[i % 4], lw=2, marker=mark, ms=4, label=name)
        ax.fill_between(steps, low, high, color=CYCLE[i % 7], alpha=0.2, lw=0)
    plain_log_axis(ax)
    ax.set(ylim=(_LOW, _HIGH), xlabel="gradient step on the new task", ylabel="query loss (y squared)")
    ax.set_title(f"Mean over {record.loss.shape[1]} new tasks, with 95% band")
    if record.names:
        ax.legend(frameon=False, fontsize=9, loc="upper right")
