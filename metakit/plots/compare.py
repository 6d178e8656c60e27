"""Several learners beside each other, on the same episodes."""

from __future__ import annotations

from matplotlib.axes import Axes

from metakit.contracts import LOSS
from metakit.judging.comparison import Comparison
from metakit.plots.figures import BLUE, GREY, ORANGE


def draw_comparison(ax: Axes, comparison: Comparison, *, difference: bool = False) -> None:
    """The mean score of each learner with its 95% interval, and below it a small dot for each trained copy.

    With ``difference`` the paired difference to the reference instead: an interval clear of zero is no luck.
    """
    names = list(comparison.scores)
    measure = comparison.measure
    scale = 100 if measure.percent else 1
    score = f"{measure} (%)" if measure.percent else f"query {measure}" if measure == LOSS else str(measure)
    for place, name in enumerate(names):
        mean, half = comparison.difference(name) if difference else comparison.mean(name)
        colour = ORANGE if name == comparison.reference else BLUE
        ax.errorbar(scale * mean, place, xerr=scale * half, color=colour, marker="o", ms=6, lw=2, capsize=4)
        copies = comparison.copies(name)
        if not difference and len(copies) > 1:
            ax.plot([scale * copy for copy in copies], [place + 0.2] * len(copies), ".", color=GREY, ms=5)
    if difference:
        ax.axvline(0, color=GREY, lw=0.8)
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.set_xlabel(f"{score} minus that of {comparison.reference}" if difference else f"{score}, {comparison.protocol}")
    ax.set_title(f"{comparison.episodes} shared episodes, 95% interval")
