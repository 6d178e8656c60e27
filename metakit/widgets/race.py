"""The race of three starts: from scratch, pre-trained, meta-learned; trained while the reader watches."""

from __future__ import annotations

import copy
import dataclasses
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

import ipywidgets as ipw
import torch
from matplotlib.figure import Figure
from torch import nn

from metakit import plots, records
from metakit.inner import SGD, run, stacked, task_loss, trajectory
from metakit.learners import MAML, FineTune
from metakit.models import MLP
from metakit.outer import Training
from metakit.tasks import Sinusoids
from metakit.widgets.explorer import LATE, LINE, ROW, VIEWED, Explorer, button

RACERS = ("from scratch", "pre-trained", "meta-learned")
_META_BATCH, _OUTER_LR = 25, 3e-3
_REDRAW = 0.7  # seconds


def head_start(
    models: Mapping[str, nn.Module],
    tasks: Sinusoids | None = None,
    *,
    shots: int = 10,
    lr: float = 0.01,
    steps: int = 10,
    n_tasks: int = 100,
    seed: int = 1,
    trained: int | None = None,
) -> records.HeadStart:
    """Let networks take gradient steps on the same new tasks, each from the weights that it has.

        w_{k+1,t} = w_{k,t} - lr grad L(w_{k,t}; support set t),    loss_{k,t} = L(w_{k,t}; query set t)

    Arguments:
        models: networks by name; none of them is changed.
        tasks: the distribution; that of the paper when left out.
        shots: support rows of each task.
        lr: rate of the steps.
        steps: gradient steps K.
        n_tasks: number of tasks T.
        seed: of the tasks.
        trained: outer steps that the networks were trained for, to be told.

    Raises:
        ValueError: if ``steps`` is negative, or ``n_tasks`` below 2.

    Example:
        >>> head_start({"a": MLP(1, [8], 1)}, steps=3, n_tasks=5).loss.shape
        torch.Size([1, 5, 4])

    Source: the comparison of Finn, Abbeel and Levine 2017, section 5.1.
    """
    if steps < 0 or n_tasks < 2:
        raise ValueError(f"steps must be at least 0 and n_tasks at least 2, got {steps} and {n_tasks}. Raise them.")
    batch = dataclasses.replace(tasks or Sinusoids(), shots=shots).sample(n_tasks, seed=seed)
    rule, losses = SGD(lr=lr), []
    for model in models.values():
        here = batch.to(next(model.parameters()).device)
        start = stacked(dict(model.named_parameters()), n_tasks)
        with torch.no_grad():
            path = trajectory(model, start, *here.tensors[:2], rule=rule, steps=steps, order=1)
            curve = [task_loss(run(model, weights, here.query_x), here.query_y) for weights in path]
        losses.append(torch.stack(curve, 1).cpu())
    loss = torch.stack(losses) if losses else torch.empty(0, n_tasks, steps + 1)
    return records.HeadStart(tuple(models), loss, shots, lr, trained)


def racers(
    tasks: Sinusoids | None = None,
    *,
    shots: int = 10,
    lr: float = 0.01,
    outer_steps: int = 1500,
    every: int = 10,
    seed: int = 0,
) -> Iterator[tuple[int, dict[str, nn.Module]]]:
    """Train the racers side by side on the same curves; yield them after 0, ``every``, ... outer steps.

    All are one network with the same random beginning. "from scratch" stays as it is. "pre-trained" fits all rows of
    all curves at once. "meta-learned" is trained by MAML with one inner step.

    Arguments:
        tasks: the distribution; that of the paper when left out.
        shots, lr: support rows and inner rate that the meta-learned racer is trained with.
        outer_steps: outer steps, of 25 curves each.
        every: outer steps from one yield to the next.
        seed: of the random beginning and of the curves.

    Example:
        >>> for done, models in racers(outer_steps=2, every=1):
        ...     print(done, *models, sep=", ")
        0, from scratch, pre-trained, meta-learned
        1, from scratch, pre-trained, meta-learned
        2, from scratch, pre-trained, meta-learned
    """
    tasks = dataclasses.replace(tasks or Sinusoids(), shots=shots)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = MLP(1, [40, 40], 1)
    models: dict[str, nn.Module] = {name: copy.deepcopy(fresh) for name in RACERS}
    learners = FineTune(models["pre-trained"], rule=SGD(lr=lr)), MAML(models["meta-learned"], rule=SGD(lr=lr))
    options: dict[str, Any] = {"steps": outer_steps, "meta_batch": _META_BATCH, "lr": _OUTER_LR, "seed": seed}
    runs = [Training(made, tasks, progress=False, **options) for made in learners]
    yield 0, models
    for done, _ in enumerate(zip(*runs, strict=True), start=1):  # one seed: the same curves for both
        if done % every == 0 or done == outer_steps:
            yield done, models


class RaceExplorer:
    """Start the training and watch three starts race; Stop ends it, the sliders change the race at any time.

    The meta-learned racer is trained with the points and the rate that stand there at Start. Later moves change the
    race and not the training.

    ``.record`` is the ``records.HeadStart`` shown, ``.error`` the exception if there was one; ``.wait()`` waits for the
    training to end. Controls by name: shots, lr, steps, and a tick for each racer.

    Arguments:
        outer_steps, seed: as in ``racers``.

    Example:
        >>> explorer = RaceExplorer(outer_steps=20)
        >>> explorer.buttons["Start"].click()
        >>> explorer.wait()
        >>> explorer.record.trained, explorer.error
        (20, None)
    """

    controls, record, error, widget, static, _ipython_display_ = VIEWED

    def __init__(self, *, outer_steps: int = 1500, seed: int = 0) -> None:
        self._outer_steps, self._seed = outer_steps, seed
        self._lock = threading.Lock()  # A slider may ask for a race while the thread moves the weights.
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._failure: Exception | None = None
        self._done, self._models = next(racers(seed=seed))
        ticks = {
            name: ipw.Checkbox(description=name, value=True, indent=False, layout={"width": "140px"}) for name in RACERS
        }
        controls = {
            "shots": ipw.IntSlider(description="Shots (points)", min=1, max=20, value=10, **LATE),
            "lr": ipw.FloatLogSlider(description="Inner rate", base=10, min=-3, max=-1, step=0.1, value=0.01, **LATE),
            "steps": ipw.IntSlider(description="Gradient steps", min=1, max=30, value=10, **LATE),
            **ticks,
        }
        self.buttons = {
            "Start": button("Start", "Train the racers from the beginning", self.start),
            "Stop": button("Stop", "End the training where it is", self.stop),
        }
        self._bar = ipw.IntProgress(description="Outer steps", max=outer_steps, **LINE)
        sliders = [control for name, control in controls.items() if name not in ticks]
        first, last = (ipw.HBox(list(group), layout=ROW) for group in (self.buttons.values(), ticks.values()))
        told = "An explorer with Start and Stop, and sliders for shots, inner rate and gradient steps"
        rows = [first, self._bar, *sliders, last]
        self._view = Explorer(controls, self._current, self.draw, rows=rows, instead=told)
        self._switch(running=False)
        self._view.refresh()

    def start(self) -> None:
        """Train from the beginning, in a thread."""
        if self._thread is None:
            self._stopping.clear()
            self._failure = None
            chosen = {name: self.controls[name].value for name in ("shots", "lr")}
            self._thread = threading.Thread(target=self._train, kwargs=chosen, daemon=True)
            self._switch(running=True)
            self._thread.start()

    def stop(self) -> None:
        """End the training after the outer steps at which it is."""
        self._stopping.set()
        self.buttons["Stop"].disabled = True  # The answer to the click, while those steps still go on.

    def wait(self) -> None:
        """Wait for the training to end."""
        if (thread := self._thread) is not None:
            thread.join()

    @staticmethod
    def draw(fig: Figure, record: records.HeadStart) -> None:
        """The race on a whole figure."""
        fig.set(figwidth=7.4, figheight=4.0, dpi=100, facecolor="white")
        ax = fig.subplots()
        fig.subplots_adjust(left=0.09, right=0.985, top=0.92, bottom=0.13)
        ax.spines[["top", "right"]].set_visible(False)
        plots.draw_head_start(ax, record)

    def _current(self, *, shots: int, lr: float, steps: int, **ticked: bool) -> records.HeadStart:
        if self._failure is not None:
            raise self._failure
        with self._lock:
            chosen = {name: self._models[name] for name in RACERS if ticked[name]}
            return head_start(chosen, shots=shots, lr=lr, steps=steps, trained=self._done)

    def _train(self, *, shots: int, lr: float) -> None:
        due = 0.0
        try:
            steps = racers(shots=shots, lr=lr, outer_steps=self._outer_steps, seed=self._seed)
            while not self._stopping.is_set():
                with self._lock:
                    self._done, self._models = next(steps, (self._done, self._models))
                self._bar.value = self._done
                if self._done == self._outer_steps:
                    break
                if time.perf_counter() >= due:
                    self._view.refresh()
                    due = time.perf_counter() + _REDRAW
        except Exception as error:  # Kept, and told by the drawing that follows: a thread's traceback goes nowhere.
            self._failure = error
        self._thread = None
        self._view.refresh()
        self._switch(running=False)

    def _switch(self, *, running: bool) -> None:
        self.buttons["Start"].disabled, self.buttons["Stop"].disabled = running, not running
