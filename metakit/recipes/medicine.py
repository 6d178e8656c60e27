"""Heart disease at a hospital that has seen few patients: a risk score learned at others, drawn to its own patients.

The learner is logistic regression with a start and a strength of the draw to it. The start is the regression pooled
over the other hospitals; the strength is the one that would have served best had one of them been the new one.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from metakit.checks import whole
from metakit.data.patients import FEATURES, Hospital
from metakit.learners import Logistic
from metakit.models import Standardised
from metakit.tasks.batch import TaskBatch

PATIENTS = (5, 10, 20)
STRENGTHS, INTERCEPTS = (3.0, 10.0, 30.0, 100.0, 300.0), (0.1, 0.3, 1.0, 3.0, 10.0)
_POOLED, _FREE, _HELD = 10.0, 1e-3, 1e6  # strengths of a draw: of a plain fit to zero, hardly any, and no way off
_KINDS = {"sex": (1,), "chest pain": (1, 2, 3, 4), "fasting sugar": (1,), "resting ECG": (0, 1, 2)}
_KINDS |= {"angina in exercise": (1,), "ST slope": (1, 2, 3), "thallium scan": (3, 6, 7)}
_ROW = 2 * sum(len(_KINDS.get(name, (None,))) for name in FEATURES)
Tells = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Chances of the disease for query rows ``[Q, D]`` from support rows ``[S, D]`` and what they had ``[S]``."""


def coded(x: Tensor) -> Tensor:
    """Patients ``[n, 13]`` with NaN where missing, as rows ``[n, 2 C]``: values, kinds one by one; then what was there.

    Raises:
        ValueError: if the patients have not 13 features.

    Example:
        >>> coded(torch.full((2, 13), torch.nan)).sum(1)
        tensor([0., 0.])
    """
    if x.dim() != 2 or x.shape[1] != len(FEATURES):
        raise ValueError(f"patients must be [n, {len(FEATURES)}], got {list(x.shape)}. See mk.tasks.hospitals.")
    values, there = [], []
    for name, column in zip(FEATURES, x.unbind(1), strict=True):
        for kind in _KINDS.get(name, (None,)):
            values.append(column.nan_to_num() if kind is None else (column == kind).to(x.dtype))
            there.append(column.isfinite().to(x.dtype))
    return torch.stack(values + there, 1)


def train(others: Mapping[str, Hospital], *, draws: int = 40, seed: int = 0) -> Logistic:
    """The learner that these hospitals teach, for another one.

    Strengths are chosen among ``STRENGTHS`` and ``INTERCEPTS``: each of the hospitals in turn plays the new one, the
    start is pooled over the rest, and the least mean log loss over draws of few patients wins. A start that had seen
    the hospital which it is judged on would want to stay where it is.

    Arguments:
        others: name to patients and what they had, of two hospitals at least.
        draws: draws of patients, for each number in ``PATIENTS`` and each hospital.
        seed: of the draws.

    Raises:
        ValueError: if there is but one hospital.

    Example:
        >>> def hospital(n: int) -> Hospital:
        ...     x = torch.randn(n, 13)
        ...     return x, (x[:, 0] + torch.randn(n) > 0).long()
        >>> learner = train({"one": hospital(60), "other": hospital(50)}, draws=3)
        >>> learner.start.shape
        torch.Size([45])
    """
    if len(others) < 2:
        raise ValueError(f"the strength of the draw needs two hospitals to learn from at least, got {len(others)}.")
    scores = torch.zeros(len(STRENGTHS), len(INTERCEPTS))
    for name, hospital in others.items():
        rest = pooled(hospital for other, hospital in others.items() if other != name)
        tasks = [_draws(hospital, few, draws, seed) for few in PATIENTS]
        for i, j in itertools.product(*map(range, scores.shape)):
            learner = _drawn_to(rest, STRENGTHS[i], INTERCEPTS[j])
            with torch.no_grad():
                scores[i, j] += torch.stack([learner(batch).mean() for batch in tasks]).mean()
    best = int(scores.argmin())
    return _drawn_to(pooled(others.values()), STRENGTHS[best // len(INTERCEPTS)], INTERCEPTS[best % len(INTERCEPTS)])


def pooled(hospitals: Iterable[Hospital]) -> Logistic:
    """Logistic regression on all patients of these hospitals; its ``start`` is what was fitted."""
    x, y = _everyone(hospitals)
    learner = _fresh(Standardised(x.shape[1] // 2).estimate(x), _POOLED, _FREE)
    with torch.no_grad():
        learner.start.copy_(learner.know(_task(x, y, x[:1], y[:1]), None)[0])
    return learner


def contenders(others: Mapping[str, Hospital], learner: Logistic | None = None) -> dict[str, Tells]:
    """The learner, and what is used today: pooled, local, and pooled with the new patients among the rest.

    Arguments:
        others: the hospitals to learn from.
        learner: what ``train(others)`` gives, if it is there already.
    """
    learner, everyone = learner or train(others), pooled(others.values())
    x, y = _everyone(others.values())
    plain, unmoved = _fresh(everyone.embedding, _POOLED, _FREE), _drawn_to(everyone, _HELD, _HELD)

    def refitted(support_x: Tensor, support_y: Tensor, query_x: Tensor) -> Tensor:
        return risk(plain, torch.cat([x, support_x]), torch.cat([y, support_y]), query_x)

    return {
        "drawn to the start": functools.partial(risk, learner),
        "pooled": functools.partial(risk, unmoved),
        "local": functools.partial(risk, plain),
        "pooled and refitted": refitted,
    }


def risk(learner: Logistic, support_x: Tensor, support_y: Tensor, query_x: Tensor) -> Tensor:
    """The chance of the disease of each query row, ``[Q]``."""
    return learner.predict(support_x, support_y, query_x).softmax(-1)[:, 1]


@dataclasses.dataclass(frozen=True)
class Scores:
    """What chances are worth: each ``[draws]``.

    Arguments:
        accuracy: share on the right side of one half.
        auc: chance that one with the disease was given the higher one.
        calibration: expected calibration error over ten bins.
        log_loss: mean, in nats.
    """

    accuracy: Tensor
    auc: Tensor
    calibration: Tensor
    log_loss: Tensor


def judged(tell: Tells, hospital: Hospital, few: int, *, draws: int = 20, seed: int = 0) -> Scores:
    """How well a contender tells the other patients of a hospital from a few of its own, at least one of each kind.

    Arguments:
        tell: the contender.
        hospital: patients and what they had.
        few: how many it learns from.
        draws: how often; the same seed draws the same patients for every contender.
        seed: of the draws.

    Raises:
        ValueError: if the hospital has not more patients than that, or all had the same.

    Example:
        >>> x = torch.randn(50, 13)
        >>> y = (x[:, 0] > 0).long()
        >>> judged(lambda sx, sy, qx: (qx[:, 0] > 0).float(), (x, y), 5).accuracy.mean()
        tensor(1.)
    """
    rows = []
    batch = _draws(hospital, whole("few", few, least=2), whole("draws", draws), seed)
    for support_x, support_y, query_x, y in zip(*batch.tensors, strict=True):
        chance = tell(support_x, support_y, query_x).double()
        kept = chance.clamp(1e-4, 1 - 1e-4)
        loss = -torch.where(y == 1, kept, 1 - kept).log().mean()
        right = ((chance > 0.5) == (y == 1)).double().mean()
        rows.append(torch.stack([right, area(chance, y), calibration_error(chance, y), loss]))
    return Scores(*torch.stack(rows, 1).float())


def calibration_error(chance: Tensor, y: Tensor, *, bins: int = 10) -> Tensor:
    """Expected calibration error: in bins of chances, how far their mean lies from the share that had the disease.

        sum over bins of |bin| / n * |mean chance - share of y|

    Example:
        >>> calibration_error(torch.tensor([0.8, 0.8, 0.8, 0.8]), torch.tensor([1, 1, 1, 0]))
        tensor(0.0500)

    Source: M. Naeini, G. Cooper, M. Hauskrecht, 2015, section 2.
    """
    place = (chance * whole("bins", bins)).long().clamp(max=bins - 1)
    apart = torch.zeros(bins, dtype=chance.dtype, device=chance.device).index_add_(0, place, chance - y)
    return apart.abs().sum() / len(y)


def area(chance: Tensor, y: Tensor) -> Tensor:
    """Area under the curve: the share of pairs, one with and one without, that are in the right order; a tie is half.

    Example:
        >>> area(torch.tensor([0.9, 0.4, 0.4]), torch.tensor([1, 1, 0]))
        tensor(0.7500)
    """
    apart = chance[y == 1][:, None] - chance[y == 0]
    return ((apart > 0).to(chance) + (apart == 0).to(chance) / 2).mean()


def _everyone(hospitals: Iterable[Hospital]) -> tuple[Tensor, Tensor]:
    """The rows and the diseases of all patients of these hospitals."""
    x, y = zip(*((coded(x), y) for x, y in hospitals), strict=True)
    return torch.cat(x), torch.cat(y)


def _draws(hospital: Hospital, few: int, draws: int, seed: int) -> TaskBatch:
    """A task for each draw: so many patients to learn from, of both kinds, and all the others."""
    x, y = coded(hospital[0]), hospital[1]
    if few >= len(y) or len(y.unique()) < 2:
        raise ValueError(
            f"a hospital needs more than {few} patients, with and without the disease, got {len(y)}, of "
            f"{len(y.unique())} kinds. Draw fewer."
        )
    generator = torch.Generator().manual_seed(whole("seed", seed, least=0))
    orders: list[Tensor] = []
    while len(orders) < draws:
        order = torch.randperm(len(y), generator=generator)
        if len(y[order[:few]].unique()) == 2:
            orders.append(order)
    some, rest = torch.stack(orders).split([few, len(y) - few], 1)
    return TaskBatch.trusted(x[some], y[some], x[rest], y[rest], ways=2)


def _task(support_x: Tensor, support_y: Tensor, query_x: Tensor, query_y: Tensor) -> TaskBatch:
    return TaskBatch.trusted(*(side[None] for side in (support_x, support_y, query_x, query_y)), ways=2)


def _fresh(embedding: nn.Module, strength: float, intercept: float) -> Logistic:
    return Logistic(embedding, _ROW, strength=strength, intercept=intercept)


def _drawn_to(fitted: Logistic, strength: float, intercept: float) -> Logistic:
    learner = _fresh(fitted.embedding, strength, intercept)
    with torch.no_grad():
        learner.start.copy_(fitted.start)
    return learner
