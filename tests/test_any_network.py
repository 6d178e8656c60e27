"""Any network, its tasks stacked or one by one, gives the one answer of a plain loop: drawn networks, in float64.

A network is drawn as a ``Recipe``, which is printed where a property fails; ``Recipe(...).network()`` makes it again.
"""

import contextlib
import copy
import dataclasses
import functools
from collections import OrderedDict
from unittest import mock

import plain
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call
from torch.nn.utils import parametrizations

import metakit as mk
from metakit.nn.lending import Functional, can_stack, lent, mixes_rows, shadow

WIDTH, CHANNELS, SIDE, OUTPUTS = 4, 2, 4, 3


def drawn(max_examples):
    """The same cases in each run, few enough for a slow core."""
    return settings(
        max_examples=max_examples,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.explicit, Phase.generate, Phase.shrink],
        report_multiple_bugs=False,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
    )


# --- Layers that people write. ---


class Reader(nn.Module):
    """Reads a row as a short sequence; a recurrent layer keeps its weights in a plain list as well."""

    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(2, WIDTH, batch_first=True)

    def forward(self, x):
        return self.gru(x.unflatten(-1, (WIDTH // 2, 2)))[1][0]


class Attends(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(2, 1, batch_first=True)

    def forward(self, x):
        words = x.unflatten(-1, (WIDTH // 2, 2))
        return self.attention(words, words, words, need_weights=False)[0].flatten(1)


class Buffered(nn.Module):
    """Uses what it keeps in buffers, one of which the state does not hold, and a parameter that is a number."""

    def __init__(self):
        super().__init__()
        self.register_buffer("shift", torch.randn(WIDTH))
        self.register_buffer("stretch", torch.rand(WIDTH) + 0.5, persistent=False)
        self.register_buffer("nothing", None)
        self.gain = nn.Parameter(torch.tensor(0.8))

    def forward(self, x):
        return (x + self.shift) * self.stretch * self.gain


class Promised(nn.Module):
    """Treats ``[T, N, D]`` task by task, as it says, and has a buffer."""

    stacks_tasks = True

    def __init__(self):
        super().__init__()
        self.inside = mk.nn.Linear(WIDTH, WIDTH)
        self.register_buffer("shift", torch.randn(WIDTH))

    def forward(self, x):
        return x + torch.tanh(self.inside(x + self.shift))


class Kept(nn.Module):
    """Holds its layers in a list, a dictionary, a tuple, a bound method and a partial function, too."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(WIDTH, WIDTH), mk.nn.Linear(WIDTH, WIDTH)
        self.order = [self.a, torch.tanh, self.b]
        self.named = {"a": (self.a, 0.5), "deeper": [{"b": self.b}]}
        self.call = self.middle
        self.later = functools.partial(self.weighed, self.b)
        self.direct = self.a.forward

    def middle(self, x):
        return self.b(x) / 2

    def weighed(self, layer, x):
        return layer(x) + self.a(x)

    def forward(self, x):
        layer, share = self.named["a"]
        y = share * layer(x) + self.call(x) + self.named["deeper"][0]["b"](x) + self.later(x) + self.direct(x)
        for step in self.order:
            y = step(y)
        return y


class Tabled(nn.Module):
    """Holds its parameters in a dictionary and a list; ``functional_call`` would not find them there."""

    by_table = True

    def __init__(self):
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.rand(WIDTH) + 0.5), nn.Parameter(torch.randn(WIDTH))
        self.table, self.row = {"scale": self.scale}, [0, [self.shift]]

    def forward(self, x):
        scale, shift = (self.table["scale"], self.row[1][0]) if Tabled.by_table else (self.scale, self.shift)
        return torch.tanh(x * scale + shift)


class Dimensions(nn.Module):
    """Counts dimensions from the front, leaves a parameter idle, and mixes the rows of a task without saying so."""

    def __init__(self):
        super().__init__()
        self.layer, self.idle = nn.Linear(WIDTH, WIDTH), nn.Parameter(torch.ones(2))

    def forward(self, x):
        y = self.layer(x)
        return F.normalize(y, dim=1) + (y - y.mean(0)) / y.shape[1]


def hooked():
    layer = mk.nn.Linear(WIDTH, WIDTH)
    layer.register_forward_pre_hook(lambda module, args: (args[0] + module.bias,))
    layer.register_forward_hook(lambda module, args, y: y * module.weight.diagonal())
    return layer


def fixed(norm, *shape):
    """Batch norm with the statistics of other data."""
    norm = norm.train()
    with torch.no_grad():
        norm(torch.randn(30, *shape) * 3 + 1)
        norm.weight.uniform_(0.5, 1.5)
    return norm.eval()


def conv(kind, **options):
    return kind(CHANNELS, CHANNELS, 3, padding=1, **options)


ANYWHERE = {
    "nn.Tanh": nn.Tanh,
    "nn.GELU": nn.GELU,
    "nn.Softplus": nn.Softplus,
    "nn.PReLU": nn.PReLU,
    "nn.Dropout": nn.Dropout,
    "nn.Identity": nn.Identity,
}
VECTORS = ANYWHERE | {
    "mk.Linear": lambda: mk.nn.Linear(WIDTH, WIDTH),
    "nn.Linear": lambda: nn.Linear(WIDTH, WIDTH),
    "nn.Linear, no bias": lambda: nn.Linear(WIDTH, WIDTH, bias=False),
    "nn.LayerNorm": lambda: nn.LayerNorm(WIDTH),
    "nn.GroupNorm": lambda: nn.GroupNorm(1, WIDTH),
    "nn.PReLU, each": lambda: nn.PReLU(WIDTH),
    "mk.BatchNorm1d": lambda: mk.nn.BatchNorm1d(WIDTH),
    "nn.BatchNorm1d, of the rows": lambda: nn.BatchNorm1d(WIDTH, track_running_stats=False),
    "nn.BatchNorm1d, fixed": lambda: fixed(nn.BatchNorm1d(WIDTH), WIDTH),
    "weight_norm": lambda: parametrizations.weight_norm(mk.nn.Linear(WIDTH, WIDTH)),
    "orthogonal": lambda: parametrizations.orthogonal(nn.Linear(WIDTH, WIDTH), orthogonal_map="cayley"),
    "hooked": hooked,
    "Reader": Reader,
    "Attends": Attends,
    "Buffered": Buffered,
    "Promised": Promised,
    "Kept": Kept,
    "Tabled": Tabled,
    "Dimensions": Dimensions,
}
PICTURES = ANYWHERE | {
    "mk.Conv2d": lambda: conv(mk.nn.Conv2d),
    "nn.Conv2d": lambda: conv(nn.Conv2d),
    "nn.Conv2d, in groups": lambda: conv(nn.Conv2d, groups=2),
    "nn.Conv2d, reflecting": lambda: conv(nn.Conv2d, padding_mode="reflect"),
    "mk.GroupNorm": lambda: mk.nn.GroupNorm(1, CHANNELS),
    "nn.GroupNorm": lambda: nn.GroupNorm(2, CHANNELS),
    "nn.InstanceNorm2d": lambda: nn.InstanceNorm2d(CHANNELS, affine=True),
    "nn.PReLU, each": lambda: nn.PReLU(CHANNELS),
    "mk.BatchNorm2d": lambda: mk.nn.BatchNorm2d(CHANNELS),
    "nn.BatchNorm2d, of the rows": lambda: nn.BatchNorm2d(CHANNELS, track_running_stats=False),
    "nn.BatchNorm2d, fixed": lambda: fixed(nn.BatchNorm2d(CHANNELS), CHANNELS, SIDE, SIDE),
    "weight_norm": lambda: parametrizations.weight_norm(conv(nn.Conv2d)),
    "nn.Dropout2d": nn.Dropout2d,
}
ENDS = {  # from pictures to vectors
    "mk.MaxPool2d": lambda: [mk.nn.MaxPool2d(2), mk.nn.Flatten()],
    "mk.AvgPool2d": lambda: [mk.nn.AvgPool2d(2), mk.nn.Flatten()],
    "mk.ConvBlock": lambda: [mk.nn.ConvBlock(CHANNELS, CHANNELS), mk.nn.Flatten()],
    "nn.MaxPool2d": lambda: [nn.MaxPool2d(2), nn.Flatten()],
    "nn.AdaptiveAvgPool2d": lambda: [nn.AdaptiveAvgPool2d(2), nn.Flatten()],
}
LAYERS = {"vectors": VECTORS, "pictures": PICTURES}
SHAPES = {"vectors": (WIDTH,), "pictures": (CHANNELS, SIDE, SIDE)}
WHOLE = {
    "mk.Conv2d",
    "nn.Conv2d",
    "nn.Conv2d, reflecting",
}  # weight and bias are lent together: ``mk.nn.Conv2d`` needs it
TIED = {"mk.Linear", "nn.Linear", "nn.Linear, no bias", "mk.Conv2d", "nn.Conv2d", "nn.Conv2d, reflecting"}


# --- Networks of them. ---


class Chain(nn.Module):
    """A network with a forward of its own."""

    def __init__(self, layers, head):
        super().__init__()
        self.layers, self.head = nn.ModuleList(layers), head

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


class PromisedChain(Chain):
    stacks_tasks = True


class ListedChain(Chain):
    """Goes through its layers by a plain list, and to the head by a bound method."""

    def __init__(self, layers, head):
        super().__init__(layers, head)
        self.order, self.last = [*layers], head.forward

    def forward(self, x):
        return self.last(functools.reduce(lambda x, layer: layer(x), self.order, x))


def in_sequence(layers, head):
    return nn.Sequential(OrderedDict([*((f"layer{i}", layer) for i, layer in enumerate(layers)), ("head", head)]))


def nested(layers, head):
    return nn.Sequential(OrderedDict(body=nn.Sequential(*layers), head=head))


WRAPS = {f.__name__: f for f in (in_sequence, nested, Chain, PromisedChain, ListedChain)}


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How to make a network: layers by name, then a linear head.

    ``tied`` are two layers with one weight, ``again`` is a layer used once more at the end, ``frozen`` are layers that
    are wholly frozen, ``frozen_in_part`` those of which the first parameter is.
    """

    rows: str
    layers: tuple[str, ...]
    end: str | None = None
    head: str = "nn"
    wrap: str = "in_sequence"
    tied: tuple[int, int] | None = None
    again: int | None = None
    frozen: tuple[int, ...] = ()
    frozen_in_part: tuple[int, ...] = ()
    training: bool = False
    seed: int = 0

    def __str__(self):
        told = [f"{f.name}={getattr(self, f.name)}" for f in dataclasses.fields(self)[3:] if self.told(f)]
        return "; ".join(["+".join(self.layers), *([self.end] if self.end else [self.rows]), *told])

    def told(self, field):
        return getattr(self, field.name) != field.default

    def network(self):
        torch.manual_seed(self.seed)
        layers = [LAYERS[self.rows][name]() for name in self.layers]
        with torch.no_grad():
            for layer in layers:
                if type(layer).__name__.endswith("Norm") or "BatchNorm" in type(layer).__name__:
                    layer.bias.normal_(std=0.3)  # norms start alike
        if self.tied is not None:
            first, second = self.tied
            layers[second].weight = layers[first].weight
        for i in self.frozen:
            layers[i].requires_grad_(False)
        for i in self.frozen_in_part:
            for p in [*layers[i].parameters()][:1]:
                p.requires_grad_(False)
        layers += [] if self.again is None else [layers[self.again]]
        layers += [] if self.end is None else ENDS[self.end]()
        features = WIDTH if self.rows == "vectors" else CHANNELS * (SIDE // 2) ** 2
        head = (mk.nn if self.head == "mk" else nn).Linear(features, OUTPUTS)
        network = WRAPS[self.wrap](layers, head).double()
        if not self.training:
            return network.eval()
        for layer in network.modules():  # dropout is not the question here, and a fixed norm is a fixed norm
            if isinstance(layer, nn.Dropout | nn.Dropout2d) or getattr(layer, "running_mean", None) is not None:
                layer.eval()
        return network

    @property
    def protocols(self):
        """Torch's batch norm of the rows at hand cannot be told which rows to take."""
        return mk.learners.PROTOCOLS[:1] if any("of the rows" in layer for layer in self.layers) else PROTOCOLS


PROTOCOLS = mk.learners.PROTOCOLS


@st.composite
def recipes(draw):
    rows = draw(st.sampled_from(["vectors", "vectors", "pictures"]))
    layers = draw(st.lists(st.sampled_from([*LAYERS[rows]]), min_size=1, max_size=3))
    alike = st.sampled_from([name for name in LAYERS[rows] if name in TIED])
    tied = draw(st.sampled_from([False, False, True]))
    if tied:  # the first and the last of them
        layers = [draw(alike), *layers[:1], draw(alike)]
    # Torch crashes where group norm's own weights are differentiated, but not its rows, which have their channels
    # innermost: so what stands around one in pictures is not frozen.
    crashes = rows == "pictures" and any("GroupNorm" in name for name in layers)
    most = 0 if crashes else 1
    places = st.sets(st.sampled_from(range(len(layers))), max_size=most).map(tuple)
    return Recipe(
        rows,
        tuple(layers),
        end=draw(st.sampled_from([*ENDS])) if rows == "pictures" else None,
        head=draw(st.sampled_from(["mk", "nn"])),
        wrap=draw(st.sampled_from([*WRAPS])),
        tied=(0, len(layers) - 1) if tied else None,
        again=draw(st.sampled_from([None, *range(len(layers))])),
        frozen=draw(places),
        frozen_in_part=tuple(i for i in draw(places) if layers[i] not in WHOLE),
        training=draw(st.booleans()),
        seed=draw(st.integers(0, 99)),
    )


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How many rows and classes each task has; real targets where it has none."""

    support: tuple[int, ...]
    query: tuple[int, ...]
    ways: tuple[int, ...] | None
    seed: int = 0

    def tasks(self, shape):
        """``(support_x, support_y, query_x, query_y)`` of each task."""
        generator = torch.Generator().manual_seed(self.seed)
        tasks = []
        for t, sizes in enumerate(zip(self.support, self.query, strict=True)):
            sides = []
            for n in sizes:
                y = torch.randn(n, OUTPUTS, generator=generator, dtype=torch.float64)
                y = y if self.ways is None else torch.arange(n) % self.ways[t]
                sides += [torch.randn(n, *shape, generator=generator, dtype=torch.float64), y]
            tasks.append(tuple(sides))
        return tasks


def sizes(*, equal, classes=None):
    def of_one(count, few, most):
        numbers = st.integers(few, most)
        return numbers.map(lambda n: (n,) * count) if equal else st.tuples(*[numbers] * count)

    def of(count):
        ways = of_one(count, 2, OUTPUTS)
        ways = ways if classes else st.none() | ways
        return st.builds(Sizes, of_one(count, 3, 5), of_one(count, 3, 5), ways, st.integers(0, 99))

    return st.integers(2, 3).flatmap(of)


@dataclasses.dataclass(frozen=True)
class Inner:
    """The inner loop of MAML, and how many tasks are judged at once."""

    steps: int = 2
    rate: float = 0.2
    order: int = 2
    adapt: str | None = None
    at_once: int | None = None

    def learner(self, network, protocol="transductive"):
        options = {"steps": self.steps, "order": self.order, "adapt": self.adapt, "protocol": protocol}
        return mk.MAML(network, rule=mk.SGD(self.rate), **options)


INNERS = st.builds(
    Inner,
    steps=st.integers(1, 2),
    rate=st.sampled_from([0.05, 0.3]),
    order=st.sampled_from([1, 2]),
    adapt=st.sampled_from([None, None, "head"]),
    at_once=st.sampled_from([None, 1]),
)


# --- The plain loop. ---


@contextlib.contextmanager
def plainly():
    """Attention that can be differentiated twice, and parameters from where ``functional_call`` puts them."""
    with (
        torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH),
        mock.patch.object(Tabled, "by_table", False),
    ):
        yield


def call(network, weights, x):
    """``functional_call``, told of every place: of a module that is used twice it would leave the weights behind."""
    first = {id(p): name for name, p in network.named_parameters()}
    places = {
        f"{name}.{key}" if name else key: first[id(p)]
        for name, layer in network.named_modules()
        for key, p in layer.named_parameters(recurse=False)
    }
    lent = {place: weights[name] for place, name in places.items() if name in weights}
    return functional_call(network, lent, (x,), tie_weights=False)


def both(network, weights, support_x, query_x, protocol):
    """One task's support and query rows through a network with these weights."""
    if protocol == "inductive" and mixes_rows(network):
        with mk.nn.statistics_from_first(len(support_x)):
            y = call(network, weights, torch.cat([support_x, query_x]))
        return y[: len(support_x)], y[len(support_x) :]
    return tuple(call(network, weights, x) for x in (support_x, query_x))


def maml_outputs(network, tasks, inner, protocol):
    """The query rows of each task after its inner steps, one task at a time."""
    initial = dict(network.named_parameters())
    names = [n for n, p in initial.items() if p.requires_grad and n.startswith(inner.adapt or "")]
    outputs = []
    for support_x, support_y, query_x, _ in tasks:
        weights = dict(initial)
        for _ in range(inner.steps):
            loss = plain.loss_of(call(network, weights, support_x), support_y)
            kept = {"create_graph": inner.order == 2, "retain_graph": True, "materialize_grads": True}
            grads = torch.autograd.grad(loss, [weights[n] for n in names], **kept)
            weights |= {n: weights[n] - inner.rate * g for n, g in zip(names, grads, strict=True)}
        outputs.append(both(network, weights, support_x, query_x, protocol)[1])
    return outputs


def maml_losses(network, tasks, inner, protocol):
    outputs = maml_outputs(network, tasks, inner, protocol)
    return torch.stack([plain.loss_of(y, task[3]) for y, task in zip(outputs, tasks, strict=True)])


def proto_losses(network, tasks, protocol):
    losses = []
    for support_x, support_y, query_x, query_y in tasks:
        support, query = both(network, {}, support_x, query_x, protocol)
        prototypes = torch.stack([support[support_y == n].mean(0) for n in range(int(support_y.max()) + 1)])
        losses.append(plain.loss_of(-((query[:, None] - prototypes) ** 2).sum(2), query_y))
    return torch.stack(losses)


# --- What is held. ---


def batch_of(tasks):
    """One batch of them, padded where they are unequal, with numbers there that count for nothing."""
    batch = mk.TaskBatch.pad([mk.TaskBatch(*(tensor[None] for tensor in task)) for task in tasks])
    for x, mask in ((batch.support_x, batch.support_mask), (batch.query_x, batch.query_mask)):
        if mask is not None:
            x[~mask] = 1.7
    return batch


def assert_same(ours, theirs, told=""):
    """Equal to rounding: of the largest number in a tensor, since others may be small differences of such."""
    ours, theirs = ours.detach(), theirs.detach()
    scale = max(1.0, float(theirs.abs().max()))
    torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-10 * scale, msg=lambda text: f"{told}\n{text}")


def gradients(losses, network):
    """Of the losses weighed unequally, so that no task can stand in for another."""
    weighed = (losses * torch.linspace(0.5, 1.7, len(losses), dtype=losses.dtype)).sum()
    named = {name: p for name, p in network.named_parameters() if p.requires_grad}
    return dict(zip(named, torch.autograd.grad(weighed, [*named.values()], materialize_grads=True), strict=True))


def assert_same_losses(ours, theirs, network):
    assert_same(ours, theirs, "losses")
    expected = gradients(theirs, network)
    for name, gradient in gradients(ours, network).items():
        assert_same(gradient, expected[name], f"meta-gradient of {name}")


def assert_adapts_plainly(recipe, sizes, inner, protocol):
    network, tasks = recipe.network(), sizes.tasks(SHAPES[recipe.rows])
    learner = inner.learner(network, protocol)
    with mock.patch("metakit.learners.gradient.chunk_size", return_value=inner.at_once):
        losses = learner(batch_of(tasks))
        with plainly():
            assert_same_losses(losses, maml_losses(network, tasks, inner, protocol), network)


def assert_converts(recipe, sizes, inner, protocol, row_shape):
    network, tasks = recipe.network(), sizes.tasks(SHAPES[recipe.rows])
    converted = mk.nn.convert(network, row_shape=row_shape)
    for kind in ("named_parameters", "named_buffers"):
        ours, theirs = (dict(getattr(each, kind)()) for each in (converted, network))
        assert ours.keys() == theirs.keys() and all(ours[name] is theirs[name] for name in ours)
    for name, layer in network.named_modules():
        if type(layer) is not nn.Flatten:  # it becomes another object, which is in training mode
            assert converted.get_submodule(name).training is layer.training, name
    for x in (tasks[0][0], tasks[1][2]):
        assert_same(converted(x), network(x), "outputs")
    losses = inner.learner(converted, protocol)(batch_of(tasks))
    with plainly():
        assert_same_losses(losses, maml_losses(network, tasks, inner, protocol), network)


EQUAL, UNEQUAL = Sizes((4, 4), (3, 3), (3, 3)), Sizes((4, 3), (3, 4), (3, 2))
KINDS = [Recipe("vectors", ("nn.Tanh", name, "mk.Linear")) for name in VECTORS]
KINDS += [Recipe("pictures", ("mk.Conv2d", name), end="mk.MaxPool2d", head="mk") for name in PICTURES]
KINDS += [Recipe("pictures", ("nn.Conv2d", "nn.Tanh"), end=end) for end in ENDS]
KINDS += [Recipe("vectors", ("mk.Linear", "nn.Tanh"), wrap=wrap, head=head) for wrap in WRAPS for head in ("mk", "nn")]
KINDS += [
    Recipe(rows, (a, "nn.Tanh", b), end=end, head="mk", tied=(0, 2), again=1)
    for rows, kind, end in (("vectors", "Linear", None), ("pictures", "Conv2d", "mk.MaxPool2d"))
    for a, b in ((f"mk.{kind}", f"mk.{kind}"), (f"mk.{kind}", f"nn.{kind}"), (f"nn.{kind}", f"nn.{kind}"))
]
KINDS += [
    Recipe("vectors", (name, "nn.Tanh", name), head="mk", again=0, **{how: (0,)})
    for name in ("mk.Linear", "nn.Linear")
    for how in ("frozen", "frozen_in_part")
]


@pytest.mark.parametrize("recipe", KINDS, ids=str)
def test_a_layer_of_every_kind_says_the_same(recipe):
    for protocol in recipe.protocols:
        assert_adapts_plainly(recipe, UNEQUAL, Inner(at_once=1), protocol)
    assert_adapts_plainly(recipe, EQUAL, Inner(order=1), "transductive")
    assert_converts(recipe, EQUAL, Inner(steps=1), "transductive", None)


def test_there_are_drawn_networks_of_both_ways_to_run():
    alone = {can_stack(recipe.network()) for recipe in KINDS}
    assert alone == {True, False}


@given(data=st.data(), recipe=recipes(), sizes=sizes(equal=True), inner=INNERS)
@drawn(40)
def test_losses_and_meta_gradients_are_those_of_a_plain_loop(data, recipe, sizes, inner):
    assert_adapts_plainly(recipe, sizes, inner, data.draw(st.sampled_from(recipe.protocols), "protocol"))


@given(data=st.data(), recipe=recipes(), sizes=sizes(equal=False), inner=INNERS)
@drawn(40)
def test_unequal_tasks_in_one_batch_are_each_what_they_are_alone(data, recipe, sizes, inner):
    assert_adapts_plainly(recipe, sizes, inner, data.draw(st.sampled_from(recipe.protocols), "protocol"))


def whole(names, named):
    """The names, and those of what else belongs to their layers."""
    layers = {name.rpartition(".")[0] for name in names}
    return {name for name in named if name.rpartition(".")[0] in layers}


@given(data=st.data(), recipe=recipes(), sizes=sizes(equal=False))
@drawn(40)
def test_a_network_is_a_function_of_its_weights(data, recipe, sizes):
    """Of some of them, then of others: the network's own serve where a name is missing, whoever was lent before."""
    network = recipe.network()
    lender, named = Functional(network), dict(network.named_parameters())
    batch, tasks = batch_of(sizes.tasks(SHAPES[recipe.rows])), sizes.tasks(SHAPES[recipe.rows])
    for turn in range(2):
        names = data.draw(st.sets(st.sampled_from([*named])), f"names, turn {turn}")
        if recipe.rows == "pictures" and names:  # see ``recipes`` and ``WHOLE``
            names = set(named) if any("GroupNorm" in layer for layer in recipe.layers) else whole(names, named)
        weights = {
            name: torch.stack([named[name].detach() * (1.1 + t) + 0.1 for t in range(len(tasks))]).requires_grad_()
            for name in sorted(names)
        }
        ours = lender(weights, batch.query_x, batch.query_mask)
        for t, (_, _, query_x, _) in enumerate(tasks):
            with plainly():
                theirs = call(network, {name: w[t] for name, w in weights.items()}, query_x)
            rows = ours[t] if batch.query_mask is None else ours[t][batch.query_mask[t]]
            assert_same(rows, theirs, f"task {t}, turn {turn}")
            told = {"materialize_grads": True, "retain_graph": True}
            if weights:
                grads = [torch.autograd.grad(y.square().sum(), [*weights.values()], **told) for y in (rows, theirs)]
                for name, one, other in zip(weights, *grads, strict=True):
                    assert_same(one, other, f"gradient of {name}, task {t}, turn {turn}")


@given(data=st.data(), recipe=recipes())
@drawn(40)
def test_one_network_with_other_tensors_in_its_places(data, recipe):
    network = recipe.network()
    named = dict(network.named_parameters())
    names = data.draw(st.sets(st.sampled_from([*named])), "names")
    weights = {name: named[name].detach() * 2 - 0.3 for name in names}
    x = torch.randn(3, *SHAPES[recipe.rows], dtype=torch.float64)
    other = lent(network, weights)
    ours = other(x)
    for name, p in other.named_parameters():
        assert p is weights.get(name, named[name])
    with plainly():
        assert_same(ours, call(network, weights, x))


class Watched(mk.ProtoNet):
    """Remembers the vectors that its head is given."""

    def grasp(self, support, batch):
        self.support = support
        return super().grasp(support, batch)

    def compare(self, query, known, batch, protocol):
        self.query = query
        return super().compare(query, known, batch, protocol)


@given(data=st.data(), recipe=recipes(), sizes=st.booleans().flatmap(lambda e: sizes(equal=e, classes=True)))
@drawn(40)
def test_vectors_are_those_of_the_network_by_itself(data, recipe, sizes):
    network, tasks = recipe.network(), sizes.tasks(SHAPES[recipe.rows])
    protocol = data.draw(st.sampled_from(recipe.protocols), "protocol")
    learner, batch = Watched(network, protocol=protocol), batch_of(tasks)
    losses = learner(batch)
    with plainly():
        for t, (support_x, _, query_x, _) in enumerate(tasks):
            expected = both(network, {}, support_x, query_x, protocol)
            for ours, mask, theirs in zip(
                (learner.support, learner.query), (batch.support_mask, batch.query_mask), expected, strict=True
            ):
                assert_same(ours[t] if mask is None else ours[t][mask[t]], theirs, f"vectors of task {t}")
        assert_same_losses(losses, proto_losses(network, tasks, protocol), network)


@given(data=st.data(), recipe=recipes(), sizes=st.booleans().flatmap(lambda e: sizes(equal=e)), inner=INNERS)
@drawn(40)
def test_a_converted_network_says_the_same_with_the_same_parameters(data, recipe, sizes, inner):
    row_shape = data.draw(st.sampled_from([None, SHAPES[recipe.rows]]), "row_shape")
    assert_converts(recipe, sizes, inner, data.draw(st.sampled_from(recipe.protocols), "protocol"), row_shape)


# --- Nothing is written into a network. ---


def contents(value):
    """What lies in an attribute: the thing itself, and what it holds if it is a container."""
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple | set) else ()
    return [value, *(found for item in inside for found in contents(item))]


def all_of(module):
    """Everything that a module and those inside it are made of: objects by name, tensors' values and versions."""
    objects, tensors = {}, {}
    for name, layer in module.named_modules():
        for key, value in vars(layer).items():
            objects[name, key] = contents(value)
            for thing in objects[name, key]:
                if isinstance(thing, torch.Tensor):
                    tensors[id(thing)] = thing, thing.detach().clone(), thing._version, thing.requires_grad, thing.grad
    return objects, tensors


def assert_untouched(module, before):
    (objects, tensors), (now, _) = before, all_of(module)
    assert now.keys() == objects.keys()
    for place, things in objects.items():
        assert len(now[place]) == len(things), place
        for a, b in zip(now[place], things, strict=True):
            # What is a number may be another object, but must be the same number.
            assert a is b or (type(a) is type(b) and isinstance(a, int | float | str) and a == b), place
    for thing, value, version, requires_grad, grad in tensors.values():
        assert torch.equal(thing.detach(), value) and thing._version == version
        assert thing.requires_grad is requires_grad and thing.grad is grad


@given(data=st.data(), recipe=recipes(), sizes=st.booleans().flatmap(lambda e: sizes(equal=e, classes=True)))
@drawn(30)
def test_a_network_is_left_as_it_was_whatever_it_is_asked(data, recipe, sizes):
    network, tasks = recipe.network(), sizes.tasks(SHAPES[recipe.rows])
    protocol = data.draw(st.sampled_from(recipe.protocols), "protocol")
    inner = Inner(steps=1)
    learner = data.draw(st.sampled_from(["MAML", "ProtoNet"]), "learner")
    learner = inner.learner(network, protocol) if learner == "MAML" else mk.ProtoNet(network, protocol=protocol)
    before, batch = all_of(learner), batch_of(tasks)
    gradients(learner(batch), network)
    answered = mk.learners.predict(learner, *tasks[0][:3], protocol=protocol)
    if "inductive" in recipe.protocols:
        learner.predict(*tasks[0][:3])
        learner.learn(*tasks[0][:2])(tasks[0][2])
    mk.evaluate(learner, batch, protocol=protocol)
    mk.evaluate(learner, batch, chunk=1)
    Functional(network)({}, batch.query_x, batch.query_mask)
    shadow(network, training=True)
    mk.nn.convert(network)
    wrong = (torch.cat([x, x], -1) for x in (batch.support_x, batch.query_x))
    with contextlib.suppress(RuntimeError, ValueError):  # rows that do not fit: it fails on the way through
        support_x, query_x = wrong
        learner(dataclasses.replace(batch, support_x=support_x, query_x=query_x))
    assert_untouched(learner, before)
    if isinstance(learner, mk.MAML):
        with plainly():
            assert_same(answered, maml_outputs(network, tasks[:1], inner, protocol)[0], "answers")
    untouched = copy.deepcopy(recipe).network()
    assert all(torch.equal(p, q) for p, q in zip(network.parameters(), untouched.parameters(), strict=True))
