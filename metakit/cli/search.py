"""The command line of the architecture search: ``metakit search``."""

from __future__ import annotations

import enum
from typing import Annotated, Any

import typer

import metakit as mk
from metakit.cli import common
from metakit.cli.common import Checkpoint, Device, Resume, Seed


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


@common.terminal
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
    seed: Seed = 0,
    device: Device = "auto",
    checkpoint: Checkpoint = None,
    resume: Resume = False,
) -> None:
    """Search for the network that learns a linear task best: layers, units, activation, learning rate."""
    space, batch, test = problem(rows, features, units, layers, seed)
    options: dict[str, Any] = {"rounds": rounds, "steps": steps, "seed": seed, "test": test}
    options["device"] = common.device_of(device)
    made = _MADE[strategy](population=population)
    typer.echo(mk.search.run(space, batch, strategy=made, checkpoint=checkpoint, resume=resume, **options))
    if baseline and strategy is not Name.random:
        typer.echo(mk.search.run(space, batch, strategy=mk.search.Random(population), **options))


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
