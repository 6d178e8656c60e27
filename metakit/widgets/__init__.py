"""Things to turn and see: each explorer has a pure ``compute(...) -> record``, a ``draw``, and thin controls."""

from metakit.widgets.adaptation import AdaptationExplorer, adaptation, draw_adaptation_and_steps
from metakit.widgets.explorer import Explorer, show_widget
from metakit.widgets.live import LiveCurve

__all__ = ["AdaptationExplorer", "Explorer", "LiveCurve", "adaptation", "draw_adaptation_and_steps", "show_widget"]
