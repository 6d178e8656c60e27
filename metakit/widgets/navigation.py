"""The navigation explorer: a policy that a few policy gradient steps adapt to a goal that it cannot see."""

from __future__ import annotations

from typing import Any

import ipywidgets as ipw
from matplotlib.figure import Figure

from metakit import plots, records
from metakit.agents.gradient import PolicyMAML
from metakit.widgets.explorer import LATE, VIEWED, Explorer, another

_MOST_STEPS = 3


class NavigationExplorer:
    """Set the goal, the inner steps and the size of their moves; see the paths before and after adaptation.

    Arguments:
        learner: a ``PolicyMAML`` for ``Navigation``, trained.

    After each change ``.record`` is the ``records.NavigationPaths`` shown, and ``.error`` the exception if there was
    one. Controls by name: x, y, steps, factor, seed.

    Example:
        >>> from metakit.agents.gradient import GaussianPolicy
        >>> explorer = NavigationExplorer(PolicyMAML(GaussianPolicy(2, 2, std=0.1), episodes=4))
        >>> explorer.controls["steps"].value = 2
        >>> explorer.record.paths.shape, explorer.error
        (torch.Size([3, 4, 101, 2]), None)
    """

    controls, record, error, widget, static, _ipython_display_ = VIEWED

    def __init__(self, learner: PolicyMAML) -> None:
        self.learner = learner
        place: dict[str, Any] = {"min": -0.5, "max": 0.5, "step": 0.05, **LATE}
        controls = {
            "x": ipw.FloatSlider(description="Goal, x", value=0.3, **place),
            "y": ipw.FloatSlider(description="Goal, y", value=-0.2, **place),
            "steps": ipw.IntSlider(description="Inner steps", min=0, max=_MOST_STEPS, value=1, **LATE),
            "factor": ipw.FloatSlider(description="Rate, times", min=0, max=4, step=0.25, value=1.0, **LATE),
            "seed": ipw.IntText(value=0),
        }
        again = another(controls["seed"], "Other noise", "Let the policy act again, with other noise")
        rows = [*(control for name, control in controls.items() if name != "seed"), again]
        told = "An explorer with sliders for the goal, the inner steps and the inner rate"
        self._view = Explorer(controls, self.compute, self.draw, rows=rows, instead=told)
        self._view.refresh()

    def compute(
        self, *, x: float = 0.3, y: float = -0.2, steps: int = 1, factor: float = 1.0, seed: int = 0
    ) -> records.NavigationPaths:
        """The record for one setting of the controls; see ``records.navigation_paths``."""
        return records.navigation_paths(self.learner, (x, y), steps, factor=factor, seed=seed)

    @staticmethod
    def draw(fig: Figure, record: records.NavigationPaths) -> None:
        """The paths on the left, their returns on the right."""
        fig.set(figwidth=8.6, figheight=4.8, dpi=100, facecolor="white")
        left, right = fig.subplots(1, 2)
        fig.subplots_adjust(left=0.08, right=0.985, top=0.93, bottom=0.22, wspace=0.22)
        for ax, draw in ((left, plots.draw_paths), (right, plots.draw_path_returns)):
            ax.spines[["top", "right"]].set_visible(False)
            draw(ax, record)
