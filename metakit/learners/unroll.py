"""A learned update rule as a learner: its loss on a training job is how the training went under it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from metakit.checks import choice, real, whole_span
from metakit.contracts import LOSS, InnerStep, Jobs, Lasting, Measure, Rule, Scores, Weights
from metakit.inner import prepared
from metakit.saving import saved

TRAINING_LOSS = Measure("training loss")
_FAR = 1e4  # weights beyond it, in units of their first size, are lost
_STAGES = 20


@saved
class Unroll(nn.Module):
    """A learner whose inner loop trains a network on a job by an update rule; what is learned is the rule.

        w_{k+1} = rule(w_k, grad L(w_k; rows of step k)),    loss_t = 1/K sum_k log(L_t(w_k; other rows) / L_t(w_0))

    The loss on *other* rows than those of the step makes the rule learn what generalises; its logarithm counts halving
    a small loss as much as halving a large one. ``fit`` trains it by ``estimator="full"`` (through the whole unroll),
    ``"truncated"``, ``"es"`` or ``"pes"``. A job whose weights run away is put back to its start, counts as
    ``cap``, and is counted in the history.

    Arguments:
        rule: the inner rule, a ``LearnedOptimizer`` or any other with parameters.
        steps: inner steps K; a range ``(low, high)`` draws the length of each training run, log-uniformly. Judged, all
            are of the greatest length.
        objective: ``"log"``, as above; ``"mean"``, the mean of L / L(w_0); ``"last"``, the logarithm at the last step.
        order: 2 keeps the graph of inner gradients, 1 takes them for constants.
        cap: greatest loss of a step, in the units of the objective.

    Raises:
        ValueError: if an option is out of its range.

    Example:
        >>> import metakit as mk
        >>> learner = Unroll(mk.LearnedOptimizer(), steps=5)
        >>> learner(mk.tasks.Quadratics().sample(4, seed=0)).shape
        torch.Size([4])

    Source: Andrychowicz et al. 2016, equation (3); the loss on other rows, Metz et al. 2019.
    """

    axis = "optimiser steps"
    outer_optimizer, outer_lr = torch.optim.Adam, 3e-3

    def __init__(
        self,
        rule: Rule,
        *,
        steps: int | tuple[int, int] = 100,
        objective: str = "log",
        order: int = 2,
        cap: float = 3.0,
    ) -> None:
        super().__init__()
        self.rule, self.steps = prepared(rule, {}, 1), whole_span("steps", steps)
        self.objective = choice("objective", objective, ("log", "mean", "last"))
        self.order, self.cap = choice("order", order, (1, 2)), real("cap", cap, above=0.0)

    def forward(self, batch: Jobs) -> Tensor:
        state = self.start(batch)
        return self.advance(batch, state, state["steps"])[0]

    def start(self, batch: Jobs, steps: int | None = None) -> dict[str, Any]:
        """The state of T training runs at their beginning; ``steps`` is their length, drawn when left out."""
        low, high = self.steps
        if steps is None:
            steps = high
            if self.training and low < high:
                share = batch.length if isinstance(batch, Lasting) else float(torch.rand(()))
                steps = round(low * (high / low) ** share)
        weights = {name: w.detach() for name, w in batch.start.items()}
        with torch.no_grad():
            first = batch.judged(weights, None)
        lost = torch.zeros(len(batch), dtype=torch.bool, device=batch.device)
        rule = self.rule.init_state(weights)
        most = _FAR * (_largest(weights) + 1)
        begun = {"weights": weights, "rule": rule, "k": 0, "steps": steps}
        return begun | {"first": first, "lost": lost, "most": most}

    def advance(self, batch: Jobs, state: dict[str, Any], stretch: int) -> tuple[Tensor, dict[str, Any]]:
        """So many steps on from a state: the loss of each job over them, ``[T]``, and the state they lead to."""
        told = []
        for after in self._walk(batch, state, min(stretch, state["steps"] - state["k"])):
            state = after
            if self.objective != "last":
                told.append(self._told(batch.judged(state["weights"], state["k"] - 1), state))
        if self.objective == "last":
            judged, done = self._told(batch.judged(state["weights"], None), state), state["k"] == state["steps"]
            told = [judged if done else 0 * judged]
        return torch.stack(told).mean(0), state

    def scores(
        self, batch: Jobs, steps: int | None = None, protocol: str | None = None
    ) -> Iterator[tuple[int, Scores]]:
        """Yield the loss on other rows and on all training rows after every twentieth of the steps."""
        state = self.start(batch, steps or self.steps[1])
        yield 0, self._scored(batch, state)
        last, every = state["steps"], max(1, state["steps"] // _STAGES)
        for after in self._walk(batch, state, last):
            if after["k"] % every == 0 or after["k"] == last:
                yield after["k"], self._scored(batch, after)

    def pace(self, step: int) -> None:
        """Keep in the rule how long the runs are that it was trained on."""
        if isinstance(longest := getattr(self.rule, "trained_steps", None), Tensor):
            longest.fill_(max(int(longest), self.steps[1]))

    def _walk(self, batch: Jobs, state: dict[str, Any], steps: int) -> Iterator[dict[str, Any]]:
        weights, rule, lost, first = state["weights"], state["rule"], state["lost"], state["k"]
        for k in range(first, first + steps):
            grads, losses = self._gradients(batch, weights, k)
            lost = lost | ~torch.isfinite(losses)
            if lost.any():  # no NaN may reach what the rule remembers
                grads = {name: _where(lost, torch.zeros_like(g), g) for name, g in grads.items()}
            weights, rule = self.rule.step(InnerStep(weights, grads, losses, k, state["steps"]), rule)
            lost = lost | ~(_largest(weights) <= state["most"])  # NaN is lost too
            if lost.any():
                weights = {name: _where(lost, batch.start[name].detach(), w) for name, w in weights.items()}
            yield state | {"weights": weights, "rule": rule, "lost": lost, "k": k + 1}

    def _gradients(self, batch: Jobs, weights: Weights, k: int) -> tuple[Weights, Tensor]:
        second = self.order == 2 and torch.is_grad_enabled()
        with torch.enable_grad():
            if not second or not any(w.requires_grad for w in weights.values()):
                weights = {name: w.detach().requires_grad_() for name, w in weights.items()}
            losses = batch.losses(weights, k)
            found = torch.autograd.grad(losses.sum(), list(weights.values()), create_graph=second)
        return dict(zip(weights, found, strict=True)), losses.detach()

    def _told(self, judged: Tensor, state: dict[str, Any]) -> Tensor:
        """What a step counts for each job: its loss against the first, no more than the cap."""
        ratio = judged / state["first"]
        value = ratio if self.objective == "mean" else (ratio + 1e-8).log()
        lost = state["lost"] | ~torch.isfinite(value.detach())
        return torch.where(lost, self.cap, value.clamp(max=self.cap))

    @staticmethod
    def _scored(batch: Jobs, state: dict[str, Any]) -> Scores:
        weights, lost = state["weights"], state["lost"]
        losses = {LOSS: batch.judged(weights, None), TRAINING_LOSS: batch.losses(weights, None)}
        return {measure: torch.where(lost, torch.inf, loss) for measure, loss in losses.items()}


def _where(lost: Tensor, instead: Tensor, w: Tensor) -> Tensor:
    return torch.where(lost.view(-1, *[1] * (w.dim() - 1)), instead, w)


def _largest(weights: Weights) -> Tensor:
    """The size of each task's largest weight, ``[T]``."""
    with torch.no_grad():
        return torch.cat([w.flatten(1) for w in weights.values()], 1).abs().amax(1)
