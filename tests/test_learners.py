"""Learners without inner gradient steps, and the baselines: equal to plain code written otherwise, in float64."""

import math

import plain
import pytest
import torch
from test_exactness import assert_equals_finite_differences, assert_same, gradient, make_batch, make_model

import metakit as mk
from metakit.learners import ridge

CLASSIFIERS = {
    "ridge": lambda f, **o: mk.Ridge(f, penalty=0.7, scale=3.0, **o),
    "matching": lambda f, **o: mk.Matching(f, scale=4.0, **o),
    "cosine prototypes": lambda f, **o: mk.ProtoNet(f, distance="cosine", **o),
    "centred prototypes": lambda f, **o: mk.ProtoNet(f, distance="cosine", centred=True, **o),
    "refined prototypes": lambda f, **o: mk.ProtoNet(f, refine=2, **o),
    "centred, refined": lambda f, **o: mk.ProtoNet(f, distance="cosine", centred=True, refine=1, **o),
}


def make_embedding():
    embedding = make_model("convnet")
    embedding.head = torch.nn.Identity()
    return embedding


def ridge_scores(learner, support, labels, query):
    """The primal form: as many equations as features."""
    z, y = support, torch.eye(3, dtype=support.dtype)[labels]
    w = torch.linalg.solve(z.T @ z + learner.log_penalty.exp() * torch.eye(z.shape[1], dtype=z.dtype), z.T @ y)
    return learner.alpha * query @ w + learner.beta


def cosine(a, b):
    return (a * b).sum() / (a.square().sum().sqrt() * b.square().sum().sqrt())


def matching_scores(learner, support, labels, query):
    rows = []
    for q in query:
        mass = torch.stack([(learner.log_scale.exp() * cosine(q, s)).exp() for s in support])
        rows.append(torch.stack([mass[labels == n].sum() / mass.sum() for n in range(3)]).log())
    return torch.stack(rows)


def prototype_scores(learner, support, labels, query):
    """Class by class and row by row; of the rounds of soft k-means, those that the protocol allows."""
    centres = [support[labels == n].mean(0) for n in range(3)]
    scores = against(learner, query, centres)
    for _ in range(learner.refine if learner.protocol == "transductive" else 0):
        shares = scores.exp() / scores.exp().sum(1, keepdim=True)
        for n in range(3):
            rows, weights = [*support[labels == n], *query], [1.0] * int((labels == n).sum()) + list(shares[:, n])
            centres[n] = sum(w * row for w, row in zip(weights, rows, strict=True)) / sum(weights)
        scores = against(learner, query, centres)
    return scores


def against(learner, query, centres):
    middle = sum(centres) / 3 if learner.centred else 0 * centres[0]
    if learner.distance == "euclidean":
        return torch.stack([torch.stack([-(q - c).square().sum() for c in centres]) for q in query])
    scale = learner.log_scale.exp()
    return torch.stack([torch.stack([scale * cosine(q - middle, c - middle) for c in centres]) for q in query])


SLOW = dict.fromkeys(CLASSIFIERS, prototype_scores) | {"ridge": ridge_scores, "matching": matching_scores}


def slow_losses(name, learner, weights, batch, protocol):
    losses = []
    for sx, sy, qx, qy in zip(*batch.tensors, strict=True):
        support = plain.features(weights, sx)
        if protocol == "transductive":
            query = plain.features(weights, qx)
        else:
            alone = [plain.features(weights, torch.cat([sx, q[None]]), statistics_rows=len(sx))[-1] for q in qx]
            query = torch.stack(alone)
        losses.append(plain.loss_of(SLOW[name](learner, support, sy, query), qy))
    return torch.stack(losses)


@pytest.mark.parametrize("protocol", mk.learners.PROTOCOLS)
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_classifier_equals_plain_code_and_finite_differences(name, protocol):
    embedding, batch = make_embedding(), make_batch("convnet")
    learner = CLASSIFIERS[name](embedding, protocol=protocol)
    theirs = slow_losses(name, learner, dict(embedding.named_parameters()), batch, protocol)
    everything = list(learner.parameters())
    assert_same([learner(batch)], [theirs])
    ours, slow = gradient(learner(batch), everything), gradient(theirs, everything)
    assert_same(ours, slow, 1e-9)
    assert_equals_finite_differences(learner, batch)
    assert learner.protocol == protocol and learner.steps == 0


@pytest.mark.parametrize("rows", [3, 6, 9])
def test_both_forms_of_ridge_minimise_the_same_sum(rows):
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(2, rows, 6, generator=generator, dtype=torch.float64)
    y = torch.randn(2, rows, 2, generator=generator, dtype=torch.float64)
    w = ridge(z, y, torch.tensor(0.3, dtype=torch.float64))
    slope = z.mT @ (z @ w - y) + 0.3 * w  # zero at the minimum
    assert slope.abs().max() < 1e-12


@pytest.mark.parametrize("outputs", [(), (2,)], ids=["one number", "two numbers"])
def test_ridge_answers_real_targets(outputs):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(3, 9, 2, generator=generator, dtype=torch.float64)
    y = torch.randn(3, 9, *(outputs or (1,)), generator=generator, dtype=torch.float64)
    batch = mk.TaskBatch(x[:, :5], y[:, :5], x[:, 5:], y[:, 5:])
    learner = mk.Ridge(make_model("mlp"), penalty=0.2)
    for t in range(3):
        z, q = learner.embedding(batch.support_x[t]), learner.embedding(batch.query_x[t])
        w = torch.linalg.solve(z.T @ z + 0.2 * torch.eye(2, dtype=z.dtype), z.T @ batch.support_y[t])
        torch.testing.assert_close(next(learner.outputs(batch))[t], q @ w)
    losses = learner(batch).mean()
    grads = torch.autograd.grad(losses, [learner.alpha, learner.log_penalty], allow_unused=True)
    assert grads[0] is None and grads[1].abs() > 0


def test_a_large_penalty_silences_ridge_and_a_small_one_makes_it_exact():
    batch = make_batch("convnet")
    same = mk.TaskBatch(batch.support_x, batch.support_y, batch.support_x, batch.support_y)
    one_hot = torch.nn.functional.one_hot(same.support_y, 3).double()
    for penalty, expected in ((1e12, torch.zeros_like(one_hot)), (1e-12, one_hot)):
        learner = mk.Ridge(make_embedding(), penalty=penalty, scale=1.0)
        torch.testing.assert_close(next(learner.outputs(same)), expected, atol=1e-6, rtol=0)


def test_attention_adds_up_to_one_and_the_scale_may_stand_still():
    learner, batch = mk.Matching(make_embedding(), scale=1.0, learn_scale=False), make_batch("convnet")
    scores = next(learner.outputs(batch))
    torch.testing.assert_close(scores.exp().sum(-1), torch.ones_like(scores[..., 0]))
    assert "log_scale" not in {n for n, p in learner.named_parameters() if p.requires_grad}


def test_a_very_sharp_attention_stays_finite():
    learner, batch = mk.Matching(make_embedding(), scale=1e4), make_batch("convnet")
    losses = learner(batch)
    assert losses.isfinite().all()
    assert all(g.isfinite().all() for g in gradient(losses, learner.parameters()))


def test_the_nearest_neighbour_in_pixels():
    batch, learner = make_batch("convnet"), mk.NearestNeighbour()
    (scores,) = learner.outputs(batch)
    for t, (sx, sy, qx, _) in enumerate(zip(*batch.tensors, strict=True)):
        for i, q in enumerate(qx):
            squares = [float(((q - s) ** 2).sum()) for s in sx]
            assert int(scores[t, i].argmax()) == int(sy[squares.index(min(squares))])
            for n in range(3):
                least = min(d for d, label in zip(squares, sy.tolist(), strict=True) if label == n)
                assert math.isclose(float(scores[t, i, n]), -least, rel_tol=1e-9)
    result = mk.evaluate(learner, batch)
    assert result.accuracy.shape == (3, 1) and result.protocol == "inductive"


def test_the_nearest_neighbour_of_real_targets():
    x = torch.tensor([[[0.0], [1.0], [2.0]]])
    batch = mk.TaskBatch(x, 10 * x, torch.tensor([[[1.9], [0.2]]]), torch.zeros(1, 2, 1))
    assert next(mk.NearestNeighbour().outputs(batch))[0].flatten().tolist() == [20.0, 0.0]


@pytest.mark.parametrize("make", [*CLASSIFIERS.values(), lambda f: mk.NearestNeighbour()])
def test_prediction_is_inductive_and_takes_one_task_or_many(make):
    learner, batch = make(make_embedding()), make_batch("convnet")
    many = learner.predict(*batch.tensors[:3])
    one = learner.predict(batch.support_x[1], batch.support_y[1], batch.query_x[1])
    alone = learner.predict(batch.support_x[1], batch.support_y[1], batch.query_x[1, :1])
    torch.testing.assert_close(many[1], one)
    torch.testing.assert_close(one[:1], alone)


@pytest.mark.parametrize("make", CLASSIFIERS.values(), ids=CLASSIFIERS)
def test_what_does_not_adapt_learns_in_the_same_outer_loop(make):
    torch.manual_seed(0)
    data = torch.rand(24, 1, 8, 8) + torch.arange(24).remainder(6).view(24, 1, 1, 1) / 3
    tasks = mk.tasks.Episodes((data, torch.arange(24) % 6), 3, 1, 2)
    learner = make(mk.models.ConvNet(size=8, width=4, blocks=2))
    history = mk.fit(learner, tasks, steps=40, meta_batch=4, lr=0.01, progress=False)
    assert sum(history.loss[-10:]) < sum(history.loss[:10])


def test_soft_k_means_moves_a_prototype_to_where_the_rows_are():
    """The support row of class 0 lies at 4, its cluster around 1. The row at 7 is nearer to 4, yet of the other one."""
    embedding = mk.models.MLP(1, [], 1)
    torch.nn.init.ones_(embedding.head.weight), torch.nn.init.zeros_(embedding.head.bias)
    rows, labels = torch.tensor([0.0, 1.0, 2.0, 7.0, 10.0, 11.0, 12.0]), torch.tensor([0, 0, 0, 1, 1, 1, 1])
    batch = mk.TaskBatch(torch.tensor([[[4.0], [11.0]]]), torch.tensor([[0, 1]]), rows[None, :, None], labels[None])
    for refine, right in ((0, 6), (3, 7)):
        (scores,) = mk.ProtoNet(embedding, refine=refine).outputs(batch)
        assert int((scores.argmax(-1) == labels).sum()) == right


def test_refined_answers_are_named_transductive_and_predict_leaves_the_rounds_out():
    tasks = mk.tasks.Episodes((torch.rand(24, 4), torch.arange(24) % 4), 3, 1, 4)
    plain_one = mk.ProtoNet(mk.models.MLP(4, [], 4))
    refined = mk.ProtoNet(mk.models.MLP(4, [], 4), refine=2)
    refined.load_state_dict(plain_one.state_dict())
    batch = tasks.sample(5, seed=0)
    assert torch.equal(refined.predict(*batch.tensors[:3]), plain_one.predict(*batch.tensors[:3]))
    for protocol in mk.learners.PROTOCOLS:
        assert mk.evaluate(refined, tasks, n_tasks=5, protocol=protocol).protocol == protocol
        assert mk.evaluate(plain_one, tasks, n_tasks=5, protocol=protocol).protocol == "inductive"
    assert not torch.equal(next(refined.outputs(batch)), next(plain_one.outputs(batch)))


REAL = mk.TaskBatch(*(torch.zeros(1, 3, 2) for _ in range(4)))
WRONG = {
    "no penalty": (lambda: mk.Ridge(mk.models.MLP(2, [], 2), penalty=0), "penalty must be a finite number above 0"),
    "a negative scale": (lambda: mk.Matching(mk.models.MLP(2, [], 2), scale=-1.0), "scale must be .* got -1.0"),
    "another distance": (lambda: mk.ProtoNet(mk.models.MLP(2, [], 2), distance="l1"), "euclidean, cosine, got 'l1'"),
    "a centre for distances": (
        lambda: mk.ProtoNet(mk.models.MLP(2, [], 2), centred=True),
        'centred goes with distance="cosine"',
    ),
    "less than no round": (lambda: mk.ProtoNet(mk.models.MLP(2, [], 2), refine=-1), "refine must be a whole number"),
    "half a round": (lambda: mk.ProtoNet(mk.models.MLP(2, [], 2), refine=0.5), "0 or more, got 0.5"),
    "attention to numbers": (lambda: mk.Matching(mk.models.MLP(2, [], 2))(REAL), "targets must be class numbers"),
    "a neighbour that trains": (
        lambda: mk.fit(mk.NearestNeighbour(), mk.tasks.Sinusoids(), steps=1),
        "NearestNeighbour has no parameters to train. Judge it at once with mk.evaluate",
    ),
}


@pytest.mark.parametrize(("call", "message"), WRONG.values(), ids=WRONG)
def test_wrong_input_is_refused_with_a_reason(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_neighbour_of_something_else_than_tasks_is_refused():
    with pytest.raises(TypeError, match="takes a TaskBatch, got list"):
        mk.NearestNeighbour()([1])


@pytest.mark.parametrize("kind", ["mlp", "convnet"])
def test_multi_step_losses_equal_a_plain_loop_and_finite_differences(kind):
    model, batch = make_model(kind), make_batch(kind)
    learner = mk.MultiStep(mk.MAML(model, rule=mk.SGD(0.1), steps=3), anneal_steps=10)
    learner.anneal(mk.Run(10))
    torch.testing.assert_close(learner.step_weights, torch.full((3,), 1 / 3, dtype=torch.float64))
    run = mk.Run(10)
    run.loss += [0.0] * 4
    learner.anneal(run)
    network, weights = {"mlp": plain.mlp, "convnet": plain.convnet}[kind], dict(model.named_parameters())
    each = [plain.maml_losses(network, weights, batch, steps=k, rates=0.1) for k in (1, 2, 3)]
    theirs = 0.2 * each[0] + 0.2 * each[1] + 0.6 * each[2]
    assert_same([learner(batch)], [theirs])
    assert_same(gradient(learner(batch), weights.values()), gradient(theirs, weights.values()))
    assert_equals_finite_differences(learner, batch)


@pytest.mark.parametrize("chunk", [1, 2, 5])
def test_the_outer_step_sees_every_inner_step_whatever_the_chunk(chunk):
    batch = make_batch("mlp", tasks=5)
    learner = mk.MultiStep(mk.MAML(make_model("mlp"), rule=mk.LearnedSGD(0.1, per="tensor", per_step=True), steps=3))
    expected = gradient(learner(batch), learner.parameters())
    outer_step = mk.outer.OuterStep(learner, torch.optim.SGD(learner.parameters(), lr=1.0), chunk=chunk)
    before = [p.detach().clone() for p in learner.parameters()]
    outer_step(batch)
    moves = [a - p.detach() for a, p in zip(before, learner.parameters(), strict=True)]
    assert_same(moves, expected, 1e-12)


def test_annealing_ends_with_maml_and_resumes(tmp_path):
    tasks, path = mk.tasks.Sinusoids(shots=5, queries=5), tmp_path / "run.pt"

    def make():
        torch.manual_seed(0)
        return mk.MultiStep(mk.MAML(mk.models.MLP(1, [8], 1), steps=2), anneal_steps=6)

    def train(learner, steps, **options):
        mk.fit(learner, tasks, steps=steps, meta_batch=2, progress=False, callback=learner.anneal, **options)
        return torch.cat([p.detach().flatten() for p in learner.parameters()])

    whole = make()
    expected = train(whole, 8)
    assert whole.step_weights.tolist() == [0.0, 1.0]
    train(make(), 3, checkpoint=path)
    assert torch.equal(expected, train(make(), 8, checkpoint=path, resume=True))


@pytest.mark.parametrize("adapt", [None, "head"])
def test_fine_tuning_steps_from_a_head_of_zeros(adapt):
    model, batch = make_model("convnet"), make_batch("convnet")
    learner = mk.FineTune(model, rule=mk.SGD(0.2), steps=3, adapt=adapt, protocol="transductive")
    *_, ours = learner.outputs(batch)
    for t, (sx, sy, qx, _) in enumerate(zip(*batch.tensors, strict=True)):
        weights = {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters()}
        weights["head.weight"] = torch.zeros(3, weights["head.weight"].shape[1], dtype=sx.dtype, requires_grad=True)
        weights["head.bias"] = torch.zeros(3, dtype=sx.dtype, requires_grad=True)
        names = ["head.weight", "head.bias"] if adapt else None
        after = plain.adapted(plain.convnet, weights, sx, sy, steps=3, rates=0.2, names=names, second=False)
        torch.testing.assert_close(ours[t], plain.convnet(after, qx))


def test_fine_tuning_trains_on_all_classes_and_is_judged_on_new_ones():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(20, 1, 6, generator=generator) + 0.3 * torch.randn(20, 10, 6, generator=generator)
    data = mk.tasks.LabelledData(x)
    torch.manual_seed(0)
    learner = mk.FineTune(mk.models.MLP(6, [16], 12), rule=mk.SGD(0.5), steps=5)
    pooled, unseen = mk.tasks.Pooled(data.classes(range(12))), mk.tasks.Episodes(data.classes(range(12, 20)), 3, 1, 3)
    history = mk.fit(learner, pooled, steps=60, meta_batch=1, lr=0.01, validation=unseen, keep="best", progress=False)
    assert history.loss[-1] < history.loss[0] / 2
    accuracy = mk.evaluate(learner, unseen, n_tasks=50).mean()
    assert accuracy[0] == pytest.approx(1 / 3, abs=1e-6) and accuracy[-1] > 0.7
    batch = pooled.sample(2, seed=1)
    y = batch.support_y[1]
    logits = learner.model(torch.cat([batch.support_x[1], batch.query_x[1]]))
    theirs = plain.loss_of(logits, torch.cat([y, batch.query_y[1]]))
    torch.testing.assert_close(learner(batch)[1], theirs)


def test_pooled_rows_are_of_the_class_they_are_numbered_as():
    x = torch.arange(7.0)[:, None] * torch.ones(1, 2)
    y = torch.tensor([0, 0, 0, 1, 2, 2, 2])
    data = mk.tasks.LabelledData(x, y)
    batch = mk.tasks.Pooled(data, rows=200).sample(3, seed=0)
    home = {float(row[0]): int(label) for row, label in zip(x, y, strict=True)}
    for rows, labels in ((batch.support_x, batch.support_y), (batch.query_x, batch.query_y)):
        assert [home[v] for v in rows[..., 0].flatten().tolist()] == labels.flatten().tolist()
    assert set(batch.support_x[..., 0].flatten().tolist()) == set(home)
    assert abs((batch.support_y == 1).float().mean() - 1 / 3) < 0.1
    assert torch.equal(batch.query_x, mk.tasks.Pooled(data, rows=200).sample(3, seed=0).query_x)


def curve():
    return mk.models.MLP(1, [4], 1)


WRONG_LEARNERS = {
    "steps of a stranger": (lambda: mk.MultiStep(mk.Reptile(curve())), TypeError, "of an mk.MAML, got Reptile"),
    "no step to weigh": (lambda: mk.MultiStep(mk.MAML(curve(), steps=0)), ValueError, "at least one inner step"),
    "no annealing": (lambda: mk.MultiStep(mk.MAML(curve()), anneal_steps=0), ValueError, "anneal_steps must be"),
    "a head that stands still": (lambda: mk.FineTune(curve(), adapt="linear1"), ValueError, "it must adapt"),
    "no head": (lambda: mk.FineTune(torch.nn.Linear(1, 1)), ValueError, "must have a layer 'head'"),
    "a learned rule": (lambda: mk.FineTune(curve(), rule=mk.LearnedSGD()), ValueError, "needs MAML"),
    "episodes to train on": (
        lambda: mk.FineTune(mk.models.ConvNet(channels=2, size=9, width=2, blocks=1, outputs=9).double())(
            make_batch("convnet")
        ),
        ValueError,
        r"tells 9 classes apart, the tasks have 3. Train on mk.tasks.Pooled",
    ),
    "rows without classes": (lambda: mk.tasks.Pooled(torch.rand(3, 2)), TypeError, "must be LabelledData, got Tensor"),
}


@pytest.mark.parametrize(("call", "kind", "message"), WRONG_LEARNERS.values(), ids=WRONG_LEARNERS)
def test_a_learner_that_cannot_be_is_refused(call, kind, message):
    with pytest.raises(kind, match=message):
        call()
