"""Forward mode: tangents of the weights, one for each number in the parameters, carried along the inner steps."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from metakit.contracts import InnerStep, Weights
from metakit.inner.problem import Hypergradient, Problem, check_finite, leaves_of

_MOST = 100  # numbers that a tangent is carried for


def forward(problem: Problem) -> Hypergradient[Any, Any]:
    """The hypergradient by forward mode: exact, as by unrolling, and with as much memory for any number of steps."""
    inputs = [*problem.parameters.values(), *problem.rates.values()]
    directions = _directions(inputs)
    weights, losses, used = problem.start, [], [False] * len(problem.parameters)
    names, rates = list(weights), [p.detach() for p in problem.rates.values()]

    def begin(*rates: Tensor) -> list[Tensor]:
        return _opened(problem.rule(dict(zip(problem.rates, rates, strict=True))).init_state(weights))[0]

    state = problem.rule(problem.rates).init_state(leaves_of(weights))
    still, push = [torch.zeros_like(w) for w in weights.values()], _linearised(begin, rates)
    carried = [[*still, *push(d[len(problem.parameters) :])] for d in directions]
    for k in range(problem.steps):
        weights = leaves_of(weights)
        loss, slopes, primals = _at(problem, weights)
        used = [known or slope is not None for known, slope in zip(used, slopes[len(names) :], strict=True)]
        opened, closed = _opened(state)
        push = _linearised(functools.partial(_moved, problem, k, names, closed), [*primals, *rates, *opened])
        leaves = list(weights.values())
        carried = [
            push(_tangents(slopes, loss, leaves, direction, tangent))
            for direction, tangent in zip(directions, carried, strict=True)
        ]
        with torch.no_grad():
            grads = dict(zip(names, primals[len(names) :], strict=False))
            now = InnerStep(weights, grads, loss[None], k, problem.steps)
            weights, state = problem.rule(problem.rates).step(now, state)
        losses.append(loss.detach())
    check_finite(weights, losses)
    return _gathered(problem, weights, losses, used, directions, carried)


def _directions(inputs: list[Tensor]) -> list[list[Tensor]]:
    """One direction for each number in the inputs: 1 there, 0 at all others."""
    count = sum(p.numel() for p in inputs)
    if count > _MOST:
        raise ValueError(
            f"forward mode carries a tangent of the weights for every number in the parameters, {_MOST} at most, got "
            f"{count}. Use method='implicit', or 'unrolled'."
        )
    sizes, shapes = [p.numel() for p in inputs], [p.shape for p in inputs]
    rows = torch.eye(count, dtype=inputs[0].dtype, device=inputs[0].device)
    return [
        [part.view(shape).to(p) for part, shape, p in zip(row.split(sizes), shapes, inputs, strict=True)]
        for row in rows
    ]


def _at(problem: Problem, weights: Weights) -> tuple[Tensor, list[Tensor | None], list[Tensor]]:
    """The inner loss; its gradient for weights and parameters, to be differentiated; weights, gradients and loss."""
    loss, leaves = problem.inner(weights), list(weights.values())
    wanted = [*leaves, *problem.parameters.values()]
    slopes: list[Tensor | None] = [*torch.autograd.grad(loss, wanted, create_graph=True, allow_unused=True)]
    grads = [torch.zeros_like(w) if s is None else s.detach() for s, w in zip(slopes, leaves, strict=False)]
    return loss, slopes, [*(w.detach() for w in leaves), *grads, loss.detach()]


def _tangents(
    slopes: list[Tensor | None], loss: Tensor, leaves: list[Tensor], direction: list[Tensor], carried: list[Tensor]
) -> list[Tensor]:
    """Of all that a step of the rule is told: weights, gradients, loss, the rule's own parameters and its state.

    The Hessian is symmetric, so the tangent of the gradient is the gradient of the loss's change along the tangent.
    """
    n, held = len(leaves), len(slopes) - len(leaves)
    along = [*carried[:n], *direction[:held]]
    pairs = [(s, t) for s, t in zip(slopes, along, strict=True) if s is not None]
    change = sum(((s.detach() * t).sum() for s, t in pairs), loss.new_zeros(()))
    pairs = [(s, t) for s, t in pairs if s.requires_grad]
    turned = [torch.zeros_like(w) for w in leaves]
    if pairs:
        ends, sides = zip(*pairs, strict=True)
        turned = list(torch.autograd.grad(ends, leaves, sides, retain_graph=True, materialize_grads=True))
    return [*carried[:n], *turned, change, *direction[held:], *carried[n:]]


def _moved(problem: Problem, k: int, names: list[str], closed: Callable[..., Any], *told: Tensor) -> list[Tensor]:
    """The weights and the tensors of the state after a step of the rule, from those before."""
    n, held = len(names), len(problem.rates)
    weights, grads = dict(zip(names, told, strict=False)), dict(zip(names, told[n:], strict=False))
    rates, state = dict(zip(problem.rates, told[2 * n + 1 :], strict=False)), closed(told[2 * n + 1 + held :])
    now = InnerStep(weights, grads, told[2 * n][None], k, problem.steps)
    after, state = problem.rule(rates).step(now, state)
    return [*(after[name] for name in names), *_opened(state)[0]]


def _linearised(function: Callable[..., list[Tensor]], at: list[Tensor]) -> Callable[[list[Tensor]], list[Tensor]]:
    """The tangents of what a function returns, from those of its arguments: its derivative there, applied.

    Backwards twice: ``u -> J'u`` is linear, and its own derivative is J. Unlike forward differentiation in torch, that
    asks for nothing that the other methods do not ask for.
    """
    leaves = [t.detach().requires_grad_() for t in at]
    outputs = function(*leaves)
    ends = [i for i, output in enumerate(outputs) if output.requires_grad]
    sides = [torch.zeros_like(outputs[i], requires_grad=True) for i in ends]
    back: Sequence[Tensor | None] = [None] * len(leaves)
    if ends:
        back = torch.autograd.grad([outputs[i] for i in ends], leaves, sides, create_graph=True, allow_unused=True)

    def push(tangents: list[Tensor]) -> list[Tensor]:
        found = [torch.zeros_like(output) for output in outputs]
        pairs = [(g, t) for g, t in zip(back, tangents, strict=True) if g is not None and g.requires_grad]
        if pairs:
            starts, along = zip(*pairs, strict=True)
            pushed = torch.autograd.grad(starts, sides, along, retain_graph=True, materialize_grads=True)
            for i, tangent in zip(ends, pushed, strict=True):
                found[i] = tangent
        return found

    return push


def _opened(state: Any) -> tuple[list[Tensor], Callable[..., Any]]:
    """The real tensors in a rule's state, and what puts others in their places."""
    leaves, form = tree_flatten(state)
    places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
    for leaf in leaves:
        if hasattr(leaf, "__dict__") and not isinstance(leaf, Tensor):
            raise TypeError(
                "forward mode needs a rule whose state is tensors and numbers in dictionaries, lists and tuples, got "
                f"{type(leaf).__name__}. Use method='unrolled'."
            )

    def closed(tensors: Sequence[Tensor]) -> Any:
        filled = dict(zip(places, tensors, strict=True))
        return tree_unflatten([filled.get(i, leaf) for i, leaf in enumerate(leaves)], form)

    return [leaves[i] for i in places], closed


def _gathered(
    problem: Problem,
    weights: Weights,
    losses: list[Tensor],
    used: list[bool],
    directions: list[list[Tensor]],
    carried: list[list[Tensor]],
) -> Hypergradient[Any, Any]:
    """The gradient from the tangents of the weights reached."""
    weights, parameters = leaves_of(weights), problem.parameters
    loss, wanted = problem.outer(weights), [*weights.values(), *parameters.values()]
    at = torch.autograd.grad(loss, wanted, allow_unused=True) if loss.requires_grad else [None] * len(wanted)
    n, numbers = len(weights), []
    for direction, tangent in zip(directions, carried, strict=True):
        along = zip(at, [*tangent[:n], *direction[: len(parameters)]], strict=True)
        numbers.append(sum(((g * t).sum() for g, t in along if g is not None), loss.new_zeros(())).detach())
    inputs = [*parameters.values(), *problem.rates.values()]
    parts = torch.stack(numbers).split([p.numel() for p in inputs])
    shaped = [part.view(p.shape).to(p.dtype) for part, p in zip(parts, inputs, strict=True)]
    plays = [known or direct is not None for known, direct in zip(used, at[n:], strict=True)]
    grads = {name: g if play else None for name, g, play in zip(parameters, shaped, plays, strict=False)}
    rule_grads = dict(zip(problem.rates, shaped[len(parameters) :], strict=True))
    return problem.result(loss, grads, weights, losses, rule_grads)
