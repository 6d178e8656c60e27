"""Inner rules: variants of gradient descent, whose own parameters, if they have any, are meta-parameters.

A rule is an ``nn.Module`` with ``init_state(weights) -> state`` and ``step(now, state) -> (weights, state)``, made of
operations that autograd can differentiate; ``now`` is a ``metakit.contracts.InnerStep``. A rule whose parameters have
the shapes of the weights offers ``prepared(weights, steps)`` too. Rules compose: ``Clipped(Decayed(SGD()))``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from metakit.checks import in_words, real
from metakit.contracts import Fitted, InnerStep, Rule, Weights
from metakit.saving import saved

_SMALL = 1e-12  # under a root that must have a derivative at zero


@saved
class SGD(nn.Module):
    """Gradient descent, ``w <- w - lr g``.

    Arguments:
        lr: step size; 0.01 is the sinusoid setting of Finn et al. 2017.

    Raises:
        ValueError: if ``lr`` is negative or not finite.

    Example:
        >>> one = {"w": torch.tensor([1.0])}
        >>> SGD(lr=0.5).step(InnerStep(weights=one, grads=one), None)[0]
        {'w': tensor([0.5000])}
    """

    def __init__(self, lr: float = 0.01) -> None:
        super().__init__()
        self.lr = _rate(lr)

    def init_state(self, weights: Weights) -> None:
        return None

    def step(self, now: InnerStep, state: None) -> tuple[Weights, None]:
        return {name: w.add(now.grads[name], alpha=-self.lr) for name, w in now.weights.items()}, None

    def extra_repr(self) -> str:
        return f"lr={self.lr}"


@saved
class Momentum(nn.Module):
    """Gradient descent with heavy-ball momentum, ``v <- momentum v + g``, ``w <- w - lr v``.

    Source: Polyak 1964.
    """

    def __init__(self, lr: float = 0.01, *, momentum: float = 0.9) -> None:
        super().__init__()
        self.lr, self.momentum = _rate(lr), _decay("momentum", momentum)

    def init_state(self, weights: Weights) -> Weights:
        return {name: torch.zeros_like(w) for name, w in weights.items()}

    def step(self, now: InnerStep, state: Weights) -> tuple[Weights, Weights]:
        velocity = {name: self.momentum * v + now.grads[name] for name, v in state.items()}
        return {name: w - self.lr * velocity[name] for name, w in now.weights.items()}, velocity

    def extra_repr(self) -> str:
        return f"lr={self.lr}, momentum={self.momentum}"


@saved
class RMSProp(nn.Module):
    """Steps scaled by a running mean square, ``s <- decay s + (1 - decay) g^2``, ``w <- w - lr g / sqrt(s + eps^2)``.

    eps stands under the root: the square root has no derivative at zero, where a second-order gradient would need it.

    Source: Tieleman and Hinton 2012, lecture 6.5.
    """

    def __init__(self, lr: float = 0.01, *, decay: float = 0.99, eps: float = 1e-8) -> None:
        super().__init__()
        self.lr, self.decay, self.eps = _rate(lr), _decay("decay", decay), eps

    def init_state(self, weights: Weights) -> Weights:
        return {name: torch.zeros_like(w) for name, w in weights.items()}

    def step(self, now: InnerStep, state: Weights) -> tuple[Weights, Weights]:
        square = {name: self.decay * s + (1 - self.decay) * now.grads[name].square() for name, s in state.items()}
        root = {name: (s + self.eps**2).rsqrt() for name, s in square.items()}
        return {name: w - self.lr * now.grads[name] * root[name] for name, w in now.weights.items()}, square

    def extra_repr(self) -> str:
        return f"lr={self.lr}, decay={self.decay}"


@saved
class Adam(nn.Module):
    """Momentum and a running mean square, both corrected for their start at zero.

    ``m <- b1 m + (1 - b1) g``, ``s <- b2 s + (1 - b2) g^2``, ``w <- w - lr m' / sqrt(s' + eps^2)`` with
    ``m' = m / (1 - b1^k)`` and ``s' = s / (1 - b2^k)`` at step k = 1, 2, ...; eps stands under the root as in RMSProp.

    Source: Kingma and Ba 2015, algorithm 1.
    """

    def __init__(self, lr: float = 0.001, *, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8) -> None:
        super().__init__()
        self.lr, self.eps = _rate(lr), eps
        self.betas = (_decay("betas[0]", betas[0]), _decay("betas[1]", betas[1]))

    def init_state(self, weights: Weights) -> dict[str, tuple[Tensor, Tensor]]:
        return {name: (torch.zeros_like(w), torch.zeros_like(w)) for name, w in weights.items()}

    def step(
        self, now: InnerStep, state: dict[str, tuple[Tensor, Tensor]]
    ) -> tuple[Weights, dict[str, tuple[Tensor, Tensor]]]:
        (b1, b2), after, moments = self.betas, {}, {}
        for name, w in now.weights.items():
            m, s, g = *state[name], now.grads[name]
            m, s = b1 * m + (1 - b1) * g, b2 * s + (1 - b2) * g.square()
            corrected = s / (1 - b2 ** (now.k + 1)) + self.eps**2
            after[name] = w - self.lr * m / (1 - b1 ** (now.k + 1)) * corrected.rsqrt()
            moments[name] = (m, s)
        return after, moments

    def extra_repr(self) -> str:
        return f"lr={self.lr}, betas={self.betas}"


@saved
class LearnedSGD(nn.Module):
    """Gradient descent whose rates are meta-parameters, ``w <- w - a * g``; with it, MAML is Meta-SGD.

    A rate may become negative: the outer loop decides the direction too.

    Arguments:
        lr: where every rate starts.
        per: ``"weight"`` learns a rate for each scalar weight (Meta-SGD), ``"tensor"`` one for each weight tensor.
        per_step: learn separate rates for each inner step; a later step than those trained uses the last one's.

    Raises:
        ValueError: if ``lr`` is negative or not finite, or ``per`` is neither word.

    Source: Li, Zhou, Chen and Li 2017, equation (2); per tensor and step, Antoniou et al. 2019, section 4 (LSLR).
    """

    def __init__(self, lr: float = 0.01, *, per: str = "weight", per_step: bool = False) -> None:
        super().__init__()
        if per not in ("weight", "tensor"):
            raise ValueError(f'per must be "weight" or "tensor", got {per!r}.')
        self.lr, self.per, self.per_step = _rate(lr), per, per_step
        self.rates = nn.ParameterDict()

    def prepared(self, weights: Mapping[str, Tensor], steps: int) -> LearnedSGD:
        """This rule with a rate for each of ``weights``, ``[...]`` or, per step, ``[steps, ...]``.

        If it has rates already, they are another learner's: then a new rule of its kind.
        """
        rule = LearnedSGD(self.lr, per=self.per, per_step=self.per_step) if len(self.rates) else self
        for name, w in weights.items():
            shape = w.shape if self.per == "weight" else ()
            shape = (max(steps, 1), *shape) if self.per_step else shape
            rule.rates[_key(name)] = nn.Parameter(torch.full(shape, self.lr, dtype=w.dtype, device=w.device))
        return rule

    def init_state(self, weights: Weights) -> None:
        missing = [name for name in weights if _key(name) not in self.rates]
        if missing:
            raise ValueError(f"LearnedSGD has no rate for {missing[0]}. Give it to a learner, or call prepared().")

    def step(self, now: InnerStep, state: None) -> tuple[Weights, None]:
        return {name: w - self.rate(name, now.k) * now.grads[name] for name, w in now.weights.items()}, None

    def rate(self, name: str, k: int = 0) -> Tensor:
        """The rate of a weight tensor at inner step k."""
        rate = self.rates[_key(name)]
        return rate[min(k, len(rate) - 1)] if self.per_step else rate

    def extra_repr(self) -> str:
        return f"lr={self.lr}, per={self.per!r}, per_step={self.per_step}"


@saved
class Clipped(nn.Module):
    """Another rule, given gradients whose length is at most ``norm`` in each task: ``g <- g min(1, norm / |g|)``.

    |g| is taken over all weights of a task together.

    Arguments:
        rule: the rule that takes the step.
        norm: the greatest length, above 0.

    Example:
        >>> now = InnerStep({"w": torch.zeros(1, 2)}, {"w": torch.tensor([[3.0, 4.0]])})
        >>> Clipped(SGD(lr=1.0), norm=0.5).step(now, None)[0]["w"]
        tensor([[-0.3000, -0.4000]])

    Source: Pascanu, Mikolov and Bengio 2013, algorithm 1.
    """

    def __init__(self, rule: Rule, norm: float = 1.0) -> None:
        super().__init__()
        self.rule, self.norm = rule, real("norm", norm, least=0.0)

    def prepared(self, weights: Mapping[str, Tensor], steps: int) -> Clipped:
        return _around(self, Clipped(prepared(self.rule, weights, steps), self.norm))

    def init_state(self, weights: Weights) -> Any:
        return self.rule.init_state(weights)

    def step(self, now: InnerStep, state: Any) -> tuple[Weights, Any]:
        square = torch.stack([g.square().flatten(1).sum(1) for g in now.grads.values()]).sum(0)  # [T]
        share = (self.norm * (square + _SMALL**2).rsqrt()).clamp(max=1)
        grads = {name: g * share.view(-1, *[1] * (g.dim() - 1)) for name, g in now.grads.items()}
        return self.rule.step(dataclasses.replace(now, grads=grads), state)

    def extra_repr(self) -> str:
        return f"norm={self.norm}"


@saved
class Decayed(nn.Module):
    """Another rule, whose weights are drawn to zero as well: ``g <- g + decay w``.

    Arguments:
        rule: the rule that takes the step.
        decay: strength of the draw, the gradient of ``decay |w|^2 / 2``.

    Example:
        >>> now = InnerStep({"w": torch.ones(1, 1)}, {"w": torch.zeros(1, 1)})
        >>> Decayed(SGD(lr=0.5), decay=0.1).step(now, None)[0]["w"]
        tensor([[0.9500]])
    """

    def __init__(self, rule: Rule, decay: float = 0.01) -> None:
        super().__init__()
        self.rule, self.decay = rule, real("decay", decay, least=0.0)

    def prepared(self, weights: Mapping[str, Tensor], steps: int) -> Decayed:
        return _around(self, Decayed(prepared(self.rule, weights, steps), self.decay))

    def init_state(self, weights: Weights) -> Any:
        return self.rule.init_state(weights)

    def step(self, now: InnerStep, state: Any) -> tuple[Weights, Any]:
        grads = {name: g + self.decay * now.weights[name] for name, g in now.grads.items()}
        return self.rule.step(dataclasses.replace(now, grads=grads), state)

    def extra_repr(self) -> str:
        return f"decay={self.decay}"


def prepared(rule: Any, weights: Mapping[str, Tensor], steps: int) -> Any:
    """The rule, ready for these weights, if it is one; ``SGD(lr=0.01)`` for ``None``."""
    rule = SGD() if rule is None else rule
    if not (isinstance(rule, nn.Module) and isinstance(rule, Rule)):
        raise TypeError(
            f"rule must be an nn.Module with init_state and step, an inner rule such as mk.SGD(lr=0.01), got {rule!r}."
        )
    return rule.prepared(weights, steps) if isinstance(rule, Fitted) else rule


def _around(outer: Any, made: Any) -> Any:
    """The rule around another, itself if what it is around stayed the same."""
    return outer if made.rule is outer.rule else made


def _key(name: str) -> str:
    return name.replace(".", "/")


def _rate(lr: float) -> float:
    message = f"lr must be a finite number that is not negative, got {lr!r}. 0.01 is a usual start."
    return in_words(message, lambda: real("lr", lr, least=0.0))


def _decay(name: str, value: float) -> float:
    if (number := real(name, value)) < 0 or number >= 1:
        raise ValueError(f"{name} must be in [0, 1), got {value!r}. 0.9 is a usual one.")
    return number
