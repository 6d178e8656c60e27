"""Exercises and questions of notebook 04."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from metakit.course.exercises import Answer, Exercise, Mistake
from metakit.course.quizzes import Question

_F64 = torch.float64
_NAMES = ("gradient of w1", "gradient of b1", "gradient of w2", "gradient of b2")
Weights = Sequence[Tensor]


def _random(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=_F64)


def _weights() -> list[Tensor]:
    shapes = (5, 10), (5,), (1, 5), (1,)
    return [0.5 * _random(seed, *shape) for seed, shape in enumerate(shapes)]


def _loss(x: Tensor, y: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
    return (torch.relu(x @ w1.T + b1) @ w2.T + b2 - y).square().mean()


# --- backward: the gradient by hand. ---


def _backward(x: Tensor, y: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Weights:
    h = torch.relu(x @ w1.T + b1)
    delta = 2 * (h @ w2.T + b2 - y) / len(x)
    back = (delta @ w2) * (h > 0)
    return back.T @ x, back.sum(0), delta.T @ h, delta.sum(0)


def _backward_without_mask(x: Tensor, y: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Weights:
    h = torch.relu(x @ w1.T + b1)
    delta = 2 * (h @ w2.T + b2 - y) / len(x)
    back = delta @ w2
    return back.T @ x, back.sum(0), delta.T @ h, delta.sum(0)


def _scaled(grads: Weights, factor: float) -> Weights:
    return [factor * grad for grad in grads]


def _observe_backward(answer: Answer) -> dict[str, Tensor]:
    x, y, weights = _random(10, 8, 10), _random(11, 8, 1), _weights()
    grads = answer(x, y, *weights)
    if not isinstance(grads, tuple | list) or len(grads) != 4:
        raise TypeError("return four gradients, of w1, b1, w2 and b2")
    return dict(zip(_NAMES, grads, strict=True))


BACKWARD = Exercise(
    name="backward",
    observe=_observe_backward,
    right=_backward,
    mistakes=(
        Mistake(
            _backward_without_mask,
            "The ReLU is not differentiated: where the hidden value is zero, no error passes. Multiply by (h > 0).",
        ),
        Mistake(
            lambda x, y, *w: _scaled(_backward(x, y, *w), 0.5),
            "The factor 2 is missing: the derivative of a square is twice the difference.",
        ),
        Mistake(
            lambda x, y, *w: _scaled(_backward(x, y, *w), len(x)),
            "Sum and mean are mixed up: the loss is a mean over the rows, so the error is divided by their number.",
        ),
        Mistake(
            lambda x, y, *w: _scaled(_backward(x, y, *w), -1),
            "The sign is wrong: the error is output minus target, not target minus output.",
        ),
        Mistake(
            lambda x, y, *w: [g / len(x) if g.dim() == 1 else g for g in _backward(x, y, *w)],
            "The biases take the mean over the rows where they need the sum: the division by the number of rows is "
            "already in the error.",
        ),
    ),
)


# --- fixed_descent: the bug hunt. ---


def _descent(
    x: Tensor,
    y: Tensor,
    weights: Weights,
    lr: float,
    steps: int,
    *,
    pairs: Sequence[int] = (0, 1, 2, 3),
    keep: bool = True,
) -> list[Tensor]:
    """Descent with momentum 0.9: ``pairs`` says which variable a gradient moves, ``keep`` whether v is remembered."""
    now = [w.detach().clone().requires_grad_() for w in weights]
    velocity = [torch.zeros_like(now[i]) for i in pairs]
    for _ in range(steps):
        grads = torch.autograd.grad(_loss(x, y, *now), now)
        velocity = [0.9 * v * keep + g for v, g in zip(velocity, grads, strict=False)]
        with torch.no_grad():
            for i, v in zip(pairs, velocity, strict=True):
                now[i] -= lr * v
    return now


def _fixed(x: Tensor, y: Tensor, qx: Tensor, qy: Tensor, weights: Weights, lr: float, steps: int) -> tuple:
    after = _descent(x, y, weights, lr, steps)
    return after, _loss(qx, qy, *after)


def _faulty(*, pairs: Sequence[int] = (0, 1, 2, 3), keep: bool = True) -> Answer:
    def answer(x: Tensor, y: Tensor, qx: Tensor, qy: Tensor, weights: Weights, lr: float, steps: int) -> tuple:
        after = _descent(x, y, weights, lr, steps, pairs=pairs, keep=keep)
        return after, _loss(qx, qy, *after)

    return answer


def _judged_on_training_rows(x: Tensor, y: Tensor, qx: Tensor, qy: Tensor, *rest: object) -> tuple:
    return _fixed(x, y, x, y, *rest)  # type: ignore[arg-type]


def _trained_on_query_rows(x: Tensor, y: Tensor, qx: Tensor, qy: Tensor, *rest: object) -> tuple:
    return _fixed(qx, qy, qx, qy, *rest)  # type: ignore[arg-type]


def _observe_fixed(answer: Answer) -> dict[str, Tensor]:
    x, y, qx, qy = _random(20, 12, 10), 3 + _random(21, 12, 1), _random(22, 9, 10), 3 + _random(23, 9, 1)
    result = answer(x, y, qx, qy, [w.requires_grad_() for w in _weights()], 0.01, 12)
    if not isinstance(result, tuple | list) or len(result) != 2 or len(result[0]) != 4:
        raise TypeError("return two things: the list of four weights, and the query loss")
    names = ("first weights w1", "first bias b1", "second weights w2", "second bias b2")
    return dict(zip(names, result[0], strict=True)) | {"query loss": torch.as_tensor(result[1])}


_TWICE = "is paired with the second bias's gradient: b1 moves twice in a step, b2 never. Look at the list after zip."
_REBUILT = "The optimiser is made anew in each step and forgets its velocity. Make it once, before the loop."

FIXED_DESCENT = Exercise(
    name="fixed_descent",
    observe=_observe_fixed,
    right=_fixed,
    mistakes=(
        Mistake(_faulty(pairs=(0, 1, 2, 1)), f"The first bias {_TWICE}"),
        Mistake(_faulty(keep=False), _REBUILT),
        Mistake(_faulty(pairs=(0, 1, 2, 1), keep=False), f"Two bugs are left. One: the first bias {_TWICE}"),
        Mistake(_faulty(pairs=(0, 1, 2)), "The second bias b2 never moves: it is in no list of variables."),
        Mistake(
            _judged_on_training_rows,
            "The query loss is that of the rows that were learned. Judge on query_x and query_y, which no step saw.",
        ),
        Mistake(
            _trained_on_query_rows,
            "The steps learn the query rows themselves: then they are no test. Learn x and y only.",
        ),
    ),
)


# --- adam_step ---


def _adam(
    w: Tensor, g: Tensor, m: Tensor, s: Tensor, k: int, lr: float, *, first: bool = True, second: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    m, s = 0.9 * m + 0.1 * g, 0.999 * s + 0.001 * g.square()
    m_hat = m / (1 - 0.9**k) if first else m
    s_hat = s / (1 - 0.999**k) if second else s
    return w - lr * m_hat / (s_hat.sqrt() + 1e-8), m, s


def _adam_forgets(w: Tensor, g: Tensor, m: Tensor, s: Tensor, k: int, lr: float) -> tuple[Tensor, Tensor, Tensor]:
    return _adam(w, g, m, s, k, lr)[0], m, s


def _adam_not_squared(w: Tensor, g: Tensor, m: Tensor, s: Tensor, k: int, lr: float) -> tuple[Tensor, Tensor, Tensor]:
    m, s = 0.9 * m + 0.1 * g, 0.999 * s + 0.001 * g.abs()
    return w - lr * m / (1 - 0.9**k) / ((s / (1 - 0.999**k)).sqrt() + 1e-8), m, s


def _adam_corrected_memory(
    w: Tensor, g: Tensor, m: Tensor, s: Tensor, k: int, lr: float
) -> tuple[Tensor, Tensor, Tensor]:
    w, m, s = _adam(w, g, m, s, k, lr)
    return w, m / (1 - 0.9**k), s / (1 - 0.999**k)


def _adam_without_root(w: Tensor, g: Tensor, m: Tensor, s: Tensor, k: int, lr: float) -> tuple[Tensor, Tensor, Tensor]:
    _, m, s = _adam(w, g, m, s, k, lr)
    return w - lr * m / (1 - 0.9**k) / (s / (1 - 0.999**k) + 1e-8), m, s


def _observe_adam(answer: Answer) -> dict[str, Tensor]:
    w, m, s = _random(30, 3), torch.zeros(3, dtype=_F64), torch.zeros(3, dtype=_F64)
    for k in (1, 2, 3):
        result = answer(w, 2 * w, m, s, k, 0.1)
        if not isinstance(result, tuple | list) or len(result) != 3:
            raise TypeError("return three tensors, w, m and s")
        w, m, s = result
    return {"weights after three steps": w, "mean m": m, "mean square s": s}


ADAM_STEP = Exercise(
    name="adam_step",
    observe=_observe_adam,
    right=_adam,
    mistakes=(
        Mistake(
            lambda *a: _adam(*a, first=False, second=False),
            "No correction for the start at zero: divide m by 1 - 0.9^k and s by 1 - 0.999^k.",
        ),
        Mistake(
            lambda *a: _adam(*a, second=False),
            "Only m is corrected for its start at zero; s needs it more, being a mean over a thousand steps.",
        ),
        Mistake(lambda *a: _adam(*a, first=False), "Only s is corrected for its start at zero; m needs it too."),
        Mistake(_adam_forgets, "The old m and s are returned: the next step would know nothing of this one."),
        Mistake(_adam_not_squared, "s is a mean of g squared, not of its absolute value."),
        Mistake(
            _adam_corrected_memory,
            "The corrected m and s are returned. Keep the plain ones: the correction is made afresh in each step.",
        ),
        Mistake(
            lambda w, g, m, s, k, lr: (
                _adam(w, g, m, s, k - 1, lr) if k > 1 else (w * torch.nan, *_adam(w, g, m, s, k, lr)[1:])
            ),
            "In the first step 1 - 0.9^0 is zero, and 0 / 0 is no number. k counts from 1 already: use it as it is.",
        ),
        Mistake(_adam_without_root, "Divide by the root of the corrected s: then the gradient's unit cancels."),
    ),
)


# --- per_task_gradients: equation (9). ---


def _per_task(w: Tensor, x: Tensor, y: Tensor) -> Tensor:
    loss = ((x @ w[..., None])[..., 0] - y).square().mean(1).sum()
    return torch.autograd.grad(loss, w)[0]


def _observe_per_task(answer: Answer) -> dict[str, Tensor]:
    w, x, y = _random(40, 3, 2), _random(41, 3, 5, 2), _random(42, 3, 5)
    return {"gradients": answer(w.requires_grad_(), x, y)}


PER_TASK_GRADIENTS = Exercise(
    name="per_task_gradients",
    observe=_observe_per_task,
    right=_per_task,
    mistakes=(
        Mistake(
            lambda w, x, y: _per_task(w, x, y) / len(w),
            "Every gradient is divided by the number of tasks: the mean over tasks does that. Mean over rows, then "
            "the sum over tasks.",
        ),
        Mistake(
            lambda w, x, y: _per_task(w, x, y) * x.shape[1],
            "Sum and mean are mixed up over the rows: more rows must not mean longer steps. Use .mean(1).",
        ),
        Mistake(
            lambda w, x, y: _per_task(w, x, y).sum(0).expand(len(w), -1),
            "The tasks' gradients are added up, as if they shared one weight vector. Each row of w has its own.",
        ),
        Mistake(
            lambda w, x, y: _per_task(w, x, y).mean(0).expand(len(w), -1),
            "The tasks' gradients are averaged, as if they shared one weight vector. Each row of w has its own.",
        ),
        Mistake(
            lambda w, x, y: w - _per_task(w, x, y),
            "This is a step already. Return the gradients; the step is another line.",
        ),
    ),
)

EXERCISES = (BACKWARD, FIXED_DESCENT, ADAM_STEP, PER_TASK_GRADIENTS)

QUESTIONS = (
    Question(
        "The targets are pure noise, and the support loss falls. What has the network learned?",
        (
            ("The rule behind the data", "There is none: the targets were drawn without looking at the inputs."),
            ("The noise of these rows, which tells nothing about others", "That is why the query loss rises."),
            ("Nothing, its weights stayed where they were", "They moved, or the support loss would not have fallen."),
        ),
        right=1,
    ),
    Question(
        "The loss falls. What does that prove about the code?",
        (
            ("That it is right", "The code of the bug hunt lowers the loss too, with a bias that never moves."),
            ("That some of the weights go downhill", "No more. Compare with an independent way of computing it."),
            ("That the learning rate is the best one", "Many rates make a loss fall."),
        ),
        right=1,
    ),
    Question(
        "Why is an optimiser that is rebuilt in each step harmless for plain gradient descent and not for momentum?",
        (
            (
                "Plain gradient descent remembers nothing that could be lost",
                "Momentum, RMSProp and Adam have a memory.",
            ),
            ("Momentum is slower to build", "Time is not the matter: the result differs."),
            ("It is harmless for both", "Without its velocity momentum is gradient descent."),
        ),
        right=0,
    ),
    Question(
        "What do RMSProp and Adam do to a gradient that is a hundred times larger from the first step on?",
        (
            ("They step a hundred times further", "Plain gradient descent and momentum do."),
            ("Nearly nothing: they divide by its root mean square", "The scale cancels; only eps knows of it."),
            ("They refuse it", "No rule refuses anything; some explode."),
        ),
        right=1,
    ),
    Question(
        "A thousand tasks in one batch: why the sum of their losses, and not the mean?",
        (
            (
                "Each task's weights occur in its own loss only, so the sum has every task's own gradient",
                "The mean would divide each by a thousand, and a step would depend on how many tasks stand beside it.",
            ),
            ("The sum is quicker to compute", "The two take the same time."),
            ("To keep the tasks from mixing", "They do not mix either way; only the length changes."),
        ),
        right=0,
    ),
)
