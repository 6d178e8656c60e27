"""An inner problem with an outer loss: what hypergradients are of, and what they come in."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from metakit.contracts import InnerStep, Weights
from metakit.inner.implicit import Solution
from metakit.inner.rules import prepared
from metakit.nn.lending import lent

W = TypeVar("W", bound=Tensor | Mapping[str, Tensor])
P = TypeVar("P", bound=Tensor | Mapping[str, Tensor])


@dataclasses.dataclass(frozen=True)
class Hypergradient(Generic[W, P]):
    """The gradient of an outer loss with respect to the parameters of an inner problem.

    Arguments:
        loss: the outer loss at the weights reached, a number in a tensor.
        grads: its gradient, of the kind, names and shapes of the parameters.
        weights: the weights that the inner training reached, of the kind that was given.
        inner_losses: the inner loss before each step, ``[K]``.
        rule_grads: the gradient for the rule's own parameters by their names; empty for a rule that has none, and for
            the implicit methods.
        slope: implicit methods: length of the inner gradient at the weights reached. At a minimum it is zero, and only
            there are these methods exact.
        residual: implicit methods: relative residual of the linear system, as ``Solution.residual``.
    """

    loss: Tensor
    grads: P
    weights: W
    inner_losses: Tensor
    rule_grads: Weights = dataclasses.field(default_factory=dict)
    slope: float | None = None
    residual: float | None = None


class Problem:
    """An inner and an outer loss of dictionaries; weights are stacked, as rules expect: ``{name: [1, ...]}``."""

    def __init__(
        self, inner: Callable[..., Any], outer: Callable[..., Any], weights: Any, parameters: Any, rule: Any, steps: int
    ) -> None:
        self._inner, self._outer, self.steps = inner, outer, steps
        self._plain = isinstance(weights, Tensor), isinstance(parameters, Tensor)
        free = {name: w.detach() for name, w in _named("weights", weights).items()}
        self.start = leaves_of({name: w[None].clone() for name, w in free.items()})
        given = _named("parameters", parameters)
        self._fixed = {name: p.detach().clone() for name, p in given.items()}
        self.parameters = leaves_of(self._fixed)
        has_its_own = isinstance(rule, nn.Module) and any(True for _ in rule.parameters())
        self._rule = rule if has_its_own else prepared(rule, free, steps)  # prepared again, it would lose its rates
        self.rates = leaves_of({n: p.clone() for n, p in self._rule.named_parameters() if p.requires_grad})

    def inner(self, weights: Weights, *, keep: bool = True) -> Tensor:
        """The inner loss, with the parameters in its graph if ``keep``."""
        loss = self._called("inner_loss", self._inner, weights, self.parameters if keep else self._fixed)
        if not loss.requires_grad:
            raise ValueError("inner_loss does not depend on the weights. Is something detached, or a number of Python?")
        return loss

    def outer(self, weights: Weights) -> Tensor:
        """The outer loss, if it is finite."""
        loss = self._called("outer_loss", self._outer, weights, self.parameters)
        if not bool(loss.detach().isfinite()):
            raise FloatingPointError(f"outer_loss is {float(loss.detach())} at the weights reached. Lower the lr.")
        return loss

    def rule(self, rates: Weights) -> Any:
        """The inner rule with these tensors for its own parameters."""
        return lent(self._rule, rates) if rates else self._rule

    def result(
        self,
        loss: Tensor,
        grads: Mapping[str, Tensor | None],
        weights: Weights,
        losses: list[Tensor],
        rule_grads: Weights | None = None,
        solution: Solution | None = None,
        slope: float | None = None,
    ) -> Hypergradient[Any, Any]:
        """What was found, if every parameter plays a part; in the form of what was given."""
        found: Weights = {}
        for name, grad in grads.items():
            if grad is None:
                told = "the tensor of parameters" if self._plain[1] else f"parameter {name!r}"
                raise ValueError(
                    f"{told} plays no part: neither where the weights go nor outer_loss depends on it. Leave it out, "
                    "or look whether it is detached on its way."
                )
            found[name] = grad.detach()
        reached = self._unstacked({name: w.detach() for name, w in weights.items()})
        residual = None if solution is None else float(solution.residual)
        steps = torch.stack(losses) if losses else loss.new_zeros(0).detach()
        form = _as_given(found, self._plain[1])
        return Hypergradient(loss.detach(), form, reached, steps, rule_grads or {}, slope, residual)

    def _called(self, name: str, function: Callable[..., Any], weights: Weights, parameters: Weights) -> Tensor:
        loss = function(self._unstacked(weights), _as_given(parameters, self._plain[1]))
        if not isinstance(loss, Tensor) or loss.dim() or not loss.is_floating_point():
            got = f"{loss.dtype} {list(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
            raise ValueError(f"{name} must return one real number, a tensor of shape [], got {got}. End it in .mean().")
        return loss

    def _unstacked(self, weights: Weights) -> Any:
        return _as_given({name: w[0] for name, w in weights.items()}, self._plain[0])


def _named(what: str, given: Any) -> Weights:
    tensors = {what: given} if isinstance(given, Tensor) else given
    if not isinstance(tensors, Mapping) or not tensors:
        raise TypeError(f"{what} must be a tensor or tensors by name, got {given!r}. Give a dict: {{'w': tensor}}.")
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            got = str(tensor.dtype) if isinstance(tensor, Tensor) else repr(tensor)
            raise TypeError(f"{what} must hold real tensors, got {got} for {name!r}. torch.tensor(0.1) makes one.")
    return dict(tensors)


def _as_given(tensors: Weights, plain: bool) -> Any:
    return next(iter(tensors.values())) if plain else dict(tensors)


# --- Inner training. ---


def trained(problem: Problem, *, keep: bool) -> tuple[Weights, list[Tensor]]:
    """The weights after all inner steps, with the graph of how they came to be if ``keep``; the loss before each."""
    rule, weights, losses = problem.rule(problem.rates if keep else {}), problem.start, []
    state = rule.init_state(weights)
    for k in range(problem.steps):
        if not keep:
            weights = leaves_of(weights)
        loss = problem.inner(weights, keep=keep)
        grads = gradients(loss, weights, keep=keep)
        with torch.set_grad_enabled(keep):
            weights, state = rule.step(InnerStep(weights, grads, loss[None], k, problem.steps), state)
        losses.append(loss.detach())
    check_finite(weights, losses)
    return weights, losses


def leaves_of(weights: Weights) -> Weights:
    """The same tensors, at which a graph begins."""
    return {name: w.detach().requires_grad_() for name, w in weights.items()}


def gradients(loss: Tensor, weights: Weights, *, keep: bool) -> Weights:
    """The gradients by name, to be differentiated again if ``keep``."""
    grads = torch.autograd.grad(loss, list(weights.values()), create_graph=keep, materialize_grads=True)
    return dict(zip(weights, grads, strict=True))


def check_finite(weights: Weights, losses: list[Tensor]) -> None:
    """Refuse an inner training that diverged, naming the step."""
    bad = [] if not losses else torch.nonzero(~torch.stack(losses).isfinite()).flatten().tolist()
    lost = [name for name, w in weights.items() if not bool(w.detach().isfinite().all())]
    if bad or lost:
        where = f"the loss before step {bad[0] + 1} is {float(losses[bad[0]])}" if bad else "its last step is not"
        raise FloatingPointError(f"inner training must stay finite: {where}. Lower the lr, or clip: mk.Clipped(rule).")
