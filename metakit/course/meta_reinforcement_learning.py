"""Exercises and questions of notebook 09."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.distributions import Beta

from metakit.course.exercises import Answer, Exercise, Mistake
from metakit.course.quizzes import Question

_F64 = torch.float64


# --- thompson: the arm that is best in one draw from the belief. ---

Draw = Callable[[Tensor, Tensor], Tensor]

# Twelve trials of three arms, each of which did both at least once, so that no prior at all gives numbers too.
_SUCCESSES, _FAILURES = torch.randint(1, 9, (2, 12, 3), generator=torch.Generator().manual_seed(0)).to(_F64)


def _in_place_of_luck(a: Tensor, b: Tensor) -> Tensor:
    """As far from the mean of Beta(a, b) as a draw would be, and the same at each call."""
    mean = a / (a + b)
    return mean + 2 * (37 * a + 91 * b).sin() * (mean * (1 - mean) / (a + b + 1)).sqrt()


def _thompson(successes: Tensor, failures: Tensor, draw: Draw) -> Tensor:
    return draw(1 + successes, 1 + failures).argmax(-1)


def _mean(successes: Tensor, failures: Tensor, draw: Draw) -> Tensor:
    return ((1 + successes) / (2 + successes + failures)).argmax(-1)


def _upper(successes: Tensor, failures: Tensor, draw: Draw) -> Tensor:
    belief = Beta(1 + successes, 1 + failures)
    return (belief.mean + belief.stddev).argmax(-1)


def _observe_thompson(answer: Answer) -> dict[str, Tensor]:
    return {"arm in each trial": answer(_SUCCESSES, _FAILURES, _in_place_of_luck)}


THOMPSON = Exercise(
    name="thompson",
    observe=_observe_thompson,
    right=_thompson,
    mistakes=(
        Mistake(
            _mean,
            "The mean of the belief is taken, not a draw from it. That is greedy play: an arm that began badly is "
            "never tried again. Draw a chance for each arm, then take the largest.",
        ),
        Mistake(
            _upper,
            "This adds a bonus to the mean, and pulls the same arm whenever the counts are the same. Thompson sampling "
            "has no bonus: draw a chance for each arm.",
        ),
        Mistake(
            lambda successes, failures, draw: draw(successes, failures).argmax(-1),
            "The prior is missing: before any pull a chance is uniform, Beta(1, 1). Add 1 to both counts.",
        ),
        Mistake(
            lambda successes, failures, draw: _thompson(failures, successes, draw),
            "Successes and failures have changed places: Beta(1 + successes, 1 + failures).",
        ),
        Mistake(
            lambda successes, failures, draw: _thompson(successes, successes + failures, draw),
            "The second number of the Beta is 1 + failures, not 1 + pulls.",
        ),
        Mistake(
            lambda successes, failures, draw: draw(1 + successes, 1 + failures).amax(-1),
            "The largest of the drawn chances is returned. What is asked for is the arm that it belongs to: argmax.",
        ),
        Mistake(
            lambda successes, failures, draw: draw(1 + successes, 1 + failures).argmax(0),
            "The best is looked for among the trials. Arms stand in the last dimension: argmax(-1).",
        ),
    ),
)


# --- play_trial: the state lives as long as the trial, not as long as an episode. ---

_EPISODES, _HORIZON = 3, 4


class _World:
    """A world of two actions whose rewards depend on all that was done in the episode; the best action is hidden."""

    def begin(self) -> Tensor:
        self.at = torch.tensor(0.3, dtype=_F64)
        return self.at

    def step(self, action: int) -> tuple[Tensor, Tensor]:
        self.at = (3.1 * self.at + 0.7 * action + 0.2).sin()
        return self.at.square(), self.at


class _Agent:
    """An agent whose state depends on every number that it was ever told; it keeps what that was."""

    def __init__(self) -> None:
        self.heard: list[list[float]] = []

    def start(self, observation: Tensor) -> Tensor:
        self.heard.append([float(observation)])
        return 0.5 + observation

    def act(self, state: Tensor) -> int:
        return int(state.mul(5).sin() > 0)

    def observe(self, state: Tensor, action: int, reward: Tensor, observation: Tensor, done: bool) -> Tensor:
        told = [float(action), float(reward), float(observation), float(done)]
        self.heard.append(told)
        return (2.3 * state + torch.tensor(told, dtype=_F64) @ torch.tensor([0.9, 1.7, -1.1, 0.4], dtype=_F64)).cos()


def _play(
    *, clear: bool = False, ends: bool = True, first: bool = True, anew: bool = True, late: bool = False
) -> Answer:
    """A loop with any of the classic mistakes in it."""

    def play_trial(agent: _Agent, world: _World, episodes: int, horizon: int) -> Tensor:
        seen = world.begin()
        state, told = agent.start(seen), torch.zeros((), dtype=_F64)
        rewards = torch.zeros(episodes, horizon, dtype=_F64)
        for e in range(episodes):
            for h in range(horizon):
                action = agent.act(state)
                reward, seen = world.step(action)
                done, last = h == horizon - 1, seen
                if done and anew:
                    seen = world.begin()
                state = agent.observe(state, action, told if late else reward, seen if first else last, done and ends)
                state = agent.start(seen) if done and clear else state
                rewards[e, h], told = reward, reward
        return rewards

    return play_trial


def _observe_trial(answer: Answer) -> dict[str, Tensor]:
    agent = _Agent()
    rewards = answer(agent, _World(), _EPISODES, _HORIZON)
    told = [row for row in agent.heard if len(row) == 4][: _EPISODES * _HORIZON - 1]  # the last one serves nobody
    return {"rewards": rewards, "told to the agent": torch.tensor(told, dtype=_F64)}


TRIAL = Exercise(
    name="play_trial",
    observe=_observe_trial,
    right=_play(),
    mistakes=(
        Mistake(
            _play(clear=True),
            "The state begins anew with each episode, so nothing that was found out outlives it. Call agent.start "
            "once, before the first episode.",
        ),
        Mistake(
            _play(ends=False),
            "The agent never hears that an episode has ended. Tell it: done is True at the last step of each episode.",
        ),
        Mistake(
            _play(first=False),
            "At the end of an episode the agent is shown the last sight of it. Its next action is taken in the next "
            "episode: begin the world first, and show it that.",
        ),
        Mistake(
            _play(anew=False),
            "The world goes on where the episode ended. The agent's state is kept, the world's is not: call "
            "world.begin() for each episode.",
        ),
        Mistake(
            _play(late=True),
            "The agent is told the reward of the action before. Action and reward belong together: tell it the one "
            "that world.step has just given.",
        ),
    ),
)


# --- credit: what multiplies d log pi in the score function. ---

Credit = Callable[[Tensor], Tensor]


def _to_come(rewards: Tensor) -> Tensor:
    return rewards.flip(1).cumsum(1).flip(1)


def _others(values: Tensor) -> Tensor:
    return (values.sum(0) - values) / (len(values) - 1)


def _credit(rewards: Tensor) -> Tensor:
    to_come = _to_come(rewards)
    return to_come - _others(to_come)


def _centred(kind: Credit) -> Credit:
    return lambda rewards: kind(rewards) - _others(kind(rewards))


def _observe_credit(answer: Answer) -> dict[str, Tensor]:
    return {"credit": answer(torch.rand((5, 6), generator=torch.Generator().manual_seed(0), dtype=_F64))}


def _kinds() -> Iterator[Mistake]:
    yield Mistake(
        lambda rewards: _to_come(rewards) - _to_come(rewards).mean(0),
        "The baseline holds the task's own return, so each is measured against a part of itself: the gradient is too "
        "short by the factor 1 - 1 / T. Take the mean over the other tasks.",
    )
    yield Mistake(
        _to_come,
        "There is no baseline. That is right on average and far noisier: subtract what the other tasks got from the "
        "same step on.",
    )
    yield Mistake(
        _centred(lambda rewards: rewards.sum(1, keepdim=True).expand_as(rewards)),
        "Each action is credited with the whole return. What came before it, it did not cause: count rewards from step "
        "k on.",
    )
    yield Mistake(
        _centred(lambda rewards: rewards.cumsum(1)),
        "The sum runs over the past. An action is the cause of what comes after it: sum from step k to the end.",
    )
    yield Mistake(
        _centred(lambda rewards: _to_come(rewards) - rewards),
        "The action's own reward is left out. It is the first that it causes: the sum begins at j = k.",
    )
    yield Mistake(
        _centred(lambda rewards: rewards),
        "Each action is credited with its own reward only. Exploring pays later: sum what comes after it, too.",
    )
    yield Mistake(
        lambda rewards: _to_come(rewards) - _to_come(rewards).mean(1, keepdim=True),
        "The baseline is a mean over the steps of the task itself, which depends on its actions. Average over the "
        "other tasks, at the same step.",
    )
    yield Mistake(lambda rewards: -_credit(rewards), "The sign is turned: more reward is more credit.")


CREDIT = Exercise(name="credit", observe=_observe_credit, right=_credit, mistakes=tuple(_kinds()))

EXERCISES = (THOMPSON, TRIAL, CREDIT)

QUESTIONS = (
    Question(
        "An RL2 agent meets a new bandit. What changes while it learns which arm is good?",
        (
            ("Its weights, by gradient descent", "They are fixed from the end of the meta-training on."),
            (
                "Its state, which every pull changes",
                "The weights are how to learn; the state is what was learned, and it begins anew with the next trial.",
            ),
            ("The rewards of the arms", "The world stays as it is. What is known of it changes."),
        ),
        right=1,
    ),
    Question(
        "Why does nobody play 100 pulls of ten arms by the Bellman equation of the belief?",
        (
            (
                "The beliefs that can come up are too many to be gone through",
                "Each is a state with a value of its own, and their number grows with the power of twice the arms.",
            ),
            ("The equation holds for two arms only", "It holds for any number of arms; the table is what explodes."),
            ("It needs the true chances", "It needs the belief only, and how a pull would change it."),
        ),
        right=0,
    ),
    Question(
        "Ten arms, twenty pulls. Thompson sampling does clearly worse than the best player. Why?",
        (
            (
                "It draws at random, and random is bad",
                "In longer trials the same draws are nearly as good as any rule.",
            ),
            ("Its belief is wrong", "It has the exact belief. What it does with it is the matter."),
            (
                "It explores as if there was always a later",
                "It never asks how many pulls are left, and finds arms out for which no pull remains.",
            ),
        ),
        right=2,
    ),
    Question(
        "In training, an action was counted by its true chance of paying, which only the simulator knows. Is the agent "
        "told?",
        (
            (
                "No: it sees actions and rewards, in training and afterwards",
                "The truth only lessens the noise of the gradient. In a world without it one takes the rewards.",
            ),
            ("Yes, so it could not play a real bandit", "Play it by hand: start, act and observe ask for no chances."),
            ("Only in the first episode", "Nothing of the kind is in its input, at any time."),
        ),
        right=0,
    ),
    Question(
        "PPO takes several moves on one batch of trials. What is the ratio in it for?",
        (
            (
                "It counts a trial as if the policy of now had played it, as long as the two are near",
                "After the first move the trials are those of an older policy. Beyond the clip they count no further.",
            ),
            ("It keeps the rewards between 0 and 1", "The rewards are not touched by it."),
            ("It discounts later rewards", "Within a trial nothing is discounted here."),
        ),
        right=0,
    ),
    Question(
        "A linear read-out finds the posterior means in an agent's state. What must stand beside that number?",
        (
            ("The agent's regret", "It says how well it plays, not what its state holds."),
            (
                "The same read-out from an untrained network",
                "A random recurrent network remembers its inputs, too. What training added is the difference.",
            ),
            ("The training loss", "The read-out was not trained with it."),
        ),
        right=1,
    ),
)
