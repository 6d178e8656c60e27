"""``metakit train``: meta-train a learner, print its scores on unseen tasks, keep it in a file."""

from __future__ import annotations

import dataclasses
import enum
import pathlib
from typing import Annotated, Any

import torch
import typer

import metakit as mk
from metakit.cli import common
from metakit.cli.common import CLASSES, Checkpoint, Classes, Data, Device, Points, Resume, Seed, TestTasks
from metakit.recipes import optimizer as recipe

train = typer.Typer(no_args_is_help=True, help="Meta-train a learner and print its scores on unseen tasks.")

Steps = Annotated[int | None, typer.Option(min=1, help="Outer steps.", show_default="by the problem, or no limit")]
Minutes = Annotated[float | None, typer.Option(help="Time to train for, with or without --steps.")]
MetaBatch = Annotated[int, typer.Option(min=1, help="Tasks T in an outer step.")]
InnerLr = Annotated[float, typer.Option(help="Inner learning rate.")]
InnerSteps = Annotated[
    int | None, typer.Option(min=0, help="Inner steps K.", show_default="1; for maml++ 5, for finetune 10")
]
Order = Annotated[int, typer.Option(min=1, max=2, help="2: exact meta-gradient; 1: first order.")]
Lr = Annotated[float | None, typer.Option(help="Outer learning rate; by the kind of learner when left out.")]
Schedule = Annotated[str | None, typer.Option(help="Of the outer rate: a class of torch.optim.lr_scheduler.")]
Compile = Annotated[
    bool, typer.Option("--compile", help="Compile the outer step; on a GPU it is recorded in any case.")
]
Save = Annotated[pathlib.Path | None, typer.Option(dir_okay=False, help="File to keep the trained learner in.")]
Width = Annotated[int, typer.Option(min=1, help="Channels of each block of the network.")]
Augmented = Annotated[bool, typer.Option("--augment", help="Train on pictures turned, moved and bent at random.")]


class Kind(enum.StrEnum):
    """Learners by name."""

    maml = "maml"
    maml_pp = "maml++"
    meta_sgd = "meta-sgd"
    anil = "anil"
    reptile = "reptile"
    protonet = "protonet"
    matching = "matching"
    ridge = "ridge"
    finetune = "finetune"


_EMBEDS = {Kind.protonet: mk.ProtoNet, Kind.matching: mk.Matching, Kind.ridge: mk.Ridge}
_INNER_STEPS = {Kind.maml_pp: 5, Kind.finetune: 10}


@dataclasses.dataclass(frozen=True)
class Method:
    """Which learner to train, as it was asked for."""

    learner: Annotated[Kind, typer.Option(help="Which learner to train.")] = Kind.maml
    inner_lr: InnerLr = 0.01
    inner_steps: InnerSteps = None
    order: Order = 2

    @property
    def embeds(self) -> bool:
        """Whether its network turns rows into features, not into answers."""
        return self.learner in _EMBEDS

    def made(self, model: torch.nn.Module) -> Any:
        """The learner with this network."""
        kind, rate = self.learner, self.inner_lr
        if kind in _EMBEDS:
            return _EMBEDS[kind](model)
        steps = _INNER_STEPS.get(kind, 1) if self.inner_steps is None else self.inner_steps
        if kind in (Kind.reptile, Kind.finetune):
            return (mk.Reptile if kind is Kind.reptile else mk.FineTune)(model, rule=mk.SGD(rate), steps=steps)
        learned = {
            Kind.meta_sgd: mk.LearnedSGD(rate),
            Kind.maml_pp: mk.LearnedSGD(rate, per="tensor", per_step=True),
        }
        adapt = "head" if kind is Kind.anil else None
        maml = mk.MAML(model, rule=learned.get(kind, mk.SGD(rate)), steps=steps, order=self.order, adapt=adapt)
        return mk.MultiStep(maml) if kind is Kind.maml_pp else maml


@dataclasses.dataclass(frozen=True)
class Run:
    """How to train, as it was asked for."""

    steps: Steps = None
    minutes: Minutes = None
    meta_batch: MetaBatch = 25
    lr: Lr = None
    schedule: Schedule = None
    seed: Seed = 0
    device: Device = "auto"
    compile: Compile = False
    checkpoint: Checkpoint = None
    resume: Resume = False
    save: Save = None
    test_tasks: TestTasks = 600

    def train(self, learner: torch.nn.Module, tasks: Any, *, steps: int, kept: Any = None, **others: Any) -> None:
        """Train, for so many steps unless it was said how long, tell how it went, and keep the learner, or a part."""
        options = vars(self) | {"device": common.device_of(self.device)}
        options["compile"] = self.compile or options["device"].startswith("cuda")
        if self.steps is None and self.minutes is None:
            options["steps"] = steps
        save, _ = options.pop("save"), options.pop("test_tasks")
        history = mk.fit(learner, tasks, **options | others)
        rate = history.steps / max(history.seconds, 1e-9)
        done = f"{history.steps} outer step{'s' * (history.steps != 1)} in {history.seconds:.0f} s"
        typer.echo(f"{done} ({rate:.1f} a second): {history.ended}.")
        if save is not None:
            common.keep(learner if kept is None else kept, save, "learner" if kept is None else "rule")
        learner.eval()


@dataclasses.dataclass(frozen=True)
class Images:
    """What training on pictures has besides, as it was asked for."""

    width: Width = 64
    augment: Augmented = False


class Rule(enum.StrEnum):
    """Learned optimisers by name."""

    mlp = "mlp"
    lstm = "lstm"


class Gradient(enum.StrEnum):
    """Estimators of the meta-gradient by name."""

    full = "full"
    truncated = "truncated"
    es = "es"
    pes = "pes"


_CURVES, _MAML = Run(), Method()
_JOBS = Run(**{name: recipe.OPTIONS[name] for name in ("meta_batch", "lr", "schedule")}, test_tasks=50)
_PICTURES, _PROTONET, _IMAGES = Run(meta_batch=4), Method(learner=Kind.protonet, inner_lr=0.4), Images()


@train.command()
@common.terminal
def sinusoid(
    method: Method = _MAML,
    shots: Points = 10,
    run: Run = _CURVES,
) -> None:
    """Sinusoid regression: the first experiment of Finn et al. 2017."""
    torch.manual_seed(run.seed)
    tasks = mk.tasks.Sinusoids(shots=shots, queries=10)
    learner = method.made(mk.models.MLP(1, [40, 40], 40 if method.embeds else 1))
    run.train(learner, tasks, steps=10_000)
    common.print_scores(learner, tasks, run.test_tasks, f"{shots}-point sinusoids", max(10, learner.steps))


@train.command()
@common.terminal
def omniglot(
    method: Method = _PROTONET,
    classes: Classes = CLASSES,
    data: Data = None,
    images: Images = _IMAGES,
    run: Run = _PICTURES,
) -> None:
    """N-way K-shot handwriting: trained on 1,028 characters of Omniglot and their rotations, judged on 423 others."""
    parts = [mk.tasks.omniglot(data, split=part, rotations=True) for part in ("train", "test")]
    _train_on(parts, method, classes, images, run)


@train.command()
@common.terminal
def glyphs(
    method: Method = _PROTONET,
    classes: Classes = CLASSES,
    alphabets: Annotated[int, typer.Option(min=1, help="Invented alphabets to train on; ten more to test.")] = 50,
    images: Images = _IMAGES,
    run: Run = _PICTURES,
) -> None:
    """N-way K-shot on invented alphabets: nothing to download, judged on alphabets not trained on."""
    parts = common.glyphs(alphabets, 28, seed=run.seed)
    _train_on(parts, method, classes, images, run)


@train.command()
@common.terminal
def optimizer(
    kind: Annotated[Rule, typer.Option(help="The network of each weight.")] = Rule.mlp,
    estimator: Annotated[Gradient, typer.Option(help="How the meta-gradient is got.")] = Gradient.full,
    run: Run = _JOBS,
) -> None:
    """A learned optimiser, on invented jobs; then ``mk.load(FILE).optimizer(parameters, steps=N)`` in any loop."""
    torch.manual_seed(run.seed)
    rule = mk.LearnedOptimizer(kind.value)
    learner, jobs = mk.Unroll(rule, steps=recipe.STEPS), recipe.invented_jobs()
    if run.steps is None and run.minutes is None:
        run = dataclasses.replace(run, minutes=10.0)
    others = {"clip": recipe.OPTIONS["clip"], "estimator": estimator.value, "compile": False}
    run.train(learner, jobs, steps=1000, kept=rule, **others)
    rivals = {"learned": learner, "Adam, tuned per job": mk.Tuned(steps=recipe.STEPS[1])}
    unseen = recipe.invented_jobs(seed=1)
    typer.echo(f"Loss on other rows after {recipe.STEPS[1]} steps, unseen jobs")
    typer.echo(str(mk.compare(rivals, unseen, n_tasks=run.test_tasks, seeds=1, reference="Adam, tuned per job")))


def _train_on(parts: Any, method: Method, classes: Classes, images: Images, run: Run) -> None:
    """Train on the classes of the first part, print the scores on episodes of the second."""
    mk.tasks.check_disjoint(*parts)
    seen, unseen = parts
    tasks: Any = classes.episodes(seen, augment=mk.tasks.Augment() if images.augment else None)
    judged, outputs = classes.episodes(unseen), classes.ways
    if method.learner is Kind.finetune:
        if images.augment:
            raise ValueError("--augment changes episodes, and finetune trains on rows of all classes. Drop one.")
        tasks, outputs = mk.tasks.Pooled(seen), len(seen)
    torch.manual_seed(run.seed)
    learner = method.made(mk.models.ConvNet(width=images.width, outputs=None if method.embeds else outputs))
    run.train(learner, tasks, steps=1000)
    common.print_scores(learner, judged, run.test_tasks, f"{classes}, unseen characters")
