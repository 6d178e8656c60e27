"""Omniglot, 5-way 5-shot: the drawings that learners trained from different seeds miss most of the time.

    python benchmarks/omniglot_missed.py PROTOTYPES.pt ...

Takes what ``omniglot.py --learner prototypes --save`` saved. Every learner answers the same episodes of upright test
characters, each query by itself. Were errors chance, they would be spread over the drawings. Those that every learner
misses, whatever characters they are told apart from, do not look like the others of their character.
"""

from __future__ import annotations

import argparse
import pathlib

import handwriting
import measure
import torch

import metakit as mk

SETTING, QUERIES = (5, 5), 15
EPISODES, AT_ONCE = 10_000, 100
# Named are the drawings that every learner misses in more than this share of the episodes that ask for them.
SHARE = 0.4


def missed(learner: mk.ProtoNet, data: mk.tasks.LabelledData) -> tuple[torch.Tensor, torch.Tensor]:
    """How often each drawing was a query, and how often it was answered wrongly, ``[drawings]`` each."""
    lookup, numbers = handwriting.known(learner.eval(), data)
    tasks, generator = mk.tasks.Episodes(numbers, *SETTING, QUERIES), torch.Generator().manual_seed(1)
    asked, wrong = torch.zeros(2, len(data.rows))
    for _ in range(EPISODES // AT_ONCE):
        batch = tasks.sample(AT_ONCE, generator=generator)
        answers = lookup.predict(batch.support_x, batch.support_y, batch.query_x).argmax(-1)
        drawings = batch.query_x.flatten().long()
        asked.index_add_(0, drawings, torch.ones(len(drawings)))
        wrong.index_add_(0, drawings, (answers != batch.query_y).flatten().float())
    return asked, wrong


def main() -> None:
    """Count, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("saved", type=pathlib.Path, nargs="+", help="learners trained from different seeds")
    parser.add_argument("--output", type=pathlib.Path, default=measure.RESULTS / "omniglot_missed.json")
    options = parser.parse_args()
    data = mk.tasks.omniglot(split="test")
    counts = [missed(mk.load(path), data) for path in options.saved]
    asked, wrong = counts[0][0], torch.stack([wrong for _, wrong in counts])
    named = (wrong > SHARE * asked).all(0).nonzero()[:, 0]
    named = named[wrong[:, named].sum(0).argsort(descending=True)]
    drawings = [
        {
            "character": data.names[place // data.x.shape[1]],
            "drawing": place % data.x.shape[1] + 1,
            "asked": int(asked[place]),
            "missed": [int(each[place]) for each in wrong],
        }
        for place in named.tolist()
    ]
    learners = [
        {"error": 100 * float(each.sum() / asked.sum()), "on_these": 100 * float(each[named].sum() / asked.sum())}
        for each in wrong
    ]
    head = ("character", "drawing", "asked for", *(f"missed by learner {i}" for i in range(1, len(counts) + 1)))
    body = [(e["character"], e["drawing"], e["asked"], *e["missed"]) for e in drawings]
    sums = [(i, f"{e['error']:.3f}", f"{e['on_these']:.3f}") for i, e in enumerate(learners, 1)]
    text = (
        f"{EPISODES} episodes of upright test characters, {len(data.rows)} drawings, each query by itself. Missed by "
        f"every learner in more than {100 * SHARE:.0f}% of the times asked for:\n\n{measure.table(head, body)}\n\n"
        f"{measure.table(('learner', 'error %', 'of it on these drawings'), sums)}"
    )
    facts = measure.machine(torch=torch.__version__, threads=torch.get_num_threads(), device="cpu")
    results = [{"learners": learners, "drawings": drawings}]
    measure.write(options.output, "Omniglot, 5-way 5-shot: the drawings that are missed", facts, results, text)


if __name__ == "__main__":
    main()
