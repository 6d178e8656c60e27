"""A learned rule as an optimiser of ``torch.optim``, for anybody's training loop."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from metakit.checks import real, whole
from metakit.inner.tensors import Tensors


class Applied(torch.optim.Optimizer):
    """A learned rule as a ``torch.optim.Optimizer``: ``step``, ``zero_grad``, groups, closures, ``state_dict``.

        w <- w + lr (rule(w, grad, state, k, steps) - w)

    It takes the steps that the rule takes inside ``Unroll``, to rounding. A parameter without a gradient stays as it
    is. Weights of 16 bits are moved in a copy of 32, and rounded after. After ``steps`` it goes on as at the last one,
    and says so once.

    Arguments:
        rule: a ``LearnedOptimizer``; it is not trained here.
        parameters: tensors, or groups of them, each with its own ``lr`` or ``steps`` if it likes.
        steps: steps that the training will take.
        lr: what the moves of the rule are multiplied by.
        compile: have the step of large tensors compiled (``torch.compile``); of the kind ``"mlp"`` only.

    Raises:
        ValueError: if a number is out of its range, or parameters are complex or no real numbers.
        FloatingPointError: if a gradient is NaN or infinite; no weight has moved then.
        RuntimeError: if a gradient is sparse.

    Example:
        >>> import metakit as mk
        >>> w = torch.nn.Parameter(torch.ones(3))
        >>> optimizer = mk.LearnedOptimizer(lr=0.1).optimizer([w], steps=50)
        >>> for _ in range(50):
        ...     optimizer.zero_grad()
        ...     w.square().sum().backward()
        ...     optimizer.step()
        >>> bool(w.abs().max() < 0.1)
        True
    """

    def __init__(
        self, rule: Any, parameters: Iterable[Any], *, steps: int, lr: float = 1.0, compile: bool = False
    ) -> None:
        defaults = {"lr": real("lr", lr, least=0.0), "steps": whole("steps", steps)}
        super().__init__(parameters, defaults)
        places = {p.device for group in self.param_groups for p in group["params"]}
        if len(places) > 1:
            raise ValueError(f"parameters must be on one device, got {', '.join(sorted(map(str, places)))}. Make two.")
        self._rule, self._over = copy.deepcopy(rule).to(places.pop()).requires_grad_(False), False
        self._compile = compile
        self._about: dict[Tensor, Tensors] = {}
        trained = int(rule.trained_steps)
        longest = max(group["steps"] for group in self.param_groups)
        if trained and longest > 3 * trained:
            warnings.warn(
                f"this rule was trained on runs of up to {trained} steps and is asked for {longest}: it stretches its "
                "course over them. Watch the loss, or train it on longer runs: mk.Unroll(rule, steps=...).",
                stacklevel=3,
            )

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        group["lr"], group["steps"] = real("lr", group["lr"], least=0.0), whole("steps", group["steps"])
        for p in group["params"]:
            if not p.is_floating_point():
                raise ValueError(f"parameters must be real numbers, got {p.dtype}. Leave it out of the list.")
        self._about = {}

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step for all parameters that have a gradient; returns what the closure does."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        every = self._every()
        self._check([p.grad for p in every if p.grad is not None])
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._move(p, group, self._known(every)[p])
        return loss

    def load_state_dict(self, state_dict: Any) -> None:
        """Go on from a state; what the rule remembers stays in its precision, whatever that of the weights."""
        super().load_state_dict(state_dict)
        numbers = [number for group in state_dict["param_groups"] for number in group["params"]]
        for number, p in zip(numbers, self._every(), strict=True):
            for name, value in state_dict["state"].get(number, {}).items():
                if isinstance(value, Tensor):
                    self.state[p][name] = value.to(p.device, copy=True)

    def _move(self, p: Tensor, group: dict[str, Any], tensors: Tensors) -> None:
        state, precise = self.state[p], torch.promote_types(p.dtype, torch.float32)
        if not state:
            state["step"] = 0
            if precise != p.dtype:
                state["weights"] = p.detach().to(precise)
            state.update(self._rule.core.begin(p.detach().to(precise).reshape(1, -1)))
        k, steps = state["step"], group["steps"]
        if k >= steps and not self._over:
            warnings.warn(
                f"the rule was made for {steps} steps, and this is step {k + 1}: it goes on as at the last one. Give "
                "optimizer(parameters, steps=...) the length of the training.",
                stacklevel=4,
            )
            self._over = True
        held = state.get("weights", p).detach()
        before, grad = held.reshape(1, -1), p.grad.to(precise).reshape(1, -1)  # type: ignore[union-attr]
        memory = {name: value for name, value in state.items() if name not in ("step", "weights")}
        told = min(k, steps - 1), steps, tensors
        if hasattr(self._rule.core, "move_"):
            self._rule.core.move_(before, grad, memory, *told, group["lr"], self._compile)
            after = before
        else:
            after, memory = self._rule.core.move(before, grad, memory, *told)
            after = before + group["lr"] * (after - before)
        state.update(memory, step=k + 1)
        for kept in (held, p):
            if kept.data_ptr() != after.data_ptr():
                kept.copy_(after.view(p.shape))

    def _every(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"]]

    def _known(self, every: list[Tensor]) -> dict[Tensor, Tensors]:
        """What the rule knows of each tensor beforehand."""
        if len(self._about) != len(every):
            shapes = [p.shape for p in every]
            like = next(self._rule.parameters())
            self._about = dict(zip(every, Tensors.of(shapes, like).each(), strict=True))
        return self._about

    def _check(self, grads: list[Tensor]) -> None:
        if any(g.layout != torch.strided for g in grads):
            raise RuntimeError(
                "a learned rule takes dense gradients, got a sparse one. Use an embedding with sparse=False."
            )
        if grads and not math.isfinite(float(torch.stack(torch._foreach_norm(grads)).sum())):
            done = max((state["step"] for state in self.state.values()), default=0)
            raise FloatingPointError(
                f"a gradient is NaN or infinite at step {done + 1} of this optimiser; no weight has moved. Look at the "
                "loss and the rows of this step, or lower lr=."
            )
