"""Markets as tasks: how large will tomorrow's move be, when some weeks of history are known?"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Sequence

import torch
from torch import Tensor

from metakit.checks import Device, choice, drawing, placed, whole
from metakit.tasks.batch import TaskBatch

MARKETS = ("sp500", "nasdaq", "wti")
_DECAYS = (0.5, 0.85, 0.94)  # of the running means of squared returns: about 2, 7 and 17 days
_FLOOR = 1e-4


@dataclasses.dataclass(frozen=True, eq=False)
class Series:
    """Daily returns of a market.

    Arguments:
        name: of the market.
        days: the day of each return, as the number of a day (``datetime.date.toordinal``), ``[n]``, rising.
        returns: 100 times the change of the log price, ``[n]``.

    Raises:
        ValueError: if lengths differ, a return is not finite, or days do not rise.
    """

    name: str
    days: Tensor
    returns: Tensor

    def __post_init__(self) -> None:
        if self.days.shape != self.returns.shape or self.returns.dim() != 1:
            raise ValueError(f"{self.name} needs a day for each return, got {len(self.days)} and {len(self.returns)}.")
        if not bool(self.returns.isfinite().all()):
            at = int((~self.returns.isfinite()).nonzero()[0])
            raise ValueError(f"return {at} of {self.name} is not finite. Leave the day out, or mend its price.")
        if not bool((self.days.diff() > 0).all()):
            raise ValueError(f"the days of {self.name} must rise, each once. Sort them.")

    def between(self, first: str, last: str) -> Series:
        """The days from ``first`` on and before ``last``, both as ``"2011-01-01"``."""
        low, high = (datetime.date.fromisoformat(day).toordinal() for day in (first, last))
        kept = (self.days >= low) & (self.days < high)
        return Series(self.name, self.days[kept], self.returns[kept])


@dataclasses.dataclass(frozen=True, eq=False)
class MarketWindows:
    """Windows of daily returns, each a task: tell the spread of the next day's return from the days before it.

    A window has ``calm`` days, whose mean squared return is its level; then S support days, then Q query days. Returns
    are given in roots of the level. A row is a day, and all of it is known the evening before:

        x = log of running means of squared returns, with decays 0.5, 0.85, 0.94, begun at the level,    y = the return

    So markets of another calm look alike, and nothing of the future is in a row.

    Arguments:
        series: the markets.
        calm: days that set the level.
        shots: support days S.
        queries: query days Q.

    Raises:
        ValueError: if there is no series, or one is shorter than a window.

    Example:
        >>> days = torch.arange(300)
        >>> windows = MarketWindows([Series("noise", days, torch.randn(300))])
        >>> windows.sample(5, seed=0).query_x.shape
        torch.Size([5, 20, 3])

    Source: running means, RiskMetrics Technical Document, J.P. Morgan 1996, section 5.2; several of them side by side,
    Corsi 2009.
    """

    series: Sequence[Series]
    calm: int = 20
    shots: int = 40
    queries: int = 20

    def __post_init__(self) -> None:
        object.__setattr__(self, "series", tuple(self.series))
        for name in ("calm", "shots", "queries"):
            object.__setattr__(self, name, whole(name, getattr(self, name)))
        if not self.series:
            raise ValueError("there must be a market to draw windows from, got none.")
        for each in self.series:
            if len(each.returns) < self.days:
                raise ValueError(
                    f"a window takes {self.days} days, {each.name} has {len(each.returns)}. Take smaller windows, or "
                    "more days."
                )

    @property
    def days(self) -> int:
        """Days of a window."""
        return self.calm + self.shots + self.queries

    def sample(
        self,
        n_tasks: int,
        *,
        generator: torch.Generator | None = None,
        seed: int | None = None,
        device: Device = None,
    ) -> TaskBatch:
        """T windows that begin anywhere in any of the markets; shapes ``[T, S, 3]``, ``[T, S, 1]``, and of queries."""
        n_tasks, generator, place, target = drawing(n_tasks, generator, seed, device)
        which = torch.randint(len(self.series), (n_tasks,), generator=generator, device=place).tolist()
        share = torch.rand(n_tasks, generator=generator, device=place, dtype=torch.float64).tolist()
        rows = []
        for market, at in zip(which, share, strict=True):
            returns = self.series[market].returns
            first = int(at * (len(returns) - self.days + 1))
            rows.append(returns[first : first + self.days])
        return placed(self.batch(torch.stack(rows)), target)

    def in_turn(self) -> TaskBatch:
        """All windows whose query days do not overlap, market after market, from the first day on."""
        return self.batch(torch.cat([each.returns.unfold(0, self.days, self.queries) for each in self.series]))

    def batch(self, returns: Tensor) -> TaskBatch:
        """Windows of returns ``[T, calm + S + Q]`` as tasks."""
        level = returns[:, : self.calm].square().mean(1, keepdim=True).clamp(min=_FLOOR)
        y = returns[:, self.calm :] / level.sqrt()
        decays = torch.tensor(_DECAYS, dtype=y.dtype, device=y.device)
        mean, rows = torch.ones(len(y), len(_DECAYS), dtype=y.dtype, device=y.device), []
        for day in y.square().unbind(1):
            rows.append(mean.log())
            mean = (decays * mean + (1 - decays) * day[:, None]).clamp(min=_FLOOR)
        x, y = torch.stack(rows, 1).float(), y[..., None].float()
        return TaskBatch.trusted(x[:, : self.shots], y[:, : self.shots], x[:, self.shots :], y[:, self.shots :])


def markets(names: Sequence[str] = MARKETS) -> list[Series]:
    """Daily returns that the package ``arch`` ships: S&P 500 and NASDAQ from 1999, the price of oil (WTI) from 1986.

    Nothing is downloaded: ``pip install 'metakit[finance]'``. A day without a price is left out.

    Arguments:
        names: of ``MARKETS``.

    Raises:
        ImportError: if ``arch`` is not installed.
        ValueError: if a name is unknown.

    Example:
        >>> [(each.name, len(each.returns)) for each in markets()]  # doctest: +SKIP
        [('sp500', 5030), ('nasdaq', 5030), ('wti', 8320)]
    """
    try:
        from arch.data import nasdaq, sp500, wti
    except ImportError as error:
        raise ImportError(f"markets needs the package arch ({error}): pip install 'metakit[finance]'.") from error
    columns = {"sp500": (sp500, "Adj Close"), "nasdaq": (nasdaq, "Adj Close"), "wti": (wti, "DCOILWTICO")}
    found = []
    for name in names:
        source, column = columns[choice("market", name, MARKETS)]
        prices = source.load()[column].dropna()
        log = torch.tensor(prices.to_numpy(dtype=float)).log()
        days = torch.tensor([day.toordinal() for day in prices.index])
        found.append(Series(name, days[1:], 100 * log.diff()))
    return found
