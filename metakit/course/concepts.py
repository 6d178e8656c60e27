"""Exercises and questions of notebook 02."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from metakit.course.exercises import Answer, Exercise, Mistake
from metakit.course.quizzes import Question

Predictor = Callable[[Tensor], Tensor]
Algorithm = Callable[[Tensor, Tensor], Predictor]
Task = tuple[Tensor, Tensor, Tensor, Tensor]

_F64 = torch.float64


def _random(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=_F64)


# --- nearest: a learning algorithm is a function that returns a function. ---


def _nearest(support_x: Tensor, support_y: Tensor) -> Predictor:
    return lambda x: support_y[torch.cdist(x, support_x).argmin(1)]


def _observe_nearest(answer: Answer) -> dict[str, Tensor]:
    predictor = answer(_random(0, 6, 2), torch.arange(1.0, 7.0, dtype=_F64)[:, None])
    if not callable(predictor):
        raise TypeError("return a function x -> y, which can be asked later, not predictions")
    return {"predictions": predictor(_random(1, 5, 2))}


NEAREST = Exercise(
    name="nearest",
    observe=_observe_nearest,
    right=_nearest,
    mistakes=(
        Mistake(
            lambda sx, sy: lambda x: sy[torch.cdist(x, sx).argmax(1)],
            "This answers with the row that is farthest away: argmin, not argmax.",
        ),
        Mistake(
            lambda sx, sy: lambda x: torch.cdist(x, sx).argmin(1)[:, None].double(),
            "This gives the number of the nearest row. Look up its target: support_y[...].",
        ),
        Mistake(
            lambda sx, sy: lambda x: sy.mean(0).expand(len(x), -1),
            "The same answer everywhere: the mean of the targets. Look at which support row is nearest to each x.",
        ),
        Mistake(
            lambda sx, sy: lambda x: sx[torch.cdist(x, sx).argmin(1)],
            "This gives the nearest row itself. Its target is asked for: support_y[...].",
        ),
        Mistake(
            lambda sx, sy: lambda x: sy[torch.cdist(sx, x).argmin(1)],
            "The distances are the wrong way round: here each support row looks for its nearest x. Each x must look "
            "for its nearest support row.",
        ),
    ),
)


# --- judge_algorithm: an algorithm is judged by the query sets of many tasks. ---


def _judge(algorithm: Algorithm, tasks: Sequence[Task]) -> Tensor:
    return torch.stack([(algorithm(sx, sy)(qx) - qy).square().mean() for sx, sy, qx, qy in tasks]).mean()


def _slope(support_x: Tensor, support_y: Tensor) -> Predictor:
    """The best line through the origin: unlike a nearest neighbour, it errs on its own rows too."""
    return lambda x: x * (support_x * support_y).sum() / support_x.square().sum()


def _observe_judge(answer: Answer) -> dict[str, Tensor]:
    # Of different sizes, so that a mean over all rows differs from the mean over tasks.
    tasks = [tuple(_random(10 * t + i, rows, 1) for i, rows in enumerate((3, 3, q, q))) for t, q in enumerate((2, 7))]
    return {"loss": torch.as_tensor(answer(_slope, tasks))}


def _judged(learn: tuple[int, int], ask: tuple[int, int]) -> Answer:
    def answer(algorithm: Algorithm, tasks: Sequence[Task]) -> Tensor:
        return _judge(algorithm, [(task[learn[0]], task[learn[1]], task[ask[0]], task[ask[1]]) for task in tasks])

    return answer


def _leaks(algorithm: Algorithm, tasks: Sequence[Task]) -> Tensor:
    return _judge(algorithm, [(torch.cat([a, c]), torch.cat([b, d]), c, d) for a, b, c, d in tasks])


def _one_for_all(algorithm: Algorithm, tasks: Sequence[Task]) -> Tensor:
    first = tasks[0]
    return _judge(algorithm, [(first[0], first[1], task[2], task[3]) for task in tasks])


def _over_rows(algorithm: Algorithm, tasks: Sequence[Task]) -> Tensor:
    return torch.cat([(algorithm(a, b)(c) - d).square().flatten() for a, b, c, d in tasks]).mean()


JUDGE_ALGORITHM = Exercise(
    name="judge_algorithm",
    observe=_observe_judge,
    right=_judge,
    mistakes=(
        Mistake(
            _judged((0, 1), (0, 1)),
            "The predictor is judged on the support rows, from which it was made. A nearest neighbour looks perfect "
            "there; use the query rows.",
        ),
        Mistake(_judged((2, 3), (0, 1)), "Support and query have changed places: learn from support, judge on query."),
        Mistake(
            _leaks,
            "The query rows are among those that are learned from: they leak. Give it the support rows only.",
        ),
        Mistake(
            _one_for_all,
            "One predictor, made from the first task, answers for all tasks. Each task needs its own: call the "
            "algorithm inside the loop.",
        ),
        Mistake(
            lambda algorithm, tasks: len(tasks) * _judge(algorithm, tasks),
            "Sum and mean are mixed up: equation (3) is the mean over the tasks.",
        ),
        Mistake(
            _over_rows,
            "All query rows are thrown together, so that a task with more rows counts for more. First the mean of each "
            "task, then the mean of these.",
        ),
    ),
)


# --- kmeans_step: labels without a teacher. ---


def _kmeans_step(x: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    labels = torch.cdist(x, centres).argmin(1)
    return labels, torch.stack([x[labels == k].mean(0) for k in range(len(centres))])


def _observe_kmeans(answer: Answer) -> dict[str, Tensor]:
    x = _random(0, 12, 2)
    pair = answer(x, x[:3])
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise TypeError("return two tensors, the labels and the new centres")
    return {"labels": pair[0], "centres": pair[1]}


def _moved(how: Callable[[Tensor, Tensor, int], Tensor]) -> Answer:
    def answer(x: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
        labels = torch.cdist(x, centres).argmin(1)
        return labels, torch.stack([how(x, labels, k) for k in range(len(centres))])

    return answer


def _farthest(x: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    labels = torch.cdist(x, centres).argmax(1)
    return labels, torch.stack([x[labels == k].mean(0) for k in range(len(centres))])


KMEANS_STEP = Exercise(
    name="kmeans_step",
    observe=_observe_kmeans,
    right=_kmeans_step,
    mistakes=(
        Mistake(_farthest, "Each row goes to the centre that is farthest away: argmin, not argmax."),
        Mistake(
            _moved(lambda x, labels, k: x[labels == k].sum(0)),
            "The rows of a cluster are added up. Its centre is their mean: divide by their number.",
        ),
        Mistake(_moved(lambda x, labels, k: x.mean(0)), "Each centre is the mean of all rows: take x[labels == k]."),
        Mistake(
            lambda x, centres: (torch.cdist(x, centres).argmin(1), centres),
            "The centres have not moved: equation (5) is missing.",
        ),
        Mistake(
            lambda x, centres: (
                torch.cdist(x, _kmeans_step(x, centres)[1]).argmin(1),
                _kmeans_step(x, centres)[1],
            ),
            "The labels belong to the new centres. Return those by which the centres were moved.",
        ),
        Mistake(
            _moved(lambda x, labels, k: x[labels == k].mean()),
            "One number for each centre: the mean runs over the features too. Use .mean(0).",
        ),
    ),
)

EXERCISES = (NEAREST, JUDGE_ALGORITHM, KMEANS_STEP)

QUESTIONS = (
    Question(
        "What does a learning algorithm return?",
        (
            ("A loss", "The loss judges what it returns."),
            ("A predictor: a function that can be asked about new inputs", "Data in, function out."),
            ("Better data", "The data stay what they are."),
        ),
        right=1,
    ),
    Question(
        "One algorithm was best on sine curves, another on linear tasks. What follows?",
        (
            (
                "The best algorithm depends on the task distribution",
                "So the distribution has to be said with the score.",
            ),
            ("One of them has a bug", "Both do what they should; their guesses about the world differ."),
            ("The support sets were too small", "Even with many rows no straight line becomes a sine."),
        ),
        right=0,
    ),
    Question(
        "What was unsupervised in the unsupervised meta-learning above?",
        (
            ("Everything, the test as well", "The test tasks have true labels; only they can tell whether it helped."),
            ("The making of the training tasks: their labels are cluster numbers", "No true class was looked at."),
            ("The inner loop", "It has labels: those of the clusters in training, true ones in the test."),
        ),
        right=1,
    ),
    Question(
        "Which of these is meta-knowledge?",
        (
            ("The weights after adaptation to one task", "They serve that task, and hurt the next one."),
            ("An inner rate that somebody typed in", "It serves all tasks, but it was not learned from them."),
            ("The start that was learned from many tasks", "Learned from tasks, and used for new ones."),
        ),
        right=2,
    ),
    Question(
        "The broad learner was given curves from outside its distribution. What happened?",
        (
            ("It did as well as inside", "Its loss was several times as large."),
            (
                "It adapted, but less well than inside its distribution",
                "Breadth is as wide as the tasks it was learned from, and a little more.",
            ),
            ("It refused", "Nothing in it knows where its distribution ends."),
        ),
        right=1,
    ),
)
