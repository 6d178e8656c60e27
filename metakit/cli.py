"""The command line: meta-train on a known problem and print its scores."""

from __future__ import annotations

import contextlib
import enum
import pathlib
from collections.abc import Iterator
from typing import Annotated, Any

import torch
import typer

import metakit as mk

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Learn how machines learn to learn.")
train = typer.Typer(no_args_is_help=True, help="Meta-train a learner and print its scores on unseen tasks.")
app.add_typer(train, name="train")

Outer = Annotated[int, typer.Option("--steps", min=1, help="Outer steps.")]
MetaBatch = Annotated[int, typer.Option(min=1, help="Tasks T in an outer step.")]
InnerLr = Annotated[float, typer.Option(help="Inner learning rate.")]
InnerSteps = Annotated[int, typer.Option(min=0, help="Inner steps K.")]
Order = Annotated[int, typer.Option(min=1, max=2, help="2: exact meta-gradient; 1: first order.")]
Lr = Annotated[float | None, typer.Option(help="Outer learning rate; by the kind of learner when left out.")]
Seed = Annotated[int, typer.Option(help="Seed of weights and tasks.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, or auto for a GPU where there is one.")]
Compile = Annotated[bool, typer.Option("--compile", help="Compile the outer step.")]
Checkpoint = Annotated[pathlib.Path | None, typer.Option(help="File to keep the run in.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint if it is there.")]
Data = Annotated[pathlib.Path | None, typer.Option(help="Folder of the data; fetched into a cache if left out.")]
Tasks = Annotated[int, typer.Option("--test-tasks", min=2, help="Unseen tasks to judge on.")]


class Kind(enum.StrEnum):
    """Learners by name."""

    maml = "maml"
    meta_sgd = "meta-sgd"
    anil = "anil"
    reptile = "reptile"
    protonet = "protonet"


Learner = Annotated[Kind, typer.Option(help="Which learner to train.")]


@train.command()
def sinusoid(
    learner: Learner = Kind.maml,
    shots: Annotated[int, typer.Option(min=1, help="Points to learn from, K-shot.")] = 10,
    steps: Outer = 10_000,
    meta_batch: MetaBatch = 25,
    inner_lr: InnerLr = 0.01,
    inner_steps: InnerSteps = 1,
    order: Order = 2,
    lr: Lr = None,
    seed: Seed = 0,
    device: Device = "auto",
    compile: Compile = False,
    checkpoint: Checkpoint = None,
    resume: Resume = False,
    test_tasks: Tasks = 600,
) -> None:
    """Sinusoid regression: the first experiment of Finn et al. 2017."""
    with _plain_errors():
        torch.manual_seed(seed)
        tasks = mk.tasks.Sinusoids(shots=shots, queries=10)
        made = _learner(learner, mk.models.MLP(1, [40, 40], 1), inner_lr, inner_steps, order)
        options: dict[str, Any] = {"steps": steps, "meta_batch": meta_batch, "lr": lr, "seed": seed, "compile": compile}
        history = mk.fit(made, tasks, device=_device(device), checkpoint=checkpoint, resume=resume, **options)
        _report(history)
        _table(mk.evaluate(made, tasks, n_tasks=test_tasks, steps=max(10, inner_steps)), (0, 1, 5, 10))


@train.command()
def omniglot(
    learner: Learner = Kind.protonet,
    ways: Annotated[int, typer.Option(min=2, help="Classes in a task, N-way.")] = 5,
    shots: Annotated[int, typer.Option(min=1, help="Drawings of a class to learn from, K-shot.")] = 1,
    queries: Annotated[int, typer.Option(min=1, help="Drawings of a class to be judged on.")] = 15,
    data: Data = None,
    width: Annotated[int, typer.Option(min=1, help="Channels of each block of the network.")] = 64,
    steps: Outer = 1_000,
    meta_batch: MetaBatch = 4,
    inner_lr: InnerLr = 0.4,
    inner_steps: InnerSteps = 1,
    order: Order = 2,
    lr: Lr = None,
    seed: Seed = 0,
    device: Device = "auto",
    compile: Compile = False,
    checkpoint: Checkpoint = None,
    resume: Resume = False,
    test_tasks: Tasks = 600,
) -> None:
    """N-way K-shot handwriting: trained on 1,028 characters of Omniglot and their rotations, judged on 423 others."""
    with _plain_errors():
        torch.manual_seed(seed)
        parts = {part: mk.tasks.omniglot(data, split=part, rotations=True) for part in ("train", "test")}
        tasks = {part: mk.tasks.Episodes(images, ways, shots, queries) for part, images in parts.items()}
        outputs = None if learner is Kind.protonet else ways
        made = _learner(learner, mk.models.ConvNet(width=width, outputs=outputs), inner_lr, inner_steps, order)
        options: dict[str, Any] = {"steps": steps, "meta_batch": meta_batch, "lr": lr, "seed": seed, "compile": compile}
        history = mk.fit(made, tasks["train"], device=_device(device), checkpoint=checkpoint, resume=resume, **options)
        _report(history)
        for protocol in mk.learners.PROTOCOLS:
            result = mk.evaluate(made, tasks["test"], n_tasks=test_tasks, protocol=protocol, progress=True)
            typer.echo(f"{ways}-way {shots}-shot, unseen characters: {result}")


def _learner(kind: Kind, model: torch.nn.Module, inner_lr: float, inner_steps: int, order: int) -> Any:
    if kind is Kind.protonet:
        return mk.ProtoNet(model)
    if kind is Kind.reptile:
        return mk.Reptile(model, rule=mk.SGD(inner_lr), steps=inner_steps)
    rule = mk.LearnedSGD(inner_lr) if kind is Kind.meta_sgd else mk.SGD(inner_lr)
    return mk.MAML(model, rule=rule, steps=inner_steps, order=order, adapt="head" if kind is Kind.anil else None)


def _device(name: str) -> str:
    return ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name


def _report(history: mk.History) -> None:
    rate = history.steps / max(history.seconds, 1e-9)
    typer.echo(f"{history.steps} outer steps in {history.seconds:.0f} s ({rate:.0f} a second): {history.ended}.")


def _table(result: mk.Evaluation, steps: tuple[int, ...]) -> None:
    typer.echo(f"Query loss on {len(result.loss)} unseen tasks:\ninner steps   mean   95% interval")
    mean, (low, high) = result.mean(), result.interval()
    for k in steps:
        typer.echo(f"{k:11d} {mean[k]:6.3f}   {low[k]:.3f} to {high[k]:.3f}")


@contextlib.contextmanager
def _plain_errors() -> Iterator[None]:
    """One sentence instead of a traceback for what the user can mend."""
    try:
        yield
    except (ValueError, TypeError, OSError, mk.DivergedError) as error:
        typer.echo(f"metakit: {error}", err=True)
        raise typer.Exit(1) from None
