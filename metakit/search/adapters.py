"""Strategies that lean on others: successive halving on a proposer, and the samplers of another library."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from metakit.checks import whole
from metakit.contracts import Search, Strategy
from metakit.search.space import Candidate, Choice, Number, Space
from metakit.search.strategies import Ledger, Random


@dataclasses.dataclass(frozen=True)
class SuccessiveHalving:
    """Train many candidates a little; keep the best share of them and train these on; repeat.

    With reduction ``f`` and ``rungs`` r, candidates are compared after ``steps f^-r, ..., steps f^-1`` steps; each time
    the best ``1 / f`` of them go on, and the last go to the end. ``search.run`` drops the others inside the batch, so
    that they cost nothing more. A candidate's score is its last, and only those that went to the end can be chosen. New
    candidates come from another strategy, which is told the scores.

    Arguments:
        population: candidates that start in a round.
        reduction: f, how many of which one goes on.
        rungs: comparisons r before the end.
        proposals: the strategy that proposes; random search, as in the paper, when left out.

    Raises:
        ValueError: if an option is out of its range.

    Example:
        >>> SuccessiveHalving(reduction=4, rungs=2).milestones(1000)
        (62, 250)

    Source: Jamieson and Talwalkar 2016, figure 3; Li et al. 2018 (Hyperband).
    """

    population: int = 64
    reduction: int = 3
    rungs: int = 3
    proposals: Strategy = dataclasses.field(default_factory=Random)

    def __post_init__(self) -> None:
        whole("population", self.population)
        whole("reduction", self.reduction, least=2)
        whole("rungs", self.rungs)

    def start(self, space: Space, *, seed: int = 0) -> Search:
        return self.proposals.start(space, seed=seed)

    def milestones(self, steps: int) -> tuple[int, ...]:
        """Steps after which candidates are compared, in a training of ``steps``."""
        each = [steps // self.reduction**rung for rung in range(self.rungs, 0, -1)]
        return tuple(sorted({step for step in each if step}))

    def survivors(self, scores: Sequence[float]) -> list[int]:
        """Which of the candidates with these scores go on: the best ``1 / f``, at least one."""
        best = sorted(range(len(scores)), key=lambda p: scores[p])
        return sorted(best[: max(1, len(scores) // self.reduction)])


@dataclasses.dataclass(frozen=True)
class Optuna:
    """Any sampler of the library Optuna behind the same interface; needs the extra ``search``.

    Arguments:
        sampler: a sampler's class, made with the seed of the search, or a sampler already made, which is copied at each
            start and keeps its own seed. The tree-structured Parzen estimator when left out.
        population: candidates in a round.

    Raises:
        ImportError: if Optuna is not installed.

    Source: Akiba, Sano, Yanase, Ohta and Koyama 2019; the estimator, Bergstra et al. 2011.
    """

    sampler: Any = None
    population: int = 16

    def __post_init__(self) -> None:
        whole("population", self.population)

    def start(self, space: Space, *, seed: int = 0) -> _Optuna:
        return _Optuna(Ledger(space, seed), self.sampler, seed)


class _Optuna:
    def __init__(self, ledger: Ledger, sampler: Any, seed: int) -> None:
        try:
            import optuna
        except ImportError as error:
            raise ImportError('Optuna is not installed. Get it with: pip install "metakit[search]".') from error
        make = optuna.samplers.TPESampler if sampler is None else sampler
        made = make(seed=seed) if isinstance(make, type) else copy.deepcopy(make)
        self._ledger, self._optuna = ledger, optuna
        self._waiting: dict[Any, list[Any]] = {}
        loud = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._study = optuna.create_study(sampler=made)
        optuna.logging.set_verbosity(loud)
        self._kinds = {name: _kind(optuna, d) for name, d in ledger.space.dimensions.items()}

    def ask(self, n: int) -> list[Candidate]:
        return [self._ask() for _ in range(whole("n", n))]

    def tell(self, candidates: Sequence[Mapping[str, Any]], scores: Sequence[float]) -> None:
        for candidate, score in self._ledger.record(candidates, scores):
            waiting = self._waiting.get(self._ledger.space.key(candidate))
            if waiting:
                self._study.tell(waiting.pop(), score)
            else:
                coded = {n: self._coded(n, value) for n, value in candidate.items()}
                trial = self._optuna.trial.create_trial(params=coded, distributions=self._kinds, value=score)
                self._study.add_trial(trial)

    def _ask(self) -> Candidate:
        """The sampler's next candidate, or, if that was seen before, an unseen one near it."""
        dimensions = self._ledger.space.dimensions
        trial = self._study.ask(self._kinds)
        raw = {
            name: d.values[trial.params[name]] if isinstance(d, Choice) else trial.params[name]
            for name, d in dimensions.items()
        }
        candidate = self._ledger.propose(1, lambda: raw)[0]
        if candidate == raw:
            self._waiting.setdefault(self._ledger.space.key(candidate), []).append(trial)
        else:
            self._study.tell(trial, state=self._optuna.trial.TrialState.FAIL)
        return candidate

    def _coded(self, name: str, value: Any) -> Any:
        dimension = self._ledger.space.dimensions[name]
        return dimension.values.index(value) if isinstance(dimension, Choice) else value


def _kind(optuna: Any, dimension: Choice | Number) -> Any:
    """A dimension in Optuna's words; a choice by the number of its value, for Optuna takes plain values only."""
    if isinstance(dimension, Choice):
        return optuna.distributions.CategoricalDistribution(tuple(range(dimension.count)))
    kind = optuna.distributions.IntDistribution if dimension.whole else optuna.distributions.FloatDistribution
    return kind(dimension.low, dimension.high, log=dimension.log)
