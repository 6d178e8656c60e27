"""Two weights, two tasks: the outer loss as a surface, and what two gradients make of it."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class Surface:
    """The outer loss of T quadratic tasks over two weights, and what two gradients make of it.

    Arguments:
        axis: values of either weight, ``[G]``.
        loss: outer loss, ``[G, G]``; the first weight runs along the columns.
        curvature: of each task along each weight, ``[T, 2]``.
        centres: the best weights of each task, ``[T, 2]``.
        inner_lr: the inner rate.
        exact: meta-gradient at the start, ``[2]``.
        first_order: the same without its Hessian term, ``[2]``.
        exact_path: weights after 0, 1, ..., N outer steps along ``-exact``, ``[N + 1, 2]``.
        first_order_path: the same along ``-first_order``.
        start_loss, exact_loss, first_order_loss: the outer loss at the start and at the end of either path.
    """

    axis: Tensor
    loss: Tensor
    curvature: Tensor
    centres: Tensor
    inner_lr: float
    exact: Tensor
    first_order: Tensor
    exact_path: Tensor
    first_order_path: Tensor
    start_loss: float
    exact_loss: float
    first_order_loss: float

    @property
    def angle(self) -> float:
        """Degrees between the two gradients; NaN where one of them vanishes."""
        lengths = self.exact.norm() * self.first_order.norm()
        cosine = (self.exact @ self.first_order) / lengths if lengths > 1e-12 else torch.tensor(math.nan)
        return math.degrees(math.acos(min(1.0, max(-1.0, float(cosine))))) if cosine.isfinite() else math.nan

    @property
    def uphill(self) -> bool:
        """Whether a step of first order would raise the outer loss however short it is."""
        return float(self.exact @ self.first_order) < 0

    def pull(self, curvature: Tensor) -> tuple[Tensor, Tensor]:
        """How strongly the exact gradient and that of first order pull towards a task of curvature a.

        The one is ``a (1 - lr a)^2``, the other ``a (1 - lr a)``; without adaptation it would be ``a``.
        """
        left = 1 - self.inner_lr * curvature
        return curvature * left.square(), curvature * left

    def __str__(self) -> str:
        if math.isnan(self.angle):
            return "one of the two gradients is zero here: move the start."
        way = "uphill" if self.uphill else "downhill"
        ends = f"{self.exact_loss:.3f} along the exact one, " + (
            f"{self.first_order_loss:.3f} along the other."
            if self.first_order_loss < 100
            else "and the other runs away."
        )
        return (
            f"the gradients differ by {self.angle:.0f} degrees; first order points {way}. "
            f"Outer loss {self.start_loss:.3f} at the start, {ends}"
        )
