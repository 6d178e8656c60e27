"""Draw the figures of the slides through metakit.plots, from the code that the lessons run.

    python slides/figures.py            # all of them anew, into slides/build/figures/
    python slides/figures.py steps_run  # one

Each function named in FIGURES returns one figure; seeds and settings are those of its lesson, so the numbers are too.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
import sys
from collections.abc import Callable

import torch
from matplotlib.figure import Figure

import metakit as mk
from metakit import agents, course, plots, records, widgets
from metakit.course import stand_ins
from metakit.inner import run, stacked, task_loss, trajectory
from metakit.outer.muon import Muon

HERE = pathlib.Path(__file__).resolve().parent
SINES = mk.tasks.Sinusoids(shots=10, queries=10)


def network() -> mk.models.MLP:
    """The network of the sine lessons, with the same random weights each time."""
    torch.manual_seed(0)
    return mk.models.MLP(1, [40, 40], 1)


# ------------------------------------------------------------------------------------------------- 00 start here


@functools.cache
def start_here() -> tuple[mk.MAML, mk.MAML]:
    """The two learners of lesson 00: fresh, and meta-trained for 3,000 outer steps."""
    fresh = mk.MAML(network(), rule=mk.SGD(lr=0.01), steps=1)
    learner = mk.MAML(mk.models.MLP(1, [40, 40], 1), rule=mk.SGD(lr=0.01), steps=1)
    mk.fit(learner, SINES, steps=3000, meta_batch=25, lr=0.003, progress=False)
    return fresh, learner


def sine(learner: mk.MAML) -> Figure:
    """The curve of lesson 00, learned from ten points in five steps."""
    fig, ax = plots.figure(8, 4)
    plots.draw_adaptation(ax, widgets.adaptation(learner, SINES, amplitude=4.0, phase=1.0, steps=5))
    return fig


def sine_fresh() -> Figure:
    """From random weights."""
    return sine(start_here()[0])


def sine_trained() -> Figure:
    """From meta-trained weights."""
    return sine(start_here()[1])


def sine_many() -> Figure:
    """Both on 600 new curves."""
    named = zip(("from scratch", "meta-trained"), start_here(), strict=True)
    fig, ax = plots.figure(8, 4)
    plots.draw_evaluation(ax, {name: mk.evaluate(who, SINES, n_tasks=600, steps=10) for name, who in named})
    return fig


# -------------------------------------------------------------------------------------------------- 01 background


@functools.cache
def three_starts() -> dict[str, mk.models.MLP]:
    """From scratch, pre-trained and meta-learned, as lesson 01 trains them."""
    rule = mk.SGD(lr=0.01)
    pretraining, metalearning = mk.FineTune(network(), rule=rule), mk.MAML(network(), rule=rule, steps=1)
    for learner in (pretraining, metalearning):
        mk.fit(learner, SINES, steps=1500, meta_batch=25, lr=0.003, seed=0, progress=False)
    return {"from scratch": network(), "pre-trained": pretraining.model, "meta-learned": metalearning.model}


def head_start(steps: int = 10) -> Figure:
    """The race of the three starts."""
    fig, ax = plots.figure(8, 4)
    plots.draw_head_start(ax, widgets.head_start(three_starts(), SINES, steps=steps))
    return fig


def head_start_long() -> Figure:
    """The same race over 300 steps."""
    return head_start(steps=300)


def timeline() -> Figure:
    """Eight works on learning to learn."""
    fig, ax = plots.figure(9.6, 4.6)
    plots.draw_timeline(ax, course.background.STORY)
    return fig


# ---------------------------------------------------------------------------------------------------- 02 concepts


def loops() -> Figure:
    """Inner and outer loop."""
    fig, ax = plots.figure(8.4, 4.4)
    plots.draw_loops(ax)
    return fig


def clusters() -> Figure:
    """Clusters of unnamed drawings."""
    glyphs = mk.tasks.Glyphs(alphabets=40, characters=10, drawers=10, size=16, seed=0)
    return widgets.ClusterExplorer(glyphs.classes(range(300))).static()


# ------------------------------------------------------------------------------------------------ 03 the seven steps


def steps_run() -> Figure:
    """The seven steps at the end of a run."""
    walk = widgets.StepsExplorer(target=0.7)
    walk.run()
    walk.wait()
    return walk.static()


def surface() -> Figure:
    """Exact and first order on two tasks."""
    return widgets.SurfaceExplorer().static()


# -------------------------------------------------------------------------------------------------- 04 the inner loop


@torch.no_grad()
def noise() -> Figure:
    """Support and query loss of 100 tasks, on targets that are noise and on targets that are linear."""
    torch.manual_seed(0)
    model = mk.models.MLP(10, [5], 1)
    linear = mk.tasks.LinearRegression(rows=100, features=10, noise=0.1).sample(100, seed=0)
    targets = torch.randn(2, 100, 100, 1, generator=torch.Generator().manual_seed(1))
    pure = mk.TaskBatch(linear.support_x, targets[0], linear.query_x, targets[1])
    fig, axes = plots.figure(9.6, 4.2, columns=2)
    for ax, (name, batch) in zip(axes, {"pure noise": pure, "a linear function": linear}.items(), strict=True):
        weights = stacked(dict(model.named_parameters()), len(batch))
        path = trajectory(model, weights, batch.support_x, batch.support_y, rule=mk.SGD(lr=0.01), steps=1000, order=1)
        kept = [now for k, now in enumerate(path) if k % 20 == 0]
        sides = {"support": (batch.support_x, batch.support_y), "query": (batch.query_x, batch.query_y)}
        for (side, (x, y)), colour, dash in zip(sides.items(), (plots.BLUE, plots.RED), ("-", "--"), strict=True):
            losses = [float(task_loss(run(model, now, x), y).mean()) for now in kept]
            ax.plot(range(0, 1001, 20), losses, color=colour, ls=dash, label=side)
        ax.set(xlabel="inner step", ylabel="mean squared error", title=f"The targets are {name}", ylim=(0, None))
        ax.legend(frameon=False)
    return fig


def race() -> Figure:
    """Four rules on one task, one rate for all."""
    return widgets.DescentExplorer().static()


# -------------------------------------------------------------------------------------------------- 05 the outer loop


@functools.cache
def outer_loop() -> dict[str, mk.MAML]:
    """Meta-trained and trained on all tasks at once, as lesson 05 does it."""
    learners = {
        name: mk.MAML(network(), rule=mk.SGD(lr=0.01), steps=k) for name, k in (("MAML", 1), ("all at once", 0))
    }
    for learner in learners.values():
        mk.fit(learner, SINES, steps=2000, lr=0.003, progress=False)
    return learners


def learned_starts() -> Figure:
    """The functions of both starts before any step, and the average of all curves."""
    fig, ax = plots.figure(8, 4.2)
    for (name, learner), colour, dash in zip(outer_loop().items(), (plots.BLUE, plots.RED), ("-", "--"), strict=True):
        record = widgets.adaptation(learner, SINES, amplitude=4.0, phase=0.5, steps=1)
        ax.plot(record.x, record.curves[0], color=colour, ls=dash, label=name)
    ax.plot(record.x, -2.55 * 2 / torch.pi * record.x.cos(), color=plots.BLACK, ls=":", label="average of all curves")
    ax.set(xlabel="x (radians)", ylabel="y (no unit)", title="Before any adaptation")
    ax.legend(frameon=False)
    return fig


def one_step() -> Figure:
    """Both starts after one step on the same ten points."""
    fig, axes = plots.figure(9.6, 4.2, columns=2)
    for ax, (name, learner) in zip(axes, outer_loop().items(), strict=True):
        record = widgets.adaptation(learner, SINES, amplitude=4.0, phase=0.5, steps=1)
        plots.draw_adaptation(ax, record, legend=False)
        ax.set_title(f"{name}: loss {float(record.loss[0]):.2f}, then {float(record.loss[1]):.2f}")
    return fig


# ------------------------------------------------------------------------------------------- 06 architecture search


def sizes() -> Figure:
    """Training, validation and test loss over the number of hidden units."""
    batch, test = widgets.hidden_rows(n_tasks=20, noise=0.5, seed=0)
    units = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
    _, population = mk.search.train([{"units": h, "learning_rate": 0.05} for h in units], batch, steps=1000)
    fig, ax = plots.figure(8, 4.2)
    sides = {
        "training": population.losses(batch.support_x, batch.support_y),
        "validation": population.losses(batch.query_x, batch.query_y),
        "test": population.losses(test.query_x, test.query_y),
    }
    plots.draw_against(ax, units, sides, log=False)
    ax.set_xscale("log", base=2)
    ax.set(xlabel="hidden units", ylabel="mean squared error (y squared)", title="20 data sets, mean with 95% band")
    ax.set_xticks(units, [str(h) for h in units])
    ax.minorticks_off()
    return fig


def sharpen() -> Figure:
    """The model of the cross-entropy method, round by round."""
    batch, test = widgets.hidden_rows(n_tasks=20, noise=0.5, seed=0)
    strategy = mk.search.CrossEntropy(population=20, elite=5)
    options = {"strategy": strategy, "rounds": 7, "steps": 400, "progress": False}
    fig, ax = plots.figure(9.6, 4.2)
    plots.draw_distribution(ax, mk.search.run(widgets.NETWORKS, batch[0], test=test[0], **options))
    return fig


# ----------------------------------------------------------------------------------------------- 07 few-shot images


@functools.cache
def unseen() -> mk.tasks.LabelledData:
    """The twenty alphabets that lesson 07 keeps away."""
    glyphs = mk.tasks.Glyphs(alphabets=60, seed=0)
    return glyphs.classes((glyphs.alphabet >= 40).nonzero()[:, 0])


def episode_pixels() -> Figure:
    """One 5-way 1-shot task, answered by the nearest pixels."""
    fig, ax = plots.figure(9, 4.6)
    pixels = mk.NearestNeighbour()
    plots.draw_episode(ax, widgets.episode(pixels, unseen(), ways=5, shots=1, alphabet=3, seed=0, name="pixels"))
    return fig


def maps() -> Figure:
    """Six unseen characters, by pixels, before and after training a prototype network."""
    glyphs = mk.tasks.Glyphs(alphabets=60, seed=0)
    seen = glyphs.classes((glyphs.alphabet < 40).nonzero()[:, 0])
    options = {"within": "alphabet", "drawers": "different"}
    torch.manual_seed(0)
    prototypes = mk.ProtoNet(mk.models.ConvNet(width=16))
    episodes = mk.tasks.Episodes(seen, ways=20, shots=1, queries=2, **options)
    mk.fit(prototypes, episodes, steps=300, meta_batch=2, lr=0.003, progress=False)
    torch.manual_seed(0)
    networks = {
        "pixels": torch.nn.Flatten(),
        "before training": mk.models.ConvNet(width=16),
        "after training": prototypes.embedding,
    }
    fig, axes = plots.figure(11.0, 4.4, columns=3)
    for ax, (name, embedding) in zip(axes, networks.items(), strict=True):
        record = widgets.embedding_map(embedding, unseen().classes(range(6)))
        plots.draw_embedding(ax, record)
        ax.set_title(f"{name}: {100 * record.spread:.0f} % within", fontsize=10)
    return fig


# ------------------------------------------------------------------------------------------- 08 learned optimisers


def ways() -> Figure:
    """Adam, a learned rule and conjugate gradients on one quadratic."""
    return widgets.OptimizerExplorer().static()


def horizons() -> Figure:
    """The meta-loss over one rate, at three horizons, and what is left of it under noise."""
    fig, axes = plots.figure(11.0, 4.0, columns=3)
    for ax, record in zip(axes, records.horizon_surfaces(), strict=True):
        plots.draw_horizon_surface(ax, record)
    return fig


def noisy_rows() -> Figure:
    """Training rows as large as their learned weight."""
    return widgets.NoisyExamplesExplorer().static()


# -------------------------------------------------------------------------------- 09 meta-reinforcement learning

OPTIONS = {"clip": 1.0, "schedule": "CosineAnnealingLR", "progress": False}


def bandit_trial() -> Figure:
    """Thirty pulls of ten arms by a greedy player, beside its rivals."""
    torch.manual_seed(0)
    agent = mk.ArmsAgent()
    towns = mk.tasks.Bandits(arms=(2, 10), pulls=(10, 100))
    ppo = mk.PPO(50, 4, entropy=0.001)
    mk.fit(agent, towns, steps=600, meta_batch=128, lr=0.005, estimator=ppo, **OPTIONS)
    explorer = widgets.BanditExplorer(agent)
    while not explorer.record.over:
        explorer.pull(int(explorer.record.beliefs.mean.argmax()))
    return explorer.static()


def beliefs() -> Figure:
    """Beliefs about three arms."""
    fig, ax = plots.figure(8, 3.4)
    plots.draw_belief_curves(ax, records.belief_curves(successes=[8, 1, 0], failures=[3, 1, 0]))
    return fig


def episodes() -> Figure:
    """The return of each episode, with the state kept and cleared."""
    small = mk.tasks.MDPs(states=3, actions=2, horizon=4, episodes=8)
    torch.manual_seed(0)
    walker = mk.RL2(2, observation=(3,), hidden=32, reward_mean=1.0, reward_spread=1.4)
    ppo = mk.PPO(100, 4, smoothing=0.9)
    mk.fit(walker, small, steps=400, meta_batch=128, lr=0.01, estimator=ppo, **OPTIONS)
    beside = {"RL2": walker, "RL2, state cleared": agents.Forgetful(walker)}
    planners = {"posterior sampling": agents.PSRL, "planner with a bonus": agents.PosteriorMean}
    beside |= {name: made(states=3, actions=2, horizon=4) for name, made in planners.items()}
    fig, ax = plots.figure(8, 4.2)
    plots.draw_episodes(ax, records.episode_returns(beside, small, n_tasks=2000))
    return fig


def goal_paths() -> Figure:
    """Paths to a hidden goal before and after three inner steps."""
    torch.manual_seed(0)
    learner = agents.PolicyMAML(agents.GaussianPolicy(2, 2, hidden=(32, 32), std=0.1), episodes=20)
    mk.fit(learner, mk.tasks.Navigation(steps=100), steps=80, meta_batch=15, lr=0.01, progress=False)
    explorer = widgets.NavigationExplorer(learner)
    for name, value in {"x": -0.4, "y": 0.3, "steps": 3}.items():
        explorer.controls[name].value = value
    return explorer.static()


# --------------------------------------------------------------------------------------------------- 10 in context

CURVES = mk.tasks.GaussianProcesses(lengthscale=(0.3, 1.5), noise=(0.1, 0.3), context=(0, 16), queries=24)
GRID = torch.linspace(-2, 2, 161)
READING = {"optimizer": Muon, "schedule": "CosineAnnealingLR", "clip": 1.0, "progress": False}


@functools.cache
def read_curves() -> mk.InContext:
    """The learner of curves."""
    torch.manual_seed(0)
    learner = mk.InContext(mk.models.SetTransformer(inputs=1, width=48, layers=3), bins=100)
    mk.fit(learner, mk.tasks.Steady(CURVES), steps=220, meta_batch=61, lr=0.02, **READING)
    return learner


def five_points(exact: bool = False) -> Figure:
    """Five points of a curve, and what exact Bayes makes of them."""
    process = widgets.one_process(CURVES, lengthscale=0.5, noise=0.1)
    truth, x, y = widgets.drawn_function(process, GRID, rows=5, seed=8)
    fig, ax = plots.figure(8, 4)
    ax.plot(x, y, "o", color=plots.BLACK)
    ax.set(xlabel="x", ylabel="y", xlim=(-2, 2), ylim=(-3.2, 3.2))
    if exact:
        answer = mk.ExactGP(process).distribution(x[:, None], y[:, None], GRID[:, None])
        low, high = answer.quantile(0.025), answer.quantile(0.975)
        ax.fill_between(GRID, low, high, color=plots.SKY, alpha=0.35, lw=0, label="95% band")
        ax.plot(GRID, answer.mean, color=plots.BLUE, lw=3, label="posterior mean")
        ax.plot(GRID, truth, color=plots.GREY, ls=":", lw=3, label="the curve")
        ax.legend(frameon=False, loc="lower left")
    else:
        ax.axvline(-0.4, color=plots.GREY, ls=":")
    return fig


def five_exact() -> Figure:
    """The posterior of the five points."""
    return five_points(exact=True)


def read_points() -> Figure:
    """The answer of the network to the five points, beside exact Bayes over the prior."""
    process = widgets.one_process(CURVES, lengthscale=0.5, noise=0.1)
    _, x, y = widgets.drawn_function(process, GRID, rows=5, seed=8)
    fig, ax = plots.figure(8, 4.2)
    plots.draw_posteriors(ax, records.posterior_bands(read_curves(), mk.GridGP(CURVES, points=6), x, y, GRID))
    return fig


def wrong_beliefs() -> Figure:
    """KL to exact Bayes over lengthscales inside and outside the prior."""
    fig, ax = plots.figure(8, 4.2)
    record = records.outside_prior(
        read_curves(),
        lambda value: mk.ExactGP(dataclasses.replace(CURVES, lengthscale=value)),
        (0.08, 0.15, 0.3, 0.5, 0.9, 1.5, 3.0),
        trained=CURVES.lengthscale,
        reference=mk.GridGP(CURVES, points=6),
        n_tasks=100,
    )
    plots.draw_outside_prior(ax, record)
    return fig


def few_rows() -> Figure:
    """Squared error over context rows: learned, exact Bayes and least squares."""
    linear = mk.tasks.LinearRegression(rows=(1, 16), features=3, noise=0.5, queries=16)
    torch.manual_seed(0)
    reader = mk.InContext(mk.models.SetTransformer(3, width=48, layers=3, frequencies=0), bins=60).calibrate(linear)
    mk.fit(reader, mk.tasks.Steady(linear), steps=240, meta_batch=61, lr=0.02, **READING)
    yardsticks = {"exact Bayes": mk.BayesLinear(linear), "least squares": mk.LeastSquares()}
    options = {"n_tasks": 1000, "measure": mk.contracts.LOSS}
    fig, ax = plots.figure(8, 4.2)
    learned = {"learned in context": reader}
    record = records.context_curve(learned, yardsticks, linear, (1, 2, 3, 4, 6, 8, 12, 16), **options)
    plots.draw_context_curve(ax, record, log=True)
    return fig


def moons() -> Figure:
    """Two half moons, as the classifier of tables and a random forest see them."""
    return widgets.TableExplorer(mk.TableClassifier.load()).static()


# -------------------------------------------------------------------------------------------------- 11 applications


def asked() -> Figure:
    """What is made of a question, from three examples of each of three classes."""
    learner, _ = mk.recipes.language.train(stand_ins.intents().train, steps=60, progress=False)
    classes = {
        "card lost": ["I lost my card", "my card was stolen", "where did I leave my card"],
        "top up": ["how do I top up", "my top up failed", "can I add money"],
        "exchange": ["what is the exchange rate", "change euros to dollars", "is the rate fair"],
    }
    contender = {"learned gains": mk.recipes.language.Logistic(learner.embedding)}
    return widgets.TextExplorer(contender, classes, question="someone took my card, what now?").static()


def settings_tried() -> Figure:
    """The race of settings on the first data set."""
    return widgets.RaceOfSettings(stand_ins.trials()[0]).static()


# ---------------------------------------------------------------------------------------------------- 12 challenges


def outside() -> Figure:
    """Losses on amplitudes and phases that no training task had."""
    explorer = widgets.OutsideExplorer(outer_loop()["MAML"], SINES)
    explorer.controls["amplitude"].value = 8.0
    return explorer.static()


# -------------------------------------------------------------------------------------------------------- 14 trends


def layers() -> Figure:
    """The loss of linear attention over its layers, beside ridge regression."""
    tasks = mk.tasks.LinearRegression(rows=20, features=5, noise=0.3, queries=20)
    batch = tasks.sample(600, seed=1)
    model = mk.models.MLP(5, [], 1)
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    descent = mk.MAML(model, rule=mk.SGD(lr=0.2), steps=20, adapt="head.weight")
    fig, ax = plots.figure(8, 4.2)
    plots.draw_evaluation(ax, {"rate 0.2": mk.evaluate(descent, batch)}, log=True)
    ridge = float((tasks.ridge(batch) - batch.query_y).square().mean())
    ax.axhline(ridge, color=plots.GREY, lw=3, label="ridge regression")
    ax.set(xlabel="layers read, or gradient steps", title="600 new linear tasks, mean with 95% band")
    ax.legend(frameon=False)
    return fig


FIGURES: dict[str, Callable[[], Figure]] = {
    made.__name__: made
    for made in (
        *(sine_fresh, sine_trained, sine_many),  # 00
        *(head_start, head_start_long, timeline),  # 01
        *(loops, clusters),  # 02
        *(steps_run, surface),  # 03
        *(noise, race),  # 04
        *(learned_starts, one_step),  # 05
        *(sizes, sharpen),  # 06
        *(episode_pixels, maps),  # 07
        *(ways, horizons, noisy_rows),  # 08
        *(bandit_trial, beliefs, episodes, goal_paths),  # 09
        *(five_points, five_exact, read_points, wrong_beliefs, few_rows, moons),  # 10
        *(asked, settings_tried),  # 11
        outside,  # 12
        layers,  # 14
    )
}


def draw(name: str, folder: pathlib.Path, *, anew: bool = False) -> pathlib.Path:
    """Draw one figure into a folder, if it is missing there or older than this file."""
    path = folder / f"{name}.svg"
    if anew or not path.exists() or path.stat().st_mtime < pathlib.Path(__file__).stat().st_mtime:
        torch.set_num_threads(1)  # Small networks: a second core would only wait for the first.
        folder.mkdir(parents=True, exist_ok=True)
        FIGURES[name]().savefig(path, format="svg")
    return path


if __name__ == "__main__":
    for wanted in sys.argv[1:] or FIGURES:
        print(draw(wanted, HERE / "build" / "figures", anew=True).name, flush=True)
