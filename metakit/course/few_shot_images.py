"""Exercises and questions of notebook 07."""

from __future__ import annotations

import torch
from torch import Tensor

from metakit.course.exercises import Answer, Exercise, Mistake
from metakit.course.quizzes import Question


def _rows(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --- class_means ---

_LABELS = torch.tensor([2, 0, 1, 1, 2, 0])  # not class by class: an answer must look at them


def _prototypes(z: Tensor, y: Tensor, ways: int) -> Tensor:
    return torch.stack([z[y == n].mean(0) for n in range(ways)])


def _observe_prototypes(answer: Answer) -> dict[str, Tensor]:
    return {"prototypes": answer(_rows(0, 6, 4), _LABELS, 3)}


PROTOTYPES = Exercise(
    name="class_means",
    observe=_observe_prototypes,
    right=_prototypes,
    mistakes=(
        Mistake(
            lambda z, y, ways: torch.stack([z[y == n].mean(-1) for n in range(ways)]),
            "The mean runs over the wrong axis: it is over the rows of a class, .mean(0), not over the features of a "
            "row. A prototype is a vector as long as an embedding.",
        ),
        Mistake(
            lambda z, y, ways: z.view(ways, -1, z.shape[1]).mean(1),
            "This takes the rows to lie class by class. They need not: choose them by their label, z[y == n].",
        ),
        Mistake(
            lambda z, y, ways: z.view(-1, ways, z.shape[1]).mean(0),
            "This takes the labels to be 0, 1, 2, 0, 1, 2. They need not: choose the rows by label, z[y == n].",
        ),
        Mistake(
            lambda z, y, ways: torch.stack([z[y == n].sum(0) for n in range(ways)]),
            "Sum and mean are mixed up: with more shots the prototype would move away from its own rows.",
        ),
        Mistake(
            lambda z, y, ways: z.mean(0).expand(ways, -1),
            "All classes have the same prototype, the mean of all rows: choose the rows of one class, z[y == n].",
        ),
    ),
)


# --- nearest_prototype ---


def _distances(queries: Tensor, prototypes: Tensor) -> Tensor:
    return (queries[:, None] - prototypes).square().sum(-1)


def _observe_nearest(answer: Answer) -> dict[str, Tensor]:
    prototypes = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]], dtype=torch.float64)
    return {"classes": answer(2 * _rows(1, 7, 2) + torch.tensor([1.0, 1.5], dtype=torch.float64), prototypes)}


NEAREST = Exercise(
    name="nearest_prototype",
    observe=_observe_nearest,
    right=lambda queries, prototypes: _distances(queries, prototypes).argmin(1),
    mistakes=(
        Mistake(
            lambda queries, prototypes: _distances(queries, prototypes).argmax(1),
            "This names the farthest prototype: a distance asks for argmin. argmax is for a score, which is minus it.",
        ),
        Mistake(
            lambda queries, prototypes: _distances(queries, prototypes).argmin(0),
            "The minimum runs over the wrong axis: it names a query for each class. Ask for a class for each query.",
        ),
        Mistake(
            lambda queries, prototypes: (queries @ prototypes.T).argmax(1),
            "A product is no distance: a long prototype wins it though it lies far away. Use |q - c|^2.",
        ),
        Mistake(
            lambda queries, prototypes: -_distances(queries, prototypes),
            "These are the scores. The class is the place of the largest: .argmax(1).",
        ),
    ),
)


# --- few_shot_accuracy ---


def _nearest_row(support_x: Tensor, support_y: Tensor, query_x: Tensor) -> Tensor:
    """A learner to be judged: a score for each of two classes, by the nearest support row."""
    distance = (query_x[:, None] - support_x).square().sum(-1)
    return torch.stack([-distance[:, support_y == n].amin(1) for n in range(2)], 1)


def _accuracy(predict: Answer, support_x: Tensor, support_y: Tensor, query_x: Tensor, query_y: Tensor) -> Tensor:
    return (predict(support_x, support_y, query_x).argmax(1) == query_y).double().mean()


def _observe_accuracy(answer: Answer) -> dict[str, Tensor]:
    support_x = torch.tensor([[0.0], [1.0], [2.0]], dtype=torch.float64)
    query_x = torch.tensor([[-1.0], [0.2], [0.7], [1.6], [0.2], [0.4], [0.9], [3.0]], dtype=torch.float64)
    support_y, query_y = torch.tensor([0, 1, 1]), torch.tensor([0, 1, 1, 1, 0, 0, 1, 0])
    return {"accuracy": torch.as_tensor(answer(_nearest_row, support_x, support_y, query_x, query_y))}


ACCURACY = Exercise(
    name="few_shot_accuracy",
    observe=_observe_accuracy,
    right=_accuracy,
    mistakes=(
        Mistake(
            lambda predict, sx, sy, qx, qy: _accuracy(predict, sx, sy, sx, sy),
            "The support set is used as the query set: the learner is asked about pictures it was just shown. "
            "Ask about query_x.",
        ),
        Mistake(
            lambda predict, sx, sy, qx, qy: _accuracy(predict, sx, sy, torch.cat([sx, qx]), torch.cat([sy, qy])),
            "The support pictures are among those asked about; they lift the score. Ask about query_x alone.",
        ),
        Mistake(
            lambda predict, sx, sy, qx, qy: _accuracy(predict, qx, qy, qx, qy),
            "The learner was given the queries with their answers to learn from. Give it support_x and support_y.",
        ),
        Mistake(
            lambda predict, sx, sy, qx, qy: (predict(sx, sy, qx).argmin(1) == qy).double().mean(),
            "predict gives scores, more is better: the answer is argmax. This took the least likely class.",
        ),
        Mistake(
            lambda predict, sx, sy, qx, qy: (predict(sx, sy, qx).argmax(1) == qy).sum(),
            "This counts the right answers. The accuracy is their share: the mean.",
        ),
    ),
)


# --- inductive_norm ---


def _scaled(x: Tensor, by: Tensor, eps: float, *, correction: int = 0) -> Tensor:
    return (x - by.mean(0)) / (by.var(0, correction=correction) + eps).sqrt()


def _observe_norm(answer: Answer) -> dict[str, Tensor]:
    support, query = 2 * _rows(2, 5, 3) + 1, _rows(3, 4, 3) - 0.5
    result = answer(support, query, 0.1)
    if not isinstance(result, tuple | list) or len(result) != 2:
        raise TypeError("return two tensors, the normalised support and query rows")
    return dict(zip(("normalised support", "normalised query"), result, strict=True))


INDUCTIVE = Exercise(
    name="inductive_norm",
    observe=_observe_norm,
    right=lambda s, q, eps: (_scaled(s, s, eps), _scaled(q, s, eps)),
    mistakes=(
        Mistake(
            lambda s, q, eps: (_scaled(s, s, eps), _scaled(q, q, eps)),
            "The query rows are normalised by their own mean and variance: the answer to one query now depends on the "
            "others. That is the transductive way; use the support's statistics.",
        ),
        Mistake(
            lambda s, q, eps: tuple(_scaled(x, torch.cat([s, q]), eps) for x in (s, q)),
            "Query rows leak into the statistics: mean and variance must be those of the support rows alone.",
        ),
        Mistake(
            lambda s, q, eps: (_scaled(s, s, eps, correction=1), _scaled(q, s, eps, correction=1)),
            "torch's .var() divides by n - 1; batch norm divides by n. Say .var(0, correction=0).",
        ),
        Mistake(
            lambda s, q, eps: tuple((x - s.mean()) / (s.var(correction=0) + eps).sqrt() for x in (s, q)),
            "One mean for everything: batch norm has a mean and a variance for each feature, over the rows: .mean(0).",
        ),
        Mistake(
            lambda s, q, eps: tuple((x - s.mean(0)) / (s.var(0, correction=0) + eps) for x in (s, q)),
            "Divide by the root of the variance: the standard deviation.",
        ),
    ),
)

EXERCISES = (PROTOTYPES, NEAREST, ACCURACY, INDUCTIVE)

QUESTIONS = (
    Question(
        "What does 5-way 1-shot mean?",
        (
            ("Five pictures to learn from, of one class", "It is the other way round: ways are classes."),
            (
                "Five classes, one picture of each to learn from",
                "Ways are classes, shots are support pictures of each class.",
            ),
            ("Five classes, and one picture to name", "There may be any number of pictures to name."),
        ),
        right=1,
    ),
    Question(
        "What did meta-training change in the prototype network?",
        (
            (
                "The embedding: where pictures lie, so that drawings of one character come together",
                "Nothing else can change: the rest of the method is a mean and a distance.",
            ),
            ("It stored a prototype for each character it met", "Prototypes are made anew in each episode."),
            ("It learned the characters of the test alphabets", "Those were never shown; a check refuses overlap."),
        ),
        right=0,
    ),
    Question(
        "The transductive figure was higher than the inductive one. Is that network better?",
        (
            ("Yes, use it", "It is the same network, with the same weights."),
            (
                "No: it saw all queries of the episode at once, which a user with one picture does not have",
                "And it counted on the queries being balanced over the classes: with one class alone it got worse.",
            ),
            ("No, the difference is luck", "The two are judged on the same episodes; the interval tells."),
        ),
        right=1,
    ),
    Question(
        "On scikit-learn's digits the pixels won. What is the lesson?",
        (
            ("Meta-learning does not work", "It did, on unseen alphabets of the kind that it was trained on."),
            ("Digits are harder than letters", "For the pixels they are easier: all are of one size, in one place."),
            (
                "What was learned on one kind of drawing need not carry over to another; keep a simple baseline",
                "Without the pixel baseline the figure would have looked like a success.",
            ),
        ),
        right=2,
    ),
    Question(
        "More shots help, more ways hurt. Why is accuracy alone hard to compare between the two?",
        (
            (
                "Because guessing has another accuracy for each number of ways",
                "One in two for 2 ways, one in twenty for 20: always say ways and shots beside the number.",
            ),
            ("Because more ways have more shots", "Shots are counted for each class."),
            ("Because there are fewer episodes", "One can draw as many as one likes."),
        ),
        right=0,
    ),
)
