"""Records: what there is to see, computed by the widgets, drawn by the plots, and told in words by ``str(record)``."""

from metakit.records.adaptation import Adaptation
from metakit.records.agents import (
    EpisodeReturns,
    NavigationPaths,
    ReadOut,
    RegretCurves,
    episode_returns,
    navigation_paths,
    read_out,
    regret_curves,
)
from metakit.records.applications import (
    NearExample,
    SettingsPlane,
    SettingsRace,
    TextAnswers,
    settings_planes,
    settings_race,
    text_answers,
)
from metakit.records.bandits import BanditTrial, Beliefs, belief_curves
from metakit.records.challenges import Outside, Sweep
from metakit.records.clusters import Clusters
from metakit.records.decisions import DecisionMap, DecisionMaps, decision_maps
from metakit.records.descent import Race
from metakit.records.images import Drawn, EmbeddingMap, Episode
from metakit.records.in_context import (
    Band,
    ContextCurve,
    OutsidePrior,
    PosteriorBands,
    context_curve,
    outside_prior,
    posterior_bands,
)
from metakit.records.optimizers import (
    HorizonSurface,
    NoisyExamples,
    OptimizerPaths,
    RuleCourse,
    RuleSurface,
    horizon_surfaces,
    rule_course,
    rule_surface,
)
from metakit.records.stages import TITLES, Score, Stage
from metakit.records.starts import HeadStart
from metakit.records.surface import Surface
from metakit.records.timeline import Event

__all__ = [
    "TITLES",
    "Adaptation",
    "Band",
    "BanditTrial",
    "Beliefs",
    "Clusters",
    "ContextCurve",
    "DecisionMap",
    "DecisionMaps",
    "Drawn",
    "EmbeddingMap",
    "Episode",
    "EpisodeReturns",
    "Event",
    "HeadStart",
    "HorizonSurface",
    "NavigationPaths",
    "NearExample",
    "NoisyExamples",
    "OptimizerPaths",
    "Outside",
    "OutsidePrior",
    "PosteriorBands",
    "Race",
    "ReadOut",
    "RegretCurves",
    "RuleCourse",
    "RuleSurface",
    "Score",
    "SettingsPlane",
    "SettingsRace",
    "Stage",
    "Surface",
    "Sweep",
    "TextAnswers",
    "belief_curves",
    "context_curve",
    "decision_maps",
    "episode_returns",
    "horizon_surfaces",
    "navigation_paths",
    "outside_prior",
    "posterior_bands",
    "read_out",
    "regret_curves",
    "rule_course",
    "rule_surface",
    "settings_planes",
    "settings_race",
    "text_answers",
]
