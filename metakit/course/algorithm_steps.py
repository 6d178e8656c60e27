"""Exercises and questions of notebook 03."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from metakit.course.exercises import Answer, Exercise, Mistake
from metakit.course.quizzes import Question

_LR = 0.1
_F64 = torch.float64


def _random(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=_F64)


def _hessians(seed: int, *shape: int) -> Tensor:
    root = _random(seed, *shape, 3, 3)
    return root @ root.mT


# --- finite_difference: a gradient measured, not derived. ---


def _measured(f: Callable[[Tensor], Tensor], w: Tensor, eps: float, low: float, high: float, over: float) -> Tensor:
    """``(f(w + high e_i) - f(w + low e_i)) / over`` for each i, with low and high in units of eps."""
    moves = eps * torch.eye(len(w), dtype=w.dtype)
    return torch.stack([(f(w + high * move) - f(w + low * move)) / over for move in moves])


def _finite_difference(f: Callable[[Tensor], Tensor], w: Tensor, eps: float) -> Tensor:
    return _measured(f, w, eps, -1, 1, 2 * eps)


def _all_at_once(f: Callable[[Tensor], Tensor], w: Tensor, eps: float) -> Tensor:
    return ((f(w + eps) - f(w - eps)) / (2 * eps)).expand(len(w))


def _piled_up(f: Callable[[Tensor], Tensor], w: Tensor, eps: float) -> Tensor:
    w, slopes = w.clone(), []
    for i in range(len(w)):
        w[i] += eps
        high = f(w)
        w[i] -= 2 * eps
        slopes.append((high - f(w)) / (2 * eps))
    return torch.stack(slopes)


def _observe_finite_difference(answer: Answer) -> dict[str, Tensor]:
    w = torch.tensor([0.5, -1.0, 2.0], dtype=_F64)
    # A coarse step, so that the one-sided difference shows.
    return {"slopes": torch.as_tensor(answer(lambda w: w[0] * w[1] + w[2] ** 3 + w[0] ** 2 * w[2], w, 0.1))}


FINITE_DIFFERENCE = Exercise(
    name="finite_difference",
    observe=_observe_finite_difference,
    right=_finite_difference,
    mistakes=(
        Mistake(
            lambda f, w, eps: _measured(f, w, eps, 0, 1, eps),
            "This is the one-sided difference, (f(w + eps) - f(w)) / eps. Its error shrinks like eps; step to both "
            "sides, and it shrinks like eps squared.",
        ),
        Mistake(
            lambda f, w, eps: _measured(f, w, eps, -1, 1, eps),
            "Twice too large: from w - eps to w + eps is a way of 2 * eps. Divide by that.",
        ),
        Mistake(
            _all_at_once,
            "All weights move together, so every entry is the same: the sum of the slopes. Move one weight at a time.",
        ),
        Mistake(
            _piled_up,
            "A weight that was moved is not put back before the next one moves. Start from a copy of w each time.",
        ),
        Mistake(
            lambda f, w, eps: _measured(f, w, eps, 1, -1, 2 * eps), "The sign: forward value minus backward value."
        ),
    ),
)


# --- meta_gradient: equation (6) with its matrices. ---


def _meta_gradient(hessians: Tensor, grads: Tensor, lr: float) -> Tensor:
    return (grads - lr * (hessians @ grads[..., None])[..., 0]).mean(0)


def _observe_meta_gradient(answer: Answer) -> dict[str, Tensor]:
    return {"meta-gradient": answer(_hessians(0, 4), _random(1, 4, 3), _LR)}


META_GRADIENT = Exercise(
    name="meta_gradient",
    observe=_observe_meta_gradient,
    right=_meta_gradient,
    mistakes=(
        Mistake(
            lambda hessians, grads, lr: grads.mean(0),
            "The Hessian term is missing: this is the first-order gradient. Each v_t is multiplied by (I - lr H_t).",
        ),
        Mistake(
            lambda hessians, grads, lr: 2 * grads.mean(0) - _meta_gradient(hessians, grads, lr),
            "The sign of the Hessian term: the inner step subtracts the gradient, so the factor is (I - lr H_t).",
        ),
        Mistake(
            lambda hessians, grads, lr: len(grads) * _meta_gradient(hessians, grads, lr),
            "Sum and mean are mixed up: the outer loss is the mean over the tasks.",
        ),
        Mistake(
            lambda hessians, grads, lr: grads.mean(0) - lr * hessians.mean(0) @ grads.mean(0),
            "Mean Hessian times mean gradient is not the mean of the products: multiply task by task, then average.",
        ),
        Mistake(
            lambda hessians, grads, lr: (grads - lr * hessians.diagonal(dim1=1, dim2=2) * grads).mean(0),
            "Only the diagonal of each Hessian is used. Weights act on each other: use the matrix product.",
        ),
        Mistake(
            lambda hessians, grads, lr: -lr * (hessians @ grads[..., None])[..., 0].mean(0),
            "Only the Hessian term is there: the I of (I - lr H_t) leaves v_t itself.",
        ),
    ),
)


# --- through_steps: the meta-gradient through several inner steps. ---


def _through_steps(hessians: Tensor, v: Tensor, lr: float) -> Tensor:
    for hessian in hessians.flip(0):
        v = v - lr * hessian @ v
    return v


def _forwards(hessians: Tensor, v: Tensor, lr: float) -> Tensor:
    return _through_steps(hessians.flip(0), v, lr)


def _observe_through_steps(answer: Answer) -> dict[str, Tensor]:
    return {"meta-gradient": answer(_hessians(2, 3), _random(3, 3), _LR)}


THROUGH_STEPS = Exercise(
    name="through_steps",
    observe=_observe_through_steps,
    right=_through_steps,
    mistakes=(
        Mistake(
            _forwards,
            "The steps are gone through in their own order. The chain rule goes backwards: the last inner step first, "
            "as its factor stands next to v.",
        ),
        Mistake(
            lambda hessians, v, lr: v - lr * hessians.sum(0) @ v,
            "The Hessians are added. That is (7) without its products of two or more of them: multiply the factors.",
        ),
        Mistake(
            lambda hessians, v, lr: v - lr * hessians[-1] @ v, "Only the last inner step counts. There are K factors."
        ),
        Mistake(
            lambda hessians, v, lr: v - lr * hessians[0] @ v, "Only the first inner step counts. There are K factors."
        ),
        Mistake(lambda hessians, v, lr: v, "No factor at all: this is the first-order gradient."),
        Mistake(
            lambda hessians, v, lr: _through_steps(hessians, v, -lr),
            "The sign of the Hessian term: each factor is (I - lr H).",
        ),
    ),
)


# --- reached: the decision of step 7. ---


def _half(losses: Tensor) -> Tensor:
    return 1.96 * losses.std() / len(losses) ** 0.5


def _reached(losses: Tensor, target: float) -> bool:
    return bool(losses.mean() + _half(losses) <= target)


_EVALUATIONS = (
    (torch.tensor([0.1, 0.2, 0.3, 0.4] * 25), 0.35),  # sure
    (torch.tensor([0.0, 0.0, 0.0, 1.2] * 4), 0.35),  # the mean is below, its interval is not
    (torch.tensor([0.9, 1.0, 1.1, 1.2] * 25), 0.5),  # no
    (torch.tensor([0.1, 2.0, 2.0, 2.0] * 4), 0.5),  # one task is good, no more
    (torch.tensor([0.3, 0.5] * 50), 0.39),  # the mean is above, the lower end is not
    (torch.tensor([0.05, 0.05, 0.05, 0.9] * 49), 0.32),  # only because there are many tasks
    (torch.tensor([0.1] * 99 + [1.0]), 0.5),  # in spite of one bad task
)


def _observe_reached(answer: Answer) -> dict[str, Tensor]:
    return {"decisions": torch.tensor([float(answer(losses, target)) for losses, target in _EVALUATIONS])}


REACHED = Exercise(
    name="reached",
    observe=_observe_reached,
    right=_reached,
    mistakes=(
        Mistake(
            lambda losses, target: losses.mean() <= target,
            "The mean alone decides. It may lie under the target by the luck of the draw: ask for the upper end of "
            "its interval.",
        ),
        Mistake(
            lambda losses, target: losses.mean() - _half(losses) <= target,
            "This is the lower end of the interval: it says yes while the true mean may well be above the target.",
        ),
        Mistake(lambda losses, target: losses.min() <= target, "The best task decides. One lucky task is no learner."),
        Mistake(
            lambda losses, target: losses.max() <= target,
            "The worst task decides. That is a stricter promise than the mean, and with more tasks it gets harder.",
        ),
        Mistake(
            lambda losses, target: losses.mean() + 1.96 * losses.std() <= target,
            "This is how far single tasks lie apart, not how sure their mean is: divide by the root of the number of "
            "tasks.",
        ),
        Mistake(
            lambda losses, target: not _reached(losses, target),
            "The decision is the wrong way round: a loss has reached its target when it is below.",
        ),
    ),
)

EXERCISES = (FINITE_DIFFERENCE, META_GRADIENT, THROUGH_STEPS, REACHED)

QUESTIONS = (
    Question(
        "In which of the seven steps does the learner meet a task that it is not trained on?",
        (
            ("In step 3, optimise", "The tasks of step 3 are those that the outer step is taken for."),
            (
                "In steps 4 and 5, learn and evaluate",
                "New tasks: their support rows to learn, their query rows to judge.",
            ),
            ("In step 6, adjust", "Step 6 reads the scores of step 5; it meets no task itself."),
        ),
        right=1,
    ),
    Question(
        "Where does the Hessian in the meta-gradient come from?",
        (
            ("From Adam, the outer optimiser", "Adam sees the meta-gradient only when it is finished."),
            (
                "The inner step holds a gradient, and the outer gradient differentiates it once more",
                "The derivative of a gradient is the Hessian.",
            ),
            ("From the query loss", "The query loss is differentiated once; it gives v_t."),
        ),
        right=1,
    ),
    Question(
        "On the surface, when did the first-order arrow point the wrong way along a weight?",
        (
            ("When the inner rate times the curvature of a steep task passed 1", "Then 1 - lr a is below zero."),
            ("When the start was far from both tasks", "The distance changes both arrows alike."),
            ("When the inner rate was zero", "Without an inner step the two gradients are the same."),
        ),
        right=0,
    ),
    Question(
        "Why does MAML start near the flat task, and not near the steep one?",
        (
            ("Flat tasks have larger losses", "Away from its centre the steep task has the larger loss."),
            ("One inner step nearly solves the steep task from anywhere", "So it pulls less: a (1 - lr a)^2 is small."),
            ("It is chance", "The formula gives it for every start, as long as lr a stays near 1 for the steep task."),
        ),
        right=1,
    ),
    Question(
        "A formula for the meta-gradient agrees with autograd. Why check finite differences as well?",
        (
            ("They are more exact", "They are less exact: rounding and the length of the step both cost digits."),
            (
                "They only need the values of the outer loss, so they cannot share a mistake about its graph",
                "A cut graph makes autograd agree with itself; the values do not lie.",
            ),
            ("They are quicker", "They need two outer losses for every weight."),
        ),
        right=1,
    ),
)
