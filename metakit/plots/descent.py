"""Rules of descent raced against each other on one task."""

from __future__ import annotations

from matplotlib.axes import Axes

from metakit.plots.figures import BLACK, CYCLE, DASHES
from metakit.records.descent import EXPLODED, Race


def draw_race(ax: Axes, record: Race) -> None:
    """Query loss under each rule against the inner steps, the support loss thin beside it, and the noise below."""
    for i, name in enumerate(record.names):
        support, query = (loss[i].clamp(1e-4, EXPLODED).nan_to_num(EXPLODED) for loss in (record.support, record.query))
        label = f"{name} (exploded)" if record.exploded(name) else name
        ax.plot(record.steps, query.tolist(), color=CYCLE[i], ls=DASHES[i % 4], lw=2, label=label)
        ax.plot(record.steps, support.tolist(), color=CYCLE[i], ls=DASHES[i % 4], lw=0.8, alpha=0.6)
    if record.noise:
        ax.axhline(record.noise**2, color=BLACK, lw=1, ls=":", label="the noise itself")
    ax.set_yscale("log")
    ax.minorticks_off()
    ax.yaxis.set_major_formatter("{x:g}")
    ax.set(ylim=(3e-3, 60), xlabel="inner step", ylabel="mean squared error (y squared)")
    ax.set_title(f"Four rules, rate {record.lr:.4g}: query loss bold, support loss thin")
    ax.legend(frameon=False, fontsize=8, ncol=2)
