"""Exercises and questions of notebook 00."""

from __future__ import annotations

import torch
from torch import Tensor

from metakit.course.exercises import Answer, Exercise, Mistake
from metakit.course.quizzes import Question

# --- split_rows: what a task consists of. ---


def _split(x: Tensor, y: Tensor, shots: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return x[:shots], y[:shots], x[shots:], y[shots:]


def _observe_split(answer: Answer) -> dict[str, Tensor]:
    x = torch.arange(6.0)[:, None]
    parts = answer(x, 10 * x, 4)
    names = ("support_x", "support_y", "query_x", "query_y")
    if not isinstance(parts, tuple | list) or len(parts) != 4:
        raise TypeError(f"return four tensors, {', '.join(names)}")
    return dict(zip(names, parts, strict=True))


SPLIT_ROWS = Exercise(
    name="split_rows",
    observe=_observe_split,
    right=_split,
    mistakes=(
        Mistake(
            lambda x, y, shots: (x[:shots], y[:shots], x[:shots], y[:shots]),
            "The support set is used as the query set. A learner that only remembers its rows would look perfect; "
            "judge it on the rows that are left, x[shots:].",
        ),
        Mistake(
            lambda x, y, shots: (x[:shots], y[:shots], x, y),
            "The query set holds the support rows as well. They leak into the judgement; leave them out: x[shots:].",
        ),
        Mistake(
            lambda x, y, shots: (x[shots:], y[shots:], x[:shots], y[:shots]),
            "Support and query have changed places: the first `shots` rows are there to learn from.",
        ),
        Mistake(
            lambda x, y, shots: (x[:shots], x[shots:], y[:shots], y[shots:]),
            "The parts are right but in another order: support_x, support_y, query_x, query_y.",
        ),
    ),
)


# --- interval: how sure a mean over tasks is. ---


def _interval(losses: Tensor) -> tuple[Tensor, Tensor]:
    return losses.mean(), 1.96 * losses.std() / len(losses) ** 0.5


def _observe_interval(answer: Answer) -> dict[str, Tensor]:
    losses = torch.tensor([0.1, 0.4, 0.2, 1.5, 0.3, 0.7, 0.2, 0.9], dtype=torch.float64)
    result = answer(losses)
    if not isinstance(result, tuple | list) or len(result) != 2:
        raise TypeError("return two numbers, the mean and the half width of its interval")
    return {name: torch.as_tensor(v) for name, v in zip(("mean", "half width"), result, strict=True)}


INTERVAL = Exercise(
    name="interval",
    observe=_observe_interval,
    right=_interval,
    mistakes=(
        Mistake(
            lambda losses: (losses.mean(), 1.96 * losses.std()),
            "This is how far single tasks lie apart, not how sure their mean is: divide by the root of the number of "
            "tasks.",
        ),
        Mistake(
            lambda losses: (losses.mean(), 1.96 * losses.std() / len(losses)),
            "Divide by the root of the number of tasks, not by the number: four times the tasks halve the interval.",
        ),
        Mistake(
            lambda losses: (losses.mean(), losses.std() / len(losses) ** 0.5),
            "This is one standard error. 95% of a normal distribution lie within 1.96 of them.",
        ),
        Mistake(
            lambda losses: (losses.sum(), 1.96 * losses.std() / len(losses) ** 0.5),
            "Sum and mean are mixed up: a sum over tasks grows with their number and cannot be compared.",
        ),
    ),
)

EXERCISES = (SPLIT_ROWS, INTERVAL)

QUESTIONS = (
    Question(
        "What is one task in this notebook?",
        (
            ("One point (x, y)", "A point is one row of a task. A task here has ten of them to learn from."),
            ("One sine curve, with points to learn from and others to be judged on", "A curve, with its two sets."),
            ("The whole training run", "The run meets thousands of tasks; the learner never sees the same one twice."),
        ),
        right=1,
    ),
    Question(
        "What did meta-training change?",
        (
            ("It stored the curves it met", "Nothing is stored: a network of 1,761 numbers is all there is."),
            ("The points of the new task", "The points are given. They are what the learner adapts to."),
            ("The weights from which adaptation starts", "Those weights are what the outer loop learns."),
        ),
        right=2,
    ),
    Question(
        "Why is the learner judged on other points than it adapts to?",
        (
            ("To make the loss smaller", "It makes it larger, if anything: unseen points are harder."),
            ("Because remembering the points is not the same as knowing the curve", "Only new points tell them apart."),
            ("Because there are too few points", "Even with many, points already seen would not tell."),
        ),
        right=1,
    ),
)
