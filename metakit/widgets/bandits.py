"""The bandit explorer: the reader pulls the arms himself, and others have pulled the very same ones."""

from __future__ import annotations

import dataclasses
import functools
import html
from collections.abc import Mapping, Sequence
from typing import Any

import ipywidgets as ipw
import torch
from matplotlib.figure import Figure
from torch import Tensor

from metakit import plots, records
from metakit.agents import Agent
from metakit.agents.exact import BayesOptimal
from metakit.agents.gittins import Gittins
from metakit.agents.players import UCB1, Thompson
from metakit.checks import Device, whole
from metakit.tasks.bandits import BanditBatch
from metakit.widgets.explorer import LATE, ROW, STYLE, VIEWED, Explorer, another, button

_MOST_ARMS, _MOST_PULLS = 10, 100
_EXACT = 10  # pulls up to which the exact player is quick enough to be waited for
_REPLAYS = 200


@dataclasses.dataclass(frozen=True)
class SameArms:
    """One bandit, drawn as often as it is asked for: what differs between its trials is luck alone.

    Arguments:
        means: the chances of the arms, ``[A]``.
        pulls: pulls in a trial.

    Example:
        >>> SameArms(torch.tensor([0.25, 0.75]), 5).sample(2).means.tolist()
        [[0.25, 0.75], [0.25, 0.75]]
    """

    means: Tensor
    pulls: int

    def sample(self, n_tasks: int, *, generator: torch.Generator | None = None, device: Device = None) -> BanditBatch:
        """T copies of it."""
        return BanditBatch(self.means.expand(n_tasks, -1).to(device), self.pulls)


def rivals(
    agents: Mapping[str, Agent], means: Tensor, pulls: int, *, replays: int = _REPLAYS, seed: int = 0
) -> records.RegretCurves:
    """What the classical players, agents, and in short trials the exact player make of some arms.

    Arguments:
        agents: others who play, by name.
        means: the chances of the arms, ``[A]``.
        pulls: pulls in a trial; the exact player plays up to 10.
        replays: trials over which the mean is taken.
        seed: of the luck.

    Example:
        >>> rivals({}, torch.tensor([0.2, 0.8]), 5, replays=20).names
        ('Thompson sampling', 'UCB1', 'Gittins index', 'exact optimum')
    """
    players: dict[str, Agent] = {"Thompson sampling": Thompson(), "UCB1": UCB1(), "Gittins index": Gittins()}
    players |= agents
    if pulls <= _EXACT:
        players |= {"exact optimum": BayesOptimal()}
    return records.regret_curves(players, SameArms(means, pulls), n_tasks=replays, seed=seed)


def drawn_arms(arms: int, pulls: int, seed: int) -> tuple[Tensor, Tensor]:
    """The chances of some arms, ``[A]``, and what the n-th pull of each would pay, ``[A, pulls]``."""
    generator = torch.Generator().manual_seed(seed)
    means = torch.rand(arms, generator=generator)
    return means, torch.rand(arms, pulls, generator=generator) < means[:, None]


class BanditExplorer:
    """Pull the arms yourself: each click is a pull; others have played the very same arms.

    Until the trial is over the picture compares what was paid. Regret, once it is told, gives the best arm away: it is
    told at the end, or before, if asked for. What the n-th pull of an arm pays is settled when the arms are drawn.

    Arguments:
        agent: a learned agent for Bernoulli arms of any number, as ``mk.ArmsAgent``, or several by name.

    After each change ``.record`` is the ``records.BanditTrial`` shown, and ``.error`` the exception if there was one.
    Controls by name: arms, pulls, beliefs, regret, seed. ``.pull(arm)`` is a click; ``.buttons`` are the arms.

    Example:
        >>> explorer = BanditExplorer()
        >>> explorer.buttons[2].click()
        >>> explorer.record.pulled, explorer.error
        ((2,), None)
    """

    controls, record, error, widget, static, _ipython_display_ = VIEWED

    def __init__(self, agent: Agent | Mapping[str, Agent] | None = None) -> None:
        self.agents = {} if agent is None else {"learned agent": agent} if isinstance(agent, Agent) else dict(agent)
        self._trial, self._pulled = (0, 0, 0), list[int]()
        self._rivals = functools.lru_cache(maxsize=8)(self._played)
        tick: dict[str, Any] = {"style": STYLE, "indent": False}
        controls = {
            "arms": ipw.IntSlider(description="Arms", min=2, max=_MOST_ARMS, value=10, **LATE),
            "pulls": ipw.IntSlider(description="Pulls", min=10, max=_MOST_PULLS, step=10, value=30, **LATE),
            "beliefs": ipw.Checkbox(description="Show what can be believed", value=True, **tick),
            "regret": ipw.Checkbox(description="Show my regret before the end", value=False, **tick),
            "seed": ipw.IntText(value=0),
        }
        self.buttons = [
            button(f"Arm {i + 1}", f"Pull arm {i + 1}", functools.partial(self.pull, i), width="62px")
            for i in range(_MOST_ARMS)
        ]
        again = another(controls["seed"], "New trial", "Draw other arms and begin anew")
        self.table = ipw.HTML()
        ticks = ipw.HBox([controls["beliefs"], controls["regret"]], layout=ROW)
        rows = [controls["arms"], controls["pulls"], ticks, ipw.HBox(self.buttons, layout=ROW), again]
        told = "An explorer with a button for each arm of a bandit, and sliders for arms and pulls"
        self._view = Explorer(controls, self._current, self.draw, rows=rows, instead=told)
        self._view.widget.children = (*self._view.widget.children, self.table)
        for control in controls.values():
            control.observe(self._settle, names="value")
        self._view.refresh()
        self._settle()

    def pull(self, arm: int) -> None:
        """Pull an arm, counted from 0; nothing happens when the trial is over, or there is no such arm."""
        if not self._closed and arm < self.controls["arms"].value:
            self._pulled.append(arm)
            self._view.refresh()
            self._settle()

    def compute(
        self,
        *,
        arms: int = 10,
        pulls: int = 30,
        beliefs: bool = True,
        regret: bool = False,
        seed: int = 0,
        pulled: Sequence[int] = (),
    ) -> records.BanditTrial:
        """The record for one setting of the controls, after so many pulls of arms counted from 0."""
        arms, pulls = whole("arms", arms, least=2), whole("pulls", pulls)
        means, pays = drawn_arms(arms, pulls, seed)
        before = [list(pulled[:k]).count(arm) for k, arm in enumerate(pulled)]
        paid = tuple(int(pays[arm, n]) for arm, n in zip(pulled, before, strict=True))
        others = self._rivals(arms, pulls, seed)
        return records.BanditTrial(means, pulls, tuple(pulled), paid, others, beliefs, regret)

    @staticmethod
    def draw(fig: Figure, record: records.BanditTrial) -> None:
        """The arms on the left, the players on the right."""
        fig.set(figwidth=8.6, figheight=4.2, dpi=100, facecolor="white")
        left, right = fig.subplots(1, 2, width_ratios=(1.25, 1))
        fig.subplots_adjust(left=0.07, right=0.985, top=0.92, bottom=0.16, wspace=0.2)
        for ax, draw in ((left, plots.draw_arms), (right, plots.draw_trial)):
            ax.spines[["top", "right"]].set_visible(False)
            draw(ax, record)

    def _current(self, *, arms: int, pulls: int, seed: int, beliefs: bool, regret: bool) -> records.BanditTrial:
        if (trial := (arms, pulls, seed)) != self._trial:
            self._trial, self._pulled = trial, []
        return self.compute(arms=arms, pulls=pulls, seed=seed, beliefs=beliefs, regret=regret, pulled=self._pulled)

    def _played(self, arms: int, pulls: int, seed: int) -> records.RegretCurves:
        return rivals(self.agents, drawn_arms(arms, pulls, seed)[0], pulls, seed=seed)

    @property
    def _closed(self) -> bool:
        return self.error is not None or self.record.over

    def _settle(self, change: Any = None) -> None:
        """As many buttons as arms, none to be clicked when the trial is over; the table then."""
        for i, each in enumerate(self.buttons):
            each.layout.display = "" if i < self.controls["arms"].value else "none"
            each.disabled = self._closed
        self.table.value = _table(self.record) if self.error is None and self.record.over else ""


def _table(record: records.BanditTrial) -> str:
    """Who was paid and lost how much, the least regret first."""
    lines = []
    for name, paid, lost in record.table:
        weight = "bold" if name == "you" else "normal"
        numbers = "".join(f"<td style='text-align:right'>{number:.1f}</td>" for number in (paid, lost))
        lines.append(f"<tr style='font-weight:{weight}'><td>{html.escape(name)}</td>{numbers}</tr>")
    head = "<tr><th>player</th><th>return</th><th>regret</th></tr>"
    told = f"Your one trial, and the means of {record.rivals.worlds} trials on the same arms"
    return f"<table style='border-spacing:12px 2px'><caption>{told}</caption>{head}{''.join(lines)}</table>"
