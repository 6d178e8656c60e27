"""Data of notebook 11: real ones where they are, and else invented ones of the same form.

What is invented comes from models that are known, and what is found on it says nothing about the questions, patients,
markets or settings of the world.
"""

from __future__ import annotations

import dataclasses
import math

import torch

from metakit.data.labelled import LabelledData
from metakit.data.patients import FEATURES, Hospital
from metakit.tasks import (
    HashedNgrams,
    Series,
    TrialTables,
    banking77,
    clinc150,
    hospitals,
    markets,
    svm_trials,
    texts,
)


@dataclasses.dataclass(frozen=True)
class Intents:
    """Questions with their intents: to learn on, and of new intents to learn from and to be asked.

    Arguments:
        train, known, asked: rows of questions.
        examples: some of the new intents with questions of each, as texts.
        real: whether people asked them.
    """

    train: LabelledData
    known: LabelledData
    asked: LabelledData
    examples: dict[str, list[str]]
    real: bool


def intents(*, download: bool = False) -> Intents:
    """Parts of CLINC150 and BANKING77 where they are or may be downloaded, and invented questions where not.

    Example:
        >>> found = intents()
        >>> found.known.names == found.asked.names
        True
    """
    try:
        parts = [
            clinc150("val", download=download),
            _first(banking77("train", download=download), 30),
            _first(banking77("test", download=download), 20),
        ]
    except FileNotFoundError:
        known, asked = (_invented_questions(1, 12, again=again) for again in (False, True))
        words, real = [_invented_questions(0, 20), known, asked], False
    else:
        words, real = parts, True
    encoder = HashedNgrams()
    rows = [texts(*part, encoder) for part in words]
    some = sorted(set(words[1][1]))[:: max(1, len(set(words[1][1])) // 4)][:4]
    examples = {name: [q for q, i in zip(*words[1], strict=True) if i == name][:3] for name in some}
    return Intents(rows[0], rows[1], rows[2], examples, real)


def _first(part: tuple[list[str], list[str]], each: int) -> tuple[list[str], list[str]]:
    """The first so many questions of each intent: a page must not keep its reader waiting."""
    counts: dict[str, int] = {}
    kept = []
    for question, intent in zip(*part, strict=True):
        counts[intent] = counts.get(intent, 0) + 1
        if counts[intent] <= each:
            kept.append((question, intent))
    return [question for question, _ in kept], [intent for _, intent in kept]


_VERBS = ("lost", "change", "find", "cancel", "pay for", "check", "share", "repair", "order", "return")
_THINGS = ("ticket", "parcel", "booking", "lamp", "garden", "lesson", "invoice", "recipe", "bicycle", "room")
_FRAMES = (
    "please {} my {} now",
    "how do i {} the {} again",
    "could you help me {} a {} today",
    "i would like to {} this {} soon",
    "is it possible to {} one {} for me",
)


def _invented_questions(seed: int, each: int, *, again: bool = False) -> tuple[list[str], list[str]]:
    """An intent is a verb with a thing; what stands around them is the same for all."""
    generator = torch.Generator().manual_seed(seed + 10 * again)
    questions, labels = [], []
    for i, verb in enumerate(_VERBS):
        for j, thing in enumerate(_THINGS):
            if (i + j) % 2 == seed % 2:
                for _ in range(each):
                    frame = _FRAMES[int(torch.randint(len(_FRAMES), (1,), generator=generator))]
                    extra = int(torch.randint(50, (1,), generator=generator))
                    questions.append(f"{frame.format(verb, thing)} number {extra}")
                    labels.append(f"{verb} {thing}")
    return questions, labels


def patients(*, download: bool = False) -> tuple[dict[str, Hospital], bool]:
    """Four hospitals, and whether they are real.

    Example:
        >>> found, real = patients()
        >>> len(found)
        4
    """
    try:
        return hospitals(download=download), True
    except FileNotFoundError:
        rates = {"North": (300, -0.3), "East": (280, -1.0), "South": (120, 2.2), "West": (200, 1.0)}
        return {name: _invented_hospital(n, rate, i) for i, (name, (n, rate)) in enumerate(rates.items())}, False


def _invented_hospital(n: int, shift: float, seed: int) -> Hospital:
    """A logistic model whose intercept is the hospital's own; a tenth of the cells missing."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, len(FEATURES), generator=generator)
    score = x[:, [0, 3, 4, 7, 9]] @ torch.tensor([0.8, 0.4, 0.3, -0.9, 1.1]) + shift
    y = (torch.rand(n, generator=generator) < score.sigmoid()).long()
    x[torch.rand(x.shape, generator=generator) < 0.1] = torch.nan
    return x, y


def trials(*, download: bool = False) -> tuple[TrialTables, bool]:
    """Scores of settings on data sets, and whether they are real.

    Example:
        >>> tables, real = trials()
        >>> len(tables) >= 30
        True
    """
    try:
        return svm_trials(download=download), True
    except FileNotFoundError:
        return _invented_trials(), False


def _invented_trials(sets: int = 40) -> TrialTables:
    """A support vector machine as one might draw it: good along a ridge in C and gamma, elsewhere on each data set."""
    generator = torch.Generator().manual_seed(0)
    c, gamma = (grid.flatten() for grid in torch.meshgrid(torch.arange(-5.0, 7), torch.arange(-4.0, 4), indexing="ij"))
    place, low, span = torch.rand(3, sets, 1, generator=generator)
    tilt, width = 0.5 + torch.rand(sets, 1, generator=generator), 1 + 2 * torch.rand(sets, 1, generator=generator)
    ridge = (-((gamma + tilt * 0.4 * c - 4 * place + 3) / width).square()).exp() * (1 - 0.03 * (c - 3).square())
    scores = 0.4 + 0.4 * low + 0.2 * (0.1 + span) * ridge + 0.004 * torch.randn(sets, len(c), generator=generator)
    candidates = tuple(
        {"kernel": "rbf", "C": 2.0 ** int(a), "gamma": 10.0 ** int(b)} for a, b in zip(c, gamma, strict=True)
    )
    names = tuple(f"set {i + 1}" for i in range(sets))
    return TrialTables(settings=torch.stack([c / 6, gamma / 4], 1), scores=scores, names=names, candidates=candidates)


def prices() -> tuple[list[Series], bool]:
    """Daily returns of three markets, and whether they are real: the package ``arch`` ships them.

    Example:
        >>> found, real = prices()
        >>> len(found)
        3
    """
    try:
        return markets(), True
    except ImportError:
        return [_invented_market(name, i) for i, name in enumerate(("one", "two", "three"))], False


def _invented_market(name: str, seed: int, days: int = 5000) -> Series:
    """GARCH(1,1), from the first day of 1999 on."""
    generator, variance, returns = torch.Generator().manual_seed(seed), 1.0, []
    for z in torch.randn(days, generator=generator, dtype=torch.float64).tolist():
        returns.append(math.sqrt(variance) * z)
        variance = 0.02 + 0.08 * returns[-1] ** 2 + 0.9 * variance
    return Series(name, 729_755 + torch.arange(days), torch.tensor(returns, dtype=torch.float64))
