"""One regression task seen by a learner: its curve before, during and after the inner steps."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap

from metakit.plots.figures import BLACK, BLUE, ORANGE, RED
from metakit.records.adaptation import Adaptation
from metakit.records.words import count

_SHADES = LinearSegmentedColormap.from_list("steps", ["#CFE3F1", BLUE])


def draw_adaptation(ax: Axes, record: Adaptation, *, legend: bool = True) -> None:
    """The learner's curve before and after its inner steps (those between in shades), the truth and the points."""
    x = record.x.numpy()
    ax.plot(x, record.truth.numpy(), color=BLACK, lw=1.6, ls=":", label="true curve")
    for k in range(1, record.steps):
        ax.plot(x, record.curves[k].numpy(), color=_SHADES((k - 1) / max(1, record.steps - 1)), lw=1.0)
    ax.plot(x, record.curves[0].numpy(), color=ORANGE, lw=1.8, ls="--", label="before adaptation")
    if record.steps:
        ax.plot(x, record.curves[-1].numpy(), color=BLUE, lw=2.4, label=f"after {count(record.steps, 'inner step')}")
    ax.plot(
        record.support_x.numpy(),
        record.support_y.numpy(),
        ls="none",
        marker="o",
        ms=6,
        mfc=RED,
        mec="white",
        label=count(record.shots, "support point"),
        zorder=5,
    )
    height = 1.5 * max(1.0, record.amplitude)
    ax.set(xlim=(float(x[0]), float(x[-1])), ylim=(-height, height), xlabel="x (radians)", ylabel="y (no unit)")
    ax.set_title(f"One task: amplitude {record.amplitude:.2f}, phase {record.phase:.2f}")
    if legend:
        below = (-0.03, -0.17)  # The curves fill the axis.
        ax.legend(loc="upper left", bbox_to_anchor=below, ncol=4, frameon=False, fontsize=8, columnspacing=1.4)


def draw_steps(ax: Axes, record: Adaptation) -> None:
    """The loss of one task after each inner step, on a logarithmic axis."""
    steps = range(record.steps + 1)
    loss = record.loss.clamp(1e-4, 1e4).nan_to_num(1e4).tolist()
    ax.semilogy(steps, loss, color=BLUE, lw=1.2, marker="o", ms=4)
    ax.semilogy([0], loss[:1], color=ORANGE, ls="none", marker="o", ms=7)
    ax.set(xlim=(-0.5, max(5.5, record.steps + 0.5)), ylim=(min(1e-3, *loss) / 2, max(20.0, *loss) * 2))
    ax.set(xlabel="inner step", ylabel="loss (y squared)", title="Loss after each step")
    ax.minorticks_off()  # They and ticks set as mathematics, "10^-2", take half the time of a live picture.
    ax.yaxis.set_major_formatter("{x:g}")
    ax.grid(True, color="#E5E5E5", lw=0.6)
