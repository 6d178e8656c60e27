"""MAML for agents: its derivatives against enumeration of all that can happen, its worlds against closed forms."""

import dataclasses
import itertools
import math

import pytest
import torch
from torch import nn

import metakit as mk
from metakit.agents.gradient import (
    GaussianPolicy,
    PolicyMAML,
    Rollout,
    SoftmaxPolicy,
    linear_baseline,
    roll_out,
    surrogate,
)
from metakit.contracts import RETURN, Turn
from metakit.tasks.navigation import Navigation, NavigationBatch

LR = 0.7
FIRST = torch.tensor([0.3, 1.1], dtype=torch.float64)  # payoffs of the first arm pulled
THEN = torch.tensor([[0.9, -0.4], [0.2, 1.6]], dtype=torch.float64)  # of the second, by the first


# --- A world of two pulls, small enough to enumerate. ---


@dataclasses.dataclass(frozen=True)
class Pulls:
    """T equal worlds: one or two pulls of two arms; what is seen is which arm was pulled."""

    n_tasks: int
    steps: int

    device = torch.device("cpu")

    def __len__(self):
        return self.n_tasks

    def __getitem__(self, index):
        return Pulls(len(range(self.n_tasks)[index]), self.steps)

    def to(self, device):
        return self

    def begin(self, n):
        where = torch.zeros(self.n_tasks, n, dtype=torch.int64)
        return {"where": where}, one_hot(where)

    def step(self, state, action):
        where = state["where"]
        paid = torch.where(where == 0, FIRST[action], THEN[(where - 1).clamp(min=0), action])
        return {"where": 1 + action}, Turn(paid, one_hot(1 + action))


def one_hot(where):
    return nn.functional.one_hot(where, 3).double()


class Scripted(SoftmaxPolicy):
    """It does what a script says: ``[rollout][T, n, L]``, in this order."""

    script = ()

    def draw(self, told):
        rollout, step = divmod(self.clock, self.script[0].shape[-1])
        self.clock += 1
        return self.script[rollout][..., step]


def make(steps=1, order=2, credit="sampled", episodes=1, length=2):
    policy = Scripted(3, 2, hidden=[]).double()
    policy.body.head.bias.requires_grad_(False)
    learner = PolicyMAML(
        policy, rule=mk.SGD(LR), steps=steps, order=order, episodes=episodes, credit=credit, baseline="none", later=1.0
    )
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        policy.body.head.weight.copy_(torch.randn(2, 3, generator=generator, dtype=torch.float64))
    return learner


def played(learner, script, length):
    """The loss of one task whose actions are those of the script, and its derivative with respect to the logits."""
    object.__setattr__(learner.policy, "script", [torch.tensor(each)[None] for each in script])
    object.__setattr__(learner.policy, "clock", 0)
    loss = learner(Pulls(1, length))
    return loss.detach()[0], torch.autograd.grad(loss.sum(), learner.policy.body.head.weight)[0]


# The same by hand, with nothing of metakit: logits [2, 3], an arm's in each of the three places.


def ways(length):
    return list(itertools.product(range(2), repeat=length))


def payoffs(way):
    return [float(FIRST[way[0]]), *(float(THEN[way[0], a]) for a in way[1:])]


def places(way):
    return [0, *(1 + a for a in way[:-1])]


def chance(logits, way):
    return math.prod(float(logits[:, s].softmax(0)[a]) for s, a in zip(places(way), way, strict=True))


def expected(logits, length):
    return sum(chance(logits, way) * sum(payoffs(way)) for way in ways(length))


def moved(logits, episodes):
    """One inner step by hand: d log softmax_a / d logits = e_a - softmax, times the return to come."""
    total = torch.zeros_like(logits)
    for way in episodes:
        paid = payoffs(way)
        for k, (s, a) in enumerate(zip(places(way), way, strict=True)):
            score = -logits[:, s].softmax(0)
            score[a] += 1
            total[:, s] += score * sum(paid[k:]) / (len(way) * len(episodes))
    return logits + LR * total


def adapted_return(logits, steps, length):
    """E[return after K steps], over all that can be played on the way, one episode at each step."""
    if steps == 0:
        return expected(logits, length)
    return sum(chance(logits, way) * adapted_return(moved(logits, [way]), steps - 1, length) for way in ways(length))


def numerical(f, at, eps=1e-5):
    grad = torch.zeros_like(at)
    for i in range(at.numel()):
        step = torch.zeros_like(at).view(-1)
        step[i] = eps
        step = step.view_as(at)
        grad.view(-1)[i] = (f(at + step) - f(at - step)) / (2 * eps)
    return grad


def estimated(learner, length):
    """The mean of the loss and of its derivative over all that can be played, with one episode at a time."""
    logits = learner.policy.body.head.weight.detach().clone()
    mean, total, sure = 0.0, torch.zeros_like(logits), 0.0
    for script in itertools.product(ways(length), repeat=learner.steps + 1):
        p, w = 1.0, logits
        for way in script:
            p *= chance(w, way)
            w = moved(w, [way])
        loss, grad = played(learner, [[way] for way in script], length)
        mean, total, sure = mean + p * float(loss), total + p * grad, sure + p
    assert sure == pytest.approx(1, abs=1e-12)
    return mean, total


@pytest.mark.parametrize(("steps", "length"), [(0, 2), (1, 1), (1, 2), (2, 1), (2, 2)])
def test_the_sampled_estimate_is_the_derivative_of_the_return_after_adaptation(steps, length):
    learner = make(steps)
    mean, grad = estimated(learner, length)
    logits = learner.policy.body.head.weight.detach()
    assert mean == pytest.approx(-adapted_return(logits, steps, length), abs=1e-12)
    right = numerical(lambda w: -adapted_return(w, steps, length), logits)
    assert float(right.abs().max()) > 0.05
    torch.testing.assert_close(grad, right, rtol=0, atol=1e-8)


@pytest.mark.parametrize("credit", ["none", "local", "dice"])
def test_without_the_sampling_of_single_episodes_it_is_another_derivative(credit):
    right = estimated(make(), 2)[1]
    assert (estimated(make(credit=credit), 2)[1] - right).abs().max() > 0.005


@pytest.mark.parametrize("credit", ["none", "local", "dice"])
def test_first_order_is_the_mean_derivative_at_the_adapted_weights(credit):
    learner = make(order=1, credit=credit)
    logits = learner.policy.body.head.weight.detach()
    right = sum(chance(logits, way) * numerical(lambda w: -expected(w, 2), moved(logits, [way])) for way in ways(2))
    torch.testing.assert_close(estimated(learner, 2)[1], right, rtol=0, atol=1e-8)


def hessian_of(credit, length, logits):
    """The mean second derivative of the surrogate over all episodes, times L."""

    def loss(w):
        total = 0.0
        for way in ways(length):
            told = torch.stack([w[:, s].log_softmax(0)[a] for s, a in zip(places(way), way, strict=True)])
            paid = torch.tensor(payoffs(way), dtype=torch.float64).flip(0).cumsum(0).flip(0)
            total = total + chance(w.detach(), way) * surrogate(told[None, None], paid[None, None], credit)[0]
        return length * total

    return torch.autograd.functional.hessian(loss, logits).reshape(6, 6)


@pytest.mark.parametrize(
    ("credit", "length", "exact"),
    [("dice", 1, True), ("dice", 2, True), ("local", 1, True), ("local", 2, False), ("none", 1, False)],
)
def test_second_derivatives_of_the_surrogate(credit, length, exact):
    logits = make().policy.body.head.weight.detach()
    right = numerical_hessian(lambda w: -expected(w, length), logits)
    error = float((hessian_of(credit, length, logits) - right).abs().max())
    assert error < 1e-5 if exact else error > 0.02


def numerical_hessian(f, at):
    rows = [numerical(lambda w, i=i: numerical(f, w, 1e-3).view(-1)[i], at, 1e-3).view(-1) for i in range(at.numel())]
    return torch.stack(rows)


def test_where_every_episode_is_met_once_dice_is_the_derivative_through_the_expected_step():
    """From equal logits the four ways are equally likely: played once each, they are the expectation itself."""
    learner = make(credit="dice", episodes=4)
    with torch.no_grad():
        learner.policy.body.head.weight.zero_()
    start, every = torch.zeros(2, 3, dtype=torch.float64), ways(2)

    def after(w):
        return w + LR / 2 * numerical(lambda v: expected(v, 2), w)

    grad = sum(chance(after(start), way) * played(learner, [every, [way] * 4], 2)[1] for way in every)
    right = numerical(lambda w: -expected(after(w), 2), start, 1e-4)
    torch.testing.assert_close(grad, right, rtol=0, atol=1e-6)
    local = make(credit="local", episodes=4)
    with torch.no_grad():
        local.policy.body.head.weight.zero_()
    biased = sum(chance(after(start), way) * played(local, [every, [way] * 4], 2)[1] for way in every)
    assert (biased - right).abs().max() > 0.01


def test_a_tasks_own_return_is_not_in_its_baseline():
    """With two tasks the score of each counts by how far its return is from the other's."""
    learner = make()
    object.__setattr__(
        learner.policy, "script", [torch.tensor([[[0, 1]], [[1, 1]]]), torch.tensor([[[0, 0]], [[1, 1]]])]
    )
    object.__setattr__(learner.policy, "clock", 0)
    both = torch.autograd.grad(learner(Pulls(2, 2))[0], learner.policy.body.head.weight)[0]
    alone = played(learner, [[(0, 1)], [(0, 0)]], 2)[1]
    logits = learner.policy.body.head.weight.detach().requires_grad_()
    score = sum(logits[:, s].log_softmax(0)[a] for s, a in zip(places((0, 1)), (0, 1), strict=True))
    shift = torch.autograd.grad(score, logits)[0] * sum(payoffs((1, 1)))
    torch.testing.assert_close(both, alone + shift, rtol=0, atol=1e-12)


# --- The worlds. ---


def test_a_point_moves_by_clipped_velocities_and_pays_its_distance():
    worlds = NavigationBatch(torch.tensor([[0.3, 0.4], [0.0, -0.2]]), 3)
    speeds = torch.tensor([[[9.0, 0.05]], [[-0.02, -9.0]]])
    rollout = roll_out(worlds, lambda seen: speeds, 1)
    k = torch.arange(4.0)
    right = torch.stack([torch.stack([0.1 * k, 0.05 * k], 1), torch.stack([-0.02 * k, -0.1 * k], 1)])[:, None]
    torch.testing.assert_close(rollout.observations, right)
    away = (right[:, :, 1:] - worlds.goals[:, None, None]).square().sum(-1).sqrt()
    torch.testing.assert_close(rollout.rewards, -away)
    torch.testing.assert_close(rollout.returns, -away.sum(-1))
    torch.testing.assert_close(rollout.to_come[..., 1], -away[..., 1:].sum(-1))


def test_an_episode_ends_at_its_goal_and_pays_no_more():
    worlds = NavigationBatch(torch.tensor([[0.105, 0.0], [0.112, 0.0]]), 5)  # 0.005 and 0.012 away after a step
    rollout = roll_out(worlds, lambda seen: torch.tensor([0.1, 0.0]).expand_as(seen), 2)
    assert rollout.alive[0].tolist() == [[True, False, False, False, False]] * 2 and bool(rollout.alive[1].all())
    torch.testing.assert_close(rollout.returns[0], torch.full((2,), -0.005))
    torch.testing.assert_close(rollout.observations[0, 0, 1:], torch.tensor([0.1, 0.0]).expand(5, 2))


def test_the_optimum_is_reached_by_the_straight_way_and_never_exceeded():
    worlds = Navigation().sample(500, seed=0)
    rollout = roll_out(worlds, lambda seen: worlds.goals[:, None] - seen, 1)
    torch.testing.assert_close(rollout.returns[:, 0], worlds.optimum(), rtol=0, atol=1e-5)
    torch.manual_seed(0)
    wild = roll_out(worlds, lambda seen: worlds.goals[:, None] - seen + 0.05 * torch.randn_like(seen), 20)
    assert bool((wild.returns <= worlds.optimum()[:, None] + 1e-6).all())
    slow = roll_out(worlds, lambda seen: 0.5 * (worlds.goals[:, None] - seen), 1)
    assert bool((slow.returns[:, 0] <= worlds.optimum() + 1e-6).all())


def test_to_stay_pays_the_mean_distance_of_a_goal_at_each_step():
    """The mean distance of a point of a square from its centre: side / 6 (sqrt 2 + asinh 1), 0.3826 for side 1."""
    worlds = Navigation().sample(20000, seed=0)
    paid = roll_out(worlds, torch.zeros_like, 1).returns.mean()
    assert float(paid) == pytest.approx(-100 / 6 * (2**0.5 + math.asinh(1)), abs=0.4)  # 4 standard errors


def test_the_same_seed_draws_the_same_goals():
    tasks = Navigation(7, half_side=2.0)
    a, b = tasks.sample(5, seed=3), tasks.sample(5, generator=torch.Generator().manual_seed(3))
    assert torch.equal(a.goals, b.goals) and a.steps == 7 and float(a.goals.abs().max()) > 0.5
    assert torch.equal(a[1:3].goals, a.goals[1:3]) and len(a[1:3]) == 2 and a.to("cpu").numel() == 10


# --- The baseline and the policies. ---


def test_the_baseline_fits_returns_that_are_linear_in_its_features():
    torch.manual_seed(0)
    seen, t = torch.randn(3, 20, 31, 2, dtype=torch.float64), torch.arange(30, dtype=torch.float64) / 30
    x = seen[:, :, :-1]
    to_come = x @ torch.tensor([2.0, -1.0]).double() + x[..., 0] ** 2 + 3 + t - 2 * t**2 + 5 * t**3
    rewards = to_come - nn.functional.pad(to_come, (0, 1))[..., 1:]
    alive = torch.ones(3, 20, 30, dtype=torch.bool)
    rollout = Rollout(seen, torch.zeros_like(x), rewards, alive)
    torch.testing.assert_close(linear_baseline(rollout), to_come, rtol=0, atol=1e-4)
    alive[:, 5:, 10:] = False  # what lies beyond an end plays no part
    other = torch.where(alive, rewards, 1e3)
    cut = Rollout(seen, torch.zeros_like(x), rewards * alive, alive)
    assert not torch.allclose(linear_baseline(Rollout(seen, x, other, alive)), linear_baseline(cut), atol=1.0)
    beyond = Rollout(torch.where(nn.functional.pad(alive, (0, 1))[..., None], seen, 1e3), x, rewards * alive, alive)
    torch.testing.assert_close(linear_baseline(beyond)[alive], linear_baseline(cut)[alive])


def test_inner_advantages_have_mean_zero_and_spread_one_within_the_episodes():
    torch.manual_seed(0)
    learner = PolicyMAML(GaussianPolicy(2, 2, std=0.1))
    rollout = learner.rollouts(NavigationBatch(torch.tensor([[0.1, 0.0], [0.4, 0.4]]), 30), 0)[0]
    assert not bool(rollout.alive.all())
    a = learner.advantages(rollout, scaled=True)
    assert bool((a[~rollout.alive] == 0).all())
    for task in range(2):
        within = a[task][rollout.alive[task]]
        assert float(within.mean()) == pytest.approx(0, abs=1e-5)
        assert float(within.square().mean()) == pytest.approx(1, abs=1e-4)


def test_policies_say_the_chances_of_torchs_distributions():
    torch.manual_seed(0)
    gauss, soft = GaussianPolicy(3, 2, std=0.7), SoftmaxPolicy(3, 4)
    for policy in (gauss, soft):
        nn.init.normal_(policy.body.head.weight)
    x = torch.randn(6, 3)
    mean, log_std = gauss(x).chunk(2, -1)
    right = torch.distributions.Normal(mean, log_std.exp())
    a = gauss.draw(gauss(x))
    torch.testing.assert_close(gauss.chances(gauss(x), a), right.log_prob(a).sum(-1))
    assert log_std.exp().tolist()[0] == pytest.approx([0.7, 0.7])
    b = soft.draw(soft(x))
    torch.testing.assert_close(soft.chances(soft(x), b), torch.distributions.Categorical(logits=soft(x)).log_prob(b))
    many = gauss(x[:1]).expand(20000, -1)
    drawn = gauss.draw(many)
    torch.testing.assert_close(drawn.mean(0), mean[0].detach(), rtol=0, atol=0.02)
    torch.testing.assert_close(drawn.std(0), log_std[0].exp().detach(), rtol=0, atol=0.02)


def test_weights_of_each_task_are_used_for_that_task_alone():
    policy = GaussianPolicy(2, 2).double()
    weights = {n: torch.randn(3, *p.shape, dtype=torch.float64) for n, p in policy.named_parameters()}
    x = torch.randn(3, 5, 2, dtype=torch.float64)
    for t in range(3):
        one = torch.func.functional_call(policy, {n: w[t] for n, w in weights.items()}, x[t])
        torch.testing.assert_close(mk.nn.run(policy, weights, x)[t], one)


# --- The learner in the house. ---


def small(**options):
    torch.manual_seed(0)
    return PolicyMAML(GaussianPolicy(2, 2, hidden=[8], std=0.1), **({"episodes": 5} | options))


def test_it_learns_to_adapt():
    learner, tasks = small(rule=mk.LearnedSGD(0.1, per="tensor"), episodes=10), Navigation(15)
    mk.fit(learner, tasks, steps=40, meta_batch=10, lr=0.01, progress=False)
    result = mk.evaluate(learner, tasks, n_tasks=100, steps=2)
    assert result.measure == RETURN and result.axis == "inner steps" and result.at == (0, 1, 2)
    before, once, twice = result.mean().tolist()
    assert -7.5 < before < -5.0  # 15 steps at the mean distance: -5.7
    assert once > -4.5 and twice > -3.8


def test_it_is_compared_on_the_same_tasks():
    result = mk.compare({"first": small(order=1), "second": small()}, Navigation(5), n_tasks=10, seeds=2)
    assert result.measure == RETURN and result.episodes == 20


def test_paths_begin_at_the_origin_and_follow_each_inner_step():
    worlds = Navigation(6).sample(3, seed=0)
    torch.manual_seed(1)
    paths = small(later=0.0).paths(worlds, 2)
    assert [list(path.shape) for path in paths] == [[3, 5, 7, 2]] * 3
    assert all(bool((path[:, :, 0] == 0).all()) for path in paths)
    assert small().paths(worlds)[0].requires_grad is False and len(small().paths(worlds)) == 2


class Upwards(nn.Module):
    """A rule that adds one, and keeps what it was told."""

    def __init__(self):
        super().__init__()
        self.told = []

    def init_state(self, weights):
        return None

    def step(self, now, state):
        self.told.append(now)
        return {name: w + 1 for name, w in now.weights.items()}, None


def test_the_rule_moves_less_after_the_first_step():
    rule = Upwards()
    small(rule=rule, later=0.25).rollouts(Navigation(3).sample(2, seed=0), 3)
    at = [float(now.weights["log_std"].detach().mean()) for now in rule.told]
    assert [now.k for now in rule.told] == [0, 1, 2]
    assert at[1] - at[0] == pytest.approx(1, abs=1e-5) and at[2] - at[1] == pytest.approx(0.25, abs=1e-5)


def test_judging_is_pure_and_repeatable_even_in_inference_mode():
    learner, worlds = small(), Navigation(6).sample(4, seed=0)
    before = {name: p.clone() for name, p in learner.state_dict().items()}
    with torch.inference_mode():
        inside = mk.evaluate(learner, worlds, n_tasks=4, steps=2).score
    assert torch.equal(inside, mk.evaluate(learner, worlds, n_tasks=4, steps=2).score)
    assert all(torch.equal(p, before[name]) for name, p in learner.state_dict().items())


def test_it_is_saved_and_loaded(tmp_path):
    learner = small(rule=mk.LearnedSGD(0.2, per="tensor"), order=1, credit="dice", later=0.3, steps=2)
    mk.fit(learner, Navigation(5), steps=2, progress=False)
    mk.save(learner, tmp_path / "agent.pt")
    again = mk.load(tmp_path / "agent.pt")
    assert repr(again) == repr(learner) and (again.order, again.credit, again.later) == (1, "dice", 0.3)
    scores = [mk.evaluate(each, Navigation(5), n_tasks=6).score for each in (learner, again)]
    assert torch.equal(*scores)
    mk.save(SoftmaxPolicy(3, 2), tmp_path / "policy.pt")
    assert mk.load(tmp_path / "policy.pt").hidden == [32, 32]


def test_it_resumes_to_the_bit(tmp_path):
    options = {"meta_batch": 4, "progress": False}
    whole, resumed, path = small(), small(), tmp_path / "run.pt"
    history = mk.fit(whole, Navigation(5), steps=6, **options)
    mk.fit(small(), Navigation(5), steps=3, checkpoint=path, **options)
    torch.rand(7)
    again = mk.fit(resumed, Navigation(5), steps=6, checkpoint=path, resume=True, **options)
    assert again.loss == history.loss
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))


def test_any_network_is_a_policy():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 2)

        def forward(self, x):
            return self.layer(x)

        def draw(self, told):
            return told + torch.randn_like(told)

        def chances(self, told, actions):
            return -(actions - told).square().sum(-1) / 2

    learner = PolicyMAML(Own(), episodes=3)
    losses = learner(Navigation(4).sample(2, seed=0))
    losses.sum().backward()
    assert losses.shape == (2,) and float(learner.policy.layer.bias.grad.abs().sum()) > 0


# --- The door. ---


@pytest.mark.parametrize(
    ("make", "kind", "words"),
    [
        (lambda: Navigation(0), ValueError, "steps must be at least 1"),
        (lambda: Navigation(half_side=0.0), ValueError, "half_side must be finite and above 0"),
        (lambda: NavigationBatch(torch.zeros(2)), ValueError, r"goals must be \[T, 2\]"),
        (lambda: NavigationBatch(torch.full((1, 2), torch.nan)), ValueError, "goals must be finite"),
        (lambda: GaussianPolicy(2, 2, std=0.0), ValueError, "std must be finite and above 0"),
        (lambda: SoftmaxPolicy(2, 1), ValueError, "actions must be at least 2"),
        (lambda: PolicyMAML(mk.models.MLP(2, [4], 2)), TypeError, "policy must have draw and chances"),
        (lambda: PolicyMAML(object()), TypeError, "model must be a torch.nn.Module"),
        (lambda: small(order=3), ValueError, "order must be one of 1, 2"),
        (lambda: small(episodes=0), ValueError, "episodes must be at least 1"),
        (lambda: small(steps=-1), ValueError, "steps must be at least 0"),
        (lambda: small(credit="lvc"), ValueError, "credit must be one of local, dice, none, sampled"),
        (lambda: small(baseline="value"), ValueError, "baseline must be one of linear, none"),
        (lambda: small(later=-0.1), ValueError, "later must be finite and at least 0"),
        (lambda: small(order=1, credit="sampled"), ValueError, "needs order=2"),
        (lambda: small(rule="sgd"), TypeError, "rule must be an nn.Module"),
        (lambda: small()(mk.tasks.Sinusoids().sample(2)), TypeError, "got TaskBatch"),
        (lambda: mk.evaluate(small(), Navigation(3), n_tasks=4, steps=-1), ValueError, "steps must be at least 0"),
    ],
)
def test_what_is_wrong_is_refused_at_the_door(make, kind, words):
    with pytest.raises(kind, match=words):
        make()


@pytest.mark.parametrize(
    ("turn", "words"),
    [
        (Turn(torch.zeros(2), torch.zeros(2, 3, 2)), r"rewards \[2, 3\]"),
        (Turn(torch.zeros(2, 3)), "got .* and None"),
        (Turn(torch.full((2, 3), torch.nan), torch.zeros(2, 3, 2)), "a reward was NaN"),
    ],
)
def test_worlds_that_answer_wrongly_are_told(monkeypatch, turn, words):
    monkeypatch.setattr(NavigationBatch, "step", lambda self, state, action: (state, turn))
    with pytest.raises(ValueError, match=words):
        roll_out(NavigationBatch(torch.zeros(2, 2), 2), torch.zeros_like, 3)
