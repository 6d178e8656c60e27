"""Things to turn and see: each explorer has a pure ``compute(...) -> record``, a ``draw``, and thin controls."""

from __future__ import annotations

import dataclasses
import html
import time
from collections.abc import Callable, Mapping
from typing import Any

import ipywidgets as ipw
import torch
from matplotlib.figure import Figure

from metakit import plots
from metakit.batch import TaskBatch
from metakit.outer import Run
from metakit.tasks import Sinusoids

_GRID = 101
_MOST_SHOTS = 40
_STYLE = {"description_width": "110px"}
_WIDE = {"width": "420px", "max_width": "98%"}


def adaptation(
    learner: Any,
    tasks: Sinusoids | None = None,
    *,
    amplitude: float = 3.0,
    phase: float = 1.0,
    shots: int = 10,
    steps: int = 5,
    seed: int = 0,
) -> plots.Adaptation:
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
    return plots.Adaptation(
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


class _Explorer:
    """What every explorer shares: a picture, a sentence, ``.record`` and ``.error``; shown by ending a cell with it.

    Controls are handed to ``compute`` by their names; it and ``draw`` know nothing of widgets.
    """

    def __init__(
        self, controls: dict[str, Any], compute: Callable[..., Any], draw: Callable[[Figure, Any], None]
    ) -> None:
        self.controls, self._compute, self._draw = controls, compute, draw
        self.record: Any = None
        self.error: Exception | None = None
        self.picture = ipw.Image(format="png", layout={"width": "760px", "max_width": "100%", "height": "auto"})
        self.sentence = ipw.HTML()
        for control in controls.values():
            control.observe(self._changed, names="value")

    def refresh(self) -> None:
        """Compute and draw again. A failure is kept in ``.error`` and told in a sentence; the last picture stays."""
        try:
            record = self._compute(**{name: control.value for name, control in self.controls.items()})
            fig = Figure()
            self._draw(fig, record)
            self.picture.value = plots.png(fig, compress=1)
        except Exception as error:  # Whatever it is, the reader must see it: a callback's traceback goes nowhere.
            self.error = error
            self._say(f"<b>This did not work.</b> {type(error).__name__}: {html.escape(str(error))}")
        else:
            self.record, self.error = record, None
            text = str(record)
            self._say(html.escape(text[0].upper() + text[1:]))

    def _changed(self, change: Any) -> None:
        self.refresh()

    def _say(self, text: str) -> None:
        self.sentence.value = f'<div role="status" aria-live="polite" style="max-width:700px">{text}</div>'


class AdaptationExplorer:
    """Choose a sinusoid, a number of points and of inner steps; see the learner's curve before and after, live.

    Amplitude and phase go beyond the ranges of ``tasks``, so that one can see where learning to learn ends.

    Arguments:
        learner: a trained learner for rows of one number, or several by name to choose from.
        tasks: the distribution it was trained on; that of the paper when left out.

    After each change ``.record`` is the ``plots.Adaptation`` shown, and ``.error`` the exception if there was one.

    Raises:
        ValueError: if there is no learner to show.

    Example:
        >>> import metakit as mk
        >>> explorer = AdaptationExplorer(mk.MAML(mk.models.MLP(1, [8], 1)))
        >>> explorer.controls["steps"].value = 0
        >>> explorer.record.steps, explorer.error
        (0, None)
    """

    def __init__(self, learner: Any, tasks: Sinusoids | None = None) -> None:
        self.learners = dict(learner) if isinstance(learner, Mapping) else {"the learner": learner}
        if not self.learners:
            raise ValueError("learner must be a learner or several by name, got none.")
        self.tasks = tasks or Sinusoids()
        self._view = _Explorer(self._make_controls(), self.compute, self.draw)
        again = ipw.Button(description="Other points", tooltip="Draw other support points of the same curve")
        again.on_click(self._other_points)
        hidden = {"seed"} if len(self.learners) > 1 else {"seed", "learner"}
        sliders = ipw.VBox([*(c for n, c in self.controls.items() if n not in hidden), again])
        self.widget = ipw.VBox([sliders, self._view.sentence, self._view.picture])
        self._view.refresh()

    def _make_controls(self) -> dict[str, Any]:
        (low, high), (first, last) = self.tasks.amplitude, self.tasks.phase
        real, whole = ipw.FloatSlider, ipw.IntSlider
        common: dict[str, Any] = {"style": _STYLE, "layout": _WIDE}
        return {
            "learner": ipw.Dropdown(description="Learner", options=list(self.learners), **common),
            "amplitude": real(
                description="Amplitude", min=low, max=1.6 * high, step=0.1, value=round(0.6 * high, 1), **common
            ),
            "phase": real(
                description="Phase (rad)", min=first, max=first + 2 * (last - first), step=0.05, value=1.0, **common
            ),
            "shots": whole(description="Shots (points)", min=1, max=_MOST_SHOTS, value=10, **common),
            "steps": whole(description="Inner steps", min=0, max=20, value=5, **common),
            "seed": ipw.IntText(value=0),
        }

    @property
    def controls(self) -> dict[str, Any]:
        """The controls by name: learner, amplitude, phase, shots, steps, seed. Setting a ``.value`` is moving it."""
        return self._view.controls

    @property
    def record(self) -> plots.Adaptation:
        """What is shown."""
        return self._view.record

    @property
    def error(self) -> Exception | None:
        """What went wrong at the last change, or ``None``."""
        return self._view.error

    def compute(
        self,
        *,
        learner: str | None = None,
        amplitude: float = 3.0,
        phase: float = 1.0,
        shots: int = 10,
        steps: int = 5,
        seed: int = 0,
    ) -> plots.Adaptation:
        """The record for one setting of the controls; see ``adaptation``. Left out, the first learner is shown."""
        chosen = self.learners[next(iter(self.learners)) if learner is None else learner]
        return adaptation(chosen, self.tasks, amplitude=amplitude, phase=phase, shots=shots, steps=steps, seed=seed)

    @staticmethod
    def draw(fig: Figure, record: plots.Adaptation) -> None:
        """The curves, and beside them the loss after each step."""
        draw_adaptation_and_steps(fig, record)

    def static(self) -> Figure:
        """The picture as it is now, for ``plots.show``: for pages where no kernel runs."""
        fig = Figure()
        self.draw(fig, self.record)
        return fig

    def _other_points(self, button: Any) -> None:
        self.controls["seed"].value += 1

    def _ipython_display_(self) -> None:
        show_widget(self.widget, "An explorer with sliders for amplitude, phase, shots and inner steps")


def draw_adaptation_and_steps(fig: Figure, record: plots.Adaptation) -> None:
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


class LiveCurve:
    """The loss of a run, drawn while it goes on; what remains in the page is an ordinary picture.

        with widgets.LiveCurve("Loss at each outer step; it falls.") as live:
            mk.fit(learner, tasks, steps=3000, callback=live)

    Arguments:
        alt: what the picture shows, in a sentence.
        every: seconds between two drawings.
    """

    def __init__(self, alt: str, *, every: float = 0.8) -> None:
        self.alt, self.every = plots.check_alt(alt), every
        self._run: Run | None = None
        self._shown: Any = None
        self._due = 0.0

    def __enter__(self) -> LiveCurve:
        return self

    def __call__(self, run: Run) -> None:
        """Draw, if it is time to: the callback of ``fit``."""
        self._run = run
        if time.perf_counter() >= self._due:
            self._show()
            self._due = time.perf_counter() + self.every

    def __exit__(self, *exception: object) -> None:
        from IPython.display import Markdown, display

        if self._run is not None:
            self._show()
            display(Markdown(f"*Figure: {self.alt}*"))

    def _show(self) -> None:
        from IPython.display import Image, display

        fig, ax = plots.figure()
        plots.draw_history(ax, self._run)
        picture = Image(plots.png(fig), alt=self.alt)
        if self._shown is None:
            self._shown = display(picture, display_id=True)
        else:
            self._shown.update(picture)


def show_widget(widget: Any, instead: str) -> None:
    """Show a widget; a page without a kernel shows the sentence ``instead`` of it."""
    from IPython.display import display

    text = f"{instead}: run the notebook to use it."
    view = {"version_major": 2, "version_minor": 0, "model_id": widget.model_id}
    data = {"application/vnd.jupyter.widget-view+json": view, "text/plain": text, "text/html": f"<em>{text}</em>"}
    display(data, raw=True)
