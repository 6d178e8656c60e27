"""Sinusoids and linear tasks: their formulas, ranges, moments, randomness and refusals."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from metakit.checks import choice, real, whole, whole_span
from metakit.tasks import LinearRegression, Sinusoids


def test_a_sinusoid_batch_has_the_shapes_of_the_paper():
    batch = Sinusoids(shots=7, queries=3).sample(5, seed=0)
    assert [tuple(t.shape) for t in batch.tensors] == [(5, 7, 1), (5, 7, 1), (5, 3, 1), (5, 3, 1)]
    assert {t.dtype for t in batch.tensors} == {torch.float32} and batch.ways is None
    assert all(t.is_contiguous() for t in batch.tensors)


def test_both_sets_of_a_task_lie_on_one_sine_curve_with_amplitude_and_phase_in_range():
    tasks = Sinusoids(shots=10, queries=10)
    batch = tasks.sample(500, seed=1).to(dtype=torch.float64)
    # y = a cos(p) sin(x) - a sin(p) cos(x): linear in two unknowns, fitted on the support set alone.
    features = torch.cat([batch.support_x.sin(), -batch.support_x.cos()], -1)
    u, v = torch.linalg.lstsq(features, batch.support_y).solution[..., 0].T
    amplitude, phase = torch.hypot(u, v), torch.atan2(v, u)
    fitted = amplitude[:, None, None] * (batch.query_x - phase[:, None, None]).sin()
    torch.testing.assert_close(fitted, batch.query_y, atol=1e-4, rtol=0)
    for value, (low, high) in ((amplitude, tasks.amplitude), (phase, tasks.phase)):
        assert value.min() > low - 1e-3 and value.max() < high + 1e-3
        # Mean and variance of a uniform value, within four standard errors of 500 draws.
        width = high - low
        assert abs(value.mean() - (low + high) / 2) < 4 * width / math.sqrt(12 * 500)
        assert abs(value.var() / (width**2 / 12) - 1) < 4 * math.sqrt(0.8 / 500)
    assert len(amplitude.unique()) == 500


def test_inputs_are_uniform_over_the_domain():
    x = Sinusoids(shots=100, domain=(2.0, 6.0)).sample(100, seed=2).support_x
    assert x.min() >= 2 and x.max() < 6
    counts = x.histc(10, 2, 6)
    assert ((counts - 1000) ** 2 / 1000).sum() < 30  # chi-square with 9 degrees: 30 is beyond 1 in 2,000


def test_noise_has_the_standard_deviation_asked_for():
    tasks = Sinusoids(shots=10_000, noise=0.5)
    batch = tasks.task(amplitude=2.0, phase=1.0, seed=0)
    noise = batch.support_y - tasks.curve(2.0, 1.0, batch.support_x)
    assert abs(float(noise.std()) - 0.5) < 0.02 and abs(float(noise.mean())) < 0.02


def test_a_chosen_task_is_amplitude_times_sine_of_x_minus_phase():
    batch = Sinusoids(shots=4, queries=6).task(amplitude=3.0, phase=0.25, generator=torch.Generator().manual_seed(0))
    assert len(batch) == 1 and batch.query_x.shape == (1, 6, 1)
    torch.testing.assert_close(batch.query_y, 3.0 * torch.sin(batch.query_x - 0.25))


@pytest.mark.parametrize("tasks", [Sinusoids(noise=0.1), LinearRegression(rows=5, features=2)])
def test_randomness_comes_from_the_seed_the_generator_or_the_default_generator(tasks):
    first, again, other = (tasks.sample(3, seed=seed) for seed in (5, 5, 6))
    given = tasks.sample(3, generator=torch.Generator().manual_seed(5))
    for a, b, c in zip(first.tensors, again.tensors, given.tensors, strict=True):
        assert torch.equal(a, b) and torch.equal(a, c)
    assert not torch.equal(first.support_x, other.support_x)
    state = torch.get_rng_state()
    default = tasks.sample(3)
    torch.set_rng_state(state)
    assert torch.equal(default.query_y, tasks.sample(3).query_y)
    assert not torch.equal(default.query_y, tasks.sample(3).query_y)


def test_the_batch_goes_to_the_device_asked_for():
    generator = torch.Generator().manual_seed(0)
    assert Sinusoids().sample(2, generator=generator, device="meta").device.type == "meta"
    assert LinearRegression().sample(2, generator=generator, device="meta").device.type == "meta"


def test_linear_tasks_have_standard_normal_weights_and_the_noise_asked_for():
    tasks = LinearRegression(rows=50, features=4, noise=0.2)
    batch = tasks.sample(400, seed=0)
    assert batch.support_x.shape == (400, 50, 4) and batch.query_y.shape == (400, 50, 1)
    w = torch.linalg.lstsq(batch.support_x, batch.support_y).solution
    assert abs(float(w.mean())) < 0.1 and abs(float(w.std()) - 1) < 0.08
    residual = batch.support_y - batch.support_x @ w
    assert abs(float(residual.square().sum() / (400 * 46)) - 0.04) < 0.002
    assert LinearRegression(rows=5, queries=2).sample(1).query_x.shape == (1, 2, 10)


@pytest.mark.parametrize("rows", [3, 20])
def test_ridge_is_the_best_prediction_and_no_other_penalty_does_better(rows):
    tasks = LinearRegression(rows=rows, features=6, noise=0.7, queries=50)
    batch = tasks.sample(3000, seed=0)
    best = (tasks.ridge(batch) - batch.query_y).square().mean()
    for noise in (0.2, 2.0):
        other = dataclasses.replace(tasks, noise=noise).ridge(batch)
        assert (other - batch.query_y).square().mean() > best + 0.005
    # Written out for one task, a row at a time.
    x, y = batch.support_x[0].double(), batch.support_y[0].double()
    w = torch.linalg.inv(sum(torch.outer(r, r) for r in x) + 0.49 * torch.eye(6)) @ sum(
        r * t for r, t in zip(x, y, strict=True)
    )
    torch.testing.assert_close(
        tasks.ridge(batch)[0, :, 0].double(), batch.query_x[0].double() @ w, atol=1e-5, rtol=1e-5
    )


def test_ridge_without_noise_fits_the_support_set():
    tasks = LinearRegression(rows=3, features=6, noise=0.0)
    batch = tasks.sample(10, seed=0)
    same = type(batch)(batch.support_x, batch.support_y, batch.support_x, batch.support_y)
    torch.testing.assert_close(tasks.ridge(same), batch.support_y, atol=1e-5, rtol=1e-5)


def test_the_repr_shows_every_option():
    assert repr(LinearRegression(rows=3)) == "LinearRegression(rows=3, features=10, noise=0.1, queries=3, sparse=None)"
    assert repr(Sinusoids(shots=1)).startswith("Sinusoids(shots=1, queries=10, amplitude=(0.1, 5.0)")


def test_numbers_of_numpy_and_torch_are_numbers():
    tasks = Sinusoids(shots=np.int64(3), noise=np.float32(0.5), phase=(np.float64(0), 1))
    assert tasks == Sinusoids(shots=3, noise=0.5, phase=(0.0, 1.0)) and type(tasks.shots) is int
    assert whole("n", torch.tensor(2)) == 2 and real("x", torch.tensor(0.5)) == 0.5
    assert choice("order", np.int64(2), (1, 2)) == 2
    assert whole_span("n", np.int64(2)) == whole_span("n", (2, 2)) == (2, 2)


G = torch.Generator()
WRONG = [
    (lambda: Sinusoids(shots=0), ValueError, "shots must be at least 1, got 0"),
    (lambda: Sinusoids(queries=-3), ValueError, "queries must be at least 1, got -3"),
    (lambda: Sinusoids(shots=2.5), TypeError, "shots must be a whole number, got 2.5"),
    (lambda: Sinusoids(shots=True), TypeError, "shots must be a whole number, got True"),
    (lambda: Sinusoids(amplitude=3.0), ValueError, r"amplitude must be a pair \(low, high\), got 3.0"),
    (lambda: Sinusoids(phase=(2.0, 1.0)), ValueError, "phase must be .* low <= high, got .*Swap"),
    (lambda: Sinusoids(domain=(0.0, math.inf)), ValueError, "domain must be finite, got inf"),
    (lambda: Sinusoids(noise=-0.1), ValueError, "noise must be finite and at least 0, got -0.1"),
    (lambda: Sinusoids(noise="loud"), TypeError, "noise must be a real number, got 'loud'"),
    (lambda: Sinusoids(noise="0.5"), TypeError, "noise must be a real number, got '0.5'"),
    (lambda: Sinusoids(noise=np.bool_(True)), TypeError, "noise must be a real number, got True"),
    (lambda: Sinusoids(shots=np.bool_(True)), TypeError, "shots must be a whole number, got True"),
    (lambda: real("lr", torch.ones(2)), TypeError, r"lr must be a real number, got tensor\(\[1., 1.\]\)"),
    (lambda: real("lr", 0, above=0.0), ValueError, "lr must be finite and above 0, got 0"),
    (lambda: real("b", 2, least=0.0, most=1.0), ValueError, "b must be finite and at least 0 and at most 1, got 2"),
    (lambda: choice("order", True, (1, 2)), ValueError, "order must be one of 1, 2, got True"),
    (lambda: choice("order", 2.0, (1, 2)), ValueError, "order must be one of 1, 2, got 2.0"),
    (lambda: Sinusoids().sample(0), ValueError, "n_tasks must be at least 1, got 0"),
    (lambda: Sinusoids().sample(1, seed=1, generator=G), ValueError, "a generator or a seed, not both"),
    (lambda: Sinusoids().sample(1, generator=3), TypeError, "generator must be a torch.Generator, got int.*seed="),
    (lambda: Sinusoids().sample(1, seed=-1), ValueError, "seed must be at least 0, got -1"),
    (lambda: Sinusoids().sample(1, seed=1.5), TypeError, "seed must be a whole number, got 1.5"),
    (lambda: Sinusoids().sample(1, device="abacus"), ValueError, "device must name a torch device, got 'abacus'"),
    (lambda: Sinusoids().task(amplitude=math.nan, phase=0.0), ValueError, "amplitude must be finite, got nan"),
    (lambda: LinearRegression(rows=0), ValueError, "rows must be at least 1"),
    (lambda: LinearRegression(features=0), ValueError, "features must be at least 1"),
    (lambda: LinearRegression(queries=0), ValueError, "queries must be at least 1"),
    (lambda: LinearRegression(noise=math.inf), ValueError, "noise must be finite and at least 0"),
]


@pytest.mark.parametrize(("call", "error", "message"), WRONG)
def test_wrong_input_is_refused_with_the_rule_and_the_value(call, error, message):
    with pytest.raises(error, match=message):
        call()
