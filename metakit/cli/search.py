"""The command line of the architecture search: ``metakit search``."""

from __future__ import annotations

import enum
import pathlib
from typing import Annotated, Any

import torch
import typer

import metakit as mk


class Name(enum.StrEnum):
    """Strategies by name."""

    random = "random"
    evolution = "evolution"
    cross_entropy = "cross-entropy"
    reinforce = "reinforce"
    halving = "halving"
    optuna = "optuna"


_MADE = {
    Name.random: mk.search.Random,
    Name.evolution: mk.search.Evolution,
    Name.cross_entropy: mk.search.CrossEntropy,
    Name.reinforce: mk.search.Reinforce,
    Name.halving: mk.search.SuccessiveHalving,
    Name.optuna: mk.search.Optuna,
}


def search(
    strategy: Annotated[Name, typer.Option(help="How candidates are chosen.")] = Name.cross_entropy,
    population: Annotated[int, typer.Option(min=1, help="Candidates in a round.")] = 32,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds.")] = 10,
    steps: Annotated[int, typer.Option(min=1, help="Gradient steps of a candidate.")] = 1000,
    units: Annotated[int, typer.Option(min=1, help="Most units of a hidden layer.")] = 64,
    layers: Annotated[int, typer.Option(min=1, help="Most hidden layers.")] = 3,
    rows: Annotated[int, typer.Option(min=1, help="Rows to train on.")] = 100,
    features: Annotated[int, typer.Option(min=1, help="Features of a row.")] = 10,
    baseline: Annotated[bool, typer.Option(help="Run random search with the same budget beside it.")] = True,
    seed: Annotated[int, typer.Option(min=0, help="Seed of data, strategy and weights.")] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda, or auto for a GPU where there is one.")] = "auto",
    checkpoint: Annotated[pathlib.Path | None, typer.Option(help="File to keep the search in.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint if it is there.")] = False,
) -> None:
    """Search for the network that learns a linear task best: layers, units, activation, learning rate."""
    place = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    try:
        space, batch, test = problem(rows, features, units, layers, seed)
        options: dict[str, Any] = {"rounds": rounds, "steps": steps, "seed": seed, "test": test, "device": place}
        made = _MADE[strategy](population=population)
        result = mk.search.run(space, batch, strategy=made, checkpoint=checkpoint, resume=resume, **options)
        typer.echo(result)
        if baseline and strategy is not Name.random:
            typer.echo(mk.search.run(space, batch, strategy=mk.search.Random(population), **options))
    except (ValueError, TypeError, OSError, ImportError) as error:
        typer.echo(f"metakit: {error}", err=True)
        raise typer.Exit(1) from None


def problem(
    rows: int, features: int, units: int, layers: int, seed: int
) -> tuple[mk.search.Space, mk.TaskBatch, mk.TaskBatch]:
    """The space, a linear task with validation rows, and the same task with test rows."""
    space = mk.search.Space(
        hidden_layers=(1, layers),
        units=(1, units),
        activation=("relu", "tanh"),
        learning_rate=mk.search.log(1e-3, 1e-1),
    )
    drawn = mk.tasks.LinearRegression(rows=rows, features=features, queries=2 * rows).sample(1, seed=seed)
    sx, sy, qx, qy = drawn.tensors
    sides = [mk.TaskBatch.trusted(sx, sy, qx[:, part], qy[:, part]) for part in (slice(rows), slice(rows, None))]
    return space, sides[0], sides[1]
