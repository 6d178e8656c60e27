"""The one outer loop: a run that takes an outer step each time it is asked for the next."""

from __future__ import annotations

import dataclasses
import inspect
import math
import pathlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from metakit.checks import in_words, whole
from metakit.contracts import Choosy, Combine, Estimated, Estimator, Tasks
from metakit.nn.lending import train
from metakit.outer.run import DivergedError, History, Run
from metakit.outer.schedules import Schedule
from metakit.outer.state import State
from metakit.outer.step import OuterStep


@dataclasses.dataclass(frozen=True)
class Training:
    """Meta-training of a learner on a task distribution, in seven steps that repeat; ``fit`` does all of them.

        w <- w - lr * grad_w mean_t loss_t(w),    t = 1 .. T tasks, drawn anew at each outer step

    Arguments:
        learner: a module that turns a batch into losses ``[T]``. It is trained in training mode, layers with running
            statistics apart, which are fixed ones.
        tasks: a task distribution with ``sample(T, generator=, device=)``.
        steps: outer steps, counted from the start of the run even if it is resumed.
        minutes: time to spend, validations included, counted likewise; with ``steps`` too, the run ends at whichever
            comes first. How many steps fit in differs from run to run, so only ``steps`` make a run repeatable.
        meta_batch: tasks T in an outer step.
        lr: outer learning rate; the learner's own kind decides when left out (0.001, for Reptile 0.1).
        optimizer: a ``torch.optim`` class, or one already made; when left out, the learner's kind decides (Adam, for
            Reptile plain SGD).
        schedule: how the outer learning rate changes: the name of a ``torch.optim.lr_scheduler`` class such as
            ``"CosineAnnealingLR"`` or ``"OneCycleLR"``, stretched over the steps or the time of the run, or a callable
            ``optimizer -> scheduler`` that moves once a step; see ``metakit.outer.schedules``.
        seed: of the tasks drawn, and of what the learner draws (dropout). The same seed on the same device gives the
            same run.
        device: where to train; where the learner is, when left out.
        compile: have the whole outer step compiled (CPU) or recorded as a CUDA graph (GPU): it pays for small tasks and
            many steps. Where that cannot be done it says so once and goes on without.
        autocast: ``torch.bfloat16`` computes products and convolutions of an outer step in that precision
            (``torch.autocast``); weights, optimiser and losses stay as they are. Faster where the processor has
            instructions for it, and with an error of some thousandths in each product.
        clip: greatest length of the meta-gradient, over all parameters together; longer ones are shortened to it.
        estimator: how the meta-gradient is got: ``"full"`` (autograd, as when left out), ``"truncated"``, ``"es"``
            (evolution strategies), ``"pes"`` (persistent ones), or any ``metakit.contracts.Estimator``, such as
            ``mk.Evolution(sigma=0.1)``.
        combine: changes the estimate of the whole batch before the optimiser moves, ``Estimate -> Estimate``: sums it
            over ranks, for one.
        progress: show a bar with loss and rate once the run takes over two seconds.
        target: end as soon as the validation score is this good: an accuracy reached, or a loss.
        patience: end after so many validations in a row without a better score.
        keep: the weights that the learner ends with: ``"last"``, or ``"best"``, those of the best validation.
        validate_every: outer steps between validations on 100 tasks; where target, patience or keep need them and it
            is left out, a twentieth of the steps, or 100 if only the time is set.
        validation: the distribution that validation draws from; ``tasks`` when left out.
        checkpoint: file that keeps the whole state of the run, written every ``checkpoint_every`` steps and at the end.
        resume: ``True`` goes on from ``checkpoint`` if it is there, a ``History`` from where that run ended, with its
            optimiser, rates and randomness; on a CPU the run ends bit for bit as if it had not been cut. Without it
            each call starts afresh: from ``seed``, so with the same tasks again, and with a new optimiser.
        callback: called with the ``Run`` after each outer step; may call ``run.stop()``.
        chunk: tasks whose graphs are held at once; chosen by the learner when left out. It changes memory and time, not
            the result beyond rounding.

    Raises:
        ValueError: if an option is out of its range, or the checkpoint is of another learner.
        DivergedError: if the loss or a gradient turns NaN or infinite; the last good weights are kept.

    Example:
        >>> import metakit as mk
        >>> learner = mk.MAML(mk.models.MLP(1, [8], 1))
        >>> for run in mk.Training(learner, mk.tasks.Sinusoids(), steps=3):
        ...     print(run.step, f"{run.progress:.2f}")
        1 0.33
        2 0.67
        3 1.00
        >>> history = None  # to go on with fit, hand over the last history
        >>> for epoch in range(1, 4):
        ...     history = mk.fit(learner, mk.tasks.Sinusoids(), steps=2 * epoch, resume=history, progress=False)
        >>> history.steps
        6
    """

    learner: nn.Module
    tasks: Tasks
    _: dataclasses.KW_ONLY
    steps: int | None = None
    minutes: float | None = None
    meta_batch: int = 25
    lr: float | None = None
    optimizer: Callable[..., torch.optim.Optimizer] | torch.optim.Optimizer | None = None
    schedule: str | Callable[[torch.optim.Optimizer], Any] | None = None
    seed: int = 0
    device: torch.device | str | None = None
    compile: bool = False
    autocast: torch.dtype | None = None
    clip: float | None = None
    estimator: Estimator | str | None = None
    combine: Combine | None = None
    progress: bool = True
    target: float | None = None
    patience: int | None = None
    keep: str = "last"
    validate_every: int | None = None
    validation: Tasks | None = None
    checkpoint: str | pathlib.Path | None = None
    checkpoint_every: int = 1000
    resume: bool | History | None = False
    callback: Callable[[Run], None] | None = None
    chunk: int | None = None

    def __post_init__(self) -> None:
        _check_sides(self.learner, self.tasks)
        for name in ("steps", "meta_batch", "checkpoint_every", "chunk", "patience", "validate_every"):
            object.__setattr__(self, name, _count(name, getattr(self, name)))
        if self.steps is None and self.minutes is None:
            raise ValueError("fit needs an end: give steps=, minutes=, or both.")
        for name in ("minutes", "lr", "clip"):
            number = getattr(self, name)
            if number is not None and not 0 < number < math.inf:
                usual = " 0.001 is a usual start with Adam." if name == "lr" else ""
                raise ValueError(f"{name} must be a positive number, got {number!r}.{usual}")
        if self.keep not in ("last", "best"):
            raise ValueError(f'keep must be "last" or "best", got {self.keep!r}.')
        if self.autocast not in (None, torch.bfloat16):
            raise ValueError(
                f"autocast must be torch.bfloat16 or left out (float16 would need scaled losses), got {self.autocast}."
            )
        if self.validate_every is None and (self.target is not None or self.patience or self.keep == "best"):
            object.__setattr__(self, "validate_every", 100 if self.steps is None else max(1, self.steps // 20))

    def __iter__(self) -> Iterator[Run]:
        return iter(self.start())

    def start(self) -> Run:
        """A run of it, from the beginning or from where it is resumed; iterating over it takes its outer steps."""
        place = next(self.learner.parameters()).device if self.device is None else torch.device(self.device)
        # Step 1: initialise the learner's parameters: its module came with them.
        train(self.learner.to(place))
        # Step 2: choose the optimiser by the learner's kind.
        optimizer = _optimizer(self.learner, self.optimizer, self.lr)
        timed, run = self.minutes is not None, Run(self.steps, self.minutes)
        schedule = None if self.schedule is None else Schedule(self.schedule, optimizer, steps=self.steps, timed=timed)
        estimator = self.estimator
        if estimator is None and isinstance(self.learner, Estimated):
            estimator = self.learner.estimator
        carries = estimator not in (None, "full")
        state = State(
            *(self.learner, optimizer, schedule, run, self.tasks, self.meta_batch, self.seed, place), carries=carries
        )
        if self.resume:
            state.restore(self.checkpoint if self.resume is True else self.resume)
        names = ("combine", "compile", "chunk", "autocast", "clip")
        options = {name: getattr(self, name) for name in names}
        outer_step = OuterStep(self.learner, optimizer, estimator=estimator, **options)
        run.loop = self._loop(run, state, outer_step)
        return run

    def _loop(self, run: Run, state: State, outer_step: OuterStep) -> Iterator[Run]:
        run.ended = run.ended or run.spent
        with _bar(run, self.progress) as bar:
            try:
                while not run.ended:
                    with state.dice:
                        batch = state.next_batch()
                        # Steps 3 and 4: learn each task with the learner as it is (the inner loop), and improve it.
                        loss = outer_step(batch, state.carry)
                    run.loss.append(_finite(loss, outer_step, run))
                    run.diverged += outer_step.diverged
                    bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
                    bar.update()
                    spent = self._adjust(run, state, outer_step)
                    yield run
                    run.ended = run.ended or spent
                    if run.step % self.checkpoint_every == 0:
                        state.save(self.checkpoint)
                # Step 7: repeat until the target is met or the steps are spent.
            except GeneratorExit:  # whoever stepped through it has seen enough
                run.stop()
                if sys.is_finalizing():  # where nothing can be copied or written any more
                    return
        state.end(self.checkpoint, keep_best=self.keep == "best")

    def _adjust(self, run: Run, state: State, outer_step: OuterStep) -> str:
        """What follows a move; returns what is spent."""
        state.carry = outer_step.carry
        if state.schedule is not None:
            state.schedule.advance(run.step, run.progress)
        if state.pace is not None:
            state.pace(run.step)
        # Steps 5 and 6: evaluate, and adjust by the evaluation: here, what to keep and whether to go on.
        spent = run.spent
        if self.validate_every and (run.step % self.validate_every == 0 or spent):
            options: dict[str, Any] = {"target": self.target, "patience": self.patience, "keep": self.keep}
            state.validate(self.validation or self.tasks, **options)
        if self.callback is not None:
            self.callback(run)
        return spent


def _check_sides(learner: Any, tasks: Any) -> None:
    if not isinstance(learner, nn.Module):
        raise TypeError(f"learner must be a module such as mk.MAML(...), got {type(learner).__name__}.")
    if any(isinstance(m, nn.parallel.DistributedDataParallel | nn.DataParallel) for m in learner.modules()):
        raise ValueError(
            "an outer step takes gradients without the backward hooks of DistributedDataParallel, which would average "
            "nothing: each rank would learn by itself. Give the module inside it, and a combine= that sums over ranks."
        )
    if not any(p.requires_grad for p in learner.parameters()):
        raise ValueError(f"{type(learner).__name__} has no parameters to train. Judge it at once with mk.evaluate.")
    if not isinstance(tasks, Tasks):
        raise TypeError(f"tasks must have sample(T, generator=, device=), got {type(tasks).__name__}.")
    try:
        inspect.signature(tasks.sample).bind(1, generator=None, device=None)
    except TypeError:
        raise TypeError(
            f"tasks are drawn by sample(T, generator=, device=), but that of {type(tasks).__name__} takes "
            f"{inspect.signature(tasks.sample)}. Add the two, and draw from the generator: a seed is a run."
        ) from None


def _count(name: str, value: Any) -> int | None:
    message = f"{name} must be a positive whole number, got {value!r}."
    return None if value is None else in_words(message, lambda: whole(name, value))


def _bar(run: Run, progress: bool) -> tqdm:
    return tqdm(total=run.steps, initial=run.step, delay=2, mininterval=0.5, disable=not progress, unit="step")


def _optimizer(learner: nn.Module, optimizer: Any, lr: float | None) -> torch.optim.Optimizer:
    """The optimiser by the learner's kind, or the one asked for."""
    if isinstance(optimizer, torch.optim.Optimizer):
        if lr is not None:
            raise ValueError("lr must be left out when optimizer is already made: it has its own.")
        return optimizer
    usual = (learner.outer_optimizer, learner.outer_lr) if isinstance(learner, Choosy) else (torch.optim.Adam, 1e-3)
    kind, lr = optimizer or usual[0], usual[1] if lr is None else float(lr)
    options: dict[str, Any] = {"fused": True} if kind in (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD) else {}
    return kind([p for p in learner.parameters() if p.requires_grad], lr=lr, **options)


def _finite(loss: float, outer_step: OuterStep, run: Run) -> float:
    """The loss, if it and the meta-gradient are finite."""
    if outer_step.finite:
        return loss
    run.ended = "diverged"
    what = "the meta-gradient was not finite" if math.isfinite(loss) else f"the loss was {loss}"
    raise DivergedError(
        f"At outer step {run.step + 1} {what}. Lower the outer lr, the inner lr or the number of inner steps. "
        f"The learner keeps the weights of step {run.step}.",
        run.history(),
    )
