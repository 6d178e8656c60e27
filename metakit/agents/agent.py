"""What agents share: a trial is played step by step in T worlds at once, told again in one pass to learn from it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from metakit.agents.ppo import PPO
from metakit.agents.trial import Played, State, check_actions, check_finite, check_going_on, drawn, log_chances, play
from metakit.checks import Device, as_device, whole
from metakit.contracts import REGRET, RETURN, Measure, Scores, Worlds

_STAGES = 20


class Agent(nn.Module):
    """A learner that acts: the state it carries through a trial is its inner loop.

    A subclass gives ``begin`` and ``remember``, and either ``policy`` (logits and a value, which PPO trains) or
    ``choose``. What is trained by autograd, without PPO, is ``forward``: its value is the mean over the steps of
    the trial of what was lost against the best, or of minus the reward where the best is not known; its derivative is
    the score-function estimate.

        d/dw E[loss_t] = E[ sum_k d/dw log pi(a_k) sum_{j >= k} loss_j ]

    Source: the trial as the unit of meta-learning, with the state kept over episodes, Duan et al. 2016, section 2.2.
    """

    axis = "steps"
    compared_by: Measure = REGRET
    outer_optimizer, outer_lr = torch.optim.Adam, 3e-3
    estimator: Any = PPO()
    carries_over = False  # whether longer trials than those trained on are what it is made for
    trained_steps: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("trained_steps", torch.zeros((), dtype=torch.int64))

    def begin(self, n_tasks: int, arms: int | None, pulls: int, observation: Tensor | None, device: Any) -> State:
        """The state at the beginning of T trials; ``"k"`` and ``"steps"`` are added to it."""
        raise NotImplementedError

    def remember(
        self, state: State, action: Tensor, reward: Tensor, observation: Tensor | None, done: Tensor | None
    ) -> State:
        """The state after one step; ``"k"`` counts by itself."""
        raise NotImplementedError

    def policy(self, state: State) -> tuple[Tensor, Tensor]:
        """Logits of the actions, ``[T, A]``, and the payoff expected from here to the end of the trial, ``[T]``."""
        raise NotImplementedError

    def choose(self, state: State, sample: bool) -> Tensor:
        """An action for each trial, ``[T]``: drawn from the policy, or the likeliest."""
        logits = self.policy(state)[0]
        return drawn(logits) if sample else logits.argmax(-1)

    def replay(self, played: Played) -> tuple[Tensor, Tensor]:
        """Logits ``[T, L, A]`` and values ``[T, L]`` of all steps of a stretch, with their graph."""
        state, told = played.start, [self.policy(played.start)]
        for k in range(played.actions.shape[1] - 1):
            seen = None if played.observations is None else played.observations[:, k + 1]
            done = None if played.done is None else played.done[:, k]
            state = self.moved(state, played.actions[:, k], played.rewards[:, k], seen, done)
            told.append(self.policy(state))
        logits, values = zip(*told, strict=True)
        return torch.stack(logits, 1), torch.stack(values, 1)

    # --- Used by itself. ---

    def start(
        self,
        n_tasks: int = 1,
        *,
        arms: int | None = None,
        pulls: int,
        observation: Tensor | None = None,
        device: Device = None,
    ) -> State:
        """The state at the beginning of T trials, in anybody's worlds.

        Arguments:
            n_tasks: number of trials T that are played side by side.
            arms: number of actions, for an agent that leaves it open.
            pulls: steps that each trial will take, over all its episodes.
            observation: the first sight of each world, ``[T, ...]``.
            device: where the rewards will be; where the agent is when left out.
        """
        n_tasks, pulls = whole("n_tasks", n_tasks), whole("pulls", pulls)
        if arms is not None:
            arms = whole("arms", arms, least=2)
        place = as_device(device) or next((p.device for p in self.parameters()), torch.device("cpu"))
        longest = int(self.trained_steps)
        if 0 < longest < pulls and not self.carries_over:
            warnings.warn(
                f"this {type(self).__name__} was trained on trials of at most {longest} steps, and this one takes "
                f"{pulls}: what it does there is an extrapolation. Train it on longer trials.",
                stacklevel=2,
            )
        with torch.no_grad():
            return self.started(n_tasks, arms, pulls, observation, place)

    def act(self, state: State, *, sample: bool = False) -> Tensor:
        """An action for each trial, ``[T]``: the likeliest, or one drawn from the policy."""
        check_going_on(state)
        with torch.no_grad():
            return self.choose(state, sample)

    def observe(
        self,
        state: State,
        action: Tensor,
        reward: Tensor,
        observation: Tensor | None = None,
        done: Tensor | None = None,
    ) -> State:
        """The state after one step.

        Arguments:
            state: the state before it.
            action, reward: what was done and what came of it, ``[T]``.
            observation: what is seen now, ``[T, ...]``; after the end of an episode, the first sight of the next.
            done: whether an episode ended, ``[T]``; none did when left out.

        Raises:
            ValueError: if a shape is wrong, an action is none of the arms, or a reward is not finite.
        """
        action, reward = torch.as_tensor(action), torch.as_tensor(reward)
        n_tasks = state["n_tasks"]
        for name, value in (("action", action), ("reward", reward)):
            if value.shape != (n_tasks,):
                raise ValueError(f"{name} must be [{n_tasks}], one for each trial, got {list(value.shape)}.")
        check_actions(action, state["arms"])
        check_finite(reward.float(), "reward")
        check_going_on(state)
        if done is not None:
            done = torch.as_tensor(done).bool()
        with torch.no_grad():
            return self.moved(state, action.long(), reward.float(), observation, done)

    def moved(
        self, state: State, action: Tensor, reward: Tensor, observation: Tensor | None, done: Tensor | None
    ) -> State:
        return state | self.remember(state, action, reward, observation, done) | {"k": state["k"] + 1}

    def trained_on(self, steps: int) -> None:
        """Keep how long the trials are that it was trained on."""
        self.trained_steps.fill_(max(int(self.trained_steps), steps))

    def started(
        self, n_tasks: int, arms: int | None, pulls: int, observation: Tensor | None, place: torch.device
    ) -> State:
        told = {"k": 0, "steps": pulls, "n_tasks": n_tasks, "arms": arms}
        return told | self.begin(n_tasks, arms, pulls, observation, place)

    # --- As a learner. ---

    def forward(self, batch: Worlds) -> Tensor:
        played, _ = play(self, batch, sample=True)
        self.trained_on(batch.steps)
        logits, _ = self.replay(played)
        chances = log_chances(logits, played.actions)
        losses = -played.payoffs
        to_come = losses.flip(1).cumsum(1).flip(1)
        others = (to_come.sum(0) - to_come) / max(1, len(to_come) - 1)  # a task's own luck is not in its baseline
        score = (chances * (to_come - others)).sum(1)
        return (losses.sum(1) + score - score.detach()) / batch.steps

    def scores(
        self, batch: Worlds, steps: int | None = None, protocol: str | None = None
    ) -> Iterator[tuple[int, Scores]]:
        """Yield the return so far, and the regret where it is known, after every twentieth of the trial."""
        held, total, lost = None, torch.zeros(len(batch), device=batch.device), None
        last = min(steps or batch.steps, batch.steps)
        ends = sorted({round(last * i / _STAGES) for i in range(1, _STAGES + 1)} - {0})
        done = 0
        for end in ends:
            played, held = play(self, batch, held=held, steps=end - done)
            total, done = total + played.rewards.sum(1), end
            if played.merits is not None:
                lost = (0 if lost is None else lost) - played.merits.sum(1)
            yield end, {RETURN: total} | ({} if lost is None else {REGRET: lost})
