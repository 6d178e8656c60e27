"""Estimators: how the meta-gradient of a batch is got. Directly, by autograd; others are called alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from metakit.contracts import Batch, Estimate, Learner, losses_of


def direct(learner: Learner, parameters: Mapping[str, Tensor], batch: Batch, carry: Any) -> Estimate:
    """The gradient of the mean loss over the tasks of a batch, by autograd, exactly.

        grad_w mean_t loss_t(w)

    Raises:
        ValueError: if the learner does not give one loss per task.

    Example:
        >>> import metakit as mk
        >>> learner = mk.MAML(mk.models.MLP(1, [], 1))
        >>> found = direct(learner, dict(learner.named_parameters()), mk.tasks.Sinusoids().sample(4), None)
        >>> [grad.shape for grad in found.grads]
        [torch.Size([1, 1]), torch.Size([1])]
    """
    with torch.enable_grad():
        losses = losses_of(learner, batch)
        loss = losses.mean()
        grads = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    found = [grad.detach() for grad in grads if grad is not None]
    size = torch.stack(torch._foreach_norm(found)).sum() if found else None
    return Estimate(loss.detach(), grads, size=size, diverged=diverged(learner, losses))


def diverged(learner: Any, losses: Tensor) -> Tensor | None:
    """How many of the tasks reached the greatest loss, of a learner that has one."""
    return (losses.detach() >= learner.cap).sum() if hasattr(learner, "cap") else None
