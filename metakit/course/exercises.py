"""What an exercise is, and how an answer to it is judged."""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Answer = Callable[..., Any]


@dataclasses.dataclass(frozen=True)
class Mistake:
    """A classic wrong answer, and what to say to the person who gave it.

    Arguments:
        answer: it, as code; an answer that gives the same numbers is taken for it.
        message: what is wrong, and what to do next.
    """

    answer: Answer
    message: str


@dataclasses.dataclass(frozen=True)
class Exercise:
    """A function to write.

    Arguments:
        name: the name of the exercise, and of the function.
        observe: runs an answer on small data, gives what it did as named tensors: ``{"meta-gradient": ...}``.
        right: an answer that is right.
        mistakes: the classic wrong ones.
        cut: what to say if the answer has lost the graph that autograd needs; ``None`` where it needs none.
    """

    name: str
    observe: Callable[[Answer], dict[str, Tensor]]
    right: Answer
    mistakes: Sequence[Mistake]
    cut: str | None = None


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Whether an answer is right, and what to tell its author; a cell that ends with one shows it as a card."""

    passed: bool
    message: str

    def __repr__(self) -> str:
        return f"{'Right.' if self.passed else 'Not yet.'} {self.message}"

    def _repr_html_(self) -> str:
        colour, word = ("#0072B2", "Right.") if self.passed else ("#D55E00", "Not yet.")
        return (
            f'<div role="status" style="border-left:4px solid {colour};padding:4px 12px;max-width:700px">'
            f"<b>{word}</b> {html.escape(self.message)}</div>"
        )


def judge(exercise: Exercise, answer: object) -> Verdict:
    """Compare what an answer does with what the right one does, then with what each classic mistake does."""
    if not callable(answer):
        return Verdict(False, f"{exercise.name} must be a function, got {type(answer).__name__}. Pass it without ().")
    wanted = exercise.observe(exercise.right)
    try:
        found = exercise.observe(answer)
    except NotImplementedError:
        return Verdict(False, f"{exercise.name} is still the stub, or calls one. Replace the raise line by your own.")
    except Exception as error:  # An answer under construction may fail in any way; its author must hear how.
        return Verdict(False, _explained(exercise, error))
    if _same(found, wanted):
        return Verdict(True, f"{exercise.name} gives what it should.")
    for mistake in exercise.mistakes:
        if _same(found, _observed(exercise, mistake)):
            return Verdict(False, mistake.message)
    return Verdict(False, _difference(found, wanted))


def _difference(found: dict[str, Any], wanted: dict[str, Tensor]) -> str:
    name = next(name for name in wanted if not _close(found[name], wanted[name]))
    if not isinstance(found[name], Tensor):
        return f"The {name} must be a tensor, got {type(found[name]).__name__}. Is there a return line?"
    if found[name].shape != wanted[name].shape:
        return f"The {name} must have shape {list(wanted[name].shape)}, got {list(found[name].shape)}."
    return (
        f"The {name} is {_short(found[name])}, it should be {_short(wanted[name])}. "
        "This is none of the classic mistakes; follow the formula term by term."
    )


def _observed(exercise: Exercise, mistake: Mistake) -> dict[str, Any]:
    try:
        return exercise.observe(mistake.answer)
    except RuntimeError:  # A mistake that cuts the graph is told by ``cut`` instead.
        return {}


def _explained(exercise: Exercise, error: Exception) -> str:
    text = str(error)
    if exercise.cut and ("does not require grad" in text or "not have been used in the graph" in text):
        return exercise.cut
    return f"It stopped with {type(error).__name__}: {text}"


def _same(found: dict[str, Any], wanted: dict[str, Any]) -> bool:
    return found.keys() == wanted.keys() and all(_close(found[name], wanted[name]) for name in wanted)


def _close(a: Any, b: Any) -> bool:
    if not isinstance(a, Tensor) or not isinstance(b, Tensor) or a.shape != b.shape:
        return False
    return torch.allclose(a.detach().double(), b.detach().double(), rtol=1e-5, atol=1e-7, equal_nan=True)


def _short(tensor: Tensor) -> str:
    numbers = [f"{number:.4g}" for number in tensor.detach().double().flatten()[:4].tolist()]
    return numbers[0] if tensor.numel() == 1 else f"[{', '.join(numbers)}{', ...' if tensor.numel() > 4 else ''}]"
