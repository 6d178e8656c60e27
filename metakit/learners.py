"""Learners: modules that turn a batch of tasks into one loss per task.

Each offers the same calls: ``learner(batch) -> [T]`` to be trained by, ``learner.outputs(batch, steps)`` to be judged
by (its answers to the query set after 0, 1, ..., K inner steps), and ``learner.predict(...)`` to be used.
``learner.optimizer`` and ``learner.lr`` are the outer optimiser of its kind and its rate, ``learner.steps`` the inner
steps it was made for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from metakit.batch import TaskBatch, check_classes, check_tasks
from metakit.inner import (
    SGD,
    Loss,
    Weights,
    adapt,
    adaptable,
    check_model,
    run,
    stacked,
    task_loss,
    trajectory,
)
from metakit.models import MLP, ConvNet
from metakit.nn import BatchNorm2d, statistics_from_first

PROTOCOLS = ("transductive", "inductive")


class MAML(nn.Module):
    """Model-agnostic meta-learning: learn the initial weights from which a few inner steps go a long way.

        w_t = U_K(w; support set t),    loss_t = L(w_t; query set t)

    U_K is K steps of ``rule``; the meta-gradient of the mean loss goes through all of them (``order=2``), or takes the
    inner gradients for constants (``order=1``, first-order MAML). ``adapt="head"`` makes it ANIL and
    ``rule=LearnedSGD()`` Meta-SGD.

    Arguments:
        model: the base learner, an ``nn.Module``; layers of ``metakit.nn`` run all tasks at once, others one by one.
        rule: the inner rule; ``SGD(lr=0.01)`` is the sinusoid setting of the paper.
        steps: inner steps K.
        order: 2 or 1.
        adapt: name or names of the layers to adapt; all of them when left out.
        loss: ``(outputs, targets) -> [T]``; by the target's dtype when left out, see ``task_loss``.
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

    optimizer, lr = torch.optim.Adam, 1e-3

    def __init__(
        self,
        model: nn.Module,
        *,
        rule: Any = None,
        steps: int = 1,
        order: int = 2,
        adapt: str | Iterable[str] | None = None,
        loss: Loss | None = None,
        protocol: str = "transductive",
    ) -> None:
        super().__init__()
        check_model(model)
        if order not in (1, 2):
            raise ValueError(f"order must be 2 (exact meta-gradient) or 1 (first-order MAML), got {order!r}.")
        self.model, self.loss = model, loss or task_loss
        self.steps, self.order, self.protocol = _check_steps(steps), order, check_protocol(protocol)
        self.adapted = tuple(adaptable(model, adapt))
        self.rule = _prepared(rule, self.initial, steps)

    @property
    def initial(self) -> dict[str, nn.Parameter]:
        """The learned initial weights of the layers that adapt."""
        named = dict(self.model.named_parameters())
        return {name: named[name] for name in self.adapted}

    def adapt(self, batch: TaskBatch, steps: int | None = None) -> Weights:
        """The weights adapted to each task's support set, stacked: ``{name: [T, ...]}``."""
        check_batch(self, self.model, batch)
        return adapt(self.model, stacked(self.initial, len(batch)), *batch.tensors[:2], **self._inner(steps))

    def judge(self, weights: Weights, batch: TaskBatch) -> Tensor:
        """The query loss of each task under adapted weights, ``[T]``."""
        return check_losses(self.loss(_answer(self.model, weights, batch, self.protocol), batch.query_y), batch)

    def forward(self, batch: TaskBatch) -> Tensor:
        return self.judge(self.adapt(batch), batch)

    def outputs(self, batch: TaskBatch, steps: int | None = None, protocol: str | None = None) -> Iterator[Tensor]:
        """Yield the outputs for the query rows after 0, 1, ..., K inner steps, each ``[T, Q, ...]``."""
        check_batch(self, self.model, batch)
        weights = stacked(self.initial, len(batch))
        for adapted in trajectory(self.model, weights, *batch.tensors[:2], **self._inner(steps)):
            yield _answer(self.model, adapted, batch, protocol or self.protocol)

    def predict(self, support_x: Tensor, support_y: Tensor, query_x: Tensor, *, steps: int | None = None) -> Tensor:
        """Adapt to the support set and answer the query rows, each by itself (inductive); see ``predict``."""
        return predict(self, support_x, support_y, query_x, steps=steps)

    def _inner(self, steps: int | None) -> dict[str, Any]:
        steps = self.steps if steps is None else _check_steps(steps)
        return {"rule": self.rule, "steps": steps, "order": self.order, "loss": self.loss}


class Reptile(nn.Module):
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

    optimizer, lr = torch.optim.SGD, 0.1

    def __init__(
        self,
        model: nn.Module,
        *,
        rule: Any = None,
        steps: int = 5,
        loss: Loss | None = None,
        protocol: str = "transductive",
    ) -> None:
        super().__init__()
        self.inner = MAML(model, rule=rule, steps=steps, order=1, loss=loss, protocol=protocol)
        if any(True for _ in self.inner.rule.parameters()):
            raise ValueError("Reptile learns initial weights only; a rule with parameters of its own needs MAML.")

    @property
    def model(self) -> nn.Module:
        return self.inner.model

    @property
    def steps(self) -> int:
        return self.inner.steps

    @property
    def protocol(self) -> str:
        return self.inner.protocol

    @property
    def loss(self) -> Loss:
        return self.inner.loss

    def forward(self, batch: TaskBatch) -> Tensor:
        check_batch(self, self.model, batch)
        x = torch.cat([batch.support_x, batch.query_x], 1)
        y = torch.cat([batch.support_y, batch.query_y], 1)
        initial = self.inner.initial
        with torch.no_grad():
            rows = TaskBatch.trusted(x, y, x, y, ways=batch.ways)
            adapted = self.inner.adapt(rows)
            value = check_losses(self.loss(run(self.model, adapted, x), y), batch)
        moves = [(initial[name] - w).square().flatten(1).sum(1) for name, w in adapted.items()]  # [T] for each tensor
        distance = torch.stack(moves).sum(0) / 2
        return value + (distance - distance.detach())

    def outputs(self, batch: TaskBatch, steps: int | None = None, protocol: str | None = None) -> Iterator[Tensor]:
        """Yield the outputs for the query rows after 0, 1, ..., K inner steps, each ``[T, Q, ...]``."""
        yield from self.inner.outputs(batch, steps, protocol)

    def predict(self, support_x: Tensor, support_y: Tensor, query_x: Tensor, *, steps: int | None = None) -> Tensor:
        """Adapt to the support set and answer the query rows, each by itself (inductive); see ``predict``."""
        return predict(self, support_x, support_y, query_x, steps=steps)


class ProtoNet(nn.Module):
    """Prototypical network: a class is the mean of its embedded support rows, a query belongs to the nearest.

        c_n = mean of f(x) over support rows of class n,    score_n(q) = -|f(q) - c_n|^2

    Arguments:
        embedding: the network f, whose outputs are compared; nothing of it adapts.
        loss: ``(scores, targets) -> [T]``; cross-entropy when left out.
        protocol: how batch norm treats the query set in training, as in ``MAML``.

    Raises:
        ValueError: if the targets are not class numbers, or a class has no support row.

    Example:
        >>> from metakit.models import MLP
        >>> x, y = torch.randn(4, 6, 3), torch.arange(6).remainder(2).expand(4, 6)
        >>> ProtoNet(MLP(3, [], 8))(TaskBatch(x, y, x, y)).shape
        torch.Size([4])

    Source: Snell, Swersky and Zemel 2017, equations (1) and (2).
    """

    optimizer, lr = torch.optim.Adam, 1e-3
    steps = 0

    def __init__(self, embedding: nn.Module, *, loss: Loss | None = None, protocol: str = "transductive") -> None:
        super().__init__()
        check_model(embedding)
        self.embedding, self.loss, self.protocol = embedding, loss or task_loss, check_protocol(protocol)

    def forward(self, batch: TaskBatch) -> Tensor:
        (scores,) = self.outputs(batch)
        return check_losses(self.loss(scores, batch.query_y), batch)

    def outputs(self, batch: TaskBatch, steps: int | None = None, protocol: str | None = None) -> Iterator[Tensor]:
        """Yield the scores of the query rows once, ``[T, Q, N]``: there are no inner steps."""
        check_batch(self, self.embedding, batch)
        if batch.ways is None:
            raise ValueError("ProtoNet classifies: targets must be class numbers (int64). For regression use MAML.")
        support, query = _by_protocol(self.embedding, self.embedding, batch, protocol or self.protocol)
        support = self.embedding(batch.support_x) if support is None else support
        members = nn.functional.one_hot(batch.support_y, batch.ways).to(support.dtype).mT  # [T, N, S]
        prototypes = members @ support / members.sum(-1, keepdim=True)
        squares = query.square().sum(-1)[..., None] + prototypes.square().sum(-1)[:, None]  # [T, Q, N]
        yield 2 * query @ prototypes.mT - squares

    def predict(self, support_x: Tensor, support_y: Tensor, query_x: Tensor) -> Tensor:
        """Scores of the query rows, each by itself (inductive); see ``predict``."""
        return predict(self, support_x, support_y, query_x, steps=None)


def predict(
    learner: Any,
    support_x: Tensor,
    support_y: Tensor,
    query_x: Tensor,
    *,
    steps: int | None = None,
    protocol: str = "inductive",
) -> Tensor:
    """Answers to the query rows of one task or of a stack of tasks, learned from its support set.

    Real outputs in regression, a score for each class (logits) in classification: ``.argmax(-1)`` names the class.

    Shapes: one task ``[S, ...]``, ``[S]`` or ``[S, outputs]``, ``[Q, ...]`` to ``[Q, outputs]``; a stack has T in front
    of each.

    Arguments:
        steps: inner steps, the learner's own number when left out.
        protocol: ``"inductive"`` answers each query row by itself, ``"transductive"`` lets batch norm see them all.

    Raises:
        ValueError: if shapes, dtypes or values are not those of a task.
    """
    single = isinstance(support_y, Tensor) and support_y.dim() == (2 if support_y.is_floating_point() else 1)
    if single:
        support_x, support_y, query_x = support_x[None], support_y[None], query_x[None]
    check_tasks(support_x, support_y, query_x)
    unknown = support_y.new_zeros(query_x.shape[:2] + support_y.shape[2:])
    ways = None if support_y.is_floating_point() else check_classes(support_y)
    batch = TaskBatch.trusted(support_x, support_y, query_x, unknown, ways=ways)
    answers = []
    with torch.no_grad():
        for chunk in batch.chunks(chunk_size(support_x, query_x)):
            for outputs in learner.outputs(chunk, steps, protocol):
                answer = outputs
            answers.append(answer)
    return torch.cat(answers)[0] if single else torch.cat(answers)


def chunk_size(*inputs: Tensor) -> int | None:
    """Tasks to run at once: all of them on a GPU, a few on a CPU, whose caches the images of many would overflow."""
    return None if inputs[0].is_cuda else max(1, 32_768 // sum(x[0].numel() for x in inputs))


def uses_batch_norm(module: nn.Module) -> bool:
    """Whether an answer can depend on the other query rows."""
    return any(isinstance(layer, BatchNorm2d | _BatchNorm) for layer in module.modules())


def check_protocol(protocol: str) -> str:
    """The protocol, if it is one of the two."""
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol must be one of {', '.join(PROTOCOLS)}, got {protocol!r}.")
    return protocol


def _answer(model: nn.Module, weights: Weights, batch: TaskBatch, protocol: str) -> Tensor:
    """Outputs for the query rows, ``[T, Q, ...]``."""
    return _by_protocol(lambda x: run(model, weights, x), model, batch, protocol)[1]


def _by_protocol(
    network: Callable[[Tensor], Tensor], model: nn.Module, batch: TaskBatch, protocol: str
) -> tuple[Tensor | None, Tensor]:
    """Outputs for query rows alone (transductive), or with support rows in front (inductive), which come first."""
    if check_protocol(protocol) == "transductive" or not uses_batch_norm(model):
        return None, network(batch.query_x)
    for name, layer in model.named_modules():
        if isinstance(layer, _BatchNorm):
            raise ValueError(
                f"layer {name!r} ({type(layer).__name__}) normalises query rows together, so it cannot answer them one "
                'by one. Use metakit.nn.BatchNorm2d, or protocol="transductive".'
            )
    rows = batch.support_x.shape[1]
    with statistics_from_first(rows):
        both = network(torch.cat([batch.support_x, batch.query_x], 1))
    return both[:, :rows], both[:, rows:]


def _prepared(rule: Any, weights: dict[str, nn.Parameter], steps: int) -> nn.Module:
    rule = SGD() if rule is None else rule
    if not (isinstance(rule, nn.Module) and hasattr(rule, "init_state") and hasattr(rule, "step")):
        raise TypeError(f"rule must be an inner rule such as mk.SGD(lr=0.01), got {rule!r}.")
    prepared: Callable[..., nn.Module] | None = getattr(rule, "prepared", None)
    return rule if prepared is None else prepared(weights, steps)


def _check_steps(steps: int) -> int:
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < 0:
        raise ValueError(f"steps must be a whole number of inner steps, 0 or more; got {steps!r}.")
    return steps


def check_batch(learner: nn.Module, model: nn.Module, batch: TaskBatch) -> None:
    """Refuse a batch that the model cannot take: another device or dtype, other rows, more classes than outputs."""
    if not isinstance(batch, TaskBatch):
        raise TypeError(f"a learner takes a TaskBatch, got {type(batch).__name__}. Draw one with tasks.sample(T).")
    x, parameter = batch.support_x, next(model.parameters())
    if x.device != parameter.device:
        raise ValueError(f"the batch is on {x.device}, the model on {parameter.device}. Move one with .to(device).")
    if x.dtype != parameter.dtype:
        raise ValueError(f"the batch holds {x.dtype}, the model {parameter.dtype}. Convert one with .to(dtype=...).")
    config = getattr(model, "config", {})
    row = tuple(x.shape[2:])
    if isinstance(model, MLP) and row != (config["inputs"],):
        raise ValueError(f"this MLP takes rows of {config['inputs']} numbers, got rows of shape {list(row)}.")
    if isinstance(model, ConvNet) and row != (config["channels"], config["size"], config["size"]):
        wanted = [config["channels"], config["size"], config["size"]]
        raise ValueError(f"this ConvNet takes images {wanted} (channels, height, width), got {list(row)}.")
    if batch.ways is not None and isinstance(learner, MAML) and (config.get("outputs") or batch.ways) < batch.ways:
        raise ValueError(
            f"the model has {config['outputs']} outputs, too few for a {batch.ways}-way task. "
            f"Make it with outputs={batch.ways}."
        )


def check_losses(losses: Tensor, batch: TaskBatch) -> Tensor:
    """The losses, if there is one per task."""
    if losses.shape != (len(batch),):
        raise ValueError(
            f"loss must give one number per task, shape [{len(batch)}], got {list(losses.shape)}. "
            "Average over rows, not over tasks."
        )
    return losses
