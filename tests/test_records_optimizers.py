"""What a learned rule does and is trained on: its records against independent reckonings, and what the plots show."""

import dataclasses
import math

import pytest
import torch
from torch import nn

import metakit as mk
from metakit import plots, records
from metakit.learners import Scheduled, Unroll

SMALL = mk.tasks.TrainingJobs(width=4, depth=1, activation="tanh", rows=32, batch=32, queries=32)


def labels(ax):
    return ax.get_legend_handles_labels()[1]


def trained_a_little(**options):
    """A rule whose networks say something."""
    torch.manual_seed(0)
    rule = mk.LearnedOptimizer(**options)
    for tensor in rule.parameters():
        tensor.data += 0.2 * torch.randn_like(tensor)
    return rule


class Trend(nn.Module):
    """A rule whose k-th update of every weight has the size k + 1, whatever the gradient."""

    def init_state(self, weights):
        return None

    def step(self, now, state):
        return {name: w - (now.k + 1) * now.grads[name].sign() for name, w in now.weights.items()}, None


# --- The surface of updates. ---


def test_an_untrained_rule_moves_by_momentum_alone_as_adam_does():
    record = records.rule_surface(mk.LearnedOptimizer(lr=0.05), points=7, reach=2.0)
    expected = -0.05 * record.momentum[:, None].expand(7, 7)
    torch.testing.assert_close(record.update, expected, rtol=1e-5, atol=1e-9)
    a, b, left = record.mixture
    assert a == pytest.approx(-0.05, rel=1e-4) and abs(b) < 1e-6 and left < 1e-8
    assert "at step 50 of 100 the update is -0.05 momentum" in str(record)


def test_a_rule_is_met_in_the_state_that_the_axes_tell():
    """What the rule remembers after the step, each mean divided by the weights that it has gathered."""
    rule = trained_a_little(lr=0.1).double()
    record = records.rule_surface(rule, k=30, steps=40, points=5, reach=2.0)
    seen = {}

    class Spy(nn.Module):
        kind = "mlp"

        def init_state(self, weights):
            return rule.init_state(weights)

        def step(self, now, state):
            after = rule.step(now, state)
            seen.update(after[1])
            return after

    again = records.rule_surface(Spy(), k=30, steps=40, points=5, reach=2.0)
    torch.testing.assert_close(again.update, record.update)
    for i, decay in enumerate((0.5, 0.9, 0.99)):
        momentum = (seen["momenta"][0, i] / (1 - decay**31)).view(2, 5, 5)
        torch.testing.assert_close(momentum[0], record.momentum[:, None].expand(5, 5))
    for name, decay in (("fast", 0.95), ("slow", 0.999)):
        torch.testing.assert_close(seen[name][0] / (1 - decay**31), torch.ones(50, dtype=torch.float64))
    assert record.mixture[2] > 1e-6  # it is no plain mixture


def test_weight_decay_plays_no_part_in_the_surface():
    plain, decayed = mk.LearnedOptimizer(lr=0.05), mk.LearnedOptimizer(lr=0.05)
    decayed.core.controller[2].bias.data[4] = 5.0
    one, other = (records.rule_surface(rule, points=5) for rule in (plain, decayed))
    torch.testing.assert_close(one.update, other.update, rtol=1e-4, atol=1e-6)


def test_a_surface_leaves_the_rule_as_it_was():
    rule = mk.LearnedOptimizer()
    records.rule_surface(rule, points=3)
    assert next(rule.parameters()).dtype == torch.float32


@pytest.mark.parametrize(
    ("rule", "options", "error", "message"),
    [
        (mk.LearnedOptimizer("lstm"), {}, TypeError, 'kind "mlp"'),
        (mk.SGD(), {}, TypeError, "rule_course takes any rule"),
        (mk.LearnedOptimizer(), {"k": 0, "reach": 3.0}, ValueError, "reach 3 is too large"),
        (mk.LearnedOptimizer(), {"points": 1}, ValueError, "points must be at least 2"),
    ],
)
def test_a_surface_that_cannot_be_is_refused(rule, options, error, message):
    with pytest.raises(error, match=message):
        records.rule_surface(rule, **options)


# --- The course of the updates. ---


def test_the_course_is_the_size_of_each_update():
    record = records.rule_course(Trend(), mk.tasks.Quadratics(3), steps=6, n_jobs=2)
    torch.testing.assert_close(record.size, torch.arange(1.0, 7.0)[None])
    assert record.peak == 6 and record.jobs == 2 and "1 at step 1, 6 at step 6, the largest" in str(record)


def test_the_course_of_a_network_is_told_by_tensor_and_for_all_weights():
    rule = Scheduled(mk.SGD(lr=0.1), 1.0, "cosine")
    record = records.rule_course(rule, SMALL, steps=4, n_jobs=3, seed=2)
    batch = SMALL.sample(3, seed=2)
    weights = {name: w.clone() for name, w in batch.start.items()}
    for k in range(4):
        weights = {name: w.detach().requires_grad_() for name, w in weights.items()}
        grads = torch.autograd.grad(batch.losses(weights, k).sum(), list(weights.values()))
        rate = 0.1 * (1 + math.cos(math.pi * k / 4)) / 2
        sizes = [rate * g.abs() for g in grads]
        torch.testing.assert_close(
            record.size[:, k], torch.stack([size.mean() for size in sizes]), rtol=1e-3, atol=1e-7
        )
        whole = torch.cat([size.flatten() for size in sizes]).mean()
        assert float(record.mean[k]) == pytest.approx(float(whole), rel=1e-3)
        weights = {name: w - rate * g for (name, w), g in zip(weights.items(), grads, strict=True)}
    assert record.names == tuple(batch.start)


def test_jobs_whose_weights_ran_away_are_left_out_or_named():
    with pytest.raises(FloatingPointError, match="ran away under this rule"):
        records.rule_course(mk.SGD(lr=1e6), mk.tasks.Quadratics(2), steps=20)


# --- The meta-loss over a rate. ---


def test_the_slope_is_the_derivative_where_the_surface_is_smooth():
    """Against differences of the meta-loss that a learner of that one rate has."""
    (record,) = records.horizon_surfaces(mk.SGD(lr=1.0), SMALL, horizons=[4], rates=(0.05, 0.5), points=5, seed=3)
    job = records.optimizers._double(SMALL.sample(1, seed=3))

    def loss(log_rate):
        rule = mk.SGD(lr=math.exp(log_rate))
        return float(Unroll(rule, steps=4)(job).detach())

    for rate, value, slope in zip(record.rates.tolist(), record.loss.tolist(), record.slope.tolist(), strict=True):
        at, eps = math.log(rate), 1e-4
        assert value == pytest.approx(loss(at), rel=1e-9)
        assert slope == pytest.approx((loss(at + eps) - loss(at - eps)) / (2 * eps), rel=1e-5)


def test_the_rate_of_a_learned_rule_can_be_gone_over_too():
    rule = trained_a_little(lr=1.0)
    (record,) = records.horizon_surfaces(rule, SMALL, horizons=[3], rates=(0.01, 0.1), points=3, seed=3)
    moved = mk.LearnedOptimizer(lr=1.0)
    moved.load_state_dict(rule.state_dict())
    moved.core.log_rate.data += math.log(0.1)
    expected = float(Unroll(moved.double(), steps=3)(records.optimizers._double(SMALL.sample(1, seed=3))).detach())
    assert float(record.loss[-1]) == pytest.approx(expected, rel=1e-6)


def test_a_long_horizon_is_jagged_steep_and_smooth_again_when_blurred():
    short, long = records.horizon_surfaces(horizons=(5, 40), points=61)
    assert short.steepest < 1 and long.steepest > 1e6
    assert sum(short.valleys) <= 2 and long.valleys[0] >= 5 and long.valleys[1] <= 1
    assert float(long.blurred_slope.abs().max()) < 3
    assert "over 40 steps the meta-loss has" in str(long)


def test_the_blurred_slope_is_the_derivative_of_the_blurred_loss():
    (record,) = records.horizon_surfaces(mk.SGD(lr=1.0), SMALL, horizons=[3], rates=(0.05, 5.0), points=401, sigma=0.2)
    log = record.rates.log()
    measured = (record.blurred[2:] - record.blurred[:-2]) / (log[2:] - log[:-2])
    torch.testing.assert_close(record.blurred_slope[1:-1], measured, rtol=1e-3, atol=1e-3)


class Rated(nn.Module):
    """Gradient descent with a rate that is learned by its logarithm, here 0.1."""

    def __init__(self):
        super().__init__()
        self.log_rate = nn.Parameter(torch.tensor(math.log(0.1), dtype=torch.float64))

    def init_state(self, weights):
        return None

    def step(self, now, state):
        return {name: w - self.log_rate.exp() * now.grads[name] for name, w in now.weights.items()}, None


def test_evolution_descends_the_blurred_surface():
    options = {"horizons": [3], "rates": (0.05, 0.2), "points": 101, "sigma": 0.3}
    (record,) = records.horizon_surfaces(mk.SGD(lr=1.0), mk.tasks.Quadratics(2), **options)
    learner, job = Unroll(Rated(), steps=3), records.optimizers._double(mk.tasks.Quadratics(2).sample(1, seed=0))
    torch.manual_seed(0)
    estimate = mk.Evolution(sigma=0.3, pairs=300)(learner, dict(learner.named_parameters()), job, None)
    assert float(record.rates[50]) == pytest.approx(0.1)
    # Within three standard errors of 300 pairs; the surface itself, 0.08 and -0.09 here, is further away.
    assert float(estimate.grads[0]) == pytest.approx(float(record.blurred_slope[50]), abs=0.2)
    assert float(estimate.loss) == pytest.approx(float(record.blurred[50]), abs=0.025)
    assert float((record.slope - record.blurred_slope)[50].abs()) > 0.3
    assert float((record.loss - record.blurred)[50].abs()) > 0.06


def test_rates_in_the_wrong_order_are_refused():
    with pytest.raises(ValueError, match="rates must be"):
        records.horizon_surfaces(rates=(1.0, 0.1))


# --- What is drawn. ---


def test_the_pictures_of_a_rule_say_what_they_show():
    fig, axes = plots.figure(12, 3.6, columns=2)
    plots.draw_rule_surface(axes[0], records.rule_surface(mk.LearnedOptimizer(), points=5))
    record = records.rule_course(mk.SGD(lr=0.1), SMALL, steps=4, n_jobs=2)
    plots.draw_rule_course(axes[1], record)
    assert axes[0].get_title() == "Update of a weight at step 50 of 100" and "mean square" in axes[0].get_xlabel()
    assert labels(axes[1]) == [*record.names, "all weights"] and axes[1].get_xlabel() == "step"
    assert axes[1].lines[-1].get_ydata() == pytest.approx(record.mean.tolist())
    assert axes[1].get_title() == "Updates in 2 trainings" and axes[1].get_yscale() == "log"
    assert plots.png(fig).startswith(b"\x89PNG")


def test_the_pictures_of_horizons_say_what_they_show():
    fig, axes = plots.figure(12, 3.6, columns=2)
    found = records.horizon_surfaces(mk.SGD(lr=1.0), SMALL, horizons=(2, 4), points=11)
    exploded = dataclasses.replace(found[1], slope=torch.full((11,), math.inf), blurred_slope=torch.zeros(11))
    plots.draw_horizon_surface(axes[0], found[0])
    plots.draw_horizon_slopes(axes[1], (found[0], exploded))
    assert axes[0].get_title() == "Horizon 2 steps" and axes[0].get_xlabel() == "rate"
    assert labels(axes[0]) == ["meta-loss", "blurred, sigma 0.3"]
    assert axes[0].lines[0].get_ydata() == pytest.approx(found[0].loss.tolist())
    assert labels(axes[1]) == ["2 steps", "4 steps", "4 steps, blurred"] and "d log rate" in axes[1].get_ylabel()
    assert plots.png(fig).startswith(b"\x89PNG")
