"""Structure by gradient: a network that is a mixture of all candidates, whose mixing weights the outer loop learns."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metakit.checks import choice, real, whole
from metakit.contracts import Estimate, InnerStep, Weights
from metakit.inner import SGD, adapt, task_loss
from metakit.nn import Linear
from metakit.nn.lending import Functional, stacked
from metakit.outer import Training
from metakit.search.architecture import ACTIVATIONS
from metakit.search.space import Candidate, Choice, Number, Space
from metakit.search.strategies import cells_of
from metakit.tasks.batch import TaskBatch

# A range of numbers is mixed from at most this many of its values.
_OPTIONS = 8


class Mixture(nn.Module):
    """One network with the weights of the largest candidate, mixed from the structures of all of them.

        a_l = sum_k p_k(activation) act_k(W_l h_{l-1} + b_l) * sum_u p_u(units) [unit < u]
        h_l = g_l a_l + (1 - g_l) h_{l-1},    g_l = sum_{n >= l} p_n(hidden layers),    g_1 = 1

    Each p is the softmax of the mixing weights of its dimension. With all of them on one option each, the network is
    that candidate; a missing dimension is one hidden layer, ReLU.

    Arguments:
        space: with the dimensions ``units`` and perhaps ``hidden_layers``, ``activation`` and ``learning_rate``.
        inputs, outputs: numbers in a row and in an answer.

    Raises:
        ValueError: if the space has no ``units``, or a dimension that cannot be mixed.
    """

    stacks_tasks = True

    def __init__(self, space: Space, inputs: int, outputs: int) -> None:
        super().__init__()
        known = ("units", "hidden_layers", "activation", "learning_rate")
        if odd := [name for name in space.names if name not in known]:
            raise ValueError(f"only {', '.join(known)} can be mixed, got {odd[0]!r}. Use another strategy for it.")
        if "units" not in space.names:
            raise ValueError(f"the space must have the dimension units, got {', '.join(space.names)}.")
        self.options = {name: options_of(dimension) for name, dimension in space.dimensions.items()}
        if odd := [f for f in self.options.get("activation", ()) if f not in ACTIVATIONS]:
            raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {odd[0]!r}.")
        if min(self.options.get("hidden_layers", (1,))) < 1:
            raise ValueError("hidden_layers must be at least 1 to be mixed. Raise the low end.")
        width, depth = max(self.options["units"]), max(self.options.get("hidden_layers", (1,)))
        self.layers = nn.Sequential(*(Linear(inputs if i == 0 else width, width) for i in range(depth)))
        self.head = Linear(width, outputs)
        for name, options in self.options.items():
            self.register_parameter(f"mix_{name}", nn.Parameter(torch.zeros(len(options))))
        inside = torch.arange(width) < torch.tensor(self.options["units"])[:, None]
        self.masks: Tensor
        self.register_buffer("masks", inside.to(self.head.weight.dtype), persistent=False)

    @property
    def mixing(self) -> dict[str, nn.Parameter]:
        """The mixing weights of each dimension, ``[options]``."""
        return {name: self.get_parameter(f"mix_{name}") for name in self.options}

    def share(self, name: str) -> Tensor:
        """The softmax of a dimension's mixing weights."""
        return self.get_parameter(f"mix_{name}").softmax(0)

    def forward(self, x: Tensor) -> Tensor:
        width = self.share("units") @ self.masks.to(x.dtype)
        h = x
        for i, layer in enumerate(self.layers, start=1):
            a = self._activate(layer(h)) * width
            gate = self._gate(i)
            h = a if gate is None else gate * a + (1 - gate) * h
        return self.head(h)

    def _activate(self, z: Tensor) -> Tensor:
        if "activation" not in self.options:
            return F.relu(z)
        shares = self.share("activation").unbind()
        return sum(
            (p * getattr(torch, f)(z) for p, f in zip(shares, self.options["activation"], strict=True)),
            start=torch.zeros((), dtype=z.dtype, device=z.device),
        )

    def _gate(self, layer: int) -> Tensor | None:
        if layer == 1:
            return None
        reached = [i for i, depth in enumerate(self.options["hidden_layers"]) if depth >= layer]
        return self.share("hidden_layers")[reached].sum()


class MixedSGD(nn.Module):
    """Gradient descent at a mixed rate, ``w <- w - (sum_i p_i rate_i) g``: a meta-parameter of the inner loop.

    Arguments:
        mixture: its ``learning_rate`` dimension holds the rates and their mixing weights.
    """

    def __init__(self, mixture: Mixture) -> None:
        super().__init__()
        self.mixture = mixture

    def init_state(self, weights: Weights) -> None:
        return None

    def step(self, now: InnerStep, state: None) -> tuple[Weights, None]:
        p = self.mixture.share("learning_rate")
        lr = p @ p.new_tensor(self.mixture.options["learning_rate"])
        return {name: w - lr * now.grads[name] for name, w in now.weights.items()}, None


@dataclasses.dataclass(frozen=True)
class Derived:
    """What ``Differentiable`` found.

    Arguments:
        candidate: the most probable option of each dimension.
        options: the options of each dimension.
        shares: their mixing probabilities after each outer step: dimension to ``[steps + 1, options]``.
        loss: mean validation loss of the mixture at each outer step.
    """

    candidate: Candidate
    options: dict[str, tuple[Any, ...]]
    shares: dict[str, Tensor]
    loss: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Differentiable:
    """Gradient-based structure search: weights learn on the support rows, mixing weights on the query rows.

        w' = U_K(w, alpha; support),    alpha <- Adam(alpha, grad_alpha L(w', alpha; query)),    w <- w'

    The second-order gradient goes through the K inner steps; the first-order one takes w' for a constant. Train the
    candidate that comes out afresh, with ``search.train``: the mixture shares its weights among all candidates.

    Arguments:
        steps: outer steps.
        inner_steps: K.
        inner_lr: inner learning rate, unless the space has ``learning_rate``, which is then mixed too.
        lr: outer learning rate.
        order: 2 or 1.

    Raises:
        ValueError: if an option is out of its range.

    Example:
        >>> import metakit as mk
        >>> batch = mk.tasks.LinearRegression(rows=20, features=3).sample(1, seed=0)
        >>> derived = Differentiable(steps=5).fit(Space(units=(1, 4), activation=("relu", "tanh")), batch)
        >>> derived.shares["units"].shape
        torch.Size([6, 4])

    Source: Liu, Simonyan and Yang 2019 (DARTS), sections 2.2 and 2.3.
    """

    steps: int = 200
    inner_steps: int = 5
    inner_lr: float = 0.05
    lr: float = 0.03
    order: int = 2

    def __post_init__(self) -> None:
        for name in ("steps", "inner_steps"):
            whole(name, getattr(self, name))
        for name in ("inner_lr", "lr"):
            real(name, getattr(self, name), above=0)
        choice("order", self.order, (2, 1))

    def fit(self, space: Space, batch: TaskBatch, *, seed: int = 0) -> Derived:
        """Learn the mixing weights on these tasks, and read off the structure.

        Raises:
            ValueError: if a dimension cannot be mixed, or ``learning_rate`` is asked for at first order, where it has
                no gradient; if the loss turns infinite.
        """
        if self.order == 1 and "learning_rate" in space.names:
            raise ValueError("learning_rate has no first-order gradient. Use order=2, or leave it out of the space.")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            mixture = Mixture(space, batch.support_x.shape[-1], batch.ways or batch.support_y.shape[-1])
        mixture.to(batch.device, batch.support_x.dtype)
        mixing = mixture.mixing
        optimizer = torch.optim.Adam(mixing.values(), lr=self.lr)
        own = {name: p for name, p in mixture.named_parameters() if not name.startswith("mix_")}
        start = {name: w.detach().clone() for name, w in stacked(own, len(batch)).items()}
        shares = {name: [mixture.share(name).detach()] for name in mixing}

        def estimate(_: Any, parameters: Mapping[str, Tensor], tasks: Any, carry: Any) -> Estimate:
            """The gradient for the mixing weights, from where the last step left the others, which are carried on."""
            weights, loss = self.outer_loss(mixture, carry or start, tasks)
            if not math.isfinite(value := float(loss.detach())):
                raise ValueError(
                    f"the loss was {value} at outer step {run.step + 1}, and must be finite. Lower inner_lr."
                )
            grads = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
            return Estimate(loss.detach(), grads, {name: w.detach() for name, w in weights.items()})

        plan = Training(
            mixture, _Same(batch), steps=self.steps, optimizer=optimizer, estimator=estimate, progress=False
        )
        run = plan.start()
        for _ in run:
            for name, each in shares.items():
                each.append(mixture.share(name).detach())
        chosen = {name: mixture.options[name][int(p.argmax())] for name, p in mixing.items()}
        return Derived(chosen, mixture.options, {n: torch.stack(s).cpu() for n, s in shares.items()}, tuple(run.loss))

    def outer_loss(self, mixture: Mixture, weights: Weights, batch: TaskBatch) -> tuple[Weights, Tensor]:
        """The adapted weights, and the mean query loss under them, both functions of the mixing weights."""
        rule = MixedSGD(mixture) if "learning_rate" in mixture.options else SGD(self.inner_lr)
        start = {name: w.requires_grad_() for name, w in weights.items()}
        options: dict[str, Any] = {"rule": rule, "steps": self.inner_steps, "order": self.order}
        adapted = adapt(mixture, start, batch.support_x, batch.support_y, **options)
        if self.order == 1:
            adapted = {name: w.detach() for name, w in adapted.items()}
        return adapted, task_loss(Functional(mixture)(adapted, batch.query_x), batch.query_y).mean()


@dataclasses.dataclass(frozen=True)
class _Same:
    """The same tasks whenever some are drawn."""

    batch: TaskBatch

    def sample(
        self, n_tasks: int, *, generator: torch.Generator | None = None, device: torch.device | None = None
    ) -> TaskBatch:
        return self.batch


def options_of(dimension: Choice | Number) -> tuple[Any, ...]:
    """The values that a dimension is mixed from: all of a choice, some spread over a range, its high end included."""
    if isinstance(dimension, Choice):
        return dimension.values
    count = min(cells_of(dimension), _OPTIONS)
    return tuple(dict.fromkeys([dimension.value((i + 0.5) / count) for i in range(count - 1)] + [dimension.high]))
