"""Lesson 09: right answers by another way, wrong answers as readers might write them, formulas of the lesson."""

import itertools

import answers
import pytest
import torch

from metakit import course, records

# ------------------------------------------------------------------------------------------------------ exercises


def arm_by_arm(successes, failures, draw):
    """One trial and one arm after the other."""
    arms = []
    for s, f in zip(successes, failures, strict=True):
        chances = [float(draw(one + 1, other + 1)) for one, other in zip(s, f, strict=True)]
        arms.append(chances.index(max(chances)))
    return torch.tensor(arms)


def greedy(successes, failures, draw):
    return ((successes + 1) / (successes + failures + 2)).max(dim=1).indices


def optimistic(successes, failures, draw):
    a, b = 1 + successes, 1 + failures
    return (a / (a + b) + (a * b / (a + b + 1)).sqrt() / (a + b)).argmax(1)


def without_prior(successes, failures, draw):
    return draw(successes, failures).argmax(1)


def swapped(successes, failures, draw):
    return arm_by_arm(failures, successes, draw)


def with_pulls(successes, failures, draw):
    return draw(successes + 1, successes + failures + 1).argmax(1)


def first_step_apart(agent, world, episodes, horizon):
    """The begin of an episode stands before its steps: what was done last is told there."""
    rewards, state, last = [], None, None
    for _ in range(episodes):
        seen = world.begin()
        state = agent.start(seen) if last is None else agent.observe(state, *last, seen, True)
        for h in range(horizon):
            action = agent.act(state)
            reward, seen = world.step(action)
            rewards.append(reward)
            last = action, reward
            if h < horizon - 1:
                state = agent.observe(state, action, reward, seen, False)
    return torch.stack(rewards).view(episodes, horizon)


def loop(*, cleared=False, told=True, shown=True, begun=True):
    def play_trial(agent, world, episodes, horizon):
        rewards = []
        seen = world.begin()
        state = agent.start(seen)
        for k in range(episodes * horizon):
            action = agent.act(state)
            reward, seen = world.step(action)
            rewards.append(reward)
            over = (k + 1) % horizon == 0
            first = world.begin() if over and begun else seen
            state = agent.observe(state, action, reward, first if shown else seen, over and told)
            if over and cleared:
                state = agent.start(first)
        return torch.stack(rewards).reshape(episodes, horizon)

    return play_trial


def in_loops(rewards, *, own=False, first=None):
    """Step by step and task by task."""
    credit = torch.zeros_like(rewards)
    n_tasks, length = rewards.shape
    for k in range(length):
        sums = [float(rewards[t, (k if first is None else first) :].sum()) for t in range(n_tasks)]
        for t in range(n_tasks):
            others = sums if own else sums[:t] + sums[t + 1 :]
            credit[t, k] = sums[t] - sum(others) / len(others)
    return credit


def bare(rewards):
    return torch.stack([rewards[:, k:].sum(1) for k in range(rewards.shape[1])], 1)


def centred(values):
    others = (values.sum(0, keepdim=True) - values) / (len(values) - 1)
    return values - others


WRITTEN = [
    ("thompson", greedy, "The mean of the belief"),
    ("thompson", optimistic, "adds a bonus"),
    ("thompson", without_prior, "The prior is missing"),
    ("thompson", swapped, "changed places"),
    ("thompson", with_pulls, "not 1 + pulls"),
    ("thompson", lambda s, f, draw: draw(s + 1, f + 1).max(1).values, "the arm that it belongs to"),
    ("thompson", lambda s, f, draw: draw(s + 1, f + 1), "must have shape"),
    ("play_trial", loop(cleared=True), "begins anew with each episode"),
    ("play_trial", loop(told=False), "never hears"),
    ("play_trial", loop(shown=False), "the last sight"),
    ("play_trial", loop(begun=False), "goes on where the episode ended"),
    ("play_trial", lambda *a: loop()(*a).sum(1), "must have shape"),
    ("credit", lambda rewards: in_loops(rewards, own=True), "own return"),
    ("credit", bare, "no baseline"),
    ("credit", lambda rewards: in_loops(rewards, first=0), "the whole return"),
    ("credit", lambda rewards: centred(rewards.cumsum(1)), "over the past"),
    ("credit", lambda rewards: centred(bare(rewards) - rewards), "own reward is left out"),
    ("credit", centred, "own reward only"),
    ("credit", lambda rewards: bare(rewards) - bare(rewards).mean(1, keepdim=True), "over the steps"),
    ("credit", lambda rewards: -in_loops(rewards), "sign is turned"),
    ("credit", lambda rewards: rewards.sum(1), "must have shape"),
]

test_wrong_answers_as_readers_write_them_are_understood = answers.wrong(WRITTEN)

test_right_answers_by_another_way_pass = answers.right(
    [
        ("thompson", arm_by_arm),
        ("play_trial", first_step_apart),
        ("play_trial", loop()),
        ("credit", in_loops),
        ("credit", lambda rewards: centred(bare(rewards))),
    ]
)

EXERCISES = {exercise.name: exercise for exercise in course.LESSONS["meta_reinforcement_learning"].EXERCISES}
RIGHT = {name: exercise.right for name, exercise in EXERCISES.items()}


# -------------------------------------------------------------------------------------------------------- formulas


def test_thompson_pulls_an_arm_as_often_as_it_is_the_best():
    counts = torch.tensor([[8.0, 1.0, 0.0], [3.0, 1.0, 0.0]], dtype=torch.float64)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        rows = (told.repeat(20_000, 1) for told in counts)
        arms = RIGHT["thompson"](*rows, lambda a, b: torch.distributions.Beta(a, b).sample())
    wanted = records.belief_curves(*counts).best
    share = torch.bincount(arms, minlength=3) / len(arms)
    assert ((share - wanted).abs() < 4 * (wanted * (1 - wanted) / len(arms)).sqrt()).all()


PAYS = torch.tensor([[0.2, 0.9], [0.7, 0.1]], dtype=torch.float64)  # of two actions, in two tasks


def every_batch(logits):
    """All that two tasks of two steps can do: its chance, its log-chances and rewards, ``[2, 2]`` each."""
    log = logits.log_softmax(-1)
    for played in itertools.product(range(2), repeat=4):
        actions = torch.tensor(played).view(2, 2)
        chances = log[actions]
        yield chances.sum().exp().detach(), chances, PAYS.gather(1, actions)


@pytest.mark.parametrize(("share", "own"), [(1.0, False), (0.5, True)])
def test_the_score_with_credit_is_the_gradient_of_the_return(share, own):
    """By enumeration; with the task's own return in the baseline, of two tasks half of it is left."""
    logits = torch.tensor([0.3, -0.4], dtype=torch.float64, requires_grad=True)
    credit = EXERCISES["credit"].mistakes[0].answer if own else RIGHT["credit"]
    (wanted,) = torch.autograd.grad(2 * (PAYS @ logits.softmax(-1)).sum(), logits)
    found = torch.zeros_like(wanted)
    for chance, chances, rewards in every_batch(logits):
        found += chance * torch.autograd.grad((chances * credit(rewards)).sum(), logits, retain_graph=True)[0]
    torch.testing.assert_close(found, share * wanted)


def test_the_trial_of_the_exercise_keeps_what_episodes_teach():
    """An agent that counts its steps knows how many there were only if its state outlives the episodes."""

    class Counter:
        def start(self, seen):
            return 0

        def act(self, state):
            return state

        def observe(self, state, action, reward, seen, done):
            return state + 1

    class Echo:
        def begin(self):
            return torch.zeros(())

        def step(self, action):
            return torch.tensor(float(action)), torch.zeros(())

    assert RIGHT["play_trial"](Counter(), Echo(), 3, 2).tolist() == [[0, 1], [2, 3], [4, 5]]
    cleared = EXERCISES["play_trial"].mistakes[0].answer
    assert cleared(Counter(), Echo(), 3, 2).tolist() == [[0, 1], [0, 1], [0, 1]]
