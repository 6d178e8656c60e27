"""The explorer of what lies outside the training distribution: other amplitudes, phases and numbers of shots."""

from __future__ import annotations

from typing import Any

import ipywidgets as ipw
import torch
from matplotlib.figure import Figure
from torch import Tensor

from metakit import plots, records
from metakit.inner import task_loss
from metakit.tasks import Sinusoids
from metakit.tasks.batch import TaskBatch
from metakit.widgets.explorer import LINE, VIEWED, Explorer, another

_MOST_SHOTS, _MOST_STEPS = 40, 20
_VALUES, _TASKS, _GRID = 13, 20, 41  # of the varied property; tasks at each value; query points of a task


def outside(
    learner: Any,
    tasks: Sinusoids | None = None,
    *,
    amplitude: float = 3.0,
    phase: float = 1.0,
    shots: int = 10,
    steps: int = 1,
    seed: int = 0,
) -> records.Outside:
    """Judge a learner around one sinusoid, inside and outside the ranges that it was trained on.

    The amplitude is varied at this phase, and the phase at this amplitude. Each value meets 20 tasks, whose support
    points are the same for all values; the query points are a grid over the domain.

    Arguments:
        learner: anything with ``outputs(batch, steps)``, made for rows of one number.
        tasks: the distribution it was trained on; that of the paper when left out.
        amplitude, phase: the task in the middle of interest, in units of y and in radians.
        shots: support rows S, 1 to 40; the first rows stay the same when more are asked for.
        steps: inner steps K, 0 to 20.
        seed: of the support points.

    Raises:
        ValueError: if ``shots`` or ``steps`` is out of its range.

    Example:
        >>> import metakit as mk
        >>> record = outside(mk.MAML(mk.models.MLP(1, [8], 1)), amplitude=9.0, shots=3)
        >>> record.amplitude.seen, record.phase.seen, record.amplitude.after.shape[1]
        (False, True, 20)
    """
    tasks = tasks or Sinusoids()
    if not 1 <= shots <= _MOST_SHOTS:
        raise ValueError(f"shots must be between 1 and {_MOST_SHOTS}, got {shots}.")
    if not 0 <= steps <= _MOST_STEPS:
        raise ValueError(f"steps must be between 0 and {_MOST_STEPS}, got {steps}.")
    generator = torch.Generator().manual_seed(seed)
    x = torch.empty(_TASKS, _MOST_SHOTS, 1).uniform_(*tasks.domain, generator=generator)[:, :shots]
    (low, high), (first, last) = tasks.amplitude, tasks.phase
    amplitudes = _values(low, 2 * high, amplitude)
    phases = _values(first, first + 2 * (last - first), phase)
    one, other = amplitudes.new_full((1,), amplitude), phases.new_full((1,), phase)
    return records.Outside(
        amplitude=records.Sweep(
            "amplitude (y)", amplitudes, *_losses(learner, tasks, amplitudes, other, x, steps), (low, high), amplitude
        ),
        phase=records.Sweep(
            "phase (radians)", phases, *_losses(learner, tasks, one, phases, x, steps), (first, last), phase
        ),
        shots=shots,
        steps=steps,
        trained_shots=tasks.shots,
    )


def _values(low: float, high: float, chosen: float) -> Tensor:
    return torch.cat([torch.linspace(low, high, _VALUES), torch.tensor([float(chosen)])]).unique()


def _losses(
    learner: Any, tasks: Sinusoids, amplitudes: Tensor, phases: Tensor, x: Tensor, steps: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Losses before and after, ``[V, n]`` each, and those of the answer 0, ``[V]``, for V amplitudes or V phases."""
    amplitude, phase = (each.view(-1, 1, 1, 1) for each in torch.broadcast_tensors(amplitudes, phases))
    count = len(amplitude)
    grid = torch.linspace(*tasks.domain, _GRID).view(-1, 1)
    sides = []
    for rows in (x.expand(count, *x.shape), grid.expand(count, len(x), *grid.shape)):
        sides += [rows.flatten(0, 1), tasks.curve(amplitude, phase, rows).flatten(0, 1)]
    parameter = next(learner.parameters())
    batch = TaskBatch.trusted(*sides).to(parameter.device, parameter.dtype)
    with torch.no_grad():
        outputs = list(learner.outputs(batch, steps))
        wanted = (outputs[0], outputs[-1], torch.zeros_like(batch.query_y))
        before, after, zero = (task_loss(answer, batch.query_y).view(count, -1).float().cpu() for answer in wanted)
    return before, after, zero[:, 0]


class OutsideExplorer:
    """Leave the training distribution step by step, and see what adaptation still gains.

    Arguments:
        learner: a trained learner for rows of one number.
        tasks: the distribution it was trained on; that of the paper when left out.

    After each change ``.record`` is the ``records.Outside`` shown, and ``.error`` the exception if there was one.
    Controls by name: amplitude, phase, shots, steps, seed.

    Example:
        >>> import metakit as mk
        >>> explorer = OutsideExplorer(mk.MAML(mk.models.MLP(1, [8], 1)))
        >>> explorer.controls["amplitude"].value = 8.0
        >>> explorer.record.amplitude.seen, explorer.error
        (False, None)
    """

    controls, record, error, widget, static, _ipython_display_ = VIEWED

    def __init__(self, learner: Any, tasks: Sinusoids | None = None) -> None:
        self.learner, self.tasks = learner, tasks or Sinusoids()
        controls = self._make_controls()
        again = another(controls["seed"], "Other points", "Draw other support points")
        rows = [*(control for name, control in controls.items() if name != "seed"), again]
        told = "An explorer with sliders for amplitude, phase, shots and inner steps"
        self._view = Explorer(controls, self.compute, self.draw, rows=rows, instead=told)
        self._view.refresh()

    def _make_controls(self) -> dict[str, Any]:
        (low, high), (first, last) = self.tasks.amplitude, self.tasks.phase
        real, whole = ipw.FloatSlider, ipw.IntSlider
        end = first + 2 * (last - first)
        return {
            "amplitude": real(description="Amplitude", min=low, max=2 * high, step=0.1, value=0.6 * high, **LINE),
            "phase": real(description="Phase (rad)", min=first, max=end, step=0.05, value=1.0, **LINE),
            "shots": whole(description="Shots (points)", min=1, max=_MOST_SHOTS, value=self.tasks.shots, **LINE),
            "steps": whole(description="Inner steps", min=0, max=_MOST_STEPS, value=1, **LINE),
            "seed": ipw.IntText(value=0),
        }

    def compute(
        self, *, amplitude: float = 3.0, phase: float = 1.0, shots: int = 10, steps: int = 1, seed: int = 0
    ) -> records.Outside:
        """The record for one setting of the controls; see ``outside``."""
        return outside(self.learner, self.tasks, amplitude=amplitude, phase=phase, shots=shots, steps=steps, seed=seed)

    @staticmethod
    def draw(fig: Figure, record: records.Outside) -> None:
        """The amplitude on the left, the phase on the right."""
        fig.set(figwidth=7.6, figheight=3.7, dpi=100, facecolor="white")
        left, right = fig.subplots(1, 2, sharey=True)
        fig.subplots_adjust(left=0.09, right=0.985, top=0.91, bottom=0.14, wspace=0.08)
        for ax, sweep in ((left, record.amplitude), (right, record.phase)):
            ax.spines[["top", "right"]].set_visible(False)
            plots.draw_outside(ax, sweep, legend=ax is left)
        left.set_title(f"Phase {record.phase.chosen:.2f}", fontsize=10)
        right.set_title(f"Amplitude {record.amplitude.chosen:.1f}", fontsize=10)
        right.set_ylabel("")
