"""Embeddings beside the papers' network: their numbers, what wraps them, what they refuse."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import metakit as mk
from metakit.models import ResNet, Views, Whitened


def pictures(n=3, side=16):
    x = torch.zeros(n, 1, side, side)
    for i in range(n):
        x[i, 0, 4 + i : 9 + i, 5 : 7 + i] = 1.0
    return x


class Pixels(nn.Module):
    """The picture itself."""

    def forward(self, x):
        return x.flatten(1)


def test_a_resnet_halves_the_picture_at_each_stage():
    net = ResNet(channels=3, size=20, widths=[8, 16], depths=[0, 2])
    assert net(torch.zeros(2, 5, 3, 20, 20)).shape == (2, 5, net.features) and net.features == 16 * 5 * 5
    assert ResNet(size=28, outputs=7)(torch.zeros(2, 1, 28, 28)).shape == (2, 7)


def test_no_row_of_a_resnet_depends_on_another():
    net, x = ResNet(size=16, widths=[8, 16], depths=[1, 0], frame=True), pictures(4)
    torch.testing.assert_close(net(x)[:1], net(x[:1]))


def test_views_are_the_mean_of_what_is_seen_of_changed_pictures():
    """Turned by a right angle, the views can be made without interpolation; the others are switched off."""
    x = pictures()
    seen = [x, x.rot90(1, (2, 3)), x.rot90(-1, (2, 3)), x, x, x, x]
    expected = sum(F.normalize(v.flatten(1), dim=-1) for v in seen) / 7
    torch.testing.assert_close(Views(Pixels(), turn=90, stretch=0, shear=0)(x), expected, rtol=1e-4, atol=1e-5)


def test_a_second_round_bends_twice_as_far():
    """Half a turn is twice a quarter; all of thirteen views count alike."""
    x = pictures()
    seen = [x, x.rot90(1, (2, 3)), x.rot90(-1, (2, 3)), *[x] * 4, x.rot90(2, (2, 3)), x.rot90(2, (2, 3)), *[x] * 4]
    expected = sum(F.normalize(v.flatten(1), dim=-1) for v in seen) / 13
    views = Views(Pixels(), turn=90, stretch=0, shear=0, rounds=2)
    torch.testing.assert_close(views(x), expected, rtol=1e-4, atol=1e-5)
    _, shown = views_of_a_post(stretch=0.25, shear=0.1, rounds=2)
    for once in (2, 4):
        _, far = views_of_a_post(stretch=0.5, shear=0.2)
        torch.testing.assert_close(shown[6 + once], far[once])


class Seen(nn.Module):
    """Keeps the pictures that it is shown."""

    def __init__(self):
        super().__init__()
        self.shown = []

    def forward(self, x):
        self.shown.append(x)
        return x.flatten(1)


def views_of_a_post(**strengths):
    """A post, 16 pixels high and 12 wide, in the six changed views."""
    x, seen = torch.zeros(1, 1, 64, 64), Seen()
    x[..., 24:40, 26:38] = 1.0
    Views(seen, **({"turn": 0, "stretch": 0, "shear": 0} | strengths))(x)
    assert len(seen.shown) == 1 + 6 * strengths.get("rounds", 1) and torch.equal(seen.shown[0], x)
    return x, seen.shown[1:]


def test_a_view_is_stretched_across_and_another_down():
    x, seen = views_of_a_post(stretch=0.5)
    factors = torch.tensor([[spread(v, dim) / spread(x, dim) for dim in (2, 3)] for v in seen[2:4]])
    torch.testing.assert_close(factors, torch.tensor([[1.0, 1.5], [1.5, 1.0]]), rtol=0.05, atol=0)


def test_two_views_are_sheared_to_either_side():
    _, seen = views_of_a_post(shear=0.25)
    slopes = torch.stack([slope(v) for v in seen[4:]])
    torch.testing.assert_close(slopes.abs(), torch.full((2,), 0.25), rtol=0.05, atol=0)
    assert slopes[0] * slopes[1] < 0


def spread(x, dim):
    """Standard deviation of the ink's places along a side."""
    ink = x[0, 0].sum(0 if dim == 3 else 1)
    at = torch.arange(len(ink)).float()
    mean = (ink * at).sum() / ink.sum()
    return ((ink * (at - mean).square()).sum() / ink.sum()).sqrt()


def slope(x):
    """Pixels sideways for each pixel down, by least squares over the ink."""
    down, across = torch.meshgrid(torch.arange(64.0) - 31.5, torch.arange(64.0) - 31.5, indexing="ij")
    return (x[0, 0] * down * across).sum() / (x[0, 0] * down.square()).sum()


def test_whitening_undoes_what_differs_within_classes():
    torch.manual_seed(0)
    means, y = 5 * torch.randn(4, 3), torch.arange(400) % 4
    mixing = torch.tensor([[3.0, 0.0, 0.0], [1.0, 0.2, 0.0], [0.0, 0.0, 1.0]])
    x = means[y] + torch.randn(400, 3) @ mixing
    f = Whitened(nn.Identity(), 3, shrink=1e-9).estimate(x, y)
    around = torch.cat([f(x)[y == n] - f(x)[y == n].mean(0) for n in range(4)])
    torch.testing.assert_close(around.mT @ around / 400, torch.eye(3), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(f(x).mean(0), torch.zeros(3), rtol=0, atol=1e-4)


def test_shrinking_draws_the_whitening_towards_one_scale_for_all():
    x, y = torch.randn(300, 3) * torch.tensor([1.0, 2.0, 3.0]), torch.zeros(300).long()
    matrix = Whitened(nn.Identity(), 3, shrink=1e6).estimate(x, y).matrix
    torch.testing.assert_close(matrix / matrix.diagonal().mean(), torch.eye(3), rtol=0, atol=1e-4)
    covariance = torch.cov(x.T, correction=0)
    expected = torch.linalg.inv(covariance + 0.5 * covariance.trace() / 3 * torch.eye(3))
    matrix = Whitened(nn.Identity(), 3, shrink=0.5).estimate(x, y).matrix
    torch.testing.assert_close(matrix @ matrix, expected, rtol=1e-4, atol=1e-4)


def test_whitening_of_many_rows_is_that_of_all_at_once(monkeypatch):
    x, y = torch.randn(23, 4), torch.arange(23) % 5
    whole = Whitened(nn.Identity(), 4).estimate(x, y)
    monkeypatch.setattr(mk.models, "_ROWS", 7)
    torch.testing.assert_close(Whitened(nn.Identity(), 4).estimate(x, y).matrix, whole.matrix)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ResNet(widths=[8], depths=[1, 1]), "a number for each stage"),
        (lambda: ResNet(widths=[], depths=[]), "a number for each stage"),
        (lambda: ResNet(widths=[12, 8], depths=[0, 0]), "multiple of 8, the groups of its norm, got 12"),
        (lambda: ResNet(widths=[-8], depths=[0]), "every width must be a positive integer, got -8"),
        (lambda: ResNet(widths=[8], depths=[-1]), "every depth must be a whole number of blocks"),
        (lambda: ResNet(size=27), "size must be even"),
        (lambda: ResNet(size=4), "at least 8 pixels"),
        (lambda: ResNet(channels=0), "channels must be a positive integer, got 0"),
        (lambda: Views(Pixels(), turn=-1), "turn must be a finite number, 0 or more, got -1"),
        (lambda: Views(Pixels(), shear=math.nan), "shear must be a finite number"),
        (lambda: Views(Pixels(), rounds=0), "rounds must be a positive integer, got 0"),
        (lambda: Whitened(Pixels(), 0), "features must be a positive integer, got 0"),
        (lambda: Whitened(Pixels(), 3, shrink=0), "shrink must be a finite number above 0, got 0"),
        (lambda: Whitened(Pixels(), 4).estimate(torch.zeros(3, 1, 2, 2), torch.zeros(2)), "got 3 and 2"),
        (lambda: Whitened(Pixels(), 5).estimate(torch.zeros(3, 1, 2, 2), torch.zeros(3)), "made for 5 features"),
        (
            lambda: mk.ProtoNet(ResNet(size=16))(
                mk.tasks.Episodes((pictures(4, 14), torch.arange(4) % 2), 2, 1, 1).sample(1)
            ),
            r"this ResNet takes images \[1, 16, 16\]",
        ),
    ],
)
def test_wrong_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
