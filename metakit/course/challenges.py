"""The memory meter, the exercises and the questions of notebook 12."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor

from metakit.course.exercises import Answer, Exercise, Mistake
from metakit.course.quizzes import Question

_F64 = torch.float64


def _random(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=_F64)


class _Kept:
    """A tensor that autograd keeps; its end can be watched."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def peak_saved(run: Callable[[], object]) -> int:
    """The most bytes that autograd keeps at one time for its backward passes while ``run()`` runs.

    A storage that several operations keep counts once, and no longer than one of them holds it. What operations need
    for themselves while they compute is not in it, so the number is the same on every machine.

    Arguments:
        run: called once, without arguments.

    Example:
        >>> x = torch.ones(1000, requires_grad=True)
        >>> peak_saved(lambda: x.exp().sum()), peak_saved(lambda: x.exp().exp().sum())
        (4000, 8000)

    Source: the hooks are those of ``torch.autograd.graph.saved_tensors_hooks``.
    """
    holders: Counter[int] = Counter()
    now = peak = 0

    def pack(tensor: Tensor) -> _Kept:
        nonlocal now, peak
        storage = tensor.untyped_storage()
        place, size = storage.data_ptr(), storage.nbytes()
        now += 0 if holders[place] else size
        peak = max(peak, now)
        holders[place] += 1
        kept = _Kept(tensor)
        weakref.finalize(kept, release, place, size)
        return kept

    def release(place: int, size: int) -> None:
        nonlocal now
        holders[place] -= 1
        now -= 0 if holders[place] else size

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept.tensor):
        run()
    return peak


# --- cka_from_grams: the similarity of two layers from the similarities of their rows. ---


def _centred(gram: Tensor) -> Tensor:
    return gram - gram.mean(0) - gram.mean(1, keepdim=True) + gram.mean()


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum() / (a.norm() * b.norm())


def _cka(a: Tensor, b: Tensor) -> Tensor:
    return _cosine(_centred(a), _centred(b))


def _observe_cka(answer: Answer) -> dict[str, Tensor]:
    a = _random(0, 6, 3) + 1
    b = (a[:, :2] @ _random(1, 2, 4)).tanh() - 2
    return {"similarity": torch.as_tensor(answer(a @ a.T, b @ b.T))}


CKA = Exercise(
    name="cka_from_grams",
    observe=_observe_cka,
    right=_cka,
    mistakes=(
        Mistake(
            _cosine,
            "Nothing is centred, so two layers look alike as soon as both have a mean far from zero. Subtract the mean "
            "of each row and of each column, and add the mean of all.",
        ),
        Mistake(
            lambda a, b: _cosine(a - a.mean(0), b - b.mean(0)),
            "Only the columns are centred. A Gram matrix has a row and a column for each example: centre both.",
        ),
        Mistake(
            lambda a, b: _cosine(a - a.mean(), b - b.mean()),
            "Only the mean of the whole matrix is subtracted. Subtract those of the rows and of the columns, too.",
        ),
        Mistake(
            lambda a, b: (_centred(a) * _centred(b)).sum(),
            "The denominator is missing: without it the number grows with the size of the features.",
        ),
        Mistake(
            lambda a, b: (_centred(a) * _centred(b)).sum() / (_centred(a).norm() * _centred(b).norm()) ** 2,
            "The denominator is squared. Divide by the norms themselves, so that a layer is as like itself as 1.",
        ),
        Mistake(
            lambda a, b: _cka(a @ a, b @ b),
            "The Gram matrices are multiplied by themselves. They hold the similarities of rows already: x @ x.T.",
        ),
    ),
)


# --- in_chunks: the gradient of a mean over tasks, a few tasks at a time. ---

Losses = Callable[[Tensor, Tensor], Tensor]


def _in_chunks(losses: Losses, w: Tensor, tasks: Tensor, size: int) -> Tensor:
    total = torch.zeros_like(w)
    for piece in tasks.split(size):
        total += torch.autograd.grad(losses(w, piece).sum() / len(tasks), w)[0]
    return total


def _each(losses: Losses, w: Tensor, tasks: Tensor, size: int) -> Tensor:
    """The gradient of each chunk's mean, ``[chunks, D]``."""
    return torch.stack([torch.autograd.grad(losses(w, piece).mean(), w)[0] for piece in tasks.split(size)])


def _kept_to_the_end(losses: Losses, w: Tensor, tasks: Tensor, size: int) -> Tensor:
    return torch.autograd.grad(torch.cat([losses(w, piece) for piece in tasks.split(size)]).mean(), w)[0]


def _observe_chunks(answer: Answer) -> dict[str, Tensor]:
    w, tasks, seen = _random(2, 50).requires_grad_(), _random(3, 7, 50), []

    def losses(w: Tensor, piece: Tensor) -> Tensor:
        seen.append(len(piece))
        return (w * piece.clone()).tanh().square().mean(1)  # a view would keep all tasks

    found: list[Tensor] = []
    peak = peak_saved(lambda: found.append(answer(losses, w, tasks, 3)))
    alone = peak_saved(lambda: losses(w, tasks[:3]).sum())
    return {"gradient": found[0], "chunks alive at once": torch.tensor(float(max(1, round(peak / alone))))}


IN_CHUNKS = Exercise(
    name="in_chunks",
    observe=_observe_chunks,
    right=_in_chunks,
    mistakes=(
        Mistake(
            lambda *a: _each(*a).mean(0),
            "This is the mean of the chunks' means. The last chunk is smaller, and its tasks count for more: sum the "
            "losses of a chunk and divide by the number of all tasks.",
        ),
        Mistake(
            lambda *a: _each(*a).sum(0),
            "The chunks' means are added, so the gradient grows with the number of chunks. Divide by all tasks.",
        ),
        Mistake(
            lambda losses, w, tasks, size: len(tasks) * _in_chunks(losses, w, tasks, size),
            "Sum and mean are mixed up: the outer loss is the mean over the tasks.",
        ),
        Mistake(
            lambda *a: _each(*a)[-1], "Only the last chunk is left. Add the gradients of the chunks to each other."
        ),
        Mistake(
            _kept_to_the_end,
            "The gradient is right, and no memory is saved: the graphs of all chunks live until the one backward pass "
            "at the end. Take the gradient of each chunk at once, and add the gradients.",
        ),
    ),
)


# --- honest_report: chosen on one set of tasks, reported on another. ---


def _report(scores: Tensor, best: Tensor) -> Tensor:
    chosen = scores[best]
    return torch.stack([best.to(scores.dtype), chosen.mean(), 1.96 * chosen.std() / len(chosen) ** 0.5])


def _honest(validation: Tensor, test: Tensor) -> Tensor:
    return _report(test, validation.mean(1).argmin())


def _observe_report(answer: Answer) -> dict[str, Tensor]:
    validation = _random(4, 5, 20).abs() + torch.tensor([[1.0], [0.6], [0.3], [0.9], [0.8]], dtype=_F64)
    test = _random(5, 5, 30).abs() + torch.tensor([[1.0], [0.2], [0.7], [0.9], [0.8]], dtype=_F64)
    validation[3, 4] = 0.0  # one lucky task
    result = answer(validation, test)
    if not isinstance(result, tuple | list) or len(result) != 3:
        raise TypeError("return three numbers: the learner's number, its mean loss, half the width of the interval")
    numbers = torch.stack([torch.as_tensor(number, dtype=_F64) for number in result])
    return {"learner, loss and half width": numbers}


HONEST_REPORT = Exercise(
    name="honest_report",
    observe=_observe_report,
    right=lambda validation, test: tuple(_honest(validation, test)),
    mistakes=(
        Mistake(
            lambda validation, test: tuple(_report(test, test.mean(1).argmin())),
            "The learner is chosen on the test tasks. The smallest of several noisy means is too small by luck: choose "
            "on the validation tasks.",
        ),
        Mistake(
            lambda validation, test: tuple(_report(validation, validation.mean(1).argmin())),
            "The loss reported is that of the validation tasks, on which the learner was chosen. Report the test loss.",
        ),
        Mistake(
            lambda validation, test: tuple(_report(test, validation.min(1).values.argmin())),
            "The learner is chosen by its best single task. Choose by the mean over the validation tasks.",
        ),
        Mistake(
            lambda validation, test: tuple(_report(test, validation.mean(1).argmax())),
            "This is the worst learner: a loss is to be small.",
        ),
        Mistake(
            lambda validation, test: (*_honest(validation, test)[:2], 1.96 * test[validation.mean(1).argmin()].std()),
            "This is how far single tasks lie apart, not how sure their mean is: divide by the root of the number of "
            "tasks.",
        ),
    ),
)

EXERCISES = (CKA, IN_CHUNKS, HONEST_REPORT)

QUESTIONS = (
    Question(
        "What does second order keep in memory that first order lets go?",
        (
            ("The query sets of all tasks", "Both orders need them, and only once."),
            (
                "The graph of every inner step, until the meta-gradient has gone back through them",
                "So its memory grows with the number of inner steps, and that of first order does not.",
            ),
            ("A Hessian matrix for every task", "No Hessian is ever built: only its product with a vector is."),
        ),
        right=1,
    ),
    Question(
        "Chunks of tasks saved memory. What did they cost in accuracy?",
        (
            ("Nothing: the gradient of a mean is the mean of gradients", "The weights agreed up to rounding."),
            ("A noisier meta-gradient", "All tasks are still in it; only their graphs do not live together."),
            ("The second order", "Each chunk has its full meta-gradient."),
        ),
        right=0,
    ),
    Question(
        "A layer has CKA 1 before and after adaptation. What may still have happened to it?",
        (
            ("Nothing at all: its weights are the same", "CKA looks at features up to rotation and scale."),
            (
                "Its features were rotated or scaled as a whole",
                "CKA is blind to both: it compares which examples lie near which.",
            ),
            ("Its examples moved into other neighbourhoods", "That is what makes CKA smaller than 1."),
        ),
        right=1,
    ),
    Question(
        "With few training tasks, the loss on those tasks was small and on new tasks large. What is that called?",
        (
            (
                "Meta-overfitting",
                "The outer loop has learned its tasks by heart, as a network learns its rows by heart.",
            ),
            ("A failed inner loop", "The inner loop did well, on the tasks that the outer loop had met."),
            ("Covariate shift", "The new tasks come from the same distribution."),
        ),
        right=0,
    ),
    Question(
        "What says that a learner still generalises outside its training distribution?",
        (
            ("Its loss after adaptation is smaller than before", "It may still be worse than the answer 0 everywhere."),
            ("It has many parameters", "That says nothing about tasks it never met."),
            (
                "A run on such tasks, beside a baseline that needs no training",
                "Only a measurement does, and only for the tasks that were measured.",
            ),
        ),
        right=2,
    ),
)
