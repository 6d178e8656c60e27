"""What the commands share: options with their help, tables of scores, errors in one sentence."""

from __future__ import annotations

import dataclasses
import enum
import functools
import inspect
import pathlib
from collections.abc import Callable
from typing import Annotated, Any, get_type_hints

import torch
import typer

import metakit as mk
from metakit.contracts import Company

Ways = Annotated[int, typer.Option(min=2, help="Classes in a task, N-way.")]
Shots = Annotated[int, typer.Option(min=1, help="Rows of a class to learn from, K-shot.")]
Points = Annotated[int, typer.Option(min=1, help="Points to learn from, K-shot.")]
Queries = Annotated[int, typer.Option(min=1, help="Rows of a class to be judged on.")]
Data = Annotated[pathlib.Path | None, typer.Option(help="Folder of the data; fetched into a cache if left out.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, or auto for a GPU where there is one.")]
Seed = Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Seed of all that is drawn.")]
TestTasks = Annotated[int, typer.Option("--test-tasks", min=2, help="Unseen tasks to judge on.")]
Checkpoint = Annotated[pathlib.Path | None, typer.Option(dir_okay=False, help="File to keep the run in.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint if it is there.")]


class Within(enum.StrEnum):
    """Where the classes of a task come from."""

    everything = "everything"
    alphabet = "alphabet"


From = Annotated[Within, typer.Option("--within", help="Draw the classes of a task from one alphabet, or from all.")]


@dataclasses.dataclass(frozen=True)
class Classes:
    """N-way K-shot tasks, as they were asked for."""

    ways: Ways = 5
    shots: Shots = 1
    queries: Queries = 15
    within: From = Within.everything

    def __str__(self) -> str:
        return f"{self.ways}-way {self.shots}-shot"

    def episodes(self, data: mk.tasks.LabelledData, *, augment: mk.tasks.Augment | None = None) -> mk.tasks.Episodes:
        """Such tasks from these data."""
        within = "alphabet" if self.within is Within.alphabet else None
        return mk.tasks.Episodes(data, self.ways, self.shots, self.queries, within=within, augment=augment)


CLASSES = Classes()


def glyphs(alphabets: int, size: int, *, seed: int) -> tuple[mk.tasks.LabelledData, mk.tasks.LabelledData]:
    """Invented characters to train on, and those of ten more alphabets to be judged on."""
    data = mk.tasks.Glyphs(alphabets + 10, size=size, seed=seed)
    end = len(data) * alphabets // (alphabets + 10)
    return data.classes(range(end)), data.classes(range(end, len(data)))


def print_scores(learner: Any, tasks: Any, n_tasks: int, what: str, steps: int | None = None) -> None:
    """The headline score on unseen tasks: a share under either protocol, where they differ; else stage by stage."""
    together = isinstance(learner, Company) and learner.answers_together
    protocols = mk.learners.PROTOCOLS if together else ("inductive",)
    options: dict[str, Any] = {"n_tasks": n_tasks, "steps": steps, "progress": True}
    try:
        results = {name: mk.evaluate(learner, tasks, protocol=name, **options) for name in protocols}
    except RuntimeError as error:  # of a network that does not say which rows it takes
        reason = str(error).partition("\n")[0].rstrip(".")
        raise ValueError(
            f"this {type(learner).__name__} cannot answer {what}: {reason}. Judge it on others."
        ) from error
    first = results[protocols[0]]
    if first.measure.percent:
        rows = [(f"{name:12}", result, len(result.at) - 1) for name, result in results.items()]
        lines = [f"protocol       {first.measure!s:8}   95% interval"]
    else:
        width, last = len(first.axis), len(first.at) - 1
        rows = [(f"{at:{width}}", first, i) for i, at in enumerate(first.at) if at in (0, 1, 5) or i == last]
        lines = [f"{first.axis}   {first.measure!s:4}   95% interval"]
    for name, result, stage in rows:
        mean, low, high = (float(numbers[stage]) for numbers in (result.mean(), *result.interval()))
        if first.measure.percent:
            lines.append(f"{name}  {100 * mean:7.2f} %   {100 * low:.2f} to {100 * high:.2f}")
        else:
            lines.append(f"{name} {mean:6.3f}   {low:.3f} to {high:.3f}")
    typer.echo("\n".join([f"{what}, {n_tasks} tasks", *lines]))


def keep(module: torch.nn.Module, path: pathlib.Path, what: str = "learner") -> None:
    """Save what was learned, and tell where it is."""
    mk.save(module, path)
    typer.echo(f"The {what} is in {path}: {path.stat().st_size / 1e6:.2f} MB.")


def device_of(name: str) -> str:
    """The device of this name, if it is there."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=name).item()
    except (RuntimeError, AssertionError):  # the second from a torch that was built for none
        raise ValueError(f"device {name} is not there: torch finds no GPU of this name. Use --device cpu.") from None
    return name


def terminal(command: Callable[..., None]) -> Callable[..., None]:
    """A function as a command: each field of a dataclass that it takes is an option, and errors are one sentence.

    The exit status is 2 where the words were at fault, and 1 where something else was.
    """
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, Any] = {}
    options: dict[str, tuple[Any, Any]] = {}
    for name, parameter in inspect.signature(command).parameters.items():
        kind, default = hints[name], parameter.default
        if dataclasses.is_dataclass(kind):
            groups[name], fields = kind, get_type_hints(kind, include_extras=True)
            options |= {field: (hint, getattr(default, field)) for field, hint in fields.items()}
        else:
            options[name] = kind, default

    @functools.wraps(command)
    def run(**words: Any) -> None:
        for name, kind in groups.items():
            words[name] = kind(**{field.name: words.pop(field.name) for field in dataclasses.fields(kind)})
        try:
            command(**words)
        except (ValueError, TypeError, OSError, ImportError, mk.DivergedError) as error:
            typer.echo(f"metakit: {error}", err=True)
            raise typer.Exit(2 if isinstance(error, ValueError | TypeError | FileNotFoundError) else 1) from None

    run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hint)
            for name, (hint, default) in options.items()
        ]
    )
    return run
