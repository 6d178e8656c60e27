"""Pictures of records: each ``draw_*(ax, record)`` takes an axis and a record, draws, and computes nothing new.

fig, ax = plots.figure()
plots.draw_history(ax, history)
plots.show(fig, "Loss at each outer step; it falls from 4 to 0.6.")
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Mapping
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator
from torch import Tensor

from metakit.evaluation import Evaluation

# The palette of Okabe and Ito 2008, told apart by readers of every colour vision.
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
YELLOW, BLUE, RED, PURPLE = "#F0E442", "#0072B2", "#D55E00", "#CC79A7"
GREY = "#767676"
CYCLE = (BLUE, RED, GREEN, PURPLE, ORANGE, SKY, BLACK)
_DASHES = ("-", "--", "-.", ":")
_SHADES = LinearSegmentedColormap.from_list("steps", ["#CFE3F1", BLUE])
_DPI = 100


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
        told = f"{_count(self.shots, 'point')} and {_count(self.steps, 'inner step')}"
        if torch.isfinite(self.loss[-1]) and after < 1e4:
            result = f"loss {before:.2f} before, {after:.2f} after {told} ({task})."
        else:
            result = f"the loss has exploded after {told} ({task}): the steps are too large here."
        return result + ("" if self.seen else " No such task was in the training distribution.")


# --- Draw a record. ---


def draw_adaptation(ax: Axes, record: Adaptation, *, legend: bool = True) -> None:
    """The learner's curve before and after its inner steps (those between in shades), the truth and the points."""
    x = record.x.numpy()
    ax.plot(x, record.truth.numpy(), color=BLACK, lw=1.6, ls=":", label="true curve")
    for k in range(1, record.steps):
        ax.plot(x, record.curves[k].numpy(), color=_SHADES((k - 1) / max(1, record.steps - 1)), lw=1.0)
    ax.plot(x, record.curves[0].numpy(), color=ORANGE, lw=1.8, ls="--", label="before adaptation")
    if record.steps:
        ax.plot(x, record.curves[-1].numpy(), color=BLUE, lw=2.4, label=f"after {_count(record.steps, 'inner step')}")
    ax.plot(
        record.support_x.numpy(),
        record.support_y.numpy(),
        ls="none",
        marker="o",
        ms=6,
        mfc=RED,
        mec="white",
        label=_count(record.shots, "support point"),
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


def draw_evaluation(ax: Axes, results: Evaluation | Mapping[str, Evaluation], *, log: bool = False) -> None:
    """Mean score over tasks after each inner step with its 95% band, of one evaluation or of several by name."""
    named = {"": results} if isinstance(results, Evaluation) else results
    accuracy = any(result.accuracy is not None for result in named.values())
    scale = 100 if accuracy else 1
    for i, (name, result) in enumerate(named.items()):
        colour, mean, (low, high) = CYCLE[i % len(CYCLE)], result.mean(), result.interval()
        steps = range(len(mean))
        if len(mean) == 1:  # no inner steps: a level, not a curve
            ax.axhline(scale * float(mean), color=colour, ls=_DASHES[i % 4], label=name)
            continue
        ax.plot(steps, (scale * mean).tolist(), color=colour, ls=_DASHES[i % 4], marker="o", ms=4, label=name)
        ax.fill_between(steps, (scale * low).tolist(), (scale * high).tolist(), color=colour, alpha=0.2, lw=0)
    count = max(len(result.score) for result in named.values())
    ax.set(xlabel="inner step", ylabel="query accuracy (%)" if accuracy else "query loss (y squared)")
    ax.set_title(f"Mean over {count} new tasks, with 95% interval")
    if log:
        _plain_log_axis(ax)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    if any(named):
        ax.legend(frameon=False, fontsize=8)


def draw_history(ax: Axes, history: Any, *, window: int = 50, log: bool = True) -> None:
    """Loss at each outer step, its mean over ``window`` steps, and the validations with their intervals.

    ``history`` is the ``History`` of a finished run or the ``Run`` of one that goes on.
    """
    loss = torch.tensor(history.loss, dtype=torch.float64)
    every = max(1, len(loss) // 1000)  # A picture 600 dots wide shows no more, and is drawn many times in a live run.
    ax.plot(range(1, len(loss) + 1, every), loss[::every].tolist(), color=SKY, lw=0.6, alpha=0.7, label="each step")
    if len(loss) >= window:
        smooth = loss.unfold(0, window, every).mean(1).tolist()
        at = range(window, window + every * len(smooth), every)
        ax.plot(at, smooth, color=BLUE, lw=2, label=f"mean of {window} steps")
    if history.validation:
        steps, mean, half = zip(*history.validation, strict=True)
        ax.errorbar(steps, mean, yerr=half, color=RED, marker="s", ms=4, lw=1, capsize=3, label="validation, 95%")
    ax.set(xlabel="outer step", ylabel="query loss", title=f"Meta-training: {_count(len(loss), 'outer step')}")
    if log and len(loss) and float(loss.min()) > 0:
        _plain_log_axis(ax)
    if len(loss):
        ax.legend(frameon=False, fontsize=8, loc="upper right")


def draw_rates(ax: Axes, rates: Mapping[str, Tensor], *, start: float | None = None) -> None:
    """The spread of learned inner rates, a box for each weight tensor: median, quartiles, and all points beyond.

    ``rates`` maps the name of a weight tensor to its rates; ``start`` marks where all of them began.
    """
    names = list(rates)
    values = [rates[name].detach().flatten().tolist() for name in names]
    boxes = ax.boxplot(values, orientation="horizontal", tick_labels=names, widths=0.6, patch_artist=True, sym=".")
    for box, median in zip(boxes["boxes"], boxes["medians"], strict=True):
        box.set(facecolor=SKY, alpha=0.6)
        median.set(color=BLUE, lw=2)
    ax.axvline(0, color=GREY, lw=0.8)
    if start is not None:
        ax.axvline(start, color=RED, ls="--", lw=1.2, label=f"start, {start:g}")
        ax.legend(frameon=False, fontsize=8)
    ax.invert_yaxis()
    ax.set(xlabel="learned inner rate (no unit)", ylabel="weight tensor", title="Learned inner rates")


# --- Paper to draw on, and ways to show it. ---


def figure(width: float = 6.4, height: float = 3.8, *, columns: int = 1, ratios: Any = None) -> tuple[Figure, Any]:
    """A white figure (so that it reads in a dark theme too) and its axis, or its axes where there are several.

    Arguments:
        width, height: size in inches, of 100 dots each.
        columns: number of axes beside each other.
        ratios: their relative widths.
    """
    fig = Figure(figsize=(width, height), dpi=_DPI, facecolor="white", layout="tight")
    axes = fig.subplots(1, columns, width_ratios=ratios, squeeze=False)[0]
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
    return fig, axes[0] if columns == 1 else axes


def png(fig: Figure, *, compress: int = 9) -> bytes:
    """The figure as PNG; a live picture, read once, is quicker with ``compress=1``."""
    buffer = io.BytesIO()
    fig.savefig(buffer, format="png", dpi=_DPI, pil_kwargs={"compress_level": compress})
    return buffer.getvalue()


def show(fig: Figure, alt: str) -> None:
    """Show the figure in a notebook, with a caption that tells what it shows.

    The text is kept as the picture's ``alt`` too; JupyterLab 4 does not pass that on to a screen reader, and reads the
    caption.

    Raises:
        ValueError: if the text is missing.
    """
    from IPython.display import Image, Markdown, display  # here, so that plots serves without a notebook

    display(Image(png(fig), alt=check_alt(alt)), Markdown(f"*Figure: {alt}*"))


def check_alt(alt: str) -> str:
    """The description of a picture, if there is one."""
    if not isinstance(alt, str) or len(alt.split()) < 3:
        raise ValueError(
            f"alt must tell in a sentence what the picture shows, got {alt!r}. Not every reader can see it."
        )
    return alt


def _plain_log_axis(ax: Axes) -> None:
    """A logarithmic axis labelled 0.5, 1, 2: plain numbers, some of them between the powers of ten."""
    ax.set_yscale("log")
    ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter("{x:g}")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
