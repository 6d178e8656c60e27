"""The explorers of the lesson on learned optimisers: against independent reckonings, and at every end of a slider."""

import itertools
import math

import pytest
import torch

import metakit as mk
from metakit import plots, widgets
from metakit.widgets.noisy_examples import minimum
from metakit.widgets.optimizers import RATES, Bowls

RULE = mk.LearnedOptimizer(lr=0.3)  # untrained: it is Adam


def paths(**options):
    return widgets.optimizer_paths(RULE, **options)


def labels(ax):
    return ax.get_legend_handles_labels()[1]


# --- Optimisers over a quadratic. ---


@pytest.mark.parametrize("condition", [1.0, 10.0, 100.0])
def test_conjugate_gradients_are_exact_after_two_steps_without_noise(condition):
    for seed in range(5):
        record = paths(condition=condition, horizon=5, seed=seed)
        assert float(record.loss[2, 1]) > 1e-9 or condition == 1
        assert float(record.loss[2, 2:].max()) < 1e-12 and record.winner == "conjugate gradients"
        assert "no more than 1e-12" in str(record)


def test_conjugate_gradients_are_those_of_the_package():
    record = paths(condition=10.0, horizon=5, seed=4)
    job = Bowls((10.0, 10.0), (0.0, 0.0)).sample(1, seed=4)
    expected = torch.cat(list(mk.ConjugateGradients(steps=5).path(job))).double()
    torch.testing.assert_close(record.paths[2], expected, rtol=1e-5, atol=1e-5)


def test_noise_keeps_conjugate_gradients_from_the_minimum():
    record = paths(noise=0.3, horizon=40)
    assert float(record.loss[2, 2:].min()) > 1e-6 and float(record.loss[2].max()) < 10


@pytest.mark.parametrize("noise", [0.0, 0.2])
def test_adam_goes_the_way_of_adam_at_the_best_of_its_rates(noise):
    record = paths(noise=noise, horizon=12, seed=2)
    job = Bowls((10.0, 10.0), (noise, noise)).sample(1, seed=2)
    ends = []
    for rate in RATES:
        w = torch.nn.Parameter(job.start["w"].clone())
        optimizer = torch.optim.Adam([w], lr=rate)
        for k in range(12):
            optimizer.zero_grad()
            job.losses({"w": w}, k).sum().backward()
            optimizer.step()
        ends.append((float(job.losses({"w": w.detach()}, None)), rate, w.detach()[0].double()))
    loss, rate, w = min(ends, key=lambda end: end[0])
    torch.testing.assert_close(record.paths[0, -1], w, rtol=1e-3, atol=1e-4)
    assert record.names[0] == f"Adam, rate {rate:.2g}"
    assert float(record.loss[0, -1]) == pytest.approx(loss, rel=1e-2, abs=1e-5)


def test_the_rule_takes_the_steps_that_it_takes_as_an_optimiser():
    record = paths(noise=0.1, horizon=9, seed=1)
    job = Bowls((10.0, 10.0), (0.1, 0.1)).sample(1, seed=1)
    w = torch.nn.Parameter(job.start["w"][0].clone())
    optimizer = RULE.optimizer([w], steps=9)
    for k in range(9):
        optimizer.zero_grad()
        job.losses({"w": w[None]}, k).sum().backward()
        optimizer.step()
        torch.testing.assert_close(record.paths[1, k + 1], w.detach().double(), rtol=1e-4, atol=1e-5)


def test_the_surface_is_the_loss_without_the_noise_and_least_at_the_minimum():
    record = paths(condition=7.0, noise=0.2, seed=3)
    job = Bowls((7.0, 7.0), (0.2, 0.2)).sample(1, seed=3)
    at = torch.tensor([[float(record.first[40]), float(record.second[7])]])
    assert float(record.surface[7, 40]) == pytest.approx(float(job.losses({"w": at}, None)), rel=1e-3)
    assert float(record.surface.min()) == pytest.approx(0.0, abs=1e-9)
    assert float((record.paths[0, 0] - record.minimum).norm()) == pytest.approx(2.0, rel=1e-4)
    assert all(torch.equal(record.paths[i, 0], record.paths[0, 0]) for i in (1, 2))


def test_a_rule_that_runs_away_is_said_to():
    record = widgets.optimizer_paths(mk.SGD(lr=1e6), horizon=8)
    assert record.loss[1, -1] == math.inf and "the learned rule ran away" in str(record)
    fig, axes = plots.figure(columns=2)
    plots.draw_optimizer_paths(axes[0], record)
    plots.draw_optimizer_losses(axes[1], record)
    assert plots.png(fig).startswith(b"\x89PNG")


def test_the_winner_is_told_with_how_far_the_others_are_behind():
    record = paths(noise=0.3, horizon=20, seed=1)
    best = min(record.ends, key=record.ends.get)
    assert record.winner == best and f"{best} has the lowest loss, {record.ends[best]:.2g}" in str(record)
    other = next(name for name in record.names if name != best)
    assert f"{other} has {record.ends[other]:.2g}, {record.ends[other] / record.ends[best]:.3g} times" in str(record)


def test_the_rule_may_be_of_the_other_kind():
    assert widgets.optimizer_paths(mk.LearnedOptimizer("lstm"), horizon=5).loss.isfinite().all()


def test_every_end_of_every_control_and_each_move_of_the_optimisers():
    explorer = widgets.OptimizerExplorer(RULE)
    for condition, noise, horizon in itertools.product((1.0, 100.0), (0.0, 0.3), (5, 100)):
        record = explorer.compute(condition=condition, noise=noise, horizon=horizon)
        assert record.loss.shape == (3, horizon + 1) and record.loss.isfinite().all() and str(record)
    for name, value in {"condition": 100.0, "noise": 0.3, "horizon": 5, "seed": 7}.items():
        before = explorer._view.picture.value
        explorer.controls[name].value = value
        assert explorer.error is None and explorer._view.picture.value != before, name
    assert explorer.record.condition == pytest.approx(100) and explorer.record.noise == 0.3


def test_the_picture_of_the_optimisers_says_what_it_shows():
    explorer = widgets.OptimizerExplorer(RULE)
    explorer.controls["horizon"].value = 5
    record, (left, right) = explorer.record, explorer.static().axes
    assert left.get_title() == "Level lines 10 times as long as wide" and right.get_title() == "Loss, no noise"
    assert (left.get_xlabel(), left.get_ylabel(), right.get_xlabel()) == ("weight 1", "weight 2", "step")
    assert labels(right) == list(record.names) and len(left.lines) == 5  # three ways, the start, the minimum
    for line, path in zip(left.lines, record.paths, strict=False):
        assert line.get_xydata().tolist() == path.tolist()
    assert right.lines[1].get_ydata() == pytest.approx(record.loss[1].tolist())
    assert min(right.lines[2].get_ydata()) == 1e-12 and right.get_yscale() == "log"
    assert "1e-12" in right.get_ylabel()


def test_the_button_draws_another_quadratic():
    explorer = widgets.OptimizerExplorer(RULE)
    before = explorer.record
    next(child for child in explorer.widget.children if child.description == "Other task").click()
    assert not torch.equal(explorer.record.minimum, before.minimum)


def test_the_trained_rule_beats_its_own_beginning_and_leaves_the_generator_alone():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    rule = widgets.quadratic_rule(steps=12)
    assert torch.equal(torch.rand(1), expected) and widgets.quadratic_rule(steps=12) is rule
    jobs = Bowls().sample(64, seed=9)
    with torch.no_grad():
        trained, begun = (float(mk.Unroll(each, steps=20)(jobs).mean()) for each in (rule, RULE))
    assert trained < begun - 1.5  # one step of training gains 0.9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"condition": 0.5}, "condition must be"),
        ({"condition": 101.0}, "condition must be"),
        ({"noise": -0.1}, "noise must be"),
        ({"horizon": 101}, "horizon must be between 1 and 100"),
    ],
)
def test_quadratics_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        paths(**options)


# --- Noisy examples. ---


def test_wrong_rows_get_less_weight_than_right_ones_and_the_line_gets_better():
    for seed in range(4):
        record = widgets.noisy_examples(seed=seed)
        light, heavy = record.weights[record.wrong].mean(), record.weights[~record.wrong].mean()
        assert light < 0.6 * heavy and record.precision > 0.6
        assert record.accuracy[1] > record.accuracy[0] and record.course[-1] < record.course[0]
        assert int(record.wrong.sum()) == 18 and float(record.weights.mean()) == pytest.approx(1)


def test_the_first_move_is_the_gradient_measured_by_differences():
    """Weights after one outer step, against the clean loss of models trained with one weight moved."""
    options = {"rows": 12, "validation": 6, "seed": 1}
    record = widgets.noisy_examples(outer_steps=1, **options)
    start = widgets.noisy_examples(outer_steps=0, **options)
    assert torch.equal(start.weights, torch.ones(12, dtype=torch.float64)) and torch.equal(start.before, start.after)
    rows = torch.cat([start.x, torch.ones(12, 1, dtype=torch.float64)], 1)
    labels = start.y.double()
    clean_x, clean_y = clean_rows(**options)

    def clean_loss(weights):
        w = minimum(rows, labels, weights)
        return float(torch.nn.functional.binary_cross_entropy_with_logits(clean_x @ w, clean_y))

    assert clean_loss(start.weights) == pytest.approx(float(record.course[0]))
    grads, eps = [], 1e-4
    for i in range(12):
        away = eps * torch.eye(12, dtype=torch.float64)[i]
        grads.append((clean_loss(1 + away) - clean_loss(1 - away)) / (2 * eps))
    moved = (1 - 0.3 * 12 * torch.tensor(grads, dtype=torch.float64)).clamp(min=0)
    torch.testing.assert_close(record.weights, moved / moved.mean(), rtol=1e-4, atol=1e-6)
    assert clean_loss(record.weights) == pytest.approx(float(record.course[1]))


def clean_rows(rows, validation, seed):
    """The clean rows of a record, drawn as it draws them."""
    generator = torch.Generator().manual_seed(seed)
    for count in (rows, 2000):
        drawn(count, generator)
    torch.rand(rows, generator=generator, dtype=torch.float64)
    return drawn(validation, generator)


def drawn(count, generator):
    y = (torch.rand(count, generator=generator, dtype=torch.float64) < 0.5).double()
    x = torch.randn(count, 2, generator=generator, dtype=torch.float64)
    x = x + (2 * y - 1)[:, None] * torch.tensor([1.3, 0.9], dtype=torch.float64)
    return torch.cat([x, torch.ones(count, 1, dtype=torch.float64)], 1), y


def test_the_inner_minimum_is_one():
    """Against gradient descent by torch, far into the run, on weighted rows."""
    x, y = drawn(30, torch.Generator().manual_seed(0))
    weights = torch.linspace(0, 2, 30, dtype=torch.float64)
    found = minimum(x, y, weights).requires_grad_()
    loss = torch.nn.functional.binary_cross_entropy_with_logits(x @ found, y, weights) + 0.005 * found.square().sum()
    (slope,) = torch.autograd.grad(loss, found)
    assert float(slope.norm()) < 1e-9
    far = minimum(x, y, weights, 50 * torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close(far, found.detach(), rtol=1e-6, atol=1e-6)


def test_every_end_of_every_control_and_each_move_of_the_examples():
    explorer = widgets.NoisyExamplesExplorer()
    ends = {name: (c.min, c.max) for name, c in explorer.controls.items() if name != "seed"}
    for wrong, validation, outer_steps in itertools.product(*ends.values()):
        record = widgets.noisy_examples(wrong=wrong, validation=validation, outer_steps=outer_steps)
        assert record.weights.isfinite().all() and record.after.isfinite().all() and record.course.isfinite().all()
        assert (record.weights >= 0).all() and len(record.course) == outer_steps + 1 and str(record)
    for name, value in {"wrong": 0.45, "validation": 4, "outer_steps": 40, "seed": 7}.items():
        before = explorer._view.picture.value
        explorer.controls[name].value = value
        assert explorer.error is None and explorer._view.picture.value != before, name


def test_found_counts_wrong_rows_among_the_lightest():
    record = widgets.noisy_examples(wrong=0.45, seed=3)
    count = int(record.wrong.sum())
    lightest = set(sorted(range(60), key=lambda i: float(record.weights[i]))[:count])
    assert record.found == sum(bool(record.wrong[i]) for i in lightest) and record.precision == record.found / count
    assert f"of the {count} lightest rows {record.found} are wrong" in str(record)
    none = widgets.noisy_examples(wrong=0.0, outer_steps=0)
    assert math.isnan(none.precision) and "no label is wrong" in str(none)


def test_the_picture_of_the_examples_says_what_it_shows():
    explorer = widgets.NoisyExamplesExplorer()
    record, (left, right) = explorer.record, explorer.static().axes
    assert left.get_title() == "Rows as large as their weight"
    assert right.get_title() == f"{record.found} of the {int(record.wrong.sum())} lightest are wrong"
    assert labels(left) == ["labelled A", "labelled B", "label is wrong", "equal weights", "learned"]
    assert [len(points.get_offsets()) for points in left.collections] == [
        60 - int(record.y.sum()),
        int(record.y.sum()),
        18,
    ]
    line = next(each for each in left.lines if each.get_label() == "learned")
    for x, y in line.get_xydata().tolist():
        assert float(record.after @ torch.tensor([x, y, 1.0], dtype=torch.float64)) == pytest.approx(0, abs=1e-9)
    for line, some in zip(right.lines, (~record.wrong, record.wrong), strict=False):
        assert line.get_ydata() == pytest.approx(record.weights[some].sort().values.tolist())
    assert (left.get_xlabel(), right.get_ylabel()) == ("feature 1", "weight (1 on average)")
    explorer.controls["wrong"].value = 0.0
    left, right = explorer.static().axes
    assert right.get_title() == "No label is wrong" and "label is wrong" not in labels(left) + labels(right)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"wrong": 0.6}, "wrong must be"),
        ({"validation": 0}, "validation must be"),
        ({"outer_steps": -1}, "outer_steps"),
    ],
)
def test_examples_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        widgets.noisy_examples(**options)
