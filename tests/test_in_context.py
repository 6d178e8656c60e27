"""Learning in context: the bins, the transformer over sets, the learner, and how near it comes to exact Bayes."""

import math

import pytest
import torch
from torch import nn

import metakit as mk
from metakit.contracts import ACCURACY, LOSS
from metakit.learners.bins import LOG_SCORE, Binned, Mixture, binned_divergence, normal_bins, sample_bins
from metakit.learners.in_context import InContext
from metakit.learners.references import ExactGP, GridGP
from metakit.models.transformer import SetTransformer, attention
from metakit.nn.norm import LayerNorm
from metakit.tasks import LinearRegression
from metakit.tasks.batch import TaskBatch
from metakit.tasks.gaussian_processes import GaussianProcesses
from metakit.tasks.steady import Steady

PRIOR = GaussianProcesses(context=(1, 8), queries=6)
LINE = torch.linspace(-12, 12, 240_001, dtype=torch.float64)


def small(seed=0, **options):
    torch.manual_seed(seed)
    return SetTransformer(**({"inputs": 1, "width": 8, "layers": 2, "heads": 2, "frequencies": 3} | options))


def learner(**options):
    return InContext(small(), **({"bins": 20} | options))


def uneven():
    """A distribution of bins of uneven mass and width, in float64."""
    torch.manual_seed(0)
    borders = torch.tensor([-1.5, -0.5, -0.3, 0.4, 1.2, 1.3], dtype=torch.float64)
    return Binned(torch.randn(7, dtype=torch.float64), borders, torch.tensor([0.5, 0.9], dtype=torch.float64))


def mixture():
    means, spreads = (torch.tensor(v, dtype=torch.float64) for v in ([-1.0, 0.3, 2.0], [0.4, 1.0, 0.2]))
    return Mixture(means, spreads, torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64).log())


def spread_out(answer, y):
    """The same distribution for each of many numbers."""
    if isinstance(answer, Binned):
        return Binned(answer.logits.expand(len(y), -1), answer.borders, answer.tails)
    return Mixture(*(part.expand(len(y), -1) for part in (answer.means, answer.spreads, answer.log_weights)))


# --- Distributions. ---


@pytest.mark.parametrize("answer", [uneven(), mixture()], ids=["bins", "mixture"])
def test_a_density_integrates_to_its_cdf_to_one_and_to_its_mean(answer):
    density = spread_out(answer, LINE).log_density(LINE).exp()
    step = LINE[1] - LINE[0]
    middle = (density[1:] + density[:-1]) / 2 * step
    assert abs(float(middle.sum()) - 1) < 1e-4
    y = LINE[::6007]
    torch.testing.assert_close(spread_out(answer, y).cdf(y)[1:], middle.cumsum(0)[6006::6007], atol=2e-4, rtol=0)
    mean = float(((density * LINE)[1:] + (density * LINE)[:-1]).sum() / 2 * step)
    assert abs(float(answer.mean) - mean) < 1e-3


@pytest.mark.parametrize("answer", [uneven(), mixture()], ids=["bins", "mixture"])
def test_quantiles_are_where_the_cdf_says_in_the_tails_too(answer):
    for share in (0.001, 0.02, 0.25, 0.5, 0.9, 0.999):
        y = answer.quantile(share)
        assert abs(float(answer.cdf(y)) - share) < 1e-6
    assert answer.quantile(0.001) < -1.5 and answer.quantile(0.999) > 1.3


def test_densities_have_the_gradient_of_their_logits():
    answer, y = uneven(), torch.tensor([-3.0, 0.0, 2.5], dtype=torch.float64)
    logits = answer.logits.expand(3, -1).clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda z: Binned(z, answer.borders, answer.tails).log_density(y), logits)


def test_normal_bins_have_equal_mass_under_a_normal_and_its_mean_beyond():
    borders, tails = normal_bins(100)
    torch.testing.assert_close(torch.special.ndtr(borders), torch.arange(1, 100) / 100)
    normal = torch.distributions.Normal(0.0, 1.0).log_prob(LINE).exp()
    above = (LINE - borders[-1]) > 0
    excess = ((LINE - borders[-1]) * normal)[above].sum() / normal[above].sum()
    assert abs(float(tails[1]) * math.sqrt(2 / math.pi) - float(excess)) < 1e-4 and tails[0] == tails[1]


def test_sample_bins_have_equal_mass_in_the_sample():
    torch.manual_seed(0)
    y = torch.randn(5000).exp()
    borders, tails = sample_bins(10, y)
    counts = torch.bucketize(y, borders).bincount()
    assert counts.tolist() == [500] * 10
    answer = Binned(torch.zeros(10), borders, tails)
    inside = (y - borders[-1])[y > borders[-1]].mean()
    assert abs(float(tails[1]) * math.sqrt(2 / math.pi) - float(inside)) < 1e-3 and abs(answer.mean - y.mean()) < 0.1


def test_the_divergence_is_that_of_the_masses():
    answer, exact = uneven(), mixture()
    ends = torch.cat([torch.tensor([-12.0]), answer.borders, torch.tensor([12.0])])
    masses = spread_out(exact, ends).cdf(ends).diff()
    wanted = (masses * (masses / answer.masses).log()).sum()
    torch.testing.assert_close(binned_divergence(exact, answer), wanted)
    right = Binned(masses.log(), answer.borders, answer.tails)
    assert abs(float(binned_divergence(exact, right))) < 1e-12 < wanted


# --- The transformer. ---


def test_layer_norm_is_that_of_torch_and_of_each_task_by_its_own_weights():
    ours, theirs = LayerNorm(5), nn.LayerNorm(5)
    x, weight, bias = torch.randn(3, 4, 2, 5), torch.randn(3, 5), torch.randn(3, 5)
    torch.testing.assert_close(ours(x), theirs(x))
    stacked = mk.nn.run(ours, {"weight": weight, "bias": bias}, x)
    for t in range(3):
        torch.testing.assert_close(stacked[t], nn.functional.layer_norm(x[t], (5,), weight[t], bias[t]))
    assert ours(x.bfloat16()).dtype == torch.bfloat16
    assert LayerNorm(5, elementwise_affine=False)(x).shape == x.shape


def test_the_answer_to_a_query_ignores_the_other_queries_and_the_order_of_the_context():
    model, batch = small().double(), PRIOR.at(5).sample(3, seed=0).to(dtype=torch.float64)
    x, y, q = batch.tensors[:3]
    answers, order = model(q, x, y), torch.tensor([3, 1, 4, 0, 2])
    torch.testing.assert_close(model(q[:, 2:3], x, y), answers[:, 2:3])
    torch.testing.assert_close(model(q, x[:, order], y[:, order]), answers)
    torch.testing.assert_close(model(q.flip(1), x, y), answers.flip(1))
    changed = y.clone()
    changed[:, 0] += 1
    assert (model(q, x, changed) - answers).abs().amin((0, 1)).max() > 1e-4  # each row of the context counts


def test_it_is_one_transformer_over_all_rows_whose_mask_hides_the_queries():
    model, batch = small(layers=3).double(), PRIOR.at(5).sample(3, seed=0).to(dtype=torch.float64)
    x, y, q = batch.tensors[:3]
    waves = [torch.cat([2.0**j * side for j in (-2, -1, 0)], -1) for side in (x, q)]
    every = [torch.cat([side, w.sin(), w.cos()], -1) for side, w in zip((x, q), waves, strict=True)]
    context, query = (model.plain(e) + model.fall(nn.functional.gelu(model.rise(e))) for e in every)
    h = torch.cat([model.empty.expand(3, 1, 8), context + model.target(y), query + model.unknown], 1)
    for block in model.blocks:
        z = block.norm1(h)
        keys, values = block.keyvalue(z).split(8, -1)
        seen = []
        for head in (slice(0, 4), slice(4, 8)):
            scores = block.query(z)[..., head] @ keys[..., head].mT / 4**0.5
            scores[..., 6:] = -torch.inf  # the empty token and five rows of context are seen
            seen.append(scores.softmax(-1) @ values[..., head])
        h = h + block.out(torch.cat(seen, -1))
        h = h + block.fall(nn.functional.gelu(block.rise(block.norm2(h))))
    torch.testing.assert_close(model(q, x, y), model.norm(h)[:, 6:])


def test_masked_rows_of_the_context_count_for_nothing():
    model, batch = small().double(), PRIOR.at(5).sample(3, seed=0).to(dtype=torch.float64)
    x, y, q = batch.tensors[:3]
    mask = torch.tensor([[True] * 5, [True, False, True, False, False], [False] * 5])
    answers = model(q, x, y, mask)
    torch.testing.assert_close(answers[:1], model(q[:1], x[:1], y[:1]))
    torch.testing.assert_close(answers[1:2], model(q[1:2], x[1:2, [0, 2]], y[1:2, [0, 2]]))
    torch.testing.assert_close(answers[2:], model(q[2:], x[2:, :0], y[2:, :0]))
    torch.testing.assert_close(answers[2], model(q[2]))  # an empty context: a network of rows


def test_attention_fused_or_not_is_the_same():
    q, k, v = (torch.randn(3, 2, n, 4, dtype=torch.float64) for n in (5, 6, 6))
    mask = torch.rand(3, 1, 1, 6) > 0.4
    mask[..., 0] = True
    for seen in (None, mask):
        torch.testing.assert_close(attention(q, k, v, seen), attention(q, k, v, seen, fused=False))


def test_weights_stacked_over_tasks_are_each_tasks_own():
    model, x = small(outputs=1).double(), torch.randn(3, 5, 1, dtype=torch.float64)
    assert mk.nn.can_stack(model)
    weights = {name: p + 0.1 * torch.randn(3, *p.shape).double() for name, p in model.named_parameters()}
    stacked = mk.nn.run(model, weights, x)
    for t in range(3):
        own = {name: w[t] for name, w in weights.items()}
        torch.testing.assert_close(stacked[t], torch.func.functional_call(model, own, x[t]))
    some = {"blocks.1.norm2.bias": weights["blocks.1.norm2.bias"]}
    torch.testing.assert_close(
        mk.nn.run(model, some, x)[1],
        torch.func.functional_call(model, {name: w[1] for name, w in some.items()}, x[1]),
    )


@pytest.mark.parametrize("order", [1, 2])
def test_the_meta_gradient_of_maml_is_exact_by_finite_differences(order):
    """Of first order: those of the query loss at the adapted weights, as if the inner gradients were constants."""
    model = small(outputs=1).double()
    learner = mk.MAML(model, rule=mk.SGD(lr=0.1), steps=2, order=order)
    batch = PRIOR.at(4).sample(2, seed=0).to(dtype=torch.float64)
    named = [(name, p) for name, p in model.named_parameters() if name.split(".")[-1] != "unknown"]
    grads = torch.autograd.grad(learner(batch).sum(), [p for _, p in named], allow_unused=True)
    moves = {n: w.detach() - model.get_parameter(n).detach() for n, w in learner.adapt(batch).items()}

    def loss():
        with torch.no_grad():
            if order == 2:
                return float(mk.MAML(model, rule=mk.SGD(lr=0.1), steps=2)(batch).sum())
            shifted = {name: model.get_parameter(name) + move for name, move in moves.items()}
            return float(learner.judge(shifted, batch).sum())

    for (name, p), grad in zip(named, grads, strict=True):
        direction = torch.randn_like(p)
        with torch.no_grad():
            ends = []
            for sign in (1, -1):
                p.add_(direction, alpha=sign * 1e-5)
                with torch.enable_grad():
                    ends.append(loss())
                p.sub_(direction, alpha=sign * 1e-5)
        slope = 0.0 if grad is None else float((grad * direction).sum())
        assert abs(slope - (ends[0] - ends[1]) / 2e-5) < 1e-6 * max(1.0, abs(slope)), name


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: SetTransformer(1, width=10, heads=4), "width must be a multiple of heads, got width=10"),
        (lambda: SetTransformer(0), "inputs must be at least 1"),
        (lambda: small()(torch.ones(2, 3, 2)), r"rows must be \[..., N, 1\], got \[2, 3, 2\]"),
        (lambda: small()(torch.ones(2, 3, 1), torch.ones(2, 3, 1), torch.ones(2, 3, 2)), "targets of the context"),
        (lambda: learner(ways=3), "not both"),
        (lambda: InContext(small(), ways=3), "Make it with targets=3"),
        (lambda: InContext(nn.Linear(1, 1), bins=5), "must say its features and targets"),
        (lambda: learner(bins=2), "bins must be at least 3"),
        (lambda: sample_bins(10, torch.zeros(1000)), "the same one too often"),
        (lambda: sample_bins(10, torch.randn(99)), "at least 100 targets, got 99"),
        (lambda: uneven().quantile(1.0), "share must be below 1"),
        (lambda: learner()(TaskBatch(torch.ones(1, 2, 1), torch.tensor([[0, 1]]), *ROWS)), "make InContext"),
        (lambda: InContext(small(targets=2), ways=2)(PRIOR.sample(2, seed=0)), "targets must be class numbers"),
        (lambda: InContext(small())(PRIOR.sample(2, seed=0).to(dtype=torch.float64)), "holds torch.float64"),
        (lambda: InContext(small(), sizes=(-1,)), "every size of a context must be at least 0"),
        (lambda: InContext(small(targets=2), ways=2).calibrate(PRIOR), "classes have no scale"),
        (lambda: InContext(small()).distribution(*[torch.ones(3, 1)] * 3), "Make one with bins=100"),
    ],
)
def test_bad_input_is_refused_at_the_door(make, words):
    with pytest.raises((ValueError, TypeError), match=words):
        make()


ROWS = torch.ones(1, 2, 1), torch.tensor([[0, 1]])


# --- The learner. ---


def test_it_is_trained_by_the_log_density_of_the_query_targets():
    model, batch = learner(), PRIOR.at(4).sample(3, seed=0)
    hidden = model.network(*(batch.query_x, batch.support_x, batch.support_y))
    masses = model.head(hidden).softmax(-1)
    number = torch.bucketize(batch.query_y[..., 0].contiguous(), model.borders)
    inside = (number > 0) & (number < 19)
    widths = model.borders.diff()[(number - 1).clamp(0, 17)]
    density = masses.gather(-1, number[..., None])[..., 0] / widths
    found = model.respond(batch).log_density(batch.query_y[..., 0])
    torch.testing.assert_close(found[inside], density.log()[inside])
    torch.testing.assert_close(model(batch), -found.mean(1))


def test_it_is_scored_after_each_size_of_context_as_if_it_had_just_these_rows():
    model, batch = learner(sizes=(3, 0, 1)), PRIOR.at(5).sample(4, seed=0)
    found = dict(model.scores(batch))
    assert list(found) == [0, 1, 3, 5] and list(found[0]) == [LOG_SCORE, LOSS]
    for rows, scores in found.items():
        few = TaskBatch.trusted(batch.support_x[:, :rows], batch.support_y[:, :rows], *batch.tensors[2:])
        torch.testing.assert_close(scores[LOG_SCORE], -model(few))
        (mean,) = model.outputs(few)
        torch.testing.assert_close(scores[LOSS], (mean - batch.query_y).square().mean((1, 2)))
    assert [rows for rows, _ in model.scores(batch, 2)] == [0, 1, 2]
    result = mk.evaluate(model, PRIOR.at(5), n_tasks=4)
    assert (result.axis, result.at, result.measure, result.protocol) == (
        "context rows",
        (0, 1, 3, 5),
        LOG_SCORE,
        "inductive",
    )


def test_tasks_of_unequal_rows_are_answered_as_each_by_itself():
    model, few, many = learner(), PRIOR.at(2).sample(2, seed=0), PRIOR.at(6).sample(2, seed=1)
    padded = TaskBatch.pad([few, many])
    torch.testing.assert_close(model(padded), torch.cat([model(few), model(many)]))
    half = TaskBatch.trusted(*many.tensors, query_mask=torch.tensor([[True] * 3 + [False] * 3] * 2))
    kept = TaskBatch(*many.tensors[:2], many.query_x[:, :3], many.query_y[:, :3])
    torch.testing.assert_close(model(half), model(kept))
    for ours, theirs in zip(dict(model.scores(half)).values(), dict(model.scores(kept)).values(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_predict_is_the_mean_of_the_distribution_and_learn_says_the_same():
    model, batch = learner(), PRIOR.at(4).sample(3, seed=0)
    x, y, q = batch.tensors[:3]
    answer, mean = model.distribution(x, y, q), model.predict(x, y, q)
    torch.testing.assert_close(mean[..., 0], answer.mean)
    torch.testing.assert_close(model.distribution(x[1], y[1], q[1]).logits, answer.logits[1])
    torch.testing.assert_close(model.learn(x, y)(q), mean)
    low, high = answer.quantile(0.05), answer.quantile(0.95)
    assert low.shape == (3, 6) and bool((low < high).all())


def test_absent_classes_get_nothing_and_classes_that_may_still_come_get_something():
    torch.manual_seed(0)
    model = InContext(small(targets=4), ways=4)
    x, y = torch.randn(2, 6, 1), torch.tensor([[0, 1, 2, 0, 1, 2], [0, 1, 0, 1, 0, 1]])
    batch = TaskBatch(x, y, x, y)
    chance = model.respond(batch).softmax(-1)
    assert chance[0, :, 3].max() == 0 and chance[1, :, 2:].max() == 0 and chance[0, :, :3].min() > 0
    torch.testing.assert_close(chance.sum(-1), torch.ones(2, 6))
    first = dict(model.scores(batch))
    assert list(first) == [0, 1, 2, 5, 6] and all(bool(s[LOSS].isfinite().all()) for s in first.values())
    assert list(first[6]) == [ACCURACY, LOSS]
    chosen = model.distribution(x[1], y[1], x[1])
    torch.testing.assert_close(chosen, chance[1])
    assert model.predict(x[1], y[1], x[1]).argmax(-1).max() <= 1
    with pytest.raises(ValueError, match="Make it with more ways"):
        InContext(small(targets=2), ways=2)(batch)


def test_classes_are_learned_in_context():
    """Two classes on either side of a border that differs from task to task."""

    class Sides:
        def sample(self, n_tasks, *, generator=None, device=None):
            border, x = (torch.rand(n_tasks, n, 1, generator=generator) * 2 - 1 for n in (1, 20))
            flip = torch.rand(n_tasks, 1, generator=generator) > 0.5
            y = ((x > border / 2)[..., 0] ^ flip).long()
            x[:, :2], y[:, 0], y[:, 1] = border / 2 + torch.tensor([[[-0.1], [0.1]]]), flip[:, 0], ~flip[:, 0]
            return TaskBatch.trusted(x[:, :10], y[:, :10], x[:, 10:], y[:, 10:], ways=2)

    torch.manual_seed(0)
    model = InContext(SetTransformer(1, width=16, layers=2, targets=2, frequencies=4), ways=2)
    mk.fit(model, Sides(), steps=150, meta_batch=32, lr=5e-3, clip=1.0, progress=False)
    assert mk.evaluate(model, Sides(), n_tasks=100).accuracy.mean(0)[-1] > 0.85  # by chance 0.5


def test_calibrate_takes_borders_and_scale_from_the_prior():
    prior = LinearRegression(rows=4, features=9, noise=0.0)
    torch.manual_seed(0)
    model = InContext(SetTransformer(9, width=8, layers=1, heads=2), bins=10).calibrate(prior, n_tasks=2000)
    assert abs(float(model.scale) - 3) < 0.15 and abs(float(model.shift)) < 0.15
    y = prior.sample(2000, seed=9).query_y.flatten()
    counts = torch.bucketize(y, model.borders).bincount() / 8000
    assert (counts - 0.1).abs().max() < 0.03  # four of a task share its weights
    numbers = InContext(SetTransformer(9, width=8, layers=1, heads=2)).calibrate(prior)
    batch = prior.sample(3, seed=1)
    hidden = numbers.network(batch.query_x, batch.support_x, (batch.support_y - numbers.shift) / numbers.scale)
    torch.testing.assert_close(numbers.respond(batch), numbers.head(hidden) * numbers.scale + numbers.shift)
    assert [str(measure) for measure in dict(numbers.scores(batch))[4]] == ["loss"]


def test_a_run_resumes_to_the_bit(tmp_path):
    whole, resumed, path = learner(), learner(), tmp_path / "run.pt"
    options = {"lr": 1e-2, "progress": False, "meta_batch": 4}
    history = mk.fit(whole, Steady(PRIOR), steps=10, **options)
    mk.fit(learner(), Steady(PRIOR), steps=4, checkpoint=path, **options)
    assert mk.fit(resumed, Steady(PRIOR), steps=10, checkpoint=path, resume=True, **options).loss == history.loss


@pytest.mark.parametrize("options", [{}, {"bins": None}, {"sizes": (0, 2)}])
def test_a_saved_learner_answers_the_same_to_the_bit(tmp_path, options):
    model, batch = learner(**options).calibrate(PRIOR), PRIOR.at(3).sample(2, seed=0)
    mk.save(model, tmp_path / "learner.pt")
    loaded = mk.load(tmp_path / "learner.pt")
    assert torch.equal(loaded(batch), model(batch)) and loaded.sizes == model.sizes
    assert repr(loaded) == repr(model)


def test_a_network_of_ones_own_learns_in_context():
    class Mean(nn.Module):
        features = targets = 1

        def forward(self, query_x, context_x, context_y, mask):
            return context_y.mean(1, keepdim=True).expand(-1, query_x.shape[1], -1)

    batch = PRIOR.at(3).sample(2, seed=0)
    assert InContext(Mean(), bins=5)(batch).shape == (2,)


def test_a_short_training_comes_near_to_exact_bayes():
    prior = GaussianProcesses(lengthscale=1.0, noise=0.2, context=(1, 6), queries=12)
    torch.manual_seed(0)
    model = InContext(SetTransformer(1, width=32, layers=2, frequencies=6), bins=40)
    mk.fit(
        model, Steady(prior), steps=250, meta_batch=30, lr=5e-3, clip=1.0, schedule="CosineAnnealingLR", progress=False
    )
    exact, batch = ExactGP(prior), prior.at(5).sample(200, seed=1)
    nothing = exact.respond(batch, 0)
    prior_masses = nothing.cdf(model.borders[:, None, None].double()).movedim(0, -1)
    prior_masses = nn.functional.pad(nn.functional.pad(prior_masses, (1, 0)), (0, 1), value=1.0).diff(dim=-1)
    ignorant = binned_divergence(exact.respond(batch), Binned(prior_masses.log(), model.borders, model.tails)).mean()
    with torch.no_grad():
        learned = binned_divergence(exact.respond(batch), model.respond(batch)).mean()
    assert 0 < learned < 0.25 * ignorant
    result = mk.evaluate(model, prior.at(5), n_tasks=100, reference=exact)
    gap, half = result.difference(LOG_SCORE)
    assert result.at == (0, 1, 2, 5) and bool((gap < half).all())  # nothing beats exact Bayes on average
    grid = GridGP(prior, points=2).respond(batch)
    torch.testing.assert_close(grid.mean, exact.respond(batch).mean)
