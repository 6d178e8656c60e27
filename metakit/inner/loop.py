"""The inner loop: adapt a base learner's weights to every task of a batch at once, by a rule that can be learned.

A rule is an ``nn.Module`` with ``init_state(weights) -> state`` and ``step(weights, grads, state, k) -> (weights,
state)``, made of operations that autograd can differentiate; its parameters are meta-parameters. A rule whose
parameters have the shapes of the weights offers ``prepared(weights, steps)`` too, which returns it with them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from metakit.models import IMAGE_NETWORKS, MLP, Residual, Widen
from metakit.nn import LAYERS

Weights = dict[str, Tensor]
Loss = Callable[[Tensor, Tensor], Tensor]

_ELEMENTWISE = (nn.ReLU, nn.Tanh, nn.Sigmoid, nn.GELU, nn.SiLU, nn.ELU, nn.LeakyReLU, nn.Softplus, nn.Dropout)
_STACKABLE = {*LAYERS, *_ELEMENTWISE, MLP, *IMAGE_NETWORKS, Residual, Widen, nn.Sequential, nn.Identity}


# --- Rules: variants of gradient descent. ---


class SGD(nn.Module):
    """Gradient descent, ``w <- w - lr g``.

    Arguments:
        lr: step size; 0.01 is the sinusoid setting of Finn et al. 2017.

    Raises:
        ValueError: if ``lr`` is negative or not finite.

    Example:
        >>> SGD(lr=0.5).step({"w": torch.tensor(1.0)}, {"w": torch.tensor(1.0)}, None, 0)[0]
        {'w': tensor(0.5000)}
    """

    def __init__(self, lr: float = 0.01) -> None:
        super().__init__()
        self.lr = _check_rate(lr)

    def init_state(self, weights: Weights) -> None:
        return None

    def step(self, weights: Weights, grads: Weights, state: None, k: int) -> tuple[Weights, None]:
        return {name: w.add(grads[name], alpha=-self.lr) for name, w in weights.items()}, None

    def extra_repr(self) -> str:
        return f"lr={self.lr}"


class Momentum(nn.Module):
    """Gradient descent with heavy-ball momentum, ``v <- momentum v + g``, ``w <- w - lr v``.

    Source: Polyak 1964.
    """

    def __init__(self, lr: float = 0.01, *, momentum: float = 0.9) -> None:
        super().__init__()
        self.lr, self.momentum = _check_rate(lr), _check_decay("momentum", momentum)

    def init_state(self, weights: Weights) -> Weights:
        return {name: torch.zeros_like(w) for name, w in weights.items()}

    def step(self, weights: Weights, grads: Weights, state: Weights, k: int) -> tuple[Weights, Weights]:
        velocity = {name: self.momentum * v + grads[name] for name, v in state.items()}
        return {name: w - self.lr * velocity[name] for name, w in weights.items()}, velocity

    def extra_repr(self) -> str:
        return f"lr={self.lr}, momentum={self.momentum}"


class RMSProp(nn.Module):
    """Steps scaled by a running mean square, ``s <- decay s + (1 - decay) g^2``, ``w <- w - lr g / sqrt(s + eps^2)``.

    eps stands under the root: the square root has no derivative at zero, where a second-order gradient would need it.

    Source: Tieleman and Hinton 2012, lecture 6.5.
    """

    def __init__(self, lr: float = 0.01, *, decay: float = 0.99, eps: float = 1e-8) -> None:
        super().__init__()
        self.lr, self.decay, self.eps = _check_rate(lr), _check_decay("decay", decay), eps

    def init_state(self, weights: Weights) -> Weights:
        return {name: torch.zeros_like(w) for name, w in weights.items()}

    def step(self, weights: Weights, grads: Weights, state: Weights, k: int) -> tuple[Weights, Weights]:
        square = {name: self.decay * s + (1 - self.decay) * grads[name].square() for name, s in state.items()}
        stepped = {n: w - self.lr * grads[n] * (square[n] + self.eps**2).rsqrt() for n, w in weights.items()}
        return stepped, square

    def extra_repr(self) -> str:
        return f"lr={self.lr}, decay={self.decay}"


class Adam(nn.Module):
    """Momentum and a running mean square, both corrected for their start at zero.

    ``m <- b1 m + (1 - b1) g``, ``s <- b2 s + (1 - b2) g^2``, ``w <- w - lr m' / sqrt(s' + eps^2)`` with
    ``m' = m / (1 - b1^k)`` and ``s' = s / (1 - b2^k)`` at step k = 1, 2, ...; eps stands under the root as in RMSProp.

    Source: Kingma and Ba 2015, algorithm 1.
    """

    def __init__(self, lr: float = 0.001, *, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8) -> None:
        super().__init__()
        self.lr, self.eps = _check_rate(lr), eps
        self.betas = (_check_decay("betas[0]", betas[0]), _check_decay("betas[1]", betas[1]))

    def init_state(self, weights: Weights) -> dict[str, tuple[Tensor, Tensor]]:
        return {name: (torch.zeros_like(w), torch.zeros_like(w)) for name, w in weights.items()}

    def step(
        self, weights: Weights, grads: Weights, state: dict[str, tuple[Tensor, Tensor]], k: int
    ) -> tuple[Weights, dict[str, tuple[Tensor, Tensor]]]:
        (b1, b2), after, moments = self.betas, {}, {}
        for name, w in weights.items():
            m, s, g = *state[name], grads[name]
            m, s = b1 * m + (1 - b1) * g, b2 * s + (1 - b2) * g.square()
            corrected = s / (1 - b2 ** (k + 1)) + self.eps**2
            after[name] = w - self.lr * m / (1 - b1 ** (k + 1)) * corrected.rsqrt()
            moments[name] = (m, s)
        return after, moments

    def extra_repr(self) -> str:
        return f"lr={self.lr}, betas={self.betas}"


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
        self.lr, self.per, self.per_step = _check_rate(lr), per, per_step
        self.rates = nn.ParameterDict()

    def prepared(self, weights: Mapping[str, Tensor], steps: int) -> LearnedSGD:
        """The same rule with a rate for each of ``weights``, ``[...]`` or, per step, ``[steps, ...]``."""
        rule = LearnedSGD(self.lr, per=self.per, per_step=self.per_step)
        for name, w in weights.items():
            shape = w.shape if self.per == "weight" else ()
            shape = (max(steps, 1), *shape) if self.per_step else shape
            rule.rates[_key(name)] = nn.Parameter(torch.full(shape, self.lr, dtype=w.dtype, device=w.device))
        return rule

    def init_state(self, weights: Weights) -> None:
        missing = [name for name in weights if _key(name) not in self.rates]
        if missing:
            raise ValueError(f"LearnedSGD has no rate for {missing[0]}. Give it to a learner, or call prepared().")

    def step(self, weights: Weights, grads: Weights, state: None, k: int) -> tuple[Weights, None]:
        return {name: w - self.rate(name, k) * grads[name] for name, w in weights.items()}, None

    def rate(self, name: str, k: int = 0) -> Tensor:
        """The rate of a weight tensor at inner step k."""
        rate = self.rates[_key(name)]
        return rate[min(k, len(rate) - 1)] if self.per_step else rate

    def extra_repr(self) -> str:
        return f"lr={self.lr}, per={self.per!r}, per_step={self.per_step}"


def _key(name: str) -> str:
    return name.replace(".", "/")


def _check_rate(lr: float) -> float:
    if not isinstance(lr, int | float) or not 0 <= lr < float("inf"):
        raise ValueError(f"lr must be a finite number that is not negative, got {lr!r}. 0.01 is a usual start.")
    return lr


def _check_decay(name: str, value: float) -> float:
    if not isinstance(value, int | float) or not 0 <= value < 1:
        raise ValueError(f"{name} must be in [0, 1), got {value!r}.")
    return value


# --- Losses: one number per task. ---


def task_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Loss of each task, averaged over its rows: cross-entropy for class numbers, mean squared error for real targets.

    Shapes: ``outputs [T, Q, ...]`` and ``targets [T, Q]`` (int64) or ``[T, Q, outputs]`` (real) to ``[T]``.

    Raises:
        ValueError: if the shapes do not fit.
    """
    if targets.is_floating_point():
        if outputs.shape != targets.shape:
            raise ValueError(
                f"outputs and targets must have one shape; got {list(outputs.shape)} and {list(targets.shape)}. "
                "Give the model as many outputs as a target has numbers."
            )
        return (outputs - targets).square().flatten(1).mean(1)
    if outputs.dim() != 3 or outputs.shape[:2] != targets.shape:
        raise ValueError(
            f"outputs must be [T, Q, N] scores for targets [T, Q]; got {list(outputs.shape)} and {list(targets.shape)}."
        )
    rows = F.cross_entropy(outputs.flatten(0, 1), targets.flatten(), reduction="none")
    return rows.view(targets.shape).mean(1)


# --- Models: which can be run with stacked weights, and how. ---


def can_stack(model: nn.Module) -> bool:
    """Whether every layer of the model accepts weights stacked over tasks.

    A module of your own qualifies by ``stacks_tasks = True`` as a class attribute: a promise that its ``forward``
    treats ``x [T, N, ...]`` task by task. Others are run one task at a time, exactly but slower.
    """
    return all(type(layer) in _STACKABLE or getattr(layer, "stacks_tasks", False) for layer in model.modules())


def check_model(model: nn.Module) -> None:
    """Refuse a model that cannot be adapted exactly, naming the layer."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}.")
    for name, layer in model.named_modules():
        where = f"layer {name!r} ({type(layer).__name__})" if name else type(layer).__name__
        if getattr(layer, "track_running_stats", False):
            raise ValueError(
                f"{where} keeps running statistics, which would carry one task's data into the next. "
                "Use metakit.nn.BatchNorm2d, or pass track_running_stats=False."
            )
        if any(isinstance(p, nn.parameter.UninitializedParameter) for p in layer.parameters(recurse=False)):
            raise ValueError(f"{where} has no weights yet. Run the model once on a row of data first.")
    if next(model.parameters(), None) is None:
        raise ValueError(f"{type(model).__name__} has no parameters, so there is nothing to learn.")


def adaptable(model: nn.Module, adapt: str | Iterable[str] | None) -> dict[str, nn.Parameter]:
    """The parameters that the inner loop adapts: all, or those of the layers named (``"head"`` makes MAML ANIL)."""
    named = dict(model.named_parameters())
    if adapt is None:
        return named
    layers = [adapt] if isinstance(adapt, str) else list(adapt)
    for layer in layers:
        if not any(_belongs(name, layer) for name in named):
            known = sorted({name.rpartition(".")[0] for name in named})
            raise ValueError(f"adapt names {layer!r}, which has no parameters. The layers are: {', '.join(known)}.")
    chosen = {name: p for name, p in named.items() if any(_belongs(name, layer) for layer in layers)}
    if not chosen:
        raise ValueError("adapt must name a layer, got none. Leave it out to adapt every layer.")
    return chosen


def _belongs(name: str, layer: str) -> bool:
    return name == layer or name.startswith(layer + ".")


def stacked(parameters: Mapping[str, Tensor], tasks: int) -> Weights:
    """The same weights for each of T tasks, ``[...]`` to ``[T, ...]``, without copying them."""
    return {name: p.expand(tasks, *p.shape) for name, p in parameters.items()}


def run(model: nn.Module, weights: Weights, x: Tensor) -> Tensor:
    """The model's outputs with stacked weights in place of its own: ``x [T, N, ...]`` to ``[T, N, ...]``."""
    if can_stack(model):
        with _lent(model, weights):
            return model(x)
    each = [functional_call(model, {n: w[t] for n, w in weights.items()}, (x[t],)) for t in range(x.shape[0])]
    return torch.stack(each)


@contextlib.contextmanager
def _lent(model: nn.Module, weights: Weights) -> Iterator[None]:
    """The weights in the places of the model's own, for as long as the context lasts.

    It is what ``functional_call`` does, in less time: small networks are run thousands of times a second.
    """
    places = list(_places(model, {}))
    try:
        for own, key, p, name in places:
            own[key] = weights.get(name, p)
        yield
    finally:
        for own, key, p, _ in places:
            own[key] = p


def _places(module: nn.Module, names: dict[Tensor, str], prefix: str = "") -> Iterator[tuple[Any, str, Tensor, str]]:
    """Where each parameter lies, and its name: the first one found, if it is tied and lies in several places."""
    own = module._parameters
    for key, p in own.items():
        if p is not None:
            yield own, key, p, names.setdefault(p, prefix + key)
    for key, child in module._modules.items():
        if child is not None:
            yield from _places(child, names, f"{prefix}{key}.")


# --- The loop. ---


def trajectory(
    model: nn.Module,
    weights: Weights,
    x: Tensor,
    y: Tensor,
    *,
    rule: Any,
    steps: int,
    order: int = 2,
    loss: Loss = task_loss,
) -> Iterator[Weights]:
    """Yield the stacked weights after 0, 1, ..., K inner steps.

    Tasks are independent, so the gradient of the *sum* of their losses with respect to the stacked weights holds every
    task's own gradient: one backward pass serves all T tasks.

        w_{k+1}[t] = rule(w_k[t], grad L(w_k[t]; support set t))

    Arguments:
        model: the base learner.
        weights: where to start, stacked: ``{name: [T, ...]}``.
        x, y: the support sets, ``[T, S, ...]`` and ``[T, S, ...]``.
        rule: the inner rule.
        steps: number of inner steps K.
        order: 2 keeps the graph of each inner gradient, so that the result can be differentiated exactly with respect
            to ``weights``; 1 takes each inner gradient for a constant.
        loss: ``(outputs, targets) -> [T]``.

    Source: Finn, Abbeel and Levine 2017, algorithm 2, lines 5 to 7.
    """
    state = rule.init_state(weights)
    yield weights
    for k in range(steps):
        grads = _gradients(model, weights, x, y, order=order, loss=loss)
        weights, state = rule.step(weights, grads, state, k)
        yield weights


def adapt(
    model: nn.Module,
    weights: Weights,
    x: Tensor,
    y: Tensor,
    *,
    rule: Any,
    steps: int,
    order: int = 2,
    loss: Loss = task_loss,
) -> Weights:
    """The stacked weights after K inner steps: the last of ``trajectory``, whose arguments it takes.

    Example:
        >>> model, x = MLP(1, [], 1), torch.randn(4, 10, 1)
        >>> weights = stacked(dict(model.named_parameters()), 4)
        >>> adapt(model, weights, x, 2 * x, rule=SGD(lr=0.1), steps=3)["head.weight"].shape
        torch.Size([4, 1, 1])
    """
    for adapted in trajectory(model, weights, x, y, rule=rule, steps=steps, order=order, loss=loss):
        weights = adapted
    return weights


def _gradients(model: nn.Module, weights: Weights, x: Tensor, y: Tensor, *, order: int, loss: Loss) -> Weights:
    second = order == 2 and torch.is_grad_enabled()
    with torch.enable_grad():
        if not second:
            weights = {name: w.detach().requires_grad_() for name, w in weights.items()}
        total = loss(run(model, weights, x), y).sum()
        grads = torch.autograd.grad(total, list(weights.values()), create_graph=second, materialize_grads=True)
    return dict(zip(weights, grads, strict=True))
