"""Agents in hidden worlds: gradients against enumeration, replay against play, trials resumed, errors at the door."""

import dataclasses
import itertools

import pytest
import torch
from torch import nn

import metakit as mk
from metakit.agents import Agent, Attentive, play
from metakit.agents.ppo import PPO
from metakit.contracts import REGRET, RETURN, Turn, Worlds
from metakit.tasks.bandits import BanditBatch


@dataclasses.dataclass(frozen=True)
class Corridor:
    """T corridors of three places with a reward at a hidden end; reaching an end ends the episode."""

    end: torch.Tensor  # [T], -1 or 1
    steps: int = 12
    actions: int = 2

    def __len__(self):
        return len(self.end)

    def __getitem__(self, index):
        return dataclasses.replace(self, end=self.end[index])

    def to(self, device):
        return dataclasses.replace(self, end=self.end.to(device))

    @property
    def device(self):
        return self.end.device

    def begin(self):
        place = torch.zeros(len(self))
        return {"place": place}, self.seen(place)

    def step(self, state, action):
        place = state["place"] + 2 * action - 1
        done = place.abs() == 2
        reward = (place == 2 * self.end).float()
        place = torch.where(done, 0.0, place)
        return {"place": place}, Turn(reward, self.seen(place), done)

    @staticmethod
    def seen(place):
        return torch.stack([place, place.square()], 1)


class Corridors:
    def sample(self, n_tasks, *, generator=None, device=None):
        return Corridor(2 * torch.randint(2, (n_tasks,), generator=generator) - 1)


def some_rl2(actions=2, observation=(), **options):
    torch.manual_seed(0)
    agent = mk.RL2(actions, observation, hidden=8, **options)
    with torch.no_grad():
        for parameter in agent.parameters():
            parameter.normal_(0, 0.6)
    return agent


def some_arms(**options):
    torch.manual_seed(0)
    agent = mk.ArmsAgent(hidden=8, **options)
    with torch.no_grad():
        for parameter in (*agent.bonus.parameters(), *agent.critic.parameters()):
            parameter.normal_(0, 0.6)
        agent.log_tau.bias.fill_(-1.0)
    return agent


def some_attentive(actions=2, observation=()):
    torch.manual_seed(0)
    agent = Attentive(actions, observation, width=8, heads=2)
    with torch.no_grad():
        for parameter in agent.parameters():
            parameter.normal_(0, 0.6)
    return agent


AGENTS = {"recurrent": some_rl2, "arms": some_arms, "attentive": some_attentive}


def expected_loss(agent, chances, pulls):
    """The mean regret of a step, by going through all actions and rewards."""
    total, best = 0.0, max(chances)
    for actions in itertools.product(range(len(chances)), repeat=pulls):
        for rewards in itertools.product((0.0, 1.0), repeat=pulls):
            state, chance = agent.started(1, len(chances), pulls, None, torch.device("cpu")), 1.0
            for action, reward in zip(actions, rewards, strict=True):
                chance = chance * agent.policy(state)[0].softmax(-1)[0, action]
                chance = chance * (chances[action] if reward else 1 - chances[action])
                paid = torch.tensor([reward], dtype=torch.float64)
                state = agent.moved(state, torch.tensor([action]), paid, None, None)
            total = total + chance * sum(best - chances[action] for action in actions) / pulls
    return total


@pytest.mark.parametrize("name", AGENTS)
def test_the_derivative_of_forward_is_that_of_the_expected_regret(name):
    agent, chances, copies = AGENTS[name]().double(), [0.2, 0.7], 100_000
    parameters = list(agent.parameters())
    exact_loss = expected_loss(agent, chances, 2)
    exact = torch.autograd.grad(exact_loss, parameters, allow_unused=True)
    worlds = BanditBatch(torch.tensor([chances], dtype=torch.float64).repeat(copies, 1), 2)
    torch.manual_seed(1)
    losses = agent(worlds)
    found = torch.autograd.grad(losses.mean(), parameters, allow_unused=True)
    assert float(losses.mean().detach()) == pytest.approx(
        float(exact_loss.detach()), abs=4 * float(losses.detach().std()) / copies**0.5
    )
    pairs = [(e, f) for e, f in zip(exact, found, strict=True) if e is not None and f is not None]
    exact, found = (torch.cat([tensor.flatten() for tensor in side]) for side in zip(*pairs, strict=True))
    assert float(exact.norm()) > 0.01
    assert float((exact - found).norm()) < 0.05 * float(exact.norm())


@pytest.mark.parametrize("name", AGENTS)
def test_what_is_told_again_is_what_was_played(name):
    agent, worlds = AGENTS[name]().double(), BanditBatch(torch.rand(6, 2, dtype=torch.float64), 9)
    held = None
    for steps in (4, 5):  # from the beginning, and from the middle
        before, torch_state = held, torch.get_rng_state()
        played, held = play(agent, worlds, sample=True, held=held, steps=steps)
        logits, values = agent.replay(played)
        slow = Agent.replay(agent, played)
        assert torch.allclose(logits, slow[0], atol=1e-10) and torch.allclose(values, slow[1], atol=1e-10)
        torch.set_rng_state(torch_state)
        again, _ = play(agent, worlds, sample=True, held=before, steps=steps)
        assert torch.equal(played.actions, again.actions)


@pytest.mark.parametrize("make", [some_rl2, some_attentive])
def test_observations_and_the_ends_of_episodes_reach_the_memory(make):
    agent = make(2, (2,))
    worlds = Corridors().sample(5, generator=torch.Generator().manual_seed(0))
    assert isinstance(worlds, Worlds)
    played, _ = play(agent, worlds, sample=True)
    assert played.observations.shape == (5, 12, 2) and played.done.any()
    for mine, slow in zip(agent.replay(played), Agent.replay(agent, played), strict=True):
        assert torch.allclose(mine, slow, atol=1e-5)
    blind = dataclasses.replace(played, done=torch.zeros_like(played.done))
    assert not torch.allclose(agent.replay(blind)[0], agent.replay(played)[0], atol=1e-3)


def test_a_body_reads_pictures():
    body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten())
    agent = some_rl2(2, (1, 5, 5), body=body)
    state = agent.start(3, pulls=4, observation=torch.rand(3, 1, 5, 5))
    state = agent.observe(state, agent.act(state), torch.zeros(3), torch.rand(3, 1, 5, 5))
    assert agent.policy(state)[0].shape == (3, 2)


def test_the_order_of_the_arms_plays_no_part():
    agent = some_arms()
    state = agent.start(4, arms=5, pulls=30)
    state |= {"pulled": torch.randint(0, 5, (4, 5)).float(), "k": 10}
    state["paid"] = (state["pulled"] * torch.rand(4, 5)).floor()
    order = torch.tensor([3, 0, 4, 1, 2])
    moved = state | {name: state[name][:, order] for name in ("pulled", "paid")}
    (logits, value), (other, same) = agent.policy(state), agent.policy(moved)
    assert torch.allclose(logits[:, order], other, atol=1e-5) and torch.allclose(value, same, atol=1e-5)
    assert logits.std() > 0.01


def test_advantages_are_what_they_are_defined_to_be():
    payoffs, values = torch.randn(3, 5, dtype=torch.float64), torch.randn(3, 6, dtype=torch.float64)
    found = PPO(smoothing=0.7)._advantages(payoffs, values)
    surprise = payoffs + values[:, 1:] - values[:, :-1]
    for k in range(5):
        by_hand = sum(0.7 ** (j - k) * surprise[:, j] for j in range(k, 5))
        assert torch.allclose(found[:, k], by_hand, atol=1e-12)
    whole = PPO(smoothing=1.0)._advantages(payoffs, values)
    assert torch.allclose(whole[:, 0] + values[:, 0], payoffs.sum(1) + values[:, -1], atol=1e-12)


def test_an_agent_learns_to_explore_and_what_it_learned_carries_over():
    torch.manual_seed(0)
    agent, short = mk.ArmsAgent(hidden=16), mk.tasks.Bandits(3, 30)
    nn.init.constant_(agent.bonus.bias, -1.0)  # at first it shuns what it does not know
    before = mk.evaluate(agent, short, n_tasks=400).scores[REGRET][:, -1]
    mk.fit(agent, short, steps=240, meta_batch=64, progress=False)
    result = mk.evaluate(agent, short, n_tasks=400)
    after = result.scores[REGRET][:, -1]
    assert result.measure == RETURN and result.axis == "pulls" and result.at[-1] == 30
    gain = before - after
    assert float(gain.mean()) > 3 * float(gain.std()) / 400**0.5
    wide = mk.evaluate(agent, mk.tasks.Bandits(20, 30), n_tasks=200)  # arms that it never had
    assert float(wide.mean()[-1]) > 22  # half of what is pulled pays by chance: 15


@pytest.mark.parametrize("estimator", [PPO(stretch=7, moves=3), "full"], ids=["ppo", "autograd"])
def test_a_run_is_resumed_to_the_bit_in_the_middle_of_a_trial(tmp_path, estimator):
    options = {"meta_batch": 4, "estimator": estimator, "progress": False}
    tasks, path = mk.tasks.Bandits((2, 4), (10, 30)), tmp_path / "run.pt"
    whole, resumed = some_arms(), some_arms()
    history = mk.fit(whole, tasks, steps=17, **options)
    mk.fit(some_arms(), tasks, steps=5, checkpoint=path, **options)  # the second move on the second stretch
    torch.rand(3)
    again = mk.fit(resumed, tasks, steps=17, checkpoint=path, resume=True, **options)
    assert again.loss == history.loss
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))
    assert int(whole.trained_steps) == int(resumed.trained_steps) > 9


@pytest.mark.parametrize("chunk", [None, 3])
def test_chunks_of_worlds_take_their_moves_together(chunk):
    history = mk.fit(
        some_rl2(), mk.tasks.Bandits(2, 10), steps=9, meta_batch=8, chunk=chunk, estimator=PPO(4, 2), progress=False
    )
    assert history.steps == 9 and all(loss == loss for loss in history.loss)


def test_episodes_go_by_and_the_state_stays():
    torch.manual_seed(0)
    agent = mk.RL2(2, (2,), hidden=16, reward_mean=0.0, reward_spread=1.0)
    mk.fit(agent, Corridors(), steps=200, meta_batch=64, lr=0.01, progress=False)
    result = mk.evaluate(agent, Corridors(), n_tasks=200)
    assert REGRET not in result.scores
    # Two steps an episode, six episodes: right by chance in three; who remembers fails at most in the first, often.
    assert float(result.mean()[-1]) > 5.0


def test_they_are_compared_by_regret_on_the_same_worlds():
    found = mk.compare({"a": some_arms(), "b": some_rl2(3)}, mk.tasks.Bandits(3, 10), n_tasks=50, seeds=1)
    assert found.measure == REGRET and "regret" in str(found)
    toy = mk.compare({"a": some_rl2(2, (2,)), "b": some_rl2(2, (2,))}, Corridors(), n_tasks=20, seeds=1)
    assert toy.measure == RETURN  # where no regret is known
    assert float(toy.difference("b")[0]) == 0.0


def test_it_is_used_by_hand_as_it_was_judged():
    agent = some_arms()
    state = agent.start(n_tasks=3, arms=5, pulls=6)
    for _ in range(6):
        action = agent.act(state)
        state = agent.observe(state, action, (action % 2).float())
    assert state["pulled"].sum(1).tolist() == [6, 6, 6]
    with pytest.raises(ValueError, match="trial of 6 steps is over"):
        agent.act(state)


def test_agents_are_saved_and_loaded(tmp_path):
    for agent in (some_arms(), some_rl2(3), some_attentive(3), some_rl2(2, (1, 4, 4), body=nn.Flatten())):
        mk.fit(agent, mk.tasks.Bandits(3, 5), steps=1, progress=False) if not getattr(
            agent, "observation", ()
        ) else None
        mk.save(agent, tmp_path / "agent.pt")
        other = mk.load(tmp_path / "agent.pt")
        assert all(torch.equal(a, b) for a, b in zip(agent.parameters(), other.parameters(), strict=True))
        assert int(other.trained_steps) == int(agent.trained_steps)


def test_bandits_pay_what_they_promise():
    worlds = mk.tasks.Bandits(4, 10).sample(20_000, seed=0)
    assert abs(float(worlds.means.mean()) - 0.5) < 0.01 and float(worlds.means.min()) >= 0
    torch.manual_seed(0)
    state, seen = worlds.begin()
    _, turn = worlds.step(state, torch.zeros(20_000, dtype=torch.int64))
    assert seen is None and set(turn.reward.tolist()) == {0.0, 1.0}
    assert abs(float((turn.reward - worlds.means[:, 0]).mean())) < 0.015
    assert torch.equal(turn.merit, worlds.means[:, 0] - worlds.best)
    normal = mk.tasks.Bandits(2, 10, kind="gaussian", noise=0.5).sample(20_000, seed=0)
    _, turn = normal.step({}, torch.ones(20_000, dtype=torch.int64))
    assert abs(float((turn.reward - normal.means[:, 1]).std()) - 0.5) < 0.01
    assert torch.equal(worlds[3:5].means, worlds.means[3:5]) and len(worlds[3:5]) == 2


def test_sizes_are_drawn_from_their_ranges():
    sizes = [mk.tasks.Bandits((5, 50), (10, 500)).sample(1, seed=seed) for seed in range(300)]
    arms, pulls = ([getattr(one, name) for one in sizes] for name in ("actions", "steps"))
    assert min(arms) >= 5 and max(arms) <= 50 and min(pulls) >= 10 and max(pulls) <= 500
    assert len(set(arms)) > 30 and 40 < sorted(pulls)[150] < 120  # the median of a log-uniform: 71


class Gambler(mk.ArmsAgent):
    """Chooses what it is told to, whatever the arms."""

    action = torch.tensor([7, 7])

    def choose(self, state, sample):
        return self.action


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (torch.tensor([7, 0]), "numbered from 0 to 2, and one was 7"),
        (torch.tensor([0, -1]), "one was -1"),
        (torch.tensor([0.0, 1.0]), "must be the whole number of an arm"),
        (torch.tensor([0]), "for each of 2 worlds"),
    ],
)
def test_an_agent_that_leaves_its_arms_is_stopped(action, message):
    gambler = Gambler()
    gambler.action = action
    with pytest.raises(ValueError, match=message):
        play(gambler, mk.tasks.Bandits(3, 5).sample(2, seed=0))


@dataclasses.dataclass(frozen=True)
class Broken(BanditBatch):
    answer: object = None

    def step(self, state, action):
        return state, self.answer


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (Turn(torch.tensor([torch.nan, 1.0])), ValueError, "NaN"),
        (Turn(torch.zeros(3)), ValueError, r"reward must be \[2\]"),
        (Turn(torch.zeros(2), merit=torch.zeros(2, 1)), ValueError, r"merit must be \[2\]"),
        (Turn(torch.zeros(2), torch.zeros(1, 4)), ValueError, r"observation must be \[2, ...\]"),
        (torch.zeros(2), TypeError, "contracts.Turn"),
    ],
    ids=["nan", "rewards", "merits", "observations", "no turn"],
)
def test_worlds_that_answer_wrongly_are_named(answer, error, message):
    with pytest.raises(error, match=message):
        mk.evaluate(mk.ArmsAgent(), Broken(torch.rand(2, 3), 5, answer=answer), n_tasks=2)


def test_a_longer_trial_than_trained_on_is_called_an_extrapolation():
    agent = some_rl2()
    mk.fit(agent, mk.tasks.Bandits(2, 10), steps=1, progress=False)
    agent.start(1, pulls=10)
    with pytest.warns(UserWarning, match="at most 10 steps, and this one takes 11"):
        agent.start(1, pulls=11)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mk.ArmsAgent().start(2, pulls=5), "told the number of arms"),
        (lambda: mk.ArmsAgent().start(2, arms=1, pulls=5), "arms must be at least 2"),
        (lambda: mk.RL2(3).start(2, arms=4, pulls=5), r"RL2\(4\)"),
        (lambda: mk.RL2(3).start(2, pulls=5, observation=torch.zeros(2, 4)), r"observation=\(4,\)"),
        (lambda: mk.RL2(3, (4,)).start(2, pulls=5), r"sees \[2, 4\], and got nothing"),
        (lambda: mk.tasks.Bandits(1), "arms must be at least 2"),
        (lambda: mk.tasks.Bandits(5, (10, 5)), "Swap the two"),
        (lambda: mk.tasks.Bandits(kind="poisson"), "kind must be one of"),
        (lambda: PPO(moves=0), "moves must be at least 1"),
        (lambda: PPO(smoothing=1.5), "smoothing must be"),
        (lambda: mk.fit(some_arms(), Corridors(), steps=1, progress=False), "Take mk.RL2"),
    ],
)
def test_wrong_input_is_refused_at_the_door(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("action", "reward", "message"),
    [
        (torch.tensor([0, 5]), torch.zeros(2), "numbered from 0 to 2"),
        (torch.tensor([0]), torch.zeros(2), r"action must be \[2\]"),
        (torch.tensor([0, 1]), torch.tensor([0.0, torch.inf]), "infinite"),
        (torch.tensor([0, 1]), torch.zeros(2, 1), r"reward must be \[2\]"),
    ],
)
def test_what_is_observed_is_checked(action, reward, message):
    agent = mk.ArmsAgent()
    state = agent.start(2, arms=3, pulls=5)
    with pytest.raises(ValueError, match=message):
        agent.observe(state, action, reward)
