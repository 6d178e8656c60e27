"""One regression task seen by a learner: its curve before, during and after the inner steps."""

from __future__ import annotations

import dataclasses

import torch
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from torch import Tensor

from metakit.plots.figures import BLACK, BLUE, ORANGE, RED, count

_SHADES = LinearSegmentedColormap.from_list("steps", ["#CFE3F1", BLUE])


@dataclasses.dataclass(frozen=True)
class Adaptation:
    """One regression task seen by a learner before, during and after its inner steps.

    Arguments:
        x: where the curves are known, ``[G]``.
        truth: the task's true curve, ``[G]``.
        curves: the learner's curve after 0, 1, ..., K inner steps, ``[K + 1, G]``.
        support_x: inputs of the support rows, ``[S]``.
        support_y: their targets, ``[S]``.
        loss: mean squared distance of each curve from the true one, ``[K + 1]``.
        amplitude: amplitude of the task, in units of y.
        phase: its phase in radians.
        seen: whether the task lies inside the distribution that the learner was given.
    """

    x: Tensor
    truth: Tensor
    curves: Tensor
    support_x: Tensor
    support_y: Tensor
    loss: Tensor
    amplitude: float
    phase: float
    seen: bool

    @property
    def steps(self) -> int:
        """Inner steps K."""
        return len(self.loss) - 1

    @property
    def shots(self) -> int:
        """Support rows S."""
        return len(self.support_x)

    def __str__(self) -> str:
        before, after = float(self.loss[0]), float(self.loss[-1])
        task = f"amplitude {self.amplitude:.2f}, phase {self.phase:.2f}"
        told = f"{count(self.shots, 'point')} and {count(self.steps, 'inner step')}"
        if torch.isfinite(self.loss[-1]) and after < 1e4:
            result = f"loss {before:.2f} before, {after:.2f} after {told} ({task})."
        else:
            result = f"the loss has exploded after {told} ({task}): the steps are too large here."
        return result + ("" if self.seen else " No such task was in the training distribution.")


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
