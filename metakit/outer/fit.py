"""The outer loop: learn what the inner loop starts from and works with."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import pathlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from metakit.files import read_checkpoint, write_checkpoint
from metakit.judging.evaluation import evaluate
from metakit.outer.schedules import Schedule
from metakit.outer.step import OuterStep

_VALIDATION_TASKS = 100
_VALIDATION_SEED = 1_000_003


@dataclasses.dataclass(frozen=True)
class History:
    """What happened in a run of ``fit``.

    Arguments:
        loss: mean loss over the meta-batch at each outer step.
        validation: ``(outer step, mean score, half width of its 95% interval)`` for each validation; the score is the
            accuracy in classification, the loss in regression.
        ended: why it ended: ``"steps spent"``, ``"time spent"``, ``"target reached"``, ``"no improvement"``,
            ``"stopped"`` or ``"interrupted"``.
        seconds: time spent in this run and, if it was resumed, before.
    """

    loss: tuple[float, ...]
    validation: tuple[tuple[int, float, float], ...]
    ended: str
    seconds: float

    @property
    def steps(self) -> int:
        """Outer steps done."""
        return len(self.loss)


class DivergedError(RuntimeError):
    """The loss or a meta-gradient became NaN or infinite; the learner holds the last good weights."""

    def __init__(self, message: str, history: History) -> None:
        super().__init__(message)
        self.history = history


class Run:
    """The live side of ``fit``, for its callback after each step: ``.step``, ``.progress``, ``.loss``, ``.stop()``.

    Arguments:
        steps: outer steps to do in all, if their number is set.
        minutes: time to spend in all, if it is set.
    """

    def __init__(self, steps: int | None, minutes: float | None = None) -> None:
        self.steps, self.minutes = steps, minutes
        self.loss: list[float] = []
        self.validation: list[tuple[int, float, float]] = []
        self.ended = ""
        self.started = time.perf_counter()

    @property
    def step(self) -> int:
        """Outer steps done."""
        return len(self.loss)

    @property
    def seconds(self) -> float:
        """Time spent."""
        return time.perf_counter() - self.started

    @property
    def progress(self) -> float:
        """The share of the run that is done, 0 to 1: of its steps or of its time, whichever is further on."""
        of_steps = self.step / self.steps if self.steps else 0.0
        of_time = self.seconds / (60 * self.minutes) if self.minutes else 0.0
        return min(1.0, max(of_steps, of_time))

    @property
    def spent(self) -> str:
        """What is used up, steps or time, or nothing yet."""
        if self.steps is not None and self.step >= self.steps:
            return "steps spent"
        return "time spent" if self.minutes is not None and self.seconds >= 60 * self.minutes else ""

    def stop(self) -> None:
        """End the run at the next step's edge; safe to call from another thread."""
        self.ended = self.ended or "stopped"

    def history(self) -> History:
        """The record so far."""
        return History(tuple(self.loss), tuple(self.validation), self.ended, self.seconds)


def fit(
    learner: nn.Module,
    tasks: Any,
    *,
    steps: int | None = None,
    minutes: float | None = None,
    meta_batch: int = 25,
    lr: float | None = None,
    optimizer: Callable[..., torch.optim.Optimizer] | torch.optim.Optimizer | None = None,
    schedule: str | Callable[[torch.optim.Optimizer], Any] | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
    compile: bool = False,
    autocast: torch.dtype | None = None,
    progress: bool = True,
    target: float | None = None,
    patience: int | None = None,
    keep: str = "last",
    validate_every: int | None = None,
    validation: Any = None,
    checkpoint: str | pathlib.Path | None = None,
    checkpoint_every: int = 1000,
    resume: bool = False,
    callback: Callable[[Run], None] | None = None,
    chunk: int | None = None,
) -> History:
    """Meta-train a learner on a task distribution, in seven steps that repeat.

        w <- w - lr * grad_w mean_t loss_t(w),    t = 1 .. T tasks, drawn anew at each outer step

    Arguments:
        learner: a module that turns a ``TaskBatch`` into losses ``[T]``.
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
        seed: of the tasks drawn. The same seed on the same device gives the same run.
        device: where to train; where the learner is, when left out.
        compile: have the whole outer step compiled (CPU) or recorded as a CUDA graph (GPU): it pays for small tasks and
            many steps. Where that cannot be done it says so once and goes on without.
        autocast: ``torch.bfloat16`` computes products and convolutions of an outer step in that precision
            (``torch.autocast``); weights, optimiser and losses stay as they are. Faster where the processor has
            instructions for it, and with an error of some thousandths in each product.
        progress: show a bar with loss and rate once the run takes over two seconds.
        target: end as soon as the validation score is this good: an accuracy reached, or a loss.
        patience: end after so many validations in a row without a better score.
        keep: the weights that the learner ends with: ``"last"``, or ``"best"``, those of the best validation.
        validate_every: outer steps between validations on 100 tasks; where target, patience or keep need them and it
            is left out, a twentieth of the steps, or 100 if only the time is set.
        validation: the distribution that validation draws from; ``tasks`` when left out.
        checkpoint: file that keeps the whole state of the run, written every ``checkpoint_every`` steps and at the end.
        resume: go on from ``checkpoint`` if it is there; on a CPU the run ends bit for bit as if it had not been cut.
        callback: called with the ``Run`` after each outer step; may call ``run.stop()``.
        chunk: tasks whose graphs are held at once; chosen by the device and the size of a task when left out. It
            changes memory and time, not the result beyond rounding.

    Raises:
        ValueError: if an option is out of its range, or the checkpoint is of another learner.
        DivergedError: if the loss or a gradient turns NaN or infinite; the last good weights are kept.

    Example:
        >>> import metakit as mk
        >>> learner = mk.MAML(mk.models.MLP(1, [8], 1))
        >>> mk.fit(learner, mk.tasks.Sinusoids(), steps=3, progress=False).steps
        3
    """
    counts = {"steps": steps, "meta_batch": meta_batch, "checkpoint_every": checkpoint_every, "chunk": chunk}
    counts |= {"patience": patience, "validate_every": validate_every}
    _check(learner, tasks, counts, minutes=minutes, lr=lr, keep=keep, autocast=autocast)
    if validate_every is None and (target is not None or patience is not None or keep == "best"):
        validate_every = 100 if steps is None else max(1, steps // 20)
    place = next(learner.parameters()).device if device is None else torch.device(device)

    # Step 1: initialise the learner's parameters: its module came with them.
    learner.to(place).train()
    # Step 2: choose the optimiser by the learner's kind.
    chosen = _optimizer(learner, optimizer, lr)
    planned = None if schedule is None else Schedule(schedule, chosen, steps=steps, timed=minutes is not None)
    state = _State(learner, chosen, planned, torch.Generator(place).manual_seed(seed), run := Run(steps, minutes))
    if resume:
        state.restore(checkpoint)
    outer_step = OuterStep(learner, chosen, compile=compile, chunk=chunk, autocast=autocast)
    run.ended = run.spent
    with _interruptible(run), _bar(run, progress) as bar:
        while not run.ended:
            batch = tasks.sample(meta_batch, generator=state.generator, device=place)
            # Steps 3 and 4: learn each task with the learner as it is (the inner loop), and improve it.
            run.loss.append(_finite(outer_step(batch), outer_step, run))
            bar.set_postfix(loss=f"{run.loss[-1]:.3f}", refresh=False)
            bar.update()
            if planned is not None:
                planned.advance(run.step, run.progress)
            # Steps 5 and 6: evaluate, and adjust by the evaluation: here, what to keep and whether to go on.
            spent = run.spent
            if validate_every and (run.step % validate_every == 0 or spent):
                state.validate(validation or tasks, target=target, patience=patience, keep=keep)
            if callback is not None:
                callback(run)
            run.ended = run.ended or spent
            if run.step % checkpoint_every == 0:
                state.save(checkpoint)
        # Step 7: repeat until the target is met or the steps are spent.
    state.save(checkpoint)
    if keep == "best" and state.best is not None:
        learner.load_state_dict(state.best)
    return run.history()


def _check(
    learner: Any,
    tasks: Any,
    counts: dict[str, int | None],
    *,
    minutes: float | None,
    lr: float | None,
    keep: str,
    autocast: torch.dtype | None,
) -> None:
    if not isinstance(learner, nn.Module):
        raise TypeError(f"learner must be a module such as mk.MAML(...), got {type(learner).__name__}.")
    if not any(p.requires_grad for p in learner.parameters()):
        raise ValueError(f"{type(learner).__name__} has no parameters to train. Judge it at once with mk.evaluate.")
    if not callable(getattr(tasks, "sample", None)):
        raise TypeError(f"tasks must have sample(T, generator=, device=), got {type(tasks).__name__}.")
    for name, value in counts.items():
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise ValueError(f"{name} must be a positive whole number, got {value!r}.")
    if counts["steps"] is None and minutes is None:
        raise ValueError("fit needs an end: give steps=, minutes=, or both.")
    if minutes is not None and not 0 < minutes < float("inf"):
        raise ValueError(f"minutes must be a positive number, got {minutes!r}.")
    if lr is not None and not 0 < lr < float("inf"):
        raise ValueError(f"lr must be a positive number, got {lr!r}. 0.001 is a usual start with Adam.")
    if keep not in ("last", "best"):
        raise ValueError(f'keep must be "last" or "best", got {keep!r}.')
    if autocast not in (None, torch.bfloat16):
        raise ValueError(
            f"autocast must be torch.bfloat16 or left out (float16 would need scaled losses), got {autocast}."
        )


def _optimizer(learner: nn.Module, optimizer: Any, lr: float | None) -> torch.optim.Optimizer:
    if isinstance(optimizer, torch.optim.Optimizer):
        if lr is not None:
            raise ValueError("lr must be left out when optimizer is already made: it has its own.")
        return optimizer
    kind = optimizer or getattr(learner, "optimizer", torch.optim.Adam)
    lr = getattr(learner, "lr", 1e-3) if lr is None else lr
    options = {"fused": True} if kind in (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD) else {}
    return kind([p for p in learner.parameters() if p.requires_grad], lr=lr, **options)


@contextlib.contextmanager
def _interruptible(run: Run) -> Iterator[None]:
    """Let Ctrl-C end the run at a step's edge instead of in the middle of one; a second Ctrl-C ends it at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGINT)

    def interrupt(number: int, frame: Any) -> None:
        run.ended = run.ended or "interrupted"
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


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


def _bar(run: Run, progress: bool) -> tqdm:
    return tqdm(total=run.steps, initial=run.step, delay=2, mininterval=0.5, disable=not progress, unit="step")


@dataclasses.dataclass
class _State:
    """All that a run goes on from; ``best`` holds the weights of its best validation, if they are to be kept."""

    learner: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: Schedule | None
    generator: torch.Generator
    run: Run
    best: dict[str, Any] | None = None

    def validate(self, tasks: Any, *, target: float | None, patience: int | None, keep: str) -> None:
        """Score the learner, keep it if it is the best so far, and end the run if that is reason to."""
        self.learner.eval()
        result = evaluate(self.learner, tasks, n_tasks=_VALIDATION_TASKS, seed=_VALIDATION_SEED)
        self.learner.train()
        mean, high = float(result.mean()[-1]), float(result.interval()[1][-1])
        run, sign = self.run, 1 if result.accuracy is not None else -1
        run.validation.append((run.step, mean, high - mean))
        scores = [sign * score if math.isfinite(score) else -math.inf for _, score, _ in run.validation]
        best = scores.index(max(scores))  # the first of equals
        if keep == "best" and best == len(scores) - 1:
            self.best = {name: tensor.clone() for name, tensor in self.learner.state_dict().items()}
        if target is not None and sign * mean >= sign * target:
            run.ended = run.ended or "target reached"
        elif patience is not None and len(scores) - 1 - best >= patience:
            run.ended = run.ended or "no improvement"

    def save(self, path: str | pathlib.Path | None) -> None:
        if path is None:
            return
        content = {
            "kind": "run",
            "name": type(self.learner).__name__,
            "learner": self.learner.state_dict(),
            "best": self.best,
            "optimizer": self.optimizer.state_dict(),
            "schedule": None if self.schedule is None else self.schedule.state(),
            "generator": self.generator.get_state(),
            "torch_generator": torch.get_rng_state(),
            "loss": self.run.loss,
            "validation": self.run.validation,
            "seconds": self.run.seconds,
        }
        write_checkpoint(path, content)

    def restore(self, path: str | pathlib.Path | None) -> None:
        if path is None:
            raise ValueError("resume=True needs checkpoint=, the file to go on from.")
        if not pathlib.Path(path).exists():
            return
        content = read_checkpoint(path, "run")
        ours, theirs, name = self.learner.state_dict(), content["learner"], type(self.learner).__name__
        names = ours.keys() | theirs.keys()
        odd = sorted(n for n in names if n not in ours or n not in theirs or ours[n].shape != theirs[n].shape)
        if odd or content["name"] != name:
            where = f", and they differ in {odd[0]}" if odd else ""
            raise ValueError(
                f"{path} is of another model: it holds a {content['name']}, this is a {name}{where}. "
                "Make the learner as it was, or start afresh with resume=False."
            )
        if (self.schedule is None) != (content["schedule"] is None):
            had = "no" if content["schedule"] is None else "a"
            raise ValueError(f"the run in {path} was made with {had} schedule. A resumed run keeps it as it was.")
        if self.schedule is not None:
            self.schedule.restore(content["schedule"])
        self.learner.load_state_dict(theirs)
        self.best = content["best"]
        self.optimizer.load_state_dict(content["optimizer"])
        self.generator.set_state(content["generator"])
        torch.set_rng_state(content["torch_generator"])
        self.run.loss = content["loss"]
        self.run.validation = [tuple(entry) for entry in content["validation"]]
        self.run.started -= content["seconds"]
