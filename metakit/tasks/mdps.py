"""Tabular decision processes: small worlds with states, in which actions pay now and lead somewhere."""

from __future__ import annotations

import dataclasses
import functools

import torch
from torch import Tensor

from metakit.checks import Device, drawing, placed, whole, whole_span
from metakit.contracts import Turn


def backward_induction(means: Tensor, transitions: Tensor, horizon: int) -> Tensor:
    """What each action is worth in each state at each step of an episode, if all later ones are the best.

        Q_h(s, a) = r(s, a) + sum_s' P(s' | s, a) max_a' Q_{h+1}(s', a'),    Q_H = 0

    Arguments:
        means: mean rewards r, ``[..., S, A]``.
        transitions: the chances P of the next state, ``[..., S, A, S]``.
        horizon: steps H in an episode.

    Example:
        >>> stay, leave = [1.0, 0.0], [0.0, 1.0]  # the second state pays, the first action stays
        >>> means = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
        >>> backward_induction(means, torch.tensor([[stay, leave], [leave, stay]]), 3)[:, 0]
        tensor([[1., 2.],
                [0., 1.],
                [0., 0.]])

    Returns:
        Q, ``[..., H, S, A]``.

    Source: Bellman 1957, chapter 3.
    """
    best, found = torch.zeros_like(means[..., 0]), []
    for _ in range(whole("horizon", horizon)):
        q = means + torch.einsum("...sap,...p->...sa", transitions, best)
        found.append(q)
        best = q.amax(-1)
    return torch.stack(found[::-1], -3)


@dataclasses.dataclass(frozen=True)
class MDPBatch:
    """T decision processes of one size, a ``contracts.Worlds``: what ``MDPs`` draws.

    What is seen is the state, as a row of zeros with a one. Each episode begins in state 0.

    Arguments:
        means: the mean reward of each action in each state, ``[T, S, A]``, hidden from who plays; rewards are normal
            about it with standard deviation 1.
        transitions: the chances of the next state, ``[T, S, A, S]``, hidden too.
        horizon: steps H in an episode.
        episodes: episodes in a trial.

    Example:
        >>> worlds = MDPBatch(torch.tensor([[[0.0, 2.0]]]), torch.ones(1, 1, 2, 1), horizon=3, episodes=4)
        >>> worlds.steps, worlds.optimum
        (12, tensor([24.]))
        >>> state, _ = worlds.begin()
        >>> worlds.step(state, torch.tensor([0]))[1].merit
        tensor([-2.])
    """

    means: Tensor
    transitions: Tensor
    horizon: int
    episodes: int

    @property
    def actions(self) -> int:
        return self.means.shape[2]

    @property
    def states(self) -> int:
        """Number of states S."""
        return self.means.shape[1]

    @property
    def steps(self) -> int:
        return self.horizon * self.episodes

    @functools.cached_property
    def values(self) -> Tensor:
        """What each action is worth at each step of an episode, the best play after it, ``[T, H, S, A]``."""
        return backward_induction(self.means, self.transitions, self.horizon)

    @functools.cached_property
    def merits(self) -> Tensor:
        """How far what each action is worth lies below the best, ``[T, H, S, A]``."""
        return self.values - self.values.amax(-1, keepdim=True)

    @property
    def optimum(self) -> Tensor:
        """The expected return of a trial of one who knows the world, ``[T]``."""
        return self.episodes * self.values[:, 0, 0].amax(-1)

    def begin(self) -> tuple[dict[str, Tensor], Tensor]:
        first = torch.zeros(len(self), dtype=torch.int64, device=self.device)
        return {"at": first, "h": first}, self._seen(first)

    def step(self, state: dict[str, Tensor], action: Tensor) -> tuple[dict[str, Tensor], Turn]:
        at, h = state["at"], state["h"]
        each = torch.arange(len(self), device=self.device)
        row = (each * self.states + at) * self.actions + action
        mean, merit = self.means.flatten()[row], self.merits[each, h, at, action]
        # The last bound is left out: rounded, the chances add up to a little less than one.
        after = (torch.rand_like(mean)[:, None] >= self._bounds[row]).sum(1)
        done = h + 1 == self.horizon
        at, h = after.masked_fill(done, 0), (h + 1).masked_fill(done, 0)
        return {"at": at, "h": h}, Turn(mean + torch.randn_like(mean), self._seen(at), done, merit)

    def _seen(self, at: Tensor) -> Tensor:
        return self._sights[at]

    @functools.cached_property
    def _bounds(self) -> Tensor:
        """Where the chances of the next states end, one after the other, ``[T * S * A, S - 1]``."""
        return self.transitions.cumsum(-1)[..., :-1].flatten(0, 2)

    @functools.cached_property
    def _sights(self) -> Tensor:
        return torch.eye(self.states, dtype=self.means.dtype, device=self.device)

    def __len__(self) -> int:
        return len(self.means)

    def __getitem__(self, index: slice | Tensor) -> MDPBatch:
        return dataclasses.replace(self, means=self.means[index], transitions=self.transitions[index])

    def to(self, device: torch.device | str | None) -> MDPBatch:
        return dataclasses.replace(self, means=self.means.to(device), transitions=self.transitions.to(device))

    @property
    def device(self) -> torch.device:
        return self.means.device

    def numel(self) -> int:
        return self.means.numel() + self.transitions.numel()


@dataclasses.dataclass(frozen=True)
class MDPs:
    """A distribution of tabular decision processes: any state may follow any other, and any action may pay.

        r(s, a) ~ N(1, 1),    P(. | s, a) ~ Dirichlet(1, ..., 1),    reward ~ N(r(s, a), 1)

    An agent's memory is kept over the episodes of a trial, so that what it found out in one serves in the next. Take
    ``mk.RL2(actions, (states,), reward_mean=1.0, reward_spread=1.4)``.

    Arguments:
        states: number of states S.
        actions: number of actions A.
        horizon: steps H in an episode.
        episodes: episodes in a trial, or a range of it, drawn log-uniformly.

    Raises:
        TypeError: if a number is not a whole number.
        ValueError: if a range is empty or a number too small.

    Example:
        >>> worlds = MDPs(episodes=(2, 5)).sample(3, seed=0)
        >>> len(worlds), worlds.states, worlds.actions, 20 <= worlds.steps <= 50
        (3, 10, 5, True)

    Source: Duan et al. 2016, section 3.2; the prior, Osband et al. 2013.
    """

    states: int = 10
    actions: int = 5
    horizon: int = 10
    episodes: int | tuple[int, int] = 10

    def __post_init__(self) -> None:
        object.__setattr__(self, "states", whole("states", self.states))
        object.__setattr__(self, "actions", whole("actions", self.actions, least=2))
        object.__setattr__(self, "horizon", whole("horizon", self.horizon))
        object.__setattr__(self, "episodes", whole_span("episodes", self.episodes))

    @property
    def drawn_at_once(self) -> int:
        """Worlds to judge on at once: many, unless each batch has a length of its own."""
        low, high = self.episodes  # type: ignore[misc]  # a pair since __post_init__
        return 50 if low < high else 500

    def sample(
        self,
        n_tasks: int,
        *,
        generator: torch.Generator | None = None,
        seed: int | None = None,
        device: Device = None,
    ) -> MDPBatch:
        """T decision processes, with trials of one length; randomness as in ``Sinusoids.sample``."""
        n_tasks, generator, place, target = drawing(n_tasks, generator, seed, device)
        low, high = self.episodes  # type: ignore[misc]  # a pair since __post_init__
        episodes = low
        if low < high:
            episodes = round(low * (high / low) ** float(torch.rand((), generator=generator, device=place)))
        shape = (n_tasks, self.states, self.actions)
        means = 1 + torch.randn(shape, generator=generator, device=place)
        weights = torch.empty(*shape, self.states, device=place).exponential_(generator=generator)
        batch = MDPBatch(means, weights / weights.sum(-1, keepdim=True), self.horizon, episodes)
        return placed(batch, target)
