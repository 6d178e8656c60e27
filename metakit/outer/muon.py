"""Muon: an outer optimiser for networks whose weights are mostly matrices and kernels."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


class Muon(torch.optim.Optimizer):
    """Momentum whose every matrix is replaced by the nearest one that turns and mirrors only.

        M <- b M + (1 - b) G,   O = nearest orthogonal matrix of (1 - b) G + b M,   W <- (1 - lr decay) W - lr r O

    A kernel ``[O, C, k, k]`` counts as a matrix ``[O, C k k]``; r = 0.2 sqrt(longer side) gives the step the size that
    Adam's has. Parameters of fewer than two dimensions take Adam's step. ``torch.optim.Muon`` takes matrices alone.

    Arguments:
        params: parameters, or groups of them, as any ``torch.optim`` optimiser takes them.
        lr: the rate.
        momentum: b.
        decay: the weight decay, of matrices.
        betas: of Adam's two means, for the other parameters.

    Example:
        >>> weight = torch.nn.Parameter(torch.eye(3))
        >>> (weight * torch.tensor([3.0, 2.0, 1.0])).sum().backward()
        >>> Muon([weight], lr=0.1).step()

    Source: Jordan et al. 2024, "Muon"; the size of the step and the decay, Liu et al. 2025, section 2.2.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-2,
        *,
        momentum: float = 0.95,
        decay: float = 0.01,
        betas: tuple[float, float] = (0.9, 0.99),
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "decay": decay, "betas": betas})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step by the gradients at hand."""
        for group in self.param_groups:
            alike: dict[Any, list[Tensor]] = {}
            for p in group["params"]:
                if p.grad is not None and p.dim() > 1:
                    alike.setdefault((p.flatten(1).shape, p.device, p.dtype), []).append(p)
                elif p.grad is not None:
                    self._adam(p, p.grad, group)
            for matrices in alike.values():
                self._turn(matrices, group)

    def _turn(self, matrices: list[Tensor], group: dict[str, Any]) -> None:
        """A step of matrices of one shape, all at once."""
        grads = [p.grad for p in matrices if p.grad is not None]
        means = [self.state[p].setdefault("mean", torch.zeros_like(p)) for p in matrices]
        torch._foreach_lerp_(means, grads, 1 - group["momentum"])
        ahead = torch._foreach_lerp(grads, means, group["momentum"])
        moves = orthogonal(torch.stack([move.flatten(1) for move in ahead]))
        rate = 0.2 * group["lr"] * max(moves.shape[1:]) ** 0.5
        torch._foreach_mul_(matrices, 1 - group["lr"] * group["decay"])
        torch._foreach_add_(matrices, [move.view_as(p) for move, p in zip(moves, matrices, strict=True)], alpha=-rate)

    def _adam(self, p: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        state, (b1, b2) = self.state[p], group["betas"]
        k = state["steps"] = state.get("steps", 0) + 1
        mean = state.setdefault("mean", torch.zeros_like(p)).lerp_(grad, 1 - b1)
        square = state.setdefault("square", torch.zeros_like(p)).lerp_(grad.square(), 1 - b2)
        p.addcdiv_(mean / (1 - b1**k), (square / (1 - b2**k)).sqrt() + 1e-8, value=-group["lr"])


def orthogonal(matrices: Tensor, rounds: int = 5) -> Tensor:
    """About ``U V'`` of matrices ``U S V'``, ``[..., m, n]``: an odd polynomial, again and again, brings S near 1."""
    x = matrices.bfloat16() if matrices.is_cuda else matrices  # half the bits are twice as slow on most processors
    x = x.mT if x.shape[-2] > x.shape[-1] else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(rounds):
        squares = x @ x.mT
        x = 3.4445 * x + (2.0315 * squares @ squares - 4.7750 * squares) @ x
    return (x.mT if matrices.shape[-2] > matrices.shape[-1] else x).to(matrices.dtype)
