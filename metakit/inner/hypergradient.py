"""Hypergradients: what an outer loss says of the parameters of an inner problem, by any of four ways."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from metakit.checks import choice, real, whole
from metakit.contracts import Rule, Weights
from metakit.inner.forward import forward
from metakit.inner.implicit import Product, Solution, conjugate_gradients, neumann_series, pulled
from metakit.inner.problem import Hypergradient, P, Problem, W, gradients, leaves_of, trained

METHODS = ("implicit", "neumann", "unrolled", "forward")


def hypergradient(
    inner_loss: Callable[[W, P], Tensor],
    outer_loss: Callable[[W, P], Tensor],
    weights: W,
    parameters: P,
    *,
    method: str = "implicit",
    rule: Rule | None = None,
    steps: int = 100,
    solver_steps: int = 100,
    tolerance: float = 1e-10,
    damping: float = 0.0,
    rate: float | None = None,
) -> Hypergradient[W, P]:
    """The gradient of ``outer_loss`` after inner training, with respect to any parameters of the inner problem.

        F(p) = outer_loss(w_K(p), p),    w_K: K steps of the rule on inner_loss(w, p) from the weights given

    - ``"unrolled"`` (reverse mode) is the exact gradient of F; it keeps all K steps.
    - ``"forward"`` is the same number, from tangents ``dw_k / dp`` carried along: as much memory for any K, and a pass
      for every number in the parameters.
    - ``"implicit"`` takes w_K for a minimum of the inner loss: ``dF/dp = d outer/dp - (d^2 inner / dp dw) v`` with
      ``(d^2 inner / dw^2) v = d outer/dw``, solved by conjugate gradients. As much memory for any K, and any number of
      parameters; the way to the minimum does not matter.
    - ``"neumann"`` is the same with the first terms of the Neumann series.

    Arguments:
        inner_loss, outer_loss: ``(weights, parameters) -> `` a tensor of shape ``[]``. They must hand their arguments
            through torch's operations, which are differentiated twice.
        weights: where inner training starts: a tensor, or tensors by name. It is handed on as it was given.
        parameters: what is differentiated: penalties, weights of examples, strengths, ...; as ``weights``.
        method: one of the four.
        rule: the inner rule; ``SGD(lr=0.01)`` when left out. Parameters of its own, the rates of ``LearnedSGD``, are
            differentiated by the first two methods, see ``Hypergradient.rule_grads``.
        steps: inner steps K; 0 takes the weights as trained already.
        solver_steps: steps of conjugate gradients, or terms of the series, at most.
        tolerance: relative residual at which the solver is done.
        damping: added to the diagonal of ``d^2 inner / dw^2``, for a minimum that is flat or not quite reached.
        rate: of the series, below 2 / largest curvature; 1 / largest curvature when left out.

    Raises:
        TypeError: if weights or parameters are no real tensors, or the rule is none.
        ValueError: if an option is out of its range, a loss is not one number or does not depend on the weights, a
            parameter plays no part, forward mode has more than 100 numbers to carry, the inner loss does not curve
            upwards where a minimum is asked for, or the series diverges.
        FloatingPointError: if inner training or the outer loss is not finite.

    Example:
        >>> import metakit as mk
        >>> x, y = torch.tensor([[1.0], [2.0]]), torch.tensor([1.0, 3.0])
        >>> def ridge(w, p):
        ...     return (x @ w - y).square().sum() / 2 + p["penalty"] * w.square().sum() / 2
        >>> def held_out(w, p):
        ...     return (2 * w[0] - 1).square() / 2
        >>> found = hypergradient(ridge, held_out, torch.zeros(1), {"penalty": torch.tensor(2.0)}, rule=mk.SGD(lr=0.1))
        >>> found.weights, found.grads["penalty"]  # w = 7 / (5 + penalty), dF/dp = 2 (2 w - 1) dw/dp = -2 / 7
        (tensor([1.]), tensor(-0.2857))

    Source: implicit, Bengio 2000 and Pedregosa 2016; unrolled, Domke 2012 and Maclaurin, Duvenaud and Adams 2015;
    forward, Franceschi, Donini, Frasconi and Pontil 2017; the series, Lorraine, Vicol and Duvenaud 2020.
    """
    choice("method", method, METHODS)
    problem = Problem(inner_loss, outer_loss, weights, parameters, rule, whole("steps", steps, least=0))
    with torch.enable_grad():
        if method == "unrolled":
            found = _unrolled(problem)
        elif method == "forward":
            found = forward(problem)
        else:
            solve = _solver(method, whole("solver_steps", solver_steps), tolerance, rate)
            found = _implicit(problem, solve, real("damping", damping, least=0))
    return cast(Hypergradient[W, P], found)


# --- The ways. ---


def _unrolled(problem: Problem) -> Hypergradient[Any, Any]:
    weights, losses = trained(problem, keep=True)
    loss = problem.outer(weights)
    wanted = [*problem.parameters.values(), *problem.rates.values()]
    grads = torch.autograd.grad(loss, wanted, allow_unused=True) if loss.requires_grad else [None] * len(wanted)
    own = zip(problem.rates.items(), grads[len(problem.parameters) :], strict=True)
    rule_grads = {name: torch.zeros_like(p) if g is None else g for (name, p), g in own}
    return problem.result(loss, dict(zip(problem.parameters, grads, strict=False)), weights, losses, rule_grads)


def _implicit(
    problem: Problem, solve: Callable[[Product, Weights], Solution], damping: float
) -> Hypergradient[Any, Any]:
    if problem.rates:
        raise ValueError(
            f"the rule has parameters of its own, {next(iter(problem.rates))!r} among them, on which a minimum does "
            "not depend. Use method='unrolled' or 'forward', or another rule."
        )
    weights, losses = trained(problem, keep=False)
    weights, wanted = leaves_of(weights), list(problem.parameters.values())
    leaves = list(weights.values())
    outer = problem.outer(weights)
    at = torch.autograd.grad(outer, [*leaves, *wanted], allow_unused=True) if outer.requires_grad else [None]
    if all(part is None for part in at[: len(leaves)]):
        raise ValueError(
            "outer_loss does not depend on the weights. Is something detached? If nothing is, plain autograd will do."
        )
    b = {n: torch.zeros_like(w) if g is None else g for (n, w), g in zip(weights.items(), at, strict=False)}
    slopes = gradients(problem.inner(weights), weights, keep=True)

    def product(v: Weights) -> Weights:
        images = zip(v.items(), pulled(slopes, v, leaves), strict=True)
        return {name: damping * part if image is None else image + damping * part for (name, part), image in images}

    solution = solve(product, b)
    mixed = pulled(slopes, {name: -part for name, part in solution.vector.items()}, wanted)
    grads = [m if d is None else d if m is None else d + m for d, m in zip(at[len(leaves) :], mixed, strict=True)]
    slope = float(torch.cat([s.detach().flatten() for s in slopes.values()]).norm())
    named = dict(zip(problem.parameters, grads, strict=True))
    return problem.result(outer, named, weights, losses, None, solution, slope)


def _solver(method: str, steps: int, tolerance: float, rate: float | None) -> Callable[[Product, Weights], Solution]:
    """The solver of a method, which refuses what is no solution."""

    def solve(product: Product, b: Weights) -> Solution:
        if method == "neumann":
            solution = neumann_series(product, b, steps=steps, rate=rate, tolerance=tolerance)
        else:
            solution = conjugate_gradients(product, b, steps=steps, tolerance=tolerance)
        curvature, residual = float(solution.curvature), float(solution.residual)
        if not curvature > 0:
            raise ValueError(
                f"the inner loss must curve upwards at a minimum, got a curvature of {curvature:.2g} in a direction "
                "that the solver met. Train longer (steps=), penalise the weights, add damping=, or use "
                "method='unrolled'."
            )
        if method == "neumann" and not residual <= 1:
            raise ValueError(
                f"the Neumann series must come nearer with its terms, got a relative residual of {residual:.2g} after "
                f"{solution.steps}. Give a smaller rate=, or use method='implicit'."
            )
        return solution

    return solve
