"""Exercises and questions of notebook 10."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from metakit.course.exercises import Answer, Exercise, Mistake
from metakit.course.quizzes import Question

_F64 = torch.float64


def _random(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=_F64)


# --- gp_posterior: mean and variance of targets not yet seen. ---

Kernel = Callable[[Tensor, Tensor], Tensor]

_NOISE, _VARIANCE = 0.4, 1.7  # not 1, so that a variance taken for 1 shows


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    return _VARIANCE * (-(a[:, None] - b[None]).square() / 0.98).exp()


def _posterior(
    *, diagonal: float = 2, beyond: float = 2, sign: float = -1, prior: float | None = None, everywhere: bool = False
) -> Answer:
    """The posterior with any of the classic mistakes in it; powers of the noise, 0 of which is none."""

    def gp_posterior(kernel: Kernel, noise: float, x: Tensor, y: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
        place = torch.ones(len(x), len(x), dtype=x.dtype) if everywhere else torch.eye(len(x), dtype=x.dtype)
        matrix = kernel(x, x) + (noise**diagonal * place if diagonal else 0)
        cross = kernel(x, query)
        solved = torch.linalg.solve(matrix, torch.cat([y[:, None], cross], 1))
        before = kernel(query, query).diagonal() if prior is None else prior
        variance = before + (noise**beyond if beyond else 0) + sign * (cross * solved[:, 1:]).sum(0)
        return cross.T @ solved[:, 0], variance

    return gp_posterior


def _other_mean(weights: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Answer:
    """The right variance, with a mean from other weights of the support rows: of kernel, noisy kernel and targets."""

    def gp_posterior(kernel: Kernel, noise: float, x: Tensor, y: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
        plain = kernel(x, x)
        noisy = plain + noise**2 * torch.eye(len(x), dtype=x.dtype)
        return kernel(query, x) @ weights(plain, noisy, y), _posterior()(kernel, noise, x, y, query)[1]

    return gp_posterior


def _spread(kernel: Kernel, noise: float, x: Tensor, y: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
    mean, variance = _posterior()(kernel, noise, x, y, query)
    return mean, variance.sqrt()


def _observe_posterior(answer: Answer) -> dict[str, Tensor]:
    mean, variance = answer(_kernel, _NOISE, _random(0, 5), _random(1, 5), _random(2, 7))
    return {"mean": mean, "variance": variance}


POSTERIOR = Exercise(
    name="gp_posterior",
    observe=_observe_posterior,
    right=_posterior(),
    mistakes=(
        Mistake(
            _posterior(diagonal=0),
            "The noise is missing on the diagonal of K, so the mean goes through every noisy point: noise**2 * eye(S).",
        ),
        Mistake(
            _posterior(beyond=0),
            "This is the variance of the function. A target still to come has noise of its own: add noise**2.",
        ),
        Mistake(
            _posterior(diagonal=0, beyond=0),
            "The noise is nowhere. It stands on the diagonal of K, and once more in the variance of a new target.",
        ),
        Mistake(
            _posterior(diagonal=1, beyond=1),
            "noise is a standard deviation. Variances add, so it is noise**2 that is added.",
        ),
        Mistake(
            _posterior(everywhere=True),
            "The noise is added to every entry of K, as if all points shared one error: the diagonal alone has it.",
        ),
        Mistake(
            _other_mean(lambda plain, noisy, y: noisy @ y),
            "The mean is multiplied by K, not by its inverse: torch.linalg.solve(K + noise**2 * eye, y).",
        ),
        Mistake(
            _other_mean(lambda plain, noisy, y: y),
            "Points that lie close together say nearly the same, and count twice here: solve with K first.",
        ),
        Mistake(
            _other_mean(lambda plain, noisy, y: torch.linalg.solve(plain, y)),
            "The variance is right, but the mean is solved with a K without noise. Both take the same matrix.",
        ),
        Mistake(
            _posterior(sign=1),
            "The variance grows with what was seen. Seeing takes uncertainty away: subtract k' (K + noise^2 I)^-1 k.",
        ),
        Mistake(
            _posterior(prior=1.0),
            "The variance before anything is seen is taken for 1. It is the diagonal of kernel(query, query).",
        ),
        Mistake(_spread, "This is the standard deviation. Return the variance, without the root."),
    ),
)


# --- attend: every row looks at the context, no row at a query. ---


def _scores(q: Tensor, k: Tensor) -> Tensor:
    return q @ k.T / q.shape[1] ** 0.5


def _masked(allowed: Callable[[int, int], Tensor], power: float = 0.5) -> Answer:
    """Softmax attention where each row may look at what ``allowed(rows, context)`` lets it."""

    def attend(q: Tensor, k: Tensor, v: Tensor, context: int) -> Tensor:
        scores = q @ k.T / q.shape[1] ** power
        return scores.masked_fill(~allowed(len(q), context), -torch.inf).softmax(1) @ v

    return attend


def _context_only(rows: int, context: int) -> Tensor:
    return (torch.arange(rows) < context).expand(rows, rows)


def _times_zero(q: Tensor, k: Tensor, v: Tensor, context: int) -> Tensor:
    return (_scores(q, k) * _context_only(len(q), context)).softmax(1) @ v


def _observe_attend(answer: Answer) -> dict[str, Tensor]:
    return {"rows": answer(_random(0, 7, 4), _random(1, 7, 4), _random(2, 7, 3), 4)}


_DIMENSION = (
    "The softmax runs over the wrong dimension: it is the weights of one row that add up to 1. Take softmax(-1)."
)

ATTEND = Exercise(
    name="attend",
    observe=_observe_attend,
    right=_masked(_context_only),
    mistakes=(
        Mistake(
            _masked(lambda rows, context: torch.ones(rows, rows, dtype=torch.bool)),
            "Queries are seen: the answer to one depends on what else is asked. Hide scores[:, context:].",
        ),
        Mistake(
            _masked(lambda rows, context: _context_only(rows, context) | torch.eye(rows, dtype=torch.bool)),
            "Each query also looks at itself, and has no target to tell of: hide all columns of the queries.",
        ),
        Mistake(
            _masked(lambda rows, context: torch.ones(rows, rows, dtype=torch.bool).tril()),
            "This is the causal mask of language models: a row sees those before it. A support set has no order.",
        ),
        Mistake(lambda q, k, v, context: _scores(q, k[:context]).softmax(0) @ v[:context], _DIMENSION),
        Mistake(
            lambda q, k, v, context: (
                _scores(q, k).masked_fill(~_context_only(len(q), context), -torch.inf).softmax(0) @ v
            ),
            _DIMENSION,
        ),
        Mistake(
            _times_zero,
            "Hidden scores are set to 0, and exp(0) is 1: hidden rows still count. Fill in -inf before the softmax.",
        ),
        Mistake(
            lambda q, k, v, context: _scores(q, k).softmax(1)[:, :context] @ v[:context],
            "The mask comes after the softmax, so what is left no longer adds up to 1. Hide first, then the softmax.",
        ),
        Mistake(
            _masked(_context_only, power=0),
            "The scores are not divided by sqrt(d): with many numbers a row, the softmax would look at one row alone.",
        ),
    ),
)


# --- descent_layer: one layer of linear attention takes one gradient step, for all tokens. ---

Weigh = Callable[[Tensor, Tensor], Tensor]


def _layer(weigh: Weigh, *, whole: bool = False, all_read: bool = False, queries_only: bool = False) -> Answer:
    """A layer that adds up targets by ``weigh(products, size of the step)``, with any of the classic mistakes in it."""

    def descent_layer(tokens: Tensor, context: int, lr: float) -> Tensor:
        x, y = tokens[:, :-1], tokens[:, -1]
        read = len(tokens) if all_read else context
        compared = tokens if whole else x
        size = torch.tensor([lr, context, len(tokens)], dtype=tokens.dtype)
        step = weigh(compared @ compared[:read].T, size) @ y[:read]
        if queries_only:
            step = torch.cat([torch.zeros_like(step[:context]), step[context:]])
        return torch.cat([x, (y - step)[:, None]], 1)

    return descent_layer


def _right_share(products: Tensor, size: Tensor) -> Tensor:
    return 2 * size[0] / size[1] * products


def _observe_layer(answer: Answer) -> dict[str, Tensor]:
    tokens = _random(0, 8, 4)
    later = tokens.clone()
    tokens[5:, -1] = 0  # of three queries nothing is known before the first layer
    return {"tokens after the first layer": answer(tokens, 5, 0.1), "tokens after a later one": answer(later, 5, 0.1)}


def _slips() -> Iterator[Mistake]:
    yield Mistake(
        _layer(lambda products, size: size[0] / size[1] * products),
        "The factor 2 of the square's derivative is missing.",
    )
    yield Mistake(
        _layer(lambda products, size: 2 * size[0] * products),
        "Sum and mean are mixed up: the loss is a mean over the context rows, so divide by their number.",
    )
    yield Mistake(
        _layer(lambda products, size: 2 * size[0] / size[2] * products),
        "The sum is divided by the number of all tokens. The loss is a mean over the context rows alone.",
    )
    yield Mistake(_layer(lambda products, size: 2 / size[1] * products), "The rate is missing: 2 * lr / context.")
    yield Mistake(
        _layer(lambda products, size: -_right_share(products, size)),
        "The sign: what the step explains is taken away from each target, and less is left to explain.",
    )
    yield Mistake(
        _layer(lambda products, size: products.softmax(1)),
        "The softmax is left in. A gradient step takes the products as they are, negative ones too.",
    )
    yield Mistake(
        _layer(_right_share, all_read=True),
        "The queries are read as if they were examples. With a target of 0 that does no harm in the first layer, and "
        "harm in all that follow: sum over tokens[:context].",
    )
    yield Mistake(
        _layer(_right_share, queries_only=True),
        "Only the queries are changed, so the second layer repeats the first step: change the context's targets, too.",
    )
    yield Mistake(
        _layer(_right_share, whole=True),
        "The products are those of whole tokens. Keys and queries are the inputs alone; the target is the value.",
    )


DESCENT = Exercise(name="descent_layer", observe=_observe_layer, right=_layer(_right_share), mistakes=tuple(_slips()))

EXERCISES = (POSTERIOR, ATTEND, DESCENT)

QUESTIONS = (
    Question(
        "The network of this page reads five points of a new function. What of it changes?",
        (
            ("Its weights, by a few gradient steps", "That is MAML. Here no gradient is taken after the training."),
            ("Only what flows through it", "What it learned of this function is in keys and values, not in weights."),
            ("Its prior", "What it believes before it sees points was fixed by the training."),
        ),
        right=1,
    ),
    Question(
        "It is trained by -log p of query targets, on functions drawn from a prior. Which answer has the least loss?",
        (
            ("The mean of the targets, with no width", "A density at one point is lost as soon as the target is not."),
            (
                "The posterior predictive, averaged over the prior's hyperparameters",
                "The gap of any other answer is its KL divergence from this one, which is never below 0.",
            ),
            (
                "The posterior told the true hyperparameters",
                "It has more to go by than the points. Who is not told it cannot answer so.",
            ),
        ),
        right=1,
    ),
    Question(
        "The learned answer lies 0.15 nats behind exact Bayes that was told the hyperparameters, and 0.04 behind exact "
        "Bayes over the prior. What can longer training still gain?",
        (
            ("0.15 nats", "Most of that is what the hyperparameters tell; no training on the same prior finds it."),
            ("About 0.04 nats", "The best that can be had from the points alone is exact Bayes over the prior."),
            ("As much as one likes", "The loss has a least value, and it is known here."),
        ),
        right=1,
    ),
    Question(
        "You hand it points of a function that wiggles faster than any in its prior. What happens?",
        (
            ("It raises an error", "It cannot know. To it these are noisy points of a smooth function."),
            ("It widens its band until it covers all", "Only as far as its prior knows such noise, and no further."),
            (
                "It explains them by what its prior knows, and gives no sign",
                "Bayes' rule is right for its prior. That the prior is wrong is not among the things it can say.",
            ),
        ),
        right=2,
    ),
    Question(
        "Weights can be written down with which a layer of linear attention takes a gradient step. What follows for a "
        "trained transformer?",
        (
            ("That it learns by gradient descent", "Possible is not actual: it must be measured on the trained one."),
            (
                "That it could; whether it does must be measured",
                "A layer without softmax, trained alone on linear tasks, comes out near that step. Others need not.",
            ),
            ("Nothing at all", "It shows that reading can be learning, in a case that can be checked to the digit."),
        ),
        right=1,
    ),
    Question(
        "The classifier of tables was never trained on a real table. What does it know?",
        (
            ("The tables of the internet", "It has seen none. Every table of its training was invented."),
            (
                "Nothing: it starts afresh with each table",
                "A tree does. This one brings a belief about tables with it.",
            ),
            (
                "What tables of its prior are like, and nothing else",
                "Where yours is like them it is hard to beat with few rows; where it is not, no row says so.",
            ),
        ),
        right=2,
    ),
)
