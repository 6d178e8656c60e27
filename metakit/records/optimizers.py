"""Learned rules looked at: their paths, their updates, their course over a training, and what they are trained on."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from metakit.checks import real, whole
from metakit.contracts import InnerStep, Jobs, Rule, Tasks
from metakit.inner import Momentum
from metakit.learners import Scheduled, Unroll
from metakit.tasks import TrainingJobs

NEXT_TO_NOTHING = 1e-12  # losses below it are rounding, and are told and drawn as it


@dataclasses.dataclass(frozen=True)
class OptimizerPaths:
    """The ways of R optimisers over a quadratic of two weights, from one start.

    Arguments:
        names: of the optimisers, R of them.
        paths: weights after 0, 1, ..., K steps, ``[R, K + 1, 2]``.
        loss: the loss there, without the noise, ``[R, K + 1]``; infinite from where weights ran away.
        first, second: values of the two weights, ``[G]`` each.
        surface: the loss over them, ``[G, G]``; the first weight runs along the columns.
        minimum: where the loss is 0, ``[2]``.
        condition: how many times longer than wide the level lines are.
        noise: standard deviation of what is added to the target at each step.
    """

    names: tuple[str, ...]
    paths: Tensor
    loss: Tensor
    first: Tensor
    second: Tensor
    surface: Tensor
    minimum: Tensor
    condition: float
    noise: float

    @property
    def ends(self) -> dict[str, float]:
        """The loss of each at the last step."""
        return dict(zip(self.names, self.loss[:, -1].tolist(), strict=True))

    @property
    def winner(self) -> str:
        """The one with the lowest loss at the end."""
        return min(self.ends, key=self.ends.__getitem__)

    def __str__(self) -> str:
        ends = {name: max(end, NEXT_TO_NOTHING) for name, end in self.ends.items()}
        best = ends.pop(self.winner)
        value = f"{best:.2g}" if best > NEXT_TO_NOTHING else f"no more than {best:.0e}"
        told = f"after {self.loss.shape[1] - 1} steps {self.winner} has the lowest loss, {value}"
        return "; ".join([told, *(_beside(name, end, best) for name, end in ends.items())]) + "."


def _beside(name: str, end: float, best: float) -> str:
    if not math.isfinite(end):
        return f"{name} ran away"
    return f"{name} has {end:.2g}, {_times(end / best)} as much"


def _times(ratio: float) -> str:
    return f"{ratio:.3g} times" if ratio < 1000 else f"{ratio:.0e} times"


@dataclasses.dataclass(frozen=True)
class NoisyExamples:
    """Training rows with a share of wrong labels, and a weight for each that a few clean rows have taught.

    Arguments:
        x: the training rows, ``[R, 2]``.
        y: the labels they were given, 0 or 1, ``[R]``.
        wrong: which labels are wrong, ``[R]``.
        weights: of the rows, 1 on average, ``[R]``.
        before, after: of the logistic regression, two slopes and a bias, ``[3]``: with equal weights, and with these.
        course: loss on the clean rows (cross-entropy, nats) after 0, 1, ..., N outer steps, ``[N + 1]``.
        accuracy: share of new clean rows classified rightly, before and after.
        validation: clean rows that the weights were learned from.
    """

    x: Tensor
    y: Tensor
    wrong: Tensor
    weights: Tensor
    before: Tensor
    after: Tensor
    course: Tensor
    accuracy: tuple[float, float]
    validation: int

    @property
    def found(self) -> int:
        """How many wrong rows are among as many of the lightest as there are wrong ones."""
        return int(self.wrong[self.weights.argsort(stable=True)[: int(self.wrong.sum())]].sum())

    @property
    def precision(self) -> float:
        """The share of the lightest rows that are wrong; NaN if none is."""
        return self.found / int(self.wrong.sum()) if self.wrong.any() else math.nan

    def __str__(self) -> str:
        count, (before, after) = int(self.wrong.sum()), self.accuracy
        told = f"accuracy on new rows {100 * before:.1f}% before, {100 * after:.1f}% after"
        if not count:
            return f"no label is wrong: {told}."
        chance = f"by chance {count**2 / len(self.wrong):.1f}"
        return f"of the {count} lightest rows {self.found} are wrong ones ({chance}); {told}."


# --- What a rule does. ---


@dataclasses.dataclass(frozen=True)
class RuleSurface:
    """The update that a rule makes, over the gradient of a weight and its momentum.

    Arguments:
        gradient, momentum: in units of the root of the mean square gradient, ``[G]`` each.
        update: what is added to a weight, ``[G, G]``; the gradient runs along the columns.
        k, steps: at which step of how many.
    """

    gradient: Tensor
    momentum: Tensor
    update: Tensor
    k: int
    steps: int

    @property
    def mixture(self) -> tuple[float, float, float]:
        """The nearest ``a momentum + b gradient``: a, b, and the share of the squares that it leaves out."""
        momentum, gradient = torch.meshgrid(self.momentum, self.gradient, indexing="ij")
        sides = torch.stack([momentum.flatten(), gradient.flatten()], 1)
        wanted = self.update.reshape(-1, 1)
        found = torch.linalg.lstsq(sides, wanted).solution
        left = (sides @ found - wanted).square().sum() / wanted.square().sum().clamp(min=1e-300)
        return float(found[0]), float(found[1]), float(left)

    def __str__(self) -> str:
        a, b, left = self.mixture
        return (
            f"at step {self.k} of {self.steps} the update is {a:+.2g} momentum {b:+.2g} gradient; "
            f"{100 * left:.2g}% of its squares is something else."
        )


def rule_surface(rule: Any, *, k: int = 50, steps: int = 100, points: int = 33, reach: float = 2.5) -> RuleSurface:
    """The update of a ``LearnedOptimizer`` of kind ``"mlp"`` over gradient and momentum.

    All points of the grid are weights of one matrix, whose size is 1 and whose mean square gradient is 1; each stands
    in it as +1 and as -1, and the two updates are averaged, so that weight decay plays no part. The three momenta of a
    weight agree.

    Arguments:
        rule: the rule.
        k, steps: at which step of how many.
        points: grid points G along either side.
        reach: both run from ``-reach`` to ``reach``, in units of the root of the mean square gradient.

    Raises:
        TypeError: if the rule has no such momenta.
        ValueError: if a number is out of its range, or a gradient so large that its mean square could not be 1.

    Example:
        >>> import metakit as mk
        >>> record = rule_surface(mk.LearnedOptimizer(lr=0.1), points=5)  # untrained, it is Adam
        >>> [round(value, 3) + 0.0 for value in record.mixture]
        [-0.1, 0.0, 0.0]
    """
    if getattr(rule, "kind", None) != "mlp":
        raise TypeError(f'rule must be a LearnedOptimizer of kind "mlp", got {rule!r}. rule_course takes any rule.')
    k, steps, points = whole("k", k, least=0), whole("steps", steps), whole("points", points, least=2)
    rule = copy.deepcopy(rule).double()
    axis = torch.linspace(-1, 1, points, dtype=torch.float64) * real("reach", reach, above=0.0)
    momentum, gradient = torch.meshgrid(axis, axis, indexing="ij")
    grads = {"w": torch.stack([gradient, gradient])[None]}  # [1, 2, G, G]
    weights = {"w": torch.ones_like(grads["w"]) * torch.tensor([1.0, -1.0])[:, None, None]}
    g, m = grads["w"].flatten(1)[:, None], momentum.flatten().repeat(2)
    with torch.no_grad():
        _, once = rule.step(
            InnerStep(weights, {"w": torch.ones_like(grads["w"])}, k=k, steps=steps), rule.init_state(weights)
        )
        first = 1 - once["momenta"]  # the decays, from what one step does to a state of zeros
        state = {"momenta": ((1 - first ** (k + 1)) * m - (1 - first) * g) / first}
        for name in ("fast", "slow"):
            second = 1 - once[name]
            state[name] = (1 - second ** (k + 1) - (1 - second) * g[:, 0].square()) / second
            if bool((state[name] < -1e-9).any()):
                raise ValueError(
                    f"reach {reach:g} is too large for a mean square of 1 at step {k}. Lower it, or raise k."
                )
        after, _ = rule.step(InnerStep(weights, grads, k=k, steps=steps), state)
    return RuleSurface(axis, axis, (after["w"] - weights["w"])[0].mean(0), k, steps)


@dataclasses.dataclass(frozen=True)
class RuleCourse:
    """How large the updates of a rule are over the course of a training.

    Arguments:
        names: of the weight tensors, P of them.
        size: mean size of an update at each of K steps, over the weights of a tensor and over the jobs, ``[P, K]``.
        mean: the same over all weights, ``[K]``.
        jobs: how many were trained to the end.
    """

    names: tuple[str, ...]
    size: Tensor
    mean: Tensor
    jobs: int

    @property
    def peak(self) -> int:
        """The step of the largest updates, from 1."""
        return int(self.mean.argmax()) + 1

    def __str__(self) -> str:
        steps, (first, largest, last) = len(self.mean), self.mean[[0, self.peak - 1, -1]].tolist()
        return (
            f"mean update {first:.2g} at step 1, {largest:.2g} at step {self.peak}, the largest, and {last:.2g} at "
            f"step {steps}, {100 * last / largest:.2g}% of that."
        )


def rule_course(rule: Rule, jobs: Tasks, *, steps: int = 100, n_jobs: int = 8, seed: int = 0) -> RuleCourse:
    """Train some jobs by a rule, and keep how large its updates are.

    Arguments:
        rule: any inner rule.
        jobs: a distribution of training jobs.
        steps: inner steps K.
        n_jobs: jobs trained side by side.
        seed: of the jobs.

    Raises:
        FloatingPointError: if the weights of every job run away.

    Example:
        >>> import metakit as mk
        >>> record = rule_course(mk.LearnedOptimizer(lr=0.1), mk.tasks.Quadratics(), steps=5)
        >>> record.names, round(float(record.mean[0]), 2)  # the first step of Adam has the size of its rate
        (('w',), 0.1)
    """
    steps = whole("steps", steps)
    batch: Any = jobs.sample(whole("n_jobs", n_jobs), generator=torch.Generator().manual_seed(seed))
    unroll = Unroll(rule, steps=steps)
    sizes = []
    with torch.no_grad():
        state = unroll.start(batch, steps)
        for _ in range(steps):
            before = state["weights"]
            _, state = unroll.advance(batch, state, 1)
            sizes.append(
                torch.stack([(w - before[name]).abs().flatten(1).mean(1) for name, w in state["weights"].items()])
            )
    kept = ~state["lost"]
    if not kept.any():
        raise FloatingPointError("the weights of every job ran away under this rule. Lower its rate.")
    size = torch.stack(sizes, -1)[:, kept].mean(1)
    numbers = torch.tensor([w[0].numel() for w in batch.start.values()], dtype=size.dtype)
    return RuleCourse(tuple(batch.start), size, numbers @ size / numbers.sum(), int(kept.sum()))


# --- What a rule is trained on. ---


@dataclasses.dataclass(frozen=True)
class HorizonSurface:
    """The meta-loss over one meta-parameter, the logarithm of a rate, at one horizon.

    Arguments:
        horizon: inner steps K.
        rates: the rates, evenly spaced in their logarithm, ``[G]``.
        loss: the meta-loss at each, ``[G]``.
        slope: its exact derivative with respect to log rate, ``[G]``.
        blurred: its mean under normal noise in log rate, what evolution strategies descend, ``[G]``.
        blurred_slope: the derivative of that, ``[G]``.
        sigma: standard deviation of the noise.
    """

    horizon: int
    rates: Tensor
    loss: Tensor
    slope: Tensor
    blurred: Tensor
    blurred_slope: Tensor
    sigma: float

    @property
    def steepest(self) -> float:
        """The largest size of the exact derivative."""
        return float(self.slope.abs().max())

    @property
    def valleys(self) -> tuple[int, int]:
        """Points below both neighbours: of the meta-loss, and of the blurred one."""
        raw, blurred = (
            int(((line[1:-1] < line[:-2]) & (line[1:-1] < line[2:])).sum()) for line in (self.loss, self.blurred)
        )
        return raw, blurred

    def __str__(self) -> str:
        raw, blurred = self.valleys
        return (
            f"over {self.horizon} steps the meta-loss has {_valleys(raw)} and a slope of up to {self.steepest:.2g}; "
            f"blurred by {self.sigma:g}, {_valleys(blurred)} and up to {float(self.blurred_slope.abs().max()):.2g}."
        )


def _valleys(count: int) -> str:
    return "1 valley" if count == 1 else f"{count} valleys"


def horizon_surfaces(
    rule: Rule | None = None,
    jobs: Tasks | None = None,
    *,
    horizons: Sequence[int] = (5, 20, 80),
    rates: tuple[float, float] = (0.005, 3.0),
    points: int = 121,
    sigma: float = 0.3,
    seed: int = 0,
) -> tuple[HorizonSurface, ...]:
    """The meta-loss of ``Unroll`` on one job over the rate of a rule, at several horizons.

    All rates run side by side, as if they were jobs. The grid is longer than what is kept by three sigma at either end,
    so that the blur has what it needs.

    Arguments:
        rule: a rule with a rate of 1, whose moves are multiplied; ``Momentum(lr=1.0)`` when left out.
        jobs: where the job comes from; a tanh network of two layers of 8 units on 64 invented rows when left out.
        horizons: inner steps K of each surface.
        rates: the lowest and the highest.
        points: rates G.
        sigma: standard deviation of the blur in log rate.
        seed: of the job.

    Raises:
        ValueError: if a number is out of its range.

    Example:
        >>> import metakit as mk
        >>> (record,) = horizon_surfaces(mk.SGD(lr=1.0), mk.tasks.Quadratics(2), horizons=[3], rates=(0.01, 0.1))
        >>> record.valleys, record.loss.shape
        ((1, 1), torch.Size([121]))

    Source: Metz et al. 2019, figures 1 and 2.
    """
    low, high = (real("rates", rate, above=0.0) for rate in rates)
    points, sigma = whole("points", points, least=3), real("sigma", sigma, above=0.0)
    gap = math.log(high / low) / (points - 1)
    if not gap > 0:
        raise ValueError(f"rates must be (lowest, highest), got {rates!r}. Swap the two.")
    more = math.ceil(3 * sigma / gap)
    logs = math.log(low) + gap * torch.arange(-more, points + more, dtype=torch.float64)
    source = jobs or TrainingJobs(width=8, depth=2, activation="tanh", rows=64, batch=64, queries=64)
    job = _double(source.sample(1, generator=torch.Generator().manual_seed(seed)))
    kept, found = slice(more, more + points), []
    away = logs[None] - logs[kept, None]  # [G, all]
    share = torch.softmax(-away.square() / (2 * sigma**2), 1)
    turned = share * away / sigma**2
    turned = turned - share * turned.sum(1, keepdim=True)  # a constant has no slope, at a cut kernel's ends either
    for horizon in horizons:
        loss, slope = _over_rates(Momentum(lr=1.0) if rule is None else rule, job, logs, whole("horizons", horizon))
        lines = loss[kept], slope[kept], share @ loss, turned @ loss
        found.append(HorizonSurface(horizon, logs[kept].exp(), *lines, sigma))
    return tuple(found)


def _over_rates(rule: Any, job: Jobs, logs: Tensor, horizon: int) -> tuple[Tensor, Tensor]:
    """The meta-loss at each log rate, and its derivative."""
    logs = logs.detach().requires_grad_()
    unroll = Unroll(Scheduled(copy.deepcopy(rule).double(), logs.exp()), steps=horizon)
    wide: Any = job[torch.zeros(len(logs), dtype=torch.int64)]  # type: ignore[index]
    loss = unroll.advance(wide, unroll.start(wide, horizon), horizon)[0]
    (slope,) = torch.autograd.grad(loss.sum(), logs)
    return loss.detach(), slope


def _double(job: Any) -> Any:
    """The same job in float64: a derivative that is multiplied many times over needs the room."""

    def change(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: change(each) for name, each in value.items()}
        return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value

    fields = {field.name: change(getattr(job, field.name)) for field in dataclasses.fields(job)}
    return dataclasses.replace(job, **fields)
