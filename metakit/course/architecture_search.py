"""Exercises and questions of notebook 06."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from metakit.course.exercises import Answer, Exercise, Mistake
from metakit.course.quizzes import Question

_F64 = torch.float64
Rows = tuple[Tensor, Tensor]
Train = Callable[[int, Tensor, Tensor], Callable[[Tensor], Tensor]]


def _random(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=_F64)


# --- choose_size: the outer loop of the example, mended. ---


def _polynomial(size: int, x: Tensor, y: Tensor) -> Callable[[Tensor], Tensor]:
    """A learner that is trained in no time: least squares on the powers of x up to ``size``."""
    found = torch.linalg.lstsq(_powers(x, size), y).solution
    return lambda x: _powers(x, size) @ found


def _powers(x: Tensor, size: int) -> Tensor:
    return torch.cat([x**k for k in range(size + 1)], 1)


def _losses(sizes: Sequence[int], train: Train, learned: Rows, judged: Rows) -> Tensor:
    return torch.stack([(train(s, *learned)(judged[0]) - judged[1]).square().mean() for s in sizes])


def _choose_size(sizes: Sequence[int], train: Train, support: Rows, query: Rows) -> tuple:
    losses = _losses(sizes, train, support, query)
    return sizes[int(losses.argmin())], losses


def _by_training_loss(sizes: Sequence[int], train: Train, support: Rows, query: Rows) -> tuple:
    losses = _losses(sizes, train, support, support)
    return sizes[int(losses.argmin())], losses


def _chosen_by_training_loss(sizes: Sequence[int], train: Train, support: Rows, query: Rows) -> tuple:
    chosen, _ = _by_training_loss(sizes, train, support, query)
    return chosen, _losses(sizes, train, support, query)


def _trained_on_all(sizes: Sequence[int], train: Train, support: Rows, query: Rows) -> tuple:
    both = torch.cat([support[0], query[0]]), torch.cat([support[1], query[1]])
    losses = _losses(sizes, train, both, query)
    return sizes[int(losses.argmin())], losses


def _trained_on_query(sizes: Sequence[int], train: Train, support: Rows, query: Rows) -> tuple:
    return _by_training_loss(sizes, train, query, query)


def _listed_twice(sizes: Sequence[int], train: Train, support: Rows, query: Rows) -> tuple:
    chosen, losses = _choose_size(sizes, train, support, query)
    return chosen, losses.repeat_interleave(2)


def _last(sizes: Sequence[int], train: Train, support: Rows, query: Rows) -> tuple:
    return sizes[-1], _losses(sizes, train, support, query)


def _worst(sizes: Sequence[int], train: Train, support: Rows, query: Rows) -> tuple:
    losses = _losses(sizes, train, support, query)
    return sizes[int(losses.argmax())], losses


def _place(sizes: Sequence[int], train: Train, support: Rows, query: Rows) -> tuple:
    losses = _losses(sizes, train, support, query)
    return int(losses.argmin()), losses


def _observe_choice(answer: Answer) -> dict[str, Tensor]:
    x = torch.linspace(-2, 2, 24, dtype=_F64)[:, None]
    y = x**3 - 2 * x + 0.5 * _random(2, 24, 1)
    result = answer((7, 1, 2, 4, 3, 5), _polynomial, (x[::2], y[::2]), (x[1::2], y[1::2]))
    if not isinstance(result, tuple | list) or len(result) != 2:
        raise TypeError("return two things: the chosen size, and the validation losses of all sizes")
    chosen, losses = result
    return {"validation losses": losses, "chosen size": torch.tensor(float(chosen))}


CHOOSE_SIZE = Exercise(
    name="choose_size",
    observe=_observe_choice,
    right=_choose_size,
    mistakes=(
        Mistake(
            _by_training_loss,
            "The sizes are judged on the rows that they learned: the largest wins. Judge on the query rows.",
        ),
        Mistake(
            _chosen_by_training_loss,
            "The losses are right, but the choice is made by training loss. Choose the least of the losses returned.",
        ),
        Mistake(
            _trained_on_all,
            "The validation rows are learned too, so they are no judge any more. Train on the support rows alone.",
        ),
        Mistake(
            _trained_on_query,
            "The networks are trained on the query rows, and judged on the same rows. Train on the support rows.",
        ),
        Mistake(_listed_twice, "Each candidate is listed twice, as in the example. One entry for each size."),
        Mistake(_last, "The last candidate is taken, not the best: nothing is chosen. Use argmin."),
        Mistake(_worst, "The largest loss is chosen. A loss is better when it is lower."),
        Mistake(_place, "That is the place of the best size in the list, not the size. Index sizes with it."),
    ),
)


# --- padded_output: networks of many widths as one stack. ---


def _padded_output(
    x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, units: Tensor, *, extra: int = 0, late: bool = True
) -> Tensor:
    inside = (torch.arange(w1.shape[1]) < units[:, None] + extra).to(x.dtype)[:, :, None]
    z = torch.einsum("pud,sd->pus", w1, x) + b1[:, :, None]
    h = torch.sigmoid(z) * inside if late else torch.sigmoid(z * inside)
    return torch.einsum("pu,pus->ps", w2, h) + b2[:, None]


def _without_mask(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, units: Tensor) -> Tensor:
    return _padded_output(x, w1, b1, w2, b2, units, extra=w1.shape[1])


def _mean_of_units(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, units: Tensor) -> Tensor:
    return _padded_output(x, w1, b1, w2 / units[:, None], b2, units)


def _without_last_bias(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, units: Tensor) -> Tensor:
    return _padded_output(x, w1, b1, w2, torch.zeros_like(b2), units)


def _observe_padded(answer: Answer) -> dict[str, Tensor]:
    stacked = [_random(seed, *shape) for seed, shape in enumerate(((4, 6, 3), (4, 6), (4, 6), (4,)))]
    return {"outputs": answer(_random(9, 5, 3), *stacked, torch.tensor([1, 3, 6, 2]))}


PADDED_OUTPUT = Exercise(
    name="padded_output",
    observe=_observe_padded,
    right=_padded_output,
    mistakes=(
        Mistake(
            _without_mask,
            "All networks use all units: the padding is not masked. Unit u of network p counts only if u < units[p].",
        ),
        Mistake(
            lambda *a: _padded_output(*a, late=False),
            "The mask comes before the activation: sigmoid(0) is 0.5, so the padding still speaks. Mask its output.",
        ),
        Mistake(
            lambda *a: _padded_output(*a, extra=1),
            "Each network has one unit too many: units are counted from 0, so the last is units - 1. Use <, not <=.",
        ),
        Mistake(_mean_of_units, "The hidden units are averaged. The output is their weighted sum, whatever the width."),
        Mistake(_without_last_bias, "The last bias, b2, is missing."),
    ),
)


# --- draws_needed: what random search gives. ---


def _draws_needed(share: float, chance: float) -> int:
    return math.ceil(math.log(1 - chance) / math.log(1 - share))


def _observe_draws(answer: Answer) -> dict[str, Tensor]:
    found = [float(answer(*given)) for given in ((0.05, 0.95), (0.01, 0.9), (0.3, 0.6))]
    return {"numbers of draws": torch.tensor(found, dtype=_F64)}


DRAWS_NEEDED = Exercise(
    name="draws_needed",
    observe=_observe_draws,
    right=_draws_needed,
    mistakes=(
        Mistake(
            lambda share, chance: math.ceil(1 / share),
            "One in 1 / share draws is good on average, but then a hit is not yet as sure as asked. Use chance too.",
        ),
        Mistake(
            lambda share, chance: math.ceil(chance / share),
            "The chances of the draws are added, and would go beyond 1. Multiply the chances of missing instead.",
        ),
        Mistake(
            lambda share, chance: math.ceil(math.log(chance) / math.log(1 - share)),
            "All draws miss with probability 1 - chance, not chance.",
        ),
        Mistake(
            lambda share, chance: math.ceil(math.log(1 - share) / math.log(1 - chance)),
            "share and chance have changed places.",
        ),
        Mistake(
            lambda share, chance: math.floor(math.log(1 - chance) / math.log(1 - share)),
            "Rounded down, the chance is not quite reached. Round up.",
        ),
        Mistake(
            lambda share, chance: math.log(1 - chance) / math.log(1 - share),
            "A number of draws is a whole number. Round up.",
        ),
    ),
)

EXERCISES = (CHOOSE_SIZE, PADDED_OUTPUT, DRAWS_NEEDED)

QUESTIONS = (
    Question(
        "Why must candidates not be chosen by their training loss?",
        (
            ("It costs more to compute", "It costs the same."),
            (
                "The largest network learns its rows by heart and wins, whatever it is worth on others",
                "In the first run, the training loss went down with the units while the validation loss went up.",
            ),
            ("It is always zero", "It is low for large networks, seldom zero."),
        ),
        right=1,
    ),
    Question(
        "With few validation rows, the chosen candidate has a lower loss on them than on the test rows. Why?",
        (
            ("The test rows are harder", "They come from the same network with the same noise."),
            (
                "It was chosen for that very number, and part of what it won was luck on those rows",
                "The fewer rows and the more candidates, the more luck. So the test rows stay out of the search.",
            ),
            ("It was trained on the validation rows", "It was not, but the choice looked at them, which is enough."),
        ),
        right=1,
    ),
    Question(
        "What does the cross-entropy method learn?",
        (
            ("A network", "The networks are what it draws, trains and throws away."),
            (
                "A probability for each value of each dimension, from which candidates are drawn",
                "It is a generative model of good structures, fitted to the elite by maximum likelihood.",
            ),
            (
                "The gradient of the loss by the number of units",
                "A whole number has no gradient; scores are enough.",
            ),
        ),
        right=1,
    ),
    Question(
        "Its model is a product of one distribution a dimension. What can it not express?",
        (
            ("That tanh is better than ReLU", "That is a probability of one dimension."),
            (
                "That a large rate is good only with few layers",
                "It would need a probability of pairs. Evolution changes whole candidates, and can keep such a pair.",
            ),
            ("That two values are equally good", "Both may have probability one half."),
        ),
        right=1,
    ),
    Question(
        "Why is a population trained as one batch quicker than one network after another?",
        (
            (
                "Small networks keep the processor waiting between operations; a stack of them does not",
                "The arithmetic is the same, or more with the padding. What is saved are thousands of small calls.",
            ),
            ("The networks share their weights", "Each has its own, and ends as if it had been trained alone."),
            ("Fewer gradient steps are taken", "Just as many."),
        ),
        right=0,
    ),
)
