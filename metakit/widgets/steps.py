"""The seven steps of a meta-learning algorithm, to be gone through one by one."""

from __future__ import annotations

import contextlib
import copy
import html
import itertools
import threading
from collections.abc import Iterator

import ipywidgets as ipw
import torch
from matplotlib.figure import Figure
from torch import Tensor

from metakit import plots, records
from metakit.inner import SGD
from metakit.judging import evaluate
from metakit.learners import MAML
from metakit.models import MLP
from metakit.outer import DivergedError, Training
from metakit.tasks import Sinusoids
from metakit.widgets.adaptation import adaptation
from metakit.widgets.explorer import ROW, VIEWED, Explorer, button

_AMPLITUDE, _PHASE = 4.0, 1.0  # the task that is shown
_VALIDATION_TASKS, _VALIDATION_SEED = 100, 1_000_003
_OUTER_STEPS, _META_BATCH = 60, 25
_OTHER_STARTS = 20


def seven_steps(*, target: float = 0.7, rounds: int = 30, lr: float = 0.01, seed: int = 0) -> Iterator[records.Stage]:
    """Meta-train a learner of sine curves and yield a record after each of the seven steps.

    Steps 1 and 2 come once: a random start is drawn, and three optimisers are tried on it for 60 outer steps each.
    Steps 3 to 7 come again in each round: 60 outer steps, a new task learned, 100 new tasks judged, the outer rate
    halved if no evaluation has been better, and the decision whether to go on.

    Arguments:
        target: the mean query loss over the 100 tasks to reach.
        rounds: the most rounds to go through.
        lr: the outer rate at the beginning.
        seed: of the initial weights and of the tasks.

    Raises:
        ValueError: if the target or the rate is not positive, or ``rounds`` is below 1.

    Example:
        >>> for stage in seven_steps(target=9.0):
        ...     print(stage.number, stage.round, stage.done)
        1 0 False
        2 0 False
        3 1 False
        4 1 False
        5 1 False
        6 1 False
        7 1 True
    """
    for name, value in {"target": target, "lr": lr, "rounds": rounds}.items():
        if not 0 < value < float("inf"):
            raise ValueError(f"{name} must be a positive number, got {value}.")
    return _seven_steps(target, rounds, lr, seed)


def _seven_steps(target: float, rounds: int, lr: float, seed: int) -> Iterator[records.Stage]:
    tasks, validation = Sinusoids(), list[records.Score]()
    trials: dict[str, tuple[records.Score, ...]] = {}
    learner, starts = _initialised(tasks, seed)
    _, random, _ = _judge(learner, tasks, at=0)
    optimizer = learner.outer_optimizer(learner.parameters(), lr=lr)
    run = _training(learner, optimizer, tasks, rounds * _OUTER_STEPS, seed).start()
    loss = run.loss

    def stage(number: int, round: int, told: str, done: bool = False) -> records.Stage:
        seen = adaptation(learner, tasks, amplitude=_AMPLITUDE, phase=_PHASE, steps=0 if number < 4 else 1)
        fixed = seen, starts, random, trials
        return records.Stage(number, round, told, *fixed, tuple(loss), tuple(validation), target, lr, done)

    numbers = sum(p.numel() for p in learner.parameters())
    drawn = f"{numbers:,} random weights; beside them, {_OTHER_STARTS} other random starts."
    yield stage(1, 0, f"{drawn} Mean query loss on {_VALIDATION_TASKS} new tasks, after one inner step: {random:.2f}.")
    trials = _trials(learner, tasks, lr, seed)
    ends = ", ".join(f"{name}: {scores[-1][1]:.2f}" for name, scores in trials.items())
    chosen = f"MAML has an exact meta-gradient, so {type(optimizer).__name__} follows it, at rate {lr:g}."
    yield stage(2, 0, f"{chosen} Query loss after {_OUTER_STEPS} outer steps from this start: {ends}.")
    for round in range(1, rounds + 1):
        for _ in range(_OUTER_STEPS):
            next(run)
        last = sum(loss[-_OUTER_STEPS:]) / _OUTER_STEPS
        yield stage(3, round, f"{_OUTER_STEPS} outer steps of {_META_BATCH} tasks; mean query loss {last:.2f}.")
        before, after = adaptation(learner, tasks, amplitude=_AMPLITUDE, phase=_PHASE, steps=1).loss.tolist()
        yield stage(4, round, f"One inner step on 10 points of a new curve: loss {before:.2f}, then {after:.2f}.")
        _, mean, half = score = _judge(learner, tasks, at=len(loss))
        better = all(mean < best for _, best, _ in validation)
        validation.append(score)
        yield stage(5, round, f"{_VALIDATION_TASKS} new tasks: mean query loss {mean:.2f} +- {half:.2f}.")
        lr = lr if better else lr / 2
        for group in optimizer.param_groups:
            group["lr"] = lr
        best = "The best evaluation so far: the rate stays" if better else "No better than before: the rate is halved,"
        yield stage(6, round, f"{best} {lr:g}.")
        reached = mean <= target
        more = "reached: done" if reached else f"not reached: {'go on with step 3' if round < rounds else 'enough'}"
        yield stage(7, round, f"{mean:.2f} against a target of {target:g}, {more}.", reached or round == rounds)
        if reached:
            return


def _initialised(tasks: Sinusoids, seed: int) -> tuple[MAML, Tensor]:
    """A learner with random weights, and the curves of other random networks, ``[N, G]``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        learner = MAML(MLP(1, [40, 40], 1), rule=SGD(lr=0.02), steps=1)
        others = [MLP(1, [40, 40], 1) for _ in range(_OTHER_STARTS)]
    x = adaptation(learner, tasks, amplitude=_AMPLITUDE, phase=_PHASE, steps=0).x
    return learner, torch.stack([model(x[:, None]).detach()[:, 0] for model in others])


def _trials(learner: MAML, tasks: Sinusoids, lr: float, seed: int) -> dict[str, tuple[records.Score, ...]]:
    """Copies of the learner go through the first round with an optimiser each, judged every 20 outer steps."""
    trials = {}
    for kind, rate in ((learner.outer_optimizer, lr), (torch.optim.SGD, lr), (torch.optim.SGD, 10 * lr)):
        tried = copy.deepcopy(learner)
        scores = [_judge(tried, tasks, at=0)]
        run = _training(tried, kind(tried.parameters(), lr=rate), tasks, _OUTER_STEPS, seed).start()
        for at in range(20, _OUTER_STEPS + 1, 20):
            with contextlib.suppress(DivergedError):  # it stays where it was, and is judged there
                for _ in itertools.islice(run, 20):
                    pass
            scores.append(_judge(tried, tasks, at=at))
        trials[f"{kind.__name__}, rate {rate:g}"] = tuple(scores)
    return trials


def _training(learner: MAML, optimizer: torch.optim.Optimizer, tasks: Sinusoids, steps: int, seed: int) -> Training:
    return Training(learner, tasks, optimizer=optimizer, steps=steps, meta_batch=_META_BATCH, seed=seed, progress=False)


def _judge(learner: MAML, tasks: Sinusoids, *, at: int) -> records.Score:
    result = evaluate(learner, tasks, n_tasks=_VALIDATION_TASKS, seed=_VALIDATION_SEED)
    mean, high = float(result.mean()[-1]), float(result.interval()[1][-1])
    return at, mean, high - mean


class StepsExplorer:
    """The seven steps with buttons: Next, Back, Run to the target (in a thread, with Stop), and Start again.

    ``.record`` is the ``records.Stage`` shown, ``.error`` the exception if there was one; ``.wait()`` waits for a run.

    Arguments:
        target, seed: as in ``seven_steps``.

    Example:
        >>> explorer = StepsExplorer()
        >>> explorer.buttons["Next"].click()
        >>> explorer.record.number, explorer.error
        (2, None)
    """

    controls, record, error, widget, static, _ipython_display_ = VIEWED

    def __init__(self, *, target: float = 0.7, seed: int = 0) -> None:
        self._target, self._seed, self._at = target, seed, 0
        self._seen: list[records.Stage] = []
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        self._list = ipw.HTML()
        self.buttons = {
            "Back": button("Back", "One step back", self.back, width="100px"),
            "Next": button("Next", "One step on", self.next, width="100px"),
            "Run": button("Run", "On to the target", self.run, width="100px"),
            "Stop": button("Stop", "End the run", self.stop, width="100px"),
            "Start again": button("Start again", "Forget all and begin anew", self.reset, width="100px"),
        }
        rows = [ipw.HBox(list(self.buttons.values()), layout=ROW), self._list]
        told = "An explorer of the seven steps with the buttons Back, Next, Run, Stop and Start again"
        self._view = Explorer({}, self._current, draw_stage, rows=rows, instead=told)
        self.reset()

    def next(self) -> None:
        """Go one step on: to one seen before, or to a new one."""
        if not self.record.done:
            self._at += 1
        self._show()

    def back(self) -> None:
        """Go one step back; the first stays."""
        self._at = max(0, self._at - 1)
        self._show()

    def run(self) -> None:
        """Go on to the target in a thread, and show the end of each round."""
        if self._thread is None:
            self._stopping.clear()
            self._thread = threading.Thread(target=self._go_on, daemon=True)
            self._show()
            self._thread.start()

    def stop(self) -> None:
        """End a run after the step at which it is."""
        self._stopping.set()
        self.buttons["Stop"].disabled = True  # The answer to the click, while that step still goes on.

    def wait(self) -> None:
        """Wait for a run to end."""
        if (thread := self._thread) is not None:
            thread.join()

    def reset(self) -> None:
        """Forget all and begin anew."""
        self._stages, self._seen, self._at = seven_steps(target=self._target, seed=self._seed), [], 0
        self._failure: Exception | None = None
        self._show()

    def _current(self) -> records.Stage:
        while len(self._seen) <= self._at:
            if self._failure is not None:  # A generator that failed once only says that it is at its end.
                raise self._failure
            try:
                self._seen.append(next(self._stages))
            except Exception as error:
                self._failure = error
                raise
        return self._seen[self._at]

    def _go_on(self) -> None:
        with contextlib.suppress(Exception):  # It is kept, and told by the drawing that follows.
            while not self._stopping.is_set() and not self._current().done:
                self._at += 1
                if self._current().number == 7:
                    self._show()
        self._thread = None
        self._show()

    def _show(self) -> None:
        self._view.refresh()
        running, first, done = self._thread is not None, self._at == 0, self.record.done
        off = {"Back": running or first, "Next": running or done, "Run": running or done, "Stop": not running}
        for name, each in self.buttons.items():
            each.disabled = off.get(name, running)
        lines = [_line(number, title, self.record) for number, title in enumerate(records.TITLES, 1)]
        self._list.value = f"<ol style='margin:4px 0;line-height:1.35'>{''.join(lines)}</ol>"


def _line(number: int, title: str, record: records.Stage) -> str:
    here = number == record.number
    style = " style='font-weight:bold' aria-current='step'" if here else ""
    return f"<li{style}>{html.escape(title)}{' (here)' if here else ''}</li>"


def draw_stage(fig: Figure, record: records.Stage) -> None:
    """Draw one stage on a whole figure: the learner on one task on the left, its progress on the right.

    Step 1 adds the starts that might have been, step 2 shows the optimisers tried.
    """
    fig.set(figwidth=7.8, figheight=3.8, dpi=100, facecolor="white")
    left, right = fig.subplots(1, 2, width_ratios=(1.3, 1))
    fig.subplots_adjust(left=0.075, right=0.985, top=0.91, bottom=0.24, wspace=0.26)
    for ax in (left, right):
        ax.spines[["top", "right"]].set_visible(False)
    plots.draw_adaptation(left, record.adaptation)
    if record.number == 1:
        plots.draw_starts(left, record)
        left.legend(loc="upper left", bbox_to_anchor=(-0.03, -0.17), ncols=2, frameon=False, fontsize=8)
    (plots.draw_trials if record.number == 2 else plots.draw_progress)(right, record)
    left.get_legend().set(ncols=2)
