"""The race of four rules: against the inner loop of the package, and its explorer at every end of its controls."""

import itertools
import math

import pytest
import torch

import metakit as mk
from metakit import widgets
from metakit.inner import run, stacked, task_loss


def test_every_rule_descends_as_the_inner_loop_does():
    record = widgets.descent(lr=0.02, steps=30, noise=0.5, seed=3)
    torch.manual_seed(3)
    model = mk.models.MLP(10, [5], 1)
    task = mk.tasks.LinearRegression(noise=0.5).sample(1, seed=3)
    start = stacked(dict(model.named_parameters()), 1)
    for i, rule in enumerate((mk.SGD, mk.Momentum, mk.RMSProp, mk.Adam)):
        sides = task.support_x, task.support_y
        weights = mk.adapt(model, start, *sides, rule=rule(lr=0.02), steps=30, order=1)
        for found, x, y in ((record.support, *sides), (record.query, task.query_x, task.query_y)):
            torch.testing.assert_close(found[i, -1], task_loss(run(model, weights, x), y)[0], rtol=1e-3, atol=1e-4)


def test_all_rules_start_at_one_place_and_the_last_step_is_in():
    record = widgets.descent(steps=101)
    assert record.steps[0] == 0 and record.steps[-1] == 101
    assert len(set(record.query[:, 0].tolist())) == 1
    assert record.query.shape == record.support.shape == (4, len(record.steps))


def test_the_winner_has_the_lowest_query_loss_among_those_left():
    record = widgets.descent(lr=0.3)
    assert record.exploded("gradient descent") and record.exploded("momentum") and "Exploded: gradient" in str(record)
    left = {name: float(record.query[i, -1]) for i, name in enumerate(record.names) if not record.exploded(name)}
    assert record.winner == min(left, key=left.get)


def test_a_race_that_none_survives_says_so():
    record = widgets.descent(lr=100.0, steps=20, rules={"gradient descent": mk.SGD})
    assert record.winner is None and "every rule has exploded" in str(record)


def test_a_race_leaves_the_global_generator_alone():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    widgets.descent(steps=1)
    assert torch.equal(torch.rand(1), expected)
    first, again, other = (widgets.descent(steps=5, seed=seed).query for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_every_end_of_every_control_and_each_move():
    explorer = widgets.DescentExplorer()
    for lr, steps, noise in itertools.product((1e-4, 1.0), (10, 1000), (0.0, 2.0)):
        record = widgets.descent(lr=lr, steps=steps, noise=noise)
        assert record.steps[-1] == steps and str(record)
        assert all(math.isfinite(float(record.query[i, -1])) or record.exploded(n) for i, n in enumerate(record.names))
    for name, value in {"lr": 1.0, "steps": 10, "noise": 0.0, "seed": 7}.items():
        before = explorer._view.picture.value
        explorer.controls[name].value = value
        assert explorer.error is None and explorer._view.picture.value != before, name


def test_the_button_draws_another_task():
    explorer = widgets.DescentExplorer()
    before = explorer.record
    button = next(child for child in explorer.widget.children if child.description == "Other task")
    button.click()
    assert explorer.record.query[0, 0] != before.query[0, 0]


@pytest.mark.parametrize("steps", [0, 1001])
def test_steps_out_of_range_are_refused(steps):
    with pytest.raises(ValueError, match="steps must be between 1 and 1000"):
        widgets.descent(steps=steps)
