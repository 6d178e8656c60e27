"""A population trained as one batch is the same networks trained alone."""

import itertools
import math
import random
import threading

import pytest
import torch
import torch.nn.functional as F

import metakit as mk
from metakit.search import Architecture, Population, SuccessiveHalving
from metakit.search.architecture import ACTIVATIONS
from metakit.search.loop import train
from metakit.search.stack import Stack


def tasks(kind, dtype=torch.float64, count=3, rows=20, features=4):
    generator = torch.Generator().manual_seed(1)
    x, qx = (torch.randn(count, n, features, generator=generator, dtype=dtype) for n in (rows, 7))
    if kind == "classes":
        return mk.TaskBatch(x, torch.arange(rows).remainder(3).expand(count, -1), qx, torch.zeros(count, 7).long())
    return mk.TaskBatch(x, x[..., :2].sin() + x[..., 2:], qx, qx[..., :2].sin() + qx[..., 2:])


def architectures(seed, count=12, rate=0.3):
    draw = random.Random(seed)
    return [
        Architecture(
            tuple(draw.randint(1, 9) for _ in range(draw.randint(0, 3))),
            draw.choice(ACTIVATIONS),
            10 ** draw.uniform(-3, math.log10(rate)),
        )
        for _ in range(count)
    ]


def alone(architecture, batch, task, *, number, steps, seed=0):
    """The query loss of one network, trained by torch's own layers, autograd and optimiser."""
    outputs = batch.ways or batch.support_y.shape[-1]
    sizes = [batch.support_x.shape[-1], *architecture.hidden, outputs]
    layers = [torch.nn.Linear(i, o) for i, o in itertools.pairwise(sizes)]
    kinds = {"relu": torch.nn.ReLU, "tanh": torch.nn.Tanh, "sigmoid": torch.nn.Sigmoid}
    with torch.no_grad():
        start = architecture.weights(sizes[0], outputs, seed=seed, number=number)
        for layer, (weight, bias) in zip(layers, start, strict=True):
            layer.weight.copy_(weight)
            layer.bias.copy_(bias)
    parts = [part for layer in layers for part in (layer, kinds[architecture.activation]())][:-1]
    network = torch.nn.Sequential(*parts).to(batch.support_x.dtype)
    loss = F.mse_loss if batch.support_y.is_floating_point() else F.cross_entropy
    optimizer = torch.optim.SGD(network.parameters(), lr=architecture.learning_rate)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(network(batch.support_x[task]), batch.support_y[task]).backward()
        optimizer.step()
    return float(loss(network(batch.query_x[task]), batch.query_y[task]).detach()), network


@pytest.mark.parametrize("kind", ["real", "classes"])
@pytest.mark.parametrize("seed", [0, 1])
def test_each_network_ends_as_if_trained_alone(kind, seed):
    batch, several = tasks(kind), architectures(seed)
    population = Population(several, batch)
    population.train(25)
    losses = population.losses(batch.query_x, batch.query_y)
    for p, architecture in enumerate(several):
        for t in range(len(batch)):
            expected, network = alone(architecture, batch, t, number=p, steps=25)
            assert float(losses[p, t]) == pytest.approx(expected, abs=1e-11)
            x = batch.query_x[t]
            model = architecture.model(4, population.outputs, population.weights(p, t))
            assert torch.allclose(model(x), network(x), atol=1e-11)


def test_in_float32_too_to_1e_5():
    batch, several = tasks("real", torch.float32, count=1), architectures(5, rate=0.1)
    population = Population(several, batch)
    population.train(100)
    losses = population.losses(batch.query_x, batch.query_y)[:, 0].tolist()
    assert losses == pytest.approx(
        [alone(a, batch, 0, number=p, steps=100)[0] for p, a in enumerate(several)], abs=1e-5
    )


def test_the_result_does_not_depend_on_the_company():
    batch, several = tasks("real"), architectures(2)
    together = Population(several, batch)
    together.train(20)
    apart = Population(several[7:9], batch, numbers=[7, 8])
    apart.train(20)
    both = (p.losses(batch.query_x, batch.query_y) for p in (together, apart))
    assert torch.allclose(next(both)[7:9], next(both), atol=1e-12)


def test_initial_weights_follow_from_seed_and_number():
    architecture = Architecture((6,))
    first, again, other, reseeded = (
        architecture.weights(4, 1, seed=seed, number=number)[0][0] for seed, number in [(0, 1), (0, 1), (0, 2), (1, 1)]
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other) and not torch.equal(first, reseeded)
    assert first.abs().max() <= 0.5  # 1 / sqrt(4)


def test_small_chunks_change_nothing(monkeypatch):
    batch, several = tasks("real"), architectures(3)
    expected = Population(several, batch)
    expected.train(10)
    monkeypatch.setattr("metakit.search.population._CACHED", 1)
    chunked = Population(several, batch)
    assert len(chunked._stacks) == len(several)
    chunked.train(10)
    pair = (p.losses(batch.query_x, batch.query_y) for p in (expected, chunked))
    assert torch.allclose(next(pair), next(pair), atol=1e-12)


def test_one_that_diverges_scores_infinity_and_disturbs_nobody():
    batch, calm = tasks("real"), [Architecture((6,), "relu", 0.01), Architecture((5,), "relu", 0.01)]
    wild = Architecture((7,), "relu", 1e6)
    population = Population([calm[0], wild, calm[1]], batch)
    population.train(60)
    losses = population.losses(batch.query_x, batch.query_y)
    assert losses[1].tolist() == [math.inf] * 3
    expected = Population(calm, batch, numbers=[0, 2])
    expected.train(60)
    assert torch.allclose(losses[[0, 2]], expected.losses(batch.query_x, batch.query_y), atol=1e-12)


def test_survivors_go_on_and_the_others_cost_nothing():
    batch = tasks("real", count=1)
    candidates = [{"units": n, "learning_rate": 0.02} for n in range(1, 10)]
    halved, population = train(candidates, batch, steps=40, halving=SuccessiveHalving(reduction=3, rungs=1))
    whole, _ = train(candidates, batch, steps=40)
    assert [trial.steps for trial in halved].count(40) == len(population) == 3
    at = dict(whole[0].curve).keys()
    assert 13 not in at and all(trial.steps == 13 for trial in halved if not trial.finished)
    best = sorted(range(9), key=lambda p: dict(halved[p].curve)[13])[:3]
    assert sorted(best) == [p for p, trial in enumerate(halved) if trial.finished]
    for p in best:
        assert halved[p].score == pytest.approx(whole[p].score, abs=1e-12)


def test_a_candidate_names_an_architecture():
    assert Architecture.of({"units_1": 3, "units_2": 4, "hidden_layers": 1}).hidden == (3,)
    assert Architecture.of({"units_1": 3, "units_2": 4}).hidden == (3, 4)
    assert Architecture.of({"units": 3, "hidden_layers": 0}).hidden == ()


@pytest.mark.parametrize(
    ("candidate", "message"),
    [
        ({"units": 3, "dropout": 0.1}, "got 'dropout'"),
        ({"activation": "relu"}, "a network needs units"),
        ({"units": 3, "units_1": 3}, "not both"),
        ({"units": 0}, "units must be at least 1, got 0"),
        ({"units": 3, "activation": "gelu"}, "activation must be one of relu, sigmoid, tanh, got 'gelu'"),
        ({"units": 3, "learning_rate": -1.0}, "learning_rate must be finite and at least 0"),
        ({"units_1": 3, "hidden_layers": 2}, "hidden_layers must be from 0 to 1"),
    ],
)
def test_what_is_no_network_is_refused(candidate, message):
    with pytest.raises(ValueError, match=message):
        Architecture.of(candidate)


def test_images_are_refused():
    x = torch.zeros(1, 2, 1, 4, 4)
    with pytest.raises(ValueError, match="Flatten them first"):
        Population([Architecture((3,))], mk.TaskBatch(x, torch.zeros(1, 2, 1), x, torch.zeros(1, 2, 1)))


@pytest.mark.gpu
def test_a_gpu_gives_the_same_losses():
    batch, several = tasks("real", torch.float32), architectures(2, rate=0.1)
    here, there = Population(several, batch), Population(several, batch.to("cuda"))
    for population in (here, there):
        population.train(20)
    losses = there.losses(batch.query_x.cuda(), batch.query_y.cuda()).cpu()
    assert torch.allclose(here.losses(batch.query_x, batch.query_y), losses, atol=1e-4)


def test_stacks_that_train_side_by_side_end_the_same_to_the_bit(two_threads, monkeypatch):
    batch, several, losses, at_work = tasks("real"), architectures(0), {}, set()
    train_stack = Stack.train

    def noted(stack, *words):
        at_work.add((threading.current_thread().name, torch.get_num_threads()))
        train_stack(stack, *words)

    monkeypatch.setattr(Stack, "train", noted)
    for worth in (0, 1 << 60):
        monkeypatch.setattr("metakit.search.population._WORTH_A_THREAD", worth)
        population = Population(several, batch)
        at_work.clear()
        population.train(25)
        losses[worth] = population.losses(batch.query_x, batch.query_y)
        main = (threading.main_thread().name, 2)
        assert at_work == {main} if worth else main not in at_work and {threads for _, threads in at_work} == {1}
    assert torch.equal(losses[0], losses[1 << 60]) and torch.get_num_threads() == 2


def test_a_failure_in_a_thread_is_raised_and_the_threads_are_as_before(two_threads, monkeypatch):
    monkeypatch.setattr("metakit.search.population._WORTH_A_THREAD", 0)
    monkeypatch.setattr(Stack, "train", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        Population(architectures(0), tasks("real")).train(1)
    assert torch.get_num_threads() == 2
