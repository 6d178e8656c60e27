"""The same outer step by each contender: same weights, same batch, Adam, the loss read as a number.

A contender is made by ``make(name, problem, device)`` and has ``step() -> loss``, a whole outer step on its ``tasks``:
gradients cleared, meta-gradient, Adam's update, done when it returns. ``gradient()`` takes its first step and reads the
meta-gradient off Adam's first moment, ``m = (1 - beta1) g``: what is checked is what is timed.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

import metakit as mk
from metakit.outer.step import OuterStep

Arrays = dict[str, np.ndarray]

OUTER_LR, BETA1, BETA2, EPS = 1e-3, 0.9, 0.999, 1e-8
WAYS = 5


@dataclasses.dataclass(frozen=True)
class Problem:
    """An outer step to take: network, tasks T, inner steps K, order of the meta-gradient, inner rate."""

    network: str = "mlp"
    tasks: int = 25
    steps: int = 1
    order: int = 2
    lr: float = 0.01
    seed: int = 0

    def __str__(self) -> str:
        order = "second" if self.order == 2 else "first"
        return f"{self.network}, T={self.tasks}, K={self.steps}, {order} order"


def model(problem: Problem) -> nn.Module:
    """The network with its initial weights, the same in every process."""
    torch.manual_seed(problem.seed)
    if problem.network == "mlp":
        return mk.models.MLP(1, [40, 40], 1)
    return mk.models.ConvNet(channels=1, size=28, width=64, blocks=4, outputs=WAYS)


def batch(problem: Problem) -> mk.TaskBatch:
    """The tasks, the same in every process: 10-shot sinusoids, or 5-way 1-shot images with 15 queries a class."""
    generator = torch.Generator().manual_seed(1)
    if problem.network == "mlp":
        return mk.tasks.Sinusoids(shots=10, queries=10).sample(problem.tasks, generator=generator)
    classes = torch.randn(problem.tasks, WAYS, 1, 28, 28, generator=generator)

    def side(rows: int) -> tuple[Tensor, Tensor]:
        y = torch.arange(WAYS).repeat(rows).expand(problem.tasks, -1)
        x = classes[:, y[0]] + torch.randn(problem.tasks, WAYS * rows, 1, 28, 28, generator=generator)
        return x, y.contiguous()

    return mk.TaskBatch(*side(1), *side(15), ways=WAYS)


@dataclasses.dataclass
class TorchContender:
    """A contender whose weights are torch parameters, moved by ``torch.optim.Adam``."""

    parameters: dict[str, nn.Parameter]
    optimizer: torch.optim.Optimizer
    outer_step: Callable[[mk.TaskBatch], float]
    tasks: mk.TaskBatch

    def step(self) -> float:
        return self.outer_step(self.tasks)

    def weights(self) -> dict[str, Tensor]:
        return {name: p.detach() for name, p in self.parameters.items()}

    def gradient(self) -> Arrays:
        self.step()
        moments = {name: self.optimizer.state[p]["exp_avg"] for name, p in self.parameters.items()}
        return {name: (m / (1 - BETA1)).cpu().numpy() for name, m in moments.items()}


# --- metakit ---


def ours(learner: nn.Module, net: nn.Module, problem: Problem, device: str, *, compile: bool = False) -> TorchContender:
    """A learner's own outer step; its network is told for the names of the weights."""
    optimizer = torch.optim.Adam(learner.to(device).parameters(), lr=OUTER_LR, fused=True)
    outer_step = OuterStep(learner, optimizer, compile=compile)
    return TorchContender(dict(net.named_parameters()), optimizer, outer_step, batch(problem).to(device))


def maml(problem: Problem, net: nn.Module) -> mk.MAML:
    """The learner of the problem, with this network."""
    return mk.MAML(net, rule=mk.SGD(lr=problem.lr), steps=problem.steps, order=problem.order)


def _metakit(problem: Problem, device: str, *, compile: bool = False) -> TorchContender:
    net = model(problem)
    return ours(maml(problem, net), net, problem, device, compile=compile)


def _metakit_compiled(problem: Problem, device: str) -> TorchContender:
    return _metakit(problem, device, compile=True)


# --- Peers in torch: a network of plain torch layers with the same names, one task after another or vmap. ---


def plain(problem: Problem) -> nn.Module:
    """The same network and weights, of torch's own layers."""
    relu, pool = nn.ReLU, nn.MaxPool2d

    def block(channels: int) -> nn.Module:
        conv = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
        norm = nn.BatchNorm2d(64, track_running_stats=False)
        return nn.Sequential(OrderedDict(conv=conv, norm=norm, relu=relu(), pool=pool(2)))

    if problem.network == "mlp":
        layers = {"linear1": nn.Linear(1, 40), "relu1": relu(), "linear2": nn.Linear(40, 40), "relu2": relu()}
        net = nn.Sequential(OrderedDict(**layers, head=nn.Linear(40, 1)))
    else:
        blocks = nn.Sequential(*(block(1 if i == 0 else 64) for i in range(4)))
        net = nn.Sequential(OrderedDict(blocks=blocks, flatten=nn.Flatten(), head=nn.Linear(64, WAYS)))
    net.load_state_dict(model(problem).state_dict())
    return net


def _loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.mse_loss(outputs, targets) if targets.is_floating_point() else F.cross_entropy(outputs, targets)


def around(net: nn.Module, tasks: mk.TaskBatch, meta_backward: Callable[[mk.TaskBatch], float]) -> TorchContender:
    """The outer step around ``meta_backward``, which adds the meta-gradient to ``.grad`` and returns the mean loss."""
    optimizer = torch.optim.Adam(net.parameters(), lr=OUTER_LR, fused=True)

    def outer_step(tasks: mk.TaskBatch) -> float:
        optimizer.zero_grad(set_to_none=True)
        loss = meta_backward(tasks)
        optimizer.step()
        return loss

    return TorchContender(dict(net.named_parameters()), optimizer, outer_step, tasks)


def _inner_steps(
    weights: dict[str, Tensor], problem: Problem, gradients: Callable[[dict[str, Tensor]], tuple[Tensor, ...]]
) -> dict[str, Tensor]:
    for _ in range(problem.steps):
        grads = gradients(weights)
        weights = {name: w - problem.lr * g for (name, w), g in zip(weights.items(), grads, strict=True)}
    return weights


def loop(problem: Problem, device: str, *, dtype: torch.dtype = torch.float32) -> TorchContender:
    """Task by task with ``torch.autograd.grad`` and ``functional_call``; in float64 the reference of the check."""
    net, tasks, second = plain(problem).to(device, dtype), batch(problem).to(device, dtype), problem.order == 2

    def meta_backward(tasks: mk.TaskBatch) -> float:
        total = 0.0
        for support_x, support_y, query_x, query_y in zip(*tasks.tensors, strict=True):

            def gradients(weights: dict[str, Tensor], x: Tensor = support_x, y: Tensor = support_y) -> Any:
                loss = _loss(functional_call(net, weights, (x,)), y)
                return torch.autograd.grad(loss, tuple(weights.values()), create_graph=second)

            adapted = _inner_steps(dict(net.named_parameters()), problem, gradients)
            loss = _loss(functional_call(net, adapted, (query_x,)), query_y) / problem.tasks
            loss.backward()
            total = total + loss.detach()
        return float(total)

    return around(net, tasks, meta_backward)


def _higher(problem: Problem, device: str) -> TorchContender:
    import higher

    net, tasks, second = plain(problem).to(device), batch(problem).to(device), problem.order == 2
    inner = torch.optim.SGD(net.parameters(), lr=problem.lr)

    def meta_backward(tasks: mk.TaskBatch) -> float:
        total = 0.0
        for support_x, support_y, query_x, query_y in zip(*tasks.tensors, strict=True):
            options = {"copy_initial_weights": False, "track_higher_grads": second}
            with higher.innerloop_ctx(net, inner, **options) as (fast, optimizer):
                for _ in range(problem.steps):
                    optimizer.step(_loss(fast(support_x), support_y))
                loss = _loss(fast(query_x), query_y) / problem.tasks
                if second:
                    loss.backward()
                else:  # Without tracking, the graph ends at the adapted weights: their gradient is the meta-gradient.
                    for p, g in zip(net.parameters(), torch.autograd.grad(loss, fast.parameters()), strict=True):
                        p.grad = g if p.grad is None else p.grad.add_(g)
                total = total + loss.detach()
        return float(total)

    return around(net, tasks, meta_backward)


def _torchopt(problem: Problem, device: str) -> TorchContender:
    import torchopt

    if problem.order == 1:
        raise NotImplementedError("MetaSGD always keeps the graph of the inner gradient")
    net, tasks = plain(problem).to(device), batch(problem).to(device)
    inner = torchopt.MetaSGD(net, lr=problem.lr)

    def meta_backward(tasks: mk.TaskBatch) -> float:
        total = 0.0
        weights, state = (torchopt.extract_state_dict(thing, by="reference") for thing in (net, inner))
        for support_x, support_y, query_x, query_y in zip(*tasks.tensors, strict=True):
            for _ in range(problem.steps):
                inner.step(_loss(net(support_x), support_y))
            loss = _loss(net(query_x), query_y) / problem.tasks
            loss.backward()
            torchopt.recover_state_dict(net, weights)
            torchopt.recover_state_dict(inner, state)
            total = total + loss.detach()
        return float(total)

    return around(net, tasks, meta_backward)


def _vmap(problem: Problem, device: str) -> TorchContender:
    net, tasks = plain(problem).to(device), batch(problem).to(device)
    names = list(dict(net.named_parameters()))

    def support_loss(weights: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return _loss(functional_call(net, weights, (x,)), y)

    def task_loss(weights: dict[str, Tensor], *task: Tensor) -> Tensor:
        support_x, support_y, query_x, query_y = task

        def gradients(weights: dict[str, Tensor]) -> tuple[Tensor, ...]:
            grads = torch.func.grad(support_loss)(weights, support_x, support_y)
            return tuple(grads[n] if problem.order == 2 else grads[n].detach() for n in names)

        return support_loss(_inner_steps(weights, problem, gradients), query_x, query_y)

    def meta_backward(tasks: mk.TaskBatch) -> float:
        losses = torch.func.vmap(task_loss, in_dims=(None, 0, 0, 0, 0))(dict(net.named_parameters()), *tasks.tensors)
        loss = losses.mean()
        loss.backward()
        return float(loss.detach())

    return around(net, tasks, meta_backward)


# --- JAX: one jitted function from weights and Adam's state to the next ones. ---


class _Jax:
    def __init__(self, problem: Problem, device: str) -> None:
        import jax
        import jax.numpy as jnp

        place = jax.devices("gpu" if device.startswith("cuda") else "cpu")[0]
        put = lambda tree: jax.device_put(tree, place)  # noqa: E731
        network = _jax_mlp if problem.network == "mlp" else _jax_convnet
        self._weights = put({name: p.detach().numpy() for name, p in model(problem).named_parameters()})
        self.tasks = batch(problem).to(device)
        zeros = jax.tree.map(jnp.zeros_like, self._weights)
        self.state = (zeros, jax.tree.map(jnp.copy, zeros), put(np.float32(0)))

        def loss(weights, x, y):
            outputs = network(weights, x)
            if jnp.issubdtype(y.dtype, jnp.floating):
                return jnp.square(outputs - y).mean()
            return -jnp.take_along_axis(jax.nn.log_softmax(outputs), y[:, None], 1).mean()

        def task_loss(weights, support_x, support_y, query_x, query_y):
            for _ in range(problem.steps):
                grads = jax.grad(loss)(weights, support_x, support_y)
                grads = grads if problem.order == 2 else jax.lax.stop_gradient(grads)
                weights = jax.tree.map(lambda w, g: w - problem.lr * g, weights, grads)
            return loss(weights, query_x, query_y)

        def meta_loss(weights, tasks):
            return jax.vmap(task_loss, in_axes=(None, 0, 0, 0, 0))(weights, *tasks).mean()

        def outer_step(weights, state, tasks):
            value, grads = jax.value_and_grad(meta_loss)(weights, tasks)
            first, second, count = state
            count = count + 1
            first = jax.tree.map(lambda m, g: BETA1 * m + (1 - BETA1) * g, first, grads)
            second = jax.tree.map(lambda s, g: BETA2 * s + (1 - BETA2) * g * g, second, grads)
            rate, root = OUTER_LR / (1 - BETA1**count), 1 / jnp.sqrt(1 - BETA2**count)
            move = jax.tree.map(lambda m, s: rate * m / (jnp.sqrt(s) * root + EPS), first, second)
            return value, jax.tree.map(jnp.subtract, weights, move), (first, second, count)

        self._outer_step = jax.jit(outer_step, donate_argnums=(0, 1))

    @property
    def tasks(self) -> Any:
        """The tasks as JAX has them; they are given as a ``TaskBatch`` and not copied."""
        return self._tasks

    @tasks.setter
    def tasks(self, tasks: mk.TaskBatch) -> None:
        from jax.dlpack import from_dlpack

        self._tasks = tuple(from_dlpack(t if t.is_floating_point() else t.int()) for t in tasks.tensors)

    def step(self) -> float:
        import jax

        loss, self._weights, self.state = jax.block_until_ready(
            self._outer_step(self._weights, self.state, self._tasks)
        )
        return float(loss)

    def weights(self) -> dict[str, Tensor]:
        return {name: torch.from_numpy(np.array(w)) for name, w in self._weights.items()}

    def gradient(self) -> Arrays:
        self.step()
        return {name: np.asarray(m) / (1 - BETA1) for name, m in self.state[0].items()}


def _jax_mlp(weights, x):
    import jax

    for layer in ("linear1", "linear2"):
        x = jax.nn.relu(x @ weights[f"{layer}.weight"].T + weights[f"{layer}.bias"])
    return x @ weights["head.weight"].T + weights["head.bias"]


def _jax_convnet(weights, x):
    """Channels innermost, as XLA likes it on a CPU; the last image is one pixel, so that flattening needs no order."""
    import jax

    x = x.transpose(0, 2, 3, 1)
    for i in range(4):
        kernel = weights[f"blocks.{i}.conv.weight"].transpose(2, 3, 1, 0)
        x = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        x = (x - x.mean((0, 1, 2))) * jax.lax.rsqrt(x.var((0, 1, 2)) + 1e-5)
        x = jax.nn.relu(x * weights[f"blocks.{i}.norm.weight"] + weights[f"blocks.{i}.norm.bias"])
        rows, height, width, channels = x.shape
        patches = x[:, : height // 2 * 2, : width // 2 * 2].reshape(rows, height // 2, 2, width // 2, 2, channels)
        x = patches.max((2, 4))
    return x.reshape(x.shape[0], -1) @ weights["head.weight"].T + weights["head.bias"]


# --- The list. ---

OURS = ("metakit", "metakit compiled")
LOOP_LIBRARIES = ("higher", "torchopt")
CONTENDERS: dict[str, Callable[[Problem, str], Any]] = {
    "metakit": _metakit,
    "metakit compiled": _metakit_compiled,
    "higher": _higher,
    "torchopt": _torchopt,
    "torch loop": loop,
    "torch vmap": _vmap,
    "jax": _Jax,
}
LIBRARIES = {"higher": "higher", "torchopt": "torchopt", "jax": "jax"}


def load(name: str, device: str) -> None:
    """Load what a contender needs, most of it at its first step, so that code does not count as working memory."""
    if name in LIBRARIES:
        importlib.import_module(LIBRARIES[name])
    if name == "metakit compiled":  # Its own first step takes half a minute.
        importlib.import_module("torch._inductor.compile_fx")
        name = "metakit"
    make(name, Problem("mlp", tasks=1), device).step()


def make(name: str, problem: Problem, device: str) -> Any:
    """The contender of this name, ready for its first step."""
    return CONTENDERS[name](problem, device)
