"""The update rule itself, learned: a small network makes each weight's move from what a training loop can see."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from metakit.checks import choice, real, whole
from metakit.contracts import InnerStep, Weights
from metakit.inner import in_place
from metakit.inner.applied import Applied
from metakit.inner.coordinates import CoordinateLSTM
from metakit.inner.tensors import Tensors
from metakit.saving import saved

_DECAYS, _SQUARE_DECAYS, _SQUARES = (0.5, 0.9, 0.99), (0.95, 0.999), ("fast", "slow")
_SMALL = 1e-20  # under a root: far below the square of any gradient that matters, so that scales cancel
_DEAD = 1e-8  # of a tensor's mean square gradient: below it a weight's own does not count, nor is its noise blown up
_PER_WEIGHT, _PER_TENSOR = 6, 14  # what the networks see
_MOST = 5.0  # features of a weight beyond it are cut off

State = dict[str, Tensor]


@saved
class LearnedOptimizer(nn.Module):
    """An inner rule that is learned: ``w <- w - a (c_1 d_1 + c_2 d_2 + c_3 d_3 + f(features of the weight)) - a b w``.

    ``d_i = m_i / sqrt(v)`` are the directions that Adam would take with decays 0.5, 0.9 and 0.99. For each tensor a
    network of its own, the controller, sets the rate a, the mixture c and the weight decay b; for each weight the small
    network f adds to the direction. Both begin at zero, where the rule is Adam. They see ratios alone (gradient and
    momenta over the root of the second moment, weights over their own size, the share of the training done), so that a
    loss counted in other units is trained by the same steps.

    ``kind="lstm"`` is the classic one: two layers of LSTM, the same for each weight, with a state of its own.

    What a step does to a network's answers adds up over its layers, so the rate is for a network of four tensors or
    fewer, two layers; one of P tensors takes 4 / P of it.

    Trained by ``fit`` inside ``Unroll``; used in any loop as a ``torch.optim.Optimizer`` by :meth:`optimizer`.

    Arguments:
        kind: ``"mlp"`` or ``"lstm"``.
        lr: the rate that it begins with, in a network of two layers.
        hidden: units of the network for each weight.
        controls: units of the controller.

    Raises:
        ValueError: if the kind is neither, or a number is out of its range.

    Example:
        >>> rule, w = LearnedOptimizer(lr=0.1), {"w": torch.ones(1, 3)}
        >>> now = InnerStep(w, {"w": torch.tensor([[2.0, -3.0, 0.5]])}, k=0, steps=10)
        >>> rule.step(now, rule.init_state(w))[0]["w"].detach().round(decimals=2)  # the first step of Adam
        tensor([[0.9000, 1.1000, 0.9000]])

    Source: features and controller after Metz et al. 2020 and 2022, hypernetwork and per-weight network; the LSTM after
    Andrychowicz et al. 2016, section 2.1.
    """

    trained_steps: Tensor

    def __init__(self, kind: str = "mlp", *, lr: float = 0.005, hidden: int = 6, controls: int = 16) -> None:
        super().__init__()
        self.kind = choice("kind", kind, ("mlp", "lstm"))
        self.lr = real("lr", lr, above=0.0)
        self.hidden, self.controls = whole("hidden", hidden), whole("controls", controls)
        self.core: Any = CoordinateLSTM() if kind == "lstm" else _PerWeight(self.lr, self.hidden, self.controls)
        self.register_buffer("trained_steps", torch.zeros((), dtype=torch.int64))

    def init_state(self, weights: Weights) -> State:
        return self.core.begin(_side_by_side(weights))

    def step(self, now: InnerStep, state: State) -> tuple[Weights, State]:
        shapes = {name: w.shape[1:] for name, w in now.weights.items()}
        flat = _side_by_side(now.weights)
        tensors = Tensors.of(list(shapes.values()), flat)
        after, state = self.core.move(flat, _side_by_side(now.grads), state, now.k, now.steps, tensors)
        parts = after.split(tensors.sizes, 1)
        return {name: part.unflatten(1, shapes[name]) for name, part in zip(shapes, parts, strict=True)}, state

    def optimizer(self, parameters: Iterable[Any], *, steps: int, lr: float = 1.0, compile: bool = False) -> Applied:
        """This rule as a ``torch.optim.Optimizer`` for anybody's training loop; see ``Applied``.

        Arguments:
            parameters: as for any optimiser of ``torch.optim``: tensors, or groups of them.
            steps: steps that the training will take; the rule warms up and cools down over them.
            lr: what its moves are multiplied by; a scheduler may change it.
            compile: have the step of large tensors compiled: a minute once, then several times as fast.
        """
        return Applied(self, parameters, steps=steps, lr=lr, compile=compile)

    def extra_repr(self) -> str:
        sizes = f", lr={self.lr}, hidden={self.hidden}, controls={self.controls}" if self.kind == "mlp" else ""
        return f"kind={self.kind!r}{sizes}"


class _PerWeight(nn.Module):
    """The controller of each tensor, and the small network of each weight."""

    def __init__(self, lr: float, hidden: int, controls: int) -> None:
        super().__init__()
        self.log_rate = nn.Parameter(torch.tensor(math.log(lr)))
        self.controller = nn.Sequential(nn.Linear(_PER_TENSOR, controls), nn.Tanh(), nn.Linear(controls, 5))
        self.inside = nn.Parameter(torch.randn(hidden, _PER_WEIGHT) / _PER_WEIGHT**0.5)
        self.inside_bias = nn.Parameter(torch.zeros(hidden, 1))
        self.outside = nn.Parameter(torch.zeros(1, hidden))
        for tensor in self.controller[2].parameters():
            nn.init.zeros_(tensor)

    def begin(self, w: Tensor) -> State:
        return {
            "momenta": w.new_zeros(len(w), 3, w.shape[1]),
            "fast": torch.zeros_like(w, memory_format=torch.contiguous_format),
            "slow": torch.zeros_like(w, memory_format=torch.contiguous_format),
        }

    def move(
        self, w: Tensor, g: Tensor, state: State, k: int, steps: int | None, tensors: Tensors
    ) -> tuple[Tensor, State]:
        """Weights ``[T, N]`` and their gradients to the weights after step k.

        Nothing large is cut into slices: the derivative of a slice fills all the rest with zeros.
        """
        decays, square, each = g.new_tensor(_DECAYS)[:, None], g.square(), g[:, None]
        momenta = decays * state["momenta"] + (1 - decays) * each
        fast, slow = (d * state[name] + (1 - d) * square for d, name in zip(_SQUARE_DECAYS, _SQUARES, strict=True))
        rows = [momenta.square(), each * momenta, fast[:, None], slow[:, None], w.square()[:, None]]
        means = tensors.means(torch.cat(rows, 1))
        told = self.controls(means, k, steps, tensors)
        early, late = 1 / (1 - decays ** (k + 1)), [1 / (1 - d ** (k + 1)) for d in _SQUARE_DECAYS]
        root = ((slow + _DEAD * tensors.spread(means[:, 7])) * late[1] + _SMALL).rsqrt()
        directions, held = momenta * early * root[:, None], w[:, None]
        ratio = (fast * late[0] + _SMALL).sqrt() * root
        sized = w * tensors.spread((means[:, 8] + _SMALL).rsqrt())
        features = torch.cat([directions, (g * root)[:, None], ratio[:, None], sized[:, None]], 1)
        inside = torch.relu(self.inside @ features.clamp(-_MOST, _MOST) + self.inside_bias)
        moves = torch.cat([self.outside @ inside, directions, held], 1) * tensors.spread(told)
        return w - moves.sum(1), {"momenta": momenta, "fast": fast, "slow": slow}

    def move_(
        self, w: Tensor, g: Tensor, state: State, k: int, steps: int, tensors: Tensors, lr: float, compile: bool
    ) -> None:
        """``move`` for one tensor ``[1, N]``, in place, and ``lr`` times as far."""
        held = state["momenta"][0], state["fast"][0], state["slow"][0]
        shares = w.new_tensor([1 - decay for decay in (*_DECAYS, *_SQUARE_DECAYS)])
        compile = compile and in_place.is_worth_compiling(w)
        remember = in_place.compiled(in_place.remember) if compile else in_place.remember_in_pieces
        means = (remember(w[0], g[0], *held, shares) / w.shape[1])[None, :, None]
        told = (lr * self.controls(means, k, steps, tensors))[0, :, 0]
        early, late = ([1 / (1 - decay ** (k + 1)) for decay in decays] for decays in (_DECAYS, _SQUARE_DECAYS))
        dead, size = _DEAD * means[0, 7] * late[1] + _SMALL, (means[0, 8] + _SMALL).rsqrt()
        units = torch.cat([w.new_tensor([*early, *late]), dead, size])
        apply = in_place.compiled(in_place.apply) if compile else in_place.apply_in_pieces
        network = self.inside, self.inside_bias, self.outside
        apply(w[0], g[0], held, told, units, network, (_MOST, _SMALL))

    def controls(self, means: Tensor, k: int, steps: int | None, tensors: Tensors) -> Tensor:
        """Rate, mixture and decay of each tensor, ``[T, 5, P]``, from means over it, ``[T, 9, P]``.

        The means are of the squared momenta, of gradient times momenta, of the second moments and of squared weights.
        """
        early, late = ([1 / (1 - decay ** (k + 1)) for decay in decays] for decays in (_DECAYS, _SQUARE_DECAYS))
        units = means.new_tensor([*(x * x for x in early), *early, *late])[:, None]
        of_grads, size = means[:, :8] * units + _SMALL, means[:, 8:]
        against = of_grads / of_grads[:, 7:]  # everything in units of the slow second moment
        grown = ((size + _SMALL).log() + 5 * tensors.about[:, 0]) / 6
        seen = [(against[:, :3] + 1e-6).log() / 3, against[:, 4:5], against[:, 6:7].log(), grown]
        share = k / (steps or max(k, 1))
        clock = [share, math.cos(math.pi * share), math.log1p(k) / 5, math.log(steps or max(k, 1)) / 5]
        time = means.new_tensor(clock).expand(len(means), len(tensors.sizes), 4)
        about = tensors.about.expand(len(means), -1, -1)
        told = self.controller(torch.cat([torch.cat(seen, 1).mT, time, about], -1)).mT
        rate = (self.log_rate + told[:, :1].clamp(-6, 3)).exp() * tensors.share
        usual = told.new_tensor([0.0, 1.0, 0.0])[:, None]
        return torch.cat([rate, rate * (usual + told[:, 1:4]), rate * nn.functional.softplus(told[:, 4:] - 5)], 1)


def _side_by_side(weights: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([w.flatten(1) for w in weights.values()], 1)
