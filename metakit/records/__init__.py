"""Records: what there is to see, computed by the widgets, drawn by the plots, and told in words by ``str(record)``."""

from metakit.records.adaptation import Adaptation
from metakit.records.challenges import Outside, Sweep
from metakit.records.clusters import Clusters
from metakit.records.descent import Race
from metakit.records.images import Drawn, EmbeddingMap, Episode
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
    "horizon_surfaces",
    "rule_course",
    "rule_surface",
]
