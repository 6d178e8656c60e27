"""Strategies keep one interface under any use, and those that learn beat random search."""

import itertools
import math
import random

import pytest
import torch

from metakit.search import CrossEntropy, Evolution, Optuna, Random, Reinforce, Space, SuccessiveHalving, log

ALL = [Random(), Evolution(), CrossEntropy(), Reinforce(), SuccessiveHalving(), Optuna()]
OPERATIONS = ("none", "skip", "conv1", "conv3", "pool")
EDGES = Space(**{f"edge_{i}": OPERATIONS for i in range(6)})
MIXED = Space(layers=(1, 3), units=(1, 64), activation=("relu", "tanh"), rate=log(1e-3, 1e-1))


def started(strategy, space, seed=0):
    if isinstance(strategy, Optuna):
        pytest.importorskip("optuna")
    return strategy.start(space, seed=seed)


def named(strategy):
    return type(strategy).__name__


def table(seed):
    """A table of 15,625 scores with main effects and interactions of pairs."""
    draw = random.Random(seed)
    main = [[draw.gauss(0, 1) for _ in OPERATIONS] for _ in range(6)]
    pairs = {
        pair: [[draw.gauss(0, 0.5) for _ in OPERATIONS] for _ in OPERATIONS]
        for pair in itertools.combinations(range(6), 2)
    }

    def score(candidate):
        at = [OPERATIONS.index(value) for value in candidate.values()]
        effects = sum(main[i][at[i]] for i in range(6))
        return effects + sum(values[at[i]][at[j]] for (i, j), values in pairs.items())

    return score


def best_after(strategy, seed, budget=200, batch=1):
    """The true score of the candidate that looked best, with noise in what was told."""
    score, noise, search = table(seed), random.Random(seed), strategy.start(EDGES, seed=seed)
    seen = []
    for _ in range(budget // batch):
        candidates = search.ask(batch)
        told = [score(c) + noise.gauss(0, 0.3) for c in candidates]
        search.tell(candidates, told)
        seen += zip(told, candidates, strict=True)
    return score(min(seen, key=lambda pair: pair[0])[1])


@pytest.mark.parametrize("strategy", [Evolution(), CrossEntropy(), Reinforce()], ids=named)
@pytest.mark.parametrize("batch", [1, 20])
def test_learning_strategies_beat_random_search(strategy, batch):
    gains = torch.tensor([best_after(Random(), s) - best_after(strategy, s, batch=batch) for s in range(12)])
    assert float(gains.mean() / (gains.std() / len(gains) ** 0.5)) > 3


@pytest.mark.parametrize("strategy", ALL, ids=named)
@pytest.mark.parametrize("space", [EDGES, MIXED], ids=["edges", "mixed"])
def test_the_same_seed_asks_the_same_and_never_twice(strategy, space):
    def history(seed):
        search, asked = started(strategy, space, seed), []
        for size in (1, 5, 16, 1, 10):
            candidates = search.ask(size)
            assert len(candidates) == size
            asked += [space.check(candidate) for candidate in candidates]
            search.tell(candidates, [float(i) for i in range(size)])
        return asked

    first = history(0)
    assert first == history(0) and first != history(1)
    assert len({space.key(candidate) for candidate in first}) == len(first)


@pytest.mark.parametrize("strategy", ALL, ids=named)
def test_telling_is_free_in_order_and_extent(strategy):
    search = started(strategy, MIXED)
    search.tell(MIXED.sample(3, seed=9), [3.0, math.inf, math.nan])
    search.tell([], [])
    early, late = search.ask(20), search.ask(10)
    search.tell(late[::-1][:7], [float(i) for i in range(7)])
    search.tell(early, [math.inf] * 20)
    search.tell([early[0], early[0]], [1.0, 2.0])
    assert len(search.ask(30)) == 30


@pytest.mark.parametrize("strategy", ALL, ids=named)
def test_a_space_that_is_spent_is_gone_through_again(strategy):
    small = Space(a=("x", "y", "z"), b=(1, 2))
    search, asked = started(strategy, small), []
    for _ in range(12):
        (candidate,) = search.ask(1)
        search.tell([candidate], [1.0])
        asked.append(small.key(candidate))
    assert len(set(asked[:6])) == 6


def test_a_child_differs_in_one_dimension_and_the_oldest_dies():
    search = Evolution(population=3, tournament=20).start(EDGES, seed=0)
    first = search.ask(3)
    search.tell(first, [0.0, 5.0, 6.0])
    (child,) = search.ask(1)
    assert sum(child[n] != first[0][n] for n in child) == 1
    search.tell(search.ask(1), [9.0])  # now the best is the oldest, and is gone
    (child,) = search.ask(1)
    assert sum(child[n] != first[1][n] for n in child) == 1


def test_the_model_moves_to_the_elite_by_its_formula():
    space = Space(a=("x", "y", "z", "w"))
    search = CrossEntropy(population=4, elite=2, smoothing=0.5).start(space, seed=0)
    candidates = [{"a": value} for value in "xyzw"]
    search.tell(candidates, [1.0, 0.0, 2.0, 3.0])
    assert search.distribution()["a"].tolist() == pytest.approx([0.375, 0.375, 0.125, 0.125])
    again = CrossEntropy(population=4, elite=2, smoothing=0.5).start(space, seed=0)
    again.tell(candidates[:2], [1.0, 0.0])
    assert again.distribution()["a"].tolist() == [0.25] * 4
    again.tell(candidates[2:], [2.0, 3.0])
    assert float(again.distribution()["a"][0]) == pytest.approx(0.25 * 0.5**0.5 + 0.5 * (1 - 0.5**0.5))


def test_the_policy_moves_by_its_formula():
    search = Reinforce(lr=1.0).start(Space(a=("x", "y")), seed=0)
    search.tell([{"a": "x"}], [5.0])  # beats nobody, is beaten by nobody: no advantage
    assert search.distribution()["a"].tolist() == [0.5, 0.5]
    search.tell([{"a": "y"}], [1.0])  # beats one of two, and half itself: advantage 0.25
    expected = torch.tensor([-0.125, 0.125], dtype=torch.float64).softmax(0)
    assert torch.allclose(search.distribution()["a"], expected)


def test_halving_keeps_the_best_third():
    strategy = SuccessiveHalving(reduction=3, rungs=2)
    assert strategy.milestones(900) == (100, 300)
    assert strategy.survivors([5.0, 1.0, math.inf, 0.0, 7.0, 2.0]) == [1, 3]
    assert strategy.survivors([5.0, 1.0]) == [1]


def test_any_sampler_of_optuna_serves():
    optuna = pytest.importorskip("optuna")
    for sampler in (optuna.samplers.RandomSampler, optuna.samplers.TPESampler(seed=4)):
        search = Optuna(sampler).start(MIXED, seed=0)
        candidates = search.ask(5)
        search.tell(candidates, [1.0] * 5)
        assert candidates == Optuna(sampler).start(MIXED, seed=0).ask(5)


def test_without_optuna_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    with pytest.raises(ImportError, match=r"metakit\[search\]"):
        Optuna().start(MIXED)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Random(0), "population must be at least 1, got 0"),
        (lambda: Evolution(tournament=0), "tournament must be"),
        (lambda: CrossEntropy(smoothing=2), "smoothing must be finite and at least 0 and at most 1, got 2"),
        (lambda: Reinforce(lr=0), "lr must be finite and above 0, got 0"),
        (lambda: SuccessiveHalving(reduction=1), "reduction must be at least 2"),
        (lambda: Random().start(EDGES, seed=-1), "seed must be"),
        (lambda: Random().start(EDGES).ask(0), "n must be"),
        (lambda: Random().start(EDGES).tell([], [1.0]), "one score a candidate, got 1 for 0"),
        (lambda: Random().start(MIXED).tell([{"layers": 9}], [1.0]), "must have the dimensions"),
    ],
)
def test_nonsense_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_space_is_asked_for():
    with pytest.raises(TypeError, match=r"must be a search\.Space, got dict"):
        Random().start({})
