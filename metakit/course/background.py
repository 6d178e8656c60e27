"""The history, the exercises and the questions of notebook 01."""

from __future__ import annotations

import torch
from torch import Tensor

from metakit.course.exercises import Answer, Exercise, Mistake
from metakit.course.quizzes import Question
from metakit.records import Event

STORY = (
    Event(1987, "Schmidhuber", "A program that changes programs may also change the way it changes them."),
    Event(1990, "Bengio, Bengio, Cloutier", "The learning rule of a synapse is a formula with parameters: learn them."),
    Event(1998, "Thrun, Pratt", "A book gathers the field and gives it a name: learning to learn."),
    Event(
        2001, "Hochreiter, Younger, Conwell", "A recurrent network, trained by gradients, learns in its activations."
    ),
    Event(2016, "Vinyals and others", "Train as you will be tested: episodes with a few examples of each class."),
    Event(2017, "Finn, Abbeel, Levine", "Learn the initial weights from which a few gradient steps suffice."),
    Event(2020, "Brown and others", "A large language model picks up a task from the examples in its prompt."),
    Event(
        2022,
        "Garg, Tsipras, Liang, Valiant",
        "A transformer predicts linear functions about as well as least squares, in its forward pass.",
    ),
)

_F64 = torch.float64


def _random(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=_F64)


# --- pool_tasks: the union of tasks, on which pre-training fits one network. ---


def _pool(support_x: Tensor, support_y: Tensor, query_x: Tensor, query_y: Tensor) -> tuple[Tensor, Tensor]:
    return torch.cat([support_x, query_x], 1).flatten(0, 1), torch.cat([support_y, query_y], 1).flatten(0, 1)


def _observe_pool(answer: Answer) -> dict[str, Tensor]:
    sides = [_random(seed, 3, rows, 1) for seed, rows in enumerate((2, 2, 4, 4))]
    pair = answer(*sides)
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise TypeError("return two tensors, x and y")
    x, y = pair
    if not all(isinstance(side, Tensor) and side.dim() == 2 for side in pair):
        return {"x": x, "y": y}
    if len(x) != len(y):
        raise ValueError(f"x has {len(x)} rows and y has {len(y)}; each x needs its y")
    # Any order of the rows will do, as long as each x keeps its y.
    order = x[:, 0].argsort()
    return {"x": x[order], "y": y[order]}


POOL_TASKS = Exercise(
    name="pool_tasks",
    observe=_observe_pool,
    right=_pool,
    mistakes=(
        Mistake(
            lambda sx, sy, qx, qy: (sx.flatten(0, 1), sy.flatten(0, 1)),
            "Only the support rows are there. Pre-training uses every row of its training tasks, the query rows too.",
        ),
        Mistake(
            lambda sx, sy, qx, qy: (qx.flatten(0, 1), qy.flatten(0, 1)),
            "Only the query rows are there. Pre-training uses every row of its training tasks, the support rows too.",
        ),
        Mistake(
            lambda sx, sy, qx, qy: (
                torch.cat([sx, qx], 1).flatten(0, 1),
                torch.cat([sy.flatten(0, 1), qy.flatten(0, 1)]),
            ),
            "Rows and targets are in different orders: an x has the y of another row. Join both in the same way.",
        ),
        Mistake(
            lambda sx, sy, qx, qy: (torch.cat([sx, qx], 1), torch.cat([sy, qy], 1)),
            "The tasks are still apart: [T, S + Q, 1]. In the union there is one long list of rows, [T (S + Q), 1].",
        ),
        Mistake(
            lambda sx, sy, qx, qy: (torch.cat([sx, qx], 1).mean(0), torch.cat([sy, qy], 1).mean(0)),
            "Rows of different tasks are averaged. Keep every row; the network does the averaging.",
        ),
    ),
)


# --- paired_gain: how much better, task by task. ---


def _paired(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    difference = a - b
    return difference.mean(), 1.96 * difference.std() / len(difference) ** 0.5


def _observe_paired(answer: Answer) -> dict[str, Tensor]:
    hard = _random(0, 40).abs() * 5
    result = answer(hard + 0.2 * _random(1, 40).abs() + 0.3, hard)
    if not isinstance(result, tuple | list) or len(result) != 2:
        raise TypeError("return two numbers, the mean gain and the half width of its interval")
    return {name: torch.as_tensor(value) for name, value in zip(("mean gain", "half width"), result, strict=True)}


PAIRED_GAIN = Exercise(
    name="paired_gain",
    observe=_observe_paired,
    right=_paired,
    mistakes=(
        Mistake(
            lambda a, b: (a.mean() - b.mean(), 1.96 * ((a.var() + b.var()) / len(a)) ** 0.5),
            "This is the interval for two groups of different tasks. Before and after are the same tasks: take the "
            "difference task by task, and then its spread. What makes a task hard both times cancels.",
        ),
        Mistake(
            lambda a, b: (a.mean() - b.mean(), 1.96 * (a.std() + b.std()) / len(a) ** 0.5),
            "The two half widths are added. Take the difference task by task first, and then the spread of that.",
        ),
        Mistake(
            lambda a, b: (a.mean() - b.mean(), 1.96 * (a - b).std()),
            "This is how far single tasks lie apart: divide by the root of the number of tasks.",
        ),
        Mistake(
            lambda a, b: _paired(b, a),
            "The sign: a gain is what the loss falls by, loss_before - loss_after.",
        ),
        Mistake(
            lambda a, b: ((a - b).sum(), _paired(a, b)[1]),
            "Sum and mean are mixed up: a sum over tasks grows with their number.",
        ),
    ),
)


# --- steps_to: how long one has to wait. ---


def _steps_to(curve: Tensor, level: float) -> int | None:
    below = (curve <= level).nonzero()
    return int(below[0]) if len(below) else None


_CURVES = (
    (torch.tensor([4.0, 2.0, 1.0, 0.4, 0.2]), 0.5),  # falls through
    (torch.tensor([4.0, 0.4, 0.9, 0.6, 0.3]), 0.5),  # below for a moment: that counts
    (torch.tensor([4.0, 3.0, 2.5, 2.4, 2.3]), 0.5),  # never
    (torch.tensor([0.3, 0.2, 0.1, 0.1, 0.1]), 0.5),  # before the first step
    (torch.tensor([4.0, 1.0, 0.5, 0.4, 0.2]), 0.5),  # exactly there
)


def _observe_steps_to(answer: Answer) -> dict[str, Tensor]:
    found = [answer(curve, level) for curve, level in _CURVES]
    return {"steps": torch.tensor([-1.0 if steps is None else float(steps) for steps in found])}


STEPS_TO = Exercise(
    name="steps_to",
    observe=_observe_steps_to,
    right=_steps_to,
    mistakes=(
        Mistake(
            lambda curve, level: int((curve <= level).float().argmax()),
            "A curve that never comes down gets 0, which says that it was there from the beginning. Return None.",
        ),
        Mistake(
            lambda curve, level: None if (steps := _steps_to(curve, level)) is None else steps + 1,
            "One too many: curve[0] is the loss before any step, so the index is the number of steps.",
        ),
        Mistake(
            lambda curve, level: int(curve.argmin()) if curve.min() <= level else None,
            "This is where the loss is lowest. Asked for is the first step at which it is low enough.",
        ),
        Mistake(
            lambda curve, level: int((curve > level).sum()) if curve.min() <= level else None,
            "This counts the steps spent above. A curve may come back up: look for the first place that is low enough.",
        ),
        Mistake(
            lambda curve, level: next((k for k, loss in enumerate(curve.tolist()) if loss < level), None),
            "A loss that is exactly at the level has reached it: use <=.",
        ),
    ),
)

EXERCISES = (POOL_TASKS, STEPS_TO, PAIRED_GAIN)

QUESTIONS = (
    Question(
        "Pre-training and meta-training saw the same curves. What was different?",
        (
            ("The network", "Both had the same network with the same random beginning."),
            (
                "What was minimised: the loss at the weights, or the loss after a step from them",
                "The first asks for one function that suits all curves, the second for a start that moves well.",
            ),
            ("The number of outer steps", "It was the same for both."),
        ),
        right=1,
    ),
    Question(
        "Few training tasks, many outer steps. What did the picture show?",
        (
            ("The learner got good all the same", "With four tasks it stayed far behind, however long it trained."),
            (
                "The loss on new tasks stayed as high as from scratch: more compute did not replace more tasks",
                "It learns its training tasks by heart, one floor up from overfitting rows.",
            ),
            ("Training diverged", "The loss on the training tasks went on falling."),
        ),
        right=1,
    ),
    Question(
        "What did Bengio, Bengio and Cloutier want to learn in 1990?",
        (
            ("The initial weights", "That is MAML, 2017."),
            ("The rule by which a synapse changes", "Its form was given, its parameters were to be found."),
            ("The examples in a prompt", "That is in-context learning; there the rule sits in the forward pass."),
        ),
        right=1,
    ),
    Question(
        "Why are all racers judged on the same 100 new tasks?",
        (
            (
                "A task that is hard for all then does not decide the race",
                "The difference task by task has a narrower interval than the two means.",
            ),
            ("It saves time", "Drawing tasks costs next to nothing."),
            ("Other tasks would be too hard", "They come from the same distribution."),
        ),
        right=0,
    ),
    Question(
        "In-context learning, seen as a race: what is its inner loop?",
        (
            ("The training on the large text", "That is the outer loop: it changes the weights, once for all tasks."),
            ("Reading the examples in the prompt", "The weights stay; what is learned sits in the activations."),
            ("There is none", "It does adapt to the examples. It needs no gradient step for that."),
        ),
        right=1,
    ),
)
