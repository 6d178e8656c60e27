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

# Few jobs in a batch, since they share their sizes: more batches see more kinds of network.
OPTIONS: dict[str, Any] = {"meta_batch": 2, "lr": 4e-3, "clip": 0.3, "schedule": "CosineAnnealingLR"}
STEPS = (10, 80)


def invented_jobs(seed: int = 0) -> TrainingJobs:
    """Jobs on invented tables and characters, one to four hidden layers of 12 to 32 units.

    Labels are clean and rows many: where other rows are much harder than those trained on, a rule learns above all to
    hold back.

    Example:
        >>> len(invented_jobs().sample(2, seed=0))
        2
    """
    characters = [Glyphs(3, 10, 120, size=size, seed=seed) for size in (8, 12)]
    clean = InventedTables(features=(16, 64), ways=(4, 10), noise=(0.0, 0.0))
    return TrainingJobs([clean, clean, *characters], width=(12, 32), depth=(1, 4), rows=(400, 1200))


def learned_optimizer(
    *, minutes: float = 10.0, seed: int = 0, kind: str = "mlp", **options: Any
) -> tuple[LearnedOptimizer, History]:
    """Train a rule for so many minutes, through whole unrolls of 10 to 80 steps.

    Arguments:
        minutes: time to spend.
        seed: of the rule's start and of the jobs.
        kind: as in ``LearnedOptimizer``.
        options: of ``fit``, in place of those here: ``checkpoint=``, ``resume=``, ``steps=``, ...

    Example:
        >>> rule, history = learned_optimizer(minutes=0.01, progress=False)
        >>> int(rule.trained_steps)
        80
    """
    minutes, seed = real("minutes", minutes, above=0.0), whole("seed", seed, least=0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        rule = LearnedOptimizer(kind)
    history = fit(
        Unroll(rule, steps=STEPS), invented_jobs(), **(OPTIONS | {"minutes": minutes, "seed": seed} | options)
    )
    return rule, history
