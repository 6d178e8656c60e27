"""Learning in context from a terminal: ``metakit train gp``, ``linear``, ``tables``, and the same of ``evaluate``."""

from __future__ import annotations

import csv
import dataclasses
import pathlib
from typing import Annotated, Any

import numpy as np
import typer

import metakit as mk
from metakit.cli import common
from metakit.cli.common import Device, Seed, TestTasks
from metakit.cli.judge import evaluate, loaded
from metakit.cli.train import Run, train
from metakit.recipes import in_context as recipe
from metakit.tasks.gaussian_processes import KERNELS

Kernel = Annotated[str, typer.Option(help=f"Kernel of the processes: {', '.join(KERNELS)}.")]
Features = Annotated[int, typer.Option(min=1, help="Features D of a row.")]
Noise = Annotated[float, typer.Option(min=0, help="Standard deviation of the noise on targets.")]
Sparse = Annotated[int | None, typer.Option(min=1, help="Weights that are not zero; all when left out.")]
Csv = Annotated[pathlib.Path, typer.Option(exists=True, dir_okay=False, help="A table with a line of names above.")]
Target = Annotated[str, typer.Option(help="The column that holds the class.")]
Folds = Annotated[int, typer.Option(min=2, help="Parts of the table; each is told from the others once.")]

_MISSING = ("", "?", "NA", "NaN", "nan", "null", "None")


def _run(options: dict[str, Any], test_tasks: int) -> Run:
    return Run(meta_batch=options["meta_batch"], lr=options["lr"], schedule=options["schedule"], test_tasks=test_tasks)


_GP, _LINEAR, _TABLE = (_run(options, 400) for options in (recipe.GP, recipe.LINEAR, recipe.TABLE))


@train.command()
@common.terminal
def gp(kernel: Kernel = "rbf", run: Run = _GP) -> None:
    """Gaussian processes: a transformer that answers with a distribution; judged beside exact Bayes."""
    prior = dataclasses.replace(recipe.PROCESSES, kernel=kernel)
    learner = recipe.of_functions(prior.inputs, seed=run.seed)
    _train(run, 15.0, learner, prior, recipe.GP)
    _beside(learner, mk.GridGP(prior), prior.at(prior.context_range[1]), run.test_tasks, f"{kernel} processes")


@train.command()
@common.terminal
def linear(features: Features = 5, noise: Noise = 0.0, sparse: Sparse = None, run: Run = _LINEAR) -> None:
    """Linear regression: a transformer that answers with numbers; judged beside exact Bayes."""
    prior = recipe.linear(features, noise=noise, sparse=sparse)
    learner = recipe.of_lines(prior, seed=run.seed)
    _train(run, 4.0, learner, prior, recipe.LINEAR)
    _beside(learner, mk.BayesLinear(prior), prior.at(prior.context_range[1]), run.test_tasks, f"{features} features")


@train.command()
@common.terminal
def tables(run: Run = _TABLE) -> None:
    """Tables: a classifier that reads rows; trained on invented tables alone. Use it by ``mk.TableClassifier.load``."""
    learner = recipe.of_tables(seed=run.seed)
    _train(run, 20.0, learner, recipe.TABLES, recipe.TABLE)
    common.print_scores(learner, recipe.TABLES.at(200), run.test_tasks, "invented tables of 200 rows")


@evaluate.command("gp")
@common.terminal
def judge_gp(
    context: typer.Context, kernel: Kernel = "rbf", device: Device = "auto", test_tasks: TestTasks = 400
) -> None:
    """Gaussian processes: the log score for each number of rows, and how far exact Bayes is above it."""
    prior = dataclasses.replace(recipe.PROCESSES, kernel=kernel).at(recipe.PROCESSES.context_range[1])
    _beside(loaded(context.obj, device), mk.GridGP(prior), prior, test_tasks, f"{kernel} processes")


@evaluate.command("linear")
@common.terminal
def judge_linear(
    context: typer.Context,
    features: Features = 5,
    noise: Noise = 0.0,
    sparse: Sparse = None,
    device: Device = "auto",
    test_tasks: TestTasks = 400,
) -> None:
    """Linear regression: the squared error for each number of rows, beside that of exact Bayes."""
    prior = recipe.linear(features, noise=noise, sparse=sparse)
    prior = prior.at(prior.context_range[1])
    _beside(loaded(context.obj, device), mk.BayesLinear(prior), prior, test_tasks, f"{features} features")


@evaluate.command("tables")
@common.terminal
def judge_tables(context: typer.Context, csv: Csv, target: Target, folds: Folds = 5, seed: Seed = 0) -> None:
    """A table of your own: accuracy and area under the curve, beside logistic regression on the same parts."""
    cells, classes = read_csv(csv, target)
    typer.echo(str_scores(mk.TableClassifier.load(context.obj), cells, classes, folds, seed))


def read_csv(path: pathlib.Path, target: str) -> tuple[np.ndarray, np.ndarray]:
    """Cells ``[n, D]`` as words or None, and the classes ``[n]``; rows without a class are left out.

    Raises:
        ValueError: if the file has no such column, or its lines are not equally long.
    """
    with path.open(newline="", encoding="utf-8-sig") as file:
        names, *lines = [line for line in csv.reader(file) if line] or [[]]
    if target not in names:
        raise ValueError(f"{path} has no column {target!r}. Its columns: {', '.join(names) or 'none'}.")
    for i, line in enumerate(lines):
        if len(line) != len(names):
            raise ValueError(f"row {i + 1} of {path} has {len(line)} cells, the line of names {len(names)}. Mend it.")
    at = names.index(target)
    rows = [[None if cell.strip() in _MISSING else cell.strip() for cell in line] for line in lines]
    rows = [row for row in rows if row[at] is not None]
    if len(rows) < 2 or len(names) < 2:
        raise ValueError(f"{path} needs two rows with a class at least, and a column besides {target!r}.")
    cells = np.array([[*row[:at], *row[at + 1 :]] for row in rows], dtype=object)
    return cells, np.array([row[at] for row in rows])


def str_scores(classifier: Any, cells: np.ndarray, classes: np.ndarray, folds: int, seed: int) -> str:
    """Scores of a classifier and of logistic regression by cross-validation, with their intervals over rows."""
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    names, counts = np.unique(classes, return_counts=True)
    if len(names) < 2 or counts.min() < folds:
        few = f"{names[counts.argmin()]!r} has {counts.min()}" if len(names) > 1 else f"all are {names[0]!r}"
        raise ValueError(
            f"each class needs {folds} rows, two classes at least: {few}. Take fewer --folds, or more rows."
        )
    parts = StratifiedKFold(folds, shuffle=True, random_state=seed)
    lines = [f"{len(cells)} rows, {cells.shape[1]} features, {len(names)} classes; {folds} parts"]
    lines += ["                      accuracy   95% interval        AUC"]
    for name, model in (("in context", classifier), ("logistic regression", logistic(cells))):
        chances = cross_val_predict(model, cells, classes, cv=parts, method="predict_proba")
        right = names[chances.argmax(1)] == classes
        half = 1.96 * right.std() / len(right) ** 0.5
        given = chances[:, 1] if len(names) == 2 else chances
        auc = roc_auc_score(classes, given, multi_class="ovr", labels=names)
        mean = right.mean()
        lines.append(
            f"{name:20}  {100 * mean:7.2f} %   {100 * (mean - half):.2f} to {100 * (mean + half):.2f}   {auc:.3f}"
        )
    return "\n".join(lines)


def logistic(cells: np.ndarray) -> Any:
    """Logistic regression on columns as they come: words one-hot, numbers scaled, what is missing filled up."""
    from sklearn.compose import make_column_transformer
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler

    from metakit.learners.columns import Columns

    words = [i for i, named in enumerate(Columns.of(cells).categories) if named is not None]
    others = [i for i in range(cells.shape[1]) if i not in words]
    as_numbers = FunctionTransformer(_numbers)
    return make_pipeline(
        make_column_transformer(
            (make_pipeline(FunctionTransformer(_words), OneHotEncoder(handle_unknown="ignore")), words),
            (make_pipeline(as_numbers, SimpleImputer(keep_empty_features=True), StandardScaler()), others),
        ),
        LogisticRegression(max_iter=1000),
    )


def _numbers(cells: np.ndarray) -> np.ndarray:
    return np.where(cells == None, np.nan, cells).astype(float)  # noqa: E711


def _words(cells: np.ndarray) -> np.ndarray:
    return np.where(cells == None, "missing", cells).astype(str)  # noqa: E711


def _train(run: Run, minutes: float, learner: Any, prior: Any, options: dict[str, Any]) -> None:
    """Train for so many minutes, unless it was said how long."""
    if run.steps is None and run.minutes is None:
        run = dataclasses.replace(run, minutes=minutes)
    run.train(learner, mk.tasks.Steady(prior), steps=1000, optimizer=options["optimizer"], clip=options["clip"])


def _beside(learner: Any, exact: Any, prior: Any, n_tasks: int, what: str) -> None:
    """The headline score for each number of rows, and what exact Bayes has on the same tasks."""
    place = next(learner.parameters()).device
    result = mk.evaluate(learner, prior, n_tasks=n_tasks, reference=exact.to(place), progress=True)
    apart, half = result.difference()
    assert result.reference is not None
    measure = next(each for each in result.scores if each in result.reference.scores)
    ours = result.scores[measure].mean(0)
    lines = [f"{what}, {n_tasks} tasks", f"rows  {measure!s:>9}   exact Bayes   95% interval of the difference"]
    for i, rows in enumerate(result.at):
        low, high = float(apart[i] - half[i]), float(apart[i] + half[i])
        exact_score = float(ours[i] - apart[i])
        lines.append(f"{rows:4}  {float(ours[i]):9.4f}   {exact_score:11.4f}   {low:.4f} to {high:.4f}")
    typer.echo("\n".join(lines))
