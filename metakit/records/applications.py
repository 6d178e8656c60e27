"""Applications seen: what classifiers make of a question, and hyperparameter settings tried one after the other."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metakit.checks import choice, whole
from metakit.data.text import Encoder, texts
from metakit.recipes import hyperparameters
from metakit.records.words import count
from metakit.tasks import TrialTables


class Answerer(Protocol):
    """Whatever learns from a support set and scores the classes of query rows."""

    def predict(self, support_x: Tensor, support_y: Tensor, query_x: Tensor, /) -> Tensor: ...


# --- A question. ---


@dataclasses.dataclass(frozen=True)
class NearExample:
    """An example beside a question.

    Arguments:
        text: the example.
        label: its class.
        cosines: between the two, by the contender in whose embedding.
    """

    text: str
    label: str
    cosines: Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class TextAnswers:
    """What classifiers that learned from a few examples make of a question.

    Arguments:
        question: as it was typed.
        classes: those with an example, N of them.
        scores: the share of each class by contender, ``[N]``, of sum 1; none where nothing can be told.
        nearest: the examples that the question lies nearest to in the first contender's embedding, nearest first.
        examples: their number in all.
        left_out: classes without an example.
    """

    question: str
    classes: tuple[str, ...]
    scores: Mapping[str, Tensor]
    nearest: tuple[NearExample, ...] = ()
    examples: int = 0
    left_out: tuple[str, ...] = ()

    def answer(self, contender: str) -> str:
        """The class that a contender takes the question for."""
        return self.classes[int(self.scores[contender].argmax())]

    def __str__(self) -> str:
        out = f" Left out, having no example yet: {', '.join(self.left_out)}." if self.left_out else ""
        if len(self.classes) < 2:
            there = f"one class, {self.classes[0]}," if self.classes else "no class"
            return f"there is {there} with an example: write some for at least two.{out}"
        known = f"{count(self.examples, 'example')} of {len(self.classes)} classes"
        if not self.question:
            return f"{known} are known: type a question.{out}"
        if all(value == 0 for each in self.nearest for value in each.cosines.values()):
            return f"{known} are known, and the question shares nothing with any: use other words.{out}"
        told = [f"{self.answer(name)} ({100 * float(s.max()):.0f}%, {name})" for name, s in self.scores.items()]
        return f"learned from {known}. It is taken for: {'; '.join(told)}.{out}"


def text_answers(
    contenders: Mapping[str, Answerer],
    classes: Mapping[str, Sequence[str]],
    question: str,
    *,
    encode: Encoder | Callable[[list[str]], Any] | None = None,
    nearest: int = 5,
) -> TextAnswers:
    """Let contenders learn classes from examples, and ask them for the class of a question.

        score_n = softmax_n(predict(examples, classes, question))

    A contender with an ``embedding`` compares texts there; any other on the rows as they are.

    Arguments:
        contenders: by name.
        classes: examples by the name of the class; those that are blank do not count.
        question: any text; to a blank one there is no answer.
        encode: makes rows of texts, as in ``mk.tasks.texts``.
        nearest: number of examples to show.

    Raises:
        TypeError: if an example or the question is no text.
        ValueError: if there is no contender, or one does not give a finite score for each class.

    Example:
        >>> from metakit.recipes import language
        >>> classes = {"card": ["my card is lost", "where is my card"], "cash": ["no cash came out"], "other": []}
        >>> record = text_answers({"centroid": language.nearest_centroid()}, classes, "is my card here?")
        >>> record.answer("centroid"), record.nearest[0].text, record.left_out
        ('card', 'where is my card', ('other',))
    """
    if not contenders:
        raise ValueError("there must be a contender, got none. Give {'learned': learner}.")
    filled = {name: kept for name, lines in classes.items() if (kept := [each for each in lines if each.strip()])}
    left_out, question = tuple(name for name in classes if name not in filled), question.strip()
    examples = [(text, name) for name, lines in filled.items() for text in lines]
    about: dict[str, Any] = {"examples": len(examples), "left_out": left_out}
    if len(filled) < 2 or not question:
        return TextAnswers(question, tuple(filled), {}, **about)
    asked = [*(text for text, _ in examples), question]
    rows = texts(asked, range(len(asked)), encode).rows.float()
    y = torch.arange(len(filled)).repeat_interleave(torch.tensor([len(lines) for lines in filled.values()]))
    scores = {name: _shares(name, each, rows, y) for name, each in contenders.items()}
    cosines = {name: _cosines(each, rows) for name, each in contenders.items()}
    order = cosines[next(iter(cosines))].argsort(descending=True, stable=True)[: whole("nearest", nearest)].tolist()
    near = [
        NearExample(examples[i][0], examples[i][1], {name: float(each[i]) for name, each in cosines.items()})
        for i in order
    ]
    return TextAnswers(question, tuple(filled), scores, tuple(near), **about)


def _shares(name: str, contender: Answerer, rows: Tensor, y: Tensor) -> Tensor:
    """The shares ``[N]`` that a contender gives the classes of the last row."""
    with torch.no_grad():
        answer = torch.as_tensor(contender.predict(rows[:-1], y, rows[-1:]))
    ways = int(y[-1]) + 1
    if answer.shape != (1, ways) or not bool(answer.isfinite().all()):
        raise ValueError(f"{name} must give a finite score for each class, [1, {ways}], got {list(answer.shape)}.")
    return answer[0].double().softmax(-1).float()


def _cosines(contender: Answerer, rows: Tensor) -> Tensor:
    """Those between the last row and each other, ``[S]``, where the contender compares them."""
    embedding = getattr(contender, "embedding", None)
    with torch.no_grad():
        rows = F.normalize(embedding(rows) if isinstance(embedding, nn.Module) else rows, dim=-1)
    return rows[:-1] @ rows[-1]


# --- A race of settings. ---


@dataclasses.dataclass(frozen=True)
class SettingsPlane:
    """Settings of one kind, laid out by two of their values.

    Arguments:
        kind: what they have in common, in words; empty where that is nothing.
        across, up: what is laid out; empty where only one value, or none, differs.
        columns, rows: the values, ascending.
        members: numbers of the settings, ``[m]``.
        cells: row and column of each, ``[m, 2]``; several settings may share one.
    """

    kind: str
    across: str
    up: str
    columns: tuple[Any, ...]
    rows: tuple[Any, ...]
    members: Tensor
    cells: Tensor

    def best(self, scores: Tensor) -> Tensor:
        """The best score of each cell, ``[rows, columns]``, of all scores ``[M]``; nan where there is no setting."""
        flat = scores.new_full((len(self.rows) * len(self.columns),), -torch.inf)
        flat.scatter_reduce_(0, self.cells[:, 0] * len(self.columns) + self.cells[:, 1], scores[self.members], "amax")
        return flat.masked_fill(flat == -torch.inf, torch.nan).view(len(self.rows), -1)


def settings_planes(tables: TrialTables) -> tuple[SettingsPlane, ...]:
    """The settings of trial tables in planes, one for each combination of words, by the first two numbers that differ.

    Settings without a number are laid out by their words; without candidates, by the first columns of ``settings``.

    Example:
        >>> candidates = {"kernel": "linear", "C": 1}, {"kernel": "rbf", "gamma": 0.1}, {"kernel": "rbf", "gamma": 2.0}
        >>> tables = TrialTables(settings=torch.eye(3), scores=torch.rand(1, 3), names=("a",), shots=1, queries=2)
        >>> tables = dataclasses.replace(tables, candidates=candidates)
        >>> [(plane.kind, plane.across, plane.columns) for plane in settings_planes(tables)]
        [('linear', '', ('',)), ('rbf', 'gamma', (0.1, 2.0))]
    """
    names = [f"setting {i + 1}" for i in range(tables.settings.shape[1])]
    found: Sequence[Mapping[str, Any]] = tables.candidates or [
        dict(zip(names, row, strict=True)) for row in tables.settings.tolist()
    ]
    keys = list(dict.fromkeys(key for each in found for key in each))
    numbers = [key for key in keys if all(isinstance(each.get(key, 0), int | float) for each in found)]
    laid, words = (numbers, [key for key in keys if key not in numbers]) if numbers else (keys, [])
    kinds: dict[str, list[int]] = {}
    for i, each in enumerate(found):
        kinds.setdefault(", ".join(str(each[word]) for word in words if word in each), []).append(i)
    return tuple(_plane(kind, members, found, laid) for kind, members in kinds.items())


def _plane(kind: str, members: list[int], found: Sequence[Mapping[str, Any]], laid: Sequence[str]) -> SettingsPlane:
    differing = [key for key in laid if len({found[i].get(key) for i in members}) > 1]
    across, up = [*differing, "", ""][:2]
    values = [[found[i].get(key, "") for i in members] for key in (up, across)]
    ends = [tuple(sorted(set(side), key=_rank)) for side in values]
    cells = [[end.index(value) for value in side] for end, side in zip(ends, values, strict=True)]
    return SettingsPlane(kind, across, up, ends[1], ends[0], torch.tensor(members), torch.tensor(cells).T)


def _rank(value: Any) -> tuple[bool, Any]:
    """Numbers in their order, then words in theirs."""
    number = isinstance(value, int | float)
    return not number, value if number else str(value)


@dataclasses.dataclass(frozen=True)
class SettingsRace:
    """Orders in which contenders try settings on one data set, and how far each has come after each trial.

    Arguments:
        name: of the data set.
        regret: by contender, in % of the span of its scores, ``[trials]``.
        tried: by contender, the numbers of the settings in the order of trial.
        scores: of all settings on the data set, ``[M]``.
        contender: the one whose trials are shown on the planes.
        planes: where they are shown.
    """

    name: str
    regret: Mapping[str, Tensor]
    tried: Mapping[str, tuple[int, ...]]
    scores: Tensor
    contender: str
    planes: tuple[SettingsPlane, ...]

    @property
    def shown(self) -> int:
        """Trials of the contender that lie on the planes."""
        there = {member for plane in self.planes for member in plane.members.tolist()}
        return sum(each in there for each in self.tried[self.contender])

    def __str__(self) -> str:
        told = ", ".join(f"{name} {float(regret[-1]):.1f}" for name, regret in self.regret.items())
        tried = list(self.tried[self.contender])
        best, most = float(self.scores[tried].max()), float(self.scores.max())
        away = f" {len(tried) - self.shown} of its trials lie elsewhere." if self.shown < len(tried) else ""
        return (
            f"{self.name} after {count(len(tried), 'trial')}, regret in %: {told}. "
            f"The best score of {self.contender} is {best:.3f}, that of all settings {most:.3f}.{away}"
        )


def settings_race(
    tables: TrialTables,
    name: str,
    orders: Mapping[str, Sequence[int]],
    *,
    trials: int = hyperparameters.TRIALS,
    contender: str | None = None,
    planes: Sequence[SettingsPlane] | None = None,
) -> SettingsRace:
    """Look up what orders of settings reach on a data set.

        r_t = 100 (max y - max_{s <= t} y_s) / (max y - min y)

    Arguments:
        tables: the scores.
        name: the data set.
        orders: numbers of settings in the order of trial, by contender.
        trials: how many of each count; an order may be shorter.
        contender: whose trials are shown on the planes; the first one when left out.
        planes: where; ``settings_planes(tables)`` when left out.

    Raises:
        TypeError: if the number of trials is no whole number.
        ValueError: if the data set or the contender is unknown, an order is empty or names a setting that is not there,
            or all settings are alike on the data set.

    Example:
        >>> tables = TrialTables(
        ...     settings=torch.eye(3), scores=torch.tensor([[0.5, 0.7, 0.9]]), names=("a",), shots=1, queries=2
        ... )
        >>> settings_race(tables, "a", {"up": [0, 1, 2], "down": [2, 1]}, trials=2).regret
        {'up': tensor([100.,  50.]), 'down': tensor([0., 0.])}
    """
    trials, scores = whole("trials", trials), tables.only(name).scores[0]
    if float(scores.max()) <= float(scores.min()):
        raise ValueError(f"settings must differ in their scores on {name}; all are alike. Choose another data set.")
    for each, order in orders.items():
        if len(order) == 0 or not all(isinstance(i, int) and 0 <= i < len(scores) for i in order):
            raise ValueError(f"{each} must be an order of settings, numbers below {len(scores)}, got {list(order)}.")
    tried = {each: tuple(order[:trials]) for each, order in orders.items()}
    regret = {each: hyperparameters.regret(tables, name, list(order)) for each, order in tried.items()}
    chosen = choice("contender", next(iter(tried), "") if contender is None else contender, tried)
    return SettingsRace(name, regret, tried, scores, chosen, tuple(planes or settings_planes(tables)))
