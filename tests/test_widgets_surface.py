"""The surface of two weights: its two gradients against autograd and finite differences, its explorer at every end."""

import itertools
import math

import pytest
import torch

from metakit import plots, widgets


def outer_loss(w, record, *, second):
    """The outer loss as the lesson writes it, through a step that autograd sees (or, in first order, does not)."""

    def loss(w, t):
        return (record.curvature[t] * (w - record.centres[t]).square()).sum() / 2

    total = 0.0
    for t in range(2):
        (gradient,) = torch.autograd.grad(loss(w, t), w, create_graph=second)
        total = total + loss(w - record.inner_lr * gradient, t) / 2
    return total


@pytest.mark.parametrize(("inner_lr", "curvature"), [(0.0, 3.0), (0.25, 3.0), (0.6, 3.0), (1.0, 0.5)])
def test_both_gradients_are_those_of_autograd(inner_lr, curvature):
    record = widgets.surface(inner_lr=inner_lr, curvature=curvature, start=(1.5, -0.7))
    for second, found in ((True, record.exact), (False, record.first_order)):
        w = record.exact_path[0].clone().requires_grad_()
        (expected,) = torch.autograd.grad(outer_loss(w, record, second=second), w)
        torch.testing.assert_close(found, expected)


def test_the_exact_gradient_agrees_with_finite_differences_and_first_order_does_not():
    losses, eps = [], 1e-5
    for step in itertools.product((0, 1), (1, -1)):
        start = [1.5, 1.5]
        start[step[0]] += step[1] * eps
        losses.append(widgets.surface(start=tuple(start)).start_loss)
    measured = torch.tensor([losses[0] - losses[1], losses[2] - losses[3]], dtype=torch.float64) / (2 * eps)
    record = widgets.surface(start=(1.5, 1.5))
    torch.testing.assert_close(record.exact, measured, rtol=1e-8, atol=1e-8)
    assert (record.first_order - measured).norm() > 0.1


def test_the_surface_is_the_loss_at_each_of_its_points():
    record = widgets.surface(start=(float(widgets.surface().axis[30]), float(widgets.surface().axis[7])))
    assert float(record.loss[7, 30]) == pytest.approx(record.start_loss)


@pytest.mark.parametrize("inner_lr", [0.0, 0.25, 0.6, 1.0])
def test_the_exact_path_goes_down_to_the_lowest_point(inner_lr):
    record = widgets.surface(inner_lr=inner_lr)
    assert record.exact_loss < record.start_loss
    assert record.exact_loss <= float(record.loss.min()) + 2e-2


def test_first_order_parts_from_exact_where_rate_times_curvature_passes_one():
    together, apart = widgets.surface(inner_lr=0.0), widgets.surface(inner_lr=0.6)
    assert together.angle == 0.0 and torch.equal(together.exact_path, together.first_order_path)
    assert apart.first_order_loss > apart.start_loss > apart.exact_loss and "runs away" in str(apart)


def test_first_order_can_point_uphill():
    record = widgets.surface(inner_lr=0.8, start=(-2.0, 0.0))
    assert record.uphill and record.angle > 90 and "uphill" in str(record)


def test_a_vanishing_gradient_has_no_angle():
    ends = widgets.surface().exact_path[-1].tolist()
    record = widgets.surface(start=tuple(widgets.surface(start=tuple(ends)).exact_path[-1].tolist()))
    assert math.isnan(record.angle) and "move the start" in str(record)


def test_every_end_of_every_control_and_each_move():
    explorer = widgets.SurfaceExplorer()
    ends = {name: (control.min, control.max) for name, control in explorer.controls.items()}
    for values in itertools.product(*ends.values()):
        record = explorer.compute(**dict(zip(ends, values, strict=True)))
        assert record.loss.isfinite().all() and str(record)
    for name, control in explorer.controls.items():
        for value in ends[name]:
            before = explorer._view.picture.value
            control.value = value
            assert explorer.error is None and explorer._view.picture.value != before, name
        assert control.description


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inner_lr": -0.1}, "inner_lr must be a finite number"),
        ({"inner_lr": math.nan}, "inner_lr must be a finite number"),
        ({"curvature": 0.0}, "curvature must be positive"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        widgets.surface(**options)


def test_the_static_picture_is_a_whole_figure():
    assert len(plots.png(widgets.SurfaceExplorer().static())) > 10_000
