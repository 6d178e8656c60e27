"""Exercises and questions of notebook 08."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from metakit.course.exercises import Answer, Exercise, Mistake
from metakit.course.quizzes import Question

_F64 = torch.float64


def _random(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=_F64)


# --- truncated_gradient: the graph is cut where a stretch begins. ---


def _end(rate: Tensor, h: Tensor, w: Tensor, steps: int, cuts: set[int]) -> Tensor:
    """The loss after the last step, the weights taken for constants before each of the steps in ``cuts``."""
    for k in range(steps):
        w = w.detach() if k in cuts else w
        w = w - rate * h * w
    return (h * w.square()).sum() / 2


def _truncated(rate: Tensor, h: Tensor, w: Tensor, steps: int, stretch: int, cuts: set[int] | None = None) -> Tensor:
    cuts = {steps - stretch} if cuts is None else cuts
    return torch.autograd.grad(_end(rate, h, w, steps, cuts), rate)[0]


def _observe_truncated(answer: Answer) -> dict[str, Tensor]:
    h, w = torch.tensor([1.0, 0.3, 0.05], dtype=_F64), torch.tensor([1.0, -2.0, 3.0], dtype=_F64)
    rate = torch.tensor(0.4, dtype=_F64, requires_grad=True)
    return {"gradients": torch.stack([answer(rate, h, w, 9, stretch) for stretch in (2, 3, 9)])}


TRUNCATED = Exercise(
    name="truncated_gradient",
    observe=_observe_truncated,
    right=_truncated,
    cut="The graph is cut behind the last step too, so that nothing depends on the rate. Cut once, before the last "
    "`stretch` steps: w = w.detach().",
    mistakes=(
        Mistake(
            lambda rate, h, w, steps, stretch: _truncated(rate, h, w, steps, stretch, set()),
            "Nothing is cut: this is the exact gradient, through all steps. Take the weights for constants before the "
            "last `stretch` steps.",
        ),
        Mistake(
            lambda rate, h, w, steps, stretch: _truncated(rate, h, w, steps, stretch, {stretch}),
            "The cut is after the first `stretch` steps. It belongs before the last ones, at step steps - stretch.",
        ),
        Mistake(
            lambda rate, h, w, steps, stretch: _truncated(rate, h, w, steps, stretch, set(range(steps))),
            "The weights are cut before every step, so only the last step is seen. Cut once, where the stretch begins.",
        ),
        Mistake(
            lambda rate, h, w, steps, stretch: _truncated(rate, h, w, steps, stretch, {steps - stretch + 1}),
            "The cut is one step too late: `stretch` steps are to be kept, this keeps one fewer.",
        ),
        Mistake(
            lambda rate, h, w, steps, stretch: torch.autograd.grad(_end(rate, h, w, stretch, set()), rate)[0],
            "Only `stretch` steps are taken at all, from the start. All steps are taken; the last ones are kept.",
        ),
    ),
)


# --- evolution_gradient: a gradient from values alone. ---

Loss = Callable[[Tensor], Tensor]


def _evolution(loss: Loss, theta: Tensor, sigma: float, noise: Tensor, back: Tensor | None = None) -> Tensor:
    back = noise if back is None else back
    found = [e * (loss(theta + sigma * e) - loss(theta - sigma * other)) for e, other in zip(noise, back, strict=True)]
    return torch.stack(found).mean(0) / (2 * sigma)


def _one_sided(loss: Loss, theta: Tensor, sigma: float, noise: Tensor) -> Tensor:
    return torch.stack([e * loss(theta + sigma * e) for e in noise]).mean(0) / sigma


def _observe_evolution(answer: Answer) -> dict[str, Tensor]:
    theta, noise = _random(0, 4), _random(1, 6, 4)

    def loss(at: Tensor) -> Tensor:
        return (at - 1).square().sum() + at.prod()

    return {"gradient": answer(loss, theta, 0.3, noise)}


EVOLUTION = Exercise(
    name="evolution_gradient",
    observe=_observe_evolution,
    right=_evolution,
    mistakes=(
        Mistake(
            lambda loss, theta, sigma, noise: sigma * _evolution(loss, theta, sigma, noise),
            "Sigma is missing in the denominator. The step is sigma e, and a difference over that step is no slope "
            "until it is divided by sigma.",
        ),
        Mistake(
            lambda loss, theta, sigma, noise: _evolution(loss, theta, sigma, noise) / sigma,
            "Divided by sigma once too often. 1 / sigma^2 belongs to noise that has sigma in it already; here e has "
            "standard deviation 1.",
        ),
        Mistake(
            lambda loss, theta, sigma, noise: 2 * _evolution(loss, theta, sigma, noise),
            "Divided by n only: the two values of a pair lie 2 sigma e apart, so the 2 belongs into the denominator.",
        ),
        Mistake(
            lambda loss, theta, sigma, noise: len(noise) * _evolution(loss, theta, sigma, noise),
            "Sum and mean are mixed up: divide by the number of pairs, or more pairs make a longer gradient.",
        ),
        Mistake(
            lambda loss, theta, sigma, noise: _evolution(loss, theta, sigma, noise, noise.roll(1, 0)),
            "The two of a pair have different noise. Take the same e with both signs: what they share cancels then.",
        ),
        Mistake(
            _one_sided,
            "Only one sign is asked. That is right on average, and far noisier: without the second value of the pair, "
            "the loss itself is taken for slope.",
        ),
        Mistake(
            lambda loss, theta, sigma, noise: -_evolution(loss, theta, sigma, noise),
            "The sign is turned: the value at theta + sigma e comes first, that at theta - sigma e is subtracted.",
        ),
    ),
)


# --- ridge_hypergradient: the implicit function theorem on a problem with a known answer. ---


def _parts(
    x: Tensor, y: Tensor, other_x: Tensor, other_y: Tensor, log_penalty: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Penalties, Hessian, minimum of the training loss, gradient of the validation loss there."""
    penalty = log_penalty.exp()
    hessian = x.mT @ x + penalty.diag()
    w = torch.linalg.solve(hessian, x.mT @ y)
    return penalty, hessian, w, 2 * other_x.mT @ (other_x @ w - other_y) / len(other_y)


def _ridge(x: Tensor, y: Tensor, other_x: Tensor, other_y: Tensor, log_penalty: Tensor) -> Tensor:
    penalty, hessian, w, slope = _parts(x, y, other_x, other_y, log_penalty)
    return -penalty * w * torch.linalg.solve(hessian, slope)


def _without_exp(*rows: Tensor) -> Tensor:
    return _ridge(*rows) / rows[-1].exp()


def _without_hessian(*rows: Tensor) -> Tensor:
    penalty, _, w, slope = _parts(*rows)
    return -penalty * w * slope


def _by_the_diagonal(*rows: Tensor) -> Tensor:
    penalty, hessian, w, slope = _parts(*rows)
    return -penalty * w * slope / hessian.diag()


def _without_penalty(*rows: Tensor) -> Tensor:
    penalty, hessian, w, slope = _parts(*rows)
    return -penalty * w * torch.linalg.solve(hessian - penalty.diag(), slope)


def _on_training_rows(x: Tensor, y: Tensor, other_x: Tensor, other_y: Tensor, log_penalty: Tensor) -> Tensor:
    return _ridge(x, y, x, y, log_penalty)


def _observe_ridge(answer: Answer) -> dict[str, Tensor]:
    rows = _random(0, 12, 4), _random(1, 12), _random(2, 8, 4), _random(3, 8)
    return {"hypergradient": answer(*rows, _random(4, 4))}


RIDGE = Exercise(
    name="ridge_hypergradient",
    observe=_observe_ridge,
    right=_ridge,
    mistakes=(
        Mistake(
            lambda *rows: -_ridge(*rows),
            "The sign is turned. A larger penalty draws a weight towards zero, so the weights move by minus H^-1 times "
            "the mixed derivative.",
        ),
        Mistake(
            _without_exp,
            "This is the derivative with respect to the penalty itself. The parameter is its logarithm: multiply by "
            "exp(p), the chain rule.",
        ),
        Mistake(
            _without_hessian,
            "H is taken for the identity. The weights move by H^-1 times the mixed derivative: solve with H = X'X + "
            "diag(exp(p)).",
        ),
        Mistake(
            _by_the_diagonal,
            "Only the diagonal of H is inverted. Features that go together move together: solve with the whole H.",
        ),
        Mistake(
            _without_penalty,
            "H lacks the penalty. It is the Hessian of the whole training loss: X'X + diag(exp(p)).",
        ),
        Mistake(
            _on_training_rows,
            "The outer loss is taken on the training rows. Those say that no penalty is best: use the other rows.",
        ),
        Mistake(
            lambda *rows: len(rows[3]) * _ridge(*rows),
            "Sum and mean are mixed up: the outer loss is the mean over the other rows.",
        ),
        Mistake(
            lambda *rows: _ridge(*rows) / 2,
            "A factor 2 is missing: the outer loss is a mean of squares, without a half.",
        ),
    ),
)

EXERCISES = (TRUNCATED, EVOLUTION, RIDGE)

QUESTIONS = (
    Question(
        "What are the meta-parameters of a learned optimiser?",
        (
            (
                "The numbers inside the rule that turns gradients into steps",
                "They are kept from job to job. The network's weights begin anew with each.",
            ),
            ("The weights of the networks that it trains", "Those are lost after each job; the rule remains."),
            ("The loss on other rows", "That is what the rule is judged by, not what is changed."),
        ),
        right=0,
    ),
    Question(
        "Why was the rule judged on other rows than those that it stepped on?",
        (
            ("Because its own rows have no gradient", "They do: the rule is fed with it."),
            (
                "So that it learns steps that generalise, not ones that learn the rows by heart",
                "The same reason as for the query set of a task.",
            ),
            ("To save time", "It costs one more forward pass for each step."),
        ),
        right=1,
    ),
    Question(
        "Adam whose rate is chosen for each job by the loss on the other rows ended a little lower than the rule. What "
        "does that show?",
        (
            ("That learning the rule was of no use", "One run of the rule stands against nine of Adam, and a look."),
            ("That the interval is wrong", "The interval speaks of the jobs that were drawn; it is as wide as it is."),
            (
                "How strong a baseline is that may look at the answer",
                "It trained nine times and chose by the very rows that judge. Worth beating, and not a fair fight.",
            ),
        ),
        right=2,
    ),
    Question(
        "A truncated meta-gradient looks 10 steps ahead on a noisy quadratic. Towards which rates does it err?",
        (
            ("Too small ones", "The noise goes down at once; the slow direction would take longer than 10 steps."),
            ("Too large ones", "Within 10 steps, lowering the noise pays most, and small rates do that."),
            ("Neither, on average", "More samples do not help: what is beyond the stretch is never seen."),
        ),
        right=0,
    ),
    Question(
        "What does an evolution strategy give for a meta-loss that is jagged at the scale of sigma?",
        (
            ("The exact gradient, with noise", "It knows nothing of the slopes between the teeth."),
            (
                "The gradient of the meta-loss blurred by noise of that size, with noise",
                "That slope exists and is bounded where the exact one explodes; whether it is wanted is another "
                "question.",
            ),
            ("Zero", "It is the difference of two values: zero only where they agree."),
        ),
        right=1,
    ),
    Question(
        "The implicit hypergradient needs no memory of the inner steps. What does it need instead?",
        (
            ("A learning rate for the penalty", "Any way of getting a gradient leaves that to the outer loop."),
            ("The inverse of the Hessian, written down", "Only its product with one vector, by conjugate gradients."),
            (
                "An inner training that has reached its minimum",
                "Its formula holds there and nowhere else; half-way, take the unrolled one.",
            ),
        ),
        right=2,
    ),
)
