"""A search space gives its candidates, their codes and their neighbours, and refuses nonsense."""

import math

import numpy as np
import pytest
import torch

from metakit.search import Space, log, per_layer


def every_kind():
    return Space(
        layers=(1, 3), rate=log(1e-3, 1e-1), width=log(1, 64), noise=(0.0, 1.0), activation=("relu", "tanh", None)
    )


def test_samples_lie_in_the_space_and_repeat_with_the_seed():
    space = every_kind()
    drawn = space.sample(200, seed=3)
    assert [space.check(candidate) for candidate in drawn] == drawn == space.sample(200, seed=3)
    assert {candidate["layers"] for candidate in drawn} == {1, 2, 3}
    assert {candidate["activation"] for candidate in drawn} == {"relu", "tanh", None}


def test_a_logarithmic_range_is_uniform_in_the_logarithm():
    space = Space(rate=log(1e-4, 1.0), width=log(1, 63))
    drawn = space.sample(4000, seed=0)
    assert sum(c["rate"] < 1e-2 for c in drawn) / 4000 == pytest.approx(0.5, abs=0.03)
    assert sum(c["width"] < 8 for c in drawn) / 4000 == pytest.approx(0.5, abs=0.03)


def test_decoding_undoes_encoding():
    space = every_kind()
    drawn = space.sample(300, seed=0)
    for before, after in zip(drawn, space.decode(space.encode(drawn)), strict=True):
        assert {n: before[n] for n in ("layers", "width", "activation")} == {
            n: after[n] for n in ("layers", "width", "activation")
        }
        assert after["rate"] == pytest.approx(before["rate"]) and after["noise"] == pytest.approx(before["noise"])


@pytest.mark.parametrize("ends", [(1, 64), (1, 1000), (3, 7), (1, 1), (5, 5)])
def test_every_whole_number_has_its_cell(ends):
    for dimension in (ends, log(*ends)):
        space = Space(n=dimension)
        numbers = [{"n": n} for n in range(ends[0], ends[1] + 1)]
        assert space.decode(space.encode(numbers)) == numbers
        assert space.decode(torch.tensor([[0.0], [1.0]])) == [numbers[0], numbers[-1]]


def test_numbers_of_numpy_are_numbers():
    ends = np.int64(1), np.int64(3)
    assert list(Space(n=ends)) == [{"n": 1}, {"n": 2}, {"n": 3}]
    assert Space(n=(np.float32(0), 1)).size == math.inf and log(*ends).value(0.0) == 1


def test_size_and_iteration_count_the_same():
    space = Space(layers=(1, 3), activation=("relu", "tanh"), fixed=("a",))
    assert space.size == len(list(space)) == len({space.key(c) for c in space}) == 6
    assert every_kind().size == math.inf
    with pytest.raises(ValueError, match="has no end"):
        list(every_kind())


def test_neighbours_differ_in_one_dimension():
    space = Space(layers=(1, 3), activation=("relu", "tanh", "sigmoid"), rate=(0.0, 1.0))
    here = {"layers": 1, "activation": "relu", "rate": 0.5}
    there = space.neighbours(here)
    assert [sum(here[n] != c[n] for n in here) for c in there] == [1] * 5
    assert sorted(c["rate"] for c in there if c["rate"] != 0.5) == pytest.approx([0.4, 0.6])


def test_a_dimension_for_each_layer():
    space = Space(units=per_layer((1, 8), layers=3), x=("a", "b"))
    assert space.names == ("units_1", "units_2", "units_3", "x")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Space(), "a space must have a dimension"),
        (lambda: Space(units=(64, 1)), "low <= high"),
        (lambda: Space(units=(1.0, math.inf)), "must be finite"),
        (lambda: Space(activation=("relu", "relu")), "different, hashable values"),
        (lambda: Space(activation=()), "at least one"),
        (lambda: Space(activation=([1], [2])), "hashable"),
        (lambda: Space(units=per_layer((1, 2), layers=1), units_1=(1, 2)), "'units_1' twice"),
        (lambda: log(0.0, 1.0), "0 < low < high"),
        (lambda: per_layer((1, 2), layers=0), "layers must be at least 1"),
        (lambda: Space(n=(1, 3)).encode([{"n": 4}]), "n must be a whole number from 1 to 3, got 4"),
        (lambda: Space(n=(1, 3)).encode([{"n": 1.0}]), "n must be a whole number from 1 to 3, got 1.0"),
        (lambda: Space(n=("a", "b")).encode([{"n": "c"}]), "n must be one of 'a', 'b', got 'c'"),
        (lambda: Space(n=(1, 3)).encode([{"m": 1}]), "must have the dimensions n; got m"),
        (lambda: Space(n=(1, 3)).decode(torch.tensor([[1.5]])), "points must be"),
    ],
)
def test_nonsense_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("make", [lambda: Space(units=3), lambda: Space(n=(1, 3)).check([1])])
def test_the_wrong_kind_is_refused(make):
    with pytest.raises(TypeError, match=r"must be a tuple|must map names"):
        make()
