"""Omniglot, N-way K-shot: accuracy on unseen characters after minutes of training.

    python benchmarks/omniglot.py --learner prototypes --minutes 20 --seed 0 [--save prototypes.pt]
    python benchmarks/omniglot.py --learner maml --ways 5 --shots 1 --minutes 20 [--start prototypes.pt]

Each call trains one learner from one seed and adds its figures to the results. ``prototypes``, the recipe of
``few_alphabets.py`` without the restyling, knows no setting: it is trained once and tested in all four. ``maml`` is
trained for one setting, from scratch or, with ``--start``, from what ``prototypes`` saved. Reads the official archives
from the folder that METAKIT_DATA names, or downloads them. The characters are split as in Vinyals et al. 2016: 423 to
test on; all 1,200 others to train on, as in Snell et al. 2017, in four quarter turns. They are tested as four classes
each, by quarter turns too, as in Snell et al., and upright alone, as in Antoniou et al. 2019.
"""

from __future__ import annotations

import argparse
import pathlib
from typing import Any

import handwriting
import measure
import torch
import worker

import metakit as mk
from metakit.recipes import handwriting as recipe

SETTINGS = ((5, 1), (5, 5), (20, 1), (20, 5))
# Accuracy in percent, by setting, and the classes it was tested on. Snell, Swersky and Zemel 2017, table 1 (trained
# 60-way); Finn, Abbeel and Levine 2017, table 1 (60,000 outer steps); Antoniou, Edwards and Storkey 2019, table 1 (five
# models together, on a split of their own).
PUBLISHED = {
    ("ProtoNet", "turned"): ("98.8", "99.7", "96.0", "98.9"),
    ("MAML (transductive)", "turned"): ("98.7 +- 0.4", "99.9 +- 0.1", "95.8 +- 0.3", "98.9 +- 0.2"),
    ("MAML++", "upright"): ("99.47", "99.93", "97.65", "99.33"),
}
CLASSES = {"turned": True, "upright": False}
# MAML is tested as its own line was, and in the bfloat16 that it was trained in.
TESTED_ON = {"prototypes": tuple(CLASSES), "maml": ("turned",)}
# Queries of a class in testing; of MAML fewer, since each task has a network of its own to run them through.
QUERIES = {"prototypes": 15, "maml": 5}
# MAML: the rate that its inner step begins with, the queries of a class in training, the outer rate, tasks T by ways.
INNER_LR, TRAINING_QUERIES, MAML_LR, META_BATCH = 0.1, 5, 3e-4, {5: 8, 20: 2}

Figures = dict[str, dict[str, dict[str, tuple[float, float]]]]  # by classes, protocol, setting: mean, half an interval


def seen() -> mk.tasks.LabelledData:
    """The 1,200 characters to train on, four classes each; none of them is among those to test on."""
    parts = [mk.tasks.omniglot(split=split) for split in ("train", "val")]
    for part in parts:
        mk.tasks.check_disjoint(part, mk.tasks.omniglot(split="test"))
    return mk.tasks.LabelledData(torch.cat([part.x for part in parts])).rotations()


def train_maml(options: argparse.Namespace) -> tuple[mk.MAML, mk.History]:
    """Second-order MAML with one inner step, whose rates for each tensor are learned too."""
    torch.manual_seed(options.seed)
    model = mk.models.ResNet(outputs=options.ways, frame=True)
    if options.start:
        start = next(m for m in mk.load(options.start).modules() if isinstance(m, mk.models.ResNet))
        model.load_state_dict(start.state_dict(), strict=False)
        torch.nn.init.zeros_(model.head.weight)
    learner = mk.MAML(model, rule=mk.LearnedSGD(INNER_LR, per="tensor"), steps=1, order=2)
    tasks = mk.tasks.Episodes(seen(), options.ways, options.shots, TRAINING_QUERIES, augment=recipe.AUGMENT)
    run = {"meta_batch": META_BATCH[options.ways], "lr": MAML_LR, "schedule": "OneCycleLR", "autocast": torch.bfloat16}
    return learner, mk.fit(learner, tasks, minutes=options.minutes, seed=options.seed, device=options.device, **run)


def test(name: str, trained: Any, settings: list[tuple[int, int]], episodes: int) -> Figures:
    """Accuracy on classes never trained on and half its 95% interval, in percent."""
    figures: Figures = {}
    for classes in TESTED_ON[name]:
        unseen = mk.tasks.omniglot(split="test", rotations=CLASSES[classes])
        learner, protocols = trained.eval(), mk.learners.PROTOCOLS
        if not trained.answers_together:  # one protocol says all
            protocols = ("inductive",)
        if isinstance(trained, mk.ProtoNet):
            learner, unseen = handwriting.known(trained, unseen)
        for protocol in protocols:
            with torch.autocast(next(trained.parameters()).device.type, torch.bfloat16, enabled=name == "maml"):
                figures.setdefault(classes, {})[protocol] = {
                    named(setting): handwriting.accuracy(
                        learner, mk.tasks.Episodes(unseen, *setting, QUERIES[name]), protocol, episodes=episodes
                    )
                    for setting in settings
                }
    return figures


def named(setting: tuple[int, int]) -> str:
    """As the tables call it."""
    return f"{setting[0]}-way {setting[1]}-shot"


def shown(entries: list[dict[str, Any]]) -> str:
    """The published figures, and below them every run."""
    settings = [named(setting) for setting in SETTINGS]
    head = ("learner", "test classes", "protocol", "seed", "minutes", "queries", "episodes", *settings)
    body: list[Any] = [
        (f"{name}, published", classes, "", "", "", "", "", *row) for (name, classes), row in PUBLISHED.items()
    ]
    for e in entries:
        for classes, by_protocol in e["accuracy"].items():
            for protocol, known in by_protocol.items():
                cells = ["{:.2f} +- {:.2f}".format(*known[s]) if s in known else "" for s in settings]
                run = (e["seed"], f"{e['minutes']:.1f}", e["queries"], e["episodes"])
                body.append((e["learner"], classes, protocol, *run, *cells))
    return measure.table(head, body)


def main() -> None:
    """Train, test, and add to the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--learner", choices=("prototypes", "maml"), default="prototypes")
    parser.add_argument("--ways", type=int, choices=(5, 20), default=5, help="of maml")
    parser.add_argument("--shots", type=int, choices=(1, 5), default=1, help="of maml")
    parser.add_argument("--minutes", type=float, default=20.0, help="of training")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--save", type=pathlib.Path, help="file for the trained learner")
    parser.add_argument("--start", type=pathlib.Path, help="of maml: the file of the prototypes to start from")
    parser.add_argument("--checkpoint", type=pathlib.Path, help="of prototypes: to keep the run in, and to go on")
    parser.add_argument("--quick", action="store_true", help="some seconds of training, 50 episodes: does it run")
    parser.add_argument("--output", type=pathlib.Path, default=measure.RESULTS / "omniglot.json")
    options = parser.parse_args()
    if options.quick:
        options.minutes = 0.1

    if options.learner == "prototypes":
        settings = list(SETTINGS)
        trained, history, minutes = handwriting.trained(seen(), options, None)
    else:
        settings = [(options.ways, options.shots)]
        trained, history = train_maml(options)
        minutes = history.seconds / 60
    if options.save:
        mk.save(trained, options.save)
    facts = measure.machine(**worker.facts(options.device))
    name = options.learner + (" from prototypes" if options.start else "")
    entry = {"learner": name, "trained for": [named(s) for s in settings], "seed": options.seed, "minutes": minutes}
    episodes = 50 if options.quick else handwriting.EPISODES
    entry |= {"outer_steps": history.steps, "queries": QUERIES[options.learner], "episodes": episodes, "machine": facts}
    entry["accuracy"] = test(options.learner, trained, settings, episodes)
    entries = measure.renewed(options.output, entry, ("learner", "trained for", "seed"))
    text = (
        "Accuracy in percent with its 95% interval over episodes, each of so many queries a class. Transductive: "
        f"{recipe.HEAD['refine']} rounds of soft k-means over the queries of an episode. MAML from prototypes: "
        "the minutes are its own, those of the prototypes come before them."
    )
    measure.write(options.output, "Omniglot: unseen characters", facts, entries, f"{text}\n\n{shown(entries)}")


if __name__ == "__main__":
    main()
