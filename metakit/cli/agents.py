"""Agents from a terminal: ``metakit train bandits``, ``mdp``, ``navigation``, and the same of ``metakit evaluate``."""

from __future__ import annotations

import dataclasses
import enum
from typing import Annotated, Any

import torch
import typer

import metakit as mk
from metakit.cli import common
from metakit.cli.common import Device, TestTasks
from metakit.cli.judge import evaluate, loaded
from metakit.cli.train import Run, train
from metakit.contracts import REGRET
from metakit.recipes import agents as recipe

Number = "A number, or a range of it as in 5-50."
Arms = Annotated[str, typer.Option(help=f"Arms of a bandit. {Number}")]
Pulls = Annotated[str, typer.Option(help=f"Pulls in a trial. {Number}")]
Episodes = Annotated[str, typer.Option(help=f"Episodes in a trial. {Number}")]
States = Annotated[int, typer.Option(min=1, help="States.")]
Actions = Annotated[int, typer.Option(min=2, help="Actions.")]
Horizon = Annotated[int, typer.Option(min=1, help="Steps in an episode.")]
InnerSteps = Annotated[int, typer.Option(min=0, help="Inner steps K to judge after.")]


class Kind(enum.StrEnum):
    """Agents of bandits by name."""

    arms = "arms"
    rl2 = "rl2"


class Memory(enum.StrEnum):
    """Agents of decision processes by name."""

    attentive = "attentive"
    rl2 = "rl2"


@dataclasses.dataclass(frozen=True)
class Trial:
    """A tabular decision process, as it was asked for."""

    episodes: Episodes = "10"
    states: States = 10
    actions: Actions = 5
    horizon: Horizon = 10

    def tasks(self) -> mk.tasks.MDPs:
        """Such processes."""
        return mk.tasks.MDPs(self.states, self.actions, self.horizon, _ends("episodes", self.episodes))

    def __str__(self) -> str:
        return f"{self.episodes} episodes of {self.horizon} steps"


_TRIAL = Trial()
_COURSE = recipe.SHARED["schedule"]
_BANDITS = Run(meta_batch=128, lr=3e-3, schedule=_COURSE, test_tasks=1000)
_MDPS = Run(meta_batch=64, lr=2e-3, schedule=_COURSE, test_tasks=1000)
_PATHS = Run(meta_batch=20, lr=3e-3, schedule=_COURSE, test_tasks=200)
_OTHERS = {name: recipe.SHARED[name] for name in ("clip", "compile")}


@train.command()
@common.terminal
def bandits(
    arms: Arms = "5",
    pulls: Pulls = "100",
    agent: Annotated[Kind, typer.Option(help="One network for any number of arms, or a recurrent one.")] = Kind.arms,
    run: Run = _BANDITS,
) -> None:
    """Bernoulli bandits with chances U[0, 1]: an agent that learns to explore; judged beside Thompson and UCB1."""
    tasks = mk.tasks.Bandits(_ends("arms", arms), _ends("pulls", pulls))
    torch.manual_seed(run.seed)
    learner: Any = mk.ArmsAgent() if agent is Kind.arms else mk.RL2(_one("arms", arms))
    _for(run, 4.0).train(learner, tasks, steps=1000, **_OTHERS)
    rivals = {agent.value: learner, "Thompson": mk.agents.Thompson(), "UCB1": mk.agents.UCB1()}
    _print(rivals, tasks, run, f"{arms} arms, {pulls} pulls")


@train.command()
@common.terminal
def mdp(
    agent: Annotated[Memory, typer.Option(help="Attends to its notes, or recurrent.")] = Memory.attentive,
    trial: Trial = _TRIAL,
    run: Run = _MDPS,
) -> None:
    """Tabular decision processes: an agent whose memory is kept over the episodes of a trial."""
    tasks = trial.tasks()
    torch.manual_seed(run.seed)
    learner: Any = recipe.attentive(tasks) if agent is Memory.attentive else recipe.rl2(tasks)
    _for(run, 20.0).train(learner, tasks, steps=1000, **_OTHERS, estimator=recipe.SEARCHING["estimator"])
    sizes = trial.states, trial.actions, trial.horizon
    rivals = {agent.value: learner, "PSRL": mk.agents.PSRL(*sizes), "posterior mean": mk.agents.PosteriorMean(*sizes)}
    _print(rivals, tasks, run, str(trial))


@train.command()
@common.terminal
def navigation(
    order: Annotated[int, typer.Option(min=1, max=2, help="2: exact meta-gradient; 1: first order.")] = 2,
    inner_steps: InnerSteps = 3,
    run: Run = _PATHS,
) -> None:
    """A point that looks for a hidden goal: a policy adapted by its own gradient after a few episodes."""
    torch.manual_seed(run.seed)
    learner, tasks = recipe.navigator(order=order), mk.tasks.Navigation()
    _for(run, 3.0).train(learner, tasks, steps=300, **_OTHERS | {"clip": recipe.NAVIGATION["clip"]})
    common.print_scores(learner, tasks, run.test_tasks, "navigation", inner_steps)


@evaluate.command("bandits")
@common.terminal
def judge_bandits(
    context: typer.Context,
    arms: Arms = "5",
    pulls: Pulls = "100",
    device: Device = "auto",
    test_tasks: TestTasks = 1000,
) -> None:
    """Bernoulli bandits: return and regret."""
    tasks = mk.tasks.Bandits(_ends("arms", arms), _ends("pulls", pulls))
    _tell(loaded(context.obj, device), tasks, test_tasks, f"{arms} arms, {pulls} pulls")


@evaluate.command("mdp")
@common.terminal
def judge_mdp(
    context: typer.Context, trial: Trial = _TRIAL, device: Device = "auto", test_tasks: TestTasks = 1000
) -> None:
    """Tabular decision processes: return and regret."""
    _tell(loaded(context.obj, device), trial.tasks(), test_tasks, str(trial))


@evaluate.command("navigation")
@common.terminal
def judge_navigation(
    context: typer.Context, inner_steps: InnerSteps = 3, device: Device = "auto", test_tasks: TestTasks = 200
) -> None:
    """Navigation: the return after each inner step."""
    learner = loaded(context.obj, device)
    common.print_scores(learner, mk.tasks.Navigation(), test_tasks, "navigation", inner_steps)


def _for(run: Run, minutes: float) -> Run:
    """The run, for so many minutes unless it was said how long."""
    return dataclasses.replace(run, minutes=minutes) if run.steps is None and run.minutes is None else run


def _print(rivals: dict[str, Any], tasks: Any, run: Run, what: str) -> None:
    learner = next(iter(rivals.values()))
    _tell(learner, tasks, run.test_tasks, what)
    device = next(learner.parameters()).device
    if device.type == "cpu":  # who has no parameters plays where worlds are drawn by default
        typer.echo(str(mk.compare(rivals, tasks, n_tasks=run.test_tasks, seeds=1)))


def _tell(learner: Any, tasks: Any, n_tasks: int, what: str) -> None:
    """Return and regret at the end of a trial, with their intervals over tasks."""
    result = mk.evaluate(learner, tasks, n_tasks=n_tasks, progress=True)
    lines = [f"{what}, {n_tasks} trials", "score    at the end   95% interval"]
    for measure in [result.measure, *([REGRET] if REGRET in result.scores else [])]:
        last = result.scores[measure][:, -1]
        half = 1.96 * float(last.std()) / len(last) ** 0.5
        lines.append(f"{measure!s:8} {float(last.mean()):10.2f}   {last.mean() - half:.2f} to {last.mean() + half:.2f}")
    typer.echo("\n".join(lines))


def _ends(name: str, text: str) -> int | tuple[int, int]:
    """``"5"`` as 5, ``"5-50"`` as (5, 50)."""
    parts = text.split("-")
    if len(parts) > 2 or not all(part.strip().isdigit() for part in parts):
        raise ValueError(f"--{name} must be a number, or a range such as 5-50, got {text!r}.")
    low, *high = (int(part) for part in parts)
    return (low, high[0]) if high else low


def _one(name: str, text: str) -> int:
    ends = _ends(name, text)
    if isinstance(ends, tuple):
        raise ValueError(
            f"--{name} must be one number for --agent rl2, got {text!r}. For any number take --agent arms."
        )
    return ends
