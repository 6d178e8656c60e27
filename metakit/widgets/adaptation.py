"""The adaptation explorer: a sinusoid, some points, some inner steps, and the curve before and after."""

from __future__ import annotations

import dataclasses
from typing import Any

import ipywidgets as ipw
import torch
from matplotlib.figure import Figure

from metakit import plots, records
from metakit.tasks import Sinusoids
from metakit.tasks.batch import TaskBatch
from metakit.widgets.explorer import LINE, VIEWED, Explorer, another, by_name

_GRID = 101
_MOST_SHOTS = 40


def adaptation(
    learner: Any,
    tasks: Sinusoids | None = None,
    *,
    amplitude: float = 3.0,
    phase: float = 1.0,
    shots: int = 10,
    steps: int = 5,
    seed: int = 0,
) -> records.Adaptation:
    """Let a learner adapt to one sinusoid, and record its curve after each inner step.

    Arguments:
        learner: anything with ``outputs(batch, steps)``, made for rows of one number.
        tasks: the distribution, for its domain and ranges; that of the paper when left out.
        amplitude, phase: the task.
        shots: support rows; the first rows stay the same when more are asked for.
        steps: inner steps K.
        seed: of the support rows.

    Example:
        >>> import metakit as mk
        >>> record = adaptation(mk.MAML(mk.models.MLP(1, [8], 1)), shots=3, steps=2)
        >>> record.curves.shape, record.shots
        (torch.Size([3, 101]), 3)
    """
    tasks = tasks or Sinusoids()
    if not 1 <= shots <= _MOST_SHOTS:
        raise ValueError(f"shots must be between 1 and {_MOST_SHOTS}, got {shots}.")
    drawn = dataclasses.replace(tasks, shots=_MOST_SHOTS, queries=1)
    task = drawn.task(amplitude=amplitude, phase=phase, seed=seed)
    support_x, support_y = task.support_x[:, :shots], task.support_y[:, :shots]
    x = torch.linspace(*tasks.domain, _GRID)
    truth = tasks.curve(amplitude, phase, x)
    batch = TaskBatch(support_x, support_y, x[None, :, None], truth[None, :, None])
    parameter = next(learner.parameters())
    with torch.no_grad():
        outputs = list(learner.outputs(batch.to(parameter.device, parameter.dtype), steps))
    curves = torch.stack(outputs)[:, 0, :, 0].float().cpu()
    (low, high), (first, last) = tasks.amplitude, tasks.phase
    return records.Adaptation(
        x=x,
        truth=truth,
        curves=curves,
        support_x=support_x[0, :, 0],
        support_y=support_y[0, :, 0],
        loss=(curves - truth).square().mean(1),
        amplitude=float(amplitude),
        phase=float(phase),
        seen=low - 1e-6 <= amplitude <= high + 1e-6 and first - 1e-6 <= phase <= last + 1e-6,
    )


class AdaptationExplorer:
    """Choose a sinusoid, a number of points and of inner steps; see the learner's curve before and after, live.

    Amplitude and phase go beyond the ranges of ``tasks``, so that one can see where learning to learn ends.

    Arguments:
        learner: a trained learner for rows of one number, or several by name to choose from.
        tasks: the distribution it was trained on; that of the paper when left out.

    After each change ``.record`` is the ``records.Adaptation`` shown, and ``.error`` the exception if there was one.
    Controls by name: learner, amplitude, phase, shots, steps, seed.

    Raises:
        ValueError: if there is no learner to show.

    Example:
        >>> import metakit as mk
        >>> explorer = AdaptationExplorer(mk.MAML(mk.models.MLP(1, [8], 1)))
        >>> explorer.controls["steps"].value = 0
        >>> explorer.record.steps, explorer.error
        (0, None)
    """

    controls, record, error, widget, static, _ipython_display_ = VIEWED

    def __init__(self, learner: Any, tasks: Sinusoids | None = None) -> None:
        self.learners, self.tasks = by_name(learner), tasks or Sinusoids()
        controls = self._make_controls()
        again = another(controls["seed"], "Other points", "Draw other support points of the same curve")
        hidden = {"seed"} if len(self.learners) > 1 else {"seed", "learner"}
        sliders = ipw.VBox([*(c for n, c in controls.items() if n not in hidden), again])
        told = "An explorer with sliders for amplitude, phase, shots and inner steps"
        self._view = Explorer(controls, self.compute, self.draw, rows=[sliders], instead=told)
        self._view.refresh()

    def _make_controls(self) -> dict[str, Any]:
        (low, high), (first, last) = self.tasks.amplitude, self.tasks.phase
        real, whole = ipw.FloatSlider, ipw.IntSlider
        return {
            "learner": ipw.Dropdown(description="Learner", options=list(self.learners), **LINE),
            "amplitude": real(
                description="Amplitude", min=low, max=1.6 * high, step=0.1, value=round(0.6 * high, 1), **LINE
            ),
            "phase": real(
                description="Phase (rad)", min=first, max=first + 2 * (last - first), step=0.05, value=1.0, **LINE
            ),
            "shots": whole(description="Shots (points)", min=1, max=_MOST_SHOTS, value=10, **LINE),
            "steps": whole(description="Inner steps", min=0, max=20, value=5, **LINE),
            "seed": ipw.IntText(value=0),
        }

    def compute(
        self,
        *,
        learner: str | None = None,
        amplitude: float = 3.0,
        phase: float = 1.0,
        shots: int = 10,
        steps: int = 5,
        seed: int = 0,
    ) -> records.Adaptation:
        """The record for one setting of the controls; see ``adaptation``. Left out, the first learner is shown."""
        chosen = self.learners[next(iter(self.learners)) if learner is None else learner]
        return adaptation(chosen, self.tasks, amplitude=amplitude, phase=phase, shots=shots, steps=steps, seed=seed)

    @staticmethod
    def draw(fig: Figure, record: records.Adaptation) -> None:
        """The curves, and beside them the loss after each step."""
        draw_adaptation_and_steps(fig, record)


def draw_adaptation_and_steps(fig: Figure, record: records.Adaptation) -> None:
    """Draw one adaptation on a whole figure: curves on the left, loss after each step on the right."""
    fig.set(figwidth=7.6, figheight=3.7, dpi=100, facecolor="white")
    left, right = fig.subplots(1, 2, width_ratios=(2.4, 1))
    fig.subplots_adjust(left=0.075, right=0.985, top=0.91, bottom=0.24, wspace=0.3)  # Fixed: cheaper than a layout.
    for ax in (left, right):
        ax.spines[["top", "right"]].set_visible(False)
    plots.draw_adaptation(left, record)
    plots.draw_steps(right, record)
    for ax, at in ((left, -0.085), (right, -0.26)):  # Left to itself, matplotlib measures every label twice.
        ax.set_title(ax.get_title(), y=1.0)
        ax.xaxis.set_label_coords(0.5, -0.12)
        ax.yaxis.set_label_coords(at, 0.5)
