"""The policy gradient as an estimator: a stretch of the trial is played once, and learned from several times."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from metakit.agents.trial import Held, Played, log_chances, play
from metakit.checks import real, whole
from metakit.contracts import Estimate


@dataclasses.dataclass(frozen=True)
class PPO:
    """Proximal policy optimisation over stretches of trials, with several moves on each stretch.

        loss = - mean min(r A, clip(r, 1 - c, 1 + c) A) + value (V - target)^2 - entropy H,    r = pi(a) / pi_old(a)

    A are generalised advantages, ``sum_j smoothing^j (p_{k+j} + V_{k+j+1} - V_{k+j})``, of payoffs p that are not
    discounted within a trial: how far an action lies below the best where the worlds know it (in training, never when
    acting), the reward otherwise; less their mean over the stretch, since all trials have the same number of steps, and
    a value that begins at 0 shall not have that to learn first. The next stretch goes on from where the last one
    ended, worlds and agent alike.

    Arguments:
        stretch: steps in a stretch; the graph reaches no further back.
        moves: moves of the outer optimiser on each stretch.
        clip: how far the ratio of chances counts, c.
        smoothing: lambda of the advantages.
        value: weight of the value's error, in units of the square root of the steps left.
        entropy: weight of the policy's entropy.

    Raises:
        ValueError: if a number is out of its range.

    Example:
        >>> import metakit as mk
        >>> history = mk.fit(mk.ArmsAgent(), mk.tasks.Bandits(2, 10), steps=4, estimator=PPO(moves=2), progress=False)
        >>> history.steps
        4

    Source: Schulman et al. 2017; the advantages, Schulman et al. 2016, equation (16).
    """

    stretch: int = 100
    moves: int = 4
    _: dataclasses.KW_ONLY
    clip: float = 0.2
    smoothing: float = 0.95
    value: float = 0.5
    entropy: float = 0.003

    def __post_init__(self) -> None:
        for name in ("stretch", "moves"):
            object.__setattr__(self, name, whole(name, getattr(self, name)))
        for name in ("clip", "value", "entropy"):
            object.__setattr__(self, name, real(name, getattr(self, name), least=0.0))
        object.__setattr__(self, "smoothing", real("smoothing", self.smoothing, least=0.0, most=1.0))

    def __call__(self, learner: Any, parameters: Mapping[str, Tensor], batch: Any, carry: Any) -> Estimate:
        if carry is None or carry["move"] == self.moves:
            carry = self._played(learner, batch, carry)
        played = Played(**carry["played"])
        with torch.enable_grad():
            loss = self._loss(learner, played, carry)
            grads = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
        move, over = carry["move"] + 1, carry["agent"]["k"] >= carry["agent"]["steps"]
        left = None if over and move == self.moves else carry | {"move": move}
        return Estimate(-played.payoffs.mean(), grads, left)

    def _played(self, learner: Any, batch: Any, carry: Any) -> dict[str, Any]:
        """A new stretch, from where the last one ended."""
        held = None if carry is None else Held(carry["world"], carry["agent"])
        played, held = play(learner, batch, sample=True, held=held, steps=self.stretch)
        learner.trained_on(batch.steps)
        with torch.no_grad():
            logits, values = learner.replay(played)
            over = held.agent["k"] >= held.agent["steps"]
            beyond = torch.zeros_like(values[:, 0]) if over else learner.policy(held.agent)[1]
            advantages = self._advantages(
                played.payoffs - played.payoffs.mean(), torch.cat([values, beyond[:, None]], 1)
            )
        return {
            "played": vars(played),
            "world": held.world,
            "agent": held.agent,
            "chances": log_chances(logits, played.actions),
            "advantages": advantages,
            "targets": advantages + values,
            "move": 0,
        }

    def _advantages(self, payoffs: Tensor, values: Tensor) -> Tensor:
        surprise = payoffs + values[:, 1:] - values[:, :-1]
        so_far, found = torch.zeros_like(values[:, 0]), []
        for k in reversed(range(payoffs.shape[1])):
            so_far = surprise[:, k] + self.smoothing * so_far
            found.append(so_far)
        return torch.stack(found[::-1], 1)

    def _loss(self, learner: Any, played: Any, carry: Any) -> Tensor:
        logits, values = learner.replay(played)
        told = logits.log_softmax(-1)
        ratio = (told.gather(-1, played.actions[..., None])[..., 0] - carry["chances"]).exp()
        a = carry["advantages"]
        a = (a - a.mean()) / (a.std() + 1e-8) if a.numel() > 1 else a
        gain = torch.minimum(ratio * a, ratio.clamp(1 - self.clip, 1 + self.clip) * a).mean()
        first, steps = played.start["k"], played.start["steps"]
        left = steps - first - torch.arange(values.shape[1], device=values.device, dtype=values.dtype)
        error = ((values - carry["targets"]).square() / left).mean()
        return self.value * error - gain - self.entropy * -(told.exp() * told).sum(-1).mean()
