"""Anybody's environments, by the vector interface of gymnasium: what is told of them, and how a trial is gone on."""

import sys

import numpy as np
import pytest
import torch

import metakit as mk
from metakit.agents import play
from metakit.agents.trial import Held
from metakit.contracts import RETURN, Worlds
from metakit.tasks.environments import Environments

gymnasium = pytest.importorskip("gymnasium")
spaces = gymnasium.spaces


class Line(gymnasium.Env):
    """A walk to the right: each step shows how many were made, and the end lies at a hidden length."""

    action_space, observation_space = spaces.Discrete(3, start=5), spaces.Box(-1, 100, (1,), np.float32)

    def __init__(self, length, fault=None):
        self.length, self.fault = length, fault

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.at = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.at += 1
        seen = np.full(1, np.nan if self.fault == "nan" else self.at, np.float32)
        return seen, float(action) + self.np_random.normal(0, 1e-3), self.at == self.length, False, {}


def lines(mode, lengths=(2, 3)):
    def make(n_tasks, seed):
        envs = [lambda n=n: Line(n) for n in lengths]
        return gymnasium.vector.SyncVectorEnv(envs, copy=False, autoreset_mode=mode)  # it writes over what it gave

    return make


def poles(n_tasks, seed):
    """Cart-poles of hidden length and gravity, one by one."""
    chance = np.random.default_rng(seed)

    def one(length, gravity):
        env = gymnasium.make("CartPole-v1")
        env.unwrapped.length, env.unwrapped.gravity = length, gravity
        return env

    hidden = [(chance.uniform(0.25, 1.0), chance.uniform(5, 20)) for _ in range(n_tasks)]
    return gymnasium.vector.SyncVectorEnv([lambda pair=pair: one(*pair) for pair in hidden], autoreset_mode="SameStep")


def poles_at_once(n_tasks, seed):
    """Cart-poles of hidden gravity, as one array."""
    env = gymnasium.make_vec("CartPole-v1", n_tasks, vectorization_mode="vector_entry_point")
    env.unwrapped.gravity = np.random.default_rng(seed).uniform(5, 20, n_tasks)
    return env


def walk(worlds, actions):
    """What is shown, paid and told to end in a trial of given actions, [T, L]."""
    state, seen = worlds.begin()
    sights, turns = [seen], []
    for action in actions.unbind(1):
        state, turn = worlds.step(state, action)
        sights.append(turn.observation)
        turns.append(turn)
    return torch.stack(sights, 1), torch.stack([t.reward for t in turns], 1), torch.stack([t.done for t in turns], 1)


@pytest.mark.parametrize("mode", ["SameStep", "Disabled"])
def test_the_first_sight_of_an_episode_comes_with_the_end_of_the_last(mode):
    worlds = Environments(lines(mode), steps=6).sample(2, seed=0)
    assert isinstance(worlds, Worlds) and worlds.actions == 3 and worlds.steps == 6
    sights, rewards, done = walk(worlds, torch.tensor([[0, 1, 2, 0, 1, 2]] * 2))
    assert sights[..., 0].tolist() == [[0, 1, 0, 1, 0, 1, 0], [0, 1, 2, 0, 1, 2, 0]]
    assert done.tolist() == [[False, True] * 3, [False, False, True] * 2]
    assert torch.allclose(rewards, torch.tensor([[5.0, 6, 7, 5, 6, 7]] * 2), atol=0.01)  # actions counted from 5


def test_where_an_episode_begins_a_step_later_its_end_is_told_with_that_step():
    worlds = Environments(lines("NextStep"), steps=7).sample(2, seed=0)
    walk(worlds, torch.tensor([[0, 0], [0, 0]]))  # left where an episode is over: it is not the next trial's
    sights, rewards, done = walk(worlds, torch.tensor([[0, 1, 2, 0, 1, 2, 0]] * 2))
    assert sights[..., 0].tolist() == [[0, 1, 2, 0, 1, 2, 0, 1], [0, 1, 2, 3, 0, 1, 2, 3]]
    assert done.tolist() == [[False, False, True, False, False, True, False], [False, False, False, True] + [False] * 3]
    assert (rewards[done] == 0).all() and (rewards[~done] > 4.9).all()
    # An end is told where the first sight is shown, whichever the mode.
    assert (sights[:, 1:, 0][done] == 0).all() and (sights[:, 1:, 0][~done] > 0).all()


def test_categories_are_shown_as_rows_with_a_one():
    def make(n_tasks, seed):
        return gymnasium.make_vec(
            "FrozenLake-v1", n_tasks, vectorization_mode="sync", vector_kwargs={"autoreset_mode": "SameStep"}
        )

    sights, _, done = walk(Environments(make, steps=30).sample(3, seed=0), torch.randint(4, (3, 30)))
    assert sights.shape == (3, 31, 16) and (sights.sum(-1) == 1).all()
    assert done.any() and (sights[:, 1:][done].argmax(-1) == 0).all()


@pytest.mark.parametrize("make", [poles, poles_at_once])
def test_a_batch_is_drawn_and_played_twice_alike(make):
    tasks, actions = Environments(make, steps=40), torch.randint(2, (3, 40))
    worlds = tasks.sample(3, seed=0)
    first, again, redrawn = (walk(w, actions) for w in (worlds, worlds, tasks.sample(3, seed=0)))
    assert all(torch.equal(a, b) and torch.equal(a, c) for a, b, c in zip(first, again, redrawn, strict=True))
    assert first[2].any() and not torch.equal(first[0], walk(tasks.sample(3, seed=1), actions)[0])
    assert first[0].dtype == torch.float32 and first[0].shape == (3, 41, 4)


def test_what_is_hidden_differs_and_lasts():
    worlds = Environments(poles_at_once, steps=200).sample(3, seed=0)
    before = worlds.running.env.unwrapped.gravity.copy()
    walk(worlds, torch.randint(2, (3, 200)))
    assert len(set(before)) == 3 and (worlds.running.env.unwrapped.gravity == before).all()


@pytest.mark.parametrize("mode", ["SameStep", "NextStep", "Disabled"])
def test_a_trial_that_was_left_is_gone_on_with(mode):
    actions = torch.randint(3, (2, 9), generator=torch.Generator().manual_seed(0))
    tasks = Environments(lines(mode), steps=9)
    worlds = tasks.sample(2, seed=0)
    whole = walk(worlds, actions)
    state, _ = worlds.begin()
    for action in actions[:, :4].unbind(1):
        state, _ = worlds.step(state, action)
    kept = {name: value.clone() for name, value in state.items()}  # as a checkpoint holds it
    for place, left in ((worlds, state), (tasks.sample(2, seed=0), kept)):
        if place is worlds:
            walk(worlds, (actions + 1) % 3)  # another trial in between
        turns = []
        for action in actions[:, 4:].unbind(1):
            left, turn = place.step(left, action)
            turns.append(turn)
        assert torch.equal(torch.stack([t.reward for t in turns], 1), whole[1][:, 4:])
        assert torch.equal(torch.stack([t.observation for t in turns], 1), whole[0][:, 5:])
        assert torch.equal(torch.stack([t.done for t in turns], 1), whole[2][:, 4:])


def test_a_state_can_be_left_by_two_ways():
    worlds = Environments(lines("SameStep"), steps=6).sample(2, seed=0)
    state, _ = worlds.begin()
    state, _ = worlds.step(state, torch.tensor([0, 0]))
    first, again = (worlds.step(state, torch.tensor([a, a]))[1].reward for a in (1, 2))
    assert torch.allclose(again - first, torch.ones(2), atol=1e-5)  # the same chance, another action


def test_trials_of_equal_length_are_not_taken_for_each_other():
    worlds = Environments(poles, steps=6).sample(2, seed=0)
    held, nothing = [], torch.zeros(2, dtype=torch.int64)
    for action in (nothing, nothing + 1):
        state, _ = worlds.begin()
        state, _ = worlds.step(state, action)
        held.append(state)
    after = [worlds.step(state, nothing)[1].observation for state in held]
    whole = [walk(worlds, torch.tensor([[a, 0]] * 2))[0][:, 2] for a in (0, 1)]
    assert torch.equal(after[0], whole[0]) and torch.equal(after[1], whole[1]) and not torch.equal(*after)


def test_environments_of_another_chance_cannot_be_gone_on_with():
    def restless(n_tasks, seed):
        env = poles(n_tasks, seed)
        plain = env.reset
        env.reset = lambda **options: plain(seed=np.random.SeedSequence().entropy % 2**31)
        return env

    worlds = Environments(restless, steps=20).sample(2, seed=0)
    state, _ = worlds.begin()
    state, _ = worlds.step(state, torch.tensor([0, 1]))
    worlds.begin()
    with pytest.raises(ValueError, match=r"go on from step 1.*mk.PPO\(20\)"):
        worlds.step(state, torch.tensor([0, 1]))


def fit(agent, **options):
    options = {"meta_batch": 4, "estimator": mk.PPO(12, 2), "progress": False} | options
    return mk.fit(agent, Environments(poles, steps=40), **options)


def make_agent():
    torch.manual_seed(0)
    return mk.RL2(2, (4,), hidden=8)


def test_an_agent_is_trained_in_them_and_a_run_resumes_to_the_bit_within_a_trial(tmp_path):
    whole, resumed, path = make_agent(), make_agent(), tmp_path / "run.pt"
    history = fit(whole, steps=12)
    fit(make_agent(), steps=5, checkpoint=path)  # in the third of four stretches
    torch.rand(3)
    again = fit(resumed, steps=12, checkpoint=path, resume=True)
    assert again.loss == history.loss and history.steps == 12
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))
    result = mk.evaluate(whole, Environments(poles_at_once, steps=30), n_tasks=6)
    assert result.measure == RETURN and list(result.scores) == [RETURN] and result.at[-1] == 30


def test_play_goes_on_from_where_it_is_held():
    worlds, agent = Environments(poles, steps=30).sample(2, seed=0), make_agent()
    first, held = play(agent, worlds, steps=10)
    later, _ = play(agent, worlds, held=held)
    whole, _ = play(agent, worlds)
    assert torch.equal(torch.cat([first.rewards, later.rewards], 1), whole.rewards)
    again, _ = play(agent, worlds, held=Held(held.world, held.agent))
    assert torch.equal(again.observations, later.observations)


# --- At the door. ---


def of_line(**changed):
    """Environments of one line, with some of its attributes changed."""

    def make(n_tasks, seed):
        env = gymnasium.vector.SyncVectorEnv([lambda: Line(4) for _ in range(n_tasks)], autoreset_mode="SameStep")
        for name, value in changed.items():
            setattr(env, name, value)
        return env

    return make


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (of_line(single_action_space=spaces.Box(-1, 1, (2,))), ValueError, "Take a Discrete action space"),
        (of_line(single_action_space=spaces.Discrete(1)), ValueError, "two or more actions"),
        (of_line(single_observation_space=spaces.Dict(a=spaces.Discrete(2))), ValueError, "FlattenObservation"),
        (of_line(metadata={}), ValueError, "autoreset_mode.*AutoresetMode"),
        (of_line(num_envs=3), ValueError, "asked for 2 environments, and gave 3"),
        (lambda n_tasks, seed: Line(3), TypeError, "VectorEnv, got Line.*SyncVectorEnv"),
    ],
)
def test_environments_that_cannot_be_are_refused(make, error, words):
    with pytest.raises(error, match=words):
        Environments(make).sample(2, seed=0)


def test_wrong_answers_are_refused():
    def nan(n_tasks, seed):
        return gymnasium.vector.SyncVectorEnv([lambda: Line(4, "nan")] * n_tasks, autoreset_mode="SameStep")

    worlds = Environments(nan).sample(2, seed=0)
    state, _ = worlds.begin()
    with pytest.raises(ValueError, match="observation was NaN"):
        worlds.step(state, torch.tensor([0, 0]))
    worlds = Environments(of_line(single_observation_space=spaces.Box(-1, 1, (7,)))).sample(2, seed=0)
    with pytest.raises(ValueError, match=r"observation must be \[2, 7\].*got \[2, 1\]"):
        worlds.begin()


def test_a_batch_of_them_cannot_be_split_and_stays_where_it_is():
    worlds = Environments(poles_at_once, steps=5).sample(4, seed=0)
    assert worlds[0:4] is worlds and worlds[:] is worlds and len(worlds) == 4
    with pytest.raises(ValueError, match="4 outside environments are stepped together"):
        worlds[:2]
    assert worlds.to(None).device == torch.device("cpu") and worlds.to("meta").device == torch.device("meta")
    assert worlds.to("meta").begin()[1].device == torch.device("meta")


def test_numbers_at_the_door_and_a_missing_package(monkeypatch):
    with pytest.raises(TypeError, match="make must be a function"):
        Environments("CartPole-v1")
    with pytest.raises(ValueError, match="steps must be at least 1"):
        Environments(poles, steps=0)
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    with pytest.raises(ImportError, match=r"pip install 'metakit\[rl\]'"):
        Environments(poles).sample(2)
