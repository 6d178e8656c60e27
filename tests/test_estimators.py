"""Estimators of the meta-gradient beside the direct one: truncated, evolution, persistent evolution; resumed too."""

import math

import pytest
import torch
from torch import nn

import metakit as mk
from metakit.outer import direct
from metakit.outer.step import named_estimator


class Parabola:
    """One job: minimise c w^2 / 2 from w = 1, by steps of the size exp(log_rate)."""

    def __init__(self, c=0.7):
        self.c, self.start = c, {"w": torch.ones(1, 1, dtype=torch.float64)}

    def losses(self, weights, k):
        return self.c * weights["w"].square().sum(1) / 2

    judged = losses
    device = torch.device("cpu")

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return self

    def to(self, device):
        return self


class Rate(nn.Module):
    """Gradient descent of one learned rate."""

    def __init__(self, rate):
        super().__init__()
        self.rate = nn.Parameter(torch.tensor(rate, dtype=torch.float64))

    def init_state(self, weights):
        return None

    def step(self, now, state):
        return {name: w - self.rate * now.grads[name] for name, w in now.weights.items()}, None


C, RATE, STEPS, STRETCH = 0.7, 0.3, 12, 3


def unroll():
    return mk.Unroll(Rate(RATE), steps=STEPS, objective="mean")


def named(learner):
    return dict(learner.named_parameters())


def stretches(estimator, learner, batch):
    """The estimates of all stretches of an unroll, the parameters standing still."""
    carry, found = None, []
    while not found or carry is not None:
        estimate = estimator(learner, named(learner), batch, carry)
        carry = estimate.carry
        found.append(float(estimate.grads[0]))
    return found


def exact():
    """d/da of the mean over k of (1 - a c)^{2k}, the losses against the first."""
    shrink = 1 - RATE * C
    return sum(2 * k * shrink ** (2 * k - 1) * -C for k in range(1, STEPS + 1)) / STEPS


def by_formula(first):
    """What truncation sees in the stretch from ``first``: the weights at its beginning are taken for constants."""
    shrink = 1 - RATE * C
    return shrink ** (2 * first) * sum(2 * j * shrink ** (2 * j - 1) * -C for j in range(1, STRETCH + 1)) / STRETCH


def test_the_whole_unroll_gives_the_derivative_by_hand():
    learner = unroll()
    (grad,) = torch.autograd.grad(learner(Parabola()).mean(), list(learner.parameters()))
    assert float(grad) == pytest.approx(exact(), rel=1e-12)


def test_truncated_gradients_and_their_bias_are_as_the_formula_says():
    found = stretches(mk.Truncated(STRETCH), unroll(), Parabola())
    assert found == pytest.approx([by_formula(first) for first in range(0, STEPS, STRETCH)], rel=1e-12)
    share = STRETCH / STEPS
    bias = share * sum(found) - exact()
    missing = 0.0  # what a stretch's own weights owe to the rate in the stretches before
    shrink = 1 - RATE * C
    for first in range(0, STEPS, STRETCH):
        owed = 2 * first * shrink ** max(2 * first - 1, 0) * -C if first else 0.0
        missing += owed * sum(shrink ** (2 * j) for j in range(1, STRETCH + 1)) / STEPS
    assert bias == pytest.approx(-missing, rel=1e-12) and abs(bias) > 0.3 * abs(exact())


def test_evolution_is_the_gradient_within_its_standard_error():
    torch.manual_seed(0)
    estimator, learner = mk.Evolution(sigma=0.01, pairs=5), unroll()
    found = torch.tensor([float(estimator(learner, named(learner), Parabola(), None).grads[0]) for _ in range(60)])
    assert abs(float(found.mean()) - exact()) < 4 * float(found.std()) / 60**0.5
    assert float(found.std()) / 60**0.5 < 0.1 * abs(exact())


def test_persistent_evolution_is_unbiased_where_truncation_is_not():
    torch.manual_seed(0)
    estimator, runs, learner, share = mk.PersistentEvolution(0.01, 5, STRETCH), 50, unroll(), STRETCH / STEPS
    found = torch.tensor([share * sum(stretches(estimator, learner, Parabola())) for _ in range(runs)])
    error = float(found.std()) / runs**0.5
    assert abs(float(found.mean()) - exact()) < 4 * error
    truncated = share * sum(stretches(mk.Truncated(STRETCH), learner, Parabola()))
    assert abs(truncated - exact()) > 4 * error


def test_evolution_meets_the_hypergradient_of_ridge_regression():
    """d/d log penalty of the query loss of ridge regression, within the standard error of many estimates."""
    generator = torch.Generator().manual_seed(0)
    x, noise = torch.randn(2, 30, 5, generator=generator, dtype=torch.float64), torch.randn(2, 30, generator=generator)
    y = x @ torch.arange(5.0).double() + noise.double()

    class Ridge(nn.Module):
        def __init__(self):
            super().__init__()
            self.log_penalty = nn.Parameter(torch.tensor(1.0, dtype=torch.float64))

        def forward(self, batch):
            gram = x[0].mT @ x[0] + self.log_penalty.exp() * torch.eye(5, dtype=torch.float64)
            w = torch.linalg.solve(gram, x[0].mT @ y[0])
            return (x[1] @ w - y[1]).square().mean()[None]

    learner = Ridge()
    (wanted,) = torch.autograd.grad(learner(Parabola()).sum(), list(learner.parameters()))
    torch.manual_seed(1)
    found = torch.tensor(
        [float(mk.Evolution(0.02, 4)(learner, named(learner), Parabola(), None).grads[0]) for _ in range(100)]
    )
    error = float(found.std()) / 10
    assert abs(float(found.mean()) - float(wanted)) < 4 * error and error < 0.2 * abs(float(wanted))


def test_both_of_a_pair_see_the_same_luck():
    class Lucky(nn.Module):
        def __init__(self):
            super().__init__()
            self.p = nn.Parameter(torch.zeros(()))

        def forward(self, batch):
            return self.p + 100 * torch.rand(1)

    learner = Lucky()
    torch.manual_seed(0)
    estimates = [mk.Evolution(0.1, 50)(learner, named(learner), Parabola(), None) for _ in range(2)]
    assert all(0.5 < float(e.grads[0]) < 1.6 for e in estimates)
    assert float(estimates[0].loss) != float(estimates[1].loss)  # and the next estimate sees another


@pytest.mark.parametrize("name", ["full", "truncated", "es", "pes"])
def test_each_is_known_by_its_name_and_trains(name):
    torch.manual_seed(0)
    rule = mk.LearnedOptimizer(lr=0.003)
    learner, jobs = mk.Unroll(rule, steps=20), mk.tasks.Quadratics(4, start=1.0)
    chosen = {
        "truncated": mk.Truncated(10),
        "es": mk.Evolution(pairs=2),
        "pes": mk.PersistentEvolution(pairs=2, stretch=10),
    }
    kind = type(named_estimator(name))
    assert isinstance(chosen.get(name, direct), kind)
    before = mk.evaluate(learner, jobs, n_tasks=30).loss[:, -1].log()
    options = {"steps": 20, "meta_batch": 8, "lr": 0.01, "clip": 1.0, "progress": False}
    history = mk.fit(learner, jobs, estimator=chosen.get(name, name), **options)
    gain = mk.evaluate(learner, jobs, n_tasks=30).loss[:, -1].log() - before
    assert gain.mean() < -3 * gain.std() / 30**0.5
    assert all(math.isfinite(loss) for loss in history.loss)


def test_an_unknown_name_and_a_learner_without_stretches_are_refused():
    with pytest.raises(ValueError, match="estimator must be one of full, truncated, es, pes, got 'pse'"):
        named_estimator("pse")
    maml, curves = mk.MAML(mk.models.MLP(1, [4], 1)), mk.tasks.Sinusoids()
    with pytest.raises(TypeError, match=r"MAML has none. Use estimator=\"es\""):
        mk.fit(maml, curves, steps=1, estimator="pes", progress=False)
    with pytest.raises(ValueError, match="compile=True is for the direct estimate"):
        mk.fit(maml, curves, steps=1, estimator="es", compile=True, progress=False)
    assert len(mk.fit(maml, curves, steps=2, estimator="es", progress=False).loss) == 2  # any learner has values


@pytest.mark.parametrize("estimator", [mk.Truncated(4), mk.PersistentEvolution(0.05, 1, 4), mk.Evolution(0.05, 1)])
@pytest.mark.parametrize("cut", [3, 4])
def test_it_resumes_to_the_bit_in_mid_unroll_with_jobs_of_many_sizes(tmp_path, estimator, cut):
    jobs = mk.tasks.TrainingJobs(mk.tasks.InventedTables(5, 3), width=(4, 9), depth=(0, 2), rows=(20, 40), queries=10)

    def fit(learner, **options):
        options = {"steps": 7, "meta_batch": 3, "lr": 0.01, "progress": False, "estimator": estimator} | options
        return mk.fit(learner, jobs, chunk=2, **options)

    def made():
        torch.manual_seed(0)
        return mk.Unroll(mk.LearnedOptimizer(hidden=2, controls=3), steps=(9, 12))

    whole, part, resumed, path = made(), made(), made(), tmp_path / "run.pt"
    history = fit(whole)
    fit(part, checkpoint=path, callback=lambda run: run.stop() if run.step == cut else None)
    torch.rand(7)
    again = fit(resumed, checkpoint=path, resume=True)
    assert all(map(torch.equal, whole.parameters(), resumed.parameters()))
    assert again.loss == history.loss and again.diverged == history.diverged
