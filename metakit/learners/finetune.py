"""The baseline of practice: train one network on everything, then fine-tune it on each new task."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from metakit.inner import Loss, Weights, adaptable, check_model, run, stacked, task_loss, trajectory
from metakit.learners.common import check_batch, check_losses, check_protocol, check_steps, predict
from metakit.learners.gradient import answer, prepared
from metakit.tasks.batch import TaskBatch


class FineTune(nn.Module):
    """Ordinary training on all tasks at once, then gradient steps on the support set of each new task.

        training:  loss_t = L(w; all rows of task t), nothing adapts
        new task:  w_t = U_K(w; support set t); in classification with a new head, which starts at zero

    Real targets: the model learns to answer all tasks at once, and adapts from there. Classes: the model's head tells
    all training classes apart, so it needs tasks that number a class alike every time, ``mk.tasks.Pooled(data)``;
    from ``Episodes``, which number classes anew in each task, there is nothing to learn. Give ``fit`` episodes as
    ``validation``: there, and in ``evaluate`` and ``predict``, it is fine-tuned.

    Arguments:
        model: a network whose last layer is called ``head``, as those of ``metakit.models``.
        rule: the inner rule for a new task; ``SGD(lr=0.01)`` when left out.
        steps: inner steps K.
        adapt: layers that adapt, the head among them; all of them when left out.
        loss: ``(outputs, targets) -> [T]``; by the target's dtype when left out, see ``task_loss``.
        protocol: how batch norm treats the query set of a new task, as in ``MAML``.

    Raises:
        ValueError: if no head adapts, or it is trained on tasks of another number of classes than its head has.

    Example:
        >>> from metakit.models import MLP
        >>> x = torch.randn(4, 10, 1)
        >>> FineTune(MLP(1, [8], 1), steps=3)(TaskBatch(x, x.sin(), x, x.sin())).shape
        torch.Size([4])

    Source: the baseline of Chen, Liu, Kira, Wang and Huang 2019, section 3.2; on curves, Finn et al. 2017, section 5.1.
    """

    optimizer, lr = torch.optim.Adam, 1e-3

    def __init__(
        self,
        model: nn.Module,
        *,
        rule: Any = None,
        steps: int = 10,
        adapt: str | Iterable[str] | None = None,
        loss: Loss | None = None,
        protocol: str = "inductive",
    ) -> None:
        super().__init__()
        check_model(model)
        self.model, self.loss = model, loss or task_loss
        self.steps, self.protocol = check_steps(steps), check_protocol(protocol)
        self.adapted = tuple(adaptable(model, adapt))
        if "head.weight" not in self.adapted:
            raise ValueError("a new task needs a new head: the model must have a layer 'head', and it must adapt.")
        named = dict(model.named_parameters())
        self.rule = prepared(rule, {name: named[name] for name in self.adapted}, steps)
        if any(True for _ in self.rule.parameters()):
            raise ValueError("FineTune does not learn its rule; a rule with parameters of its own needs MAML.")

    def forward(self, batch: TaskBatch) -> Tensor:
        check_batch(self.model, batch)
        classes = self.model.get_parameter("head.weight").shape[0]
        if batch.ways is not None and batch.ways != classes:
            raise ValueError(
                f"the head tells {classes} classes apart, the tasks have {batch.ways}. Train on mk.tasks.Pooled(data), "
                f"which numbers all training classes, with a model of as many outputs."
            )
        x = torch.cat([batch.support_x, batch.query_x], 1)
        y = torch.cat([batch.support_y, batch.query_y], 1)
        return check_losses(self.loss(run(self.model, {}, x), y), batch)

    def outputs(self, batch: TaskBatch, steps: int | None = None, protocol: str | None = None) -> Iterator[Tensor]:
        """Yield the outputs for the query rows after 0, 1, ..., K inner steps, each ``[T, Q, ...]``."""
        check_batch(self.model, batch)
        steps, start = self.steps if steps is None else check_steps(steps), self._start(batch)
        rule, loss = self.rule, self.loss
        for adapted in trajectory(self.model, start, *batch.tensors[:2], rule=rule, steps=steps, order=1, loss=loss):
            yield answer(self.model, adapted, batch, protocol or self.protocol)

    def predict(self, support_x: Tensor, support_y: Tensor, query_x: Tensor, *, steps: int | None = None) -> Tensor:
        """Fine-tune on the support set and answer the query rows, each by itself (inductive); see ``predict``."""
        return predict(self, support_x, support_y, query_x, steps=steps)

    def _start(self, batch: TaskBatch) -> Weights:
        """The trained weights for each task; for classes with a head of zeros, ``[T, N, D]`` and ``[T, N]``."""
        named = dict(self.model.named_parameters())
        weights = stacked({name: named[name] for name in self.adapted}, len(batch))
        if batch.ways is None:
            return weights
        head = {name: w for name, w in weights.items() if name.startswith("head.")}
        return weights | {name: w.new_zeros(len(batch), batch.ways, *w.shape[2:]) for name, w in head.items()}
