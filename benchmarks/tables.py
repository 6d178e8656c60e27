"""A classifier of tables that needs no training beside those that do, on real tables.

    python benchmarks/tables.py --keel FOLDER [--weights t.pt] [--quick] [--output FILE.json]

Tables: four of scikit-learn, and every one of classes in a folder of KEEL's ``.dat`` files, ten classes at most. Each
is cut in two halves five times, classes in proportion; all contenders learn from one half, 1,000 rows of it at most,
and are judged on the other, by the area under the curve (one class against the rest) and by accuracy. Words are
numbered by their order, what is missing is the median; logistic regression and neighbours see columns scaled.
"""

from __future__ import annotations

import argparse
import pathlib
import time
from collections.abc import Iterator
from typing import Any

import measure
import numpy as np
import torch

import metakit as mk
from metakit.learners.columns import Columns

ROWS = 1000
SETS = ("breast_cancer", "digits", "iris", "wine")


def contenders(weights: pathlib.Path | None) -> dict[str, Any]:
    """Classifiers at their defaults."""
    from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return {
        "in context": mk.TableClassifier.load(weights),
        "logistic regression": make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)),
        "k nearest neighbours": make_pipeline(StandardScaler(), KNeighborsClassifier()),
        "random forest": RandomForestClassifier(random_state=0),
        "gradient boosting": GradientBoostingClassifier(random_state=0),
    }


def read_keel(path: pathlib.Path) -> tuple[np.ndarray, np.ndarray] | None:
    """Cells and classes of a file, or None if its output is not one of two to ten classes."""
    names, nominal, inputs, outputs, lines = [], {}, [], [], []
    for line in path.read_text(encoding="latin-1").splitlines():
        word = line.strip().lower()
        if word.startswith("@attribute"):
            name = line.split(None, 1)[1].strip().replace("{", " {").replace("[", " [").split()[0].strip("'")
            names.append(name)
            nominal[name] = "{" in line
        elif word.startswith("@input"):
            inputs = [part.strip().strip("'") for part in line.split(None, 1)[1].split(",")]
        elif word.startswith("@output"):
            outputs = [part.strip().strip("'") for part in line.split(None, 1)[1].split(",")]
        elif word and not word.startswith(("@", "%")):
            lines.append([None if (cell := part.strip()) in ("?", "<null>") else cell for part in line.split(",")])
    target = outputs[0] if outputs else names[-1] if names else ""
    lines = [line for line in lines if len(line) == len(names)]
    if target not in names or not lines:
        return None
    at = names.index(target)
    keep = [i for i, name in enumerate(names) if i != at and (not inputs or name in inputs)]
    classes = np.array([str(line[at]) for line in lines])
    _, counts = np.unique(classes, return_counts=True)
    few_values = nominal[target] or len(counts) <= 10
    if not (few_values and 2 <= len(counts) <= 10) or len(lines) < 100:
        return None
    cells = np.array([[line[i] for i in keep] for line in lines], dtype=object)
    common = np.isin(classes, [name for name in np.unique(classes) if (classes == name).sum() >= 4])
    return cells[common], classes[common]


def read_all(folder: pathlib.Path | None) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Name, numbers (what is missing NaN) and classes of each table."""
    import sklearn.datasets

    for name in SETS:
        x, y = getattr(sklearn.datasets, f"load_{name}")(return_X_y=True)
        yield f"{name} (scikit-learn)", x, y
    for path in sorted(folder.glob("*.dat")) if folder else ():
        if (found := read_keel(path)) is not None:
            cells, classes = found
            yield path.stem, Columns.of(cells).numbers(cells).numpy(), classes


def judged(model: Any, x: np.ndarray, y: np.ndarray, splits: int) -> tuple[list[float], list[float], float]:
    """Area under the curve and accuracy on each half, and seconds a table."""
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedShuffleSplit

    areas, right, began = [], [], time.perf_counter()
    size = min(ROWS, len(y) // 2)
    cut = StratifiedShuffleSplit(splits, train_size=size, test_size=len(y) - len(y) // 2, random_state=0)
    for known, unseen in cut.split(x, y):
        middle = np.nan_to_num(np.nanmedian(x[known], 0))
        learn, ask = (np.where(np.isnan(side), middle, side) for side in (x[known], x[unseen]))
        chances = model.fit(learn, y[known]).predict_proba(ask)
        given = chances[:, 1] if chances.shape[1] == 2 else chances
        areas.append(roc_auc_score(y[unseen], given, multi_class="ovr", labels=model.classes_))
        right.append(float((model.classes_[chances.argmax(1)] == y[unseen]).mean()))
    return areas, right, (time.perf_counter() - began) / splits


def text(results: list[dict[str, Any]]) -> str:
    """Means over tables, differences in pairs with their intervals over tables, and every table."""
    names = list(results[0]["auc"])
    auc = {name: np.array([row["auc"][name] for row in results]) for name in names}
    accuracy = {name: np.array([row["accuracy"][name] for row in results]) for name in names}
    rank = {n: np.mean([1 + sum(row["auc"][o] > row["auc"][n] for o in names) for row in results]) for n in names}
    rows = []
    for name in names:
        ahead = auc[names[0]] - auc[name]
        half = 1.96 * ahead.std(ddof=1) / len(ahead) ** 0.5
        seconds = float(np.mean([row["seconds"][name] for row in results]))
        beside = "" if name == names[0] else f"{ahead.mean():+.4f} +- {half:.4f}"
        rows.append(
            [
                name,
                f"{auc[name].mean():.4f}",
                f"{accuracy[name].mean():.4f}",
                f"{rank[name]:.2f}",
                beside,
                f"{seconds:.2f}",
            ]
        )
    head = ("", "AUC", "accuracy", "mean rank (AUC)", "in context ahead, AUC", "seconds a table")
    every = [
        [row["table"], row["rows"], row["features"], row["classes"], *(f"{row['auc'][n]:.3f}" for n in names)]
        for row in results
    ]
    about = (
        f"{len(results)} tables, none of them seen in training; cut in halves, {results[0]['splits']} times each; 95% "
        "intervals over tables."
    )
    return (
        f"{about}\n\n{measure.table(head, rows)}\n\n## AUC of each table\n\n"
        f"{measure.table(('table', 'rows', 'features', 'classes', *names), every)}"
    )


def main() -> None:
    """Measure, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keel", type=pathlib.Path, help="folder of KEEL's .dat files")
    parser.add_argument("--weights", type=pathlib.Path, help="those shipped when left out")
    parser.add_argument("--quick", action="store_true", help="one cut of scikit-learn's small tables: does it run")
    parser.add_argument("--output", type=pathlib.Path, default=measure.RESULTS / "tables.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    splits = 1 if options.quick else 5
    models, results = contenders(options.weights), []
    for name, x, y in read_all(None if options.quick else options.keel):
        row: dict[str, Any] = {"table": name, "rows": len(y), "features": x.shape[1], "classes": len(np.unique(y))}
        row |= {"splits": splits, "auc": {}, "accuracy": {}, "seconds": {}}
        for who, model in models.items():
            areas, right, seconds = judged(model, x, y, splits)
            row["auc"][who], row["accuracy"][who] = float(np.mean(areas)), float(np.mean(right))
            row["seconds"][who] = seconds
        results.append(row)
        print(name, len(y), {who: round(area, 4) for who, area in row["auc"].items()}, flush=True)
    facts = measure.machine(torch=torch.__version__, threads=1)
    measure.write(options.output, "Tables", facts, results, text(results))


if __name__ == "__main__":
    main()
