"""Agents at work: beliefs about arms, regret, what a memory holds, episodes of a trial, and paths to a goal."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from metakit.plots.figures import BLACK, BLUE, CYCLE, DASHES, GREY, ORANGE, RED, SKY
from metakit.records.agents import EpisodeReturns, NavigationPaths, ReadOut, RegretCurves
from metakit.records.bandits import BanditTrial, Beliefs
from metakit.records.words import count

_SHADES = (ORANGE, SKY, "#2E8FC9", BLUE)  # before adaptation, and after each inner step
_SHOWN = 8  # episodes, or there is nothing but lines to be seen
_LEGEND: dict[str, Any] = {"fontsize": 8, "framealpha": 0.9, "edgecolor": "none"}


def draw_belief_curves(ax: Axes, record: Beliefs) -> None:
    """The density of each arm's chance, as curves."""
    for i, (density, s, f) in enumerate(zip(record.density, record.successes, record.failures, strict=True)):
        style: dict[str, Any] = {"color": CYCLE[i % len(CYCLE)], "ls": DASHES[i % 4]}
        ax.plot(record.x.tolist(), density.tolist(), lw=1.8, label=f"arm {i + 1}: {_tally(s, f)} paid", **style)
    ax.set(xlim=(0, 1), ylim=(0, None), xlabel="chance of being paid", ylabel="density", title="Beliefs about the arms")
    ax.legend(**_LEGEND)


def draw_beliefs(ax: Axes, record: Beliefs, *, means: Tensor | None = None, last: int | None = None) -> None:
    """The posterior of each arm side by side, each as wide as it is likely; its mean; the truth, if it is told.

    Arguments:
        ax: where to draw.
        record: the beliefs.
        means: the true chances, ``[A]``.
        last: the arm that is drawn in another colour.
    """
    for arm, density in enumerate(record.density):
        wide = (0.42 * density / density.max()).numpy()
        colour = ORANGE if arm == last else SKY
        ax.fill_betweenx(record.x.numpy(), arm + 1 - wide, arm + 1 + wide, color=colour, alpha=0.7, lw=0)
    arms = range(1, len(record.density) + 1)
    ax.plot(arms, record.mean.tolist(), color=BLUE, marker="o", ms=4, ls="none", label="posterior mean")
    if means is not None:
        ax.plot(arms, means.tolist(), color=BLACK, marker="D", ms=6, mec="white", ls="none", label="true chance")
    _arms(ax, record)
    ax.set(ylim=(0, 1.14), ylabel="chance of being paid", title="Beliefs, as wide as likely")
    ax.legend(**_LEGEND, loc="upper center", ncols=2)


def draw_arms(ax: Axes, record: BanditTrial) -> None:
    """What the reader has seen of the arms: beliefs, or else the bare numbers; the true chances at the end."""
    means, last = record.means if record.over else None, record.pulled[-1] if record.pulled else None
    if record.show_beliefs:
        draw_beliefs(ax, record.beliefs, means=means, last=last)
        return
    s, f = record.beliefs.successes, record.beliefs.failures
    arms = range(1, len(record.means) + 1)
    ax.bar(arms, s.tolist(), width=0.7, color=BLUE, label="paid")
    ax.bar(arms, f.tolist(), width=0.7, bottom=s.tolist(), color=GREY, alpha=0.5, label="did not pay")
    _arms(ax, record.beliefs)
    ax.set(ylabel="pulls", title="What the arms did", ylim=(0, 1.25 * max(4.0, float((s + f).max()))))
    ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    if means is not None:
        for arm, mean in zip(arms, means.tolist(), strict=True):
            ax.annotate(f"{mean:.2f}", (arm, float((s + f)[arm - 1])), (0, 2), textcoords="offset points", ha="center")
        ax.set_title("What the arms did, and their true chances")
    ax.legend(**_LEGEND, loc="upper center", ncols=2)


def draw_regret(ax: Axes, record: RegretCurves) -> None:
    """Mean regret of each player after each step, with its 95% band."""
    steps = range(1, record.regret.shape[1] + 1)
    for i, (name, mean, half) in enumerate(zip(record.names, record.regret, record.half, strict=True)):
        colour = CYCLE[i % len(CYCLE)]
        ax.plot(steps, mean.tolist(), color=colour, ls=DASHES[i % 4], lw=1.6, label=f"{name}: {float(mean[-1]):.3g}")
        ax.fill_between(steps, (mean - half).tolist(), (mean + half).tolist(), color=colour, alpha=0.18, lw=0)
    ax.set(xlabel=record.axis, ylabel="regret so far", xlim=(0, len(steps)), ylim=(0, None))
    ax.set_title(f"Mean regret in {record.worlds} worlds")
    ax.legend(**_LEGEND, loc="upper left")


def draw_trial(ax: Axes, record: BanditTrial) -> None:
    """The reader among the others: regret when it may be told, what was paid before."""
    so_far, rivals = range(1, len(record.pulled) + 1), record.rivals
    told = record.over or record.show_regret
    lines, own = (rivals.regret, record.lost) if told else (rivals.paid, None)
    paid = [sum(record.paid[:k]) for k in so_far]
    for i, (name, line) in enumerate(zip(rivals.names, lines, strict=True)):
        style: dict[str, Any] = {"color": CYCLE[i % len(CYCLE)], "ls": DASHES[i % 4]}
        ax.plot(range(1, len(line) + 1), line.tolist(), lw=1.4, label=f"{name}: {float(line[-1]):.1f}", **style)
    mine = paid if own is None else own.tolist()
    label = f"you: {mine[-1]:.3g}" if mine else "you"
    ax.plot(so_far, mine, color=BLACK, lw=2.4, marker="o", ms=3, markevery=[len(mine) - 1] if mine else [], label=label)
    ax.set(xlim=(0, record.pulls), xlabel="pulls", ylabel="regret so far" if told else "paid so far")
    ax.set_ylim(0, 1.35 * max(1.0, float(lines.max()), *mine))  # room for the legend
    ax.set_title(f"The same arms, mean of {rivals.worlds} trials")
    ax.legend(**_LEGEND, loc="upper left")


def draw_read_out(ax: Axes, record: ReadOut) -> None:
    """The share of the posterior means that a linear map reads from the state, after each number of pulls."""
    pulls = record.pulls.tolist()
    ax.plot(pulls, record.trained.tolist(), color=BLUE, lw=2, label="trained")
    ax.plot(pulls, record.untrained.tolist(), color=RED, ls="--", lw=1.6, label="untrained, told the same")
    lowest = min(0.0, float(record.trained.min()), float(record.untrained.min()))
    ax.set(xlabel="pulls", ylabel="R^2 on other trials", ylim=(max(-1.0, lowest - 0.02), 1.03))
    ax.set_title("Posterior means, read from the state")
    ax.legend(**_LEGEND, loc="lower left")


def draw_episodes(ax: Axes, record: EpisodeReturns) -> None:
    """The mean return of each episode of a trial, with its 95% interval, and what one earns who knows the world."""
    episodes = range(1, record.mean.shape[1] + 1)
    for i, (name, mean, half) in enumerate(zip(record.names, record.mean, record.half, strict=True)):
        style: dict[str, Any] = {"color": CYCLE[i % len(CYCLE)], "ls": DASHES[i % 4], "marker": "os^D"[i % 4]}
        ax.errorbar(episodes, mean.tolist(), yerr=half.tolist(), ms=4, lw=1.6, capsize=2, label=name, **style)
    ax.axhline(record.best, color=GREY, lw=1.2, ls=":", label="who knows the world")
    ax.set(xlabel="episode of a trial", ylabel="return", title=f"Mean over {record.trials} trials")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend(**_LEGEND)


def draw_paths(ax: Axes, record: NavigationPaths) -> None:
    """Some paths before adaptation and after each inner step, the start, and the goal that no policy sees."""
    for k, paths in enumerate(record.paths):
        colour, last = _SHADES[min(k, 3)], k == record.steps
        name = "before adaptation" if k == 0 else f"after {count(k, 'inner step')}"
        for i, path in enumerate(paths[:_SHOWN].tolist()):
            x, y = zip(*path, strict=True)
            ax.plot(x, y, color=colour, lw=1.3 if last else 0.8, alpha=0.8, label=None if i else name)
    ax.plot(0, 0, marker="o", ms=8, color=BLACK, ls="none", label="start", zorder=5)
    ax.plot(*record.goal.tolist(), marker="*", ms=16, color=RED, mec="white", ls="none", label="goal", zorder=6)
    edge = max(0.8, float(record.goal.abs().max()) + 0.2)
    ax.set(xlim=(-edge, edge), ylim=(-edge, edge), xlabel="x", ylabel="y", aspect="equal")
    ax.xaxis.set_major_locator(MaxNLocator(5))
    ax.set_title(f"{min(_SHOWN, record.paths.shape[1])} paths of each policy")
    ax.legend(
        **_LEGEND, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=3, columnspacing=1.2
    )  # paths go anywhere


def draw_path_returns(ax: Axes, record: NavigationPaths) -> None:
    """The return of each episode and their mean after each inner step, and the best that is possible."""
    for k, returns in enumerate(record.returns):
        ax.plot([k] * len(returns), returns.tolist(), color=_SHADES[min(k, 3)], marker="o", ms=3, ls="none", alpha=0.5)
    mean = record.mean.tolist()
    ax.plot(range(len(mean)), mean, color=BLACK, marker="D", ms=5, lw=1.4, label="mean")
    ax.axhline(record.best, color=GREY, lw=1.2, ls=":", label="the best possible")
    ax.set(xlabel="inner step", ylabel="return of an episode", title="Return after each step", xlim=(-0.5, 3.5))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend(**_LEGEND, loc="lower right")


def _tally(successes: Tensor, failures: Tensor) -> str:
    return f"{int(successes)}/{int(successes + failures)}"


def _arms(ax: Axes, record: Beliefs) -> None:
    """Arms along the axis, each with what it did."""
    tallies = [_tally(s, f) for s, f in zip(record.successes, record.failures, strict=True)]
    ax.set_xticks(range(1, len(tallies) + 1), [f"{i}\n{tally}" for i, tally in enumerate(tallies, 1)])
    ax.tick_params(axis="x", labelsize=8, length=0)
    ax.set(xlim=(0.4, len(tallies) + 0.6), xlabel="arm, and how often it paid")
