"""The optimiser explorer: a tuned rule, a learned one and conjugate gradients on one quadratic of two weights."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator
from typing import Any

import ipywidgets as ipw
import torch
from matplotlib.figure import Figure
from torch import Tensor

from metakit import plots, records
from metakit.checks import Device, drawing, placed, real, span, whole
from metakit.contracts import Rule
from metakit.inner import Adam, LearnedOptimizer
from metakit.learners import Scheduled, Tuned, Unroll
from metakit.outer import fit
from metakit.tasks.jobs import QuadraticBatch
from metakit.widgets.explorer import LATE, VIEWED, Explorer, another

RATES = tuple(10 ** (-2 + 0.3 * i) for i in range(9))  # that Adam is tuned over: 0.01 to 2.5
_MOST_STEPS, _MOST_CONDITION, _MOST_NOISE = 100, 100.0, 0.3
_GRID, _AWAY, _REACH = 61, 2.0, 2.6  # grid points; from the minimum to the start, and to the edge of the picture


@dataclasses.dataclass(frozen=True)
class Bowls:
    """Quadratics of two weights, ``f(w) = |A w - y|^2``, each with a start that lies 2 from its minimum.

    The level lines are ellipses, turned at random; the start lies neither along nor across them.

    Arguments:
        condition: range of the ratio of the singular values of A, so many times longer than wide are the ellipses;
            drawn log-uniformly.
        noise: range of the standard deviation of what is added to y anew at each step.

    Example:
        >>> batch = Bowls((4.0, 4.0)).sample(3, seed=0)
        >>> torch.linalg.cond(batch.matrix).round(decimals=3)
        tensor([4., 4., 4.])
    """

    condition: tuple[float, float] = (1.0, _MOST_CONDITION)
    noise: tuple[float, float] = (0.0, _MOST_NOISE)

    def __post_init__(self) -> None:
        low, high = span("condition", self.condition)
        real("condition", low, least=1.0)
        real("noise", span("noise", self.noise)[0], least=0.0)
        object.__setattr__(self, "condition", (low, high))

    def sample(
        self,
        n_tasks: int,
        *,
        generator: torch.Generator | None = None,
        seed: int | None = None,
        device: Device = None,
    ) -> QuadraticBatch:
        """T quadratics; randomness as in ``Sinusoids.sample``."""
        n_tasks, generator, drawn_on, target = drawing(n_tasks, generator, seed, device)
        place: Any = {"generator": generator, "device": drawn_on}

        def between(low: float, high: float, *shape: int) -> Tensor:
            return low + (high - low) * torch.rand(n_tasks, *shape, **place)

        turn = between(0, 2 * math.pi)
        away = between(math.pi / 9, 7 * math.pi / 18) + math.pi / 2 * torch.randint(0, 4, (n_tasks,), **place)
        minimum = between(-1, 1, 2)
        condition = between(math.log(self.condition[0]), math.log(self.condition[1])).exp()
        noise = between(*self.noise)[:, None, None] * torch.randn(n_tasks, _MOST_STEPS, 2, **place)
        axes = torch.stack([turn.cos(), turn.sin(), -turn.sin(), turn.cos()], 1).view(-1, 2, 2)
        matrix = torch.stack([torch.ones_like(condition), 1 / condition], 1)[..., None] * axes
        offset = _AWAY * torch.stack([away.cos(), away.sin()], 1)
        start = {"w": minimum + (axes.mT @ offset[..., None])[..., 0]}
        batch = QuadraticBatch(matrix, (matrix @ minimum[..., None])[..., 0], start, noise)
        return placed(batch, target)


def quadratic_rule(steps: int = 40, seed: int = 0) -> LearnedOptimizer:
    """A learned rule, trained for some seconds on ``Bowls`` of every shape and noise; once in a process.

    Arguments:
        steps: outer steps; 40 take about 10 seconds on one core.
        seed: of its beginning and of its tasks.

    Example:
        >>> rule = quadratic_rule(steps=1)
        >>> rule is quadratic_rule(1, seed=0), int(rule.trained_steps)
        (True, 32)
    """
    return _trained(steps, seed)


@functools.lru_cache(maxsize=8)
def _trained(steps: int, seed: int) -> LearnedOptimizer:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        rule = LearnedOptimizer(lr=0.3)
    learner, cooled = Unroll(rule, steps=(8, 32)), "CosineAnnealingLR"
    fit(learner, Bowls(), steps=steps, meta_batch=16, lr=0.03, schedule=cooled, clip=1.0, seed=seed, progress=False)
    return rule.requires_grad_(False).eval()


def optimizer_paths(
    rule: Rule | None = None, *, condition: float = 10.0, noise: float = 0.0, horizon: int = 30, seed: int = 0
) -> records.OptimizerPaths:
    """The ways of three optimisers over one quadratic of two weights.

    Adam runs at the rate, of nine, that is best at the end on this very quadratic without its noise. Conjugate
    gradients take the noisy gradient of each step, and know the curvature along their direction.

    Arguments:
        rule: a learned rule, or any other; ``quadratic_rule()`` when left out.
        condition: how many times longer than wide the level lines are, 1 to 100.
        noise: standard deviation of what is added to the target at each step; all three meet the same.
        horizon: steps K, 1 to 100.
        seed: of the quadratic.

    Raises:
        ValueError: if a number is out of its range.

    Example:
        >>> import metakit as mk
        >>> record = optimizer_paths(mk.LearnedOptimizer(lr=0.3), horizon=5)
        >>> record.winner, record.paths.shape
        ('conjugate gradients', torch.Size([3, 6, 2]))
    """
    condition = real("condition", condition, least=1.0, most=_MOST_CONDITION)
    noise = real("noise", noise, least=0.0)
    if not 1 <= whole("horizon", horizon) <= _MOST_STEPS:
        raise ValueError(f"horizon must be between 1 and {_MOST_STEPS}, got {horizon}. Give a number in that range.")
    job = Bowls((condition, condition), (noise, noise)).sample(1, generator=torch.Generator().manual_seed(seed))
    rate = float(Tuned(steps=horizon, rates=RATES).chosen(job, horizon))
    ways = {
        f"Adam, rate {rate:.2g}": _way(Scheduled(Adam(lr=1.0), rate), job, horizon),
        "the learned rule": _way(quadratic_rule() if rule is None else rule, job, horizon),
        "conjugate gradients": torch.stack(list(_conjugate(job, horizon))),
    }
    paths, minimum = torch.stack(list(ways.values())), job.minimum()["w"][0].double()
    grid = torch.linspace(-_REACH, _REACH, _GRID, dtype=torch.float64)
    surface = torch.stack(torch.meshgrid(grid, grid, indexing="xy"), -1)
    slope = job.matrix[0].double()

    def loss(w: Tensor) -> Tensor:
        return ((w - minimum) @ slope.mT).square().sum(-1)

    first, second = grid + minimum[0], grid + minimum[1]
    return records.OptimizerPaths(
        names=tuple(ways),
        paths=paths,
        loss=loss(paths).nan_to_num(nan=torch.inf),
        first=first,
        second=second,
        surface=loss(surface + minimum),
        minimum=minimum,
        condition=condition,
        noise=noise,
    )


def _way(rule: Rule, job: QuadraticBatch, horizon: int) -> Tensor:
    """Where a rule goes, ``[K + 1, 2]``; NaN from the step at which its weights ran away."""
    unroll, found = Unroll(rule, steps=horizon), [job.start["w"]]
    with torch.no_grad():
        state = unroll.start(job, horizon)
        for _ in range(horizon):
            _, state = unroll.advance(job, state, 1)
            found.append(state["weights"]["w"].masked_fill(state["lost"][:, None], torch.nan))
    return torch.cat(found).double()


def _conjugate(job: QuadraticBatch, horizon: int) -> Iterator[Tensor]:
    """Conjugate gradients, begun anew after every second step, on the noisy gradient of each step."""
    w, matrix, target = job.start["w"][0].double(), job.matrix[0].double(), job.target[0].double()
    direction, square = torch.zeros_like(w), torch.ones((), dtype=w.dtype)
    yield w
    for k in range(horizon):
        moved = 0 if job.disturbance is None else job.disturbance[0, k].double()
        downhill = matrix.mT @ (target + moved - matrix @ w)
        before, square = square, downhill @ downhill
        direction = downhill + (square / before.clamp(min=1e-300) * direction if k % 2 else 0)
        curved = (matrix @ direction).square().sum().clamp(min=1e-300)
        w = w + downhill @ direction / curved * direction
        yield w


class OptimizerExplorer:
    """Turn the shape of a quadratic, the noise and the number of steps; see what a learned rule has learned.

    Arguments:
        rule: a learned rule, or any other; ``quadratic_rule()`` when left out, which takes some seconds to train.

    After each change ``.record`` is the ``records.OptimizerPaths`` shown, and ``.error`` the exception if there was
    one. Controls by name: condition, noise, horizon, seed.

    Example:
        >>> import metakit as mk
        >>> explorer = OptimizerExplorer(mk.LearnedOptimizer(lr=0.3))
        >>> explorer.controls["horizon"].value = 5
        >>> explorer.record.loss.shape, explorer.error
        (torch.Size([3, 6]), None)
    """

    controls, record, error, widget, static, _ipython_display_ = VIEWED

    def __init__(self, rule: Rule | None = None) -> None:
        self.rule = rule if rule is not None else quadratic_rule()
        most = math.log10(_MOST_CONDITION)
        real, whole = ipw.FloatSlider, ipw.IntSlider
        controls = {
            "condition": ipw.FloatLogSlider(description="Condition", min=0, max=most, step=0.05, value=10.0, **LATE),
            "noise": real(description="Noise (target)", min=0, max=_MOST_NOISE, step=0.01, value=0.0, **LATE),
            "horizon": whole(description="Steps", min=5, max=_MOST_STEPS, value=30, **LATE),
            "seed": ipw.IntText(value=0),
        }
        again = another(controls["seed"], "Other task", "Draw another quadratic, start and noise")
        rows = [*(control for name, control in controls.items() if name != "seed"), again]
        told = "An explorer with sliders for condition, noise and steps"
        self._view = Explorer(controls, self.compute, self.draw, rows=rows, instead=told)
        self._view.refresh()

    def compute(
        self, *, condition: float = 10.0, noise: float = 0.0, horizon: int = 30, seed: int = 0
    ) -> records.OptimizerPaths:
        """The record for one setting of the controls; see ``optimizer_paths``."""
        return optimizer_paths(self.rule, condition=condition, noise=noise, horizon=horizon, seed=seed)

    @staticmethod
    def draw(fig: Figure, record: records.OptimizerPaths) -> None:
        """The ways on the left, the losses on the right."""
        draw_two(fig, record, plots.draw_optimizer_paths, plots.draw_optimizer_losses)


def draw_two(fig: Figure, record: Any, on_left: Any, on_right: Any) -> None:
    """Draw a record on a whole figure by two functions, the square one on the left."""
    fig.set(figwidth=8.2, figheight=4.2, dpi=100, facecolor="white")
    left, right = fig.subplots(1, 2)
    fig.subplots_adjust(left=0.075, right=0.985, top=0.92, bottom=0.12, wspace=0.27)
    for ax, draw in ((left, on_left), (right, on_right)):
        ax.spines[["top", "right"]].set_visible(False)
        draw(ax, record)
