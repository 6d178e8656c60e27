"""Four honest cases, each beside what is used today: new intents, a new hospital, a market, settings of an SVM.

    python benchmarks/applications.py [--parts language medicine hyperparameters finance] [--quick]

Data from the folder that METAKIT_DATA names, or downloaded. Protocols:

- language: gains are learned on CLINC150's 150 intents (15,000 questions), in 300 episodes; judged on BANKING77:
  examples are drawn from its training part, all 3,080 questions of its test part are asked, 77 intents at once or 5
  drawn anew. Nothing of BANKING77 is seen before; of CLINC150 nothing is left out, its 30 intents of banks and cards
  included.
- medicine: learn from three hospitals, adapt to the fourth with some of its patients, at least one with the disease and
  one without, and be judged on all its others; every hospital in turn; scaling and strengths come from the three alone.
- finance: tell the spread of the next day's return; learn from two markets before 2011, be judged on the third from
  then on, after 60 of its days; its unit is that of the first 20, the other 40 are
  adapted or fitted to. Package ``arch``.
- hyperparameters: leave one of 50 data sets out, and try settings on it one after the other; normalised regret.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import measure
import torch
import worker

import metakit as mk
from metakit.recipes import finance, hyperparameters, language, medicine

SHOTS, AT, NATS = (1, 5, 10), (1, 5, 10, 20), ("log loss", "adapted ahead")
Cell = list[float]  # a mean, and half its 95% interval


def cell(values: torch.Tensor) -> Cell:
    """Mean and half its interval over draws or data sets."""
    values = values.double()
    return [float(values.mean()), 1.96 * float(values.std()) / len(values) ** 0.5]


def intents(quick: bool) -> list[dict[str, Any]]:
    """Accuracy in % for 1, 5 and 10 examples; the same draws for all, and the difference to the learned in pairs."""
    began = time.perf_counter()
    learner, _ = language.train(mk.tasks.texts(*mk.tasks.clinc150()), seed=0)
    seconds = time.perf_counter() - began
    known, asked = (mk.tasks.texts(*mk.tasks.banking77(part)) for part in ("train", "test"))
    counted = language.start(mk.tasks.texts(*mk.tasks.clinc150())).embedding
    contenders = {
        "learned gains, then logistic regression": language.Logistic(learner.embedding),
        "counted gains (no training), then logistic regression": language.Logistic(counted),
        "learned gains, nearest centroid": learner,
        "logistic regression": language.Logistic(),
        "nearest centroid": language.nearest_centroid(),
    }
    rows = []
    for ways, draws in ((None, 2 if quick else 10), (5, 10 if quick else 200)):
        for shots in SHOTS:
            right = {
                name: 100 * language.told(contender, known, asked, shots, draws=draws, ways=ways)
                for name, contender in contenders.items()
            }
            ours = next(iter(right.values()))
            rows += [
                {
                    "part": "language",
                    "problem": f"{ways or 77}-way",
                    "at": shots,
                    "contender": name,
                    "accuracy": cell(values),
                    "learned ahead": cell(ours - values),
                    "seconds to train": seconds,
                }
                for name, values in right.items()
            ]
    return rows


def hearts(quick: bool) -> list[dict[str, Any]]:
    """Accuracy, AUC and calibration error in %, and log loss, for each hospital and number of patients."""
    hospitals, rows = mk.tasks.hospitals(), []
    for name, hospital in hospitals.items():
        others = {other: found for other, found in hospitals.items() if other != name}
        learner = medicine.train(others)
        for contender, tell in medicine.contenders(others, learner).items():
            for few in medicine.PATIENTS:
                scores = medicine.judged(tell, hospital, few, draws=4 if quick else 20)
                found = {"accuracy": 100 * scores.accuracy, "AUC": 100 * scores.auc}
                found |= {"calibration error": 100 * scores.calibration, "log loss": scores.log_loss}
                row = {"part": "medicine", "problem": name, "at": few, "contender": contender}
                rows.append(row | {key: cell(values) for key, values in found.items()})
    return rows


def settings(quick: bool) -> list[dict[str, Any]]:
    """Normalised regret in % after 1, 5, 10 and 20 trials, over the data sets left out; random is the mean of 20."""
    tables = mk.tasks.svm_trials()
    found: dict[str, list[torch.Tensor]] = {}
    for i, name in enumerate(tables.names[:6] if quick else tables.names):
        for contender, order in hyperparameters.compared(tables, name).items():
            regret = hyperparameters.regret(tables, name, order)
            if contender == "random":
                orders = [hyperparameters.random_order(tables, seed=20 * i + seed) for seed in range(20)]
                regret = torch.stack([hyperparameters.regret(tables, name, order) for order in orders]).mean(0)
            found.setdefault(contender, []).append(regret)
    ours = torch.stack(found["learned prior"])
    return [
        {
            "part": "hyperparameters",
            "problem": "50 data sets, 288 settings",
            "at": trials,
            "contender": contender,
            "regret": cell(torch.stack(regrets)[:, trials - 1]),
            "learned ahead": cell((torch.stack(regrets) - ours)[:, trials - 1]),
        }
        for contender, regrets in found.items()
        for trials in AT
    ]


def spreads(quick: bool) -> list[dict[str, Any]]:
    """Log loss in nats a day on each market from 2011 on, learned from the others before; the difference in pairs."""
    series, rows = {each.name: each for each in mk.tasks.markets()}, []
    for name, market in series.items():
        others = [each.between("1900-01-01", "2011-01-01") for other, each in series.items() if other != name]
        learner, _ = finance.train(others, steps=50 if quick else 500)
        windows = mk.tasks.MarketWindows([market.between("2011-01-01", "2100-01-01")]).in_turn()
        losses = finance.contenders(others, learner, windows)
        rows += [
            {
                "part": "finance",
                "problem": f"{name}, {len(windows)} windows",
                "at": 60,
                "contender": contender,
                "log loss": cell(loss),
                "adapted ahead": cell(loss - losses["adapted"]),
            }
            for contender, loss in losses.items()
        ]
    return rows


PARTS = {"language": intents, "medicine": hearts, "hyperparameters": settings, "finance": spreads}
TITLES = {
    "language": "Accuracy in % on BANKING77, from so many examples an intent; intervals over draws of examples. "
    "Published, 77-way, with large pretrained encoders: 76 to 84 (5 examples), 85 to 90 (10).",
    "medicine": "Each hospital in turn, from so many of its patients; intervals over draws of patients. Four hospitals "
    "are four tasks: no interval over them is given. Published, trained on all four: 73.5% pooled, 73.1 federated.",
    "finance": "Nats a day, after 60 days of history; intervals over windows, which hang together: rather too narrow.",
    "hyperparameters": "Normalised regret in % after so many trials on a data set left out; intervals over data sets.",
}


def shown(found: Cell, digits: int = 1) -> str:
    """Mean and interval."""
    return f"{found[0]:.{digits}f} +- {found[1]:.{digits}f}"


def text(results: list[dict[str, Any]]) -> str:
    """A table for each part."""
    parts = []
    for part, title in TITLES.items():
        rows = [row for row in results if row["part"] == part]
        if not rows:
            continue
        measures = [key for key, value in rows[0].items() if isinstance(value, list)]
        body = [
            [
                row["problem"],
                row["at"],
                row["contender"],
                *(shown(row[key], 3 if key in NATS else 1) for key in measures),
            ]
            for row in rows
        ]
        parts.append(f"## {part}\n\n{title}\n\n{measure.table(('', 'at', 'contender', *measures), body)}")
        if part == "medicine":
            parts.append(f"Mean over the four hospitals:\n\n{_over_hospitals(rows, measures)}")
    return "\n\n".join(parts)


def _over_hospitals(rows: list[dict[str, Any]], measures: list[str]) -> str:
    body = []
    for few in medicine.PATIENTS:
        for contender in dict.fromkeys(row["contender"] for row in rows):
            some = [row for row in rows if row["at"] == few and row["contender"] == contender]
            means = [sum(row[key][0] for row in some) / len(some) for key in measures]
            body.append(
                [
                    few,
                    contender,
                    *(f"{mean:.{3 if key in NATS else 1}f}" for key, mean in zip(measures, means, strict=True)),
                ]
            )
    return measure.table(("patients", "contender", *measures), body)


def main() -> None:
    """Measure, and write or renew the parts of the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--quick", action="store_true", help="few draws, to see that it runs")
    options = parser.parse_args()
    path, results = measure.RESULTS / "applications.json", []
    for part in options.parts:
        results += PARTS[part](options.quick)
        print(part, "done", flush=True)
    if options.quick:
        print(text(results))
        return
    before = json.loads(path.read_text())["results"] if path.exists() else []
    every = [row for row in before if row["part"] not in options.parts] + results
    measure.write(path, "Four cases", measure.machine(**worker.facts("cpu")), every, text(every))


if __name__ == "__main__":
    main()
