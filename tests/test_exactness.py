"""Every meta-gradient agrees with a second route: a closed form, finite differences, a plain loop. All in float64."""

import copy
import itertools

import plain
import pytest
import torch
from torch.func import functional_call

import metakit as mk
from metakit import inner
from metakit.nn import convolution
from metakit.nn.convolution import convolve

TASKS = 3
MODELS = ("mlp", "convnet", "resnet")
NETWORKS = {"mlp": plain.mlp, "convnet": plain.convnet, "resnet": plain.resnet}
SIDE = {"convnet": 9, "resnet": 8}


def make_model(kind):
    torch.manual_seed(0)
    if kind == "mlp":
        return mk.models.MLP(2, [7, 6], 2).double()
    if kind == "resnet":
        return mk.models.ResNet(channels=2, size=SIDE[kind], widths=[8, 16], depths=[1, 1], outputs=3).double()
    model = mk.models.ConvNet(channels=2, size=9, width=4, blocks=2, outputs=3).double()
    with torch.no_grad():  # Some channels with a negative scale: there the smallest pixel wins the pooling.
        for block in model.blocks:
            block.norm.weight.copy_(torch.tensor([1.0, -0.7, 0.4, -1.3]))
            block.norm.bias.uniform_(-0.3, 0.3)
    return model


def make_batch(kind, tasks=TASKS):
    generator = torch.Generator().manual_seed(1)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    if kind == "mlp":
        return mk.TaskBatch(normal(tasks, 5, 2), normal(tasks, 5, 2), normal(tasks, 4, 2), normal(tasks, 4, 2))
    side = SIDE[kind]
    support_y, query_y = torch.arange(6).remainder(3), torch.arange(9).remainder(3)
    return mk.TaskBatch(
        normal(tasks, 6, 2, side, side),
        support_y.expand(tasks, 6),
        normal(tasks, 9, 2, side, side),
        query_y.expand(tasks, 9),
    )


@pytest.fixture(params=["cpu", "gpu"])
def layouts(request, monkeypatch):
    """The layouts and kernels that are chosen on a CPU, and those on a GPU; all run on a CPU too."""
    if request.param == "gpu":
        for module in (convolution, mk.nn.layers, mk.nn.norm, mk.nn.block):
            monkeypatch.setattr(module, "on_gpu", lambda x: True)


def gradient(losses, parameters):
    return torch.autograd.grad(losses.mean(), list(parameters), allow_unused=True)


def assert_same(ours, theirs, tolerance=1e-10):
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def assert_equals_finite_differences(learner, batch, directions=4, h=1e-8):
    """Central differences of the mean loss along random directions, against the gradient's inner product with them.

    Where a ReLU or a pooling switches, the inner gradient jumps and so does the loss: a small h meets few such places.
    """
    parameters = [p for p in learner.parameters() if p.requires_grad]
    grads = gradient(learner(batch), parameters)
    generator = torch.Generator().manual_seed(2)
    for _ in range(directions):
        steps = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in parameters]
        values = []
        for sign in (1, -1):
            moved = copy.deepcopy(learner)
            with torch.no_grad():
                targets = [p for p in moved.parameters() if p.requires_grad]
                for p, step in zip(targets, steps, strict=True):
                    p += sign * h * step
            values.append(moved(batch).mean().item())
        slope = (values[0] - values[1]) / (2 * h)
        predicted = sum((g * s).sum() for g, s in zip(grads, steps, strict=True)).item()
        assert predicted == pytest.approx(slope, rel=1e-5, abs=1e-6)


@pytest.mark.usefixtures("layouts")
@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("kind", MODELS)
def test_second_order_maml_equals_plain_loop_and_finite_differences(kind, steps):
    model, batch = make_model(kind), make_batch(kind)
    learner = mk.MAML(model, rule=mk.SGD(lr=0.1), steps=steps)
    weights = dict(model.named_parameters())
    theirs = plain.maml_losses(NETWORKS[kind], weights, batch, steps=steps, rates=0.1)
    ours = learner(batch)
    assert_same([ours], [theirs])
    assert_same(gradient(ours, weights.values()), gradient(theirs, weights.values()))
    assert_equals_finite_differences(learner, batch)


@pytest.mark.parametrize("kind", MODELS)
def test_first_order_maml_is_the_query_gradient_at_the_adapted_weights(kind):
    model, batch = make_model(kind), make_batch(kind)
    weights = dict(model.named_parameters())
    first = gradient(mk.MAML(model, rule=mk.SGD(lr=0.1), steps=2, order=1)(batch), weights.values())
    total = [torch.zeros_like(w) for w in weights.values()]
    for sx, sy, qx, qy in zip(*batch.tensors, strict=True):
        after = plain.adapted(NETWORKS[kind], weights, sx, sy, steps=2, rates=0.1, second=False)
        after = {name: w.detach().requires_grad_() for name, w in after.items()}
        grads = torch.autograd.grad(plain.loss_of(NETWORKS[kind](after, qx), qy), list(after.values()))
        total = [t + g / TASKS for t, g in zip(total, grads, strict=True)]
    assert_same(first, total)
    second = gradient(mk.MAML(model, rule=mk.SGD(lr=0.1), steps=2)(batch), weights.values())
    assert max((a - b).abs().max() for a, b in zip(first, second, strict=True)) > 1e-3


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_maml_on_a_quadratic_equals_its_closed_form(steps):
    """A linear model has loss (w-a)'A(w-a)/2, so the meta-gradient is (I - lr A)^K times the query gradient at w_K."""
    generator, lr, rows = torch.Generator().manual_seed(3), 0.05, 8
    x = torch.randn(1, rows, 3, generator=generator, dtype=torch.float64)
    y = torch.randn(1, rows, 1, generator=generator, dtype=torch.float64)
    qx = torch.randn(1, rows, 3, generator=generator, dtype=torch.float64)
    qy = torch.randn(1, rows, 1, generator=generator, dtype=torch.float64)
    model = mk.models.MLP(3, [], 1).double()
    parameters = [model.head.weight, model.head.bias]
    ours = gradient(mk.MAML(model, rule=mk.SGD(lr), steps=steps)(mk.TaskBatch(x, y, qx, qy)), parameters)

    def with_one(rows_of_x):
        return torch.cat([rows_of_x[0], torch.ones(rows, 1, dtype=torch.float64)], 1)

    a, b = with_one(x), with_one(qx)
    w = torch.cat([model.head.weight.detach()[0], model.head.bias.detach()])
    hessian = 2 / rows * a.T @ a
    contraction = torch.linalg.matrix_power(torch.eye(4, dtype=torch.float64) - lr * hessian, steps)
    minimum = torch.linalg.solve(hessian, 2 / rows * a.T @ y[0, :, 0])
    adapted = minimum + contraction @ (w - minimum)
    expected = contraction @ (2 / rows * b.T @ (b @ adapted - qy[0, :, 0]))
    torch.testing.assert_close(torch.cat([ours[0][0], ours[1]]), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", MODELS)
def test_anil_adapts_the_head_only(kind):
    model, batch = make_model(kind), make_batch(kind)
    learner = mk.MAML(model, rule=mk.SGD(lr=0.1), steps=3, adapt="head")
    weights, names = dict(model.named_parameters()), ["head.weight", "head.bias"]
    theirs = plain.maml_losses(NETWORKS[kind], weights, batch, steps=3, rates=0.1, names=names)
    assert_same(gradient(learner(batch), weights.values()), gradient(theirs, weights.values()))
    assert_equals_finite_differences(learner, batch)
    assert set(learner.adapt(batch)) == set(names)


@pytest.mark.usefixtures("layouts")
@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("kind", MODELS)
def test_meta_sgd_equals_plain_loop(kind, order):
    model, batch = make_model(kind), make_batch(kind)
    learner = mk.MAML(model, rule=mk.LearnedSGD(lr=0.1), steps=2, order=order)
    with torch.no_grad():
        for rate in learner.rule.parameters():
            rate.uniform_(-0.05, 0.2)
    weights = dict(model.named_parameters())
    rates = {name: learner.rule.rate(name) for name in weights}
    theirs = plain.maml_losses(NETWORKS[kind], weights, batch, steps=2, rates=rates, second=order == 2)
    everything = [*weights.values(), *rates.values()]
    if order == 2:
        assert_same(gradient(learner(batch), everything), gradient(theirs, everything))
        assert_equals_finite_differences(learner, batch)
    else:
        torch.testing.assert_close(learner(batch), theirs)


@pytest.mark.parametrize("rule", [mk.LearnedSGD(0.1, per="tensor", per_step=True), mk.LearnedSGD(0.1, per_step=True)])
def test_rates_per_step_have_their_own_gradients(rule):
    learner = mk.MAML(make_model("mlp"), rule=rule, steps=3)
    batch = make_batch("mlp")
    assert all(len(rate) == 3 for rate in learner.rule.parameters())
    assert_equals_finite_differences(learner, batch)


@pytest.mark.parametrize(
    ("rule", "theirs"),
    [
        (mk.SGD(0.05), lambda p: torch.optim.SGD(p, lr=0.05)),
        (mk.Momentum(0.05, momentum=0.8), lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.8)),
        (mk.RMSProp(0.01, decay=0.9), lambda p: torch.optim.RMSprop(p, lr=0.01, alpha=0.9)),
        (mk.Adam(0.01), lambda p: torch.optim.Adam(p, lr=0.01)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_inner_rules_step_as_torch_optim_does_and_differentiate(rule, theirs):
    model, batch = make_model("mlp"), make_batch("mlp")
    learner = mk.MAML(model, rule=rule, steps=4)
    adapted = learner.adapt(batch)
    for t in range(TASKS):
        alone = copy.deepcopy(model)
        optimizer = theirs(list(alone.parameters()))
        for _ in range(4):
            optimizer.zero_grad()
            ((alone(batch.support_x[t]) - batch.support_y[t]) ** 2).mean().backward()
            optimizer.step()
        for name, p in alone.named_parameters():
            torch.testing.assert_close(adapted[name][t], p, rtol=1e-4, atol=1e-6)  # eps sits elsewhere
    assert_equals_finite_differences(learner, batch)


@pytest.mark.parametrize("kind", MODELS)
def test_reptile_moves_towards_the_mean_of_the_adapted_weights(kind):
    model, batch = make_model(kind), make_batch(kind)
    before = {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters()}
    ends = []
    for sx, sy, qx, qy in zip(*batch.tensors, strict=True):
        x, y = torch.cat([sx, qx]), torch.cat([sy, qy])
        ends.append(plain.adapted(NETWORKS[kind], before, x, y, steps=4, rates=0.1, second=False))
    learner = mk.Reptile(model, rule=mk.SGD(lr=0.1), steps=4)
    torch.optim.SGD(model.parameters(), lr=0.5).zero_grad()
    learner(batch).mean().backward()
    torch.optim.SGD(model.parameters(), lr=0.5).step()
    for name, p in model.named_parameters():
        mean_end = torch.stack([end[name] for end in ends]).mean(0)
        torch.testing.assert_close(p, before[name] + 0.5 * (mean_end - before[name]), rtol=1e-10, atol=1e-10)


def test_protonet_equals_plain_loop_and_finite_differences():
    batch = make_batch("convnet")
    embedding = make_model("convnet")
    embedding.head = torch.nn.Identity()
    learner = mk.ProtoNet(embedding)
    weights = dict(embedding.named_parameters())
    theirs = plain.protonet_losses(plain.features, weights, batch)
    assert_same([learner(batch)], [theirs])
    assert_same(gradient(learner(batch), weights.values()), gradient(theirs, weights.values()))
    assert_equals_finite_differences(learner, batch)


def test_batch_norm_with_vmap_is_where_others_go_wrong_and_ours_does_not():
    """The case in which `torch.func.vmap` over an affine batch norm returned a wrong meta-gradient, silently."""
    torch.manual_seed(4)
    model = mk.models.ConvNet(channels=1, size=8, width=3, blocks=1, outputs=2).double()
    x = torch.randn(2, 4, 1, 8, 8, dtype=torch.float64)
    y = torch.arange(4).remainder(2).expand(2, 4)
    batch = mk.TaskBatch(x, y, x.flip(1), y.flip(1))
    learner = mk.MAML(model, rule=mk.SGD(0.4), steps=1)
    weights = dict(model.named_parameters())
    theirs = plain.maml_losses(plain.convnet, weights, batch, steps=1, rates=0.4)
    assert_same(gradient(learner(batch), weights.values()), gradient(theirs, weights.values()))


@pytest.mark.usefixtures("layouts")
@pytest.mark.parametrize("protocol", mk.learners.PROTOCOLS)
def test_protocols_normalise_the_query_set_as_they_say(protocol):
    model, batch = make_model("convnet"), make_batch("convnet")
    learner = mk.MAML(model, rule=mk.SGD(lr=0.1), steps=2, protocol=protocol)
    *_, ours = learner.outputs(batch)
    rows = batch.support_x.shape[1]
    for t, (sx, sy, qx, _) in enumerate(zip(*batch.tensors, strict=True)):
        after = plain.adapted(plain.convnet, dict(model.named_parameters()), sx, sy, steps=2, rates=0.1)
        if protocol == "transductive":
            expected = plain.convnet(after, qx)
        else:
            alone = [plain.convnet(after, torch.cat([sx, q[None]]), statistics_rows=rows)[rows:] for q in qx]
            expected = torch.cat(alone)
        torch.testing.assert_close(ours[t], expected)
    assert_equals_finite_differences(learner, batch)


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("adapt", [None, "head"])
@pytest.mark.parametrize("order", [1, 2])
def test_chunks_change_nothing_but_memory(kind, adapt, order):
    batch = make_batch(kind, tasks=5)
    weights = []
    for chunk in (1, 2, 5):
        learner = mk.MAML(make_model(kind), rule=mk.LearnedSGD(lr=0.1), steps=2, adapt=adapt, order=order)
        optimizer = torch.optim.SGD(learner.parameters(), lr=0.1)
        mk.outer.OuterStep(learner, optimizer, chunk=chunk)(batch)
        weights.append([p.detach() for p in learner.parameters()])
    assert_same(weights[0], weights[1], 1e-12)
    assert_same(weights[0], weights[2], 1e-12)


@pytest.mark.parametrize("adapt", [None, "head"])
@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("kind", MODELS)
def test_query_sets_judged_a_few_at_a_time_give_the_whole_gradient(kind, adapt, order, monkeypatch):
    batch = make_batch(kind, tasks=5)
    learner = mk.MAML(make_model(kind), rule=mk.LearnedSGD(lr=0.1), steps=2, adapt=adapt, order=order)
    parameters, weighed = list(learner.parameters()), torch.arange(1.0, 6.0, dtype=torch.float64)
    found = []
    for size in (None, 2):
        monkeypatch.setattr("metakit.learners.gradient.chunk_size", lambda *inputs, size=size: size)
        losses = learner(batch)
        first = gradient(losses, parameters)
        unequal = torch.autograd.grad(learner(batch) @ weighed, parameters, allow_unused=True)
        again = torch.autograd.grad(learner(batch).mean(), parameters, create_graph=True, allow_unused=True)
        norm = sum(grad.square().sum() for grad in again if grad is not None)
        found.append([losses.detach(), *first, *unequal, *torch.autograd.grad(norm, parameters, allow_unused=True)])
    assert_same(*found, 1e-12)


PLAIN_LAYERS = {
    "layer norm": lambda: [torch.nn.Linear(2, 6), torch.nn.LayerNorm(6), torch.nn.Tanh(), torch.nn.Linear(6, 2)],
    "batch norm": lambda: [
        torch.nn.Linear(2, 6),
        torch.nn.BatchNorm1d(6, track_running_stats=False),
        torch.nn.Linear(6, 2),
    ],
    "mixed": lambda: [mk.nn.Linear(2, 6), torch.nn.PReLU(), torch.nn.Linear(6, 2)],
}


@pytest.mark.parametrize("layers", PLAIN_LAYERS.values(), ids=PLAIN_LAYERS.keys())
def test_a_module_of_plain_torch_layers_is_handled_exactly(layers):
    torch.manual_seed(5)
    learner = mk.MAML(torch.nn.Sequential(*layers()).double(), rule=mk.SGD(0.1), steps=2)
    assert not mk.inner.can_stack(learner.model)
    assert_equals_finite_differences(learner, make_batch("mlp"))


def test_a_flattening_module_is_not_mistaken_for_one_that_knows_tasks():
    torch.manual_seed(6)
    model = torch.nn.Sequential(mk.nn.ConvBlock(2, 3), torch.nn.Flatten(), mk.nn.Linear(48, 3)).double()
    ours = torch.nn.Sequential(model[0], mk.nn.Flatten(), model[2])
    assert mk.inner.can_stack(ours) and not mk.inner.can_stack(model)
    batch = make_batch("convnet")
    torch.testing.assert_close(mk.MAML(model, steps=2)(batch), mk.MAML(ours, steps=2)(batch))


def test_layers_equal_torch_when_weights_are_not_stacked():
    torch.manual_seed(7)
    x = torch.randn(4, 2, 9, 7, dtype=torch.float64)
    pairs = [
        (mk.nn.Linear(7, 3), torch.nn.Linear(7, 3)),
        (mk.nn.Conv2d(2, 3, 3, stride=2, padding=1), torch.nn.Conv2d(2, 3, 3, stride=2, padding=1)),
        (mk.nn.Conv2d(2, 3, 1), torch.nn.Conv2d(2, 3, 1)),
        (mk.nn.BatchNorm2d(2), torch.nn.BatchNorm2d(2, track_running_stats=False)),
        (mk.nn.GroupNorm(1, 2), torch.nn.GroupNorm(1, 2)),
    ]
    for ours, theirs in pairs:
        ours, theirs = ours.double(), theirs.double()
        theirs.load_state_dict(ours.state_dict())
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-12, atol=1e-12)
        assert_same(gradient(ours(x).sin(), ours.parameters()), gradient(theirs(x).sin(), theirs.parameters()))


@pytest.mark.parametrize("stacked", [False, True])
def test_group_norm_of_bfloat16_is_that_of_float32_rounded_once(stacked):
    torch.manual_seed(7)
    x = (3 + torch.randn(2, 4, 8, 5, 5)).bfloat16()
    weight, bias = torch.randn(2, 2, 8).unbind(0)
    norm = mk.nn.GroupNorm(2, 8)
    each = [torch.nn.functional.group_norm(x[t].float(), 2, weight[t], bias[t], norm.eps) for t in range(2)]
    if stacked:
        ours = mk.inner.run(norm, {"weight": weight, "bias": bias}, x)
    else:
        ours = torch.stack([mk.inner.run(norm, {"weight": weight[t], "bias": bias[t]}, x[t]) for t in range(2)])
    torch.testing.assert_close(ours, torch.stack(each).bfloat16(), rtol=2**-7, atol=1e-5)


@pytest.mark.usefixtures("layouts")
@pytest.mark.parametrize("pixels", [True, False], ids=["of pixels too", "of weights alone"])
@pytest.mark.parametrize("rows", [4, 2])
@pytest.mark.parametrize("shape", [(9, 9), (8, 6), (2, 3)])
def test_the_fused_block_is_exact_to_the_third_derivative(shape, rows, pixels):
    torch.manual_seed(8)
    block = mk.nn.ConvBlock(2, 3).double()
    with torch.no_grad():
        block.norm.weight.copy_(torch.tensor([1.0, -0.7, 0.3]))
        block.norm.bias.uniform_(-0.3, 0.3)
    weights = {f"b.{name}": p for name, p in block.named_parameters()}
    x = 0.5 + torch.randn(4, 2, *shape, dtype=torch.float64).requires_grad_(pixels)
    inputs = [x, *weights.values()] if pixels else [*weights.values()]

    def output(*_):
        with mk.nn.statistics_from_first(rows):
            return block(x)

    assert torch.autograd.gradcheck(output, inputs)
    assert torch.autograd.gradgradcheck(output, inputs)

    def third(y):
        for _ in range(2):
            y = torch.autograd.grad(y.sin().sum(), inputs, create_graph=True)
            y = torch.cat([part.flatten() for part in y])
        return torch.autograd.grad(y.sin().sum(), inputs)

    assert_same(third(output()), third(plain.block(weights, "b", x, rows)), 1e-9)


@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("stacked", [True, False])
def test_the_block_of_pictures_is_the_block_of_anything(stacked, channels):
    torch.manual_seed(10)
    x = 0.5 + torch.randn(3, 5, channels, 7, 6)
    x[0] = 0.5  # no ink: nothing varies but at the margin
    tasks = (3,) if stacked else ()
    weight, gamma, beta = torch.randn(*tasks, 4, channels, 3, 3), torch.randn(*tasks, 4), torch.randn(*tasks, 4)
    inputs = [w.double().requires_grad_() for w in (weight, gamma, beta)]

    def both(x):
        convolved = convolve(x, inputs[0], 1, 1) if stacked else each(x, inputs[0])
        general = mk.nn.block.norm_relu_pool(convolved, *inputs[1:], 1e-5)
        return mk.nn.block.convolve_norm_relu_pool(x, *inputs, 1e-5), general

    def each(x, weight):
        return torch.nn.functional.conv2d(x.flatten(0, 1), weight, padding=1).unflatten(0, x.shape[:2])

    ours, general = both(x.double())
    torch.testing.assert_close(ours, general, rtol=1e-9, atol=1e-9)
    first = [torch.autograd.grad(y.sin().sum(), inputs, create_graph=True) for y in (ours, general)]
    assert_same(*first, 1e-9)
    assert_same(*[torch.autograd.grad(sum(g.sin().sum() for g in grads), inputs) for grads in first], 1e-9)
    single = mk.nn.block.convolve_norm_relu_pool(x, weight, gamma, beta, 1e-5)
    torch.testing.assert_close(single.double(), ours, rtol=1e-4, atol=1e-4)


def test_where_gamma_is_zero_the_block_of_pictures_has_the_gradient_that_torch_gives():
    torch.manual_seed(11)
    block = mk.nn.ConvBlock(1, 2).double()
    weights = {f"b.{name}": p for name, p in block.named_parameters()}
    with torch.no_grad():
        block.norm.weight.zero_()
        block.norm.bias.fill_(0.5)
    x = torch.randn(3, 1, 6, 6, dtype=torch.float64)
    ours, theirs = block(x), plain.block(weights, "b", x, 3)
    assert_same(gradient(ours.sin(), block.parameters()), gradient(theirs.sin(), block.parameters()))
    assert gradient(block(x), [block.norm.weight])[0].abs().min() > 1e-3


@pytest.mark.usefixtures("layouts")
def test_stacked_convolution_is_exact_to_the_second_derivative():
    torch.manual_seed(9)
    x = torch.randn(2, 3, 2, 5, 5, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 4, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    for stride, padding in ((1, 1), (2, 0)):
        inputs = (x, weight)
        assert torch.autograd.gradcheck(lambda a, b, s=stride, p=padding: convolve(a, b, s, p), inputs)
        assert torch.autograd.gradgradcheck(lambda a, b, s=stride, p=padding: convolve(a, b, s, p), inputs)


@pytest.mark.usefixtures("layouts")
@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_winners_are_found_and_put_back_however_they_lie_in_memory(order):
    torch.manual_seed(11)
    sizes = 2, 3, 4
    x = torch.randn(*(sizes[dim] for dim in order), 6, 7, dtype=torch.float64)
    x = x.permute(*(order.index(dim) for dim in range(3)), 3, 4).requires_grad_()
    expected = torch.stack([torch.nn.functional.max_pool2d(task, 2) for task in x])
    largest, index = convolution.pool(x.detach())
    assert torch.equal(largest, expected)
    assert torch.equal(convolution.gather(x.detach(), index), expected)
    values = torch.randn_like(expected)
    (back,) = torch.autograd.grad(expected, x, values)
    assert torch.equal(convolution.scatter(values, x.shape, index), back)


@pytest.mark.usefixtures("layouts")
@pytest.mark.parametrize("wanted", [(0,), (1,), (0, 1)])
def test_gradients_of_a_stacked_convolution_are_exact_to_their_second_derivative(wanted):
    torch.manual_seed(10)
    x = torch.randn(2, 2, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 1, 2, 3, 3, dtype=torch.float64, requires_grad=True)

    def gradients(*inputs):
        total = convolve(*inputs, 1, 1).sin().sum()
        return torch.autograd.grad(total, [inputs[i] for i in wanted], create_graph=True)

    assert torch.autograd.gradcheck(gradients, (x, weight))
    assert torch.autograd.gradgradcheck(gradients, (x, weight))


def test_weights_are_lent_to_every_place_of_a_tied_parameter_and_given_back():
    model = torch.nn.Sequential(mk.nn.Linear(3, 3), mk.nn.Linear(3, 3), mk.nn.Linear(3, 3)).double()
    model[2].weight = model[0].weight
    x = torch.randn(2, 4, 3, dtype=torch.float64)
    for _ in range(2):
        model[1] = mk.nn.Linear(3, 3).double()
        own = dict(model.named_parameters())
        weights = {name: torch.randn(2, *p.shape, dtype=torch.float64) for name, p in own.items()}
        expected = torch.stack([functional_call(model, {n: w[t] for n, w in weights.items()}, x[t]) for t in (0, 1)])
        torch.testing.assert_close(inner.run(model, weights, x), expected)
        assert all(p is own[name] for name, p in model.named_parameters())
