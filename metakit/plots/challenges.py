"""Curves over one number that was varied, layers compared, and tasks beyond those of the training."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from torch import Tensor

from metakit.judging.evaluation import NORMAL_95
from metakit.plots.figures import BLACK, BLUE, CYCLE, DASHES, GREY, RED, SKY, plain_log_axis

_LOW, _HIGH = 1e-3, 1e3  # losses beyond are drawn at the edge


@dataclasses.dataclass(frozen=True)
class Sweep:
    """Query losses on tasks of which one property is varied, V values with n tasks each.

    Arguments:
        what: the property, with its unit.
        at: its values, ascending, ``[V]``.
        before, after: mean squared error before and after adaptation, ``[V, n]``.
        zero: loss of the answer 0 everywhere, ``[V]``.
        trained: the range met in training.
        chosen: one of the values, the one that is asked about.
    """

    what: str
    at: Tensor
    before: Tensor
    after: Tensor
    zero: Tensor
    trained: tuple[float, float]
    chosen: float

    @property
    def index(self) -> int:
        """Number of the chosen value."""
        return int((self.at - self.chosen).abs().argmin())

    @property
    def seen(self) -> bool:
        """Whether the chosen value lies in the range met in training."""
        low, high = self.trained
        return low - 1e-6 <= self.chosen <= high + 1e-6


@dataclasses.dataclass(frozen=True)
class Outside:
    """Losses over the amplitude at one phase, and over the phase at one amplitude.

    Arguments:
        amplitude, phase: the two sweeps; they meet in the chosen task.
        shots: support rows of each task.
        steps: inner steps.
        trained_shots: support rows of the tasks met in training.
    """

    amplitude: Sweep
    phase: Sweep
    shots: int
    steps: int
    trained_shots: int

    def __str__(self) -> str:
        sweep = self.amplitude
        before, after = (losses[sweep.index] for losses in (sweep.before, sweep.after))
        half = NORMAL_95 * float(after.std()) / len(after) ** 0.5
        met = {"amplitude": sweep.seen, "phase": self.phase.seen, "number of shots": self.shots == self.trained_shots}
        new = [name for name, seen in met.items() if not seen]
        told = f"{_listed(new)} not met in training" if new else "a task like those of the training"
        ended = f"{float(after.mean()):.2f} +- {half:.2f}" if float(after.mean()) < _HIGH else "exploded"
        return (
            f"{told}: query loss {float(before.mean()):.2f} before adaptation, {ended} after; "
            f"the answer 0 everywhere has {float(sweep.zero[sweep.index]):.2f}."
        )


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def draw_outside(ax: Axes, sweep: Sweep, *, legend: bool = True) -> None:
    """Loss before and after adaptation over the varied property, the range of the training shaded."""
    at = sweep.at.tolist()
    ax.axvspan(*sweep.trained, color=SKY, alpha=0.18, lw=0, label="met in training")
    for losses, colour, dash, name in ((sweep.before, RED, "--", "before"), (sweep.after, BLUE, "-", "after")):
        low, mean, high = _band(losses)
        ax.plot(at, mean, color=colour, ls=dash, lw=2, label=f"{name} adaptation")
        ax.fill_between(at, low, high, color=colour, alpha=0.2, lw=0)
    ax.plot(at, sweep.zero.clamp(_LOW, _HIGH).tolist(), color=BLACK, ls=":", lw=1.2, label="answer 0 everywhere")
    ax.axvline(sweep.chosen, color=GREY, lw=1)
    plain_log_axis(ax)
    ax.set(xlabel=sweep.what, ylabel="query loss (y squared)")
    if legend:
        ax.legend(framealpha=0.9, edgecolor="none", fontsize=8, loc="lower right")


def draw_against(ax: Axes, at: Sequence[float], samples: Mapping[str, Tensor], *, log: bool = True) -> None:
    """Mean and 95% band of repeated measurements against a number that was varied.

    ``samples`` maps a name to ``[V, n]``, n measurements for each of the V values ``at``; ``log`` draws the values on a
    scale of doublings and the measurements on one of powers of ten.
    """
    for i, (name, values) in enumerate(samples.items()):
        low, mean, high = _band(values)
        colour = CYCLE[i % len(CYCLE)]
        ax.plot(at, mean, color=colour, ls=DASHES[i % 4], marker="o", ms=4, label=name)
        ax.fill_between(at, low, high, color=colour, alpha=0.2, lw=0)
    if log:
        ax.set_xscale("log", base=2)
        plain_log_axis(ax)
    ax.set_xticks(at, [f"{value:g}" for value in at])
    if len(samples) > 1:
        ax.legend(frameon=False, fontsize=8)


def draw_layers(ax: Axes, layers: Sequence[str], samples: Mapping[str, Tensor]) -> None:
    """For each layer the mean of a number over tasks, with its 95% interval; ``samples`` maps names to ``[T, L]``."""
    width = 0.8 / len(samples)
    for i, (name, values) in enumerate(samples.items()):
        places = [place + (i - (len(samples) - 1) / 2) * width for place in range(len(layers))]
        half = NORMAL_95 * values.std(0) / len(values) ** 0.5
        colour = CYCLE[i % len(CYCLE)]
        ax.bar(places, values.mean(0).tolist(), width, yerr=half.tolist(), color=colour, capsize=3, label=name)
    ax.set_xticks(range(len(layers)), layers)
    ax.set(xlabel="layer")
    if len(samples) > 1:
        ax.legend(frameon=False, fontsize=8, loc="upper right", ncols=len(samples))


def _band(values: Tensor) -> tuple[list[float], list[float], list[float]]:
    """Low end, mean and high end of the 95% interval over the columns of ``[V, n]``."""
    values = values.nan_to_num(_HIGH).clamp(max=_HIGH)
    mean, half = values.mean(1), NORMAL_95 * values.std(1) / values.shape[1] ** 0.5
    low, middle, high = (line.clamp(_LOW, _HIGH).tolist() for line in (mean - half, mean, mean + half))
    return low, middle, high
