"""Lesson 11: right answers by another way, wrong answers as readers might write them, and the stand-ins."""

import math

import answers
import pytest
import torch

from metakit import course
from metakit.course import stand_ins
from metakit.recipes import hyperparameters, medicine

# ------------------------------------------------------------------------------------------------------ exercises


def by_draws(mean, spread, best):
    """The mean improvement over the quantiles of each normal."""
    share = (torch.arange(400_000, dtype=torch.float64) + 0.5) / 400_000
    draws = mean[:, None] + spread[:, None] * torch.special.ndtri(share)
    return (draws - best).clamp(min=0).mean(1)


def by_distributions(mean, spread, best):
    normal = torch.distributions.Normal(mean, spread)
    at = torch.as_tensor(best, dtype=mean.dtype)
    return (mean - best) * (1 - normal.cdf(at)) + spread**2 * normal.log_prob(at).exp()


def improvement(*, bell=True, times=True, sure=False, up=True):
    def expected_improvement(mean, spread, best):
        u = (mean - best) / spread if up else (best - mean) / spread
        phi = torch.exp(-u * u / 2) / math.sqrt(2 * math.pi)
        inner = u * (1 if sure else 0.5 * (1 + torch.erf(u / 2**0.5)))
        inner = inner + phi if bell else inner
        return spread * inner if times else inner

    return expected_improvement


def in_columns(known, asked):
    new = [torch.empty_like(known), torch.empty_like(asked)]
    for d in range(known.shape[1]):
        mean = sum(known[:, d].tolist()) / len(known)
        spread = math.sqrt(sum((v - mean) ** 2 for v in known[:, d].tolist()) / (len(known) - 1))
        for out, rows in zip(new, (known, asked), strict=True):
            out[:, d] = (rows[:, d] - mean) / spread
    return tuple(new)


def each_by_itself(known, asked):
    return tuple((rows - rows.mean(0)) / rows.std(0) for rows in (known, asked))


def all_together(known, asked):
    both = torch.cat([known, asked])
    scaled = (both - both.mean(0)) / both.std(0)
    return scaled[: len(known)], scaled[len(known) :]


def in_bins(chance, y, bins, *, power=1, signed=False, alike=False, own=None):
    groups = {}
    for c, label in zip(chance.tolist(), y.tolist(), strict=True):
        groups.setdefault(min(int(c * bins), bins - 1), []).append((c, label))
    total = 0.0
    for pairs in groups.values():
        told = [float((c > 0.5) == label) if own else label for c, label in pairs]
        apart = sum(c for c, _ in pairs) / len(pairs) - sum(told) / len(pairs)
        total += (apart if signed else abs(apart) ** power) * (1 / len(groups) if alike else len(pairs) / len(chance))
    return torch.tensor(total, dtype=chance.dtype)


WRITTEN = [
    ("expected_improvement", improvement(up=False), "The sign"),
    ("expected_improvement", improvement(bell=False), "The bell is missing"),
    ("expected_improvement", improvement(times=False), "counted in spreads"),
    ("expected_improvement", improvement(sure=True), "multiply it by its chance"),
    (
        "expected_improvement",
        lambda mean, spread, best: 1 - torch.distributions.Normal(mean, spread).cdf(torch.tensor(best)),
        "by how much",
    ),
    ("expected_improvement", lambda mean, spread, best: torch.relu(mean - best), "improvement of the mean"),
    ("expected_improvement", lambda mean, spread, best: mean - best, "nothing that is uncertain"),
    ("expected_improvement", lambda mean, spread, best: improvement()(mean, spread, best).max(), "must have shape"),
    ("scaled", each_by_itself, "scaled by itself"),
    ("scaled", all_together, "take part in the scaling"),
    ("scaled", lambda k, a: ((k - k.mean()) / k.std(), (a - k.mean()) / k.std()), "One mean and one spread"),
    ("scaled", lambda k, a: ((k - k.mean(0)) / k.var(0), (a - k.mean(0)) / k.var(0)), "by the variance"),
    ("scaled", lambda k, a: (k - k.mean(0), a - k.mean(0)), "not divided"),
    ("scaled", lambda k, a: (in_columns(k, a)[0], a), "other units"),
    ("calibration_error", lambda *a: in_bins(*a, alike=True), "Every bin counts alike"),
    ("calibration_error", lambda *a: in_bins(*a, signed=True), "cancel"),
    ("calibration_error", lambda *a: in_bins(*a, own=True), "how often one was right"),
    ("calibration_error", lambda *a: in_bins(*a, power=2), "is squared"),
    ("calibration_error", lambda chance, y, bins: (chance - y).abs().sum() / len(y), "Without bins"),
    ("calibration_error", lambda chance, y, bins: abs(chance.mean() - y.double().mean()), "One bin for all"),
]

test_wrong_answers_as_readers_write_them_are_understood = answers.wrong(WRITTEN)

test_right_answers_by_another_way_pass = answers.right(
    [
        ("expected_improvement", by_distributions),
        ("expected_improvement", improvement()),
        ("scaled", in_columns),
        ("calibration_error", in_bins),
        ("calibration_error", lambda chance, y, bins: medicine.calibration_error(chance, y, bins=bins)),
    ]
)


def test_the_formula_of_the_exercise_is_the_mean_improvement():
    right = {exercise.name: exercise.right for exercise in course.LESSONS["applications"].EXERCISES}
    mean, spread = torch.tensor([0.1, 0.9, 0.5]).double(), torch.tensor([0.5, 0.01, 0.2]).double()
    found = right["expected_improvement"](mean, spread, 0.7)
    torch.testing.assert_close(found, by_draws(mean, spread, 0.7), atol=1e-5, rtol=1e-4)


# ------------------------------------------------------------------------------------------------------ stand-ins


@pytest.fixture
def nothing_there(monkeypatch, tmp_path):
    monkeypatch.setenv("METAKIT_DATA", str(tmp_path))


def test_without_data_the_page_has_invented_ones_of_the_same_form(nothing_there, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "arch", None)
    monkeypatch.setitem(__import__("sys").modules, "arch.data", None)
    found = stand_ins.intents()
    assert not found.real and found.train.rows.shape[1] == 4096
    assert found.known.names == found.asked.names and not set(found.train.names) & set(found.known.names)
    assert not set(map(tuple, found.known.rows.tolist())) >= set(map(tuple, found.asked.rows.tolist()))
    hospitals, real = stand_ins.patients()
    assert not real and len(hospitals) == 4 and all(x.isnan().any() for x, _ in hospitals.values())
    tables, real = stand_ins.trials()
    assert not real and len(tables) == 40
    markets, real = stand_ins.prices()
    assert (
        not real
        and len(markets) == 3
        and all(len(each.between("2011-01-01", "2100-01-01").days) > 80 for each in markets)
    )


def test_the_stand_ins_have_something_to_be_learned(nothing_there):
    tables, _ = stand_ins.trials()
    regrets = {"learned prior": [], "greedy portfolio": [], "random": []}
    for name in tables.names[:12]:
        for who, order in hyperparameters.compared(tables, name, 5).items():
            if who in regrets:
                regrets[who].append(float(hyperparameters.regret(tables, name, order)[-1]))
    assert sum(regrets["learned prior"]) < sum(regrets["greedy portfolio"]) < sum(regrets["random"])
