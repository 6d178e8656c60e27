"""``metakit evaluate``: the scores of a learner that was kept in a file."""

from __future__ import annotations

import pathlib
from typing import Annotated, Any

import typer

import metakit as mk
from metakit.cli import common
from metakit.cli.common import CLASSES, Classes, Data, Device, Points, Seed, TestTasks

evaluate = typer.Typer(no_args_is_help=True, help="Print the scores of a saved learner on unseen tasks.")

Steps = Annotated[int | None, typer.Option("--inner-steps", min=0, help="Inner steps K; its own number if left out.")]
Split = Annotated[str, typer.Option(help="train, val, test (with rotations), background, evaluation, small1, small2.")]
Model = typer.Argument(dir_okay=False, help="The file that train --save, or mk.save, wrote.")


@evaluate.callback()
def _(context: typer.Context, model: Annotated[pathlib.Path, Model]) -> None:
    context.obj = model


@evaluate.command()
@common.terminal
def omniglot(
    context: typer.Context,
    classes: Classes = CLASSES,
    split: Split = "test",
    data: Data = None,
    inner_steps: Steps = None,
    device: Device = "auto",
    test_tasks: TestTasks = 600,
) -> None:
    """N-way K-shot on the drawings of a part of Omniglot."""
    learner = loaded(context.obj, device)
    turned = split in ("train", "val", "test")
    drawings = mk.tasks.omniglot(data, split=split, size=_size(learner), rotations=turned)
    common.print_scores(learner, classes.episodes(drawings), test_tasks, f"{classes}, Omniglot {split}", inner_steps)


@evaluate.command()
@common.terminal
def glyphs(
    context: typer.Context,
    classes: Classes = CLASSES,
    alphabets: Annotated[int, typer.Option(min=1, help="Alphabets it was trained on; ten more are invented.")] = 50,
    seed: Seed = 0,
    inner_steps: Steps = None,
    device: Device = "auto",
    test_tasks: TestTasks = 600,
) -> None:
    """N-way K-shot on invented alphabets: the ten after those that ``train glyphs`` trains on, by its seed."""
    learner = loaded(context.obj, device)
    _, unseen = common.glyphs(alphabets, _size(learner), seed=seed)
    common.print_scores(learner, classes.episodes(unseen), test_tasks, f"{classes}, invented characters", inner_steps)


@evaluate.command()
@common.terminal
def sinusoid(
    context: typer.Context,
    shots: Points = 10,
    inner_steps: Annotated[int, typer.Option(min=0, help="Inner steps K.")] = 10,
    device: Device = "auto",
    test_tasks: TestTasks = 600,
) -> None:
    """Sinusoid regression."""
    tasks = mk.tasks.Sinusoids(shots=shots, queries=10)
    common.print_scores(loaded(context.obj, device), tasks, test_tasks, f"{shots}-point sinusoids", inner_steps)


def loaded(path: pathlib.Path, device: str) -> Any:
    """The learner in a file, ready to be judged."""
    return mk.load(path).to(common.device_of(device)).eval()


def _size(learner: Any) -> int:
    """Height and width of the pictures that its network takes; 28 for one that takes any, or none."""
    shapes = (getattr(module, "row_shape", None) for module in learner.modules())
    return next((shape[-1] for shape in shapes if shape is not None and len(shape) == 3), 28)
