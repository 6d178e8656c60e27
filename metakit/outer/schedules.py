"""Outer learning rates that change in the course of a run, by the schedules of torch."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch.optim import lr_scheduler

# A run with a time budget does not know its steps: its schedule is cut into so many ticks.
_TICKS = 1000
_LENGTHS = ("T_max", "total_steps", "total_iters")

Make = Callable[[torch.optim.Optimizer], Any]


class Schedule:
    """A scheduler of torch that is moved on as the run goes on.

    By name, the class of ``torch.optim.lr_scheduler`` is stretched over the whole run: what it calls ``T_max``,
    ``total_steps`` or ``total_iters`` is the number of outer steps, ``max_lr`` the optimiser's own rate. With a time
    budget it follows the share of the run that is done, whichever of steps and time is further on. A callable,
    ``optimizer -> scheduler``, moves once an outer step.

    Arguments:
        schedule: the name or the callable.
        optimizer: whose rates are set.
        steps: outer steps of the run, if it has a number of them.
        timed: whether the run has a time budget.

    Raises:
        ValueError: if there is no schedule of this name, or it needs more than the length of the run.

    Example:
        >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        >>> schedule = Schedule("CosineAnnealingLR", optimizer, steps=4)
        >>> optimizer.step()
        >>> schedule.advance(2, 0.5)
        >>> optimizer.param_groups[0]["lr"]
        0.5
    """

    def __init__(
        self, schedule: str | Make, optimizer: torch.optim.Optimizer, *, steps: int | None, timed: bool = False
    ) -> None:
        self.ticks = None if callable(schedule) else _TICKS if timed or steps is None else steps
        if self.ticks is None:
            self.scheduler = schedule(optimizer)  # type: ignore[operator]
        else:
            self.scheduler = _by_name(str(schedule), optimizer, self.ticks)
        if not (hasattr(self.scheduler, "step") and hasattr(self.scheduler, "state_dict")):
            raise TypeError(f"schedule must return a scheduler of torch, got {type(self.scheduler).__name__}.")
        self.done = 0

    def advance(self, step: int, progress: float) -> None:
        """Move to where the run is: ``step`` outer steps done, a share of ``progress`` in 0 to 1."""
        # After the last step no rate is needed; some schedules refuse to be asked for one.
        due = step if self.ticks is None else min(int(progress * self.ticks + 1e-9), self.ticks - 1)
        while self.done < due:
            self.scheduler.step()
            self.done += 1

    def state(self) -> dict[str, Any]:
        """All that it goes on from."""
        name = type(self.scheduler).__name__
        return {"name": name, "ticks": self.ticks, "done": self.done, "scheduler": self.scheduler.state_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from where another one was, if it is of the same kind and length."""
        ours = self.state()
        for what in ("name", "ticks"):
            if ours[what] != state[what]:
                raise ValueError(
                    f"the run was made with a schedule of {what} {state[what]}, this one has {ours[what]}. A resumed "
                    "run keeps its schedule: give the steps, minutes and schedule that it began with."
                )
        self.done = state["done"]
        self.scheduler.load_state_dict(state["scheduler"])


def _by_name(name: str, optimizer: torch.optim.Optimizer, ticks: int) -> Any:
    make = getattr(lr_scheduler, name, None)
    if not (inspect.isclass(make) and issubclass(make, lr_scheduler.LRScheduler)):
        raise ValueError(
            f"schedule must name a class of torch.optim.lr_scheduler, got {name!r}. CosineAnnealingLR is a usual one."
        )
    wanted = inspect.signature(make).parameters
    options: dict[str, Any] = {length: ticks for length in _LENGTHS if length in wanted}
    if "max_lr" in wanted:
        options["max_lr"] = [group["lr"] for group in optimizer.param_groups]
    lacking = [n for n, p in wanted.items() if p.default is p.empty and n != "optimizer" and n not in options]
    if make is lr_scheduler.ReduceLROnPlateau:
        lacking = ["a measure at each step"]
    if lacking:
        raise ValueError(
            f"{name} needs {' and '.join(lacking)}, which the length of a run does not tell. Give it ready: "
            f"schedule=lambda optimizer: torch.optim.lr_scheduler.{name}(optimizer, ...)."
        )
    return make(optimizer, **options)
