"""What can be remembered of arms: how often each was pulled, and what it paid."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from metakit.agents.trial import State


class Counting:
    """The memory of an agent to whom nothing but counts matters: ``begin`` and ``remember`` of an ``Agent``.

    The state holds ``"pulled"``, how often each arm was pulled, and ``"paid"``, the sum of what it paid: both
    ``[T, arms]``. Of Bernoulli arms, and of normal arms with a known noise, they are all that a posterior depends on.

    Raises:
        ValueError: if the number of arms is not told, or the worlds show something.

    Example:
        >>> memory = Counting()
        >>> state = memory.begin(1, 3, 10, None, None)
        >>> state = memory.remember(state, torch.tensor([2]), torch.tensor([1.0]), None, None)
        >>> state["pulled"].tolist(), state["paid"].tolist()
        ([[0.0, 0.0, 1.0]], [[0.0, 0.0, 1.0]])
    """

    counted_in: torch.dtype | None = None  # torch's default

    def begin(self, n_tasks: int, arms: int | None, pulls: int, observation: Tensor | None, device: Any) -> State:
        name = type(self).__name__
        if arms is None:
            raise ValueError(f"{name} must be told the number of arms, got none: start(n_tasks, arms=5, pulls=100).")
        if observation is not None:
            raise ValueError(f"{name} sees nothing but its rewards; these worlds show something. Take mk.RL2.")
        nothing = torch.zeros(n_tasks, arms, device=device, dtype=self.counted_in)
        return {"pulled": nothing, "paid": nothing}

    def remember(
        self, state: State, action: Tensor, reward: Tensor, observation: Tensor | None, done: Tensor | None
    ) -> State:
        which = nn.functional.one_hot(action, state["pulled"].shape[-1]).to(reward.dtype)
        return {"pulled": state["pulled"] + which, "paid": state["paid"] + which * reward[..., None]}
