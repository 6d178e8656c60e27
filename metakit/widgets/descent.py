"""The descent explorer: four inner rules raced on the network of 10 inputs, 5 hidden units and 1 output."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ipywidgets as ipw
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from metakit import plots, records
from metakit.inner import SGD, Adam, InnerStep, Momentum, RMSProp, Weights, run, task_loss
from metakit.models import MLP
from metakit.tasks import LinearRegression
from metakit.widgets.explorer import LATE, VIEWED, Explorer, another

RULES = {"gradient descent": SGD, "momentum": Momentum, "RMSProp": RMSProp, "Adam": Adam}
_MOST_STEPS = 1000
_PICTURED = 50  # losses taken in a race


def descent(
    *, lr: float = 0.01, steps: int = 100, noise: float = 0.1, seed: int = 0, rules: Mapping[str, Any] | None = None
) -> records.Race:
    """Let inner rules of one rate descend from one start on one linear task, with the 10-5-1 network.

    The rules stand in one batch as if they were tasks: one backward pass serves them all.

    Arguments:
        lr: the rate of every rule.
        steps: inner steps K.
        noise: standard deviation of the noise in the targets, in units of y.
        seed: of the network's start and of the task, 100 support and 100 query rows.
        rules: classes of rules by name, called with ``lr=``; gradient descent, momentum, RMSProp and Adam if left out.

    Raises:
        ValueError: if ``steps`` is not between 1 and 1000.

    Example:
        >>> record = descent(steps=5)
        >>> record.names, record.query.shape
        (('gradient descent', 'momentum', 'RMSProp', 'Adam'), torch.Size([4, 6]))
    """
    if not 1 <= steps <= _MOST_STEPS:
        raise ValueError(f"steps must be between 1 and {_MOST_STEPS}, got {steps}.")
    chosen = {name: rule(lr=lr) for name, rule in (rules or RULES).items()}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = MLP(10, [5], 1)
    task = LinearRegression(noise=noise).sample(1, seed=seed)
    sides = [tensor.expand(len(chosen), -1, -1) for tensor in task.tensors]
    # All of a network in one row: the rules treat every weight alike, and few operations are quick ones.
    start = torch.nn.utils.parameters_to_vector(model.parameters()).detach()
    states = [rule.init_state({"all": start}) for rule in chosen.values()]
    each = start.expand(len(chosen), -1)
    every, losses, at = -(-steps // _PICTURED), [], []
    for k in range(steps + 1):
        rows = each.detach().requires_grad_()
        weights = _unflattened(rows, model)
        support = task_loss(run(model, weights, sides[0]), sides[1])
        if k % every == 0 or k == steps:
            with torch.no_grad():
                losses.append(torch.stack([support, task_loss(run(model, weights, sides[2]), sides[3])]))
            at.append(k)
        (grads,) = torch.autograd.grad(support.sum(), rows)
        stepped = []
        for i, rule in enumerate(chosen.values()):
            after, states[i] = rule.step(InnerStep({"all": each[i]}, {"all": grads[i]}, k=k), states[i])
            stepped.append(after["all"])
        each = torch.stack(stepped)
    support, query = torch.stack(losses, -1).detach()
    return records.Race(tuple(chosen), tuple(at), support, query, lr, noise)


def _unflattened(rows: Tensor, model: nn.Module) -> Weights:
    """Stacked weights of a model from rows that hold all of them: ``[T, numbers]`` to ``{name: [T, ...]}``."""
    named = dict(model.named_parameters())
    pieces = rows.split([p.numel() for p in named.values()], 1)
    return {name: piece.view(-1, *p.shape) for (name, p), piece in zip(named.items(), pieces, strict=True)}


class DescentExplorer:
    """Turn the rate, the number of steps and the noise, and see which of four rules gets there first.

    After each change ``.record`` is the ``records.Race`` shown, and ``.error`` the exception if there was one.
    Controls by name: lr, steps, noise, seed.

    Example:
        >>> explorer = DescentExplorer()
        >>> explorer.controls["steps"].value = 50
        >>> explorer.record.steps[-1], explorer.error
        (50, None)
    """

    controls, record, error, widget, static, _ipython_display_ = VIEWED

    def __init__(self) -> None:
        controls = {
            "lr": ipw.FloatLogSlider(description="Rate", base=10, min=-4, max=0, step=0.1, value=0.01, **LATE),
            "steps": ipw.IntSlider(description="Inner steps", min=10, max=_MOST_STEPS, step=10, value=100, **LATE),
            "noise": ipw.FloatSlider(description="Noise (y)", min=0, max=2, step=0.1, value=0.1, **LATE),
            "seed": ipw.IntText(value=0),
        }
        again = another(controls["seed"], "Other task", "Draw another task and another start")
        rows = [*(control for name, control in controls.items() if name != "seed"), again]
        told = "An explorer with sliders for rate, inner steps and noise"
        self._view = Explorer(controls, descent, self.draw, rows=rows, instead=told)
        self._view.refresh()

    @staticmethod
    def draw(fig: Figure, record: records.Race) -> None:
        """The race on a whole figure."""
        fig.set(figwidth=7.4, figheight=4.0, dpi=100, facecolor="white")
        ax = fig.subplots()
        fig.subplots_adjust(left=0.1, right=0.985, top=0.92, bottom=0.13)
        ax.spines[["top", "right"]].set_visible(False)
        plots.draw_race(ax, record)
