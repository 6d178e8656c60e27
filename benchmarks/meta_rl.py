"""Meta-reinforcement learning beside the exact optimum, the classic rules and the published figures.

    python benchmarks/meta_rl.py [--parts bandits rl2 mdp navigation speed] [--quick] [--output FILE.json]

bandits: one agent for all nine cells of Duan et al. 2016, three seeds, beside the rules on the same worlds. rl2: a
recurrent agent for each of four cells. mdp: tabular decision processes of 10 and 25 episodes. navigation: the return
after 0 to 3 inner steps. speed: steps of worlds a second. Each part called renews its own figures in the results.
"""

from __future__ import annotations

import argparse
import json
import math
import pathlib
import time
from typing import Any

import measure
import torch

import metakit as mk
from metakit import agents
from metakit.contracts import REGRET
from metakit.recipes import agents as recipe

CELLS = [(pulls, arms) for pulls in (10, 100, 500) for arms in (5, 10, 50)]
FURTHER = (1000, 100)
PUBLISHED = {  # total reward: Duan et al. 2016, table 1, and Mishra et al. 2018, table 1
    "Gittins": (6.6, 6.6, 6.5, 78.3, 82.8, 85.2, 405.8, 437.8, 463.7),
    "UCB1": (6.7, 6.7, 6.6, 78.0, 82.4, 84.3, 405.8, 437.1, 457.6),
    "RL2": (6.7, 6.7, 6.8, 78.7, 83.5, 84.9, 401.6, 432.5, 438.9),
    "SNAIL": (6.6, 6.7, 6.7, 79.1, 83.5, 85.1, 408.1, 432.4, 442.6),
}
OF_MDPS = {"RL2, published": (156.2, 445.7), "SNAIL, published": (159.1, 447.2)}
SEED = 77


def summary(values: torch.Tensor) -> list[float]:
    """Mean and half of its 95% interval."""
    return [float(values.mean()), 1.96 * float(values.std()) / len(values) ** 0.5]


def judged(agent: Any, cell: tuple[int, int], worlds: int) -> torch.Tensor:
    """The regret of each trial of a cell; the worlds are the same for every agent."""
    pulls, arms = cell
    found = mk.evaluate(agent, mk.tasks.Bandits(arms, pulls), n_tasks=worlds, seed=SEED)
    return found.scores[REGRET][:, -1]


def on_bandits(minutes: float, seeds: int, worlds: int, cells: list[tuple[int, int]]) -> dict[str, Any]:
    """Return of each contender in each cell, the best arm's mean less its regret; and regret beside Gittins."""
    players: dict[str, Any] = {"Thompson": agents.Thompson(), "UCB1": agents.UCB1(), "Optimistic": agents.Optimistic()}
    trained = {
        f"ours, seed {seed}": recipe.arms_agent(minutes=minutes, seed=seed, progress=False) for seed in range(seeds)
    }
    players |= {name: agent for name, (agent, _) in trained.items()}
    rows: dict[str, Any] = {name: {} for name in ("Gittins", *players)}
    exact: dict[str, float] = {}
    for pulls, arms in cells:
        best, key = pulls * arms / (arms + 1), f"{pulls}, {arms}"
        regrets = {name: judged(player, (pulls, arms), worlds) for name, player in players.items()}
        if pulls <= 500:
            regrets["Gittins"] = judged(agents.Gittins(), (pulls, arms), worlds)
        if pulls <= 10:
            exact[key] = agents.BayesOptimal.value(arms, pulls)
        beside = regrets.get("Gittins", regrets["Thompson"])
        for name, regret in regrets.items():
            mean, half = summary(regret)
            rows[name][key] = {"return": [best - mean, half], "less": summary(beside - regret)}
        print(
            key,
            {name: [round(x, 2) for x in row[key]["return"]] for name, row in rows.items() if key in row},
            flush=True,
        )
    steps = {name: history.steps for name, (_, history) in trained.items()}
    return {"rows": rows, "exact": exact, "minutes": minutes, "worlds": worlds, "steps": steps}


def on_cells(minutes: float, worlds: int) -> dict[str, Any]:
    """A recurrent agent trained for each of four cells."""
    rows = {}
    for pulls, arms in ((10, 5), (10, 10), (10, 50), (100, 5)):
        torch.manual_seed(0)
        agent = mk.RL2(arms)
        history = mk.fit(agent, mk.tasks.Bandits(arms, pulls), minutes=minutes, progress=False, **recipe.RECURRENT)
        mean, half = summary(judged(agent, (pulls, arms), worlds))
        rows[f"{pulls}, {arms}"] = {"return": [pulls * arms / (arms + 1) - mean, half], "steps": history.steps}
        print(pulls, arms, rows[f"{pulls}, {arms}"], flush=True)
    return {"rows": rows, "minutes": minutes, "worlds": worlds}


def on_mdps(minutes: float, worlds: int) -> dict[str, Any]:
    """Total reward in tabular decision processes: a recurrent agent trained for each length, and planners."""
    rows: dict[str, Any] = {}
    for episodes in (10, 25):
        tasks = mk.tasks.MDPs(episodes=episodes)
        torch.manual_seed(0)
        learned, recurrent = recipe.attentive(tasks), recipe.rl2(tasks)
        history = mk.fit(learned, tasks, minutes=minutes, progress=False, **recipe.SEARCHING)
        mk.fit(recurrent, tasks, minutes=minutes, progress=False, **recipe.RECURRENT)
        players = {
            "known model": agents.KnownModel(),
            "posterior mean with a bonus": agents.PosteriorMean(10, 5, 10),
            "PSRL": agents.PSRL(10, 5, 10),
            "learned, attentive": learned,
            "learned, recurrent": recurrent,
        }
        optimum = None
        for name, player in players.items():
            result = mk.evaluate(player, tasks, n_tasks=worlds, seed=SEED)
            regret, paid = result.scores[REGRET][:, -1], result.score[:, -1]
            optimum = paid.mean() if optimum is None else optimum
            rows.setdefault(name, {})[str(episodes)] = {"return": summary(paid), "regret": summary(regret)}
            print(episodes, name, rows[name][str(episodes)], flush=True)
        rows["learned, attentive"][str(episodes)]["steps"] = history.steps
    return {"rows": rows, "minutes": minutes, "worlds": worlds}


def on_paths(minutes: float, worlds: int) -> dict[str, Any]:
    """The return after 0 to 3 inner steps, from each start."""
    rows = {}
    made = {
        "second order": {"order": 2},
        "first order": {"order": 1},
        "one policy for all goals": {"steps": 0},
        "untrained": {},
    }
    for name, options in made.items():
        torch.manual_seed(0)
        learner = recipe.navigator(**options)
        if name != "untrained":
            mk.fit(learner, mk.tasks.Navigation(), minutes=minutes, progress=False, **recipe.NAVIGATION)
        result = mk.evaluate(learner, mk.tasks.Navigation(), n_tasks=worlds, steps=3, seed=SEED)
        rows[name] = [summary(result.score[:, stage]) for stage in range(4)]
        print(name, rows[name], flush=True)
    return {"rows": rows, "minutes": minutes, "worlds": worlds}


def speed(worlds: int, steps: int) -> dict[str, float]:
    """Steps of worlds a second with random actions, in turns, one thread."""
    import gymnasium

    drawn = {
        "bandits, 5 arms": mk.tasks.Bandits().sample(worlds, seed=0),
        "decision processes, 10 states": mk.tasks.MDPs().sample(worlds, seed=0),
        "mazes": mk.tasks.Mazes().sample(worlds, seed=0),
    }
    poles = gymnasium.make_vec("CartPole-v1", num_envs=worlds, vectorization_mode="vector_entry_point")
    poles.reset(seed=0)
    times: dict[str, list[float]] = {name: [] for name in (*drawn, "gymnasium, CartPole, vectorised")}
    for _ in range(5):
        for name, batch in drawn.items():
            state, _ = batch.begin()
            begun = time.perf_counter()
            for _ in range(steps):
                state, _ = batch.step(state, torch.randint(batch.actions, (worlds,)))
            times[name].append(time.perf_counter() - begun)
        begun = time.perf_counter()
        for _ in range(steps):
            poles.step(poles.action_space.sample())
        times["gymnasium, CartPole, vectorised"].append(time.perf_counter() - begun)
    return {name: worlds * steps / sorted(each)[2] for name, each in times.items()}


def text(found: dict[str, Any]) -> str:
    """The tables of all parts that there are."""
    blocks = []
    if "bandits" in found:
        part, cells = found["bandits"], [f"{pulls}, {arms}" for pulls, arms in (*CELLS, FURTHER)]
        rows = [[f"{name}, published", *(f"{value:g}" for value in values), ""] for name, values in PUBLISHED.items()]
        rows.append(["exact optimum", *(f"{part['exact'][c]:.3f}" if c in part["exact"] else "" for c in cells)])
        for name, row in part["rows"].items():
            rows.append([name, *(spread(row[c]["return"]) if c in row else "" for c in cells)])
        body = measure.table(("", *cells), rows)
        less = [
            [name, *(spread(row[c]["less"]) if c in row else "" for c in cells)] for name, row in part["rows"].items()
        ]
        about = (
            f"Pulls, arms. Ours is one agent for all cells, {part['minutes']:g} minutes of one core on 4 to 25 arms; "
            f"{part['worlds']} worlds, the same for all; a return is that of the best arm less the regret, the mean "
            "over the worlds."
        )
        blocks.append(f"## Bandits, total reward\n\n{about}\n\n{body}")
        paired = measure.table(("", *cells), less)
        blocks.append(f"### More reward than Gittins (at 1,000 pulls: than Thompson), in pairs\n\n{paired}")
    if "rl2" in found:
        part = found["rl2"]
        rows = [
            (cell, spread(row["return"]), f"{PUBLISHED['RL2'][[f'{n}, {k}' for n, k in CELLS].index(cell)]:g}")
            for cell, row in part["rows"].items()
        ]
        head = measure.table(("pulls, arms", f"recurrent, {part['minutes']:g} minutes a cell", "published"), rows)
        blocks.append(f"## A recurrent agent for one cell\n\n{head}")
    if "mdp" in found:
        part = found["mdp"]
        rows = [[name, f"{ten:g}", f"{more:g}"] for name, (ten, more) in OF_MDPS.items()]
        rows += [[name, *(spread(row[n]["return"]) for n in row)] for name, row in part["rows"].items()]
        about = f"Learned: {part['minutes']:g} minutes of one core for each length; {part['worlds']} worlds."
        blocks.append(
            f"## Tabular decision processes, total reward\n\n{about}\n\n{measure.table(('', '10', '25'), rows)}"
        )
    if "navigation" in found:
        part = found["navigation"]
        rows = [[name, *(spread(stage) for stage in row)] for name, row in part["rows"].items()]
        body = measure.table(("inner steps", "0", "1", "2", "3"), rows)
        blocks.append(f"## Navigation, return\n\n{part['minutes']:g} minutes of one core each.\n\n{body}")
    if "speed" in found:
        body = measure.table(("", "steps of worlds a second"), [(n, f"{v:,.0f}") for n, v in found["speed"].items()])
        blocks.append(f"## Speed, one thread\n\n{body}")
    return "\n\n".join(blocks)


def spread(pair: list[float]) -> str:
    """A mean and half of its interval, to the digits that it bears."""
    mean, half = pair
    digits = max(0, 1 - math.floor(math.log10(half))) if half > 0 else 2
    return f"{mean:.{digits}f} +- {half:.{digits}f}"


def main() -> None:
    """Measure, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parts = ("bandits", "rl2", "mdp", "navigation", "speed")
    parser.add_argument("--parts", nargs="*", choices=parts, default=parts)
    parser.add_argument("--quick", action="store_true", help="seconds of training, few worlds: does it run")
    parser.add_argument("--output", type=pathlib.Path, default=measure.RESULTS / "meta_rl.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    quick, found = options.quick, {}
    if options.output.exists():
        found = {entry["part"]: entry["found"] for entry in json.loads(options.output.read_text())["results"]}
    makers = {
        "bandits": lambda: on_bandits(
            *((0.05, 1, 100, CELLS[:3]) if quick else (5.0, 3, 1000, [*CELLS, FURTHER])),
        ),
        "rl2": lambda: on_cells(*((0.05, 100) if quick else (5.0, 2000))),
        "mdp": lambda: on_mdps(*((0.05, 50) if quick else (20.0, 1000))),
        "navigation": lambda: on_paths(*((0.1, 20) if quick else (3.0, 200))),
        "speed": lambda: speed(*((50, 20) if quick else (1000, 200))),
    }
    for part in options.parts:
        found[part] = makers[part]()
        facts = measure.machine(torch=torch.__version__, threads=1)
        results = [{"part": name, "found": found[name]} for name in parts if name in found]
        measure.write(options.output, "Meta-reinforcement learning", facts, results, text(found))


if __name__ == "__main__":
    main()
