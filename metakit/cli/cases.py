"""Real work from a terminal: train and evaluate ``language``, ``medicine``, ``hyperparameters``, ``finance``."""

from __future__ import annotations

import csv
import json
import pathlib
from collections.abc import Iterable
from typing import Annotated, Any

import torch
import typer

import metakit as mk
from metakit.cli import common
from metakit.cli.common import Data, Seed
from metakit.cli.judge import evaluate, loaded
from metakit.cli.train import Save, train
from metakit.data.labelled import LabelledData
from metakit.recipes import finance as spreads
from metakit.recipes import hyperparameters as search
from metakit.recipes import language as intents
from metakit.recipes import medicine as hearts
from metakit.tasks.volatility import MARKETS

Download = Annotated[bool, typer.Option("--download", help="Fetch data that are missing.")]
Draws = Annotated[int, typer.Option(min=2, help="Draws of examples to judge on.")]
Trials = Annotated[int, typer.Option(min=1, help="Settings to try on a data set.")]
Texts = Annotated[
    pathlib.Path | None,
    typer.Option(exists=True, dir_okay=False, help="Your own texts, lines text,label below a line of names."),
]
Tables = Annotated[
    pathlib.Path | None,
    typer.Option(
        exists=True, dir_okay=False, help="Your own trials: dataset, score, and the setting, with names above."
    ),
]
Named = Annotated[list[str] | None, typer.Option(help="A name; may be given more than once.")]

_SHOTS = (1, 5, 10)


@train.command()
@common.terminal
def language(
    texts: Texts = None,
    steps: Annotated[int, typer.Option(min=1, help="Outer steps.")] = 300,
    seed: Seed = 0,
    data: Data = None,
    download: Download = False,
    save: Save = None,
) -> None:
    """Intents of questions: learn from CLINC150's, or from texts of your own, what counts in a question."""
    known = _texts(texts) if texts else mk.tasks.texts(*mk.tasks.clinc150(root=data, download=download))
    learner, history = intents.train(known, steps=steps, seed=seed)
    typer.echo(f"{history.steps} outer steps on {len(known)} intents in {history.seconds:.0f} s.")
    if save is not None:
        common.keep(learner, save)


@evaluate.command("language")
@common.terminal
def judge_language(
    context: typer.Context,
    texts: Texts = None,
    draws: Draws = 10,
    seed: Seed = 0,
    data: Data = None,
    download: Download = False,
) -> None:
    """New intents from 1, 5 and 10 examples each: BANKING77's, or those of your own texts, half of which are asked."""
    learner = loaded(context.obj, "cpu")
    if not isinstance(getattr(learner, "embedding", None), mk.models.Gains):
        raise ValueError(f"{context.obj} holds no learner of texts. Make one by: metakit train language --save FILE.")
    if texts:
        known, asked = _halves(_texts(texts), seed)
    else:
        known, asked = (
            mk.tasks.texts(*mk.tasks.banking77(part, root=data, download=download)) for part in ("train", "test")
        )
    rivals = {
        "learned gains": intents.Logistic(learner.embedding),
        "logistic regression": intents.Logistic(),
        "nearest centroid": intents.nearest_centroid(),
    }
    shots = [few for few in _SHOTS if few <= int(known.counts.min())]
    rows = {
        name: [100 * intents.told(rival, known, asked, few, draws=draws, seed=seed) for few in shots]
        for name, rival in rivals.items()
    }
    typer.echo(f"{len(known)} intents, {len(asked.rows)} questions, {draws} draws of examples: accuracy in %")
    typer.echo(_table("examples", shots, rows))


@train.command()
@common.terminal
def medicine(
    without: Named = None, seed: Seed = 0, data: Data = None, download: Download = False, save: Save = None
) -> None:
    """Heart disease: learn from all hospitals but those named by --without where a new one shall start from."""
    hospitals = mk.tasks.hospitals(root=data, download=download)
    _check(without or (), hospitals, "hospital")
    learner = hearts.train({name: found for name, found in hospitals.items() if name not in (without or ())}, seed=seed)
    typer.echo(f"strength of the draw to the start: {learner.strength:g}; of the intercept: {learner.intercept:g}")
    if save is not None:
        common.keep(learner, save)


@evaluate.command("medicine")
@common.terminal
def judge_medicine(
    context: typer.Context,
    hospital: Annotated[str, typer.Option(help="The hospital that was left out.")],
    draws: Draws = 20,
    seed: Seed = 0,
    data: Data = None,
    download: Download = False,
) -> None:
    """Heart disease at one hospital from 5, 10 and 20 of its patients, beside what is used today."""
    hospitals = mk.tasks.hospitals(root=data, download=download)
    _check([hospital], hospitals, "hospital")
    learner: Any = loaded(context.obj, "cpu")
    if not isinstance(learner, mk.Logistic):
        raise ValueError(f"{context.obj} holds no such learner. Make one by: metakit train medicine --save FILE.")
    others = {name: found for name, found in hospitals.items() if name != hospital}
    judged = {
        name: [hearts.judged(tell, hospitals[hospital], few, draws=draws, seed=seed) for few in hearts.PATIENTS]
        for name, tell in hearts.contenders(others, learner).items()
    }
    for words, field in (
        ("accuracy", "accuracy"),
        ("area under the curve", "auc"),
        ("calibration error", "calibration"),
    ):
        typer.echo(f"{hospital}, {draws} draws of patients: {words} in %")
        rows = {name: [100 * getattr(each, field) for each in scores] for name, scores in judged.items()}
        typer.echo(_table("patients", hearts.PATIENTS, rows))


@train.command()
@common.terminal
def hyperparameters(
    tables: Tables = None,
    without: Named = None,
    first: Annotated[int, typer.Option(min=1, help="Starting trials to print.")] = 5,
    data: Data = None,
    download: Download = False,
    save: Save = None,
) -> None:
    """Settings to try first: learn from 50 data sets of an SVM, or from trials of your own; print starting trials."""
    known = _trials(tables, data, download)
    known = known.without(*without) if without else known
    learner = search.learner(known)
    typer.echo(f"learned from {len(known)} data sets x {len(known.settings)} settings; to begin with:")
    for trial in search.starting_trials(known, first):
        typer.echo(json.dumps(trial))
    if save is not None:
        common.keep(learner, save)


@evaluate.command("hyperparameters")
@common.terminal
def judge_hyperparameters(
    context: typer.Context,
    on: Named = None,
    tables: Tables = None,
    trials: Trials = 20,
    seed: Seed = 0,
    data: Data = None,
    download: Download = False,
) -> None:
    """The race on data sets that were left out (--on): normalised regret in % after 1, 5, 10, 20 trials."""
    learner: Any = loaded(context.obj, "cpu")
    if not isinstance(learner, mk.EmpiricalGP):
        raise ValueError(
            f"{context.obj} holds no learner of settings. Make one: metakit train hyperparameters --save FILE."
        )
    known = _trials(tables, data, download)
    raced = known.only(*(on or known.names))
    seen = [name for name in raced.names if learner.learned_from(raced.only(name).scores[0])]
    if seen:
        raise ValueError(
            f"the learner learned from {', '.join(seen[:3])}. Race --on those that train left out --without."
        )
    others = known.without(*raced.names)
    at = [trial for trial in (1, 5, 10, 20) if trial <= min(trials, len(known.settings))]
    orders: dict[str, Any] = {
        "learned prior": lambda name: search.race(learner, raced, name, trials),
        "greedy portfolio": lambda name: search.portfolio(others, trials),
        "mean rank": lambda name: search.by_mean_rank(others, trials),
        "random": lambda name: search.random_order(others, trials, seed=seed),
    }
    regrets = {
        who: torch.stack([search.regret(raced, name, order(name)) for name in raced.names])
        for who, order in orders.items()
    }
    typer.echo(f"{len(raced)} data sets: normalised regret in %")
    typer.echo(_table("trials", at, {who: [regret[:, t - 1] for t in at] for who, regret in regrets.items()}))


@train.command()
@common.terminal
def finance(
    without: Named = None,
    before: Annotated[str, typer.Option(help="Learn from days before this one, as 2011-01-01.")] = "2011-01-01",
    steps: Annotated[int, typer.Option(min=1, help="Outer steps.")] = 500,
    seed: Seed = 0,
    save: Save = None,
) -> None:
    """Tomorrow's spread: learn from the markets (sp500, nasdaq, wti) that are not named by --without."""
    _check(without or (), MARKETS, "market")
    series = mk.tasks.markets([name for name in MARKETS if name not in (without or ())])
    learner, history = spreads.train([each.between("1900-01-01", before) for each in series], steps=steps, seed=seed)
    typer.echo(f"{history.steps} outer steps on {len(series)} markets in {history.seconds:.0f} s.")
    if save is not None:
        common.keep(learner, save)


@evaluate.command("finance")
@common.terminal
def judge_finance(
    context: typer.Context,
    market: Annotated[str, typer.Option(help="The market that was left out.")],
    after: Annotated[str, typer.Option(help="Judge on days from this one on.")] = "2011-01-01",
) -> None:
    """Tomorrow's spread on one market: log loss in nats a day, beside GARCH(1,1) and a running mean."""
    _check([market], MARKETS, "market")
    learner: Any = loaded(context.obj, "cpu")
    if not isinstance(learner, mk.MAML):
        raise ValueError(f"{context.obj} holds no such learner. Make one by: metakit train finance --save FILE.")
    series = {each.name: each for each in mk.tasks.markets()}
    others = [each.between("1900-01-01", after) for name, each in series.items() if name != market]
    windows = mk.tasks.MarketWindows([series[market].between(after, "2100-01-01")]).in_turn()
    losses = spreads.contenders(others, learner, windows)
    typer.echo(f"{market} from {after} on, {len(windows)} windows of 20 days: log loss in nats a day; adapted ahead")
    typer.echo(
        _table("", ["log loss", "ahead"], {who: [loss, loss - losses["adapted"]] for who, loss in losses.items()}, 3)
    )


def _table(what: str, at: Iterable[Any], rows: dict[str, list[Any]], digits: int = 2) -> str:
    """Means with half their 95% intervals over draws, data sets or windows."""
    wide = 2 + max(map(len, (what, *rows)))
    lines = [f"{what:{wide}}" + "".join(f"{each:>17}" for each in at)]
    for name, cells in rows.items():
        shown = []
        for cell in cells:
            half = f"{1.96 * float(cell.std()) / len(cell) ** 0.5:.{digits}f}" if len(cell) > 1 else "?"
            shown.append(f"{float(cell.mean()):8.{digits}f} +- {half:>5}")
        lines.append(f"{name:{wide}}" + "".join(f"{cell:>17}" for cell in shown))
    return "\n".join(lines)


def _check(names: Iterable[str], known: Iterable[str], what: str) -> None:
    for name in names:
        if name not in known:
            raise ValueError(f"no {what} is called {name!r}. They are: {', '.join(known)}.")


def _texts(path: pathlib.Path) -> LabelledData:
    rows = _rows(path, ("text", "label"))
    return mk.tasks.texts([row["text"] for row in rows], [row["label"] for row in rows])


def _halves(data: LabelledData, seed: int) -> tuple[LabelledData, LabelledData]:
    """Every second text of each intent, after they were shuffled, to learn from; the others to be asked."""
    few = [name for name, count in zip(data.names, data.counts.tolist(), strict=True) if count < 2]
    if few:
        raise ValueError(
            f"each intent needs two texts, one to learn from and one to ask; {few[0]!r} has one. Add some."
        )
    generator = torch.Generator().manual_seed(seed)
    parts: tuple[list[Any], list[Any]] = ([], [])
    for i in range(len(data)):
        rows = data[i][torch.randperm(len(data[i]), generator=generator)]
        for part, some in zip(parts, (rows[::2], rows[1::2]), strict=True):
            part.append(some)
    known, asked = (
        LabelledData(
            torch.cat(part),
            torch.arange(len(part)).repeat_interleave(torch.tensor(list(map(len, part)))),
            names=data.names,
        )
        for part in parts
    )
    return known, asked


def _trials(path: pathlib.Path | None, data: pathlib.Path | None, download: bool) -> mk.tasks.TrialTables:
    if path is None:
        return mk.tasks.svm_trials(root=data, download=download)
    return mk.tasks.TrialTables.of(
        [{k: _number(v) for k, v in row.items() if v} for row in _rows(path, ("dataset", "score"))]
    )


def _rows(path: pathlib.Path, names: tuple[str, ...]) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    given = reader.fieldnames or ()
    if missing := [name for name in names if name not in given]:
        raise ValueError(f"{path} has no column {missing[0]!r}. Its columns: {', '.join(given) or 'none'}.")
    for i, row in enumerate(rows):
        if None in row or None in row.values() or not all(row[name] for name in names):
            raise ValueError(
                f"row {i + 1} of {path} has no {' or no '.join(names)}, or not as many cells as the names. Mend it."
            )
    if not rows:
        raise ValueError(f"{path} has no rows below its names. Add some.")
    return rows


def _number(word: str) -> Any:
    """A cell as a number, if it is one."""
    for kind in (int, float):
        try:
            return kind(word)
        except ValueError:
            continue
    return word
