"""Arms looked at: what is believed of them, and a trial that a reader plays."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from metakit.records.agents import RegretCurves
from metakit.records.words import count

_GRID = 401


@dataclasses.dataclass(frozen=True)
class Beliefs:
    """What is believed of the chances of A arms, after what they did.

    Arguments:
        x: chances between 0 and 1, ``[G]``.
        density: the density of each arm's posterior there, ``[A, G]``.
        successes, failures: what each arm did, ``[A]``.
        best: how likely each arm is the best of all, ``[A]``: how often Thompson sampling pulls it.
    """

    x: Tensor
    density: Tensor
    successes: Tensor
    failures: Tensor
    best: Tensor

    @property
    def mean(self) -> Tensor:
        """The posterior mean of each arm, ``[A]``."""
        return (self.successes + 1) / (self.successes + self.failures + 2)

    def __str__(self) -> str:
        top, likeliest = int(self.mean.argmax()), int(self.best.argmax())
        told = f"arm {top + 1} has the highest mean, {float(self.mean[top]):.2f}"
        other = "it" if top == likeliest else f"arm {likeliest + 1}"
        return f"{told}; {other} is the likeliest to be the best, with a chance of {100 * self.best.max():.0f}%."


def belief_curves(successes: Sequence[int] | Tensor, failures: Sequence[int] | Tensor) -> Beliefs:
    """The posterior of each arm's chance, if it was drawn from U[0, 1].

        p(theta | s, f) = Beta(1 + s, 1 + f) = theta^s (1 - theta)^f / B(1 + s, 1 + f)

    Arguments:
        successes, failures: how often each arm paid and did not, ``[A]``.

    Raises:
        ValueError: if there are not as many of both, or a number is negative.

    Example:
        >>> record = belief_curves([0, 3], [0, 1])
        >>> record.mean, record.density.shape
        (tensor([0.5000, 0.6667], dtype=torch.float64), torch.Size([2, 401]))

    Source: Thompson 1933; Bayes 1763.
    """
    s, f = (torch.as_tensor(each).double().cpu() for each in (successes, failures))
    if s.dim() != 1 or s.shape != f.shape or not len(s) or bool((torch.stack([s, f]) < 0).any()):
        raise ValueError(
            f"successes and failures must be [A], counts of the same arms, got {successes!r} and {failures!r}. "
            "An arm that was never pulled has 0 of both."
        )
    x = torch.linspace(0, 1, _GRID, dtype=torch.float64)
    beta = torch.lgamma(s + 1) + torch.lgamma(f + 1) - torch.lgamma(s + f + 2)
    log = torch.special.xlogy(s[:, None], x) + torch.special.xlog1py(f[:, None], -x) - beta[:, None]
    density = log.exp()
    below = torch.nn.functional.pad(torch.cumulative_trapezoid(density, x), (1, 0)).clamp(1e-300)
    others = below.log().sum(0) - below.log()  # the chance that all other arms lie below
    best = torch.trapezoid(density * others.exp(), x)
    return Beliefs(x, density, s, f, best / best.sum())


@dataclasses.dataclass(frozen=True)
class BanditTrial:
    """A trial that a reader plays, and what others made of the same arms.

    Arguments:
        means: the true chances of A arms, ``[A]``.
        pulls: pulls in the trial.
        pulled: the arms that were pulled so far, from 0.
        paid: what they paid, 0 or 1.
        rivals: what others made of the very same arms, a mean over replays.
        show_beliefs: whether the reader is told what can be believed.
        show_regret: whether he is told what he lost before the trial is over.
    """

    means: Tensor
    pulls: int
    pulled: tuple[int, ...]
    paid: tuple[int, ...]
    rivals: RegretCurves
    show_beliefs: bool = True
    show_regret: bool = False

    @property
    def over(self) -> bool:
        """Whether the trial is at its end."""
        return len(self.pulled) == self.pulls

    @property
    def beliefs(self) -> Beliefs:
        """What can be believed of the arms now."""
        pulled, paid = torch.tensor(self.pulled, dtype=torch.int64), torch.tensor(self.paid, dtype=torch.int64)
        arms = len(self.means)
        successes = torch.bincount(pulled[paid == 1], minlength=arms)
        return belief_curves(successes, torch.bincount(pulled, minlength=arms) - successes)

    @property
    def lost(self) -> Tensor:
        """The reader's regret after each pull so far."""
        return (self.means.max() - self.means[list(self.pulled)]).cumsum(0)

    @property
    def table(self) -> tuple[tuple[str, float, float], ...]:
        """Name, return and regret of all who have played to the end, the least regret first."""
        rows = [(name, self.rivals.returns[name], lost) for name, lost in self.rivals.lost.items()]
        if self.over:
            rows.append(("you", float(sum(self.paid)), float(self.lost[-1])))
        return tuple(sorted(rows, key=lambda row: row[2]))

    def __str__(self) -> str:
        so_far, total = len(self.pulled), sum(self.paid)
        if not so_far:
            return f"{count(len(self.means), 'arm')}, {count(self.pulls, 'pull')}: pull one of them."
        if not self.over:
            last = f"arm {self.pulled[-1] + 1} paid {self.paid[-1]}"
            return f"pull {so_far} of {self.pulls}: {last}. You were paid {total} so far."
        place = 1 + [name for name, _, _ in self.table].index("you")
        best = f"the best arm was {int(self.means.argmax()) + 1}, with a chance of {float(self.means.max()):.2f}"
        ranked = f"place {place} of {len(self.table)} by regret"
        return f"the trial is over: you were paid {total} and lost {float(self.lost[-1]):.1f}, {ranked}; {best}."
