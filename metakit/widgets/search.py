"""The search explorer: several strategies choose networks for the same rows, a round at a time."""

from __future__ import annotations

import dataclasses
import math
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import ipywidgets as ipw
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from metakit import plots
from metakit.search import CrossEntropy, Evolution, Random, Result, Space, SuccessiveHalving, Trial, train
from metakit.tasks.batch import TaskBatch
from metakit.widgets.explorer import LATE, LINE, ROW, STYLE, VIEWED, Explorer, button

NETWORKS = Space(
    hidden_layers=(1, 2, 3),
    units=(2, 4, 8, 16, 32, 64),
    activation=("relu", "tanh", "sigmoid"),
    learning_rate=(0.01, 0.03, 0.1, 0.3),
)
# Successive halving starts three times as many and pays for fewer whole trainings than the others.
STRATEGIES = {
    "random": Random(population=8),
    "evolution": Evolution(population=8, tournament=4),
    "cross-entropy": CrossEntropy(population=8, elite=4),
    "successive halving": SuccessiveHalving(population=24, reduction=3, rungs=2),
}
_MARKERS = "os^D"
_HIDDEN_UNITS, _ROUNDS = 3, 10


def hidden_rows(
    n_tasks: int = 1, *, rows: int = 100, features: int = 10, noise: float = 0.5, seed: int = 0
) -> tuple[TaskBatch, TaskBatch]:
    """Rows whose targets come from a hidden network, another one in each task, and test rows of the same networks.

        y = tanh(x W) v + noise e,    W ~ N(0, 4 / D) [D, 3],    v ~ N(0, 1) [3, 1],    x, e ~ N(0, 1)

    Arguments:
        n_tasks: number of tasks T.
        rows: training rows S and validation rows Q of each; there are ten times as many test rows.
        features: numbers D in a row.
        noise: standard deviation of what no network can know.
        seed: of all that is drawn.

    Returns:
        Training rows (support) with validation rows (query), and the same training rows with test rows (query).

    Raises:
        ValueError: if the noise is negative or a count is below 1.

    Example:
        >>> batch, test = hidden_rows(2, rows=20)
        >>> batch.query_x.shape, test.query_y.shape
        (torch.Size([2, 20, 10]), torch.Size([2, 200, 1]))
    """
    if min(n_tasks, rows, features) < 1 or not 0 <= noise < math.inf:
        raise ValueError(
            f"n_tasks, rows and features must be at least 1 and noise at least 0, got {n_tasks}, {rows}, {features} "
            f"and {noise}. Raise the one that is too low."
        )
    generator = torch.Generator().manual_seed(seed)
    inner = torch.randn(n_tasks, features, _HIDDEN_UNITS, generator=generator) * 2 / features**0.5
    outer = torch.randn(n_tasks, _HIDDEN_UNITS, 1, generator=generator)

    def draw(count: int) -> tuple[Tensor, Tensor]:
        x = torch.randn(n_tasks, count, features, generator=generator)
        return x, torch.tanh(x @ inner) @ outer + noise * torch.randn(n_tasks, count, 1, generator=generator)

    support, validation, unseen = draw(rows), draw(rows), draw(10 * rows)
    return TaskBatch(*support, *validation), TaskBatch(*support, *unseen)


@dataclasses.dataclass(frozen=True)
class SearchRound:
    """Where several searches stand after a round.

    Arguments:
        results: by strategy, every candidate so far.
        round: rounds done.
        steps: gradient steps of a whole training.
        shown: the strategy that is looked at closely.
    """

    results: dict[str, Result]
    round: int
    steps: int
    shown: str

    def spent(self, name: str) -> list[float]:
        """Training paid for after each round, in whole trainings: gradient steps of all candidates over ``steps``."""
        history = self.results[name].history
        return [sum(t.steps for t in history if t.round < r) / self.steps for r in range(1, self.round + 1)]

    def best(self, name: str) -> list[float]:
        """The least validation loss after each round."""
        history = self.results[name].history
        return [min(t.score for t in history if t.round < r and t.finished) for r in range(1, self.round + 1)]

    def __str__(self) -> str:
        leader = min(self.results, key=lambda name: self.best(name)[-1])
        chosen = self.results[leader].best.candidate
        named = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in chosen.items())
        return (
            f"after round {self.round}, {leader} has the lowest validation loss, {self.best(leader)[-1]:.3f}, with "
            f"{named}; random search has {self.best('random')[-1]:.3f}."
        )


def search_rounds(
    batch: TaskBatch,
    *,
    space: Space = NETWORKS,
    strategies: Mapping[str, Any] | None = None,
    rounds: int = _ROUNDS,
    steps: int = 150,
    seed: int = 0,
) -> Iterator[SearchRound]:
    """Let several strategies search for the network with the least validation loss; yield after each round.

    Arguments:
        batch: training rows (support) and validation rows (query).
        space: what is chosen from.
        strategies: by name, ``"random"`` among them; the four of ``STRATEGIES`` when left out.
        rounds: rounds of each.
        steps: gradient steps of a whole training.
        seed: of the strategies and of the initial weights.

    Raises:
        ValueError: if there is no ``"random"`` to compare with, or ``rounds`` is below 1.

    Example:
        >>> batch, _ = hidden_rows(rows=20)
        >>> for now in search_rounds(batch, strategies={"random": Random(4)}, rounds=2, steps=20):
        ...     print(now.round, now.spent("random"))
        1 [4.0]
        2 [4.0, 8.0]
    """
    chosen = dict(STRATEGIES if strategies is None else strategies)
    if "random" not in chosen:
        raise ValueError(f"strategies must hold 'random', to compare with, got {', '.join(chosen)}. Add Random().")
    if rounds < 1:
        raise ValueError(f"rounds must be at least 1, got {rounds}. Raise it.")
    return filter(None, _parts(batch, space, chosen, rounds, steps, seed))


def _parts(
    batch: TaskBatch, space: Space, strategies: dict[str, Any], rounds: int, steps: int, seed: int
) -> Iterator[SearchRound | None]:
    """As ``search_rounds``, with a None after each strategy of a round: a place to stop at."""
    searchers = {name: strategy.start(space, seed=seed) for name, strategy in strategies.items()}
    results = {n: Result(space, (), (), None, "", type(s).__name__, []) for n, s in strategies.items()}
    for done in range(rounds):
        for name, searcher in searchers.items():
            before, strategy = results[name], strategies[name]
            halving = strategy if isinstance(strategy, SuccessiveHalving) else None
            model = ({n: q.clone() for n, q in searcher.distribution().items()},) if _has_model(searcher) else ()
            options: dict[str, Any] = {"first": len(before.history), "round": done, "halving": halving}
            candidates = searcher.ask(strategy.population)
            trials, _ = train(candidates, batch, steps=steps, seed=seed, **options)
            searcher.tell(candidates, [trial.score for trial in trials])
            history: tuple[Trial, ...] = (*before.history, *trials)
            results[name] = dataclasses.replace(before, history=history, distributions=before.distributions + model)
            yield None
        yield SearchRound(dict(results), done + 1, steps, next(iter(strategies)))


def _has_model(searcher: Any) -> bool:
    return hasattr(searcher, "distribution")


class SearchExplorer:
    """Let four strategies search, a round at a time or on to the end; choose which of them to look at.

    ``.record`` is the ``SearchRound`` shown, ``.error`` the exception if there was one; ``.wait()`` waits for a run.
    Controls by name: shown, noise, steps, seed. Moving noise, steps or seed begins a new search.

    Example:
        >>> explorer = SearchExplorer()
        >>> explorer.buttons["Next round"].click()
        >>> explorer.record.round, explorer.error
        (2, None)
    """

    controls, record, error, widget, static, _ipython_display_ = VIEWED

    def __init__(self) -> None:
        self._lock = threading.Lock()  # A slider may begin a new search while the thread is in a round.
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._failure: Exception | None = None
        self._setting: tuple[float, int, int] | None = None
        controls = {
            "shown": ipw.Dropdown(description="Look at", options=list(STRATEGIES), value="cross-entropy", **LINE),
            "noise": ipw.FloatSlider(description="Noise (y)", min=0, max=1, step=0.1, value=0.5, **LATE),
            "steps": ipw.IntSlider(description="Gradient steps", min=50, max=400, step=50, value=150, **LATE),
            "seed": ipw.BoundedIntText(description="Seed", min=0, max=999, value=2, style=STYLE),
        }
        self.buttons = {
            "Next round": button("Next round", "One round of each strategy", self.next, width="110px"),
            "Run": button("Run", "On to the last round", self.run, width="110px"),
            "Stop": button("Stop", "End after the strategy at work", self.stop, width="110px"),
            "Start again": button("Start again", "Begin a new search", self.reset, width="110px"),
        }
        rows = [ipw.HBox(list(self.buttons.values()), layout=ROW), *controls.values()]
        told = "An explorer with buttons for the rounds of a search, and sliders for noise and steps"
        self._view = Explorer(controls, self._current, self.draw, rows=rows, instead=told)
        for control in controls.values():
            control.observe(lambda _: self._switch(), names="value")
        self._show()

    def next(self) -> None:
        """Do one round of each strategy."""
        while not self._advance():
            pass
        self._show()

    def run(self) -> None:
        """Go on to the last round, in a thread."""
        if self._thread is None:
            self._stopping.clear()
            self._thread = threading.Thread(target=self._go_on, daemon=True)
            self._switch()
            self._thread.start()

    def stop(self) -> None:
        """End a run after the strategy that is at work; the next round takes up where it ended."""
        self._stopping.set()
        self.buttons["Stop"].disabled = True  # The answer to the click, while that strategy still goes on.

    def wait(self) -> None:
        """Wait for a run to end."""
        if (thread := self._thread) is not None:
            thread.join()

    def reset(self) -> None:
        """Begin a new search with the same settings."""
        self._setting = None
        self._show()

    @staticmethod
    def draw(fig: Figure, record: SearchRound) -> None:
        """Best so far on the left; on the right the chosen strategy's model of good networks, or its candidates."""
        fig.set(figwidth=9.6, figheight=4.0, dpi=100, facecolor="white")
        left, right = fig.subplots(1, 2, width_ratios=(1, 1.5))
        fig.subplots_adjust(left=0.07, right=0.985, top=0.86, bottom=0.14, wspace=0.24)
        left.spines[["top", "right"]].set_visible(False)
        draw_rounds(left, record)
        result = record.results[record.shown]
        if result.distributions:
            plots.draw_distribution(right, result)
            right.set_title("")
            right.tick_params(axis="x", labelsize=7)  # "sigmoid" and "0.01" stand side by side.
            right.set_xlabel(f"{record.shown}: probability before the round, white 0, dark 1")
        else:
            plots.draw_population(right, result, dimension="units")
            right.set_title(f"{record.shown}: {len(result.history)} candidates")

    def _current(self, *, shown: str, noise: float, steps: int, seed: int) -> SearchRound:
        with self._lock:
            if (setting := (noise, steps, seed)) != self._setting:
                batch, _ = hidden_rows(noise=noise, seed=seed)
                self._parts = _parts(batch, NETWORKS, STRATEGIES, _ROUNDS, steps, seed)
                self._now, self._setting, self._failure = next(filter(None, self._parts)), setting, None
            if self._failure is not None:
                raise self._failure
            return dataclasses.replace(self._now, shown=shown)

    def _advance(self) -> bool:
        """Let one strategy do its part; whether the round is over."""
        with self._lock:
            try:
                now = next(self._parts, self._now)
            except Exception as error:  # Kept, and told by the drawing that follows: a thread's traceback goes nowhere.
                self._failure = error
                return True
            self._now = now or self._now
            return now is not None

    def _go_on(self) -> None:
        while not (self._stopping.is_set() or self._failure or self._now.round == _ROUNDS):
            if self._advance():
                self._view.refresh()
        self._thread = None
        self._show()

    def _show(self) -> None:
        self._view.refresh()
        self._switch()

    def _switch(self) -> None:
        running, over = self._thread is not None, self._now.round == _ROUNDS
        off = {"Next round": running or over, "Run": running or over, "Stop": not running, "Start again": running}
        for name, each in self.buttons.items():
            each.disabled = off[name]


def draw_rounds(ax: Axes, record: SearchRound) -> None:
    """The least validation loss after each round against the training paid for, a line a strategy."""
    for i, name in enumerate(record.results):
        colour, dash = (plots.GREY, "--") if name == "random" else (plots.CYCLE[i % len(plots.CYCLE)], "-")
        width = 2.6 if name == record.shown else 1.4
        shape: dict[str, Any] = {
            "color": colour,
            "ls": dash,
            "lw": width,
            "marker": _MARKERS[i % len(_MARKERS)],
            "ms": 4,
        }
        ax.plot(record.spent(name), record.best(name), label=name, **shape)
    ax.set(xlabel="training paid for (whole trainings)", ylabel="best validation loss", title="Best so far")
    ax.legend(frameon=False, fontsize=8)
