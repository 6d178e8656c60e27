"""The inner loop: adapt a base learner's weights to every task of a batch at once, by a rule that can be learned."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from metakit.contracts import InnerStep, Loss, Rule, Weights
from metakit.losses import task_loss, task_losses
from metakit.nn.lending import Functional


def adaptable(model: nn.Module, adapt: str | Iterable[str] | None) -> dict[str, nn.Parameter]:
    """The parameters that the inner loop adapts: all, or those of the layers named (``"head"`` makes MAML ANIL).

    Frozen ones, with ``requires_grad=False``, are among them, and stay where they are.

    Raises:
        ValueError: if a name is of no layer, or nothing is left to adapt.
    """
    named = dict(model.named_parameters())
    if not named:
        raise ValueError(f"{type(model).__name__} has no parameters, so there is nothing to learn.")
    chosen = named
    if adapt is not None:
        layers = [adapt] if isinstance(adapt, str) else list(adapt)
        every = list(model.named_parameters(remove_duplicate=False))  # tied ones by all of their names
        for layer in layers:
            if not any(_belongs(name, layer) for name, _ in every):
                known = sorted({name.rpartition(".")[0] for name, _ in every})
                raise ValueError(f"adapt names {layer!r}, which has no parameters. The layers are: {', '.join(known)}.")
        wanted = {id(p) for name, p in every if any(_belongs(name, layer) for layer in layers)}
        chosen = {name: p for name, p in named.items() if id(p) in wanted}
        if not chosen:
            raise ValueError("adapt must name a layer, got none. Leave it out to adapt every layer.")
    unfrozen(chosen)
    return chosen


def unfrozen(parameters: Mapping[str, nn.Parameter]) -> dict[str, nn.Parameter]:
    """Those that may move: all but frozen parameters. A plain tensor that stands in a parameter's place may, too."""
    free = {name: p for name, p in parameters.items() if p.requires_grad or not isinstance(p, nn.Parameter)}
    if not free:
        raise ValueError(
            f"all that would adapt is frozen (requires_grad=False): {', '.join(parameters)}. Call .requires_grad_() on "
            "a layer; to save memory while asking a learner, torch.no_grad() is the way."
        )
    return free


def _belongs(name: str, layer: str) -> bool:
    return name == layer or name.startswith(layer + ".")


def trajectory(
    model: nn.Module | Functional,
    weights: Weights,
    x: Tensor,
    y: Tensor,
    *,
    rule: Rule,
    steps: int,
    order: int = 2,
    loss: Loss = task_loss,
    mask: Tensor | None = None,
    minibatch: int | None = None,
) -> Iterator[Weights]:
    """Yield the stacked weights after 0, 1, ..., K inner steps.

    Tasks are independent, so the gradient of the *sum* of their losses with respect to the stacked weights holds every
    task's own gradient: one backward pass serves all T tasks.

        w_{k+1}[t] = rule(w_k[t], grad L(w_k[t]; support set t))

    Arguments:
        model: the base learner, or its ``Functional``.
        weights: where to start, stacked: ``{name: [T, ...]}``.
        x, y: the support sets, ``[T, S, ...]`` and ``[T, S, ...]``.
        rule: the inner rule.
        steps: number of inner steps K.
        order: 2 keeps the graph of each inner gradient, so that the result can be differentiated exactly with respect
            to ``weights``; 1 takes each inner gradient for a constant.
        loss: one number per task, or one for all it is given; see ``task_losses``.
        mask: which rows are real, ``[T, S]``; all when left out.
        minibatch: rows in a step, about: step k takes every B-th row from the k-th on, with B = ceil(S / minibatch);
            all rows when left out.

    Source: Finn, Abbeel and Levine 2017, algorithm 2, lines 5 to 7.
    """
    network = model if isinstance(model, Functional) else Functional(model)
    state = rule.init_state(weights)
    yield weights
    for k in range(steps):
        rows = (x, y, mask) if minibatch is None else _portion(x, y, mask, k, minibatch)
        grads, losses = _gradients(network, weights, *rows, order=order, loss=loss)
        weights, state = rule.step(InnerStep(weights, grads, losses, k, steps), state)
        yield weights


def adapt(
    model: nn.Module | Functional,
    weights: Weights,
    x: Tensor,
    y: Tensor,
    *,
    rule: Rule,
    steps: int,
    order: int = 2,
    loss: Loss = task_loss,
    mask: Tensor | None = None,
    minibatch: int | None = None,
) -> Weights:
    """The stacked weights after K inner steps: the last of ``trajectory``, whose arguments it takes.

    Example:
        >>> import metakit as mk
        >>> model, x = mk.models.MLP(1, [], 1), torch.randn(4, 10, 1)
        >>> weights = mk.nn.stacked(dict(model.named_parameters()), 4)
        >>> adapt(model, weights, x, 2 * x, rule=mk.SGD(lr=0.1), steps=3)["head.weight"].shape
        torch.Size([4, 1, 1])
    """
    options: dict[str, Any] = {"order": order, "loss": loss, "mask": mask, "minibatch": minibatch}
    for adapted in trajectory(model, weights, x, y, rule=rule, steps=steps, **options):
        weights = adapted
    return weights


def _gradients(
    network: Functional, weights: Weights, x: Tensor, y: Tensor, mask: Tensor | None, *, order: int, loss: Loss
) -> tuple[Weights, Tensor]:
    if torch.is_inference_mode_enabled():  # where nothing can be differentiated, so what was made there is copied out
        with torch.inference_mode(False):
            weights = {name: w.clone() for name, w in weights.items()}
            return _gradients(network, weights, x.clone(), y.clone(), mask, order=1, loss=loss)
    second = order == 2 and torch.is_grad_enabled()
    with torch.enable_grad():
        if not second:
            weights = {name: w.detach().requires_grad_() for name, w in weights.items()}
        losses = task_losses(loss, network(weights, x, mask), y, mask)
        kept = list(weights.values())
        grads = torch.autograd.grad(losses.sum(), kept, create_graph=second, materialize_grads=True)
    return dict(zip(weights, grads, strict=True)), losses.detach()


def _portion(x: Tensor, y: Tensor, mask: Tensor | None, k: int, minibatch: int) -> tuple[Tensor, Tensor, Tensor | None]:
    """The rows of step k. Rows of a class stand together, so it takes every B-th: some of each."""
    if mask is None:
        batches = -(-x.shape[1] // minibatch)
        rows = slice(k % batches, None, batches)
        return x[:, rows], y[:, rows], None
    batches_of = -(-mask.sum(1, keepdim=True) // minibatch)  # [T, 1]
    return x, y, mask & ((mask.cumsum(1) - 1) % batches_of == k % batches_of)
