"""Learners in context as the published figures are met by them: networks, priors, and how they are trained."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from metakit.checks import real, whole
from metakit.learners import InContext
from metakit.models import SetTransformer
from metakit.outer import History, fit
from metakit.outer.muon import Muon
from metakit.tasks.gaussian_processes import GaussianProcesses
from metakit.tasks.regression import LinearRegression
from metakit.tasks.steady import Ranged, Steady
from metakit.tasks.table_prior import TablePrior

OUTER: dict[str, Any] = {"optimizer": Muon, "schedule": "CosineAnnealingLR", "clip": 1.0}
PROCESSES = GaussianProcesses(lengthscale=(0.15, 1.5), noise=(0.05, 0.3), context=(1, 25), queries=24)
TABLES = TablePrior(context=(16, 400), queries=100)
GP: dict[str, Any] = OUTER | {"meta_batch": 61, "lr": 1.5e-2}
LINEAR: dict[str, Any] = OUTER | {"meta_batch": 61, "lr": 1e-2}
TABLE: dict[str, Any] = OUTER | {"meta_batch": 6, "lr": 1e-2}


def linear(features: int = 5, *, noise: float = 0.0, sparse: int | None = None) -> LinearRegression:
    """Linear tasks of context sizes up to three times the features, at least 15.

    Example:
        >>> linear(20).context_range
        (1, 60)
    """
    most = max(3 * whole("features", features), 15)
    return LinearRegression(rows=(1, most), features=features, noise=noise, queries=24, sparse=sparse)


def gp_learner(
    prior: GaussianProcesses = PROCESSES, *, minutes: float = 15.0, seed: int = 0, **options: Any
) -> tuple[InContext, History]:
    """A learner that answers as the exact posterior of these processes would, nearly, after so many minutes.

    Arguments:
        prior: the processes.
        minutes: time to spend.
        seed: of the network's start and of the tasks.
        options: of ``fit``, in place of those here.

    Example:
        >>> learner, history = gp_learner(minutes=0.01, progress=False)
        >>> history.steps > 0
        True
    """
    learner = of_functions(prior.inputs, seed=seed)
    return learner, _trained(learner, prior, minutes, seed, GP | options)


def linear_learner(
    prior: LinearRegression | None = None, *, minutes: float = 4.0, seed: int = 0, **options: Any
) -> tuple[InContext, History]:
    """A learner of linear tasks; of five features without noise when the prior is left out.

    Arguments as ``gp_learner``.

    Example:
        >>> learner, history = linear_learner(minutes=0.01, progress=False)
        >>> learner.bins is None
        True
    """
    prior = linear() if prior is None else prior
    learner = of_lines(prior, seed=seed)
    return learner, _trained(learner, prior, minutes, seed, LINEAR | options)


def table_learner(
    prior: TablePrior = TABLES, *, minutes: float = 20.0, seed: int = 0, **options: Any
) -> tuple[InContext, History]:
    """The learner behind ``TableClassifier``. Arguments as ``gp_learner``.

    Example:
        >>> learner, history = table_learner(minutes=0.01, progress=False)
        >>> learner.ways
        10
    """
    learner = of_tables(prior, seed=seed)
    return learner, _trained(learner, prior, minutes, seed, TABLE | options)


def of_functions(inputs: int = 1, *, seed: int = 0) -> InContext:
    """An untrained learner for ``GaussianProcesses``.

    Example:
        >>> of_functions().bins
        100
    """
    with _start(seed):
        return InContext(SetTransformer(whole("inputs", inputs), width=64, layers=4), bins=100)


def of_lines(prior: LinearRegression, *, seed: int = 0) -> InContext:
    """An untrained learner for ``LinearRegression``, which sees targets in units of their own.

    Example:
        >>> round(float(of_lines(linear(5)).scale), 1)
        2.2
    """
    with _start(seed):
        network = SetTransformer(prior.features, width=64, layers=6, frequencies=0)
        return InContext(network).calibrate(prior)


def of_tables(prior: TablePrior = TABLES, *, seed: int = 0) -> InContext:
    """An untrained learner for ``TablePrior``.

    Example:
        >>> of_tables().ways
        10
    """
    columns, ways = prior.columns or 1, prior.ways[1]
    with _start(seed):
        network = SetTransformer(columns, width=96, layers=4, heads=6, targets=ways, frequencies=6)
        return InContext(network, ways=ways)


@contextlib.contextmanager
def _start(seed: int) -> Iterator[None]:
    """Weights drawn here are drawn from this seed; what is drawn elsewhere is not touched."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(whole("seed", seed, least=0))
        yield


def _trained(learner: InContext, prior: Ranged, minutes: float, seed: int, options: dict[str, Any]) -> History:
    usual: dict[str, Any] = {"minutes": real("minutes", minutes, above=0.0), "seed": whole("seed", seed, least=0)}
    return fit(learner, Steady(prior), **(usual | options))
