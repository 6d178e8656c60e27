"""The best that can be done in a short trial of Bernoulli arms, by dynamic programming over all that can happen."""

from __future__ import annotations

import bisect
import functools
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from metakit.agents.players import Player, highest
from metakit.agents.trial import State
from metakit.checks import whole
from metakit.saving import saved

MOST_STATES = 1_000_000

Arms = tuple[int, ...]  # the arms that were pulled, in order: one of n pulls, s of which paid, is n (n + 1) / 2 + s


@saved
class BayesOptimal(Player):
    """The player whose expected return is highest, over bandits whose chances are drawn from U[0, 1].

        V_h(x) = max_a p_a (1 + V_{h-1}(x, a paid)) + (1 - p_a) V_{h-1}(x, a failed),    V_0 = 0

    x is what each arm did, p_a = (successes + 1) / (pulls + 2). Arms that did the same are the same, so that x is a
    set of them without an order; even so there are more of them by half with each pull. It serves for twenty pulls.

    Raises:
        ValueError: if there are more than a million states: too long a trial, for so many arms.

    Example:
        >>> BayesOptimal.value(arms=2, pulls=2)  # 13/12
        1.0833...
        >>> player = BayesOptimal()
        >>> state = player.start(arms=2, pulls=2)
        >>> state = player.observe(state, torch.tensor([1]), torch.tensor([1.0]))
        >>> player.act(state).tolist()
        [1]

    Source: Bellman 1956; Berry and Fristedt 1985.
    """

    @staticmethod
    def value(arms: int, pulls: int) -> float:
        """The expected return of a trial, played as well as it can be.

        Arguments:
            arms: number of arms.
            pulls: number of pulls.

        Raises:
            TypeError: if a number is not a whole one.
            ValueError: if a number is too small, or there are too many states.

        Example:
            >>> round(BayesOptimal.value(5, 10), 3)
            6.66
        """
        arms, pulls = whole("arms", arms, least=2), whole("pulls", pulls)
        return _plan(min(arms, pulls), pulls).look((), pulls)[0]

    def begin(self, n_tasks: int, arms: int | None, pulls: int, observation: Tensor | None, device: Any) -> State:
        state = super().begin(n_tasks, arms, pulls, observation, device)
        _plan(min(state["pulled"].shape[1], pulls), pulls)
        return state

    def choose(self, state: State, sample: bool) -> Tensor:
        pulls, (n, paid) = state["steps"], (state[name].round().long() for name in ("pulled", "paid"))
        at = n * (n + 1) // 2 + paid
        plan, left = _plan(min(at.shape[1], pulls), pulls), pulls - state["k"]
        best = [plan.look(tuple(sorted(arm for arm in row if arm)), left)[1] for row in at.tolist()]
        return highest((at == torch.tensor(best, device=at.device)[:, None]).float())


class _Plan:
    """For each state of a trial what it is worth, and the arm to pull in it; 0 is an arm that was never pulled."""

    def __init__(self, arms: int, pulls: int) -> None:
        states = _states(arms, pulls)
        if states > MOST_STATES:
            raise ValueError(
                f"the states of a trial must be at most {MOST_STATES:,} to be gone through, and {pulls} pulls of "
                f"{arms} arms have {states:,} or more. Take fewer pulls, or Gittins(), nearly as good."
            )
        self.arms = arms
        n = [n for n in range(pulls + 1) for _ in range(n + 1)]
        self.failed = [at + n[at] + 1 for at in range(len(n))]
        self.p = [(at - n[at] * (n[at] + 1) // 2 + 1) / (n[at] + 2) for at in range(len(n))]
        self.known: dict[Arms, tuple[float, int]] = {}
        with tqdm(total=states, desc="states", delay=2, mininterval=0.5, leave=False) as bar:
            self.bar: tqdm | None = bar
            self.look((), pulls)
        self.bar = None

    def look(self, state: Arms, left: int) -> tuple[float, int]:
        """The value of a state with so many pulls left, and the best arm."""
        found = self.known.get(state)
        if found is not None:
            return found
        choices = {0, *state} if len(state) < self.arms else set(state)
        if left == 1:  # as quick to tell as to look up, and of no other length are there as many
            best = max(choices, key=self.p.__getitem__)
            return self.p[best], best
        found = max((self._worth(state, at, left), at) for at in choices)
        self.known[state] = found
        if self.bar is not None:
            self.bar.update()
        return found

    def _worth(self, state: Arms, at: int, left: int) -> float:
        others, p, failed = list(state), self.p[at], self.failed[at]
        if at:
            others.remove(at)
        place = bisect.bisect(others, failed)
        if_failed = (*others[:place], failed, *others[place:])
        place = bisect.bisect(others, failed + 1)
        if_paid = (*others[:place], failed + 1, *others[place:])
        return p * (1 + self.look(if_paid, left - 1)[0]) + (1 - p) * self.look(if_failed, left - 1)[0]


@functools.lru_cache(maxsize=2)
def _plan(arms: int, pulls: int) -> _Plan:
    return _Plan(arms, pulls)


def _states(arms: int, pulls: int) -> int:
    """How many states a trial has before its last pull, or a number above the most there may be that is less.

    They are the sets of at most so many arms that were pulled: each n >= 1 times, in one of n + 1 ways.
    """
    ways = [[0] * max(pulls - 1, 1) for _ in range(arms + 1)]  # of so many arms, pulled so often together
    ways[0][0], count = 1, 1
    for n in range(1, pulls - 1):
        if count > MOST_STATES:
            break
        for _ in range(n + 1):
            for j in range(1, arms + 1):
                for k in range(n, pulls - 1):
                    ways[j][k] += ways[j - 1][k - n]
        count = sum(map(sum, ways))
    return count
