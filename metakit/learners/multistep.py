"""MAML++: MAML judged after every inner step, not after the last alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from metakit.inner import Loss
from metakit.learners.common import check_losses, predict
from metakit.learners.gradient import MAML
from metakit.tasks.batch import TaskBatch


class MultiStep(nn.Module):
    """A MAML whose training loss sums the query losses after each inner step, weighted; the last counts ever more.

        loss_t = sum_k v_k L(w_k; query set t),    k = 1 .. K
        v_k = (1 - s) / K + s [k = K],    s = share of ``anneal_steps`` outer steps done, at most 1

    Each step then gets a gradient of its own, which steadies deep inner loops. With ``rule=LearnedSGD(per="tensor",
    per_step=True)`` it also learns a rate for each weight tensor and step. The weights stand still at 1 / K unless
    ``fit`` is given ``callback=learner.anneal``; they are part of the learner's state, so a resumed run goes on with
    them. The paper lowers each weight to 0.03 / K and also gives batch norm statistics and weights for each step; here
    the weights go to 0, and batch norm stays as the protocol says.

    Arguments:
        maml: the learner that adapts, with at least one inner step.
        anneal_steps: outer steps until only the last inner step counts.

    Raises:
        TypeError: if ``maml`` is another learner.
        ValueError: if it takes no inner step, or ``anneal_steps`` is not a positive whole number.

    Example:
        >>> from metakit.models import MLP
        >>> x = torch.randn(4, 10, 1)
        >>> MultiStep(MAML(MLP(1, [8], 1), steps=3))(TaskBatch(x, x.sin(), x, x.sin())).shape
        torch.Size([4])

    Source: Antoniou, Edwards and Storkey 2019, section 4 (MSL).
    """

    optimizer, lr = torch.optim.Adam, 1e-3
    step_weights: Tensor

    def __init__(self, maml: MAML, *, anneal_steps: int = 1000) -> None:
        super().__init__()
        if not isinstance(maml, MAML):
            raise TypeError(f"MultiStep weighs the inner steps of an mk.MAML, got {type(maml).__name__}.")
        if maml.steps < 1:
            raise ValueError("MultiStep needs a MAML of at least one inner step, got 0. Raise its steps.")
        if not isinstance(anneal_steps, int) or isinstance(anneal_steps, bool) or anneal_steps < 1:
            raise ValueError(f"anneal_steps must be a positive whole number of outer steps, got {anneal_steps!r}.")
        self.maml, self.anneal_steps = maml, anneal_steps
        weight = next(maml.parameters())
        share = torch.full((maml.steps,), 1 / maml.steps, dtype=weight.dtype, device=weight.device)
        self.register_buffer("step_weights", share)

    @property
    def model(self) -> nn.Module:
        return self.maml.model

    @property
    def steps(self) -> int:
        return self.maml.steps

    @property
    def protocol(self) -> str:
        return self.maml.protocol

    @property
    def loss(self) -> Loss:
        return self.maml.loss

    def anneal(self, run: Any) -> None:
        """Move weight to the last inner step: the callback of ``fit``."""
        share = min(1.0, run.step / self.anneal_steps)
        self.step_weights.fill_((1 - share) / self.steps)
        self.step_weights[-1] += share

    def forward(self, batch: TaskBatch) -> Tensor:
        _, *stepped = self.maml.outputs(batch)
        losses = torch.stack([check_losses(self.loss(outputs, batch.query_y), batch) for outputs in stepped])  # [K, T]
        return self.step_weights @ losses

    def outputs(self, batch: TaskBatch, steps: int | None = None, protocol: str | None = None) -> Iterator[Tensor]:
        """Yield the outputs for the query rows after 0, 1, ..., K inner steps, each ``[T, Q, ...]``."""
        yield from self.maml.outputs(batch, steps, protocol)

    def predict(self, support_x: Tensor, support_y: Tensor, query_x: Tensor, *, steps: int | None = None) -> Tensor:
        """Adapt to the support set and answer the query rows, each by itself (inductive); see ``predict``."""
        return predict(self, support_x, support_y, query_x, steps=steps)
