"""Estimators of the meta-gradient that look at values alone, and one that looks at a stretch of a long unroll."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from metakit.checks import real, whole
from metakit.contracts import Batch, Estimate, Unrolled, losses_of
from metakit.nn.lending import lent
from metakit.outer.estimate import diverged


@dataclasses.dataclass(frozen=True)
class Truncated:
    """The gradient over a stretch of the unroll, which begins where the last one ended: a move for each stretch.

        grad_theta mean_t loss_t(s .. s + stretch),    the state at s taken for a constant

    Cheap in memory, and biased: what a step does to the losses beyond its stretch is not seen.

    Arguments:
        stretch: inner steps in a stretch.

    Example:
        >>> import metakit as mk
        >>> learner = mk.Unroll(mk.LearnedOptimizer(), steps=10)
        >>> history = mk.fit(learner, mk.tasks.Quadratics(), steps=2, estimator=Truncated(5), progress=False)

    Source: Werbos 1990; its bias in learned optimisers, Wu et al. 2018.
    """

    stretch: int = 20

    def __post_init__(self) -> None:
        object.__setattr__(self, "stretch", whole("stretch", self.stretch))

    def __call__(self, learner: Any, parameters: Mapping[str, Tensor], batch: Batch, carry: Any) -> Estimate:
        check_unrolled(learner)
        with torch.enable_grad():
            losses, state = learner.advance(batch, learner.start(batch) if carry is None else carry, self.stretch)
            grads = torch.autograd.grad(losses.mean(), list(parameters.values()), allow_unused=True)
        left = None if state["k"] == state["steps"] else detached(state)
        return Estimate(losses.mean().detach(), grads, left, diverged=diverged(learner, losses))


@dataclasses.dataclass(frozen=True)
class Evolution:
    """Antithetic evolution strategies: the gradient of the loss, blurred by normal noise, from its values alone.

        1 / (2 n sigma^2) sum_i e_i (loss(theta + e_i) - loss(theta - e_i)),    e_i ~ N(0, sigma^2)

    No graph is kept, and no derivative is multiplied along the unroll, so that a chaotic one does no harm.

    Arguments:
        sigma: standard deviation of the noise on the parameters.
        pairs: pairs n of evaluations.

    Example:
        >>> import metakit as mk
        >>> learner = mk.Unroll(mk.LearnedOptimizer(), steps=10)
        >>> history = mk.fit(learner, mk.tasks.Quadratics(), steps=2, estimator=Evolution(pairs=2), progress=False)

    Source: Salimans et al. 2017; for learned optimisers, Metz et al. 2019.
    """

    sigma: float = 0.03
    pairs: int = 12

    def __post_init__(self) -> None:
        object.__setattr__(self, "sigma", real("sigma", self.sigma, above=0.0))
        object.__setattr__(self, "pairs", whole("pairs", self.pairs))

    def __call__(self, learner: Any, parameters: Mapping[str, Tensor], batch: Batch, carry: Any) -> Estimate:
        total, far, grads = _zero(parameters), None, [torch.zeros_like(p) for p in parameters.values()]
        for noise in _noises(parameters, self.pairs, self.sigma):
            values = []
            for sign in (1, -1):
                with _same_luck(sign, batch.device), torch.no_grad():
                    values.append(losses_of(_moved(learner, parameters, noise, sign), batch))
            _add(grads, noise, (values[0].mean() - values[1].mean()) / (2 * self.pairs * self.sigma**2))
            total = total + (values[0].mean() + values[1].mean()) / (2 * self.pairs)
            far = _mean_of(far, [diverged(learner, value) for value in values], self.pairs)
        return Estimate(total, grads, diverged=far)


@dataclasses.dataclass(frozen=True)
class PersistentEvolution:
    """Persistent evolution strategies: evolution over stretches of an unroll, without the bias of truncation.

        1 / (2 n sigma^2) sum_i x_i (loss_i+(stretch) - loss_i-(stretch)),    x_i the sum of the noises of pair i so far

    Each of the 2 n unrolls goes on from its own state with new noise at each stretch; what earlier noises did to the
    losses of this stretch is credited to them through their sum.

    Arguments:
        sigma, pairs: as in ``Evolution``.
        stretch: inner steps in a stretch.

    Example:
        >>> import metakit as mk
        >>> learner, estimator = mk.Unroll(mk.LearnedOptimizer(), steps=10), PersistentEvolution(pairs=2, stretch=5)
        >>> history = mk.fit(learner, mk.tasks.Quadratics(), steps=2, estimator=estimator, progress=False)

    Source: Vicol, Metz and Sohl-Dickstein 2021, algorithm 2.
    """

    sigma: float = 0.03
    pairs: int = 12
    stretch: int = 20

    def __post_init__(self) -> None:
        object.__setattr__(self, "sigma", real("sigma", self.sigma, above=0.0))
        for name in ("pairs", "stretch"):
            object.__setattr__(self, name, whole(name, getattr(self, name)))

    def __call__(self, learner: Any, parameters: Mapping[str, Tensor], batch: Batch, carry: Any) -> Estimate:
        check_unrolled(learner)
        if carry is None:
            start = learner.start(batch)
            carry = [
                {"states": [start, start], "sum": [torch.zeros_like(p) for p in parameters.values()]}
                for _ in range(self.pairs)
            ]
        total, far, grads, kept = _zero(parameters), None, [torch.zeros_like(p) for p in parameters.values()], []
        for pair, noise in zip(carry, _noises(parameters, self.pairs, self.sigma), strict=True):
            sums = [s + e for s, e in zip(pair["sum"], noise, strict=True)]
            values, states = [], []
            for sign, state in zip((1, -1), pair["states"], strict=True):
                with _same_luck(sign, batch.device), torch.no_grad():
                    losses, after = _moved(learner, parameters, noise, sign).advance(batch, state, self.stretch)
                values.append(losses)
                states.append(after)
            _add(grads, sums, (values[0].mean() - values[1].mean()) / (2 * self.pairs * self.sigma**2))
            total = total + (values[0].mean() + values[1].mean()) / (2 * self.pairs)
            far = _mean_of(far, [diverged(learner, value) for value in values], self.pairs)
            kept.append({"states": states, "sum": sums})
        done = kept[0]["states"][0]["k"] == kept[0]["states"][0]["steps"]
        return Estimate(total, grads, None if done else kept, diverged=far)


def check_unrolled(learner: Any) -> None:
    """Refuse a learner that cannot be gone through in stretches."""
    if not isinstance(learner, Unrolled):
        raise TypeError(
            f"this estimator goes through an inner loop in stretches, by start and advance as mk.Unroll has them; "
            f'{type(learner).__name__} has none. Use estimator="es", or leave it out.'
        )


def detached(state: Any) -> Any:
    """A state of an unroll without the graph that led to it."""
    if isinstance(state, Tensor):
        return state.detach()
    if isinstance(state, dict):
        return {name: detached(value) for name, value in state.items()}
    return type(state)(detached(value) for value in state) if isinstance(state, list | tuple) else state


def _noises(parameters: Mapping[str, Tensor], pairs: int, sigma: float) -> Iterator[list[Tensor]]:
    for _ in range(pairs):
        yield [sigma * torch.randn_like(p) for p in parameters.values()]


def _moved(learner: Any, parameters: Mapping[str, Tensor], noise: list[Tensor], sign: int) -> Any:
    """The learner at parameters moved by a noise."""
    return lent(
        learner, {n: p.detach().add(e, alpha=sign) for (n, p), e in zip(parameters.items(), noise, strict=True)}
    )


def _same_luck(sign: int, device: torch.device) -> contextlib.AbstractContextManager[None]:
    """Both of a pair draw the same random numbers: the first gives torch's generator back as it was."""
    return torch.random.fork_rng([device] if device.type == "cuda" else []) if sign == 1 else contextlib.nullcontext()


def _zero(parameters: Mapping[str, Tensor]) -> Tensor:
    return next(iter(parameters.values())).new_zeros(())


def _add(grads: list[Tensor], noise: list[Tensor], share: Tensor) -> None:
    for grad, e in zip(grads, noise, strict=True):
        grad.add_(e * share)


def _mean_of(so_far: Tensor | None, found: list[Tensor | None], pairs: int) -> Tensor | None:
    """The mean, over evaluations, of the tasks that diverged."""
    if found[0] is None or found[1] is None:
        return so_far
    return (found[0] + found[1]) / (2 * pairs) + (0 if so_far is None else so_far)
