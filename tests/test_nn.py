"""Layers with weights stacked over tasks, against torch one task at a time; in float64."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

import metakit as mk
from metakit.nn.lending import can_stack, mixes_rows


def normal(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def second_order(outputs, weights):
    """The outputs, and their first and second derivatives for the weights, in one list."""
    weights = list(weights)
    first = torch.autograd.grad(outputs.sin().sum(), weights, create_graph=True)
    total = sum((grad.square() + grad.sin()).sum() for grad in first)
    return [outputs, *first, *torch.autograd.grad(total, weights)]


def assert_same(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


# --- Batch norm of vectors, and the policy of statistics. ---


def batch_norm(x, weight, bias, rows, eps):
    """One task's batch norm, by torch, with the statistics of its first rows."""
    seen = x[:rows]
    return F.batch_norm(x, seen.mean(0), seen.var(0, correction=0), weight, bias, eps=eps)


def test_batch_norm_of_vectors_is_that_of_torch():
    torch.manual_seed(0)
    ours, theirs = mk.nn.BatchNorm1d(3, eps=0.1), nn.BatchNorm1d(3, eps=0.1, track_running_stats=False)
    for norm in (ours.double(), theirs.double()):
        with torch.no_grad():
            norm.weight.copy_(torch.tensor([1.0, -0.5, 2.0]))
            norm.bias.copy_(torch.tensor([0.0, 0.3, -0.4]))
    x = normal(5, 3).requires_grad_()
    assert_same(second_order(ours(x), [x, *ours.parameters()]), second_order(theirs(x), [x, *theirs.parameters()]))


@pytest.mark.parametrize("rows", [None, 3])
@pytest.mark.parametrize("stacked", [True, False])
def test_batch_norm_of_vectors_is_exact_to_the_second_derivative(stacked, rows):
    torch.manual_seed(1)
    norm, tasks = mk.nn.BatchNorm1d(2), (2,) if stacked else ()
    x, weight, bias = (normal(*shape).requires_grad_() for shape in ((2, 5, 2), (*tasks, 2), (*tasks, 2)))

    def outputs(x, weight, bias):
        if rows is None:
            return functional_call(norm, {"weight": weight, "bias": bias}, (x,))
        with mk.nn.statistics_from_first(rows):
            return functional_call(norm, {"weight": weight, "bias": bias}, (x,))

    weights = [(weight[t], bias[t]) if stacked else (weight, bias) for t in range(2)]
    expected = torch.stack([batch_norm(x[t].detach(), *weights[t], rows, norm.eps) for t in range(2)])
    torch.testing.assert_close(outputs(x, weight, bias), expected)
    assert torch.autograd.gradcheck(outputs, (x, weight, bias))
    assert torch.autograd.gradgradcheck(outputs, (x, weight, bias))


class MyNorm(nn.Module):
    """Batch norm of vectors, written by somebody else."""

    stacks_tasks = mixes_rows = True

    def forward(self, x):
        seen = x[..., : mk.nn.statistics_rows(), :]
        return (x - seen.mean(-2, keepdim=True)) / (seen.var(-2, correction=0, keepdim=True) + 1e-5).sqrt()


def test_a_norm_of_ones_own_takes_part_in_the_policy():
    torch.manual_seed(2)
    x, mine, ours = normal(4, 6, 3), MyNorm(), mk.nn.BatchNorm1d(3).double()
    assert mk.nn.statistics_rows() is None
    torch.testing.assert_close(mine(x), ours(x))
    with mk.nn.statistics_from_first(2):
        assert mk.nn.statistics_rows() == 2
        torch.testing.assert_close(mine(x), ours(x))
    assert can_stack(mine) and mixes_rows(mine)


def test_layers_say_themselves_that_they_stack_and_mix_and_so_do_those_made_of_them():
    class Scaled(mk.nn.Linear):
        pass

    assert can_stack(nn.Sequential(Scaled(2, 2), mk.nn.GroupNorm(1, 2), mk.nn.Frame(), mk.nn.MaxPool2d(2)))
    assert not mixes_rows(nn.Sequential(Scaled(2, 2), mk.nn.GroupNorm(1, 2)))
    for layer in (mk.nn.BatchNorm1d(2), mk.nn.BatchNorm2d(2), mk.nn.ConvBlock(1, 2)):
        assert can_stack(layer) and mixes_rows(layer)


@pytest.mark.parametrize("lead", [(), (5,), (2, 5)])
@pytest.mark.parametrize("name", ["MaxPool2d", "AvgPool2d", "AdaptiveAvgPool2d"])
def test_pooling_keeps_what_stands_in_front_of_a_picture(name, lead):
    x = normal(*lead, 3, 6, 4)
    expected = getattr(nn, name)(2)(x.reshape(-1, 3, 6, 4))
    assert torch.equal(getattr(mk.nn, name)(2)(x), expected.reshape(*lead, *expected.shape[1:]))


# --- Networks of torch, converted. ---


def no_statistics(kind, features):
    return kind(features, track_running_stats=False)


def convolutions():
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(2, 4, 3, stride=2, padding=1), no_statistics(nn.BatchNorm2d, 4), nn.Softplus()),
        nn.Conv2d(4, 6, 3, padding=1, bias=False),
        nn.GroupNorm(2, 6),
        nn.Tanh(),
        nn.AvgPool2d(2),
        nn.AdaptiveAvgPool2d((2, 1)),
        nn.Flatten(),
        no_statistics(nn.BatchNorm1d, 12),
        nn.Linear(12, 3),
    )


def vectors():
    return nn.Sequential(nn.Linear(4, 5), no_statistics(nn.BatchNorm1d, 5), nn.Tanh(), nn.Linear(5, 3, bias=False))


def flat_pictures():
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.Tanh(), nn.Linear(5, 3))


class Residual(nn.Module):
    """A forward of somebody's own, which names its layers twice."""

    stacks_tasks = True

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.layers = [self.first, self.second]

    def forward(self, x):
        for layer in self.layers:
            x = x + torch.tanh(layer(x))
        return x


def tied():
    layer = nn.Linear(4, 4)
    return nn.Sequential(layer, nn.Tanh(), Residual(), layer)


NETWORKS = {
    "pictures": (convolutions, (2, 9, 8), None),
    "vectors": (vectors, (4,), None),
    "flat pictures": (flat_pictures, (1, 3, 4), (1, 3, 4)),
    "flat tables": (flat_pictures, (3, 4), (3, 4)),
    "tied, with a forward of its own": (tied, (4,), None),
}


@pytest.mark.parametrize(("make", "row", "told"), NETWORKS.values(), ids=NETWORKS.keys())
def test_a_network_converted_says_the_same_stacked_or_not_to_the_second_derivative(make, row, told):
    torch.manual_seed(3)
    network = make().double()
    ours, x = mk.nn.convert(network, row_shape=told), normal(3, 6, *row)
    assert can_stack(ours) and not can_stack(network)
    own = dict(network.named_parameters())
    assert len({id(p) for p in ours.parameters()} & {id(p) for p in own.values()}) == len(own)
    assert_same(second_order(ours(x[0]), ours.parameters()), second_order(network(x[0]), network.parameters()))
    torch.testing.assert_close(ours(x), torch.stack([network(rows) for rows in x]))
    weights = {name: normal(3, *p.shape).requires_grad_() for name, p in own.items()}
    each = [functional_call(network, {n: w[t] for n, w in weights.items()}, (x[t],)) for t in range(3)]
    named = {mine: weights[name] for (mine, _), name in zip(ours.named_parameters(), own, strict=True)}
    stacked = mk.nn.lending.Functional(ours)(named, x)
    assert_same(second_order(stacked, weights.values()), second_order(torch.stack(each), weights.values()))


@pytest.mark.parametrize(
    "layers",
    [
        [nn.Conv2d(2, 4, (3, 1))],
        [nn.Conv2d(2, 4, 3, stride=(1, 2))],
        [nn.Conv2d(2, 4, 3, padding=(0, 1))],
        [nn.Conv2d(2, 4, 3, padding="same")],
        [nn.Conv2d(2, 4, 3, groups=2)],
        [nn.Conv2d(2, 4, 3, dilation=2)],
        [nn.Conv2d(2, 4, 3, padding=1, padding_mode="reflect")],
        [nn.Identity(), nn.GroupNorm(1, 2)],
        [nn.Identity(), no_statistics(nn.BatchNorm1d, 2)],
        [nn.BatchNorm2d(2)],
        [nn.BatchNorm2d(2, affine=False, track_running_stats=False)],
        [nn.BatchNorm2d(2).eval()],
        [nn.MaxPool2d(2, return_indices=True)],
        [nn.Flatten()],
        [nn.Conv2d(2, 4, 3, groups=2), nn.Flatten(2)],
        [nn.Conv2d(2, 4, 3, groups=2), nn.Unflatten(1, (2, 2)), nn.Flatten()],
        [nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))],
    ],
    ids=str,
)
def test_what_has_no_exact_counterpart_stays_as_it_is(layers):
    network = nn.Sequential(*layers)
    assert [type(layer) for layer in mk.nn.convert(network)] == [type(layer) for layer in layers]


def test_a_batch_norm_of_sequences_is_not_taken_for_one_of_vectors():
    network = nn.Sequential(nn.Conv1d(2, 3, 3), no_statistics(nn.BatchNorm1d, 3), nn.GroupNorm(1, 3), nn.Linear(6, 2))
    ours, x = mk.nn.convert(network), torch.randn(4, 2, 8)
    assert isinstance(ours[3], mk.nn.Linear) and not can_stack(ours)
    assert torch.equal(ours(x), network(x))


def test_a_network_is_left_as_it_was_by_its_conversion():
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.MaxPool2d(2), nn.BatchNorm2d(2), nn.Flatten()).eval()
    kinds = [type(layer) for layer in network]
    ours = mk.nn.convert(network)
    assert [type(layer) for layer in network] == kinds and not ours.training
    assert ours[2].running_mean is network[2].running_mean
    assert [type(layer) for layer in mk.nn.convert(ours)] == [type(layer) for layer in ours]


def test_a_network_of_layers_is_saved_converted_or_not(tmp_path):
    ours, x = nn.Sequential(mk.nn.Frame(), mk.nn.ConvBlock(2, 3), mk.nn.Flatten()), torch.randn(4, 2, 9, 8)
    for network in (ours, mk.nn.convert(convolutions())):
        mk.save(network, tmp_path / "network.pt")
        assert torch.equal(mk.load(tmp_path / "network.pt")(x), network(x))
