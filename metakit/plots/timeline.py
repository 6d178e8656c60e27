"""A history as a line of time with its events."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes

from metakit.plots.figures import BLUE, CYCLE, GREY
from metakit.records.timeline import Event


def draw_timeline(ax: Axes, events: Sequence[Event]) -> None:
    """Years to scale on the left; each event's words on the right, evenly spread, joined to its year."""
    first, last = events[0].year, events[-1].year
    rows = [first + (last - first) * (i + 0.5) / len(events) for i in range(len(events))]
    ax.plot([0, 0], [first - 2, last + 2], color=BLUE, lw=3, solid_capstyle="round")
    for i, (event, row) in enumerate(zip(events, rows, strict=True)):
        colour = CYCLE[i % len(CYCLE)]
        ax.plot([0, 0.13, 0.17], [event.year, row, row], color=colour, lw=1)
        ax.plot([0], [event.year], marker="o", ms=8, mfc=colour, mec="white", zorder=3)
        ax.text(0.18, row, f"{event.year}  {event.who}", va="bottom", fontsize=10, fontweight="bold")
        ax.text(0.18, row, event.what, va="top", fontsize=9, color="#333333")
    for year in range(-(-first // 10) * 10, last + 1, 10):
        ax.text(-0.03, year, str(year), ha="right", va="center", color=GREY, fontsize=9)
    ax.set(xlim=(-0.1, 1), ylim=(last + 2, first - 2), title="Learning to learn since 1987: years to scale")
    ax.set_axis_off()
