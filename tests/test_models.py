"""Embeddings beside the papers' network: their numbers, what wraps them, what they refuse."""

import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import metakit as mk
from metakit.models import MLP, ConvNet, ResNet, Views, Whitened
from metakit.nn.lending import Functional


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


@pytest.mark.parametrize("size", [8, 9, 21, 105, (8, 13), (27, 14), [33, 84]])
@pytest.mark.parametrize("make", [ConvNet, ResNet])
def test_a_network_of_pictures_of_any_size_says_what_it_takes_and_gives(make, size):
    net = make(channels=2, size=size, **({"width": 4, "blocks": 3} if make is ConvNet else {"widths": [8, 16, 16]}))
    height, width = (size, size) if isinstance(size, int) else size
    assert net.row_shape == (2, height, width)
    assert net(torch.zeros(1, *net.row_shape)).shape == (1, net.features)
    assert json.loads(json.dumps(net.config))["size"] == (size if isinstance(size, int) else [height, width])
    assert make(**net.config).row_shape == net.row_shape


def test_numbers_of_numpy_are_sizes_too():
    whole = np.int64
    networks = [
        MLP(whole(3), [whole(8)], whole(2)),
        ConvNet(size=(whole(16), whole(17)), width=whole(4), outputs=whole(5)),
        ResNet(size=whole(16), widths=[whole(8)], depths=[whole(0)], channels=whole(1)),
    ]
    for net in networks:
        assert json.loads(json.dumps(net.config)) == net.config
        net(torch.zeros(1, *net.row_shape))


def test_embeddings_take_the_rows_of_what_they_wrap():
    assert MLP(3, [], 2).row_shape == (3,)
    assert Whitened(Views(ConvNet(size=(16, 20))), 64).row_shape == (1, 16, 20)
    assert Views(Pixels()).row_shape is None


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


@pytest.mark.parametrize("dims", [(4, 4, 0, 0), (0, 0, 6, 6)], ids=["wide", "high"])
def test_views_of_a_picture_padded_are_its_views_padded(dims):
    x, square, padded = torch.zeros(1, 1, 32, 32), Seen(), Seen()
    x[..., 10:20, 12:21] = torch.rand(10, 9)
    Views(square, turn=25, stretch=0.3, shear=0.3)(x)
    Views(padded, turn=25, stretch=0.3, shear=0.3)(F.pad(x, dims))
    assert len(square.shown) == 7
    for one, other in zip(square.shown, padded.shown, strict=True):
        torch.testing.assert_close(F.pad(one, dims), other, rtol=0, atol=1e-5)


@pytest.mark.parametrize("wrap", [Views, lambda net: Whitened(net, net.features)], ids=["views", "whitened"])
def test_what_wraps_an_embedding_runs_it_task_by_task(wrap):
    """With batch norm inside, whose statistics are a task's own, and with weights stacked."""
    torch.manual_seed(0)
    net = wrap(ConvNet(size=8, width=3, blocks=2)).double()
    x = torch.rand(2, 4, 1, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(net(x), torch.stack([net(rows) for rows in x]))
    weights = {name: torch.randn(2, *p.shape, dtype=torch.float64) for name, p in net.named_parameters()}
    each = [torch.func.functional_call(net, {n: w[t] for n, w in weights.items()}, (x[t],)) for t in range(2)]
    f = Functional(net)
    assert f.stacks
    torch.testing.assert_close(f(weights, x), torch.stack(each))


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
    monkeypatch.setattr(mk.models.embeddings, "_ROWS", 7)
    torch.testing.assert_close(Whitened(nn.Identity(), 4).estimate(x, y).matrix, whole.matrix)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ResNet(widths=[8], depths=[1, 1]), "a number for each stage"),
        (lambda: ResNet(widths=[], depths=[]), "a number for each stage"),
        (lambda: ResNet(widths=[12, 8], depths=[0, 0]), "multiple of 8, the groups of its norm, got 12"),
        (lambda: ResNet(widths=[-8], depths=[0]), "every width must be at least 8, got -8"),
        (lambda: ResNet(widths=[8], depths=[-1]), "every depth must be at least 0, got -1"),
        (lambda: ResNet(size=4), "at least 8 pixels, as 3 stages halve it; got 4. Use 2 stages at most"),
        (lambda: ConvNet(size=(30, 9)), "at least 16 pixels, as 4 blocks halve it; got 9. Use 3 blocks at most"),
        (lambda: ResNet(channels=0), "channels must be at least 1, got 0"),
        (lambda: Views(Pixels(), turn=-1), "turn must be finite and at least 0, got -1"),
        (lambda: Views(Pixels(), shear=math.nan), "shear must be finite"),
        (lambda: Views(Pixels(), rounds=0), "rounds must be at least 1, got 0"),
        (lambda: Whitened(Pixels(), 0), "features must be at least 1, got 0"),
        (lambda: Whitened(Pixels(), 3, shrink=0), "shrink must be finite and above 0, got 0"),
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
