"""A learned optimiser for small networks: trained on invented jobs alone, for networks and data that it never met."""

from __future__ import annotations

from typing import Any

import torch

from metakit.checks import real, whole
from metakit.data.glyphs import Glyphs
from metakit.inner import LearnedOptimizer
from metakit.learners.unroll import Unroll
from metakit.outer import History, fit
from metakit.tasks.jobs import TrainingJobs
from metakit.tasks.tables import InventedTables

OPTIONS: dict[str, Any] = {"meta_batch": 4, "lr": 4e-3, "clip": 1.0, "schedule": "CosineAnnealingLR"}
STEPS = (10, 60)  # longer ones are chaotic more often, and their gradients say little


def invented_jobs(seed: int = 0) -> TrainingJobs:
    """Jobs on invented tables and characters, one to four hidden layers of 12 to 32 units.

    Example:
        >>> len(invented_jobs().sample(2, seed=0))
        2
    """
    characters = [Glyphs(3, 10, 120, size=size, seed=seed) for size in (8, 12)]
    data = [InventedTables(), InventedTables(), *characters]
    return TrainingJobs(data, width=(12, 32), depth=(1, 4), rows=(200, 800))


def learned_optimizer(
    *, minutes: float = 10.0, seed: int = 0, kind: str = "mlp", **options: Any
) -> tuple[LearnedOptimizer, History]:
    """Train a rule for so many minutes, through whole unrolls of 10 to 60 steps.

    Arguments:
        minutes: time to spend.
        seed: of the rule's start and of the jobs.
        kind: as in ``LearnedOptimizer``.
        options: of ``fit``, in place of those here: ``checkpoint=``, ``resume=``, ``steps=``, ...

    Example:
        >>> rule, history = learned_optimizer(minutes=0.01, progress=False)
        >>> int(rule.trained_steps)
        60
    """
    minutes, seed = real("minutes", minutes, above=0.0), whole("seed", seed, least=0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        rule = LearnedOptimizer(kind)
    history = fit(
        Unroll(rule, steps=STEPS), invented_jobs(), **(OPTIONS | {"minutes": minutes, "seed": seed} | options)
    )
    return rule, history
