"""An agent without a memory of earlier episodes, to see what the memory is worth."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from metakit.agents.agent import Agent
from metakit.agents.trial import State


class Forgetful(Agent):
    """An agent whose memory is lost where an episode ends: it plays each as if it were the first of a trial.

    Arguments:
        agent: any agent.

    Raises:
        ValueError: if the episodes of the worlds do not end together.

    Example:
        >>> import metakit as mk
        >>> from metakit.tasks.mdps import MDPs
        >>> mk.evaluate(Forgetful(mk.RL2(2, (3,))), MDPs(3, 2, 5, episodes=4), n_tasks=20).at[-1]
        20
    """

    def __init__(self, agent: Agent) -> None:
        super().__init__()
        self.agent = agent

    def begin(self, n_tasks: int, arms: int | None, pulls: int, observation: Tensor | None, device: Any) -> State:
        return {"own": self.agent.started(n_tasks, arms, pulls, observation, device), "observation": observation}

    def remember(
        self, state: State, action: Tensor, reward: Tensor, observation: Tensor | None, done: Tensor | None
    ) -> State:
        if done is None or not bool(done.any()):
            own = self.agent.moved(state["own"], action, reward, observation, done)
            return {"own": own, "observation": observation}
        if not bool(done.all()):
            raise ValueError("episodes must end together for a memory to be lost then, got some that go on. Take MDPs.")
        return self.begin(len(action), state["arms"], state["steps"], observation, reward.device)

    def policy(self, state: State) -> tuple[Tensor, Tensor]:
        return self.agent.policy(state["own"])

    def choose(self, state: State, sample: bool) -> Tensor:
        return self.agent.choose(state["own"], sample)
