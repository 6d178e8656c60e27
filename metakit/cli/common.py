"""What the commands share: options with their help, learners by name, tables of scores, errors in one sentence."""

from __future__ import annotations

import contextlib
import enum
import pathlib
from collections.abc import Iterator
from typing import Annotated, Any

import torch
import typer

import metakit as mk

Ways = Annotated[int, typer.Option(min=2, help="Classes in a task, N-way.")]
Shots = Annotated[int, typer.Option(min=1, help="Rows of a class to learn from, K-shot.")]
Points = Annotated[int, typer.Option(min=1, help="Points to learn from, K-shot.")]
Queries = Annotated[int, typer.Option(min=1, help="Rows of a class to be judged on.")]
Data = Annotated[pathlib.Path | None, typer.Option(help="Folder of the data; fetched into a cache if left out.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, or auto for a GPU where there is one.")]
TestTasks = Annotated[int, typer.Option("--test-tasks", min=2, help="Unseen tasks to judge on.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of weights and tasks.")]


class Within(enum.StrEnum):
    """Where the classes of a task come from."""

    everything = "everything"
    alphabet = "alphabet"


From = Annotated[Within, typer.Option("--within", help="Draw the classes of a task from one alphabet, or from all.")]


def episodes(data: mk.tasks.LabelledData, ways: int, shots: int, queries: int, within: Within) -> mk.tasks.Episodes:
    """N-way K-shot tasks, within an alphabet or not."""
    return mk.tasks.Episodes(data, ways, shots, queries, within="alphabet" if within is Within.alphabet else None)


def glyphs(alphabets: int, size: int, *, seed: int) -> tuple[mk.tasks.LabelledData, mk.tasks.LabelledData]:
    """Invented characters to train on, and those of ten more alphabets to be judged on."""
    data = mk.tasks.Glyphs(alphabets + 10, size=size, seed=seed)
    end = len(data) * alphabets // (alphabets + 10)
    return data.classes(range(end)), data.classes(range(end, len(data)))


def print_accuracy(learner: Any, tasks: mk.tasks.Episodes, n_tasks: int, what: str, steps: int | None = None) -> None:
    """The accuracy under either protocol; only the inductive one where there is no batch norm to tell them apart."""
    lines = [f"{tasks.ways}-way {tasks.shots}-shot, {what}, {n_tasks} tasks", "protocol       accuracy   95% interval"]
    protocols = mk.learners.PROTOCOLS if mk.learners.uses_batch_norm(learner) else ("inductive",)
    for protocol in protocols:
        result = mk.evaluate(learner, tasks, n_tasks=n_tasks, steps=steps, protocol=protocol, progress=True)
        mean, (low, high) = result.mean()[-1], (end[-1] for end in result.interval())
        lines.append(f"{protocol:12}  {100 * mean:7.2f} %   {100 * low:.2f} to {100 * high:.2f}")
    typer.echo("\n".join(lines))


def print_losses(learner: Any, tasks: Any, n_tasks: int, steps: int) -> None:
    """The query loss after some of the inner steps."""
    result = mk.evaluate(learner, tasks, n_tasks=n_tasks, steps=steps)
    typer.echo(f"Query loss on {n_tasks} unseen tasks\ninner steps   mean   95% interval")
    mean, (low, high) = result.mean(), result.interval()
    for k in sorted({0, 1, 5, steps} & set(range(len(mean))) | {len(mean) - 1}):
        typer.echo(f"{k:11d} {mean[k]:6.3f}   {low[k]:.3f} to {high[k]:.3f}")


def device_of(name: str) -> str:
    """The device of this name, if it is there."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"device {name} is not there: torch finds no GPU. Use --device cpu.")
    return name


@contextlib.contextmanager
def plain_errors() -> Iterator[None]:
    """One sentence instead of a traceback for what the user can mend."""
    try:
        yield
    except (ValueError, TypeError, OSError, ModuleNotFoundError, mk.DivergedError) as error:
        typer.echo(f"metakit: {error}", err=True)
        raise typer.Exit(1) from None
