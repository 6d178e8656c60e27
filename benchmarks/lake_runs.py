"""One-shot handwriting by the official protocol: the 20 fixed runs of Lake, Salakhutdinov and Tenenbaum 2015.

    python benchmarks/lake_runs.py five:MODEL.pt none:OTHER.pt ... [--runs all_runs.zip]

Each run has 20 characters of one alphabet: one drawing of each by one drawer to learn from, one by another to tell. A
model is what ``few_alphabets.py --save`` or ``glyphs_to_omniglot.py --save`` wrote; the word before it says what it was
learned from. Error in % over the 400 answers, each query by itself. Published (the same authors 2019, table 1): people
4.5; BPL 3.3 (30 alphabets) and 4.2 (5 alphabets); prototypical network 13.7 and 30.1; convolutional network 13.5 and
23.2. No character of the runs is in any training here.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import zipfile

import measure
import torch
import worker

import metakit as mk
from metakit.data import _omniglot
from metakit.data.labelled import as_real

PUBLISHED = {
    "people": ("", 4.5),
    "BPL": ("30 alphabets", 3.3),
    "BPL, few": ("5 alphabets", 4.2),
    "convolutional network": ("30 alphabets", 13.5),
    "convolutional network, few": ("5 alphabets", 23.2),
    "prototypical network": ("30 alphabets", 13.7),
    "prototypical network, few": ("5 alphabets", 30.1),
}
SIZE, RUNS = 28, 20


def drawing(archive: zipfile.ZipFile, name: str) -> torch.Tensor:
    """A drawing ``[1, 28, 28]``, ink 1 and paper 0, made smaller as ``mk.tasks.omniglot`` makes it."""
    return as_real(_omniglot._shrink(_omniglot._decode(archive.read(name), name)[None], SIZE))[0]


def read_runs(path: pathlib.Path) -> list[mk.TaskBatch]:
    """The runs, one task each: 20 support rows, one of each class, and 20 query rows."""
    runs = []
    with zipfile.ZipFile(path) as archive:
        for number in range(1, RUNS + 1):
            lines = archive.read(f"run{number:02}/class_labels.txt").decode().split("\n")
            pairs = [line.split() for line in lines if line.strip()]
            shown = sorted({right for _, right in pairs})
            support = torch.stack([drawing(archive, name) for name in shown])
            query = torch.stack([drawing(archive, asked) for asked, _ in pairs])
            classes = torch.tensor([shown.index(right) for _, right in pairs])
            runs.append(mk.TaskBatch(support[None], torch.arange(len(shown))[None], query[None], classes[None]))
    return runs


def error(path: pathlib.Path, runs: list[mk.TaskBatch]) -> list[float]:
    """Error in % over all answers, and half of its 95% interval over runs."""
    learner = mk.load(path).eval()
    wrong = []
    for run in runs:
        answer = learner.predict(*(side[0] for side in run.tensors[:3]))
        wrong.append(float((answer.argmax(-1) != run.query_y[0]).float().mean()))
    share = 100 * torch.tensor(wrong)
    return [float(share.mean()), 1.96 * float(share.std()) / len(share) ** 0.5]


def main() -> None:
    """Judge, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", help="what it was learned from, a colon, and the file")
    parser.add_argument("--runs", type=pathlib.Path, help="all_runs.zip; in the folder METAKIT_DATA names if left out")
    parser.add_argument("--output", type=pathlib.Path, default=measure.RESULTS / "lake_runs.json")
    options = parser.parse_args()
    path = options.runs or pathlib.Path(os.environ.get("METAKIT_DATA", ".")) / "omniglot" / "all_runs.zip"
    if not path.is_file():
        parser.error(f"no file {path}. Fetch all_runs.zip from brendenlake/omniglot, and name it by --runs.")
    runs, results = read_runs(path), []
    for model in options.models:
        source, _, file = model.partition(":")
        mean, half = error(pathlib.Path(file), runs)
        results.append({"learned from": source, "model": pathlib.Path(file).name, "error": mean, "half": half})
        print(results[-1], flush=True)
    rows = [
        [f"ours, {row['learned from']}", row["model"], f"{row['error']:.2f} +- {row['half']:.2f}"] for row in results
    ]
    rows += [
        [f"{name.removesuffix(', few')}, published", source, figure] for name, (source, figure) in PUBLISHED.items()
    ]
    about = "Error in % over the 400 answers of the 20 runs, each query by itself; interval over runs."
    text = f"{about}\n\n{measure.table(('', 'learned from', 'error'), rows)}"
    measure.write(options.output, "The 20 fixed runs", measure.machine(**worker.facts("cpu")), results, text)


if __name__ == "__main__":
    main()
