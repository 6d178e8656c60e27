"""Strategies: how to choose the next candidates from the scores of those before.

Each has one interface. ``s = strategy.start(space, seed=0)``; ``s.ask(n)`` gives n candidates; ``s.tell(candidates,
scores)`` takes one score each, lower is better. A score may be infinite, and NaN counts as infinite. Telling is free:
in any order, in parts, late, or of candidates that were never asked for. No strategy proposes a candidate twice before
the whole space has been proposed. ``strategy.population`` is the number of candidates that ``search.run`` asks for in a
round.
"""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from metakit.checks import real, whole
from metakit.search.space import Candidate, Choice, Number, Space

# A range of numbers is divided into at most this many cells.
_CELLS = 16
# Draws of a candidate that was not proposed before; then the last one is changed, one dimension after another.
_DRAWS = 20
# Standard deviation of a mutated number's move, as a share of its range.
_MOVE = 0.15


@runtime_checkable
class Modelled(Protocol):
    """A search that has a model of good candidates: for each dimension the probabilities of its values or cells."""

    def distribution(self) -> dict[str, Tensor]: ...


@dataclasses.dataclass(frozen=True)
class Random:
    """Random search: each candidate is drawn uniformly, whatever the scores; what any other must beat.

    Arguments:
        population: candidates in a round.

    Example:
        >>> search = Random().start(Space(units=(1, 64)), seed=0)
        >>> candidates = search.ask(3)
        >>> search.tell(candidates, [1.0, 2.0, float("inf")])

    Source: Bergstra and Bengio 2012, section 2; for architectures, Li and Talwalkar 2019.
    """

    population: int = 32

    def __post_init__(self) -> None:
        whole("population", self.population)

    def start(self, space: Space, *, seed: int = 0) -> _Random:
        return _Random(Ledger(space, seed))


class _Random:
    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def ask(self, n: int) -> list[Candidate]:
        return self._ledger.propose(n, self._ledger.uniform)

    def tell(self, candidates: Sequence[Mapping[str, Any]], scores: Sequence[float]) -> None:
        self._ledger.record(candidates, scores)


@dataclasses.dataclass(frozen=True)
class Evolution:
    """Regularised evolution: the best of a few random members of the population has a child; the oldest member dies.

    A child differs from its parent in one dimension: by another choice, or by a small move of a number.

    Arguments:
        population: members P; the first P candidates are random.
        tournament: members S that are drawn, with replacement, for each parent. P = 100 and S = 25 in the paper are for
            20,000 candidates; the defaults are for a few hundred.

    Example:
        >>> search = Evolution(population=4, tournament=2).start(Space(units=(1, 64)), seed=0)
        >>> first = search.ask(4)
        >>> search.tell(first, [abs(c["units"] - 20) for c in first])
        >>> len(search.ask(2))
        2

    Source: Real, Aggarwal, Huang and Le 2019, algorithm 1.
    """

    population: int = 25
    tournament: int = 10

    def __post_init__(self) -> None:
        whole("population", self.population)
        whole("tournament", self.tournament)

    def start(self, space: Space, *, seed: int = 0) -> _Evolution:
        return _Evolution(Ledger(space, seed), self)


class _Evolution:
    def __init__(self, ledger: Ledger, options: Evolution) -> None:
        self._ledger, self._options = ledger, options
        self._alive: collections.deque[tuple[Candidate, float]] = collections.deque(maxlen=int(options.population))

    def ask(self, n: int) -> list[Candidate]:
        return self._ledger.propose(n, self._child)

    def tell(self, candidates: Sequence[Mapping[str, Any]], scores: Sequence[float]) -> None:
        self._alive.extend(self._ledger.record(candidates, scores))

    def _child(self) -> Candidate:
        if not self._alive or len(self._ledger.seen) < self._options.population:
            return self._ledger.uniform()
        drawn = [self._alive[self._ledger.below(len(self._alive))] for _ in range(self._options.tournament)]
        parent, _ = min(drawn, key=lambda member: member[1])
        return self._ledger.mutated(parent)


@dataclasses.dataclass(frozen=True)
class CrossEntropy:
    """The cross-entropy method: a generative model of good structures, fitted to the best candidates so far.

    The model is a product of one distribution a dimension, over its values (of a choice) or 16 cells (of a range):

        q(c) = prod_d q_d(c_d),    q_d <- (1 - a) q_d + a (share of the elite in each cell)

    where the elite is the best ``elite`` of all told so far. This fit maximises the likelihood of the elite: it
    minimises the cross-entropy between q and the elite; ``a`` is the smoothing. In the cells of a range, an elite
    member counts half for its own cell and a quarter for either neighbour. Fitting waits for nobody: each score told
    moves q by its part, so that asking for one candidate at a time and for many work alike.

    Arguments:
        population: candidates in a round, and told scores that make one whole move of q.
        elite: size of the elite.
        smoothing: ``a``, the move of q in a round, in (0, 1].
        explore: share of uniform draws, dimension by dimension, that is mixed in: no value is ever lost.

    Raises:
        ValueError: if an option is out of its range.

    Example:
        >>> search = CrossEntropy(population=8).start(Space(units=(1, 64)), seed=0)
        >>> for _ in range(20):
        ...     candidates = search.ask(8)
        ...     search.tell(candidates, [abs(c["units"] - 20) for c in candidates])
        >>> bool(search.distribution()["units"].argmax() in (4, 5))  # the cells of 17 to 20 and of 21 to 24
        True

    Source: de Boer, Kroese, Mannor and Rubinstein 2005, sections 3 and 4.
    """

    population: int = 20
    elite: int = 5
    smoothing: float = 0.7
    explore: float = 0.05

    def __post_init__(self) -> None:
        whole("population", self.population)
        whole("elite", self.elite)
        real("smoothing", self.smoothing, least=0, most=1)
        real("explore", self.explore, least=0, most=1)

    def start(self, space: Space, *, seed: int = 0) -> _CrossEntropy:
        return _CrossEntropy(Ledger(space, seed), self)


class _CrossEntropy:
    def __init__(self, ledger: Ledger, options: CrossEntropy) -> None:
        self._ledger, self._options = ledger, options
        self._model = Factored(ledger)
        self._told: list[tuple[Candidate, float]] = []

    def ask(self, n: int) -> list[Candidate]:
        return self._ledger.propose(n, lambda: self._model.draw(self._options.explore))

    def tell(self, candidates: Sequence[Mapping[str, Any]], scores: Sequence[float]) -> None:
        new = self._ledger.record(candidates, scores)
        self._told = sorted(self._told + new, key=lambda told: told[1])
        elite = [candidate for candidate, score in self._told[: self._options.elite] if score < math.inf]
        if not elite or len(self._told) < self._options.population:
            return
        # Of one told score, the part of a round's move whose n-fold repetition is the whole.
        move = 1 - (1 - self._options.smoothing) ** (len(new) / self._options.population)
        shares = self._model.shares(elite)
        self._model.probabilities = {n: q.lerp(shares[n], move) for n, q in self._model.probabilities.items()}

    def distribution(self) -> dict[str, Tensor]:
        """The model: for each dimension the probabilities of its values or cells."""
        return dict(self._model.probabilities)


@dataclasses.dataclass(frozen=True)
class Reinforce:
    """Policy gradient: a policy of one softmax a dimension; what beats the others becomes more probable.

        logit_d <- logit_d + lr A(c) grad log q_d(c_d) = logit_d + lr A(c) (onehot(c_d) - q_d)

    The advantage A is the share of the last ``window`` scores that the candidate beats, less one half. It is a reward
    with its mean as the baseline, and does not change when scores are scaled or one of them is infinite.

    Arguments:
        population: candidates in a round.
        lr: step size.
        window: scores that a candidate is compared with.

    Raises:
        ValueError: if an option is out of its range.

    Example:
        >>> search = Reinforce().start(Space(units=(1, 64)), seed=0)
        >>> candidates = search.ask(3)
        >>> search.tell(candidates, [1.0, 2.0, 3.0])
        >>> search.distribution()["units"].shape
        torch.Size([16])

    Source: Zoph and Le 2017, section 3.2, with a factored policy in place of their recurrent one; Williams 1992.
    """

    population: int = 20
    lr: float = 0.8
    window: int = 50

    def __post_init__(self) -> None:
        whole("population", self.population)
        whole("window", self.window)
        real("lr", self.lr, above=0)

    def start(self, space: Space, *, seed: int = 0) -> _Reinforce:
        return _Reinforce(Ledger(space, seed), self)


class _Reinforce:
    def __init__(self, ledger: Ledger, options: Reinforce) -> None:
        self._ledger, self._options = ledger, options
        self._model = Factored(ledger)
        self._logits = {name: torch.zeros_like(q) for name, q in self._model.probabilities.items()}
        self._recent: collections.deque[float] = collections.deque(maxlen=int(options.window))

    def ask(self, n: int) -> list[Candidate]:
        return self._ledger.propose(n, self._model.draw)

    def tell(self, candidates: Sequence[Mapping[str, Any]], scores: Sequence[float]) -> None:
        new = self._ledger.record(candidates, scores)
        self._recent.extend(score for _, score in new)
        for candidate, score in new:
            worse = sum((other > score) + 0.5 * (other == score) for other in self._recent)
            step = self._options.lr * (worse / len(self._recent) - 0.5)
            for name, chosen in self._model.shares([candidate]).items():
                self._logits[name] += step * (chosen - self._model.probabilities[name])
                self._model.probabilities[name] = self._logits[name].softmax(0)

    def distribution(self) -> dict[str, Tensor]:
        """The policy: for each dimension the probabilities of its values or cells."""
        return dict(self._model.probabilities)


class Factored:
    """A product of distributions, one a dimension: over the values of a choice, or over the cells of a range.

    Arguments:
        ledger: where its random numbers come from.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        sizes = {name: cells_of(dimension) for name, dimension in ledger.space.dimensions.items()}
        self.probabilities = {n: torch.full((cells,), 1 / cells, dtype=torch.float64) for n, cells in sizes.items()}

    def draw(self, explore: float = 0.0) -> Candidate:
        """A candidate from the model, each dimension with probability ``explore`` uniform instead."""
        candidate = {}
        for name, dimension in self._ledger.space.dimensions.items():
            q = self.probabilities[name]
            q = q.lerp(torch.full_like(q, 1 / len(q)), explore) if explore else q
            cell = int(torch.multinomial(q, 1, generator=self._ledger.generator))
            inside = self._ledger.rand() if isinstance(dimension, Number) else 0.5
            candidate[name] = dimension.value((cell + inside) / len(q))
        return candidate

    def shares(self, candidates: Sequence[Candidate]) -> dict[str, Tensor]:
        """The share of the candidates in each cell; in a range, shared with the cells beside."""
        shares = {}
        for name, dimension in self._ledger.space.dimensions.items():
            q = torch.zeros_like(self.probabilities[name])
            parts = {-1: 0.25, 0: 0.5, 1: 0.25} if isinstance(dimension, Number) else {0: 1.0}
            for candidate in candidates:
                cell = min(int(dimension.unit(candidate[name]) * len(q)), len(q) - 1)
                for beside, part in parts.items():
                    q[min(max(cell + beside, 0), len(q) - 1)] += part
            shares[name] = q / len(candidates)
        return shares


def cells_of(dimension: Choice | Number) -> int:
    """Cells that a dimension is divided into: one a value, at most 16 of a range."""
    return dimension.count if isinstance(dimension, Choice) else int(min(dimension.count, _CELLS))


class Ledger:
    """What every started strategy keeps: the space, its random numbers, and which candidates have been seen.

    Arguments:
        space: what to choose from.
        seed: of all that is drawn.
    """

    def __init__(self, space: Space, seed: int) -> None:
        if not isinstance(space, Space):
            raise TypeError(f"space must be a search.Space, got {type(space).__name__}.")
        self.space = space
        self.generator = torch.Generator().manual_seed(whole("seed", seed, least=0))
        self.seen: set[Any] = set()

    def rand(self) -> float:
        """A random number in [0, 1)."""
        return float(torch.rand((), generator=self.generator, dtype=torch.float64))

    def below(self, n: int) -> int:
        """A random whole number from 0 to n - 1."""
        return int(torch.randint(n, (), generator=self.generator))

    def uniform(self) -> Candidate:
        """A candidate, drawn uniformly."""
        return self.space.sample(1, generator=self.generator)[0]

    def propose(self, n: int, draw: Callable[[], Candidate]) -> list[Candidate]:
        """n candidates by ``draw``, none seen before as long as there is another."""
        return [self._unseen(draw) for _ in range(whole("n", n))]

    def record(self, candidates: Sequence[Mapping[str, Any]], scores: Sequence[float]) -> list[tuple[Candidate, float]]:
        """The candidates with their scores, checked; NaN becomes infinity."""
        if len(candidates) != len(scores):
            raise ValueError(f"tell must have one score a candidate, got {len(scores)} for {len(candidates)}.")
        numbers = [math.inf if math.isnan(score) else float(score) for score in scores]
        told = [(self.space.check(c), number) for c, number in zip(candidates, numbers, strict=True)]
        self.seen.update(self.space.key(candidate) for candidate, _ in told)
        return told

    def mutated(self, candidate: Candidate) -> Candidate:
        """The candidate with one dimension changed."""
        open_ = [name for name, d in self.space.dimensions.items() if d.count > 1]
        if not open_:
            return candidate
        name = open_[self.below(len(open_))]
        return {**candidate, name: self._moved(self.space.dimensions[name], candidate[name])}

    def _moved(self, dimension: Choice | Number, value: Any) -> Any:
        if isinstance(dimension, Choice):
            others = dimension.neighbours(value)
            return others[self.below(len(others))]
        move = _MOVE * float(torch.randn((), generator=self.generator, dtype=torch.float64))
        new = dimension.value(min(max(dimension.unit(value) + move, 0.0), 1.0))
        steps = dimension.neighbours(value)
        return new if new != value else steps[self.below(len(steps))]

    def _unseen(self, draw: Callable[[], Candidate]) -> Candidate:
        if len(self.seen) >= self.space.size:
            self.seen.clear()
        candidate, draws = draw(), 1
        while (key := self.space.key(candidate)) in self.seen:
            candidate = draw() if draws < _DRAWS else self.mutated(candidate)
            draws += 1
        self.seen.add(key)
        return candidate
