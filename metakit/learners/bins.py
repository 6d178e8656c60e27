"""Answers that are distributions: one of bins, as a network gives it, and mixtures of normals, as exact Bayes does."""

from __future__ import annotations

import dataclasses
import math
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from metakit.checks import real, whole
from metakit.contracts import Measure

LOG_SCORE = Measure("log score", higher_is_better=True)
"""Mean log density of what came true: no forecast expects more of it than the right one."""

_HALVINGS = 60


class Predictive(Protocol):
    """A distribution of a number for each of some rows, ``[...]``: what is expected of a target, not yet seen."""

    @property
    def mean(self) -> Tensor: ...

    def log_density(self, y: Tensor, /) -> Tensor: ...

    def cdf(self, y: Tensor, /) -> Tensor: ...

    def quantile(self, share: float, /) -> Tensor: ...

    def __getitem__(self, t: int, /) -> Predictive: ...


# --- Bins. ---


@dataclasses.dataclass(frozen=True)
class Binned:
    """A distribution of B bins: even inside a bin, and half a normal beyond the first and the last border.

        p(y) = p_b / (border_{b+1} - border_b) inside,    p_1 2 N(border_1 - y; 0, tail_1^2) below, likewise above

    Arguments:
        logits: ``[..., B]``, whose softmax is the mass of the bins.
        borders: the B - 1 borders between them, rising.
        tails: the scale of the half normals below and above, ``[2]``.

    Example:
        >>> answer = Binned(torch.zeros(4), *normal_bins(4))
        >>> bool(answer.mean.abs() < 1e-6), round(float(answer.quantile(0.75)), 4)
        (True, 0.6745)

    Source: a regression as a classification of bins with half-normal tails, Mueller et al. 2022, section 4.
    """

    logits: Tensor
    borders: Tensor
    tails: Tensor

    def __getitem__(self, t: int) -> Binned:
        """That for the rows of task t."""
        return dataclasses.replace(self, logits=self.logits[t])

    @property
    def masses(self) -> Tensor:
        """The mass of each bin, ``[..., B]``."""
        return self.logits.softmax(-1)

    @property
    def mean(self) -> Tensor:
        """The mean, ``[...]``."""
        beyond = self.tails * math.sqrt(2 / math.pi)
        middles = (self.borders[1:] + self.borders[:-1]) / 2
        ends = self.borders[:1] - beyond[:1], self.borders[-1:] + beyond[1:]
        return self.masses @ torch.cat([ends[0], middles, ends[1]])

    def log_density(self, y: Tensor) -> Tensor:
        """``log p(y)`` for one number for each row, ``[...]``."""
        number = torch.bucketize(y.contiguous(), self.borders)
        widths = F.pad(self.borders.diff().log(), (1, 1))
        inside = self.logits.log_softmax(-1).gather(-1, number[..., None])[..., 0] - widths[number]
        last = len(self.borders)
        for at, z, tail in zip((0, last), self._beyond(y), self.tails, strict=True):
            half_normal = math.log(2) - 0.5 * math.log(2 * math.pi) - tail.log() - z.square() / 2
            inside = torch.where(number == at, inside + half_normal, inside)
        return inside

    def cdf(self, y: Tensor) -> Tensor:
        """The mass below y, ``[...]``."""
        number = torch.bucketize(y.contiguous(), self.borders)
        masses, last = self.masses, len(self.borders)
        own = masses.gather(-1, number[..., None])[..., 0]
        before = F.pad(masses.cumsum(-1), (1, 0)).gather(-1, number[..., None])[..., 0]
        below, above = (torch.erf(z / math.sqrt(2)) for z in self._beyond(y))
        left = self.borders[(number - 1).clamp(min=0)]
        share = (y - left) / F.pad(self.borders.diff(), (1, 1), value=1.0)[number]
        share = torch.where(number == 0, 1 - below, torch.where(number == last, above, share))
        return before + own * share

    def quantile(self, share: float) -> Tensor:
        """The number that so much of the mass lies below, ``[...]``; ``share`` between 0 and 1.

        Example:
            >>> bins = normal_bins(4)
            >>> answer = Binned(torch.tensor([0.0, 2.0, 1.0, 0.0]), *bins)
            >>> round(float(answer.cdf(answer.quantile(0.3))), 4)
            0.3
        """
        share = check_share(share)
        masses, last = self.masses, len(self.borders)
        upto = masses.cumsum(-1)
        number = (upto < share).sum(-1).clamp(max=last)
        own = masses.gather(-1, number[..., None])[..., 0]
        before = F.pad(upto, (1, 0)).gather(-1, number[..., None])[..., 0]
        inside = ((share - before) / own.clamp(min=torch.finfo(own.dtype).tiny)).clamp(0, 1)
        left = self.borders[(number - 1).clamp(min=0)]
        y = left + inside * F.pad(self.borders.diff(), (1, 1))[number]
        inside = inside.clamp(1e-7, 1 - 1e-7)  # the tails have no end
        low = math.sqrt(2) * self.tails[0] * torch.erfinv(1 - inside)
        high = math.sqrt(2) * self.tails[1] * torch.erfinv(inside)
        return torch.where(number == 0, self.borders[0] - low, torch.where(number == last, left + high, y))

    def _beyond(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """How far y lies beyond the first and the last border, in units of the tails there; 0 where it does not."""
        z = (self.borders[0] - y) / self.tails[0], (y - self.borders[-1]) / self.tails[1]
        return z[0].clamp(min=0), z[1].clamp(min=0)


def normal_bins(bins: int) -> tuple[Tensor, Tensor]:
    """Borders and tails of B bins that have equal mass under a standard normal; half normals with the tails' means.

    Raises:
        ValueError: if there are fewer than 3 bins.

    Example:
        >>> normal_bins(4)[0]
        tensor([-0.6745,  0.0000,  0.6745])
    """
    bins = whole("bins", bins, least=3)
    share = torch.arange(1, bins, dtype=torch.float64) / bins
    borders = math.sqrt(2) * torch.erfinv(2 * share - 1)
    end = borders[-1]
    excess = bins * torch.exp(-end.square() / 2) / math.sqrt(2 * math.pi) - end  # E[y | y > end] - end
    return borders.float(), (excess * math.sqrt(math.pi / 2)).expand(2).float().contiguous()


def sample_bins(bins: int, y: Tensor) -> tuple[Tensor, Tensor]:
    """Borders and tails of B bins that have equal mass in a sample of targets.

    Raises:
        ValueError: if the sample is smaller than ten for each bin, or takes the same value too often.

    Example:
        >>> sample_bins(4, torch.linspace(0, 1, 101))[0]
        tensor([0.2500, 0.5000, 0.7500])
    """
    bins, y = whole("bins", bins, least=3), y.flatten().double().sort().values
    if len(y) < 10 * bins:
        raise ValueError(f"{bins} bins need a sample of at least {10 * bins} targets, got {len(y)}. Draw more tasks.")
    at = torch.arange(1, bins, device=y.device, dtype=y.dtype) / bins * (len(y) - 1)
    low = at.long()
    borders = torch.lerp(y[low], y[low + 1], at - low)
    if not bool((borders.diff() > 1e-6 * (y[-1] - y[0])).all()):
        raise ValueError(
            f"{bins} bins of equal mass need targets of many values, and this sample has the same one too often. Take "
            "fewer bins, or classes (ways=) where targets are few numbers."
        )
    beyond = (borders[0] - y[y < borders[0]]).mean(), (y[y > borders[-1]] - borders[-1]).mean()
    return borders.float(), (torch.stack(beyond) * math.sqrt(math.pi / 2)).float()


def check_share(share: float) -> float:
    """The share, if it is one between 0 and 1."""
    share = real("share", share, above=0.0)
    if share >= 1:
        raise ValueError(f"share must be below 1, got {share:g}. The median is 0.5.")
    return share


# --- Mixtures of normals. ---


@dataclasses.dataclass(frozen=True)
class Mixture:
    """A mixture of M normals for each row: the answer of exact Bayes, where hyperparameters may be uncertain.

        p(y) = sum_m exp(log_weights_m) N(y; means_m, spreads_m^2)

    Arguments:
        means: ``[..., M]``.
        spreads: standard deviations, ``[..., M]``.
        log_weights: ``[..., M]``, or to be broadcast to that; exp sums to 1 over the last dimension.

    Example:
        >>> answer = Mixture(torch.tensor([-1.0, 1.0]), torch.ones(2), torch.tensor([0.5, 0.5]).log())
        >>> float(answer.mean), round(float(answer.cdf(torch.tensor(0.0))), 4)
        (0.0, 0.5)
    """

    means: Tensor
    spreads: Tensor
    log_weights: Tensor

    def __getitem__(self, t: int) -> Mixture:
        """That for the rows of task t."""
        return Mixture(self.means[t], self.spreads[t], self.log_weights[t])

    @property
    def mean(self) -> Tensor:
        """The mean, ``[...]``."""
        return (self.log_weights.exp() * self.means).sum(-1)

    def log_density(self, y: Tensor) -> Tensor:
        """``log p(y)`` for one number for each row, ``[...]``."""
        z = (y[..., None] - self.means) / self.spreads
        each = -0.5 * z.square() - self.spreads.log() - 0.5 * math.log(2 * math.pi)
        return (self.log_weights + each).logsumexp(-1)

    def cdf(self, y: Tensor) -> Tensor:
        """The mass below y, ``[...]``."""
        z = (y[..., None] - self.means) / self.spreads
        return (self.log_weights.exp() * torch.special.ndtr(z)).sum(-1)

    def quantile(self, share: float) -> Tensor:
        """The number that so much of the mass lies below, ``[...]``, by bisection; ``share`` between 0 and 1."""
        share = check_share(share)
        z = float(torch.special.ndtri(torch.tensor(share, dtype=torch.float64)))
        each = self.means + z * self.spreads  # the quantile of a mixture lies between those of its parts
        low, high = each.amin(-1), each.amax(-1)
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            below = self.cdf(middle) < share
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return (low + high) / 2


def binned_divergence(exact: Predictive, answer: Binned) -> Tensor:
    """How much worse a binned answer is than the exact one, on its own bins, in nats, ``[...]``: 0 if it is right.

        KL = sum_b P_b log(P_b / p_b),    P_b the exact mass of bin b

    The mean over rows is what the binned log score of the answer lies below the best that there is, on average.

    Example:
        >>> normal = Mixture(torch.zeros(1, 1), torch.ones(1, 1), torch.zeros(1, 1))
        >>> bool(binned_divergence(normal, Binned(torch.zeros(1, 50), *normal_bins(50))) < 1e-6)
        True
    """
    below = torch.stack([exact.cdf(border.to(exact.mean.dtype)) for border in answer.borders], -1)
    masses = F.pad(F.pad(below, (1, 0)), (0, 1), value=1.0).diff(dim=-1).clamp(min=0)
    return (torch.xlogy(masses, masses) - masses * answer.logits.log_softmax(-1).to(masses.dtype)).sum(-1)
