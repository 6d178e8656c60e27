"""Pictures of records: each ``draw_*(ax, record)`` takes an axis and a record, draws, and computes nothing new.

fig, ax = plots.figure()
plots.draw_history(ax, history)
plots.show(fig, "Loss at each outer step; it falls from 4 to 0.6.")
"""

from metakit.plots.adaptation import draw_adaptation, draw_steps
from metakit.plots.challenges import draw_against, draw_layers, draw_outside
from metakit.plots.clusters import draw_clusters
from metakit.plots.compare import draw_comparison
from metakit.plots.descent import draw_race
from metakit.plots.figures import (
    BLACK,
    BLUE,
    CYCLE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    RED,
    SKY,
    YELLOW,
    check_alt,
    figure,
    png,
    show,
)
from metakit.plots.images import draw_drawn, draw_embedding, draw_episode
from metakit.plots.learning import draw_evaluation, draw_history, draw_rates
from metakit.plots.loops import draw_loops
from metakit.plots.optimizers import (
    draw_example_weights,
    draw_horizon_slopes,
    draw_horizon_surface,
    draw_noisy_examples,
    draw_optimizer_losses,
    draw_optimizer_paths,
    draw_rule_course,
    draw_rule_surface,
)
from metakit.plots.search import draw_distribution, draw_population, draw_search
from metakit.plots.stages import draw_progress, draw_starts, draw_trials
from metakit.plots.starts import draw_head_start
from metakit.plots.surface import draw_surface, draw_weighting
from metakit.plots.timeline import draw_timeline
from metakit.records import (
    TITLES,
    Adaptation,
    Clusters,
    Drawn,
    EmbeddingMap,
    Episode,
    Event,
    HeadStart,
    HorizonSurface,
    NoisyExamples,
    OptimizerPaths,
    Outside,
    Race,
    RuleCourse,
    RuleSurface,
    Score,
    Stage,
    Surface,
    Sweep,
    horizon_surfaces,
    rule_course,
    rule_surface,
)

__all__ = [
    "BLACK",
    "BLUE",
    "CYCLE",
    "GREEN",
    "GREY",
    "ORANGE",
    "PURPLE",
    "RED",
    "SKY",
    "TITLES",
    "YELLOW",
    "Adaptation",
    "Clusters",
    "Drawn",
    "EmbeddingMap",
    "Episode",
    "Event",
    "HeadStart",
    "HorizonSurface",
    "NoisyExamples",
    "OptimizerPaths",
    "Outside",
    "Race",
    "RuleCourse",
    "RuleSurface",
    "Score",
    "Stage",
    "Surface",
    "Sweep",
    "check_alt",
    "draw_adaptation",
    "draw_against",
    "draw_clusters",
    "draw_comparison",
    "draw_distribution",
    "draw_drawn",
    "draw_embedding",
    "draw_episode",
    "draw_evaluation",
    "draw_example_weights",
    "draw_head_start",
    "draw_history",
    "draw_horizon_slopes",
    "draw_horizon_surface",
    "draw_layers",
    "draw_loops",
    "draw_noisy_examples",
    "draw_optimizer_losses",
    "draw_optimizer_paths",
    "draw_outside",
    "draw_population",
    "draw_progress",
    "draw_race",
    "draw_rates",
    "draw_rule_course",
    "draw_rule_surface",
    "draw_search",
    "draw_starts",
    "draw_steps",
    "draw_surface",
    "draw_timeline",
    "draw_trials",
    "draw_weighting",
    "figure",
    "horizon_surfaces",
    "png",
    "rule_course",
    "rule_surface",
    "show",
]
