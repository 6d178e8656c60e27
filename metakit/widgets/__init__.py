"""Things to turn and see: each explorer has a pure ``compute(...) -> record``, a ``draw``, and thin controls."""

from metakit.widgets.adaptation import AdaptationExplorer, adaptation, draw_adaptation_and_steps
from metakit.widgets.bandits import BanditExplorer
from metakit.widgets.canvas import Canvas, ink, recognise
from metakit.widgets.challenges import OutsideExplorer, outside
from metakit.widgets.clusters import FEATURES, ClusterExplorer, features, sorted_drawings
from metakit.widgets.descent import DescentExplorer, descent
from metakit.widgets.embedding import embedding_map
from metakit.widgets.episodes import EpisodeExplorer, episode
from metakit.widgets.explorer import Explorer, show_widget
from metakit.widgets.live import LiveCurve
from metakit.widgets.navigation import NavigationExplorer
from metakit.widgets.noisy_examples import NoisyExamplesExplorer, noisy_examples
from metakit.widgets.optimizers import OptimizerExplorer, optimizer_paths, quadratic_rule
from metakit.widgets.presets import Presets
from metakit.widgets.processes import YARDSTICKS, ProcessExplorer, drawn_function, one_process
from metakit.widgets.race import RaceExplorer, head_start, racers
from metakit.widgets.search import NETWORKS, STRATEGIES, SearchExplorer, SearchRound, hidden_rows, search_rounds
from metakit.widgets.settings_race import RaceOfSettings
from metakit.widgets.steps import StepsExplorer, seven_steps
from metakit.widgets.surface import SurfaceExplorer, surface
from metakit.widgets.tables import PRESETS, TableExplorer, preset_points
from metakit.widgets.texts import ClassRows, TextExplorer

__all__ = [
    "FEATURES",
    "NETWORKS",
    "PRESETS",
    "STRATEGIES",
    "YARDSTICKS",
    "AdaptationExplorer",
    "BanditExplorer",
    "Canvas",
    "ClassRows",
    "ClusterExplorer",
    "DescentExplorer",
    "EpisodeExplorer",
    "Explorer",
    "LiveCurve",
    "NavigationExplorer",
    "NoisyExamplesExplorer",
    "OptimizerExplorer",
    "OutsideExplorer",
    "Presets",
    "ProcessExplorer",
    "RaceExplorer",
    "RaceOfSettings",
    "SearchExplorer",
    "SearchRound",
    "StepsExplorer",
    "SurfaceExplorer",
    "TableExplorer",
    "TextExplorer",
    "adaptation",
    "descent",
    "draw_adaptation_and_steps",
    "drawn_function",
    "embedding_map",
    "episode",
    "features",
    "head_start",
    "hidden_rows",
    "ink",
    "noisy_examples",
    "one_process",
    "optimizer_paths",
    "outside",
    "preset_points",
    "quadratic_rule",
    "racers",
    "recognise",
    "search_rounds",
    "seven_steps",
    "show_widget",
    "sorted_drawings",
    "surface",
]
