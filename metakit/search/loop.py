"""The outer loop over structures: ask, train, judge, tell; choose on validation rows, report on rows never seen."""

from __future__ import annotations

import dataclasses
import math
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from metakit.checks import Device, as_device, as_generator, whole
from metakit.contracts import Search as Searcher
from metakit.contracts import Strategy, Tasks
from metakit.files import read_checkpoint, write_checkpoint
from metakit.models import MLP
from metakit.search.adapters import SuccessiveHalving
from metakit.search.architecture import Architecture
from metakit.search.population import Population
from metakit.search.space import Candidate, Space
from metakit.search.strategies import CrossEntropy, Modelled, Random
from metakit.tasks.batch import TaskBatch

# Validation losses on a curve, besides the first.
_POINTS = 20
_TASKS = 16
_TEST_SEED = 1_000_003


@dataclasses.dataclass(frozen=True)
class Trial:
    """A candidate and how it fared.

    Arguments:
        candidate: dimension to value.
        score: mean validation loss over the tasks at its last step; infinite if it diverged.
        curve: ``(step, validation loss)``, from the untrained network on.
        number: its place in the search, from 0; with the seed, it decides the initial weights.
        round: the round in which it was asked for.
        finished: whether it was trained to the end, and may be chosen.
    """

    candidate: Candidate
    score: float
    curve: tuple[tuple[int, float], ...]
    number: int
    round: int
    finished: bool = True

    @property
    def steps(self) -> int:
        """Gradient steps that it was trained for."""
        return self.curve[-1][0]


@dataclasses.dataclass(frozen=True)
class Result:
    """What a search did and found.

    Arguments:
        space: where it searched.
        history: every candidate that was trained, in order.
        distributions: for each round, the strategy's model before it: dimension to probabilities; empty if it has none.
        test: losses of the best candidate on rows that the search never saw, ``[T]``; ``None`` without a test.
        ended: ``"rounds spent"``, ``"stopped"`` or ``"space spent"``.
        strategy: name of the strategy.
        weights: weights and biases of each layer of the best candidate, as trained on the first task.
    """

    space: Space
    history: tuple[Trial, ...]
    distributions: tuple[dict[str, Tensor], ...]
    test: Tensor | None
    ended: str
    strategy: str
    weights: list[tuple[Tensor, Tensor]]

    @property
    def best(self) -> Trial:
        """The candidate with the least validation loss among those trained to the end."""
        return min((trial for trial in self.history if trial.finished), key=lambda trial: trial.score)

    def model(self) -> MLP:
        """The best candidate as a trained module (on the first task, if there are several)."""
        inputs, outputs = self.weights[0][0].shape[1], len(self.weights[-1][1])
        return Architecture.of(self.best.candidate).model(inputs, outputs, self.weights)

    def best_so_far(self) -> list[float]:
        """The least validation loss of a finished candidate after 1, 2, ... candidates."""
        least, curve = math.inf, []
        for trial in self.history:
            least = min(least, trial.score) if trial.finished else least
            curve.append(least)
        return curve

    def table(self) -> Any:
        """The history as a pandas frame, one row a candidate.

        Raises:
            ImportError: if pandas is not installed.
        """
        try:
            import pandas  # type: ignore[import-untyped, unused-ignore]
        except ImportError as error:
            raise ImportError("table() needs pandas, which is missing. Get it with: pip install pandas.") from error
        facts = ("number", "round", "score", "steps", "finished")
        return pandas.DataFrame([{**{f: getattr(t, f) for f in facts}, **t.candidate} for t in self.history])

    def __str__(self) -> str:
        best = self.best
        named = ", ".join(f"{n} {v:.3g}" if isinstance(v, float) else f"{n} {v}" for n, v in best.candidate.items())
        told = f"{self.strategy}: {named}; validation loss {best.score:.4g}"
        if self.test is not None:
            told += f", test loss {float(self.test.mean()):.4g}"
        return f"{told} ({len(self.history)} candidates trained, {self.ended})"


class Search:
    """The live side of ``run``, for its callback: ``.history``, ``.round`` of ``.rounds``, ``.stop()``.

    Arguments:
        rounds: rounds to do in all.
    """

    def __init__(self, rounds: int) -> None:
        self.rounds, self.round, self.ended = rounds, 0, ""
        self.history: list[Trial] = []
        self.distributions: list[dict[str, Tensor]] = []

    def stop(self) -> None:
        """End the search after this round; safe to call from another thread."""
        self.ended = self.ended or "stopped"


def train(
    candidates: Sequence[Mapping[str, Any]],
    batch: TaskBatch,
    *,
    steps: int = 1000,
    seed: int = 0,
    first: int = 0,
    round: int = 0,
    halving: SuccessiveHalving | None = None,
    bar: tqdm | None = None,
) -> tuple[list[Trial], Population]:
    """Train candidates on the support rows of every task, all at once, and judge them on the query rows.

    Arguments:
        candidates: what ``population.Architecture.of`` reads.
        batch: T tasks; a score is the mean over them.
        steps: gradient steps.
        seed, first: of the initial weights; ``first`` is the number of the first candidate.
        round: noted in each trial.
        halving: drops candidates on the way.
        bar: moved on by one in all.

    Raises:
        ValueError: if a candidate is no network, or a number is out of its range.

    Example:
        >>> import metakit as mk
        >>> batch = mk.tasks.LinearRegression(rows=20, features=3).sample(1, seed=0)
        >>> trials, _ = train([{"units": 4}, {"units": 8}], batch, steps=40)
        >>> [trial.steps for trial in trials]
        [40, 40]
    """
    whole("steps", steps)
    numbers = range(first, first + len(candidates))
    population = Population([Architecture.of(c) for c in candidates], batch, seed=seed, numbers=numbers)
    milestones = halving.milestones(steps) if halving else ()
    marks = sorted({point * steps // _POINTS for point in range(1, _POINTS + 1)} - {0} | {*milestones})
    alive, done = list(range(len(candidates))), 0
    losses = population.losses(batch.query_x, batch.query_y).mean(1).tolist()
    curves = [[(0, loss)] for loss in losses]
    for mark in marks:
        population.train(mark - done)
        moved, done = (mark - done) * len(alive) / (steps * len(candidates)), mark
        losses = population.losses(batch.query_x, batch.query_y).mean(1).tolist()
        for p in alive:
            curves[p].append((mark, losses[p]))
        if halving and mark in milestones and mark < steps:
            alive = [alive[i] for i in halving.survivors([losses[p] for p in alive])]
            population.keep(alive)
        if bar is not None:
            bar.update(min(moved, bar.total - bar.n))  # Rounding must not carry it past its end.
    trials = [
        Trial(dict(c), curve[-1][1], tuple(curve), first + p, round, curve[-1][0] == steps)
        for p, (c, curve) in enumerate(zip(candidates, curves, strict=True))
    ]
    return trials, population


def run(
    space: Space,
    tasks: TaskBatch | Tasks,
    *,
    strategy: Strategy | None = None,
    rounds: int = 10,
    steps: int = 1000,
    seed: int = 0,
    test: TaskBatch | None = None,
    n_tasks: int = _TASKS,
    device: Device = None,
    checkpoint: str | pathlib.Path | None = None,
    resume: bool = False,
    progress: bool = True,
    callback: Callable[[Search], None] | None = None,
) -> Result:
    """Search for the network that learns best: in each round a population is trained as one batch.

        c* = argmin_c mean_t L(U_K(c; support set t); query set t)

    where U_K trains candidate c for K steps of gradient descent. Selection sees support rows (training) and query rows
    (validation) only; the test loss of c* comes from elsewhere.

    Arguments:
        space: with the dimensions ``hidden_layers``, ``units`` (or ``per_layer`` of them), ``activation`` and
            ``learning_rate``, or some of them.
        tasks: a ``TaskBatch``, or a task distribution: then ``n_tasks`` tasks are drawn once, all candidates learn all
            of them, and the test is on as many others.
        strategy: how candidates are chosen; ``CrossEntropy()`` when left out.
        rounds: each asks for ``strategy.population`` candidates.
        steps: gradient steps K of a candidate.
        seed: of the strategy, the initial weights and the tasks drawn.
        test: for a ``TaskBatch``: the same tasks, whose query rows are new.
        device: where to train; where the batch is when left out.
        checkpoint: file that keeps the history, written after each round.
        resume: go on from ``checkpoint`` if it is there: the rounds in it are asked and told again, not trained again.
        progress: show a bar once the search takes over two seconds.
        callback: called with the ``Search`` after each round; may call ``search.stop()``.

    Raises:
        ValueError: if an option is out of its range, the space names no network, the checkpoint is of another search,
            or every candidate diverged.

    Example:
        >>> import metakit as mk
        >>> batch = mk.tasks.LinearRegression(rows=20, features=3).sample(1, seed=0)
        >>> space = Space(units=(1, 16), activation=("relu", "tanh"))
        >>> result = run(space, batch, strategy=Random(8), rounds=2, steps=50)
        >>> len(result.history), result.ended
        (16, 'rounds spent')

    Source: Elsken, Metzen and Hutter 2019, figure 1; population-based training as one batch is this library's.
    """
    strategy = CrossEntropy() if strategy is None else strategy
    search, steps = Search(whole("rounds", rounds)), whole("steps", steps)
    batch, test = _tasks(tasks, test, n_tasks, seed, device)
    searcher = strategy.start(space, seed=seed)
    halving = strategy if isinstance(strategy, SuccessiveHalving) else None
    identity = {"strategy": repr(strategy), "space": repr(space), "steps": steps, "seed": seed}
    known = _read(checkpoint, identity) if resume else []
    with tqdm(total=rounds, unit="round", delay=2, disable=not progress, bar_format=_BAR) as bar:
        while candidates := _asked(search, searcher, space, strategy.population):
            trials = [trial for trial in known if trial.round == search.round]
            if trials and [trial.candidate for trial in trials] != candidates:
                raise ValueError(f"{checkpoint} is of another search. Start afresh with resume=False.")
            if not trials:
                place: dict[str, Any] = {"first": len(search.history), "round": search.round, "halving": halving}
                trials, _ = train(candidates, batch, steps=steps, seed=seed, bar=bar, **place)
            searcher.tell(candidates, [trial.score for trial in trials])
            search.history += trials
            search.round += 1
            if len(search.history) > len(known):
                _write(checkpoint, identity, search.history)
            if callback is not None:
                callback(search)
    return _result(space, type(strategy).__name__, search, batch, test, steps, seed)


def compare(
    space: Space,
    tasks: TaskBatch | Tasks,
    *,
    strategies: Mapping[str, Strategy],
    seeds: Sequence[int] = (0, 1, 2),
    population: int = 20,
    rounds: int = 10,
    steps: int = 1000,
    test: TaskBatch | None = None,
    progress: bool = True,
) -> dict[str, list[Result]]:
    """Run several strategies, each with several seeds, and always random search with the same budget beside them.

    Arguments:
        space, tasks, rounds, steps, test, progress: as in ``run``.
        strategies: by name.
        seeds: one run of each strategy for each seed.
        population: candidates that random search trains in a round.

    Example:
        >>> import metakit as mk
        >>> batch = mk.tasks.LinearRegression(rows=20, features=3).sample(1, seed=0)
        >>> results = compare(Space(units=(1, 64)), batch, strategies={}, seeds=(0, 1), rounds=1, steps=20)
        >>> {name: len(each) for name, each in results.items()}
        {'random': 2}
    """
    named = {**strategies, "random": strategies.get("random", Random(population))}
    options: dict[str, Any] = {"rounds": rounds, "steps": steps, "test": test, "progress": progress}
    return {n: [run(space, tasks, strategy=s, seed=seed, **options) for seed in seeds] for n, s in named.items()}


_BAR = "{l_bar}{bar}| {n:.1f}/{total_fmt} rounds [{elapsed}<{remaining}]"


def _asked(search: Search, searcher: Searcher, space: Space, population: int) -> list[Candidate]:
    """The candidates of the next round; none where the search has ended."""
    left = space.size - len(search.history)
    if search.round == search.rounds or not left:
        search.ended = search.ended or ("space spent" if search.round < search.rounds else "rounds spent")
    if search.ended:
        return []
    if isinstance(searcher, Modelled):
        search.distributions.append({name: q.clone() for name, q in searcher.distribution().items()})
    return list(searcher.ask(int(min(population, left))))


def _tasks(
    tasks: TaskBatch | Tasks, test: TaskBatch | None, n_tasks: int, seed: int, device: Device
) -> tuple[TaskBatch, TaskBatch | None]:
    """The tasks to search with, and those for the test."""
    if not isinstance(tasks, TaskBatch):
        if not isinstance(tasks, Tasks):
            raise TypeError(f"tasks must be a TaskBatch or have sample(T), got {type(tasks).__name__}.")
        if test is not None:
            raise ValueError("test must be left out for a task distribution: it gives test tasks itself.")
        place, count = as_device(device) or torch.device("cpu"), whole("n_tasks", n_tasks)
        dice = (as_generator(None, each, place) for each in (seed, seed + _TEST_SEED))
        searched, tested = (tasks.sample(count, generator=generator, device=place) for generator in dice)
        return searched, tested
    if test is not None and (not isinstance(test, TaskBatch) or len(test) != len(tasks)):
        raise ValueError(f"test must be a TaskBatch of the same {len(tasks)} tasks, with query rows of its own.")
    if test is not None and test.query_x.shape == tasks.query_x.shape and bool((test.query_x == tasks.query_x).all()):
        raise ValueError("test must hold query rows that the search does not see, got the very same. Draw new ones.")
    return tasks.to(device), None if test is None else test.to(device)


def _result(
    space: Space, strategy: str, search: Search, batch: TaskBatch, test: TaskBatch | None, steps: int, seed: int
) -> Result:
    finished = [trial for trial in search.history if trial.finished]
    best = min(finished, key=lambda trial: trial.score)
    if not math.isfinite(best.score):
        raise ValueError(f"all {len(search.history)} candidates diverged. Lower the learning rates of the space.")
    # Trained once more, alone: no weights of the many others need be kept.
    _, again = train([best.candidate], batch, steps=steps, seed=seed, first=best.number)
    weights, losses = [(w.cpu(), b.cpu()) for w, b in again.weights(0)], None
    if test is not None:
        same = test.support_x.shape == batch.support_x.shape and bool((test.support_x == batch.support_x).all())
        if not same:
            _, again = train([best.candidate], test, steps=steps, seed=seed, first=best.number)
        losses = again.losses(test.query_x, test.query_y)[0].cpu()
    history, distributions = tuple(search.history), tuple(search.distributions)
    return Result(space, history, distributions, losses, search.ended, strategy, weights)


def _write(path: str | pathlib.Path | None, identity: dict[str, Any], history: Sequence[Trial]) -> None:
    if path is not None:
        fields = [dataclasses.asdict(trial) for trial in history]
        write_checkpoint(path, {"kind": "search", "identity": identity, "history": fields})


def _read(path: str | pathlib.Path | None, identity: dict[str, Any]) -> list[Trial]:
    if path is None:
        raise ValueError("resume=True needs checkpoint=, the file to go on from.")
    if not pathlib.Path(path).exists():
        return []
    content = read_checkpoint(path, "search")
    for name, value in identity.items():
        if content["identity"][name] != value:
            raise ValueError(
                f"{path} is of another search: its {name} is {content['identity'][name]}, this one's is {value}. "
                "Start afresh with resume=False."
            )
    return [Trial(**{**fields, "curve": tuple(map(tuple, fields["curve"]))}) for fields in content["history"]]
