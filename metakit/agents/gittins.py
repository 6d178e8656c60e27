"""The Gittins index of a Bernoulli arm with so many pulls left, and the player that follows it."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from metakit.agents.players import Player, highest
from metakit.agents.trial import State
from metakit.checks import whole
from metakit.saving import saved

LONGEST = 1000
_CELLS = 128
_ROUNDED_TO = 50  # tables of a longer trial serve a shorter one: fewer lengths, fewer tables


@saved
class Gittins(Player):
    """The arm of the highest Gittins index, with as many pulls left as the trial has: the value of a pull alone.

    The index of an arm with s successes, f failures and h pulls left is the lambda at which it is all the same to
    pull it, or to live on lambda a pull from now on. With p = (s + 1) / (s + f + 2), of a chance drawn from U[0, 1],

        G_h = p - lambda + p D_{h-1}(s + 1, f) + (1 - p) D_{h-1}(s, f + 1),    D_h = max(0, G_h),    D_0 = 0

    is what pulling it at least once gains on lambda; the index is where G_h crosses 0. With pulls for ever, and a
    discount, the rule is optimal; with their number known, it is nearly so (``BayesOptimal`` is).

    Raises:
        ValueError: if a trial has more than 1,000 pulls, whose tables would not fit into memory.

    Example:
        >>> player = Gittins()
        >>> state = player.start(arms=2, pulls=10)
        >>> state = player.observe(state, torch.tensor([0]), torch.tensor([0.0]))
        >>> player.act(state).tolist()
        [1]

    Source: Gittins 1979; for a known number of pulls, Kaufmann 2018, on Bayesian index policies.
    """

    def begin(self, n_tasks: int, arms: int | None, pulls: int, observation: Tensor | None, device: Any) -> State:
        state = super().begin(n_tasks, arms, pulls, observation, device)
        gittins_tables(_rounded(pulls))  # refused, or waited for, before the first pull
        return state

    def choose(self, state: State, sample: bool) -> Tensor:
        left = state["steps"] - state["k"]
        table = gittins_tables(_rounded(state["steps"]))[left - 1].to(state["paid"].device)
        n = state["pulled"].round().long()
        return highest(table[n * (n + 1) // 2 + state["paid"].round().long()])


def gittins_index(successes: int, failures: int, left: int) -> float:
    """The Gittins index of a Bernoulli arm: the chance of a known arm that would be worth as much as this one.

    Arguments:
        successes, failures: what the arm did so far; its chance was drawn from U[0, 1].
        left: pulls left, this one counted.

    Raises:
        TypeError: if a number is not a whole one.
        ValueError: if a number is too small, or there are more than 1,000 pulls in all.

    Example:
        >>> gittins_index(0, 0, 1)
        0.5
        >>> round(gittins_index(0, 0, 2), 3)  # 5/9
        0.556
    """
    s, f = whole("successes", successes, least=0), whole("failures", failures, least=0)
    n, left = s + f, whole("left", left)
    return float(gittins_tables(_rounded(n + left))[left - 1][n * (n + 1) // 2 + s])


@functools.lru_cache(maxsize=4)
def gittins_tables(pulls: int) -> list[Tensor]:
    """The Gittins indices of all states of an arm in a trial of so many pulls: a table for 1, 2, ... pulls left.

    An arm of n pulls, s of which paid, stands at n (n + 1) / 2 + s; n goes up to the pulls that may be over by then.
    G_h is worked out on a grid of lambda, finer towards 0 and 1 as is the posterior, and is straight between its
    points: for 128 of them an index lies within 0.001 of the exact one.

    Example:
        >>> [len(table) for table in gittins_tables(3)]
        [6, 3, 1]
    """
    grid = (np.sin(np.linspace(0, np.pi / 2, _CELLS + 1)) ** 2).astype(np.float32)
    tables = [np.empty(m * (m + 1) // 2, np.float32) for m in range(pulls, 0, -1)]
    # An arm of n pulls with h left depends on those of n + 1 with h - 1 left alone: n + h stays, and the cache is kept.
    for both in tqdm(range(pulls, 0, -1), desc="Gittins index", delay=2, mininterval=0.5, leave=False):
        value, space = np.zeros((2, both + 1, len(grid)), np.float32)  # D, of s = 0, ..., n successes
        for n in range(both - 1, -1, -1):
            s, paid, failed, gain = np.arange(n + 1), value[1 : n + 2], value[: n + 1], space[: n + 1]
            p = ((s + 1) / (n + 2)).astype(np.float32)[:, None]
            np.subtract(paid, failed, out=gain)  # G = p (1 + D_paid - D_failed) + D_failed - lambda
            gain += 1
            gain *= p
            gain += failed
            gain -= grid
            after = (gain <= 0).argmax(1)
            low, high, above, below = grid[after - 1], grid[after], gain[s, after - 1], gain[s, after]
            tables[both - n - 1][n * (n + 1) // 2 + s] = low + (high - low) * above / (above - below)
            np.maximum(gain, 0, out=failed)
    return [torch.from_numpy(table) for table in tables]


def _rounded(pulls: int) -> int:
    if pulls > LONGEST:
        raise ValueError(
            f"a trial must have at most {LONGEST} pulls for a table of Gittins indices, got {pulls}: it grows with "
            "their third power. Take Thompson() or UCB1() for longer ones."
        )
    return min(-(-pulls // _ROUNDED_TO) * _ROUNDED_TO, LONGEST)
