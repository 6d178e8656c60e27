"""How large tomorrow's move will be, in a market with some weeks of history: a forecast learned on other markets.

A small network gives the log variance of the next return. Its start is learned on windows of other markets; on the
window's own days it takes some gradient steps. Beside it, what is used today: GARCH(1,1) and a running mean.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from metakit.contracts import Loss
from metakit.inner import LearnedSGD
from metakit.learners import MAML
from metakit.models import MLP
from metakit.outer import History, fit
from metakit.saving import saved
from metakit.tasks.batch import TaskBatch
from metakit.tasks.volatility import MarketWindows, Series

STEPS = 5
OUTER: dict[str, Any] = {"meta_batch": 25, "lr": 1e-2, "schedule": "CosineAnnealingLR", "clip": 1.0}


@saved
def log_loss(log_variance: Tensor, returns: Tensor) -> Tensor:
    """Negative log density of returns under normals of mean 0, in nats a day, ``[T, Q, 1]`` to ``[T]``.

        (log 2 pi + s + y^2 exp(-s)) / 2

    Example:
        >>> log_loss(torch.zeros(1, 2, 1), torch.zeros(1, 2, 1))
        tensor([0.9189])
    """
    s = log_variance.clamp(-12, 12)
    return (math.log(2 * math.pi) + s + returns.square() * (-s).exp()).flatten(1).mean(1) / 2


def train(
    series: Sequence[Series], *, steps: int = 500, seed: int = 0, progress: bool = True, **options: Any
) -> tuple[MAML, History]:
    """A forecaster whose start and rates are learned on windows of these markets.

    Arguments:
        series: the markets.
        steps: outer steps.
        seed: of the network and the windows.
        progress: show a bar.
        options: of ``fit``, in place of those here.

    Example:
        >>> noise = Series("noise", torch.arange(400), torch.randn(400))
        >>> learner, history = train([noise], steps=2, progress=False)
        >>> history.steps
        2
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = MLP(3, [16], 1)
    loss: Loss = log_loss
    learner = MAML(network, rule=LearnedSGD(0.01, per="tensor"), steps=STEPS, loss=loss)
    history = fit(learner, MarketWindows(series), steps=steps, seed=seed, progress=progress, **(OUTER | options))
    return learner, history


def garch(returns: Tensor) -> tuple[float, float, float]:
    """omega, alpha and beta of GARCH(1,1) with mean 0, fitted to these returns ``[n]`` by the package ``arch``.

        v_t = omega + alpha y_{t-1}^2 + beta v_{t-1}

    Raises:
        ImportError: if ``arch`` is not installed.

    Source: Bollerslev 1986.
    """
    try:
        from arch import arch_model
    except ImportError as error:
        raise ImportError(f"garch needs the package arch ({error}): pip install 'metakit[finance]'.") from error
    found = arch_model(returns.double().numpy(), mean="Zero", vol="GARCH", rescale=False).fit(
        disp="off", show_warning=False
    )
    omega, alpha, beta = (float(found.params[name]) for name in ("omega", "alpha[1]", "beta[1]"))
    return omega, alpha, beta


def filtered(returns: Tensor, omega: float, alpha: float, beta: float, first: float | Tensor = 1.0) -> Tensor:
    """The variance of each day as GARCH(1,1) forecasts it the evening before, ``[..., n]`` to ``[..., n]``.

    With ``omega = 0, alpha = 0.06, beta = 0.94`` it is the running mean of RiskMetrics.

    Example:
        >>> filtered(torch.tensor([2.0, 0.0, 0.0]), 0.1, 0.2, 0.7)
        tensor([1.0000, 1.6000, 1.2200])
    """
    variance, found = torch.zeros_like(returns[..., 0]) + first, []
    for day in returns.unbind(-1):
        found.append(variance)
        variance = omega + alpha * day.square() + beta * variance
    return torch.stack(found, -1)


def plain(learner: MAML, windows: TaskBatch) -> dict[str, Tensor]:
    """Log loss of every window, ``[T]``, for the learner, its start as it is, and what needs no fit."""
    days = _days(windows)
    with torch.no_grad():
        before, *_, after = learner.outputs(windows)
    support = windows.support_y[..., 0].double().square().mean(1, keepdim=True).expand_as(days)
    return {
        "adapted": log_loss(after, windows.query_y).double(),
        "start, not adapted": log_loss(before, windows.query_y).double(),
        "running mean, 0.94": _judged(filtered(days, 0.0, 0.06, 0.94), windows),
        "the support days' variance": _judged(support, windows),
    }


def contenders(others: Sequence[Series], learner: MAML, windows: TaskBatch) -> dict[str, Tensor]:
    """Those of ``plain``, and GARCH(1,1) twice; it needs the package ``arch``.

    Once it is fitted to the other markets' past, and its forecasts then follow the window's own days; once it is fitted
    to the window's support days alone.
    """
    days, asked = _days(windows), windows.query_y.shape[1]
    pooled = garch(MarketWindows(others).in_turn().query_y.flatten())
    alone = torch.stack([filtered(row, *garch(row[:-asked])) for row in days])
    return plain(learner, windows) | {
        "GARCH(1,1) of the other markets": _judged(filtered(days, *pooled), windows),
        "GARCH(1,1) of the window alone": _judged(alone, windows),
    }


def _days(windows: TaskBatch) -> Tensor:
    """Returns of support and query days, ``[T, S + Q]``."""
    return torch.cat([windows.support_y, windows.query_y], 1)[..., 0].double()


def _judged(variance: Tensor, windows: TaskBatch) -> Tensor:
    """The log loss of a variance for each day, ``[T, S + Q]``, on the query days."""
    y = windows.query_y.double()
    return log_loss(variance[:, -y.shape[1] :, None].clamp(min=1e-6).log(), y)
