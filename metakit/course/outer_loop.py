"""Exercises and questions of notebook 05."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from metakit.course.exercises import Answer, Exercise, Mistake
from metakit.course.quizzes import Question

_LR = 0.1
_CUT = (
    "The graph is cut in the inner loop: the adapted weights no longer know the weights they came from. "
    "Call torch.autograd.grad(..., create_graph=True), and neither .detach(), .item() nor .data."
)


def _line(w: Tensor, x: Tensor) -> Tensor:
    """A straight line through the origin of two features: rows ``[S, 2]`` to ``[S]``."""
    return x @ w


def _loss(w: Tensor, x: Tensor, y: Tensor) -> Tensor:
    return (_line(w, x) - y).square().mean()


def _data(seed: int, *shape: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(*shape, 2, generator=generator, dtype=torch.float64)
    return x, x @ torch.tensor([1.0, -2.0], dtype=torch.float64) + torch.randn(
        shape, generator=generator, dtype=torch.float64
    )


def _weights() -> Tensor:
    return torch.tensor([0.5, 0.25], dtype=torch.float64, requires_grad=True)


def _gradient_through(result: Any, w: Tensor) -> Tensor:
    """The gradient of the sum of squares of a result: anything that cuts the graph shows."""
    return torch.autograd.grad(result.square().sum(), w)[0]


# --- inner_step ---


def _inner_step(w: Tensor, x: Tensor, y: Tensor, lr: float) -> Tensor:
    (g,) = torch.autograd.grad(_loss(w, x, y), w, create_graph=True)
    return w - lr * g


def _inner_step_cut(w: Tensor, x: Tensor, y: Tensor, lr: float) -> Tensor:
    (g,) = torch.autograd.grad(_loss(w, x, y), w)
    return w - lr * g


def _inner_step_up(w: Tensor, x: Tensor, y: Tensor, lr: float) -> Tensor:
    return 2 * w - _inner_step(w, x, y, lr)


def _inner_step_sum(w: Tensor, x: Tensor, y: Tensor, lr: float) -> Tensor:
    return _inner_step(w, x, y, lr * len(x))


def _observe_inner_step(answer: Answer) -> dict[str, Tensor]:
    w, (x, y) = _weights(), _data(0, 5)
    stepped = answer(w, x, y, _LR)
    if not isinstance(stepped, Tensor):
        return {"adapted weights": stepped, "gradient through the step": stepped}
    return {"adapted weights": stepped, "gradient through the step": _gradient_through(stepped, w)}


INNER_STEP = Exercise(
    name="inner_step",
    observe=_observe_inner_step,
    right=_inner_step,
    mistakes=(
        Mistake(_inner_step_cut, _CUT),
        Mistake(_inner_step_up, "The step goes uphill: subtract the gradient, w - lr * g."),
        Mistake(
            _inner_step_sum,
            "Sum and mean are mixed up: a sum over the rows makes the step longer the more points there are. "
            "Use .mean() in the loss.",
        ),
    ),
    cut=_CUT,
)


# --- maml_loss ---


def _maml_loss(w: Tensor, batch: tuple[Tensor, ...], lr: float) -> Tensor:
    tasks = zip(*batch, strict=True)
    return torch.stack([_loss(_inner_step(w, sx, sy, lr), qx, qy) for sx, sy, qx, qy in tasks]).mean()


def _maml_swapped(w: Tensor, batch: tuple[Tensor, ...], lr: float) -> Tensor:
    return _maml_loss(w, (*batch[2:], *batch[:2]), lr)


def _maml_support(w: Tensor, batch: tuple[Tensor, ...], lr: float) -> Tensor:
    return _maml_loss(w, (*batch[:2], *batch[:2]), lr)


def _maml_query(w: Tensor, batch: tuple[Tensor, ...], lr: float) -> Tensor:
    return _maml_loss(w, (*batch[2:], *batch[2:]), lr)


def _maml_unadapted(w: Tensor, batch: tuple[Tensor, ...], lr: float) -> Tensor:
    return _maml_loss(w, batch, 0.0)


def _maml_sum(w: Tensor, batch: tuple[Tensor, ...], lr: float) -> Tensor:
    return len(batch[0]) * _maml_loss(w, batch, lr)


def _maml_last(w: Tensor, batch: tuple[Tensor, ...], lr: float) -> Tensor:
    return _maml_loss(w, tuple(tensor[-1:] for tensor in batch), lr)


def _observe_maml(answer: Answer) -> dict[str, Tensor]:
    w, (sx, sy), (qx, qy) = _weights(), _data(1, 3, 5), _data(2, 3, 4)
    loss = answer(w, (sx, sy, qx, qy), _LR)
    if not isinstance(loss, Tensor) or loss.dim():
        return {"loss": loss, "meta-gradient": loss}
    return {"loss": loss, "meta-gradient": torch.autograd.grad(loss, w)[0]}


def _maml_cut(w: Tensor, batch: tuple[Tensor, ...], lr: float) -> Tensor:
    tasks = zip(*batch, strict=True)
    return torch.stack([_loss(_inner_step_cut(w, sx, sy, lr), qx, qy) for sx, sy, qx, qy in tasks]).mean()


MAML_LOSS = Exercise(
    name="maml_loss",
    observe=_observe_maml,
    right=_maml_loss,
    mistakes=(
        Mistake(
            _maml_support,
            "The support set is used as the query set: the adapted weights are judged on the rows they were fitted to. "
            "Adapt on support, judge on query.",
        ),
        Mistake(
            _maml_query,
            "The query set is used as the support set: the learner adapts to the rows it is judged on. "
            "At test time it will not have them.",
        ),
        Mistake(_maml_swapped, "Support and query have changed places: adapt on support, judge on query."),
        Mistake(_maml_unadapted, "The loss is that of w itself: nothing was adapted. Judge the result of inner_step."),
        Mistake(_maml_sum, "Sum and mean are mixed up: average over the tasks, or the outer rate changes its meaning."),
        Mistake(_maml_last, "Only the last task counts: collect every task's loss in a list, then torch.stack(...)."),
        Mistake(_maml_cut, _CUT),
    ),
    cut=_CUT,
)


# --- quadratic_meta_gradient ---


def _quadratic(w: Tensor, a: Tensor, c: Tensor, lr: float) -> Tensor:
    adapted = w - lr * a * (w - c)
    return ((1 - lr * a) * a * (adapted - c)).mean()


def _observe_quadratic(answer: Answer) -> dict[str, Tensor]:
    a = torch.tensor([0.5, 1.0, 3.0], dtype=torch.float64)
    c = torch.tensor([-1.0, 0.5, 2.0], dtype=torch.float64)
    return {"meta-gradient": torch.as_tensor(answer(torch.tensor(0.3, dtype=torch.float64), a, c, _LR))}


QUADRATIC = Exercise(
    name="quadratic_meta_gradient",
    observe=_observe_quadratic,
    right=_quadratic,
    mistakes=(
        Mistake(
            lambda w, a, c, lr: (a * (w - lr * a * (w - c) - c)).mean(),
            "One factor (1 - lr * a) is missing. Either the Hessian term is (this is the first-order gradient), or the "
            "gradient was taken at w and not at the adapted weight: on a quadratic the two give the same number.",
        ),
        Mistake(
            lambda w, a, c, lr: (a * (w - c)).mean(),
            "This is the gradient without any adaptation: put the adapted weight in, and the chain rule's factor.",
        ),
        Mistake(
            lambda w, a, c, lr: 3 * _quadratic(w, a, c, lr),
            "Sum and mean are mixed up: the outer loss is the mean over the tasks.",
        ),
        Mistake(
            lambda w, a, c, lr: ((1 + lr * a) * a * (w - lr * a * (w - c) - c)).mean(),
            "The sign of the Hessian term: the step subtracts the gradient, so the factor is (1 - lr * a).",
        ),
    ),
)


# --- reptile_step ---


def _reptile(w: Tensor, adapted: Tensor, epsilon: float) -> Tensor:
    return w + epsilon * (adapted - w).mean(0)


def _observe_reptile(answer: Answer) -> dict[str, Tensor]:
    adapted = torch.tensor([[1.0, 2.0], [3.0, -1.0], [0.5, 0.0]], dtype=torch.float64)
    return {"new start": answer(_weights().detach(), adapted, 0.25)}


REPTILE = Exercise(
    name="reptile_step",
    observe=_observe_reptile,
    right=_reptile,
    mistakes=(
        Mistake(
            lambda w, adapted, epsilon: w - epsilon * (adapted - w).mean(0),
            "The start moves away from the adapted weights: w + epsilon * mean(w_t - w).",
        ),
        Mistake(
            lambda w, adapted, epsilon: w + epsilon * (adapted - w).sum(0),
            "Sum and mean are mixed up: with a sum, more tasks make a longer step.",
        ),
        Mistake(
            lambda w, adapted, epsilon: adapted.mean(0),
            "This jumps all the way to the mean of the adapted weights; go only the share epsilon of the way.",
        ),
        Mistake(
            lambda w, adapted, epsilon: w + epsilon * adapted.mean(0),
            "Reptile follows the difference w_t - w, not w_t itself.",
        ),
    ),
)

EXERCISES = (INNER_STEP, MAML_LOSS, QUADRATIC, REPTILE)

QUESTIONS = (
    Question(
        "The learned start looks like the average curve. So what has MAML learned?",
        (
            ("The average curve, no more", "Training on all tasks at once finds that curve too, and adapts far worse."),
            (
                "Weights from which one gradient step reaches any curve of the distribution",
                "The function at the start says little; how it moves under a gradient step is what was trained.",
            ),
            ("The ten support points", "They are drawn anew for every task."),
        ),
        right=1,
    ),
    Question(
        "What does first-order MAML leave out?",
        (
            ("The query set", "The query loss is still what is minimised."),
            ("The inner step", "It adapts as MAML does."),
            (
                "How the inner gradient changes when the start changes (the Hessian term)",
                "It takes the inner gradient for a constant, so the factor (I - lr H) becomes I.",
            ),
        ),
        right=2,
    ),
    Question(
        "Why does Reptile need no split into support and query?",
        (
            (
                "It never differentiates a query loss: it moves towards where training on the task ends",
                "Right, and it is judged on separate query rows all the same.",
            ),
            ("It is judged on the support rows", "No learner should be. The comparison above judges it on query rows."),
            ("Its inner loop has no gradient", "It has: plain gradient descent, several steps of it."),
        ),
        right=0,
    ),
    Question(
        "Meta-SGD was best after one step, and exploded after four. Why?",
        (
            ("It was trained too briefly", "It had as many outer steps as the others."),
            (
                "Its rates were learned for exactly one step; nothing in training asked for a second",
                "What the outer loop does not ask for, it does not give.",
            ),
            ("Learned rates are always unstable", "Trained with more inner steps, they serve more steps."),
        ),
        right=1,
    ),
)
