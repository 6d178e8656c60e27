"""Agents looked at: beliefs, regret, read-outs, episodes and paths against closed forms and independent reckonings."""

import dataclasses

import pytest
import torch
from torch import nn

import metakit as mk
from metakit import plots, records
from metakit.agents import Agent, Forgetful, play
from metakit.agents.gradient import GaussianPolicy, PolicyMAML
from metakit.agents.planners import KnownModel
from metakit.agents.players import UCB1, Thompson
from metakit.contracts import Turn
from metakit.randomness import Dice, apart
from metakit.tasks.bandits import BanditBatch, Bandits
from metakit.tasks.mdps import MDPs
from metakit.tasks.navigation import NavigationBatch
from metakit.widgets.bandits import SameArms

SMALL = MDPs(4, 3, 5, episodes=3)


def labels(ax):
    return ax.get_legend_handles_labels()[1]


class Always(Agent):
    """One arm for ever."""

    def __init__(self, arm):
        super().__init__()
        self.arm = arm

    def begin(self, n_tasks, arms, pulls, observation, device):
        return {}

    def remember(self, state, action, reward, observation, done):
        return {}

    def choose(self, state, sample):
        return torch.full((state["n_tasks"],), self.arm)


def shaken(agent, seed=0):
    """An agent whose heads say something, and whose choices depend on what it remembers."""
    torch.manual_seed(seed)
    for tensor in agent.parameters():
        tensor.data += 0.5 * torch.randn_like(tensor)
    return agent


# --- Beliefs. ---


def test_the_densities_are_those_of_beta():
    s, f = [0, 3, 40, 100, 0], [0, 1, 20, 0, 100]
    record = records.belief_curves(s, f)
    inside = record.x[1:-1]
    for i in range(5):
        beta = torch.distributions.Beta(torch.tensor(1.0 + s[i]).double(), torch.tensor(1.0 + f[i]).double())
        torch.testing.assert_close(record.density[i, 1:-1], beta.log_prob(inside).exp(), rtol=1e-8, atol=1e-12)
        assert float(record.mean[i]) == pytest.approx(float(beta.mean))
    assert record.density[0].tolist() == pytest.approx([1.0] * 401) and record.density.isfinite().all()


def test_the_chance_to_be_the_best_is_that_of_two_arms_by_hand():
    # P(x > y) of x ~ Beta(2, 1), y ~ U[0, 1] is the integral of 2x * x
    assert records.belief_curves([1, 0], [0, 0]).best.tolist() == pytest.approx([2 / 3, 1 / 3], abs=1e-4)
    assert records.belief_curves([0, 0, 0], [0, 0, 0]).best.tolist() == pytest.approx([1 / 3] * 3, abs=1e-9)


def test_the_chance_to_be_the_best_is_how_often_thompson_pulls_an_arm():
    s, f = torch.tensor([3.0, 9.0, 0.0, 0.0]), torch.tensor([1.0, 5.0, 0.0, 4.0])
    player, n = Thompson(), 40_000
    state = player.start(n, arms=4, pulls=30) | {"pulled": (s + f).expand(n, 4), "paid": s.expand(n, 4)}
    torch.manual_seed(0)
    share = torch.bincount(player.act(state), minlength=4) / n
    record = records.belief_curves(s, f)
    assert (share - record.best).abs().max() < 4 * 0.5 / n**0.5
    assert "arm 1 has the highest mean, 0.67; " in str(record)
    assert int(
        share.argmax()
    ) == 0 and f"it is the likeliest to be the best, with a chance of {100 * record.best[0]:.0f}%" in str(record)


@pytest.mark.parametrize(("s", "f"), [([1], [1, 2]), ([-1], [0]), ([], []), ([[1]], [[1]])])
def test_counts_that_are_none_are_refused(s, f):
    with pytest.raises(ValueError, match="counts of the same arms"):
        records.belief_curves(s, f)


# --- Regret. ---


def test_the_regret_of_one_arm_for_ever_is_its_gap_times_the_pulls():
    tasks = SameArms(torch.tensor([0.25, 1.0, 0.5]), 6)
    record = records.regret_curves({"bad": Always(0), "best": Always(1)}, tasks, n_tasks=20)
    torch.testing.assert_close(record.regret, torch.arange(1.0, 7)[None] * torch.tensor([[0.75], [0.0]]))
    assert record.half.abs().max() < 1e-6 and record.lost["bad"] == 4.5
    assert record.returns["best"] == 6.0 and record.paid[1].tolist() == [1, 2, 3, 4, 5, 6]
    assert "mean over 20 worlds: best 0 +- 0, bad 4.5" in str(record)


def test_all_players_play_the_same_worlds_and_leave_the_generator_alone():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    record = records.regret_curves({"first": Always(0), "again": Always(0)}, Bandits(3, 5), n_tasks=30)
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(record.regret[0], record.regret[1]) and torch.equal(record.paid[0], record.paid[1])
    worlds = Bandits(3, 5).sample(30, seed=1)
    lost = (worlds.best - worlds.means[:, 0]) * 5
    assert record.lost["first"] == pytest.approx(float(lost.mean()), rel=1e-5)
    assert float(record.half[0, -1]) == pytest.approx(1.96 * float(lost.std()) / 30**0.5, rel=1e-3)


def test_luck_knows_nothing_of_the_arms():
    """A first pull at random loses 5/6 - 1/2; a tie that is broken by the numbers the arms came from loses nothing."""
    record = records.regret_curves({"UCB1": UCB1()}, Bandits(5, 1), n_tasks=2000)
    assert abs(record.lost["UCB1"] - 1 / 3) < 2 * float(record.half[0, 0]) < 0.06


class Silent(BanditBatch):
    """Arms that do not say what a pull is worth."""

    def step(self, state, action):
        return state, Turn(super().step(state, action)[1].reward)


class SilentArms(SameArms):
    def sample(self, n_tasks, **options):
        return Silent(self.means.expand(n_tasks, -1), self.pulls)


def test_regret_that_is_not_known_is_refused():
    with pytest.raises(ValueError, match="Silent gives no merit"):
        records.regret_curves({"one": Always(0)}, SilentArms(torch.tensor([0.2, 0.4]), 3), n_tasks=2)
    with pytest.raises(ValueError, match="got none"):
        records.regret_curves({}, Bandits(2, 3))


# --- What a memory holds. ---


class Stub(mk.RL2):
    """It pulls at random, and remembers what it is made to."""

    def __init__(self, kind):
        super().__init__(3, hidden=3)
        self.kind = kind

    def choose(self, state, sample):
        return torch.randint(0, 3, (state["n_tasks"],))

    def begin(self, n_tasks, arms, pulls, observation, device):
        nothing = torch.zeros(n_tasks, 3)
        return {"pulled": nothing, "paid": nothing, "arms": 3}

    def remember(self, state, action, reward, observation, done):
        which = nn.functional.one_hot(action, 3).float()
        pulled, paid = state["pulled"] + which, state["paid"] + which * reward[:, None]
        posterior = (paid + 1) / (pulled + 2)
        mixed = posterior @ torch.tensor([[1.0, 2.0, 0.0], [0.0, 1.0, 3.0], [1.0, 0.0, 1.0]]) - 0.7
        hidden = {
            "mixed": mixed,
            "blank": 0 * paid,
            "last": which * (reward[:, None] - 0.5),
            "noise": torch.randn_like(paid),
        }
        return {"pulled": pulled, "paid": paid, "hidden": hidden[self.kind]}


def test_a_state_that_holds_the_posterior_is_read_to_the_full_and_an_empty_one_not_at_all():
    record = records.read_out(Stub("mixed"), Bandits(3, 8), n_tasks=400, control=Stub("blank"))
    assert record.pulls.tolist() == list(range(1, 8)) and record.trials == 400
    assert (record.trained > 0.999).all() and (record.untrained.abs() < 0.05).all()
    assert "R^2 of the posterior means after 7 pulls: 1.00 of the trained state" in str(record)


def test_a_read_out_is_judged_on_other_trials():
    record = records.read_out(Stub("noise"), Bandits(3, 8), n_tasks=12, control=Stub("blank"))
    assert (record.trained < 0.3).all() and float(record.trained.mean()) < -0.2  # on its own 6 trials it explains half


def test_a_state_that_holds_the_last_pull_alone_says_less_and_less():
    record = records.read_out(Stub("last"), Bandits(3, 8), n_tasks=2000, control=Stub("mixed"))
    assert float(record.trained[0]) > 0.999 and float(record.trained[-1]) < 0.3
    assert (record.untrained > 0.999).all()  # it was told the same pulls, not its own


def test_the_control_is_an_untrained_agent_of_the_same_size_told_the_same():
    agent = shaken(mk.RL2(3, hidden=8))
    one, again = (records.read_out(agent, Bandits(3, 6), n_tasks=100, control=c) for c in (None, agent))
    assert torch.equal(one.trained, again.trained) and torch.equal(again.untrained, again.trained)
    assert not torch.equal(one.untrained, one.trained)


def test_worlds_without_a_known_posterior_are_refused():
    for tasks in (Bandits(2, 5, kind="gaussian"), Bandits(2, 1), MDPs(1, 2, 5)):
        with pytest.raises(ValueError, match="Bernoulli bandits of at least 2 pulls"):
            records.read_out(mk.RL2(2), tasks, n_tasks=4)


# --- Episodes of a trial. ---


def test_a_forgetful_agent_begins_each_episode_as_its_first():
    agent = shaken(mk.RL2(3, (4,), hidden=6))
    worlds = SMALL.sample(7, seed=2)
    forgetful = Forgetful(agent)
    torch.manual_seed(0)
    played, held = play(forgetful, worlds, steps=5)
    torch.manual_seed(0)
    own, kept = play(agent, worlds, steps=5)
    assert torch.equal(played.actions, own.actions)
    seen = nn.functional.one_hot(torch.zeros(7, dtype=torch.int64), 4).float()
    fresh = agent.start(7, pulls=15, observation=seen)
    torch.testing.assert_close(forgetful.policy(held.agent)[0], agent.policy(fresh)[0])
    assert not torch.allclose(agent.policy(kept.agent)[0], agent.policy(fresh)[0], atol=1e-3)
    told = held.agent
    assert torch.equal(told["observation"], seen) and told["k"] == 5 and told["own"]["k"] == 0


def test_a_forgetful_agent_can_be_trained():
    agent = mk.RL2(3, (4,), hidden=6)
    before = agent.head.weight.clone()
    mk.fit(Forgetful(agent), SMALL, steps=3, meta_batch=4, progress=False)
    assert not torch.equal(agent.head.weight, before)


def test_episodes_that_do_not_end_together_are_refused():
    agent = Forgetful(mk.RL2(2, hidden=3))
    state = agent.start(2, pulls=4)
    with pytest.raises(ValueError, match="end together"):
        agent.observe(state, torch.tensor([0, 1]), torch.zeros(2), done=torch.tensor([True, False]))


def test_each_episode_pays_what_was_paid_in_it():
    agent = shaken(mk.RL2(3, (4,), hidden=6))
    record = records.episode_returns({"own": agent, "lost": Forgetful(agent)}, SMALL, n_tasks=50, seed=4)
    assert torch.equal(record.mean[0, 0], record.mean[1, 0]) and not torch.equal(record.mean[0], record.mean[1])
    worlds = SMALL.sample(50, seed=4)
    with Dice(apart(4)):
        rewards = play(agent, worlds)[0].rewards
    sums = torch.stack([rewards[:, 5 * i : 5 * i + 5].sum(1) for i in range(3)], 1)
    torch.testing.assert_close(record.mean[0], sums.mean(0))
    torch.testing.assert_close(record.half[0], 1.96 * sums.std(0) / 50**0.5, rtol=1e-3, atol=1e-4)
    assert record.names == ("own", "lost") and record.trials == 50 and "in the last of 3; lost" in str(record)


def test_who_knows_the_world_earns_the_best_in_every_episode():
    worlds = SMALL.sample(600, generator=torch.Generator().manual_seed(1))
    record = records.episode_returns({"told": KnownModel(worlds)}, SMALL, n_tasks=600)
    assert ((record.mean[0] - record.best).abs() < 2 * record.half[0]).all() and float(record.half.max()) < 0.3


def test_worlds_without_episodes_are_refused():
    with pytest.raises(TypeError, match="Take MDPs"):
        records.episode_returns({"one": Always(0)}, Bandits(2, 5), n_tasks=4)


# --- Paths to a goal. ---


def straight(velocity, **options):
    """A policy that moves by one velocity, with the least noise there can be."""
    policy = GaussianPolicy(2, 2, hidden=(4,), std=1e-9)
    learner = PolicyMAML(policy, episodes=5, **options)
    bias = next(p for name, p in policy.named_parameters() if name.endswith("bias") and p.shape == (2,))
    bias.data = torch.tensor(velocity)
    return learner


def test_a_policy_that_goes_straight_leaves_a_straight_path_and_its_return():
    record = records.navigation_paths(straight([0.04, -0.02]), (0.4, -0.2), 0, length=6)
    k = torch.arange(7.0)[:, None]
    expected = k * torch.tensor([0.04, -0.02])
    assert record.paths.shape == (1, 5, 7, 2) and record.steps == 0
    torch.testing.assert_close(record.paths[0], expected.expand(5, 7, 2), rtol=0, atol=0.03)  # noise of 0.0025 a step
    away = (expected[1:] - torch.tensor([0.4, -0.2])).norm(dim=1).sum()
    assert float(record.mean[0]) == pytest.approx(-float(away), abs=0.1)
    assert record.best == pytest.approx(float(NavigationBatch(torch.tensor([[0.4, -0.2]]), 6).optimum()))
    assert "goal (0.40, -0.20): mean return -" in str(record) and "adaptation; the best" in str(record)


def test_the_paths_are_those_of_the_learner():
    learner = PolicyMAML(GaussianPolicy(2, 2, hidden=(8,), std=0.1), episodes=4)
    before = {name: w.clone() for name, w in learner.state_dict().items()}
    record = records.navigation_paths(learner, (0.1, 0.4), 2, length=12, seed=5)
    with Dice(5):
        rollouts = learner.rollouts(NavigationBatch(torch.tensor([[0.1, 0.4]]), 12), 2)
    torch.testing.assert_close(record.paths, torch.stack([rollout.observations[0] for rollout in rollouts]))
    torch.testing.assert_close(record.returns, torch.stack([rollout.returns[0] for rollout in rollouts]))
    assert all(torch.equal(w, before[name]) for name, w in learner.state_dict().items())
    assert "then -" in str(record) and "after 2 inner steps" in str(record)


def test_the_factor_multiplies_the_first_move():
    """With the noise at its least, the mean path after one step tells how far the weights have gone."""
    learner = PolicyMAML(GaussianPolicy(2, 2, hidden=(8,), std=0.1), rule=mk.SGD(lr=0.001), episodes=20)
    options = {"length": 20, "seed": 1}
    still, one, two = (
        records.navigation_paths(learner, (0.5, 0.5), 1, factor=factor, **options) for factor in (0.0, 1.0, 2.0)
    )
    assert torch.equal(still.paths[0], one.paths[0]) and torch.equal(one.paths[0], two.paths[0])
    moved = [float((record.paths[1, :, 1] - still.paths[1, :, 1]).norm()) for record in (one, two)]
    assert moved[1] == pytest.approx(2 * moved[0], rel=0.1) and moved[0] > 1e-4


@pytest.mark.parametrize(
    ("options", "message"),
    [({"steps": -1}, "steps must be"), ({"factor": -1.0}, "factor must be"), ({"length": 0}, "steps must be")],
)
def test_paths_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        records.navigation_paths(straight([0.0, 0.0]), (0.1, 0.1), **options)


# --- What is drawn. ---


def test_the_pictures_of_beliefs_say_what_they_show():
    record = records.belief_curves([0, 3, 6], [0, 1, 2])
    fig, axes = plots.figure(12, 3.6, columns=2)
    plots.draw_belief_curves(axes[0], record)
    plots.draw_beliefs(axes[1], record, means=torch.tensor([0.1, 0.5, 0.9]), last=2)
    assert labels(axes[0]) == ["arm 1: 0/0 paid", "arm 2: 3/4 paid", "arm 3: 6/8 paid"]
    assert axes[0].lines[1].get_ydata() == pytest.approx(record.density[1].tolist())
    assert labels(axes[1]) == ["posterior mean", "true chance"]
    assert axes[1].lines[0].get_ydata() == pytest.approx([1 / 2, 4 / 6, 7 / 10])
    assert axes[1].lines[1].get_ydata() == pytest.approx([0.1, 0.5, 0.9])
    assert [tick.get_text() for tick in axes[1].get_xticklabels()] == ["1\n0/0", "2\n3/4", "3\n6/8"]
    assert plots.png(fig).startswith(b"\x89PNG")


def test_the_pictures_of_regret_and_episodes_say_what_they_show():
    fig, axes = plots.figure(12, 3.6, columns=2)
    record = records.regret_curves({"A": Always(0), "B": Always(1)}, Bandits(2, 4), n_tasks=10)
    plots.draw_regret(axes[0], record)
    told = records.episode_returns({"A": Always(0)}, SMALL, n_tasks=10)
    plots.draw_episodes(axes[1], told)
    assert labels(axes[0]) == [f"{name}: {record.lost[name]:.3g}" for name in "AB"]
    assert axes[0].lines[1].get_ydata() == pytest.approx(record.regret[1].tolist())
    assert axes[0].get_title() == "Mean regret in 10 worlds" and axes[0].get_ylabel() == "regret so far"
    assert set(labels(axes[1])) == {"A", "who knows the world"} and axes[1].get_title() == "Mean over 10 trials"
    assert plots.png(fig).startswith(b"\x89PNG")


def test_the_pictures_of_read_outs_and_paths_say_what_they_show():
    fig, axes = plots.figure(14, 4, columns=3)
    pulls = torch.arange(1, 4)
    record = records.ReadOut(pulls, torch.tensor([1.0, 0.9, 0.8]), torch.tensor([0.9, 0.2, -3.0]), 10)
    plots.draw_read_out(axes[0], record)
    assert labels(axes[0]) == ["trained", "untrained, told the same"] and axes[0].get_ylim()[0] == -1.0
    assert axes[0].lines[0].get_ydata() == pytest.approx([1.0, 0.9, 0.8])
    paths = records.navigation_paths(straight([0.05, 0.0]), (0.3, 0.0), 2, length=5)
    plots.draw_paths(axes[1], paths)
    plots.draw_path_returns(axes[2], paths)
    named = ["before adaptation", "after 1 inner step", "after 2 inner steps", "start", "goal"]
    assert labels(axes[1]) == named and axes[1].get_title() == "5 paths of each policy"
    assert axes[1].lines[0].get_xydata().tolist() == paths.paths[0, 0].tolist()
    assert axes[2].lines[3].get_ydata() == pytest.approx(paths.mean.tolist())
    assert labels(axes[2]) == ["mean", "the best possible"]
    assert plots.png(fig).startswith(b"\x89PNG")


def test_records_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        records.belief_curves([1], [1]).x = None
