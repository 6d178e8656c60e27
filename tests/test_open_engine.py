"""The engine open to what people bring: their networks, learners, losses, tasks and threads."""

import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import plain
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import metakit as mk
from metakit.nn.lending import Functional

SINUSOIDS = mk.tasks.Sinusoids(shots=6, queries=5)


def fit(learner, tasks=SINUSOIDS, **options):
    return mk.fit(learner, tasks, **({"steps": 5, "meta_batch": 4, "progress": False} | options))


def vector(module):
    return nn.utils.parameters_to_vector(module.parameters()).detach().clone()


def image_tasks(size=8, ways=3, shots=1, queries=2, **options):
    x = torch.rand(24, 1, size, size, generator=torch.Generator().manual_seed(0))
    return mk.tasks.Episodes((x, torch.arange(24) % 4), ways, shots, queries, **options)


# --- What is trained is forward, and nothing else. ---


class Shifted(mk.MAML):
    """A learner whose loss is another one than its parts suggest."""

    def forward(self, batch):
        return super().forward(batch) + 1000


@pytest.mark.parametrize("chunk", [None, 1, 2])
def test_fit_trains_the_forward_of_the_learner_whatever_the_chunk(chunk):
    torch.manual_seed(0)
    learner = Shifted(mk.models.ConvNet(size=28, width=2, outputs=3), rule=mk.SGD(0.1))
    tasks = image_tasks(28, shots=2, queries=3)
    losses = fit(learner, tasks, steps=2, meta_batch=6, chunk=chunk).loss
    assert all(1000 < loss < 1010 for loss in losses)


def test_a_learner_with_a_forward_alone_is_judged_by_its_loss_and_labelled_so():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.zeros(1))

        def forward(self, batch):
            return (batch.query_y - self.w).square().mean((1, 2))

        def predict(self, support_x, support_y, query_x):
            return self.w.expand(len(query_x), 1)

    own = Own()
    assert fit(own).steps == 5
    result = mk.evaluate(own, SINUSOIDS, n_tasks=10)
    assert result.measure.name == "loss" and result.accuracy is None and result.protocol == "unstated"
    compared = mk.compare({"own": own, "maml": mk.MAML(mk.models.MLP(1, [4], 1))}, SINUSOIDS, n_tasks=10, seeds=1)
    assert str(compared.measure) == "loss" and compared.protocol == "unstated" and "(%)" not in str(compared)


def test_a_learner_of_accuracy_beside_one_of_loss_alone_is_compared_by_loss():
    class Own(nn.Module):
        def forward(self, batch):
            return torch.ones(len(batch))

    compared = mk.compare({"own": Own(), "near": mk.NearestNeighbour()}, image_tasks(), n_tasks=4, seeds=1)
    assert str(compared.measure) == "loss" and compared.mean("own")[0] == 1


# --- Threads, modes, randomness. ---

THREADED = {
    "plain": lambda: mk.MAML(nn.Sequential(nn.Linear(1, 16), nn.Tanh(), nn.Linear(16, 1)), steps=3),
    "stacked": lambda: mk.MAML(mk.models.MLP(1, [16], 1), steps=3),
    "dropout": lambda: mk.MAML(nn.Sequential(mk.nn.Linear(1, 16), nn.Dropout(0.5), mk.nn.Linear(16, 1)), steps=2),
}


@pytest.mark.parametrize("make", THREADED.values(), ids=THREADED)
def test_threads_share_a_learner_that_is_trained_meanwhile_elsewhere(make):
    torch.manual_seed(0)
    learner, batch = make(), SINUSOIDS.sample(1, seed=1)
    task = [tensor[0] for tensor in batch.tensors[:3]]
    told = learner.predict(*task)
    other = mk.MAML(learner.model, steps=1)
    frozen = {name: tensor.clone() for name, tensor in learner.state_dict().items()}
    quiet = fit(make_like(other), steps=8).loss
    with ThreadPoolExecutor(3) as pool:
        training = pool.submit(fit, make_like(other), steps=8)
        answers = [pool.submit(learner.predict, *task) for _ in range(60)]
        assert all(torch.equal(told, answer.result()) for answer in answers)
        assert training.result().loss == quiet
    assert torch.equal(told, learner.predict(*task)) and learner.training
    assert all(torch.equal(tensor, frozen[name]) for name, tensor in learner.state_dict().items())


def make_like(learner):
    import copy

    return copy.deepcopy(learner)


def test_predictions_while_the_same_learner_trains_leave_the_run_as_it_is():
    def train(asked):
        torch.manual_seed(0)
        learner = THREADED["dropout"]()
        task = [tensor[0] for tensor in SINUSOIDS.sample(1, seed=1).tensors[:3]]
        with ThreadPoolExecutor(2) as pool:
            training = pool.submit(fit, learner, steps=30)
            while asked and not training.done():
                assert torch.isfinite(learner.predict(*task)).all()
                mk.evaluate(learner, SINUSOIDS, n_tasks=2)
        return training.result().loss, vector(learner)

    (quiet, weights), (busy, others) = train(False), train(True)
    assert quiet == busy and torch.equal(weights, others)


def test_judging_is_done_in_evaluation_mode_and_leaves_the_mode():
    learner = THREADED["dropout"]()
    fit(learner)
    task = [tensor[0] for tensor in SINUSOIDS.sample(1, seed=7).tensors[:3]]
    assert learner.training and torch.equal(learner.predict(*task), learner.predict(*task))
    results = [mk.evaluate(learner, SINUSOIDS, n_tasks=20).loss for _ in range(2)]
    assert torch.equal(*results) and learner.training and learner.model[1].training
    learner.eval()
    assert torch.equal(mk.evaluate(learner, SINUSOIDS, n_tasks=20).loss, results[0]) and not learner.training


def test_one_seed_is_one_run_dropout_masks_included():
    def run(noise):
        torch.manual_seed(0)
        learner = THREADED["dropout"]()
        torch.manual_seed(noise)
        return fit(learner, seed=3).loss

    assert run(1) == run(2)
    before = torch.get_rng_state()
    run(1)
    torch.manual_seed(1)
    drawn = torch.rand(1)
    torch.manual_seed(1)
    fit(THREADED["dropout"]())
    assert before is not None and drawn.shape == (1,)


# --- Frozen layers. ---


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_frozen_layer_stays_where_it_is_inside_and_outside(order, when):
    net = mk.models.MLP(1, [8, 8], 1)
    if when == "before":
        net.linear1.requires_grad_(False)
    learner = mk.MAML(net, rule=mk.SGD(lr=0.05), steps=2, order=order)
    net.linear1.requires_grad_(False)
    start = net.linear1.weight.clone()
    moved = net.head.weight.clone()
    fit(learner)
    adapted = learner.adapt(SINUSOIDS.sample(3, seed=0))
    assert torch.equal(net.linear1.weight, start) and not torch.equal(net.head.weight, moved)
    assert torch.equal(adapted["linear1.weight"].detach(), start.expand(3, 8, 1))
    assert not torch.equal(adapted["head.weight"][0], net.head.weight)


@pytest.mark.parametrize("kind", [mk.FineTune, mk.Reptile])
def test_a_frozen_layer_stays_in_the_other_learners_too(kind):
    net = mk.models.MLP(1, [8, 8], 1)
    net.linear2.requires_grad_(False)
    learner, start = kind(net, steps=3), net.linear2.weight.clone()
    fit(learner)
    assert torch.equal(net.linear2.weight, start)
    batch = SINUSOIDS.sample(2, seed=0)
    known = learner.know(batch, None)
    assert "linear2.weight" not in known or torch.equal(known["linear2.weight"].detach(), start.expand(2, 8, 8))
    assert not torch.equal(known["linear1.weight"][0], net.linear1.weight)


def test_nothing_left_to_adapt_is_said():
    net = mk.models.MLP(1, [4], 1)
    learner = mk.MAML(net)
    net.requires_grad_(False)
    batch = SINUSOIDS.sample(1, seed=0)
    with pytest.raises(ValueError, match=r"all that would adapt is frozen .*requires_grad_\(\)"):
        learner.adapt(batch)
    with pytest.raises(ValueError, match="frozen"):
        mk.MAML(net)


# --- Any network, in every learner. ---


class Unit(nn.Module):
    """It names a dimension: torch's default, the second."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 8)

    def forward(self, x):
        return F.normalize(self.layer(x))


class Words(nn.Module):
    """Token numbers, read one after the other."""

    def __init__(self):
        super().__init__()
        self.table, self.reader = nn.Embedding(10, 6), nn.GRU(6, 5, batch_first=True)

    def forward(self, x):
        return self.reader(self.table(x))[1][0]


def torch_cnn():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))


def attention():
    layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True)
    return nn.Sequential(nn.Linear(4, 4), nn.Unflatten(1, (1, 4)), layer, nn.Flatten(1))


def vectors():
    return mk.TaskBatch(*rows(lambda *shape: torch.randn(*shape, 4, generator=torch.Generator().manual_seed(1))))


def rows(make):
    support_y, query_y = torch.arange(6).remainder(3).expand(2, 6), torch.arange(5).remainder(3).expand(2, 5)
    return make(2, 6), support_y, make(2, 5), query_y


def batch_for(name):
    if name == "words":
        return mk.TaskBatch(*rows(lambda *shape: torch.randint(10, (*shape, 3))))
    if name == "pictures":
        return mk.TaskBatch(*rows(lambda *shape: torch.rand(*shape, 1, 8, 8)))
    return vectors()


NETWORKS = {"unit": Unit, "words": Words, "pictures": torch_cnn, "attention": attention}


@pytest.mark.parametrize("kind", [mk.ProtoNet, mk.Matching, mk.Ridge])
@pytest.mark.parametrize("name", NETWORKS)
def test_an_embedding_says_what_it_says_by_itself(name, kind):
    torch.manual_seed(0)
    network, batch = NETWORKS[name](), batch_for(name)
    learner = kind(network)
    seen = []
    learner.compare, compare = lambda query, *rest: (seen.append(query), compare(query, *rest))[1], learner.compare
    assert learner(batch).shape == (2,)
    with torch.no_grad():
        expected = torch.stack([network(x) for x in batch.query_x])
    torch.testing.assert_close(seen[0].detach(), expected)
    del learner.compare
    task = [tensor[0] for tensor in batch.tensors[:3]]
    with torch.no_grad():
        torch.testing.assert_close(learner.predict(*task)[:1], learner.predict(*task[:2], task[2][:1]))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_base_learner_of_plain_layers_adapts_as_a_plain_loop_does(name):
    torch.manual_seed(0)
    network, batch = NETWORKS[name](), batch_for(name)
    names = [n for n, _ in network.named_parameters()]
    learner = mk.MAML(network, rule=mk.SGD(0.1), steps=2)

    def call(weights, x):
        return torch.func.functional_call(network, weights, (x,))

    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        expected = plain.maml_losses(call, dict(network.named_parameters()), batch, steps=2, rates=0.1, names=names)
        theirs = torch.autograd.grad(expected.mean(), list(network.parameters()), allow_unused=True)
    losses = learner(batch)
    torch.testing.assert_close(losses, expected)
    ours = torch.autograd.grad(losses.mean(), list(network.parameters()), allow_unused=True)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def pretrained():
    network = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3))
    network(torch.randn(50, 4) * 3 + 1)  # statistics of some other data
    return network.eval()


@pytest.mark.parametrize("make", [mk.MAML, mk.ProtoNet, mk.FineTune], ids=lambda kind: kind.__name__)
def test_batch_norm_with_statistics_of_its_own_is_a_fixed_layer(make):
    torch.manual_seed(0)
    network = pretrained()
    if make is mk.FineTune:
        network.head = nn.Linear(3, 3)
    learner, batch = make(network), vectors()
    buffers = {name: b.clone() for name, b in network.named_buffers()}
    (first, *_) = learner.outputs(batch, 0)
    if make is mk.MAML:
        torch.testing.assert_close(first.detach(), torch.stack([network(x) for x in batch.query_x]).detach())

    class Fixed:
        def sample(self, n_tasks, *, generator=None, device=None):
            return batch

    fit(learner, Fixed(), steps=3)
    assert not network[1].training and learner.training
    assert all(torch.equal(b, buffers[name]) for name, b in network.named_buffers())
    task = [tensor[0] for tensor in batch.tensors[:3]]
    torch.testing.assert_close(learner.predict(*task)[:1], learner.predict(*task[:2], task[2][:1]))
    with pytest.raises(ValueError, match=r"layer '1' \(BatchNorm1d\) keeps running statistics.*\.eval\(\)"):
        make(pretrained().train())


def test_a_layer_that_writes_into_its_buffers_as_it_answers_is_named():
    learner = mk.ProtoNet(pretrained())
    learner.train()  # by hand: fit would leave the fixed layer alone
    with pytest.raises(ValueError, match=r"layer '1' \(BatchNorm1d\) writes into its buffer"):
        learner(vectors())
    spectral = nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(4, 3)))
    with pytest.raises(ValueError, match=r"writes into its buffer"):
        mk.MAML(spectral)(vectors())


def old_weight_norm(layer):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.utils.weight_norm(layer)


NORMED = {
    "weight_norm, by a hook": old_weight_norm,
    "weight_norm": nn.utils.parametrizations.weight_norm,
    "spectral_norm": nn.utils.parametrizations.spectral_norm,
    "spectral_norm, by a hook": nn.utils.spectral_norm,
}


@pytest.mark.parametrize("norm", NORMED.values(), ids=NORMED)
def test_layers_with_hooks_and_parametrisations_say_what_they_say_by_themselves(norm):
    torch.manual_seed(0)
    network = nn.Sequential(norm(mk.nn.Linear(4, 6)), nn.Tanh(), norm(mk.nn.Linear(6, 3))).eval()
    batch = vectors()
    learner = mk.MAML(network, steps=1, rule=mk.SGD(0.1))
    untouched, stepped = learner.outputs(batch)
    torch.testing.assert_close(untouched.detach(), torch.stack([network(x) for x in batch.query_x]).detach())
    alone = torch.cat([list(learner.outputs(batch[t]))[1] for t in range(2)])
    torch.testing.assert_close(stepped, alone)
    assert not torch.allclose(stepped, untouched) and torch.isfinite(stepped).all()


def test_a_network_that_holds_its_layers_in_a_plain_list_gets_the_weights_too():
    class Listed(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 5), nn.Linear(5, 3)
            self.order = [self.a, torch.tanh, self.b]
            self.again = {"b": (self.b, 1)}
            self.call = self.middle

        def middle(self, x):
            return self.a(x)

        def forward(self, x):
            return self.again["b"][0](self.order[1](self.call(x))) + self.order[2](self.order[1](self.order[0](x)))

    network, batch = Listed(), vectors()
    weights = {name: torch.randn(2, *p.shape) for name, p in network.named_parameters()}
    ours = Functional(network)(weights, batch.query_x)
    for t in range(2):
        one = {name: w[t] for name, w in weights.items()}
        a, b = (lambda x, n=n, one=one: F.linear(x, one[f"{n}.weight"], one[f"{n}.bias"]) for n in "ab")
        torch.testing.assert_close(ours[t], 2 * b(torch.tanh(a(batch.query_x[t]))))


def test_a_network_that_hides_its_weights_in_a_function_is_refused():
    class Hidden(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 3)
            self.call = lambda x: self.layer(x)

        def forward(self, x):
            return self.call(x)

    with pytest.raises(ValueError, match=r"keeps a function that holds the network's own weights.*method"):
        mk.MAML(Hidden())(vectors())


class Box:
    def __init__(self, held):
        self.held = held


@pytest.mark.parametrize(
    "hide",
    [lambda m: Box(m), lambda m: Box([m]), lambda m: lambda x, layer=m: layer(x), lambda m: (m.weight, m.bias)],
    ids=["an object", "a list in one", "a default", "a tuple of parameters"],
)
def test_weights_hidden_elsewhere_are_refused_too(hide):
    network = nn.Sequential(nn.Linear(4, 3))
    network.hidden = hide(network[0])
    with pytest.raises(ValueError, match="that holds the network's own weights"):
        mk.MAML(network)(vectors())


def test_a_dictionary_that_two_modules_share_is_one_and_nothing_is_written_into_the_networks_own():
    class Noted(nn.Module):
        def __init__(self, notes):
            super().__init__()
            self.layer, self.notes = nn.Linear(4, 4), notes

        def forward(self, x):
            self.notes["seen"] = self.notes.get("seen", 0) + self.layer(x)
            return self.notes["seen"]

    notes = {}
    network = nn.Sequential(Noted(notes), Noted(notes))
    network[1].notes = network[0].notes = notes
    x = torch.randn(1, 3, 4)
    answer = Functional(network)({}, x)[0]
    assert notes == {}
    torch.testing.assert_close(answer, network(x[0]))


def test_weight_or_bias_alone_may_be_stacked():
    x = torch.randn(2, 3, 2, 4, 4)
    for layer in (mk.nn.Conv2d(2, 4, 3), mk.nn.GroupNorm(1, 2)):
        for name, p in layer.named_parameters():
            weights = {name: torch.randn(2, *p.shape)}
            ours = Functional(layer)(weights, x)
            for t in range(2):
                alone = torch.func.functional_call(layer, {name: weights[name][t]}, (x[t],))
                torch.testing.assert_close(ours[t], alone)


def test_group_norm_behind_a_frozen_convolution_trains():
    network = nn.Sequential(mk.nn.Conv2d(1, 4, 3), mk.nn.GroupNorm(2, 4), mk.nn.Flatten())
    network[0].requires_grad_(False)
    assert fit(mk.ProtoNet(network), image_tasks(), steps=2).steps == 2


def test_a_head_that_is_tied_to_another_layer_adapts_with_it():
    network = nn.Sequential(mk.nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
    network[2].weight = network[0].weight
    assert set(mk.MAML(network, adapt="2").adapted) == {"0.weight", "2.bias"}


def test_a_recurrent_layer_by_itself_is_told_what_to_do():
    with pytest.raises(TypeError, match=r"must return a tensor.*got tuple from GRU.*Wrap it"):
        mk.MAML(nn.GRU(4, 3))(vectors())


def test_features_as_they_are_are_judged_though_there_is_nothing_to_train():
    learner = mk.ProtoNet(nn.Identity())
    tasks = mk.tasks.Episodes((torch.randn(30, 4), torch.arange(30) % 3), 3, 2, 3)
    assert mk.evaluate(learner, tasks, n_tasks=5).accuracy.shape == (5, 1)
    with pytest.raises(ValueError, match="no parameters to train"):
        fit(learner, tasks)


def test_pictures_that_are_not_square_and_odd_ones_are_learned_from():
    x, y = torch.rand(12, 1, 12, 20), torch.arange(12) % 3
    tasks = mk.tasks.Episodes((x, y), 3, 1, 2)
    network = mk.models.ConvNet(size=(12, 20), width=4, blocks=2, outputs=3)
    assert fit(mk.MAML(network), tasks, steps=2).steps == 2
    assert mk.models.ResNet(size=105, widths=[8, 8], depths=[0, 0])(torch.rand(2, 1, 105, 105)).shape[0] == 2


def test_a_plain_network_on_many_tasks_gives_one_hint(caplog):
    class Mine(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(1, 1)

        def forward(self, x):
            return self.layer(x)

    learner = mk.MAML(Mine())
    with caplog.at_level("WARNING", logger="metakit"):
        for _ in range(2):
            learner(SINUSOIDS.sample(9, seed=0))
    assert len(caplog.records) == 1 and "mk.nn.convert" in caplog.text and "Linear" in caplog.text


# --- Losses. ---


@pytest.mark.parametrize(
    "loss",
    [F.smooth_l1_loss, nn.SmoothL1Loss(), lambda o, t: F.smooth_l1_loss(o, t), lambda o, t: (o - t).abs().mean((1, 2))],
    ids=["function", "module", "lambda", "per task"],
)
@pytest.mark.parametrize("where", ["loss", "inner_loss"])
def test_four_tasks_together_are_four_one_by_one_by_any_loss(loss, where):
    torch.manual_seed(0)
    learner = mk.MAML(mk.models.MLP(1, [8], 1), steps=2, rule=mk.SGD(lr=0.05), **{where: loss})
    batch = SINUSOIDS.sample(4, seed=0)
    torch.testing.assert_close(learner(batch), torch.cat([learner(batch[t]) for t in range(4)]))
    together = mk.learners.predict(learner, *batch.tensors[:3])
    alone = torch.cat([mk.learners.predict(learner, *batch[t].tensors[:3]) for t in range(4)])
    torch.testing.assert_close(together, alone)
    assert fit(learner).steps == 5


@pytest.mark.parametrize("rows_of_query", [3, 5])
def test_a_torch_loss_of_classes_is_taken_task_by_task(rows_of_query):
    """Side by side, three rows of three classes would be read as something else, without a word."""
    torch.manual_seed(0)
    loss = nn.CrossEntropyLoss(label_smoothing=0.1)
    outputs, targets = torch.randn(4, rows_of_query, 3), torch.randint(3, (4, rows_of_query))
    expected = torch.stack([loss(o, t) for o, t in zip(outputs, targets, strict=True)])
    for given in (loss, lambda o, t: F.cross_entropy(o, t, label_smoothing=0.1)):
        torch.testing.assert_close(mk.inner.task_losses(given, outputs, targets), expected)


def test_an_inner_loss_may_differ_from_the_outer_one():
    torch.manual_seed(0)
    batch = SINUSOIDS.sample(3, seed=0)
    network = mk.models.MLP(1, [8], 1)
    learner = mk.MAML(network, rule=mk.SGD(0.1), inner_loss=F.l1_loss)
    weights = dict(network.named_parameters())
    expected = []
    for sx, sy, qx, qy in zip(*batch.tensors, strict=True):
        grads = torch.autograd.grad(F.l1_loss(plain.mlp(weights, sx), sy), list(weights.values()))
        after = {n: w - 0.1 * g for (n, w), g in zip(weights.items(), grads, strict=True)}
        expected.append(F.mse_loss(plain.mlp(after, qx), qy))
    torch.testing.assert_close(learner(batch), torch.stack(expected))


def test_inner_steps_on_minibatches_go_through_the_support_set():
    torch.manual_seed(0)
    batch, network = SINUSOIDS.sample(2, seed=0), mk.models.MLP(1, [8], 1)
    learner = mk.MAML(network, rule=mk.SGD(0.1), steps=4, minibatch=2)
    for t, (sx, sy, _, _) in enumerate(zip(*batch.tensors, strict=True)):
        weights = dict(network.named_parameters())
        for k in range(4):  # six rows, two at a time: every third one
            loss = F.mse_loss(plain.mlp(weights, sx[k % 3 :: 3]), sy[k % 3 :: 3])
            grads = torch.autograd.grad(loss, list(weights.values()))
            weights = {n: w - 0.1 * g for (n, w), g in zip(weights.items(), grads, strict=True)}
        for name, w in learner.adapt(batch).items():
            torch.testing.assert_close(w[t], weights[name])


def test_a_model_of_too_few_outputs_is_told():
    learner = mk.MAML(nn.Sequential(nn.Linear(4, 2)))
    with pytest.raises(ValueError, match=r"a class is beyond the 2 outputs"):
        learner(vectors())


# --- Rules. ---


def test_rules_compose_and_are_exact_to_second_order():
    torch.manual_seed(0)
    batch = SINUSOIDS.sample(3, seed=0).to(dtype=torch.float64)
    network = mk.models.MLP(1, [4], 1, activation="tanh").double()
    learner = mk.MAML(network, rule=mk.Decayed(mk.Clipped(mk.SGD(0.3), norm=0.5), decay=0.1), steps=2)

    def losses(*values):
        from metakit.nn.lending import lent

        names = [n for n, _ in learner.named_parameters()]
        return lent(learner, dict(zip(names, values, strict=True)))(batch)

    values = [p.detach().clone().requires_grad_() for p in learner.parameters()]
    assert torch.autograd.gradcheck(losses, values, atol=1e-6)
    weights = learner.adapt(batch, 1)
    start = dict(network.named_parameters())
    moves = torch.stack([(weights[n] - start[n]).square().flatten(1).sum(1) for n in start]).sum(0).sqrt()
    assert (moves <= 0.3 * 0.5 + 1e-9).all() and moves.max() > 0.3 * 0.5 - 1e-6


def test_a_rule_that_learns_rates_is_the_learners_own_rule_once():
    rule = mk.LearnedSGD()
    first, second = (mk.MAML(mk.models.MLP(1, [4], 1), rule=rule) for _ in range(2))
    assert first.rule is rule and second.rule is not rule
    assert second.rule.rates.keys() == rule.rates.keys()
    assert not any(a is b for a, b in zip(first.rule.parameters(), second.rule.parameters(), strict=True))
    around = mk.Clipped(mk.LearnedSGD(), norm=1.0)
    learner = mk.MAML(mk.models.MLP(1, [4], 1), rule=around)
    assert learner.rule is around and len(list(learner.rule.parameters())) == 4
    assert fit(learner).steps == 5


def test_the_meta_gradient_is_clipped():
    torch.manual_seed(0)
    learner = mk.MAML(mk.models.MLP(1, [8], 1))
    before = vector(learner)
    fit(learner, steps=1, optimizer=torch.optim.SGD, lr=1.0, clip=0.01)
    assert float((vector(learner) - before).norm()) == pytest.approx(0.01, rel=1e-3)


# --- The outer loop. ---


def test_a_loop_of_epochs_goes_on_where_the_last_one_ended(tmp_path):
    def make():
        torch.manual_seed(0)
        return mk.MAML(mk.models.MLP(1, [8], 1))

    whole, parts, history = make(), make(), None
    at_once = fit(whole, steps=12, schedule=None)
    for epoch in range(1, 4):
        history = fit(parts, steps=4 * epoch, resume=history)
    assert history.loss == at_once.loss and torch.equal(vector(whole), vector(parts))
    with pytest.raises(ValueError, match="holds no state to go on from"):
        fit(make(), resume=mk.History((), (), "", 0.0))


def test_a_run_is_stepped_through_as_fit_drains_it():
    def make():
        torch.manual_seed(0)
        return mk.MAML(mk.models.MLP(1, [8], 1))

    drained, stepped, left = make(), make(), make()
    losses = fit(drained).loss
    seen = [run.loss[-1] for run in mk.Training(stepped, SINUSOIDS, steps=5, meta_batch=4, progress=False)]
    assert tuple(seen) == losses and torch.equal(vector(drained), vector(stepped))
    run = mk.Training(left, SINUSOIDS, steps=5, meta_batch=4).start()
    next(run), next(run)
    run.loop.close()
    assert run.history().ended == "stopped" and run.history().loss == losses[:2]
    assert fit(left, resume=run.history()).loss == losses


def test_multistep_is_moved_on_by_the_outer_loop():
    learner = mk.MultiStep(mk.MAML(mk.models.MLP(1, [4], 1), steps=2), anneal_steps=10)
    fit(learner, steps=5)
    torch.testing.assert_close(learner.step_weights, torch.tensor([0.25, 0.75]))


def test_an_attribute_named_optimizer_is_the_learners_own_affair():
    class Own(nn.Module):
        optimizer = "none of yours"
        lr = "nor this"

        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.zeros(1))

        def forward(self, batch):
            return (batch.query_y - self.w).square().mean((1, 2))

    assert fit(Own()).steps == 5


def test_wrapped_in_ddp_it_is_refused_with_the_reason():
    learner = mk.MAML(mk.models.MLP(1, [4], 1))
    ddp = object.__new__(nn.parallel.DistributedDataParallel)
    nn.Module.__init__(ddp)
    ddp.module = learner
    with pytest.raises(ValueError, match=r"hooks of DistributedDataParallel.*combine="):
        fit(ddp)


def test_numpy_numbers_are_numbers():
    rule = mk.SGD(lr=np.float32(0.1))
    learner = mk.MAML(mk.models.MLP(np.int64(1), [np.int64(4)], 1), rule=rule, steps=np.int64(2))
    assert learner.steps == 2 and type(learner.steps) is int and rule.lr == pytest.approx(0.1)
    assert fit(learner, steps=np.int64(2), meta_batch=np.int32(3), lr=np.float64(1e-3)).steps == 2
    assert mk.evaluate(learner, SINUSOIDS, n_tasks=np.int64(3), steps=np.int64(1)).loss.shape == (3, 2)


def test_inference_mode_is_no_obstacle():
    learner = mk.MAML(mk.models.MLP(1, [4], 1), steps=2)
    batch = SINUSOIDS.sample(2, seed=0)
    told, judged = mk.learners.predict(learner, *batch.tensors[:3]), mk.evaluate(learner, batch).loss
    with torch.inference_mode():
        again = SINUSOIDS.sample(2, seed=0)
        assert torch.equal(mk.learners.predict(learner, *again.tensors[:3]), told)
        assert torch.equal(mk.evaluate(learner, again).loss, judged)
        torch.testing.assert_close(learner(again), learner(batch))


def test_an_estimator_may_try_weights_without_a_gradient():
    learner, batch = mk.MAML(mk.models.MLP(1, [4], 1), steps=2), SINUSOIDS.sample(3, seed=0)
    with torch.no_grad():
        tried = {name: p + 0 for name, p in learner.named_parameters()}
        losses = torch.func.functional_call(learner, tried, (batch,))
    torch.testing.assert_close(losses, learner(batch).detach())


WRONG_ESTIMATES = {
    "a tuple": (lambda *given: (torch.zeros(()), []), TypeError, "must give a contracts.Estimate.*got tuple"),
    "too few": (lambda *given: mk.contracts.Estimate(torch.zeros(()), []), TypeError, "of the 4 parameters, got 0 gr"),
    "none": (lambda *given: mk.contracts.Estimate(torch.zeros(()), [None] * 4), ValueError, "plays a part in its loss"),
}


@pytest.mark.parametrize(("estimator", "kind", "message"), WRONG_ESTIMATES.values(), ids=WRONG_ESTIMATES)
def test_an_estimator_that_gives_something_else_is_told_so(estimator, kind, message):
    with pytest.raises(kind, match=message):
        fit(mk.MAML(mk.models.MLP(1, [4], 1)), estimator=estimator)


@pytest.mark.parametrize("call", [lambda own: fit(own), lambda own: mk.evaluate(own, SINUSOIDS, n_tasks=3)])
def test_a_learner_that_gives_one_loss_for_all_tasks_is_told_so(call):
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.zeros(1))

        def forward(self, batch):
            return (batch.query_y - self.w).square().mean()

    with pytest.raises(ValueError, match=r"must give one loss per task, shape \[\d\], got \[\] from Own"):
        call(Own())


def test_fixed_tasks_are_compared_once_whatever_the_seeds():
    batch = image_tasks().sample(6, seed=0)
    result = mk.compare({"near": mk.NearestNeighbour(), "other": mk.ProtoNet(nn.Flatten())}, batch, seeds=3)
    assert result.episodes == 6


# --- Rows and targets. ---


def test_bytes_are_read_as_they_were_in_training():
    drawn = (torch.rand(30, 6) * 255).byte()
    tasks = mk.tasks.Episodes((drawn, torch.arange(30) % 3), 3, 2, 3)
    learner = mk.MAML(mk.models.MLP(6, [8], 3))
    batch, picks = tasks.sample(1, seed=0), tasks.pick(1, generator=torch.Generator().manual_seed(0))[0]
    support, query = tasks.data.rows[picks[:, :2].flatten()], tasks.data.rows[picks[:, 2:].flatten()]
    torch.testing.assert_close(
        learner.predict(support, batch.support_y[0], query), learner.predict(*(t[0] for t in batch.tensors[:3]))
    )


def test_real_targets_mean_one_thing_everywhere():
    x, q = torch.randn(4, 10, 3), torch.randn(4, 10, 3)
    y = x.sum(-1)
    learner = mk.NearestNeighbour()
    for call in (
        lambda: mk.TaskBatch(x, y, q, q.sum(-1)),
        lambda: learner.predict(x, y, q),
        lambda: learner.predict(x[0], y[0], q[0]),
        lambda: learner.predict(x[:1], y[:1], q[:1]),
    ):
        with pytest.raises(ValueError, match=r"support_y\[\.\.\., None\]"):
            call()
    assert learner.predict(x, y[..., None], q).shape == (4, 10, 1)
    assert learner.predict(x[0], y[0][..., None], q[0]).shape == (10, 1)


def test_one_task_is_judged_without_an_interval():
    result = mk.evaluate(mk.MAML(mk.models.MLP(1, [4], 1)), SINUSOIDS.sample(1, seed=0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "+-" not in str(result) and "1 task, so no interval" in str(result)


def test_a_thousand_ways_are_answered_without_gigabytes(monkeypatch):
    most = 0
    wide = torch.Tensor.masked_fill

    def watched(self, mask, value):
        nonlocal most
        result = wide(self, mask, value)
        most = max(most, result.numel())
        return result

    monkeypatch.setattr(torch.Tensor, "masked_fill", watched)
    x, y = torch.randn(1000, 8), torch.arange(1000)
    for learner in (mk.Matching(nn.Identity()), mk.NearestNeighbour(), mk.ProtoNet(nn.Identity())):
        answers = learner.predict(x, y, x[:300] + 0.001)
        assert answers.shape == (300, 1000) and (answers.argmax(-1) == y[:300]).all()
    assert most <= 1000 * 1000


@pytest.mark.parametrize(
    "make",
    [
        lambda: mk.ProtoNet(mk.models.ConvNet(size=8, width=4, blocks=1)),
        lambda: mk.Ridge(torch_cnn()),
        lambda: mk.Matching(mk.models.ConvNet(size=8, width=4, blocks=1)),
        lambda: mk.MAML(mk.models.ConvNet(size=8, width=4, blocks=1, outputs=3), steps=2),
        lambda: mk.FineTune(mk.models.ConvNet(size=8, width=4, blocks=1, outputs=3), steps=2),
        lambda: mk.Reptile(mk.models.ConvNet(size=8, width=4, blocks=1, outputs=3), steps=2),
        lambda: mk.MultiStep(mk.MAML(mk.models.ConvNet(size=8, width=4, blocks=1, outputs=3), steps=2)),
        lambda: mk.NearestNeighbour(),
    ],
)
def test_what_was_learned_from_a_support_set_answers_again_and_again(make):
    torch.manual_seed(0)
    learner, batch = make(), image_tasks(shots=2, queries=3).sample(2, seed=0)
    sx, sy, qx = (tensor[0] for tensor in batch.tensors[:3])
    learned = learner.learn(sx, sy)
    torch.testing.assert_close(learned(qx), learner.predict(sx, sy, qx))
    torch.testing.assert_close(learned(qx[:1]), learner.predict(sx, sy, qx[:1]))
    stack = learner.learn(batch.support_x, batch.support_y)
    torch.testing.assert_close(stack(batch.query_x), mk.learners.predict(learner, *batch.tensors[:3]))


@pytest.mark.parametrize("make", [lambda n: mk.ProtoNet(n), lambda n: mk.MAML(n, adapt="3"), lambda n: mk.MAML(n)])
def test_what_was_learned_stays_as_it_was_while_the_learner_trains_on(make):
    torch.manual_seed(0)
    network = nn.Sequential(mk.nn.Linear(4, 6), nn.Tanh(), nn.Dropout(0.3), mk.nn.Linear(6, 3))
    learner, batch = make(network), vectors()
    learned = learner.learn(batch.support_x, batch.support_y)
    before = learned(batch.query_x)
    fit(learner, mk.tasks.Episodes((torch.randn(30, 4), torch.arange(30) % 3), 3, 2, 2), lr=0.1)
    assert torch.equal(learned(batch.query_x), before)
    assert not torch.allclose(learner.learn(batch.support_x, batch.support_y)(batch.query_x), before)


def test_a_confusion_matrix_by_real_class_is_three_lines():
    tasks = mk.tasks.Episodes((torch.randn(40, 4), torch.arange(40) % 8), 3, 2, 2)
    batch = tasks.sample(20, seed=0)
    told = mk.learners.answer_batch(mk.ProtoNet(nn.Identity()), batch).argmax(-1)
    real, guessed = (batch.classes.gather(1, numbers) for numbers in (batch.query_y, told))
    matrix = torch.zeros(8, 8).index_put((real, guessed), torch.ones(()), accumulate=True)
    assert matrix.sum() == 20 * 6 and matrix.diag().sum() / matrix.sum() == (told == batch.query_y).float().mean()


# --- Unequal tasks in one batch. ---

MASKED = {
    "maml": lambda: mk.MAML(mk.models.MLP(4, [6], 5), steps=2, rule=mk.SGD(0.1)),
    "maml, batch norm": lambda: mk.MAML(
        nn.Sequential(mk.nn.Linear(4, 6), mk.nn.BatchNorm1d(6), nn.Tanh(), mk.nn.Linear(6, 5)), steps=2
    ),
    "maml, plain": lambda: mk.MAML(nn.Sequential(nn.Linear(4, 6), nn.PReLU(), nn.Linear(6, 5)), steps=1),
    "maml, minibatches": lambda: mk.MAML(mk.models.MLP(4, [6], 5), steps=3, minibatch=4),
    "maml, torch's loss": lambda: mk.MAML(mk.models.MLP(4, [6], 5), loss=nn.CrossEntropyLoss()),
    "prototypes, smoothed labels": lambda: mk.ProtoNet(
        mk.models.MLP(4, [], 6), loss=nn.CrossEntropyLoss(label_smoothing=0.1)
    ),
    "ridge, smoothed labels": lambda: mk.Ridge(
        mk.models.MLP(4, [], 6), loss=lambda o, t: F.cross_entropy(o, t, label_smoothing=0.1)
    ),
    "meta-sgd": lambda: mk.MAML(mk.models.MLP(4, [6], 5), rule=mk.LearnedSGD(0.1)),
    "maml++": lambda: mk.MultiStep(mk.MAML(mk.models.MLP(4, [6], 5), steps=2)),
    "reptile": lambda: mk.Reptile(mk.models.MLP(4, [6], 5), steps=2),
    "prototypes": lambda: mk.ProtoNet(mk.models.MLP(4, [], 6)),
    "prototypes, batch norm": lambda: mk.ProtoNet(nn.Sequential(mk.nn.Linear(4, 6), mk.nn.BatchNorm1d(6))),
    "refined prototypes": lambda: mk.ProtoNet(mk.models.MLP(4, [], 6), distance="cosine", centred=True, refine=2),
    "matching": lambda: mk.Matching(mk.models.MLP(4, [], 6)),
    "ridge": lambda: mk.Ridge(mk.models.MLP(4, [], 20)),
    "ridge, few features": lambda: mk.Ridge(mk.models.MLP(4, [], 3)),
    "neighbour": lambda: mk.NearestNeighbour(),
}


def unequal(classes=True):
    """Three tasks of other numbers of classes, support rows and query rows."""
    generator = torch.Generator().manual_seed(0)
    batches = []
    for ways, shots, queries in ((5, 2, 1), (2, 4, 3), (3, 1, 2)):
        sx, qx = (torch.randn(1, ways * n, 4, generator=generator) for n in (shots, queries))
        sy, qy = (torch.arange(ways).repeat_interleave(n)[None] for n in (shots, queries))
        batches.append(mk.TaskBatch(sx, sy, qx, qy) if classes else mk.TaskBatch(sx, sx[..., :1], qx, qx[..., :1]))
    return batches


@pytest.mark.parametrize("protocol", mk.learners.PROTOCOLS)
@pytest.mark.parametrize("name", MASKED)
def test_unequal_tasks_together_are_what_they_are_alone(name, protocol):
    torch.manual_seed(0)
    learner, batches = MASKED[name](), unequal()
    together = mk.TaskBatch.pad(batches)
    learner.protocol = protocol
    if name == "maml++":
        learner.maml.protocol = protocol
    if name == "reptile":
        learner.inner.protocol = protocol
    losses = learner(together)
    torch.testing.assert_close(losses, torch.cat([learner(batch) for batch in batches]))
    stages = list(learner.scores(together, None, protocol))
    for t, batch in enumerate(batches):
        for (_, ours), (_, alone) in zip(stages, learner.scores(batch, None, protocol), strict=True):
            for measure in alone:
                torch.testing.assert_close(ours[measure][t : t + 1], alone[measure])
    if name != "neighbour":
        parameters = [p for p in learner.parameters() if p.requires_grad]
        ours = torch.autograd.grad(losses.sum(), parameters, allow_unused=True, materialize_grads=True)
        alone = torch.autograd.grad(
            sum(learner(b).sum() for b in batches), parameters, allow_unused=True, materialize_grads=True
        )
        for a, b in zip(ours, alone, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make", [lambda: mk.MAML(mk.models.MLP(4, [6], 1)), lambda: mk.Ridge(mk.models.MLP(4, [], 6))])
def test_unequal_tasks_of_real_targets_too(make):
    torch.manual_seed(0)
    learner, batches = make(), unequal(classes=False)
    torch.testing.assert_close(learner(mk.TaskBatch.pad(batches)), torch.cat([learner(batch) for batch in batches]))


@pytest.mark.parametrize("kind", ["maml", "prototypes", "ridge"])
def test_tasks_of_varying_ways_and_shots_are_learned_from_and_judged(kind):
    data = mk.tasks.LabelledData(torch.randn(90, 4), torch.arange(90) % 6)
    tasks = mk.tasks.Episodes(data, (2, 5), (1, 4), 2)
    learner = MASKED[kind]()
    assert fit(learner, tasks, steps=4, meta_batch=6, chunk=4).steps == 4
    result = mk.evaluate(learner, tasks, n_tasks=20)
    assert result.accuracy.shape[0] == 20 and torch.isfinite(result.loss).all()


def test_the_command_line_tells_a_learner_of_pictures_in_one_sentence(tmp_path):
    from typer.testing import CliRunner

    from metakit.cli import app

    embedding = mk.models.Views(mk.models.ConvNet(size=8, width=4, blocks=1))
    mk.save(mk.ProtoNet(embedding), tmp_path / "few.pt")
    result = CliRunner().invoke(app, ["evaluate", str(tmp_path / "few.pt"), "sinusoid", "--test-tasks", "4"])
    assert result.exit_code == 2 and "Traceback" not in result.output
    assert "takes images [1, 8, 8]" in result.output and len(result.output.strip().splitlines()) <= 2
