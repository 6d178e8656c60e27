"""Linear systems H v = b of which only the products of H with a vector are known, for all tasks at once.

A vector is a dictionary of stacked tensors, ``{name: [T, ...]}``; H is symmetric and has a block for each of the T
tasks, so that a single call of ``product`` multiplies all of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from metakit.checks import real, whole
from metakit.contracts import Weights

Product = Callable[[Weights], Weights]


@dataclasses.dataclass(frozen=True)
class Solution:
    """What a solver found.

    Arguments:
        vector: v, of the names and shapes of b.
        residual: ``|b - H v| / |b|`` of each task, ``[T]``, as the solver reckons it on its way.
        curvature: the least ``p'Hp / p'p`` of each task among the directions met, ``[T]``; not positive: H is not
            positive definite, and no minimum lies there. Infinite if no direction was looked at.
        steps: products that were taken, those of a search for a rate left out.
    """

    vector: Weights
    residual: Tensor
    curvature: Tensor
    steps: int


def conjugate_gradients(product: Product, b: Weights, *, steps: int = 100, tolerance: float = 0.0) -> Solution:
    """Solve H v = b for a positive definite H by conjugate gradients, each task with step sizes of its own.

        x <- x + a p,   r <- r - a H p,   p <- r + (r'r / r'r before) p,   with a = r'r / p'Hp

    A task that meets a direction without positive curvature keeps what it has by then, b itself if that is the very
    first one, which makes it the step of steepest descent; ``Solution.curvature`` tells.

    Arguments:
        product: v to H v, task by task.
        b: the right side, ``{name: [T, ...]}``.
        steps: steps at most. In exact arithmetic as many as there are different eigenvalues are enough.
        tolerance: a task is done when its residual is that small; if it is 0, all steps are taken, and no number has
            to be read from a GPU on the way.

    Example:
        >>> scale = torch.tensor([[1.0, 4.0]])
        >>> conjugate_gradients(lambda v: {"w": scale * v["w"]}, {"w": torch.tensor([[1.0, 2.0]])}, steps=2).vector
        {'w': tensor([[1.0000, 0.5000]])}

    Source: Hestenes and Stiefel 1952; stopped at a direction of negative curvature, Steihaug 1983.
    """
    whole("steps", steps, least=0)
    right = _flat(b)
    x, r, p = torch.zeros_like(right), right, right  # [T, D]
    first = square = _dots(r, r)  # [T]
    enough = first * _square_of(tolerance, right)
    going, least, taken = square > 0, torch.full_like(square, torch.inf), 0
    for k in range(steps):
        if tolerance and not bool(going.any()):
            break
        taken = k + 1
        image = _flat(product(_like(p, b)))
        curve = _dots(p, image)
        least = torch.where(going, torch.minimum(least, curve / _dots(p, p)), least)
        size = torch.where(curve > 0, square / curve, float(k == 0))
        size = torch.where(going, size, 0)[:, None]
        x, r = x + size * p, r - size * image
        after = _dots(r, r)
        going = going & (curve > 0)
        p = r + torch.where(going, after / square, 0)[:, None] * p
        square = after
        going = going & (square > enough)
    residual = torch.where(first > 0, (square / first).sqrt(), 0)
    return Solution(_like(x, b), residual, least, taken)


def neumann_series(
    product: Product,
    b: Weights,
    *,
    steps: int = 100,
    rate: float | Tensor | None = None,
    tolerance: float = 0.0,
) -> Solution:
    """Solve H v = b by the first terms of the Neumann series, which converges for ``0 < rate < 2 / largest curvature``.

        v = rate (b + (I - rate H) b + (I - rate H)^2 b + ...)

    Arguments:
        product, b, tolerance: as in ``conjugate_gradients``.
        steps: terms at most.
        rate: one for all tasks, or ``[T]``; 1 / ``largest_curvature`` when left out.

    Example:
        >>> scale = torch.tensor([[1.0, 4.0]])
        >>> b = {"w": torch.tensor([[1.0, 2.0]])}
        >>> neumann_series(lambda v: {"w": scale * v["w"]}, b, steps=60, rate=0.25).vector
        {'w': tensor([[1.0000, 0.5000]])}

    Source: Lorraine, Vicol and Duvenaud 2020, algorithm 3.
    """
    whole("steps", steps, least=0)
    if rate is None:
        rate = 1 / largest_curvature(product, b)
    elif not isinstance(rate, Tensor):
        rate = real("rate", rate, above=0.0)
    term = _flat(b)
    rates = torch.as_tensor(rate, dtype=term.dtype, device=term.device).expand(len(term))[:, None]  # [T, 1]
    total, first = torch.zeros_like(term), _dots(term, term)
    square, enough = first, first * _square_of(tolerance, term)
    least, taken = torch.full_like(first, torch.inf), 0
    for k in range(steps):
        if tolerance and not bool((square > enough).any()):
            break
        taken = k + 1
        total = total + term
        image = _flat(product(_like(term, b)))
        least = torch.where(square > 0, torch.minimum(least, _dots(term, image) / square), least)
        term = term - rates * image  # what is left, b - H v, is the next term
        square = _dots(term, term)
    residual = torch.where(first > 0, (square / first).sqrt(), 0)
    return Solution(_like(rates * total, b), residual, least, taken)


def largest_curvature(product: Product, b: Weights, *, steps: int = 20) -> Tensor:
    """The largest eigenvalue of H, ``[T]``, by power iterations from b: a little too small rather than too large.

    Example:
        >>> scale = torch.tensor([[1.0, 4.0]])
        >>> largest_curvature(lambda v: {"w": scale * v["w"]}, {"w": torch.tensor([[1.0, 2.0]])})
        tensor([4.])

    Source: von Mises and Pollaczek-Geiringer 1929.
    """
    vector = _flat(b)
    length = torch.ones_like(vector[:, :1])
    for _ in range(whole("steps", steps)):
        vector = _flat(product(_like(vector / vector.norm(dim=1, keepdim=True).clamp(min=_tiny(vector)), b)))
        length = vector.norm(dim=1, keepdim=True)
    return length[:, 0].clamp(min=_tiny(vector))


def pulled(slopes: Weights, v: Weights, wanted: Sequence[Tensor]) -> list[Tensor | None]:
    """``sum v (d slope / d wanted)`` for each tensor wanted, ``None`` where nothing depends on it.

    With respect to the weights that the slopes are of, it is the product of the Hessian with v. The slopes keep their
    graph.

    Example:
        >>> w = torch.ones(1, 2, requires_grad=True)
        >>> slopes = {"w": torch.autograd.grad((w**3).sum(), w, create_graph=True)[0]}
        >>> pulled(slopes, {"w": torch.tensor([[1.0, 2.0]])}, [w])
        [tensor([[ 6., 12.]])]

    Source: Pearlmutter 1994.
    """
    pairs = [(slope, v[name]) for name, slope in slopes.items() if slope.requires_grad]
    if not pairs:
        return [None] * len(wanted)
    ends, sides = zip(*pairs, strict=True)
    return list(torch.autograd.grad(ends, list(wanted), sides, retain_graph=True, allow_unused=True))


def _square_of(tolerance: float, like: Tensor) -> float:
    """The square of the tolerance, which is no smaller than the rounding of the numbers."""
    tolerance = real("tolerance", tolerance, least=0.0)
    return max(tolerance, torch.finfo(like.dtype).eps) ** 2 if tolerance else 0.0


def _tiny(like: Tensor) -> float:
    return float(torch.finfo(like.dtype).tiny)


def _flat(vectors: Weights) -> Tensor:
    """One row for each task: ``{name: [T, ...]}`` to ``[T, D]``."""
    return torch.cat([v.reshape(len(v), -1) for v in vectors.values()], 1)


def _like(rows: Tensor, vectors: Weights) -> Weights:
    """``[T, D]`` in the shapes of the vectors."""
    parts = rows.split([v[0].numel() for v in vectors.values()], 1)
    return {name: part.reshape(v.shape) for (name, v), part in zip(vectors.items(), parts, strict=True)}


def _dots(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(1)
