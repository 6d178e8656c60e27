"""Exercises and questions of notebook 11."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from metakit.course.exercises import Answer, Exercise, Mistake
from metakit.course.quizzes import Question

_F64 = torch.float64


def _random(seed: int, *shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=_F64)


# --- expected_improvement: which setting to try next. ---


def _improvement(
    *, sign: float = 1, density: bool = True, scaled: bool = True, chance: bool = True, only_chance: bool = False
) -> Answer:
    """Expected improvement with any of the classic mistakes in it."""

    def expected_improvement(mean: Tensor, spread: Tensor, best: float) -> Tensor:
        u = sign * (mean - best) / spread
        if only_chance:
            return torch.special.ndtr(u)
        bell = (-u.square() / 2).exp() / math.sqrt(2 * math.pi)
        gain = (u * torch.special.ndtr(u) if chance else u) + (bell if density else 0)
        return spread * gain if scaled else gain

    return expected_improvement


def _observe_improvement(answer: Answer) -> dict[str, Tensor]:
    return {"improvement": answer(_random(0, 6), 0.1 + _random(1, 6), 0.7)}


IMPROVEMENT = Exercise(
    name="expected_improvement",
    observe=_observe_improvement,
    right=_improvement(),
    mistakes=(
        Mistake(
            _improvement(sign=-1),
            "The sign: scores are the better the higher, so it is mean - best that is gained.",
        ),
        Mistake(
            _improvement(density=False),
            "The bell is missing: even where the mean is below the best, luck may lift it above. Add phi(u).",
        ),
        Mistake(
            _improvement(scaled=False),
            "This is counted in spreads. Multiply by the spread, or a setting that hardly varies looks as good as one "
            "that does.",
        ),
        Mistake(_improvement(chance=False), "u itself is not gained for certain: multiply it by its chance, Phi(u)."),
        Mistake(
            _improvement(only_chance=True),
            "This is the chance to improve at all, and does not ask by how much: it would try what is a hair better.",
        ),
        Mistake(
            lambda mean, spread, best: mean - best,
            "The spread plays no part, so nothing that is uncertain is ever tried.",
        ),
        Mistake(
            lambda mean, spread, best: (mean - best).clamp(min=0),
            "This is the improvement of the mean, not the mean of the improvement: the spread plays no part.",
        ),
    ),
)


# --- scaled: columns brought to one scale, by what may be known. ---


def _standard(known: Tensor, asked: Tensor, mean: Tensor, spread: Tensor) -> tuple[Tensor, Tensor]:
    return (known - mean) / spread, (asked - mean) / spread


def _scaled(known: Tensor, asked: Tensor) -> tuple[Tensor, Tensor]:
    return _standard(known, asked, known.mean(0), known.std(0))


def _own(known: Tensor, asked: Tensor) -> tuple[Tensor, Tensor]:
    return (known - known.mean(0)) / known.std(0), (asked - asked.mean(0)) / asked.std(0)


def _together(known: Tensor, asked: Tensor) -> tuple[Tensor, Tensor]:
    every = torch.cat([known, asked])
    return _standard(known, asked, every.mean(0), every.std(0))


def _observe_scaled(answer: Answer) -> dict[str, Tensor]:
    known, asked = answer(5 * _random(0, 7, 3) + 1, 2 * _random(1, 4, 3))
    return {"known": known, "asked": asked}


SCALED = Exercise(
    name="scaled",
    observe=_observe_scaled,
    right=_scaled,
    mistakes=(
        Mistake(
            _own,
            "The new hospital is scaled by itself. With five patients there is no mean to go by, and a difference "
            "between hospitals, which may matter, is scaled away. Use known.mean(0) for both.",
        ),
        Mistake(
            _together,
            "The test rows take part in the scaling: that is a look at what will be asked. Use the known rows alone.",
        ),
        Mistake(
            lambda known, asked: _standard(known, asked, known.mean(), known.std()),
            "One mean and one spread for all columns: years and millimetres stay apart. Take them over rows, .mean(0).",
        ),
        Mistake(
            lambda known, asked: _standard(known, asked, known.mean(0), known.var(0)),
            "Divided by the variance. The spread is its root: .std(0).",
        ),
        Mistake(
            lambda known, asked: (known - known.mean(0), asked - known.mean(0)),
            "Centred, but not divided by the spread.",
        ),
        Mistake(
            lambda known, asked: (_scaled(known, asked)[0], asked),
            "The known rows are scaled, and the asked ones are not: the model would meet other units.",
        ),
    ),
)


# --- calibration_error: do 70% of those at 70% have it? ---


def _calibration(*, weighted: bool = True, absolute: bool = True, named: bool = False, squared: bool = False) -> Answer:
    """Expected calibration error with any of the classic mistakes in it."""

    def calibration_error(chance: Tensor, y: Tensor, bins: int) -> Tensor:
        place = (chance * bins).long().clamp(max=bins - 1)
        total, filled = torch.zeros((), dtype=chance.dtype), 0
        for b in range(bins):
            inside = place == b
            if not inside.any():
                continue
            filled += 1
            right = ((chance > 0.5) == (y == 1)).to(chance)[inside].mean() if named else y[inside].to(chance).mean()
            apart = chance[inside].mean() - right
            apart = apart.square() if squared else apart.abs() if absolute else apart
            total = total + apart * (inside.to(chance).mean() if weighted else 1)
        return total if weighted else total / filled

    return calibration_error


def _observe_calibration(answer: Answer) -> dict[str, Tensor]:
    chance = _random(0, 60) ** 2
    y = (_random(1, 60) < 0.2 + 0.6 * chance).long()
    return {"error": torch.as_tensor(answer(chance, y, 5))}


CALIBRATION = Exercise(
    name="calibration_error",
    observe=_observe_calibration,
    right=_calibration(),
    mistakes=(
        Mistake(
            _calibration(weighted=False),
            "Every bin counts alike here, a bin of two patients as much as one of fifty. Weigh it by its share.",
        ),
        Mistake(
            _calibration(absolute=False),
            "Too high in one bin and too low in another cancel. Take the absolute value in each bin.",
        ),
        Mistake(
            _calibration(named=True),
            "This compares the chance with how often one was right. A chance of 0.1 is right in 90%, and that is good: "
            "compare it with the share that had the disease.",
        ),
        Mistake(_calibration(squared=True), "The difference is squared. Take its absolute value."),
        Mistake(
            lambda chance, y, bins: (chance - y).abs().mean(),
            "Without bins this is the mean error of single patients: a chance of 0.5 would be bad even where half of "
            "them have it.",
        ),
        Mistake(
            lambda chance, y, bins: (chance.mean() - y.to(chance).mean()).abs(),
            "One bin for all: low chances that are too low and high ones that are too high cancel.",
        ),
    ),
)

EXERCISES = (IMPROVEMENT, SCALED, CALIBRATION)

QUESTIONS = (
    Question(
        "A colleague has 400 labelled questions for each of five intents. What do you tell her to use?",
        (
            ("A meta-learner, which is made for intents", "With that many examples a new intent has all it needs."),
            (
                "Logistic regression, and to ask again when a sixth intent comes with three questions",
                "What is learned from other tasks pays where this task has little to say for itself.",
            ),
            ("Nearest centroid, as it never overfits", "It leaves most of 2,000 examples unused."),
        ),
        right=1,
    ),
    Question(
        "Learned gains were further ahead with one example of each intent than with five. Why does the lead shrink?",
        (
            ("The gains were trained on one example each", "They were trained on one to ten."),
            (
                "With more examples, the new intents tell by themselves which words count",
                "The prior knowledge is the same; what the data say grows.",
            ),
            ("Five examples are harder", "All three contenders do better with five."),
        ),
        right=1,
    ),
    Question(
        "Four hospitals, each left out once: is a 95% interval over the four hospitals worth printing?",
        (
            ("Yes, four numbers have a mean and a spread", "They have, but any three training sets share two."),
            (
                "No: four tasks that share their training say little about a fifth",
                "Show each hospital. Draws of patients have an interval, and it is about these hospitals alone.",
            ),
            ("Yes, if each hospital has many patients", "More patients tell more about these four, not about others."),
        ),
        right=1,
    ),
    Question(
        "The start is pooled over all three hospitals, and the strength of the draw to it is chosen on the same three. "
        "What goes wrong?",
        (
            ("Nothing, the fourth is kept away", "The fourth is; yet the strength comes out far too large."),
            (
                "To hospitals that made it, the start is already right, so a strong draw looks best",
                "Choose it by letting one of the three play the new one, with a start from the other two.",
            ),
            ("The strength becomes 0", "The other way round: it grows."),
        ),
        right=1,
    ),
    Question(
        "A forecaster of volatility is no better than GARCH, and the intervals of the difference hold 0. What is it?",
        (
            ("A failed project, not worth a page", "It tells the next person where not to spend a month."),
            ("Proof that both are the same", "The interval holds 0 and other values: no proof of equality."),
            (
                "A null result: worth reporting, with the interval and with what was tried",
                "So is the finding that GARCH fitted to the window alone was worse than what had learned elsewhere.",
            ),
        ),
        right=2,
    ),
    Question(
        "The race was judged on 50 data sets, each left out once. Which of these would spoil it?",
        (
            ("To bring each known data set to [0, 1] by its own best and worst", "Those are known; that is allowed."),
            (
                "To bring the new data set to [0, 1] by its own best and worst before the race",
                "Its best is what one is looking for. In the lesson its scale is guessed from the trials.",
            ),
            ("To try the same setting first on every data set", "It is even what a portfolio does."),
        ),
        right=1,
    ),
)
