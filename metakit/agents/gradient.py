"""MAML for agents: a policy that a few policy gradient steps adapt to the world it is in."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from metakit.agents.trial import check_finite, drawn
from metakit.checks import choice, real, whole
from metakit.contracts import RETURN, Batch, InnerStep, Rule, Scores, Turn, Weights
from metakit.inner import SGD, adaptable, prepared, unfrozen
from metakit.models import MLP
from metakit.nn.lending import Functional, check_network, stacked
from metakit.saving import saved

CREDITS = ("local", "dice", "none", "sampled")
BASELINES = ("linear", "none")
_RIDGE = 1e-5  # of the fitted baseline, whose features may depend on each other
_LEAST_LOG_STD = -6.0


# --- What is acted in, and by whom. ---


@runtime_checkable
class Arenas(Batch, Protocol):
    """T worlds that can be entered n times side by side, for episodes of at most L ``steps``.

    ``begin`` gives their state, tensors in a dictionary, and the first sight, ``[T, n, D]``; ``step`` changes the state
    by actions ``[T, n, ...]`` and answers by a ``contracts.Turn`` whose rewards and ends are ``[T, n]``.
    """

    @property
    def steps(self) -> int: ...

    def begin(self, n: int, /) -> tuple[dict[str, Tensor], Tensor]: ...

    def step(self, state: dict[str, Tensor], action: Tensor, /) -> tuple[dict[str, Tensor], Turn]: ...


@runtime_checkable
class Policy(Protocol):
    """An ``nn.Module`` from what is seen, ``[..., D]``, to the numbers of a distribution of actions, ``[..., M]``."""

    def __call__(self, seen: Tensor, /) -> Tensor: ...

    def draw(self, told: Tensor, /) -> Tensor:
        """Actions drawn from the distributions with these numbers."""
        ...

    def chances(self, told: Tensor, actions: Tensor, /) -> Tensor:
        """Log-chances (log-densities) of actions, ``[...]``."""
        ...


@saved
class GaussianPolicy(nn.Module):
    """Actions about a mean that a network tells, with spreads that are learned but the same everywhere.

        a ~ N(MLP(x), diag(exp(2 s)))

    The last layer starts at zero, so that the first actions have no direction.

    Shapes: ``x [..., D]`` to means and log-spreads ``[..., 2 A]``, of actions ``[..., A]``.

    Arguments:
        observation: numbers D of what is seen.
        actions: numbers A of an action.
        hidden: units of each hidden layer (tanh).
        std: the spreads at the start, in units of the action.

    Raises:
        ValueError: if a number is out of its range.

    Example:
        >>> policy = GaussianPolicy(2, 2, std=0.1)
        >>> told = policy(torch.zeros(5, 2))
        >>> policy.draw(told).shape, policy.chances(told, torch.zeros(5, 2)).shape
        (torch.Size([5, 2]), torch.Size([5]))

    Source: Schulman et al. 2015, section 6 and appendix D.
    """

    stacks_tasks = True

    def __init__(self, observation: int, actions: int, *, hidden: Sequence[int] = (32, 32), std: float = 1.0) -> None:
        super().__init__()
        self.observation, self.actions = whole("observation", observation), whole("actions", actions)
        self.hidden, self.std = list(hidden), real("std", std, above=0.0)
        self.body = _from_zero(MLP(self.observation, self.hidden, self.actions, activation="tanh"))
        self.log_std = nn.Parameter(torch.full((self.actions,), math.log(self.std)))

    def forward(self, x: Tensor) -> Tensor:
        mean = self.body(x)
        log_std = self.log_std if self.log_std.dim() == 1 else self.log_std.view(-1, *[1] * (x.dim() - 2), self.actions)
        return torch.cat([mean, log_std.clamp(min=_LEAST_LOG_STD).expand_as(mean)], -1)

    def draw(self, told: Tensor) -> Tensor:
        mean, log_std = told.chunk(2, -1)
        return mean + log_std.exp() * torch.randn_like(mean)

    def chances(self, told: Tensor, actions: Tensor) -> Tensor:
        mean, log_std = told.chunk(2, -1)
        scaled = (actions - mean) * (-log_std).exp()
        return -(scaled.square() / 2 + log_std).sum(-1) - self.actions * math.log(2 * math.pi) / 2


@saved
class SoftmaxPolicy(nn.Module):
    """One of A actions, by chances that a network tells: ``pi(a) = softmax(MLP(x))_a``.

    Shapes: ``x [..., D]`` to logits ``[..., A]``, of actions ``[...]``, whole numbers.

    Arguments:
        observation: numbers D of what is seen.
        actions: number of actions A.
        hidden: units of each hidden layer (tanh); ``[]`` makes the logits linear.

    Raises:
        ValueError: if a number is out of its range.

    Example:
        >>> policy = SoftmaxPolicy(1, 3, hidden=[])
        >>> policy.chances(policy(torch.ones(1, 1)), torch.tensor([2])).exp().tolist()
        [0.333...]
    """

    stacks_tasks = True

    def __init__(self, observation: int, actions: int, *, hidden: Sequence[int] = (32, 32)) -> None:
        super().__init__()
        self.observation, self.actions = whole("observation", observation), whole("actions", actions, least=2)
        self.hidden = list(hidden)
        self.body = _from_zero(MLP(self.observation, self.hidden, self.actions, activation="tanh"))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)

    def draw(self, told: Tensor) -> Tensor:
        return drawn(told)

    def chances(self, told: Tensor, actions: Tensor) -> Tensor:
        return told.log_softmax(-1).gather(-1, actions[..., None])[..., 0]


def _from_zero(network: MLP) -> MLP:
    """The network with a last layer of zeros."""
    for p in network.head.parameters():
        nn.init.zeros_(p)
    return network


# --- Episodes. ---


@dataclasses.dataclass(frozen=True)
class Rollout:
    """What happened in n episodes of each of T worlds, of at most L steps.

    Arguments:
        observations: what was seen before each step and after the last, ``[T, n, L + 1, D]``; once an episode has
            ended, its last sight.
        actions: ``[T, n, L, ...]``.
        rewards: ``[T, n, L]``, 0 once an episode has ended.
        alive: whether a step was taken within the episode, ``[T, n, L]``, boolean.
    """

    observations: Tensor
    actions: Tensor
    rewards: Tensor
    alive: Tensor

    @property
    def to_come(self) -> Tensor:
        """The return from each step on, ``[T, n, L]``."""
        return self.rewards.flip(-1).cumsum(-1).flip(-1)

    @property
    def returns(self) -> Tensor:
        """The return of each episode, ``[T, n]``."""
        return self.rewards.sum(-1)


@torch.no_grad()
def roll_out(worlds: Arenas, act: Callable[[Tensor], Tensor], n: int) -> Rollout:
    """Play n episodes in each of T worlds, all at once.

    Arguments:
        worlds: T worlds.
        act: from what is seen, ``[T, n, D]``, to actions ``[T, n, ...]``.
        n: episodes.

    Raises:
        ValueError: if the worlds answer in a wrong shape, or with a reward that is not finite.

    Example:
        >>> import metakit as mk
        >>> from metakit.tasks.navigation import NavigationBatch
        >>> worlds = NavigationBatch(torch.tensor([[0.25, 0.0]]), 10)
        >>> rollout = roll_out(worlds, lambda seen: worlds.goals[:, None] - seen, 1)
        >>> rollout.rewards[0, 0, :4] + 0, int(rollout.alive.sum())
        (tensor([-0.1500, -0.0500,  0.0000,  0.0000]), 3)
    """
    state, seen = worlds.begin(n)
    alive = torch.ones(seen.shape[:2], dtype=torch.bool, device=seen.device)
    sights, actions, rewards, within = [seen], [], [], []
    for _ in range(worlds.steps):
        action = act(seen)
        state, turn = worlds.step(state, action)
        if turn.observation is None or turn.observation.shape != seen.shape or turn.reward.shape != alive.shape:
            raise ValueError(
                f"these worlds must answer a step with rewards {list(alive.shape)} and observations "
                f"{list(seen.shape)}, as begin gave; got {_shape(turn.reward)} and {_shape(turn.observation)}."
            )
        actions.append(action)
        rewards.append(turn.reward * alive)
        within.append(alive)
        if turn.done is None:
            seen = turn.observation
        else:
            seen = torch.where(alive[..., None], turn.observation, seen)
            alive = alive & ~turn.done
        sights.append(seen)
    paid = torch.stack(rewards, 2)
    check_finite(paid, "reward")
    return Rollout(torch.stack(sights, 2), torch.stack(actions, 2), paid, torch.stack(within, 2))


def _shape(value: Tensor | None) -> Any:
    return None if value is None else list(value.shape)


def linear_baseline(rollout: Rollout) -> Tensor:
    """The return from each step on, as a linear function of features, fitted in each world: ``[T, n, L]``.

        b = phi w,    w = argmin |phi w - to_come|^2 + 1e-5 |w|^2,    phi = [x, x^2, 1, t, t^2, t^3],    t = k / L

    Source: Duan et al. 2016 (benchmarking), section 4.1, "linear feature baseline".
    """
    seen, to_come = rollout.observations[:, :, :-1].double(), rollout.to_come.double()  # t and t^2 nearly agree
    length = seen.shape[2]
    t = torch.arange(length, device=seen.device, dtype=seen.dtype)[:, None] / length
    clock = torch.cat([torch.ones_like(t), t, t**2, t**3], 1).expand(*seen.shape[:3], 4)
    features = torch.cat([seen, seen.square(), clock], -1)
    kept = (features * rollout.alive[..., None]).flatten(1, 2)  # [T, n L, F]
    ridge = _RIDGE * torch.eye(kept.shape[-1], device=seen.device, dtype=seen.dtype)
    fit = torch.linalg.solve(kept.mT @ kept + ridge, kept.mT @ to_come.flatten(1)[..., None])
    return (features @ fit[:, None])[..., 0].to(rollout.rewards.dtype)


def surrogate(chances: Tensor, advantages: Tensor, credit: str) -> Tensor:
    """A loss of each world whose derivative is a policy gradient; the second one depends on who gets credit, ``[T]``.

        loss = - 1 / (n L) sum_{i,k} c_k A_k

    with c_k the log-chance of action k (``"none"``), its ratio to itself held fixed (``"local"``), or, with s_k the
    log-chances of the actions up to k and s' the same held fixed, ``exp(s_k - s'_k) - exp(s_{k-1} - s'_{k-1})``
    (``"dice"``). All have the same first derivative.

    Arguments:
        chances: log-chances of the actions, ``[T, n, L]``, with their graph; 0 outside the episode.
        advantages: ``[T, n, L]``.
        credit: one of the three.
    """
    if credit == "dice":
        so_far = chances.cumsum(-1)
        before = so_far - chances
        weight = (so_far - so_far.detach()).exp() - (before - before.detach()).exp()
    else:
        weight = (chances - chances.detach()).exp() if credit == "local" else chances
    return -(weight * advantages).mean((1, 2))


# --- The learner. ---


class _Stage(NamedTuple):
    """Where the inner loop stands: weights, what was played with them, and the log-chance of all played before."""

    weights: Weights
    rollout: Rollout
    score: Tensor


@saved
class PolicyMAML(nn.Module):
    """MAML for reinforcement learning: initial weights from which a few policy gradient steps go a long way.

        w_{k+1} = rule(w_k, g_k),    g_k = grad of surrogate(n episodes played with w_k),    J(w) = E[return(w_K)]

    The loss of a task is minus the mean return of n episodes played after the last step; its derivative by autograd
    estimates ``- dJ/dw``. The episodes after the last step count by their score, ``sum_k d log pi(a_k) A_k``, carried
    to w through the inner steps (``order=2``), or as if w_K were w plus a constant (``order=1``, where of the four
    words below none makes a difference). But the episodes before were played with w too: other weights would have
    played others. What that adds to the derivative depends on ``credit``.

    - ``"none"``: nothing, as first published. The derivative of g_k lacks the part that comes from the sampling.
    - ``"local"``: in the derivative of g_k an action changes its own chance, not where later ones are taken. Right in
      episodes of one step; in longer ones biased, at little variance.
    - ``"dice"``: the derivative of g_k is an unbiased estimate of the second derivative of the return. So the
      meta-gradient is right as n grows; in long episodes it is noisy.
    - ``"sampled"``: g_k is differentiated with its episodes held fixed, and they get credit for the return after the
      last step by their own score, ``d log p(episodes) (return - that of the other tasks)``. Unbiased for every n,
      whatever the inner baseline, and the noisiest.

    Now and then the policies of a batch run away, and its gradient is many times the usual one: train with ``clip``,
    100 for ``Navigation``, about half of what is usual there.

    Unbiased is meant of ``baseline="none"`` in the outer score: a baseline fitted to the very episodes that it is taken
    from adds a small bias. With ``"linear"`` the inner advantages are brought to mean 0 and spread 1 in each task, too,
    so that one inner rate suits all.

    Arguments:
        policy: a ``Policy``, such as ``GaussianPolicy``; layers of ``metakit.nn`` run all tasks at once.
        rule: the inner rule; ``SGD(lr=0.1)`` when left out.
        steps: inner steps K; 0 trains one policy for all tasks, which knows no inner loop.
        order: 2 or 1.
        episodes: n, played before each inner step and after the last.
        credit: ``"local"``, ``"dice"``, ``"none"`` or ``"sampled"``.
        baseline: ``"linear"``, see ``linear_baseline``, or ``"none"``.
        later: the share of its move that the rule makes at each inner step after the first.

    Raises:
        TypeError: if the policy or the rule is none.
        ValueError: if an option is out of its range, or ``credit="sampled"`` meets ``order=1``.

    Example:
        >>> from metakit.tasks.navigation import Navigation
        >>> learner = PolicyMAML(GaussianPolicy(2, 2, std=0.1), episodes=4)
        >>> learner(Navigation(10).sample(3)).shape
        torch.Size([3])

    Source: Finn, Abbeel and Levine 2017, algorithm 3 and section 5.3 (n = 20, rate 0.1, halved after the first step);
    ``"dice"``, Foerster et al. 2018, with advantages, Farquhar et al. 2019; ``"local"``, the low variance curvature of
    Rothfuss et al. 2019, section 5; ``"sampled"``, Al-Shedivat et al. 2018 and Stadie et al. 2018 (E-MAML).
    """

    axis = "inner steps"
    outer_optimizer, outer_lr = torch.optim.Adam, 3e-3

    def __init__(
        self,
        policy: nn.Module,
        *,
        rule: Rule | None = None,
        steps: int = 1,
        order: int = 2,
        episodes: int = 20,
        credit: str = "local",
        baseline: str = "linear",
        later: float = 0.5,
    ) -> None:
        super().__init__()
        check_network(policy)
        if not isinstance(policy, Policy):
            raise TypeError(
                f"policy must have draw and chances, see metakit.agents.gradient.Policy; {type(policy).__name__} has "
                "not. GaussianPolicy(2, 2) is one."
            )
        self.policy, self.steps, self.order = policy, whole("steps", steps, least=0), choice("order", order, (1, 2))
        self.episodes, self.later = whole("episodes", episodes), real("later", later, least=0.0)
        self.credit, self.baseline = choice("credit", credit, CREDITS), choice("baseline", baseline, BASELINES)
        if self.credit == "sampled" and self.order == 1:
            raise ValueError('credit="sampled" goes through the inner steps, so it needs order=2, got order=1.')
        self.adapted = tuple(adaptable(policy, None))
        self.rule = prepared(SGD(lr=0.1) if rule is None else rule, self.initial, self.steps)

    @property
    def initial(self) -> dict[str, nn.Parameter]:
        """The learned initial weights."""
        named = dict(self.policy.named_parameters())
        return unfrozen({name: named[name] for name in self.adapted})

    def forward(self, batch: Arenas) -> Tensor:
        network = Functional(self.policy)
        *_, (weights, rollout, score) = self._stages(network, batch, self.steps, self.order)
        chances = self._chances(network, weights, rollout)
        loss = -(chances * self.advantages(rollout)).sum(-1).mean(1)
        value = -rollout.returns.mean(1)
        if self.credit == "sampled":
            others = (value.sum() - value) / max(1, len(value) - 1)  # a task's own luck is not in its baseline
            loss = loss + score * (value - others)
        return value + loss - loss.detach()

    def scores(
        self, batch: Arenas, steps: int | None = None, protocol: str | None = None
    ) -> Iterator[tuple[int, Scores]]:
        """Yield the mean return of the episodes played after each inner step, from 0 on."""
        yield from [(k, {RETURN: rollout.returns.mean(1)}) for k, rollout in enumerate(self.rollouts(batch, steps))]

    def paths(self, batch: Arenas, steps: int | None = None) -> list[Tensor]:
        """What was seen in n episodes played after 0, 1, ..., K inner steps: K + 1 times ``[T, n, L + 1, D]``."""
        return [rollout.observations for rollout in self.rollouts(batch, steps)]

    def rollouts(self, batch: Arenas, steps: int | None = None) -> list[Rollout]:
        """The n episodes of each task that were played after 0, 1, ..., K inner steps; each step learns from them."""
        count = self.steps if steps is None else whole("steps", steps, least=0)
        with torch.inference_mode(False), torch.no_grad():
            return [stage.rollout for stage in self._stages(Functional(self.policy), batch, count, 1)]

    def advantages(self, rollout: Rollout, *, scaled: bool = False) -> Tensor:
        """How much better each action turned out than the baseline, ``[T, n, L]``; if scaled, of spread 1."""
        if self.baseline == "none":
            return rollout.to_come
        better = (rollout.to_come - linear_baseline(rollout)) * rollout.alive
        if not scaled:
            return better
        count = rollout.alive.sum((1, 2), keepdim=True)
        better = (better - better.sum((1, 2), keepdim=True) / count) * rollout.alive
        return better / ((better.square().sum((1, 2), keepdim=True) / count).sqrt() + 1e-8)

    def _stages(self, network: Functional, batch: Arenas, steps: int, order: int) -> Iterator[_Stage]:
        """Play, adapt, play, ...: the inner loop after 0, 1, ..., K steps."""
        if not isinstance(batch, Arenas):
            raise TypeError(
                f"PolicyMAML acts in worlds that can be entered many times at once (begin(n), step), got "
                f"{type(batch).__name__}. Draw some: mk.tasks.Navigation().sample(T)."
            )
        weights, score = stacked(self.initial, len(batch)), torch.zeros(len(batch), device=batch.device)
        state = self.rule.init_state(weights)
        for k in range(steps + 1):
            rollout = self._play(network, weights, batch)
            yield _Stage(weights, rollout, score)
            if k == steps:
                return
            grads, loss, chances = self._gradients(network, weights, rollout, order)
            score = score + chances.sum((1, 2))
            moved, state = self.rule.step(InnerStep(weights, grads, loss, k, steps), state)
            share = 1.0 if k == 0 else self.later
            weights = {name: w.lerp(moved[name], share) for name, w in weights.items()} if share != 1 else moved

    def _play(self, network: Functional, weights: Weights, batch: Arenas) -> Rollout:
        held = {name: w.detach() for name, w in weights.items()}
        return roll_out(batch, lambda seen: self.policy.draw(network(held, seen)), self.episodes)

    def _gradients(
        self, network: Functional, weights: Weights, rollout: Rollout, order: int
    ) -> tuple[Weights, Tensor, Tensor]:
        second = order == 2 and torch.is_grad_enabled()
        with torch.enable_grad():
            if not second:
                weights = {name: w.detach().requires_grad_() for name, w in weights.items()}
            chances = self._chances(network, weights, rollout)
            losses = surrogate(chances, self.advantages(rollout, scaled=True), self.credit)
            grads = torch.autograd.grad(
                losses.sum(), list(weights.values()), create_graph=second, materialize_grads=True
            )
        return dict(zip(weights, grads, strict=True)), losses.detach(), chances if second else chances.detach()

    def _chances(self, network: Functional, weights: Weights, rollout: Rollout) -> Tensor:
        """Log-chances of what was done, ``[T, n, L]``, with their graph; 0 outside the episode."""
        seen = rollout.observations[:, :, :-1]
        told = network(weights, seen.flatten(1, 2)).unflatten(1, seen.shape[1:3])
        return self.policy.chances(told, rollout.actions) * rollout.alive
