"""Hyperparameters, pre-learned: which settings to try first on a new data set, from what they did on earlier ones.

The oldest use of meta-learning: algorithm selection. A race tries settings of one data set one after the other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from metakit.checks import whole
from metakit.learners import EmpiricalGP
from metakit.tasks.trials import TrialTables

TRIALS = 20


def learner(tables: TrialTables) -> EmpiricalGP:
    """The learner of the race: its prior learned from these tables, in closed form, in a fraction of a second."""
    return EmpiricalGP.of(tables)


def random_order(tables: TrialTables, trials: int = TRIALS, *, seed: int = 0) -> list[int]:
    """Settings in random order."""
    generator = torch.Generator().manual_seed(whole("seed", seed, least=0))
    return torch.randperm(len(tables.settings), generator=generator)[: _most(tables, trials)].tolist()


def by_mean_rank(tables: TrialTables, trials: int = TRIALS) -> list[int]:
    """The settings of best mean rank first."""
    other = tables.scores[:, None]
    better = (other > tables.scores[:, :, None]).sum(2, dtype=torch.float64)
    equal = (other == tables.scores[:, :, None]).sum(2, dtype=torch.float64)
    return (better + equal / 2).mean(0).argsort(stable=True)[: _most(tables, trials)].tolist()


def portfolio(tables: TrialTables, trials: int = TRIALS) -> list[int]:
    """The greedy portfolio: each setting is the one by which the best so far rises most, on average over the tables.

    Scores of each data set are brought to [0, 1].

    Example:
        >>> scores = torch.tensor([[1.0, 0.0, 0.9], [0.0, 1.0, 0.8], [0.0, 0.9, 1.0]])
        >>> portfolio(TrialTables(settings=torch.eye(3), scores=scores, names=tuple("abc"), shots=1, queries=2))
        [2, 1, 0]

    Source: M. Feurer, J. Springenberg, F. Hutter, Using Meta-Learning to Initialize Bayesian Optimization of
    Hyperparameters, 2014; greedy as A. Xu et al., Hydra, 2010.
    """
    z = unit(tables.scores)
    best = torch.zeros(len(z), 1, dtype=z.dtype)
    order: list[int] = []
    for _ in range(_most(tables, trials)):
        gain = torch.maximum(z, best).mean(0)
        gain[order] = -math.inf
        order.append(int(gain.argmax()))
        best = torch.maximum(best, z[:, order[-1:]])
    return order


def race(gp: EmpiricalGP, tables: TrialTables, name: str, trials: int = TRIALS) -> list[int]:
    """Settings in the order in which the learner tries them on a data set: each where most improvement is expected.

    The first has the highest expected score. Improvement is counted in units of the data set's span, of which each part
    of the learner's answer has its own. Nothing of the data set is known but the scores of what was tried.

    Arguments:
        gp: the learner; to judge it, one that learned from ``tables.without(name)``.
        tables: where the scores of the trials are looked up.
        name: the data set.
        trials: how many.

    Example:
        >>> scores = torch.tensor([[1.0, 0.0, 0.9], [0.0, 1.0, 0.8], [0.0, 0.9, 1.0], [0.1, 1.0, 0.7]])
        >>> tables = TrialTables(settings=torch.eye(3), scores=scores, names=tuple("abcd"), shots=1, queries=2)
        >>> race(learner(tables.without("d")), tables, "d")
        [2, 1, 0]

    Source: expected improvement, Jones, Schonlau and Welch 1998, equation (15).
    """
    return ask_and_tell(gp, tables.settings, tables.only(name).scores[0], trials)


def ask_and_tell(gp: EmpiricalGP, settings: Tensor, scores: Tensor, trials: int) -> list[int]:
    """The race over these settings ``[M, D]``, whose scores ``[M]`` are told once they are tried."""
    order: list[int] = []
    for _ in range(min(whole("trials", trials), len(settings))):
        seen = torch.tensor(order, dtype=torch.long)
        order.append(suggest(gp, settings, settings[seen], scores[seen]))
    return order


def suggest(gp: EmpiricalGP, settings: Tensor, tried: Tensor, scores: Tensor) -> int:
    """The number of the setting ``[M, D]`` to try next, when these ``[t, D]`` were tried, with their scores ``[t]``.

    Example:
        >>> table = TrialTables(settings=torch.eye(3), scores=torch.rand(4, 3), names=tuple("abcd"), shots=1, queries=2)
        >>> suggest(learner(table), table.settings, table.settings[:2], torch.tensor([0.5, 0.7]))
        2
    """
    parts = gp.posterior(tried, scores, settings)
    weights = parts.log_weights.exp()
    if len(tried):
        best = scores.double().max()
        u = (parts.means - best) / parts.spreads
        density = torch.exp(-u.square() / 2) / math.sqrt(2 * math.pi)
        gain = parts.spreads * (u * torch.special.ndtr(u) + density) / gp.spans
    else:
        gain = parts.means / gp.spans
    gain = (weights * gain).sum(-1)
    if len(tried):
        gain[torch.isin(gp.places(settings), gp.places(tried))] = -math.inf
    return int(gain.argmax())


def regret(tables: TrialTables, name: str, order: list[int]) -> Tensor:
    """How far the best so far lies below the best of all, in % of the span of the data set's scores, after each trial.

        r_t = 100 (max y - max_{s <= t} y_s) / (max y - min y)

    Example:
        >>> tables = TrialTables(
        ...     settings=torch.eye(3), scores=torch.tensor([[0.5, 0.7, 0.9]]), names=("a",), shots=1, queries=2
        ... )
        >>> regret(tables, "a", [0, 1, 2])
        tensor([100.,  50.,   0.])
    """
    scores = tables.only(name).scores[0].double()
    best = scores[order].cummax(0).values
    return (100 * (scores.max() - best) / (scores.max() - scores.min())).float()


def starting_trials(tables: TrialTables, trials: int = 5) -> list[dict[str, Any]]:
    """The greedy portfolio as settings to begin with in Optuna: ``for t in ...: study.enqueue_trial(t)``.

    Raises:
        ValueError: if the tables do not say what their settings are called.

    Example:
        >>> candidates = tuple({"C": 10.0**i} for i in range(3))
        >>> scores = torch.tensor([[1.0, 0.0, 0.9], [0.0, 1.0, 0.8], [0.0, 0.9, 1.0]])
        >>> starting_trials(TrialTables(
        ...     settings=torch.eye(3), scores=scores, names=tuple("abc"), candidates=candidates, shots=1, queries=2
        ... ), 2)
        [{'C': 100.0}, {'C': 10.0}]
    """
    if not tables.candidates:
        raise ValueError("starting trials need the settings in words: give TrialTables candidates=.")
    return [dict(tables.candidates[i]) for i in portfolio(tables, trials)]


def unit(scores: Tensor) -> Tensor:
    """Scores of each data set brought to [0, 1], ``[N, M]``, float64."""
    scores = scores.double()
    low = scores.amin(1, keepdim=True)
    return (scores - low) / (scores.amax(1, keepdim=True) - low)


def compared(tables: TrialTables, name: str, trials: int = TRIALS) -> Mapping[str, list[int]]:
    """The orders of the learner and of those that it is measured by on one data set, all learned from the others."""
    others = tables.without(name)
    return {
        "learned prior": race(learner(others), tables, name, trials),
        "greedy portfolio": portfolio(others, trials),
        "mean rank": by_mean_rank(others, trials),
        "random": random_order(others, trials),
    }


def _most(tables: TrialTables, trials: int) -> int:
    return min(whole("trials", trials), len(tables.settings))
