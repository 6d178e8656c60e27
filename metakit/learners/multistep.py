"""MAML++: MAML judged after every inner step, not after the last alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from metakit.checks import in_words, whole
from metakit.learners.common import Supervised
from metakit.learners.gradient import MAML
from metakit.saving import saved
from metakit.tasks.batch import TaskBatch


@saved
class MultiStep(Supervised):
    """A MAML whose training loss sums the query losses after each inner step, weighted; the last counts ever more.

        loss_t = sum_k v_k L(w_k; query set t),    k = 1 .. K
        v_k = (1 - s) / K + s [k = K],    s = share of ``anneal_steps`` outer steps done, at most 1

    Each step then gets a gradient of its own, which steadies deep inner loops. With ``rule=LearnedSGD(per="tensor",
    per_step=True)`` it also learns a rate for each weight tensor and step. The weights are moved by the outer loop, and
    are part of the learner's state, so a resumed run goes on with them. The paper lowers each weight to 0.03 / K and
    also gives batch norm statistics and weights for each step; here the weights go to 0, and batch norm stays as the
    protocol says.

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

    step_weights: Tensor

    def __init__(self, maml: MAML, *, anneal_steps: int = 1000) -> None:
        if not isinstance(maml, MAML):
            raise TypeError(f"MultiStep weighs the inner steps of an mk.MAML, got {type(maml).__name__}.")
        if maml.steps < 1:
            raise ValueError("MultiStep needs a MAML of at least one inner step, got 0. Raise its steps.")
        super().__init__(maml.loss, maml.protocol, maml.steps)
        message = f"anneal_steps must be a positive whole number of outer steps, got {anneal_steps!r}."
        self.maml, self.anneal_steps = maml, in_words(message, lambda: whole("anneal_steps", anneal_steps))
        weight = next(maml.parameters())
        share = torch.full((maml.steps,), 1 / maml.steps, dtype=weight.dtype, device=weight.device)
        self.register_buffer("step_weights", share)

    @property
    def model(self) -> nn.Module:
        return self.maml.model

    @property
    def network(self) -> nn.Module:
        return self.maml.model

    def pace(self, step: int) -> None:
        """Move weight to the last inner step, so many outer steps into a run."""
        share = min(1.0, step / self.anneal_steps)
        self.step_weights.fill_((1 - share) / self.steps)
        self.step_weights[-1] += share

    def anneal(self, run: Any) -> None:
        """``pace`` as a callback of ``fit``, which calls it by itself."""
        self.pace(run.step)

    def forward(self, batch: TaskBatch) -> Tensor:
        _, *stepped = self.maml.outputs(batch)
        return self.step_weights @ torch.stack([self.query_losses(outputs, batch) for outputs in stepped])  # [K] [K, T]

    def outputs(self, batch: TaskBatch, steps: int | None = None, protocol: str | None = None) -> Iterator[Tensor]:
        yield from self.maml.outputs(batch, steps, protocol)

    def know(self, batch: TaskBatch, steps: int | None) -> Any:
        return self.maml.know(batch, steps)

    def answer(self, known: Any, batch: TaskBatch, protocol: str) -> Tensor:
        return self.maml.answer(known, batch, protocol)
