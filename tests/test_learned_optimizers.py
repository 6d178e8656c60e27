"""Learned optimisers: the rule, as an inner rule and as torch's optimiser, the jobs it learns from, the yardsticks."""

import math
import warnings

import pytest
import torch
from torch import nn

import metakit as mk
from metakit.contracts import InnerStep
from metakit.learners import TRAINING_LOSS, Scheduled
from metakit.learners.yardsticks import NINE_RATES


def shaken(rule, scale=0.3, seed=0):
    """A rule whose every parameter is something else than at its start."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in rule.parameters():
            p.add_(scale * torch.randn(p.shape, generator=generator, dtype=p.dtype))
    return rule


def small_jobs(**options):
    table = mk.tasks.InventedTables(features=6, ways=3)
    return mk.tasks.TrainingJobs(table, **({"width": 8, "depth": 1, "rows": 60, "queries": 20, "batch": 16} | options))


def walked(rule, grads, start, steps):
    """The weights that a rule leads to over given gradients."""
    weights, state = start, rule.init_state(start)
    for k, g in enumerate(grads):
        weights, state = rule.step(InnerStep(weights, g, None, k, steps), state)
    return weights


# --- The rule. ---


def test_it_begins_as_adam_with_a_little_decay():
    rule, lr = mk.LearnedOptimizer(lr=0.1).double(), 0.1
    torch.manual_seed(0)
    start = {"a": torch.randn(2, 3, 4).double(), "b": torch.randn(2, 3).double()}
    grads = [{name: torch.randn_like(w) for name, w in start.items()} for _ in range(6)]
    decay, ours, theirs = math.log1p(math.exp(-5)), start, start
    adam = mk.Adam(lr=lr, eps=1e-10)
    state, adams = rule.init_state(start), adam.init_state(start)
    for k, g in enumerate(grads):
        before = ours
        ours, state = rule.step(InnerStep(ours, g, None, k, 6), state)
        moved, adams = adam.step(InnerStep(theirs, g, None, k), adams)
        for name, w in before.items():
            expected = moved[name] - theirs[name] - lr * decay * w
            torch.testing.assert_close(ours[name] - w, expected, rtol=1e-3, atol=1e-9)
        theirs = moved


@pytest.mark.parametrize("unit", [1e-4, 1e3])
def test_a_loss_in_other_units_is_trained_by_the_same_steps(unit):
    rule = shaken(mk.LearnedOptimizer().double())
    torch.manual_seed(1)
    start = {"a": torch.randn(1, 5, 3).double(), "b": torch.randn(1, 5).double()}
    grads = [{name: torch.randn_like(w) for name, w in start.items()} for _ in range(5)]
    scaled = [{name: unit * g for name, g in each.items()} for each in grads]
    for name, w in walked(rule, grads, start, 5).items():
        torch.testing.assert_close(w, walked(rule, scaled, start, 5)[name], rtol=1e-6, atol=1e-8)


def test_tasks_of_a_batch_do_not_know_each_other():
    rule = shaken(mk.LearnedOptimizer().double())
    torch.manual_seed(2)
    start = {"a": torch.randn(3, 4).double()}
    grads = [{"a": torch.randn(3, 4).double()} for _ in range(4)]
    together = walked(rule, grads, start, 4)["a"]
    for t in range(3):
        alone = walked(rule, [{"a": g["a"][t : t + 1]} for g in grads], {"a": start["a"][t : t + 1]}, 4)["a"]
        torch.testing.assert_close(together[t : t + 1], alone)


@pytest.mark.parametrize("kind", ["mlp", "lstm"])
def test_its_meta_gradient_is_that_of_finite_differences(kind):
    rule = shaken(mk.LearnedOptimizer(kind).double(), 0.1)
    learner, batch = mk.Unroll(rule, steps=4), mk.tasks.Quadratics(3, start=1.0).sample(2, seed=0)
    batch = batch._each(torch.Tensor.double)
    parameters = list(rule.parameters())
    grads = torch.autograd.grad(learner(batch).mean(), parameters)
    for p, grad in zip(parameters, grads, strict=True):
        direction = torch.randn(p.shape, dtype=p.dtype, generator=torch.Generator().manual_seed(3))
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                p.add_(direction, alpha=sign * 1e-5)
            values.append(float(learner(batch).mean().detach()))
            with torch.no_grad():
                p.add_(direction, alpha=-sign * 1e-5)
        slope = (values[0] - values[1]) / 2e-5
        assert float((grad * direction).sum()) == pytest.approx(slope, rel=2e-4, abs=1e-7)


def test_the_kinds_are_two():
    with pytest.raises(ValueError, match="kind must be one of mlp, lstm, got 'gru'"):
        mk.LearnedOptimizer("gru")
    with pytest.raises(ValueError, match="lr must be"):
        mk.LearnedOptimizer(lr=0.0)


@pytest.mark.parametrize("kind", ["mlp", "lstm"])
def test_it_is_saved_and_loaded(tmp_path, kind):
    rule = shaken(mk.LearnedOptimizer(kind, hidden=3, controls=5))
    mk.save(rule, tmp_path / "opt.pt")
    again = mk.load(tmp_path / "opt.pt")
    assert again.kind == kind and all(map(torch.equal, again.parameters(), rule.parameters()))
    mk.save(mk.Unroll(rule, steps=(3, 9)), tmp_path / "unroll.pt")
    assert mk.load(tmp_path / "unroll.pt").steps == (3, 9)


@pytest.mark.parametrize("kind", ["mlp", "lstm"])
def test_training_makes_it_better_on_jobs_not_met(kind):
    torch.manual_seed(0)
    rule = mk.LearnedOptimizer(kind, lr=0.003)
    learner, jobs = mk.Unroll(rule, steps=10), small_jobs()
    before = mk.evaluate(learner, jobs, n_tasks=40).loss[:, -1]
    mk.fit(learner, jobs, steps=25, meta_batch=6, lr=0.02, clip=1.0, progress=False)
    after = mk.evaluate(learner, jobs, n_tasks=40).loss[:, -1]
    assert (after - before).mean() < -4 * (after - before).std() / 40**0.5
    assert int(rule.trained_steps) == 10


# --- As an optimiser of torch. ---


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x):
        return self.second(torch.tanh(self.first(x)))


def rows(seed, n=32, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 4, generator=generator, dtype=dtype)
    return x, (x @ torch.randn(4, 3, generator=torch.Generator().manual_seed(9), dtype=dtype)).argmax(1)


def trained(net, optimizer, steps, first=0):
    for k in range(first, first + steps):
        x, y = rows(k, dtype=next(net.parameters()).dtype)
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
    return [p.detach().clone() for p in net.parameters()]


@pytest.mark.parametrize("kind", ["mlp", "lstm"])
def test_it_takes_the_steps_that_it_takes_inside_unroll(kind):
    rule = shaken(mk.LearnedOptimizer(kind).double(), 0.2)
    torch.manual_seed(0)
    net = Net().double()
    start = {name: p.detach().clone()[None] for name, p in net.named_parameters()}

    class Job:
        def losses(self, weights, k):
            x, y = rows(k, dtype=torch.float64)
            one = {name: w[0] for name, w in weights.items()}
            return nn.functional.cross_entropy(torch.func.functional_call(net, one, (x,)), y)[None]

        judged = losses
        device = torch.device("cpu")

        def __len__(self):
            return 1

    Job.start = start
    Job.judged = lambda self, weights, k: self.losses(weights, k or 0)
    learner, job = mk.Unroll(rule, steps=12), Job()
    with torch.no_grad():
        _, state = learner.advance(job, learner.start(job, 12), 12)
    after = trained(net, rule.optimizer(net.parameters(), steps=12), 12)
    for ours, p in zip(state["weights"].values(), after, strict=True):
        torch.testing.assert_close(ours[0], p, rtol=1e-9, atol=1e-10)
        assert not torch.allclose(p, start[next(iter(start))][0]) if p.shape == start[next(iter(start))][0].shape else 1


def test_a_run_cut_in_two_ends_as_one(tmp_path):
    rule = shaken(mk.LearnedOptimizer(), 0.2)
    torch.manual_seed(0)
    whole, first, second = Net(), Net(), Net()
    for net in (first, second):
        net.load_state_dict(whole.state_dict())
    wanted = trained(whole, rule.optimizer(whole.parameters(), steps=20), 20)
    optimizer = rule.optimizer(first.parameters(), steps=20)
    trained(first, optimizer, 7)
    torch.save({"net": first.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "run.pt")
    kept = torch.load(tmp_path / "run.pt", weights_only=True)
    second.load_state_dict(kept["net"])
    optimizer = rule.optimizer(second.parameters(), steps=20)
    optimizer.load_state_dict(kept["optimizer"])
    assert all(map(torch.equal, trained(second, optimizer, 13, first=7), wanted))


def test_groups_have_rates_of_their_own():
    rule, net = mk.LearnedOptimizer(lr=0.1), Net()
    still = [p.detach().clone() for p in net.first.parameters()]
    groups = [{"params": net.first.parameters(), "lr": 0.0}, {"params": net.second.parameters()}]
    optimizer = rule.optimizer(groups, steps=5)
    before = net.second.weight.detach().clone()
    trained(net, optimizer, 3)
    assert all(map(torch.equal, still, net.first.parameters())) and not torch.equal(before, net.second.weight)
    assert [group["lr"] for group in optimizer.param_groups] == [0.0, 1.0]


def test_a_scheduler_and_a_closure_work_as_with_any_optimiser():
    rule, w = mk.LearnedOptimizer(lr=0.1), nn.Parameter(torch.ones(3))
    optimizer = rule.optimizer([w], steps=10)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)

    def closure():
        optimizer.zero_grad()
        loss = w.square().sum()
        loss.backward()
        return loss

    assert float(optimizer.step(closure).detach()) == 3.0
    first = 1 - float(w[0].detach())
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] == 0.5
    before = float(w[0].detach())
    optimizer.step(closure)
    assert before - float(w[0].detach()) == pytest.approx(first / 2, rel=0.05)


def test_what_has_no_gradient_stays_where_it_is():
    rule, net = mk.LearnedOptimizer(), Net()
    net.first.weight.requires_grad_(False)
    still = net.first.weight.detach().clone()
    optimizer = rule.optimizer(net.parameters(), steps=5)
    trained(net, optimizer, 2)
    assert torch.equal(still, net.first.weight) and len(optimizer.state) == 3


def test_a_gradient_that_is_not_finite_moves_nothing_and_names_the_step():
    rule, net = mk.LearnedOptimizer(), Net()
    optimizer = rule.optimizer(net.parameters(), steps=5)
    after = trained(net, optimizer, 2)
    net.second.bias.grad[0] = torch.nan
    with pytest.raises(FloatingPointError, match="NaN or infinite at step 3 of this optimiser; no weight has moved"):
        optimizer.step()
    assert all(map(torch.equal, after, net.parameters()))


def test_sparse_gradients_and_odd_parameters_are_refused():
    rule, words = mk.LearnedOptimizer(), nn.Embedding(5, 2, sparse=True)
    optimizer = rule.optimizer(words.parameters(), steps=5)
    words(torch.tensor([1])).sum().backward()
    with pytest.raises(RuntimeError, match="dense gradients, got a sparse one"):
        optimizer.step()
    with pytest.raises(ValueError, match=r"real numbers, got torch\.complex64"):
        rule.optimizer([nn.Parameter(torch.zeros(2, dtype=torch.complex64))], steps=5)
    with pytest.raises(ValueError, match="steps must be at least 1"):
        rule.optimizer(words.parameters(), steps=0)
    with pytest.raises(ValueError, match="empty parameter list"):
        rule.optimizer([], steps=5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_of_16_bits_are_moved_in_32(dtype):
    rule = mk.LearnedOptimizer(lr=1e-4)
    full, half = nn.Parameter(torch.ones(4)), nn.Parameter(torch.ones(4, dtype=dtype))
    for w in (full, half):
        optimizer = rule.optimizer([w], steps=300)
        for _ in range(100):
            w.grad = torch.ones_like(w)
            optimizer.step()
    assert half.dtype == dtype and torch.equal(half.detach(), full.detach().to(dtype)) and bool(half.detach()[0] < 1)
    optimizer.load_state_dict(optimizer.state_dict())
    assert optimizer.state[half]["weights"].dtype == torch.float32


def test_kernels_with_their_channels_innermost_are_moved_as_any():
    rule, w = mk.LearnedOptimizer(), torch.randn(4, 3, 3, 3)
    moved = []
    for layout in (torch.contiguous_format, torch.channels_last):
        kernel = nn.Parameter(w.clone().contiguous(memory_format=layout))
        optimizer = rule.optimizer([kernel], steps=5)
        for _ in range(2):
            kernel.grad = torch.ones_like(kernel)
            optimizer.step()
        moved.append(kernel.detach())
    torch.testing.assert_close(*moved)
    assert not torch.equal(moved[0], w)


def test_more_steps_than_it_was_made_or_trained_for_are_told():
    rule, w = mk.LearnedOptimizer(), nn.Parameter(torch.ones(2))
    optimizer = rule.optimizer([w], steps=2)
    w.grad = torch.ones(2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.step()
        optimizer.step()
    with pytest.warns(UserWarning, match="made for 2 steps, and this is step 3"):
        optimizer.step()
    with warnings.catch_warnings():  # once is enough
        warnings.simplefilter("error")
        optimizer.step()
    rule.trained_steps.fill_(10)
    with pytest.warns(UserWarning, match="trained on runs of up to 10 steps and is asked for 31"):
        rule.optimizer([w], steps=31)


# --- The jobs. ---


def test_the_same_seed_draws_the_same_jobs_and_another_seed_others():
    jobs = mk.tasks.TrainingJobs()
    a, b, c = (jobs.sample(2, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(a.x, b.x) and all(torch.equal(a.start[name], b.start[name]) for name in a.start)
    assert torch.equal(a.order, b.order) and (a.x.shape != c.x.shape or not torch.equal(a.x, c.x))


def test_an_epoch_of_steps_sees_every_row_once_and_the_next_in_another_order():
    batch = small_jobs(rows=64).sample(2, seed=0)
    assert batch.x.shape[1] == 64 and batch.batch == 16
    epochs = [torch.cat([batch._rows(batch.order, k, 16) for k in steps], 1) for steps in (range(4), range(4, 8))]
    for rows_seen in epochs:
        assert torch.equal(rows_seen.sort(1).values, torch.arange(64).expand(2, -1))
    assert not torch.equal(*epochs) and not torch.equal(epochs[0][0], epochs[0][1])


def test_rows_to_judge_by_are_others_than_those_trained_on():
    data = mk.tasks.LabelledData(torch.arange(40.0).view(2, 20, 1))
    batch = mk.tasks.TrainingJobs(data, rows=30, queries=10).sample(3, seed=0)
    for t in range(3):
        seen, asked = set(batch.x[t].flatten().tolist()), set(batch.query_x[t].flatten().tolist())
        assert len(seen) == 30 and len(asked) == 10 and not seen & asked
        own = batch.query_x[t, :, 0] >= 20
        assert own.equal(batch.query_y[t].bool()) or own.equal(~batch.query_y[t].bool())


def test_a_network_of_ones_own_gets_a_start_for_each_job():
    def network(inputs, outputs):
        return nn.Sequential(nn.Linear(inputs, 5), nn.Tanh(), nn.Linear(5, outputs))

    batch = small_jobs(network=network).sample(3, seed=0)
    assert {name: tuple(w.shape) for name, w in batch.start.items()}["0.weight"] == (3, 5, 6)
    assert not torch.equal(batch.start["0.weight"][0], batch.start["0.weight"][1])
    assert mk.Unroll(mk.LearnedOptimizer(), steps=2)(batch).shape == (3,)


def test_initial_weights_are_scaled_also_by_one_fixed_number():
    plain, large = (small_jobs(scale=(scale, scale)).sample(2, seed=0) for scale in (1.0, 4.0))
    for name, w in plain.start.items():
        torch.testing.assert_close(large.start[name], 4 * w)
    with pytest.raises(ValueError, match="scale must be finite and above 0"):
        small_jobs(scale=(0.0, 1.0))


def test_jobs_are_cut_and_chosen_as_batches_are():
    batch = small_jobs().sample(4, seed=0)
    learner = mk.Unroll(mk.LearnedOptimizer(), steps=3)
    whole = learner(batch)
    torch.testing.assert_close(learner(batch[1:3]), whole[1:3])
    torch.testing.assert_close(learner(batch[torch.tensor([2, 2])]), whole[[2, 2]])
    assert len(batch.to("cpu")) == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data": 3}, "data must be LabelledData, InventedTables, or a list of them, got 3"),
        ({"data": []}, "empty list"),
        ({"width": 0}, "width must be at least 1"),
        ({"rows": (5, 2)}, "low <= high"),
        ({"batch": 1.5}, "whole number"),
    ],
)
def test_what_no_job_can_be_drawn_from_is_refused(options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        mk.tasks.TrainingJobs(**options)


def test_a_condition_number_is_what_it_says():
    batch = mk.tasks.Quadratics(5, condition=50.0).sample(3, seed=0)
    values = torch.linalg.svdvals(batch.matrix)
    torch.testing.assert_close(values[:, 0] / values[:, -1], torch.full((3,), 50.0), rtol=1e-3, atol=0)
    noisy = mk.tasks.Quadratics(5, noise=1.0).sample(2, seed=0)
    assert not torch.equal(noisy.losses(noisy.start, 0), noisy.losses(noisy.start, 1))
    assert torch.equal(noisy.judged(noisy.start, 0), noisy.judged(noisy.start, 1))


# --- Unroll. ---


def test_its_loss_is_the_mean_log_of_the_loss_against_the_first():
    rule, batch = mk.SGD(lr=0.02), mk.tasks.Quadratics(3, start=1.0).sample(4, seed=1)
    weights, logs, ratios = batch.start, [], []
    first = batch.judged(weights, None)
    for k in range(5):
        w = weights["w"].clone().requires_grad_()
        (g,) = torch.autograd.grad(batch.losses({"w": w}, k).sum(), w)
        weights = {"w": (w - 0.02 * g).detach()}
        ratios.append(batch.judged(weights, None) / first)
        logs.append(ratios[-1].log())
    expected = {"log": torch.stack(logs).mean(0), "mean": torch.stack(ratios).mean(0), "last": logs[-1]}
    for objective, value in expected.items():
        learner = mk.Unroll(rule, steps=5, objective=objective)
        torch.testing.assert_close(learner(batch), value, rtol=1e-4, atol=1e-5)
    learned = mk.Unroll(mk.LearnedOptimizer(), steps=4, objective="last")  # nothing to learn before the last stretch
    assert len(mk.fit(learner=learned, tasks=mk.tasks.Quadratics(), steps=2, estimator=mk.Truncated(2)).loss) == 2


def test_first_order_takes_inner_gradients_for_constants():
    rule = mk.LearnedOptimizer().double()
    batch = mk.tasks.Quadratics(3, start=1.0).sample(2, seed=0)._each(torch.Tensor.double)
    first, second = (
        torch.autograd.grad(mk.Unroll(rule, steps=4, order=order)(batch).mean(), rule.core.log_rate)[0]
        for order in (1, 2)
    )
    assert not torch.allclose(first, second)


def test_a_job_that_diverges_does_not_stop_the_run_and_is_counted():
    class Wild(nn.Module):
        def __init__(self):
            super().__init__()
            self.log_rate = nn.Parameter(torch.tensor(0.0))

        def init_state(self, weights):
            return None

        def step(self, now, state):
            return {name: w - self.log_rate.exp() * now.grads[name] for name, w in now.weights.items()}, None

    rule = Wild()
    learner, jobs = mk.Unroll(rule, steps=60, objective="mean"), mk.tasks.Quadratics(10, start=1.0)
    history = mk.fit(learner, jobs, steps=3, meta_batch=4, progress=False)
    assert history.diverged == 12 and all(math.isfinite(loss) for loss in history.loss)
    assert math.isfinite(rule.log_rate.detach())
    result = mk.evaluate(learner, jobs, n_tasks=4)
    assert "4 of them diverged" in str(result)
    calm = mk.fit(mk.Unroll(mk.LearnedOptimizer(), steps=5), jobs, steps=2, progress=False)
    assert calm.diverged == 0


class Hopeless(nn.Module):
    """Its gradient is not finite at some of the outer steps."""

    cap = 2.0

    def __init__(self, bad):
        super().__init__()
        self.p, self.bad, self.asked = nn.Parameter(torch.ones(())), bad, 0

    def forward(self, batch):
        self.asked += 1
        odd = self.bad(self.asked)
        return (self.p * torch.ones(len(batch))).sqrt() if not odd else (0 * self.p).sqrt() * torch.ones(len(batch))


def test_a_batch_whose_gradient_is_not_finite_moves_nothing_and_counts():
    jobs = mk.tasks.Quadratics(2)
    learner = Hopeless(lambda step: step in (2, 3))
    history = mk.fit(learner, jobs, steps=5, meta_batch=4, progress=False)
    assert history.diverged == 8 and history.loss[1:3] == (2.0, 2.0) and learner.p < 1
    with pytest.raises(mk.DivergedError, match="At outer step 21 the meta-gradient was not finite"):
        mk.fit(Hopeless(lambda step: True), jobs, steps=30, meta_batch=4, progress=False)


def test_the_length_of_a_training_is_drawn_in_its_range_and_fixed_when_judged():
    learner, batch = mk.Unroll(mk.LearnedOptimizer(), steps=(5, 20)), small_jobs().sample(1, seed=0)
    drawn = {learner.start(small_jobs().sample(1, seed=seed))["steps"] for seed in range(40)}
    assert min(drawn) >= 5 and max(drawn) <= 20 and len(drawn) > 5
    halves = {learner.start(small_jobs().sample(3, seed=4)[part])["steps"] for part in (slice(0, 1), slice(1, 3))}
    assert len(halves) == 1  # a batch worked on in pieces is of one length
    assert learner.eval().start(batch)["steps"] == 20
    assert mk.evaluate(learner, small_jobs(), n_tasks=2, steps=7).at[-1] == 7


def test_jobs_of_many_sizes_train_in_one_run():
    learner = mk.Unroll(mk.LearnedOptimizer(), steps=3)
    jobs = mk.tasks.TrainingJobs(rows=(40, 80), width=(4, 12), depth=(0, 3))
    sizes = {sum(w[0].numel() for w in jobs.sample(1, seed=seed).start.values()) for seed in range(5)}
    assert len(sizes) == 5
    assert len(mk.fit(learner, jobs, steps=5, meta_batch=2, progress=False).loss) == 5


# --- The yardsticks. ---


def test_tuned_is_the_best_rate_of_each_job_tried_one_by_one():
    batch = small_jobs().sample(3, seed=2)
    tuned = mk.Tuned(steps=15)
    chosen = tuned.chosen(batch)
    each = {
        rate: [scores[TRAINING_LOSS] for _, scores in mk.Unroll(mk.Adam(lr=rate), steps=15).scores(batch)][-1].tolist()
        for rate in NINE_RATES
    }
    *_, (_, scores) = tuned.scores(batch)
    for t in range(3):
        best = min(NINE_RATES, key=lambda rate: each[rate][t])
        assert float(chosen[t]) == pytest.approx(best)
        assert float(scores[TRAINING_LOSS][t].detach()) == pytest.approx(each[best][t], rel=1e-3)


def test_a_cosine_course_ends_near_standstill():
    now = InnerStep({"w": torch.zeros(1, 1)}, {"w": torch.ones(1, 1)}, k=0, steps=4)
    rule = Scheduled(mk.SGD(lr=1.0), 0.5, "cosine")
    for k, share in enumerate([1.0, (1 + 0.5**0.5) / 2, 0.5, (1 - 0.5**0.5) / 2]):
        moved = rule.step(InnerStep(now.weights, now.grads, k=k, steps=4), None)[0]["w"]
        assert float(moved) == pytest.approx(-0.5 * share)


def test_conjugate_gradients_end_after_as_many_steps_as_dimensions():
    tasks = mk.tasks.Quadratics(6, start=1.0)
    result = mk.evaluate(mk.ConjugateGradients(steps=6), tasks, n_tasks=20)
    assert float(result.loss[:, -1].max()) < 1e-4 * float(result.loss[:, 0].mean())
    assert float(result.loss[:, -2].median()) > 1e-4
    names = {"cg": mk.ConjugateGradients(steps=6), "adam": mk.Tuned(steps=6)}
    assert mk.compare(names, tasks, n_tasks=10, seeds=1).reference == "cg"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_compiled_step_is_the_plain_one(monkeypatch):
    """Compiled whole or in pieces, a large tensor moves as the differentiable rule says."""
    from metakit.inner import in_place

    monkeypatch.setattr(in_place, "_WORTH_COMPILING", 1)
    monkeypatch.setattr(in_place, "_AT_ONCE", 70)  # several pieces, the last one shorter
    monkeypatch.setattr(in_place, "compiled", lambda step: step)  # the same arithmetic, without the minute of compiling
    rule = shaken(mk.LearnedOptimizer().double(), 0.3)
    torch.manual_seed(0)
    start, grads = torch.randn(1, 12, 13).double(), [torch.randn(1, 12, 13).double() for _ in range(5)]
    wanted = walked(rule, [{"w": g} for g in grads], {"w": start}, 5)["w"][0]
    for compile in (False, True):
        w = nn.Parameter(start[0].clone())
        optimizer = rule.optimizer([w], steps=5, compile=compile)
        for g in grads:
            w.grad = g[0].clone()
            optimizer.step()
        torch.testing.assert_close(w.detach(), wanted.detach(), rtol=1e-9, atol=1e-10)
