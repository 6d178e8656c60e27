"""``metakit train``: meta-train a learner, print its scores on unseen tasks, keep it in a file."""

from __future__ import annotations

import dataclasses
import enum
import pathlib
from typing import Annotated, Any

import torch
import typer

import metakit as mk
from metakit.cli import common
from metakit.cli.common import Data, Device, From, Points, Queries, Seed, Shots, TestTasks, Ways, Within

train = typer.Typer(no_args_is_help=True, help="Meta-train a learner and print its scores on unseen tasks.")

Steps = Annotated[int | None, typer.Option(min=1, help="Outer steps.", show_default="by the problem, or no limit")]
Minutes = Annotated[float | None, typer.Option(help="Time to train for, with or without --steps.")]
MetaBatch = Annotated[int, typer.Option(min=1, help="Tasks T in an outer step.")]
InnerLr = Annotated[float, typer.Option(help="Inner learning rate.")]
InnerSteps = Annotated[int, typer.Option(min=0, help="Inner steps K.")]
Order = Annotated[int, typer.Option(min=1, max=2, help="2: exact meta-gradient; 1: first order.")]
Lr = Annotated[float | None, typer.Option(help="Outer learning rate; by the kind of learner when left out.")]
Schedule = Annotated[str | None, typer.Option(help="Of the outer rate: a class of torch.optim.lr_scheduler.")]
Compile = Annotated[bool, typer.Option("--compile", help="Compile the outer step.")]
Checkpoint = Annotated[pathlib.Path | None, typer.Option(help="File to keep the run in.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint if it is there.")]
Save = Annotated[pathlib.Path | None, typer.Option(help="File to keep the trained learner in.")]
Width = Annotated[int, typer.Option(min=1, help="Channels of each block of the network.")]


class Kind(enum.StrEnum):
    """Learners by name."""

    maml = "maml"
    meta_sgd = "meta-sgd"
    anil = "anil"
    reptile = "reptile"
    protonet = "protonet"
    matching = "matching"
    ridge = "ridge"


Learner = Annotated[Kind, typer.Option(help="Which learner to train.")]
_EMBEDS = {Kind.protonet: mk.ProtoNet, Kind.matching: mk.Matching, Kind.ridge: mk.Ridge}


@dataclasses.dataclass(frozen=True)
class _Run:
    """How to train, as it was asked for."""

    steps: int | None
    minutes: float | None
    meta_batch: int
    lr: float | None
    schedule: str | None
    seed: int
    device: str
    compile: bool
    checkpoint: pathlib.Path | None
    resume: bool

    def train(self, learner: torch.nn.Module, tasks: Any, save: pathlib.Path | None) -> None:
        """Train, tell how it went, and keep the learner."""
        options = vars(self) | {"device": common.device_of(self.device)}
        history = mk.fit(learner, tasks, **options)
        rate = history.steps / max(history.seconds, 1e-9)
        typer.echo(f"{history.steps} outer steps in {history.seconds:.0f} s ({rate:.1f} a second): {history.ended}.")
        if save is not None:
            mk.save(learner, save)
            typer.echo(f"The learner is in {save}: {save.stat().st_size / 1e6:.2f} MB.")
        learner.eval()


@train.command()
def sinusoid(
    learner: Learner = Kind.maml,
    shots: Points = 10,
    steps: Steps = None,
    minutes: Minutes = None,
    meta_batch: MetaBatch = 25,
    inner_lr: InnerLr = 0.01,
    inner_steps: InnerSteps = 1,
    order: Order = 2,
    lr: Lr = None,
    schedule: Schedule = None,
    seed: Seed = 0,
    device: Device = "auto",
    compile: Compile = False,
    checkpoint: Checkpoint = None,
    resume: Resume = False,
    save: Save = None,
    test_tasks: TestTasks = 600,
) -> None:
    """Sinusoid regression: the first experiment of Finn et al. 2017."""
    with common.plain_errors():
        torch.manual_seed(seed)
        steps = _steps(steps, minutes, 10_000)
        run = _Run(steps, minutes, meta_batch, lr, schedule, seed, device, compile, checkpoint, resume)
        tasks = mk.tasks.Sinusoids(shots=shots, queries=10)
        outputs = 40 if learner in _EMBEDS else 1
        made = _learner(learner, mk.models.MLP(1, [40, 40], outputs), inner_lr, inner_steps, order)
        run.train(made, tasks, save)
        common.print_losses(made, tasks, test_tasks, max(10, inner_steps))


@train.command()
def omniglot(
    learner: Learner = Kind.protonet,
    ways: Ways = 5,
    shots: Shots = 1,
    queries: Queries = 15,
    data: Data = None,
    width: Width = 64,
    steps: Steps = None,
    minutes: Minutes = None,
    meta_batch: MetaBatch = 4,
    inner_lr: InnerLr = 0.4,
    inner_steps: InnerSteps = 1,
    order: Order = 2,
    lr: Lr = None,
    schedule: Schedule = None,
    seed: Seed = 0,
    device: Device = "auto",
    compile: Compile = False,
    checkpoint: Checkpoint = None,
    resume: Resume = False,
    save: Save = None,
    test_tasks: TestTasks = 600,
) -> None:
    """N-way K-shot handwriting: trained on 1,028 characters of Omniglot and their rotations, judged on 423 others."""
    with common.plain_errors():
        steps = _steps(steps, minutes, 1000)
        run = _Run(steps, minutes, meta_batch, lr, schedule, seed, device, compile, checkpoint, resume)
        parts = [mk.tasks.omniglot(data, split=part, rotations=True) for part in ("train", "test")]
        torch.manual_seed(seed)
        model = mk.models.ConvNet(width=width, outputs=None if learner in _EMBEDS else ways)
        made = _learner(learner, model, inner_lr, inner_steps, order)
        _images(made, run, parts, (ways, shots, queries, Within.everything), save, test_tasks)


@train.command()
def glyphs(
    learner: Learner = Kind.protonet,
    ways: Ways = 5,
    shots: Shots = 1,
    queries: Queries = 15,
    within: From = Within.everything,
    alphabets: Annotated[int, typer.Option(min=1, help="Invented alphabets to train on; ten more to test.")] = 50,
    width: Width = 64,
    steps: Steps = None,
    minutes: Minutes = None,
    meta_batch: MetaBatch = 4,
    inner_lr: InnerLr = 0.4,
    inner_steps: InnerSteps = 1,
    order: Order = 2,
    lr: Lr = None,
    schedule: Schedule = None,
    seed: Seed = 0,
    device: Device = "auto",
    compile: Compile = False,
    checkpoint: Checkpoint = None,
    resume: Resume = False,
    save: Save = None,
    test_tasks: TestTasks = 600,
) -> None:
    """N-way K-shot on invented alphabets: nothing to download, judged on alphabets not trained on."""
    with common.plain_errors():
        steps = _steps(steps, minutes, 1000)
        run = _Run(steps, minutes, meta_batch, lr, schedule, seed, device, compile, checkpoint, resume)
        parts = common.glyphs(alphabets, 28, seed=seed)
        torch.manual_seed(seed)
        model = mk.models.ConvNet(width=width, outputs=None if learner in _EMBEDS else ways)
        made = _learner(learner, model, inner_lr, inner_steps, order)
        _images(made, run, parts, (ways, shots, queries, within), save, test_tasks)


def _images(
    learner: torch.nn.Module,
    run: _Run,
    parts: Any,
    sizes: tuple[int, int, int, Within],
    save: pathlib.Path | None,
    test_tasks: int,
) -> None:
    """Train on episodes of the first part, print the scores on those of the second."""
    mk.tasks.check_disjoint(*parts)
    seen, unseen = (common.episodes(part, *sizes) for part in parts)
    run.train(learner, seen, save)
    common.print_accuracy(learner, unseen, test_tasks, "unseen characters")


def _steps(steps: int | None, minutes: float | None, default: int) -> int | None:
    return default if steps is None and minutes is None else steps


def _learner(kind: Kind, model: torch.nn.Module, inner_lr: float, inner_steps: int, order: int) -> Any:
    if kind in _EMBEDS:
        return _EMBEDS[kind](model)
    if kind is Kind.reptile:
        return mk.Reptile(model, rule=mk.SGD(inner_lr), steps=inner_steps)
    rule = mk.LearnedSGD(inner_lr) if kind is Kind.meta_sgd else mk.SGD(inner_lr)
    return mk.MAML(model, rule=rule, steps=inner_steps, order=order, adapt="head" if kind is Kind.anil else None)
