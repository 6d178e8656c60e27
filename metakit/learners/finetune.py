"""The baseline of practice: train one network on everything, then fine-tune it on each new task."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor, nn

from metakit.contracts import Loss, Rule, Weights
from metakit.inner import adaptable, prepared, trajectory, unfrozen
from metakit.learners.common import Supervised, by_protocol, check_batch, check_steps
from metakit.learners.gradient import both_sides
from metakit.nn.lending import Functional, check_network, stacked
from metakit.saving import saved
from metakit.tasks.batch import TaskBatch


@saved(adapt="adapted")
class FineTune(Supervised):
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
        >>> import torch
        >>> from metakit.models import MLP
        >>> x = torch.randn(4, 10, 1)
        >>> FineTune(MLP(1, [8], 1), steps=3)(TaskBatch(x, x.sin(), x, x.sin())).shape
        torch.Size([4])

    Source: the baseline of Chen, Liu, Kira, Wang and Huang 2019, section 3.2; on curves, Finn et al. 2017, section 5.1.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        rule: Rule | None = None,
        steps: int = 10,
        adapt: str | Iterable[str] | None = None,
        loss: Loss | None = None,
        protocol: str = "inductive",
    ) -> None:
        check_network(model)
        super().__init__(loss, protocol, steps)
        self.model, self.adapted = model, tuple(adaptable(model, adapt))
        if "head.weight" not in self.adapted:
            raise ValueError("a new task needs a new head: the model must have a layer 'head', and it must adapt.")
        named = dict(model.named_parameters())
        self.rule = prepared(rule, unfrozen({name: named[name] for name in self.adapted}), self.steps)
        if any(True for _ in self.rule.parameters()):
            raise ValueError("FineTune does not learn its rule; a rule with parameters of its own needs MAML.")

    @property
    def network(self) -> nn.Module:
        return self.model

    def forward(self, batch: TaskBatch) -> Tensor:
        check_batch(self.model, batch)
        classes = self.model.get_parameter("head.weight").shape[0]
        if batch.ways is not None and batch.ways != classes:
            raise ValueError(
                f"the head tells {classes} classes apart, the tasks have {batch.ways}. Train on mk.tasks.Pooled(data), "
                f"which numbers all training classes, with a model of as many outputs."
            )
        rows = both_sides(batch)
        return self.query_losses(Functional(self.model)({}, rows.support_x, rows.support_mask), rows)

    def outputs(self, batch: TaskBatch, steps: int | None = None, protocol: str | None = None) -> Iterator[Tensor]:
        for adapted in self._path(batch, steps):
            yield self.answer(adapted, batch, protocol or self.protocol)

    def know(self, batch: TaskBatch, steps: int | None) -> Weights:
        *_, adapted = self._path(batch, steps)
        return adapted

    def answer(self, known: Weights, batch: TaskBatch, protocol: str) -> Tensor:
        return by_protocol(Functional(self.model), known, batch, protocol)[1]

    def _path(self, batch: TaskBatch, steps: int | None) -> Iterator[Weights]:
        check_batch(self.model, batch)
        options: dict[str, Any] = {"steps": self.steps if steps is None else check_steps(steps), "order": 1}
        options |= {"rule": self.rule, "loss": self.loss, "mask": batch.support_mask}
        return trajectory(self.model, self._start(batch), *batch.tensors[:2], **options)

    def _start(self, batch: TaskBatch) -> Weights:
        """The trained weights for each task; for classes with a head of zeros, ``[T, N, D]`` and ``[T, N]``."""
        named = dict(self.model.named_parameters())
        weights = stacked(unfrozen({name: named[name] for name in self.adapted}), len(batch))
        if batch.ways is None:
            return weights
        head = {name: w for name, w in weights.items() if name.startswith("head.")}
        return weights | {name: w.new_zeros(len(batch), batch.ways, *w.shape[2:]) for name, w in head.items()}
