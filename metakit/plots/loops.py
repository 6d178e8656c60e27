"""Inner and outer loop in one diagram."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from metakit.plots.figures import BLUE, GREEN, GREY, ORANGE

_BOXES = {
    "meta": (1.0, 3.5, 2.0, 1.0, "meta-parameters\nkept for all tasks", ORANGE),
    "task": (1.0, 1.1, 2.0, 1.0, "a task, drawn anew\nsupport + query", GREEN),
    "inner": (4.5, 2.3, 2.2, 1.3, "inner loop\nlearn from\nthe support set", BLUE),
    "judge": (7.6, 2.3, 1.7, 1.3, "judge on the\nquery set", GREEN),
}


def draw_loops(ax: Axes) -> None:
    """Meta-parameters and a task go into the inner loop; its loss on the query set goes back in the outer loop."""
    for x, y, width, height, text, colour in _BOXES.values():
        corner = (x - width / 2 + 0.5, y - height / 2)
        box = FancyBboxPatch(corner, width, height, boxstyle="round,pad=0.08", fc=f"{colour}22", ec=colour, lw=1.8)
        ax.add_patch(box)
        ax.text(x + 0.5, y, text, ha="center", va="center", fontsize=10)
    _arrow(ax, (2.6, 3.4), (3.8, 2.75), "arc3", BLUE)
    _arrow(ax, (2.6, 1.2), (3.8, 1.9), "arc3", BLUE)
    _arrow(ax, (6.2, 2.3), (7.15, 2.3), "arc3", BLUE)
    _arrow(ax, (8.1, 3.05), (1.6, 4.12), "arc3,rad=0.3", ORANGE)
    ax.text(3.45, 3.2, "start, rule,\nstructure", fontsize=8, color=GREY, ha="left", va="bottom")
    ax.text(6.68, 2.4, "adapted\nweights", fontsize=8, color=GREY, ha="center", va="bottom")
    ax.text(
        5.2,
        5.2,
        "outer loop: change the meta-parameters so that\nthe query loss, averaged over tasks, is smaller",
        ha="center",
        va="center",
        fontsize=10,
        color="#8A5A00",
    )
    ax.text(
        5.0,
        1.3,
        "fast: a few steps, one task;\nforgotten when the next task comes",
        ha="center",
        va="center",
        fontsize=8.5,
        color=GREY,
    )
    ax.set(xlim=(0.2, 9.3), ylim=(0.4, 5.7), title="Inner and outer loop")
    ax.set_axis_off()


def _arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float], bend: str, colour: str) -> None:
    ax.add_patch(
        FancyArrowPatch(start, end, connectionstyle=bend, arrowstyle="-|>", mutation_scale=16, lw=2, color=colour)
    )
