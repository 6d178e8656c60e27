"""Gaussian processes as a prior: their formulas, draws and exact posterior; exact Bayes of linear tasks; references."""

import dataclasses
import math

import pytest
import torch

import metakit as mk
from metakit.contracts import LOSS
from metakit.learners.bins import LOG_SCORE
from metakit.learners.references import BayesLinear, ExactGP, GridGP, LeastSquares
from metakit.tasks import LinearRegression, Sinusoids
from metakit.tasks.batch import TaskBatch
from metakit.tasks.gaussian_processes import KERNELS, GaussianProcesses, ProcessBatch
from metakit.tasks.steady import Steady

PRIOR = GaussianProcesses(context=6, queries=5)
KAPPA = {
    "rbf": lambda r: math.exp(-(r**2) / 2),
    "matern32": lambda r: (1 + 3**0.5 * r) * math.exp(-(3**0.5) * r),
    "matern52": lambda r: (1 + 5**0.5 * r + 5 * r**2 / 3) * math.exp(-(5**0.5) * r),
}


def dense(prior, hyper, a, b):
    """The covariance of two lists of rows, an entry at a time."""
    length, _, scale, period = hyper.tolist()
    result = torch.zeros(len(a), len(b), dtype=torch.float64)
    for i, u in enumerate(a.double()):
        for j, v in enumerate(b.double()):
            if prior.kernel == "periodic":
                value = math.exp(-2 * float((math.pi * (u - v) / period).sin().square().sum()) / length**2)
            else:
                value = KAPPA[prior.kernel](float((u - v).norm()) / length)
            result[i, j] = scale**2 * value
    return result


def noisy(prior, hyper, x):
    return dense(prior, hyper, x, x) + hyper[1] ** 2 * torch.eye(len(x), dtype=torch.float64)


def test_a_batch_has_one_context_size_from_the_range_and_its_processes_are_told():
    tasks = GaussianProcesses(context=(0, 3), queries=4, inputs=2, domain=(1.0, 3.0))
    batches = [tasks.sample(5, seed=seed) for seed in range(40)]
    assert {batch.support_x.shape[1] for batch in batches} == {0, 1, 2, 3}
    assert all(
        b.query_x.shape == (5, 4, 2) and b.query_y.shape == (5, 4, 1) and b.hyper.shape == (5, 4) for b in batches
    )
    x = torch.cat([batch.query_x.flatten() for batch in batches])
    assert x.min() >= 1 and x.max() < 3 and abs(float(x.mean()) - 2) < 4 * 2 / math.sqrt(12 * len(x))
    assert {t.dtype for b in batches for t in b.tensors} == {torch.float32}


def test_hyperparameters_are_log_uniform_in_their_ranges():
    hyper = GaussianProcesses(outputscale=(0.5, 2.0), context=1, queries=1).sample(2000, seed=0).hyper
    for column, (low, high) in zip(hyper.T, [(0.15, 1.5), (0.05, 0.3), (0.5, 2.0)], strict=False):
        place = (column / low).log() / math.log(high / low)
        assert place.min() >= 0 and place.max() <= 1
        assert abs(float(place.mean()) - 0.5) < 4 / math.sqrt(12 * 2000)
        assert abs(float(place.var()) * 12 - 1) < 4 * math.sqrt(0.8 / 2000)
    assert torch.allclose(hyper[:, 3], torch.ones_like(hyper[:, 3]))


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_covariance_is_the_formula_entry_by_entry(kernel):
    prior = GaussianProcesses(kernel=kernel, inputs=2)
    a, b = torch.randn(4, 2, dtype=torch.float64), torch.randn(3, 2, dtype=torch.float64)
    hyper = torch.tensor([0.7, 0.1, 1.3, 0.9], dtype=torch.float64)
    torch.testing.assert_close(prior.covariance(hyper, a, b), dense(prior, hyper, a, b))


@pytest.mark.parametrize("kernel", KERNELS)
def test_what_is_drawn_has_the_covariance_that_is_told(kernel):
    prior = dataclasses.replace(PRIOR, kernel=kernel, outputscale=(0.5, 2.0))
    batch = prior.sample(60, seed=1)
    x, y = torch.cat([batch.support_x, batch.query_x], 1), torch.cat([batch.support_y, batch.query_y], 1).double()
    factor = torch.linalg.cholesky(torch.stack([noisy(prior, h, rows) for h, rows in zip(batch.hyper, x, strict=True)]))
    z = torch.linalg.solve_triangular(factor, y, upper=False)[..., 0]  # independent standard normals, if all is right
    n = z.numel()
    assert abs(float(z.mean())) < 4 / math.sqrt(n) and abs(float(z.square().mean()) - 1) < 4 * math.sqrt(2 / n)
    off = (z[:, :, None] * z[:, None])[:, *torch.triu_indices(11, 11, 1)]
    assert abs(float(off.mean())) < 4 / math.sqrt(off.numel())


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_posterior_is_the_formula_in_dense_algebra(kernel):
    prior = dataclasses.replace(PRIOR, kernel=kernel, inputs=2)
    batch = prior.sample(4, seed=2)
    mean, spread, evidence = prior.posterior(batch.hyper, *batch.tensors[:3])
    for t, hyper in enumerate(batch.hyper):
        x, y, q = (side[t].double() for side in batch.tensors[:3])
        inverse, cross = noisy(prior, hyper, x).inverse(), dense(prior, hyper, q, x)
        torch.testing.assert_close(mean[t], (cross @ inverse @ y)[:, 0], atol=1e-6, rtol=1e-6)
        variance = noisy(prior, hyper, q).diagonal() - (cross @ inverse @ cross.T).diagonal()
        torch.testing.assert_close(spread[t].square(), variance, atol=1e-6, rtol=1e-6)
        normal = torch.distributions.MultivariateNormal(torch.zeros(6, dtype=torch.float64), noisy(prior, hyper, x))
        torch.testing.assert_close(evidence[t], normal.log_prob(y[:, 0]), atol=1e-5, rtol=1e-6)


def test_what_the_posterior_says_of_one_more_row_is_the_change_of_the_evidence():
    batch = GaussianProcesses(context=6, queries=1).sample(3, seed=3)
    both = [torch.cat([batch.tensors[i], batch.tensors[i + 2]], 1) for i in (0, 1)]
    _, _, before = PRIOR.posterior(batch.hyper, *batch.tensors[:3])
    _, _, after = PRIOR.posterior(batch.hyper, *both, batch.query_x)
    density = ExactGP(PRIOR).respond(batch).log_density(batch.query_y[..., 0].double())[:, 0]
    torch.testing.assert_close(after - before, density)


def test_without_a_context_the_answer_is_the_prior():
    batch = GaussianProcesses(context=0, queries=3).sample(2, seed=0)
    answer = ExactGP(PRIOR).respond(batch)
    assert answer.mean.abs().max() == 0
    torch.testing.assert_close(answer.spreads[..., 0], (1 + batch.hyper[:, 1:2].square()).sqrt().expand(2, 3))
    assert GridGP(PRIOR, points=3).respond(batch).mean.abs().max() == 0


@pytest.mark.parametrize("learner", [ExactGP(PRIOR), GridGP(PRIOR, points=4)])
def test_tasks_of_unequal_rows_are_answered_as_each_by_itself(learner):
    few, many = PRIOR.at(2).sample(2, seed=4), PRIOR.sample(2, seed=5)
    padded = ProcessBatch.pad([few, many])
    assert padded.support_mask.sum(1).tolist() == [2, 2, 6, 6]
    y = padded.query_y[..., 0].double()
    apart = torch.cat([learner.respond(b).log_density(b.query_y[..., 0].double()) for b in (few, many)])
    torch.testing.assert_close(learner.respond(padded).log_density(y), apart)
    torch.testing.assert_close(learner(padded), torch.cat([learner(few), learner(many)]))
    assert torch.equal(padded.task(1).hyper, few.hyper[1:]) and padded.task(1).support_x.shape == (1, 2, 1)


@pytest.mark.parametrize("points", [1, 5])
def test_a_grid_of_one_point_is_the_exact_posterior(points):
    prior = GaussianProcesses(lengthscale=0.7, noise=0.1, context=6, queries=5)
    batch = prior.sample(3, seed=0)
    grid, exact = GridGP(prior, points=points).respond(batch), ExactGP(prior).respond(batch)
    torch.testing.assert_close(grid.means, exact.means)
    torch.testing.assert_close(grid.spreads, exact.spreads)
    assert grid.log_weights.abs().max() == 0
    plain = TaskBatch(*batch.tensors)  # which tells nothing, and need not
    torch.testing.assert_close(ExactGP(prior).respond(plain).means, exact.means)


def test_the_grid_is_the_average_over_the_prior_weighted_by_the_evidence():
    prior = dataclasses.replace(PRIOR, context=4)
    batch = prior.sample(4, seed=6)
    drawn = dataclasses.replace(prior, context=0, queries=1).sample(20_000, seed=7).hyper
    sides = [side[:, None] for side in batch.tensors[:3]]
    mean, spread, evidence = prior.posterior(drawn[None], *sides)
    weights = evidence.softmax(1)[..., None]
    z = (batch.query_y[:, None, :, 0] - mean) / spread
    density = (weights * (-z.square() / 2).exp() / (spread * math.sqrt(2 * math.pi))).sum(1)
    grid = GridGP(prior, points=12).respond(batch)
    torch.testing.assert_close(grid.mean, (weights * mean).sum(1), atol=0.02, rtol=0)
    torch.testing.assert_close(grid.log_density(batch.query_y[..., 0].double()), density.log(), atol=0.05, rtol=0)
    fine = GridGP(prior, points=24).respond(batch)
    torch.testing.assert_close(grid.mean, fine.mean, atol=1e-3, rtol=0)


def test_forecasts_of_exact_bayes_are_calibrated_and_knowing_more_is_better():
    prior = PRIOR.at(8)
    told = mk.evaluate(ExactGP(prior), prior, n_tasks=250, reference=GridGP(prior, points=6))
    gain, half = told.difference()
    assert told.measure == LOG_SCORE and told.at == (0, 1, 2, 5, 8)
    assert bool((gain > -half).all()) and gain[-1] > half[-1] > 0
    batch = prior.sample(400, seed=8)
    share = GridGP(prior, points=6).respond(batch).cdf(batch.query_y[..., 0].double())[:, 0]  # uniform, if calibrated
    counts = share.float().histc(10, 0, 1)
    assert ((counts - 40) ** 2 / 40).sum() < 30  # chi-square with 9 degrees: 30 is beyond 1 in 2,000


def test_randomness_comes_from_the_seed_the_generator_or_the_default_generator():
    a, b = (PRIOR.sample(3, seed=0).query_y for _ in range(2))
    assert torch.equal(a, b) and not torch.equal(a, PRIOR.sample(3, seed=1).query_y)
    assert torch.equal(a, PRIOR.sample(3, generator=torch.Generator().manual_seed(0)).query_y)
    torch.manual_seed(0)
    c = PRIOR.sample(3).query_y
    torch.manual_seed(0)
    assert torch.equal(c, PRIOR.sample(3).query_y)


def test_parts_of_a_batch_tell_their_processes():
    batch = PRIOR.sample(4, seed=0)
    assert torch.equal(batch[1:3].hyper, batch.hyper[1:3]) and isinstance(batch.to("cpu"), ProcessBatch)
    assert batch.to(dtype=torch.float64).support_x.dtype == torch.float64
    plain = TaskBatch(*batch.tensors)
    assert ProcessBatch.pad([batch, plain]).hyper is None


def test_steady_keeps_the_rows_of_a_batch_about_the_same():
    tasks = Steady(GaussianProcesses(context=(1, 25), queries=24))
    sizes = {}
    for seed in range(30):
        batch = tasks.sample(20, seed=seed)
        sizes[batch.support_x.shape[1]] = len(batch)
        assert 980 - 49 < batch.support_x[..., 0].numel() + batch.query_x[..., 0].numel() <= 980
    assert len(sizes) > 15 and min(sizes.values()) >= 20
    assert torch.equal(tasks.sample(5, seed=1).query_y, tasks.sample(5, seed=1).query_y)
    with pytest.raises(TypeError, match="GaussianProcesses and LinearRegression"):
        Steady(Sinusoids())


# --- Linear tasks. ---


def test_rows_of_linear_tasks_may_be_a_range_and_weights_sparse():
    tasks = LinearRegression(rows=(1, 4), features=6, noise=0.0, queries=12, sparse=2)
    batches = [tasks.sample(50, seed=seed) for seed in range(30)]
    assert {batch.support_x.shape[1] for batch in batches} == {1, 2, 3, 4} and tasks.context_range == (1, 4)
    x, y = (torch.cat([getattr(b, side) for b in batches]).double() for side in ("query_x", "query_y"))
    some = (torch.linalg.lstsq(x, y).solution.abs() > 1e-5)[..., 0]
    assert bool((some.sum(1) == 2).all())
    counts = some.sum(0)  # each place in a third of 1,500 tasks
    assert bool(((counts - 500).abs() < 4 * math.sqrt(1500 * 2 / 9)).all())


def test_plain_linear_tasks_are_drawn_as_before():
    x = torch.Generator().manual_seed(3)
    w, rows = torch.randn(2, 3, 1, generator=x), torch.randn(2, 4, 3, generator=x)
    assert torch.equal(LinearRegression(rows=4, features=3, noise=0.0).sample(2, seed=3).support_y, rows @ w)


def test_least_squares_has_the_error_that_theory_says():
    tasks = LinearRegression(rows=8, features=5, noise=0.0, queries=10)
    result = mk.evaluate(LeastSquares(sizes=(0, 2, 4, 5)), tasks, n_tasks=1000)
    # Rows span as many of the five directions as there are rows; the weights along the others stay unknown.
    for stage, unknown in enumerate((5, 3, 1)):
        low, high = result.interval()[0][stage], result.interval()[1][stage]
        assert low - 0.1 * unknown < unknown < high + 0.1 * unknown
    assert result.mean()[-1] < 1e-6


def test_bayes_of_dense_weights_is_ridge_with_the_right_spread():
    prior = LinearRegression(rows=7, features=4, noise=0.5, queries=3)
    batch = prior.sample(5, seed=0)
    answer = BayesLinear(prior).respond(batch)
    torch.testing.assert_close(answer.mean, prior.ridge(batch)[..., 0].double(), atol=1e-5, rtol=1e-5)
    x, q = batch.support_x.double(), batch.query_x.double()
    joint = q @ q.mT + 0.25 * torch.eye(3), q @ x.mT, x @ x.mT + 0.25 * torch.eye(7)  # of targets: a Gaussian process
    variance = (joint[0] - joint[1] @ joint[2].inverse() @ joint[1].mT).diagonal(dim1=1, dim2=2)
    torch.testing.assert_close(answer.spreads[..., 0].square(), variance)


def test_bayes_of_sparse_weights_weighs_each_set_of_places_by_its_evidence():
    prior = LinearRegression(rows=3, features=4, noise=0.5, queries=2, sparse=2)
    batch = prior.sample(6, seed=1)
    learner = BayesLinear(prior)
    answer = learner.respond(batch)
    x, y, q = (side.double() for side in batch.tensors[:3])
    evidence, means = [], []
    for places in learner.places:
        a, b = x[..., places], q[..., places]
        covariance = a @ a.mT + 0.25 * torch.eye(3, dtype=torch.float64)
        normal = torch.distributions.MultivariateNormal(torch.zeros(3, dtype=torch.float64), covariance)
        evidence.append(normal.log_prob(y[..., 0]))
        means.append((b @ a.mT @ covariance.inverse() @ y)[..., 0])
    weights = torch.stack(evidence, 1).softmax(1)
    torch.testing.assert_close(answer.log_weights[:, 0].exp(), weights)
    torch.testing.assert_close(answer.mean, (weights[..., None] * torch.stack(means, 1)).sum(1))


def test_bayes_of_sparse_weights_beats_least_squares_and_masks_count_for_nothing():
    prior = LinearRegression(rows=10, features=12, noise=0.1, queries=8, sparse=2)
    result = mk.evaluate(BayesLinear(prior), prior, n_tasks=100, reference=LeastSquares())
    ratio, half = result.ratio(LOSS)
    assert result.at == (0, 1, 2, 5, 10) and ratio[0] == 1 and ratio[-1] + half[-1] < 0.2
    few, many = prior.at(4).sample(2, seed=2), prior.sample(2, seed=3)
    for learner in (BayesLinear(prior), LeastSquares()):
        apart = torch.cat([learner(few), learner(many)])
        torch.testing.assert_close(learner(TaskBatch.pad([few, many])), apart, atol=1e-4, rtol=1e-4)


# --- Judged beside a reference. ---


def test_a_reference_is_judged_on_the_very_same_tasks():
    prior = PRIOR.at(3)
    alone = mk.evaluate(ExactGP(prior), prior, n_tasks=60)
    beside = mk.evaluate(LeastSquares(), prior, n_tasks=60, reference=ExactGP(prior))
    assert torch.equal(beside.reference.loss, alone.loss) and beside.reference.measure == LOG_SCORE
    mean, half = beside.difference()
    pairs = beside.loss - alone.loss
    torch.testing.assert_close(mean, pairs.mean(0))
    torch.testing.assert_close(half, 1.959964 * pairs.std(0) / math.sqrt(60))
    ratio, _ = beside.ratio(LOSS)
    torch.testing.assert_close(ratio, beside.loss.mean(0) / alone.loss.mean(0))
    same = mk.evaluate(ExactGP(prior), prior, n_tasks=60, reference=ExactGP(prior))
    assert same.difference()[0].abs().max() == 0 and torch.equal(same.ratio(LOSS)[0], torch.ones(4))
    assert same.ratio(LOSS)[1].abs().max() == 0


def test_the_interval_of_a_ratio_holds_the_truth_about_as_often_as_it_says():
    torch.manual_seed(0)
    held = 0
    for _ in range(400):
        r = torch.rand(200, 1) + 0.5
        s = 3 * r + 0.1 * torch.randn(200, 1)
        ratio, half = mk.Evaluation(s, None, "inductive", reference=mk.Evaluation(r, None, "inductive")).ratio()
        held += int(abs(float(ratio[0]) - 3) < float(half[0]))
    assert abs(held / 400 - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 400)


def test_references_that_do_not_fit_are_refused():
    prior = PRIOR.at(3)
    with pytest.raises(ValueError, match="same stages"):
        mk.evaluate(ExactGP(prior), prior, n_tasks=4, reference=ExactGP(prior, sizes=(0, 2)))
    with pytest.raises(ValueError, match="without a reference"):
        mk.evaluate(ExactGP(prior), prior, n_tasks=4).difference()
    with pytest.raises(ValueError, match=r"got log score\. They share: loss"):
        mk.evaluate(ExactGP(prior), prior, n_tasks=4, reference=LeastSquares()).difference(LOG_SCORE)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: GaussianProcesses(lengthscale=(0.0, 1.0)), "lengthscale, at its low end, must be finite and above 0"),
        (lambda: GaussianProcesses(noise=(0.3, 0.1)), "noise must be .low, high. with low <= high"),
        (lambda: GaussianProcesses(kernel="cubic"), "kernel must be one of rbf"),
        (lambda: GaussianProcesses(context=(-1, 3)), "context must be at least 0"),
        (lambda: GaussianProcesses(queries=0), "queries must be at least 1"),
        (lambda: LinearRegression(features=3, sparse=4), "sparse must be at most the number of features, 3"),
        (lambda: LinearRegression(rows=(4, 2)), "rows must be .low, high."),
        (lambda: BayesLinear(LinearRegression(features=60, sparse=5)), "too many to go through"),
        (lambda: GridGP(PRIOR, points=0), "points must be at least 1"),
        (lambda: ExactGP(PRIOR)(TaskBatch(*PRIOR.sample(2, seed=0).tensors)), "does not tell the hyperparameters"),
        (lambda: LeastSquares().distribution(*[torch.ones(3, 1)] * 3), "answers with numbers alone"),
        (lambda: LeastSquares(sizes=(0.5,)), "every size of a context"),
    ],
)
def test_bad_input_is_refused_at_the_door(make, words):
    with pytest.raises((ValueError, TypeError), match=words):
        make()
