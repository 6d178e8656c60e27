"""All that a run goes on from: kept in a checkpoint or in its history, and put back."""

from __future__ import annotations

import copy
import dataclasses
import math
import pathlib
from typing import Any

import torch
from torch import Tensor, nn

from metakit.contracts import Measure, Paced, Tasks
from metakit.files import read_checkpoint, write_checkpoint
from metakit.judging import evaluate
from metakit.outer.run import History, Run
from metakit.outer.schedules import Schedule
from metakit.randomness import Dice, apart

_VALIDATION_TASKS = 100
_VALIDATION_SEED = 1_000_003


class State:
    """The state of a run besides its record: weights, optimiser, schedule, randomness, and a batch that is under way.

    ``best`` holds the weights of the best validation, if they are to be kept; ``carry`` what the estimator left on the
    batch at hand, which is then drawn again on resuming, from where the generators stood before it.
    """

    def __init__(
        self,
        learner: nn.Module,
        optimizer: torch.optim.Optimizer,
        schedule: Schedule | None,
        run: Run,
        tasks: Tasks,
        meta_batch: int,
        seed: int,
        place: torch.device,
        *,
        carries: bool,
    ) -> None:
        self.learner, self.optimizer, self.schedule, self.run = learner, optimizer, schedule, run
        self.tasks, self.meta_batch, self.place, self.carries = tasks, meta_batch, place, carries
        self.generator = torch.Generator(place).manual_seed(seed)
        self.dice = Dice(apart(seed), place)
        self.pace = learner.pace if isinstance(learner, Paced) else None
        self.best: dict[str, Any] | None = None
        self.carry: Any = None
        self._batch: Any = None
        self._before: list[Tensor] = []

    def next_batch(self) -> Any:
        """The batch of the next move: a new one, unless the estimator is not done with the last."""
        if self.carry is None:
            self._before = [self.generator.get_state(), *self.dice.here()] if self.carries else []
            self._batch = self.tasks.sample(self.meta_batch, generator=self.generator, device=self.place)
        return self._batch

    def validate(self, tasks: Tasks, *, target: float | None, patience: int | None, keep: str) -> None:
        """Score the learner, keep it if it is the best so far, and end the run if that is reason to."""
        result = evaluate(self.learner, tasks, n_tasks=_VALIDATION_TASKS, seed=_VALIDATION_SEED)
        mean, high = float(result.mean()[-1]), float(result.interval()[1][-1])
        run, sign = self.run, result.measure.sign
        run.measure = result.measure
        run.validation.append((run.step, mean, high - mean))
        scores = [sign * score if math.isfinite(score) else -math.inf for _, score, _ in run.validation]
        best = scores.index(max(scores))  # the first of equals
        if keep == "best" and best == len(scores) - 1:
            self.best = {name: tensor.clone() for name, tensor in self.learner.state_dict().items()}
        if target is not None and sign * mean >= sign * target:
            run.ended = run.ended or "target reached"
        elif patience is not None and len(scores) - 1 - best >= patience:
            run.ended = run.ended or "no improvement"

    def content(self) -> dict[str, Any]:
        """All of it, as tensors and plain values."""
        run, measure = self.run, dataclasses.asdict(self.run.measure)
        return {
            "kind": "run",
            "name": type(self.learner).__name__,
            "learner": self.learner.state_dict(),
            "best": self.best,
            "optimizer": self.optimizer.state_dict(),
            "schedule": None if self.schedule is None else self.schedule.state(),
            "generator": self.generator.get_state(),
            "torch_generator": self.dice.state[0],
            "cuda_generator": self.dice.state[1:],
            "carry": self.carry,
            "before_batch": [] if self.carry is None else self._before,
            "loss": run.loss,
            "validation": run.validation,
            "measure": measure,
            "diverged": run.diverged,
            "seconds": run.seconds,
        }

    def save(self, path: str | pathlib.Path | None) -> None:
        if path is not None:
            write_checkpoint(path, self.content())

    def end(self, path: str | pathlib.Path | None, *, keep_best: bool) -> None:
        """Keep the last state, in the file and in the history; leave the learner with the best weights if asked."""
        self.save(path)
        self.run.state = copy.deepcopy(self.content())
        if keep_best and self.best is not None:
            self.learner.load_state_dict(self.best)

    def restore(self, source: str | pathlib.Path | History | None) -> None:
        """Go on from a checkpoint, if it is there, or from a history."""
        if isinstance(source, History):
            if source.state is None:
                raise ValueError("this history holds no state to go on from. Take the one that fit returned.")
            self._put_back(copy.deepcopy(dict(source.state)), "the history")
        elif source is None:
            raise ValueError("resume=True needs checkpoint=, the file to go on from.")
        elif pathlib.Path(source).exists():
            self._put_back(read_checkpoint(source, "run"), str(source))

    def _put_back(self, content: dict[str, Any], source: str) -> None:
        self._check(content, source)
        if self.schedule is not None:
            self.schedule.restore(content["schedule"])
        self.learner.load_state_dict(content["learner"])
        self.best, run = content["best"], self.run
        self.optimizer.load_state_dict(content["optimizer"])
        self.carry = content.get("carry")
        if self.carry is not None:
            generator, *self.dice.state = content["before_batch"]
            self.generator.set_state(generator)
            self._before = content["before_batch"]
            with self.dice:
                self._batch = self.tasks.sample(self.meta_batch, generator=self.generator, device=self.place)
        self.generator.set_state(content["generator"])
        self.dice.state = [content["torch_generator"], *content.get("cuda_generator", [])]
        run.loss, run.validation = list(content["loss"]), [tuple(entry) for entry in content["validation"]]
        run.measure = Measure(**content["measure"]) if "measure" in content else run.measure
        run.diverged = content.get("diverged", 0.0)
        run.started -= content["seconds"]

    def _check(self, content: dict[str, Any], source: str) -> None:
        """Refuse the state of another learner, or one of a run with another kind of schedule."""
        ours, theirs, name = self.learner.state_dict(), content["learner"], type(self.learner).__name__
        names = ours.keys() | theirs.keys()
        odd = sorted(n for n in names if n not in ours or n not in theirs or ours[n].shape != theirs[n].shape)
        if odd or content["name"] != name:
            where = f", and they differ in {odd[0]}" if odd else ""
            raise ValueError(
                f"{source} is of another model: it holds a {content['name']}, this is a {name}{where}. "
                "Make the learner as it was, or start afresh with resume=False."
            )
        if (self.schedule is None) != (content["schedule"] is None):
            had = "no" if content["schedule"] is None else "a"
            raise ValueError(f"the run in {source} was made with {had} schedule. A resumed run keeps it as it was.")
