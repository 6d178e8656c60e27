"""Players of bandits that learn nothing from other bandits: the rules that a learned agent has to beat."""

from __future__ import annotations

import torch
from torch import Tensor

from metakit.agents.agent import Agent
from metakit.agents.counts import Counting
from metakit.agents.trial import State, play
from metakit.checks import choice, real
from metakit.contracts import Worlds
from metakit.saving import saved
from metakit.tasks.bandits import KINDS


class Player(Counting, Agent):
    """A rule for playing bandits: an agent without parameters, which is judged and compared, and never trained.

    A subclass gives ``choose``, from what each arm paid (``Counting``). ``pays`` says which kind of arms it is made
    for, as in ``Bandits``; ``None`` is any. As a learner its loss is what it lost against the best arm, per pull.

    Raises:
        ValueError: if Bernoulli arms are expected, and one pays neither 0 nor 1.
    """

    axis = "pulls"
    pays: str | None = "bernoulli"

    def remember(
        self, state: State, action: Tensor, reward: Tensor, observation: Tensor | None, done: Tensor | None
    ) -> State:
        odd = (reward != 0) & (reward != 1)
        if self.pays == "bernoulli" and bool(odd.any()):
            raise ValueError(
                f"{type(self).__name__} plays arms that pay 0 or 1, and one paid {float(reward[odd][0]):g}. Give it "
                'Bandits(kind="bernoulli"), or take Thompson(kind="gaussian") or UCB1(prior=0).'
            )
        return super().remember(state, action, reward, observation, done)

    def forward(self, batch: Worlds) -> Tensor:
        played, _ = play(self, batch)
        return -played.payoffs.sum(1) / batch.steps


@saved
class Thompson(Player):
    """Thompson sampling: an arm is pulled as often as it is likely to be the best one.

        theta_a ~ p(theta_a | what arm a paid),    pull argmax_a theta_a

    The posterior is Beta(1 + successes, 1 + failures), or N(sum / (n + 1), 1 / (n + 1)) for normal arms.

    Arguments:
        kind: the arms, as in ``Bandits``: ``"bernoulli"`` (chances U[0, 1]) or ``"gaussian"`` (means N(0, 1), noise 1).

    Raises:
        ValueError: if the kind is neither.

    Example:
        >>> player = Thompson()
        >>> state = player.start(n_tasks=2, arms=3, pulls=10)
        >>> state = player.observe(state, player.act(state), torch.tensor([1.0, 0.0]))
        >>> state["pulled"].sum(1).tolist()
        [1.0, 1.0]

    Source: Thompson 1933; as a baseline of learned agents, Duan et al. 2016, section 3.1.
    """

    def __init__(self, kind: str = "bernoulli") -> None:
        super().__init__()
        self.kind = choice("kind", kind, KINDS)
        self.pays = "bernoulli" if self.kind == "bernoulli" else None

    def choose(self, state: State, sample: bool) -> Tensor:
        pulled, paid = state["pulled"], state["paid"]
        if self.kind == "gaussian":
            return ((paid + torch.randn_like(paid) * (pulled + 1).sqrt()) / (pulled + 1)).argmax(-1)
        belief = torch.distributions.Beta(1 + paid, 1 + pulled - paid, validate_args=False)
        return belief.sample().argmax(-1)


@saved
class UCB1(Player):
    """The arm whose upper confidence bound is highest.

        index_a = m_a + c sqrt(log t / n_a)

    m and n are the mean of what the arm paid and the number of its pulls; t is the number of the pull, from 1.

    Arguments:
        scale: c, how much is added for not knowing. Its bounds on regret are proved for sqrt(2); 0.25 reaches the
            published totals of a tuned c, for 5 to 50 arms and 10 to 500 pulls.
        prior: pulls that paid 1, and as many that paid 0, counted in m_a and n_a before the first. With 0 every arm
            is tried once before any is pulled again: the rule as published, and the one for normal arms.

    Raises:
        TypeError: if a number is not a number.
        ValueError: if a number is negative.

    Example:
        >>> player = UCB1(scale=2**0.5, prior=0)
        >>> state = player.start(arms=2, pulls=10)
        >>> for _ in range(2):
        ...     state = player.observe(state, player.act(state), torch.ones(1))
        >>> state["pulled"].tolist()
        [[1.0, 1.0]]

    Source: Auer, Cesa-Bianchi and Fischer 2002, figure 1; with c and one success and failure, Duan et al. 2016.
    """

    pays = None

    def __init__(self, scale: float = 0.25, *, prior: float = 1.0) -> None:
        super().__init__()
        self.scale, self.prior = real("scale", scale, least=0.0), real("prior", prior, least=0.0)

    def choose(self, state: State, sample: bool) -> Tensor:
        n, t = state["pulled"] + 2 * self.prior, torch.tensor(state["k"] + 1.0)
        index = (state["paid"] + self.prior) / n + self.scale * (t.log() / n).sqrt()
        return highest(index.where(n > 0, torch.inf))


@saved
class Optimistic(Player):
    """The arm that seems best, after a start that praises them all: each is tried until it disappoints.

        m_a = (w m_0 + what arm a paid) / (w + n_a)

    Arguments:
        mean: m_0, what an arm is taken to pay before it is known. Where 1 is the most that arms pay, less than 1: or
            else an arm that never failed seems no better than one that was never tried.
        weight: w, how many pulls that is worth.

    Raises:
        TypeError: if a number is not a number.
        ValueError: if the weight is not above 0.

    Example:
        >>> player = Optimistic()
        >>> state = player.start(arms=2, pulls=10)
        >>> state = player.observe(state, torch.tensor([0]), torch.tensor([0.0]))
        >>> player.act(state).tolist()
        [1]

    Source: Sutton and Barto 2018, section 2.6.
    """

    pays = None

    def __init__(self, mean: float = 0.9, *, weight: float = 3.0) -> None:
        super().__init__()
        self.mean, self.weight = real("mean", mean), real("weight", weight, above=0.0)

    def choose(self, state: State, sample: bool) -> Tensor:
        return highest((self.weight * self.mean + state["paid"]) / (self.weight + state["pulled"]))


def highest(index: Tensor) -> Tensor:
    """The arm of the highest index, ``[T]`` of ``[T, arms]``; one of them at random where several share it."""
    return torch.rand_like(index).where(index == index.amax(-1, keepdim=True), -1.0).argmax(-1)
