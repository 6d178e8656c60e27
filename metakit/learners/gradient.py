"""Learners whose inner loop takes gradient steps: MAML with its variants, and Reptile."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from metakit.checks import whole
from metakit.contracts import Loss, Rule, Weights
from metakit.inner import adapt, adaptable, prepared, trajectory, unfrozen
from metakit.learners.chunks import in_chunks
from metakit.learners.common import (
    Supervised,
    by_protocol,
    check_batch,
    check_is_batch,
    check_outputs,
    check_steps,
    chunk_size,
)
from metakit.nn.lending import Functional, check_network, stacked
from metakit.saving import saved
from metakit.tasks.batch import TaskBatch


@saved(adapt="adapted")
class MAML(Supervised):
    """Model-agnostic meta-learning: learn the initial weights from which a few inner steps go a long way.

        w_t = U_K(w; support set t),    loss_t = L(w_t; query set t)

    U_K is K steps of ``rule``; the meta-gradient of the mean loss goes through all of them (``order=2``), or takes the
    inner gradients for constants (``order=1``, first-order MAML). ``adapt="head"`` makes it ANIL and
    ``rule=LearnedSGD()`` Meta-SGD. Frozen parameters (``requires_grad=False``) stay where they are, inside and outside.

    Arguments:
        model: the base learner, an ``nn.Module``; layers of ``metakit.nn`` run all tasks at once, others one by one.
        rule: the inner rule; ``SGD(lr=0.01)`` is the sinusoid setting of the paper.
        steps: inner steps K.
        order: 2 or 1.
        adapt: name or names of the layers to adapt; all of them when left out.
        loss: one number per task, ``(outputs, targets) -> [T]``, or one for all it is given, as torch's losses; by the
            target's dtype when left out, see ``task_loss``.
        inner_loss: the loss on the support set; ``loss`` when left out.
        minibatch: support rows in an inner step, about; all of them when left out. See ``trajectory``.
        protocol: how batch norm treats the query set in training, ``"transductive"`` (normalised together, as in the
            paper) or ``"inductive"`` (each row by itself, with the support set's statistics). Without batch norm both
            are the same.

    Raises:
        ValueError: if an option is out of its range or the model cannot be adapted exactly (the layer is named).

    Example:
        >>> from metakit.models import MLP
        >>> x = torch.randn(4, 10, 1)
        >>> MAML(MLP(1, [8], 1), steps=2)(TaskBatch(x, x.sin(), x, x.sin())).shape
        torch.Size([4])

    Source: Finn, Abbeel and Levine 2017, algorithm 2; ANIL, Raghu et al. 2020; Meta-SGD, Li et al. 2017.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        rule: Rule | None = None,
        steps: int = 1,
        order: int = 2,
        adapt: str | Iterable[str] | None = None,
        loss: Loss | None = None,
        inner_loss: Loss | None = None,
        minibatch: int | None = None,
        protocol: str = "transductive",
    ) -> None:
        check_network(model)
        if order not in (1, 2):
            raise ValueError(f"order must be 2 (exact meta-gradient) or 1 (first-order MAML), got {order!r}.")
        super().__init__(loss, protocol, steps)
        self.model, self.order, self.inner_loss = model, int(order), inner_loss
        self.minibatch = None if minibatch is None else whole("minibatch", minibatch)
        self.adapted = tuple(adaptable(model, adapt))
        self.rule = prepared(rule, self.initial, self.steps)

    @property
    def network(self) -> nn.Module:
        return self.model

    @property
    def initial(self) -> dict[str, nn.Parameter]:
        """The learned initial weights of the layers that adapt."""
        named = dict(self.model.named_parameters())
        return unfrozen({name: named[name] for name in self.adapted})

    def adapt(self, batch: TaskBatch, steps: int | None = None) -> Weights:
        """The weights adapted to each task's support set, stacked, frozen ones as they are: ``{name: [T, ...]}``."""
        network, start = self._lent(batch), stacked(self.initial, len(batch))
        adapted = adapt(network, start, *batch.tensors[:2], **self.inner(batch, steps))
        named = dict(self.model.named_parameters())
        return stacked({name: named[name] for name in self.adapted if name not in adapted}, len(batch)) | adapted

    know = adapt

    def answer(self, known: Weights, batch: TaskBatch, protocol: str) -> Tensor:
        return by_protocol(self._lent(batch), known, batch, protocol)[1]

    def judge(self, weights: Weights, batch: TaskBatch) -> Tensor:
        """The query loss of each task under weights of its own, ``[T]``."""
        return self.query_losses(self.answer(weights, batch, self.protocol), batch)

    def forward(self, batch: TaskBatch) -> Tensor:
        network, initial = self._lent(batch), self.initial
        weights = adapt(network, stacked(initial, len(batch)), *batch.tensors[:2], **self.inner(batch))
        learned_loss = isinstance(self.loss, nn.Module) and any(True for _ in self.loss.parameters())
        size = None if learned_loss else chunk_size(batch.query_x)
        if size is None or size >= len(batch):
            return self.query_losses(by_protocol(network, weights, batch, self.protocol)[1], batch)
        shared = {name: p for name, p in self.model.named_parameters() if p.requires_grad and name not in initial}

        def judge(piece: slice, weights: Weights) -> Tensor:
            tasks = batch[piece]
            return self.query_losses(by_protocol(network, weights, tasks, self.protocol)[1], tasks)

        return in_chunks(judge, weights, shared, size)

    def outputs(self, batch: TaskBatch, steps: int | None = None, protocol: str | None = None) -> Iterator[Tensor]:
        network, start = self._lent(batch), stacked(self.initial, len(batch))
        for adapted in trajectory(network, start, *batch.tensors[:2], **self.inner(batch, steps)):
            yield by_protocol(network, adapted, batch, protocol or self.protocol)[1]

    def inner(self, batch: TaskBatch, steps: int | None = None) -> dict[str, Any]:
        """The options of its inner loop for a batch."""
        return {
            "rule": self.rule,
            "steps": self.steps if steps is None else check_steps(steps),
            "order": self.order,
            "loss": self.inner_loss or self.loss,
            "mask": batch.support_mask,
            "minibatch": self.minibatch,
        }

    def tasks_at_once(self, batch: TaskBatch, *, training: bool) -> int | None:
        """In training as many as their support sets allow: query sets are judged a few at a time there."""
        return chunk_size(batch.support_x) if training else super().tasks_at_once(batch, training=False)

    def _lent(self, batch: TaskBatch) -> Functional:
        check_batch(self.model, batch)
        check_outputs(self.model, batch)
        return Functional(self.model)


@saved
class Reptile(Supervised):
    """Move the initial weights towards where training on each task ends; no gradient goes through the inner loop.

        w_t = U_K(w; all rows of task t),    w <- w + epsilon mean_t (w_t - w)

    The outer step is plain SGD with ``lr = epsilon`` on the surrogate ``|w - w_t|^2 / 2``, so that it runs in the same
    outer loop; the value returned is the loss at w_t. It needs no split: training uses support and query rows alike.

    Arguments and errors: as ``MAML``.

    Example:
        >>> from metakit.models import MLP
        >>> x = torch.randn(4, 10, 1)
        >>> Reptile(MLP(1, [8], 1), steps=3)(TaskBatch(x, x.sin(), x, x.sin())).shape
        torch.Size([4])

    Source: Nichol, Achiam and Schulman 2018, algorithm 2.
    """

    outer_optimizer, outer_lr = torch.optim.SGD, 0.1

    def __init__(
        self,
        model: nn.Module,
        *,
        rule: Rule | None = None,
        steps: int = 5,
        loss: Loss | None = None,
        minibatch: int | None = None,
        protocol: str = "transductive",
    ) -> None:
        super().__init__(loss, protocol, steps)
        self.inner = MAML(model, rule=rule, steps=steps, order=1, loss=loss, minibatch=minibatch, protocol=protocol)
        if any(True for _ in self.inner.rule.parameters()):
            raise ValueError("Reptile learns initial weights only; a rule with parameters of its own needs MAML.")

    @property
    def model(self) -> nn.Module:
        return self.inner.model

    @property
    def network(self) -> nn.Module:
        return self.inner.model

    @property
    def rule(self) -> Any:
        return self.inner.rule

    @property
    def minibatch(self) -> int | None:
        return self.inner.minibatch

    def forward(self, batch: TaskBatch) -> Tensor:
        with torch.no_grad():
            rows = both_sides(batch)
            adapted = self.inner.adapt(rows)
            outputs = Functional(self.model)(adapted, rows.support_x, rows.support_mask)
            value = self.query_losses(outputs, rows)
        initial = self.inner.initial
        moves = [(initial[name] - adapted[name]).square().flatten(1).sum(1) for name in initial]  # [T] for each tensor
        distance = torch.stack(moves).sum(0) / 2
        return value + (distance - distance.detach())

    def outputs(self, batch: TaskBatch, steps: int | None = None, protocol: str | None = None) -> Iterator[Tensor]:
        yield from self.inner.outputs(batch, steps, protocol)

    def know(self, batch: TaskBatch, steps: int | None) -> Weights:
        return self.inner.know(batch, steps)

    def answer(self, known: Weights, batch: TaskBatch, protocol: str) -> Tensor:
        return self.inner.answer(known, batch, protocol)


def both_sides(batch: TaskBatch) -> TaskBatch:
    """Tasks whose support set, and whose query set, are all rows of the given ones."""
    check_is_batch(batch)
    x, y = torch.cat([batch.support_x, batch.query_x], 1), torch.cat([batch.support_y, batch.query_y], 1)
    mask = None
    if batch.support_mask is not None or batch.query_mask is not None:
        sides = (batch.support_mask, batch.support_y), (batch.query_mask, batch.query_y)
        full = [torch.ones(y.shape[:2], dtype=torch.bool, device=y.device) if m is None else m for m, y in sides]
        mask = torch.cat(full, 1)
    return TaskBatch.trusted(x, y, x, y, ways=batch.ways, support_mask=mask, query_mask=mask)
