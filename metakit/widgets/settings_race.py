"""The race of hyperparameter settings: which to try first on a data set that nobody has tried any on."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ipywidgets as ipw
from matplotlib.figure import Figure

from metakit import plots, records
from metakit.checks import choice, whole
from metakit.recipes import hyperparameters
from metakit.tasks import TrialTables
from metakit.widgets.explorer import LINE, VIEWED, Explorer

Order = Callable[[TrialTables, str, int], Sequence[int]] | Sequence[int]
EVERY = "all of them"


class RaceOfSettings:
    """Leave a data set out, and see who finds good settings for it in few trials, and where they lie.

    Regret is how far the best score so far lies below the best of all, in % of the span of the data set's scores. The
    orders of a data set are made once, when it is chosen.

    Arguments:
        tables: scores of settings on data sets.
        orders: by contender, an order of settings, or what makes one for a data set: ``(tables, name, trials)`` to a
            list of numbers; it must not look at the scores of what it has not tried. Those of
            ``recipes.hyperparameters.compared`` when left out.
        trials: at most.

    After each change ``.record`` is the ``records.SettingsRace`` shown, and ``.error`` the exception if there was one.
    Controls by name: dataset, trials, contender (whose trials are numbered), plane (which settings are shown).

    Raises:
        ValueError: if there are no contenders.

    Example:
        >>> import torch
        >>> scores = torch.tensor([[1.0, 0.0, 0.9], [0.0, 1.0, 0.8], [0.0, 0.9, 1.0], [0.1, 1.0, 0.7]])
        >>> tables = TrialTables(settings=torch.eye(3), scores=scores, names=tuple("abcd"), shots=1, queries=2)
        >>> race = RaceOfSettings(tables, {"in turn": [0, 1, 2], "back": lambda *about: [2, 1, 0]})
        >>> race.controls["dataset"].value = "d"
        >>> race.record.regret["in turn"], race.error
        (tensor([100.,   0.,   0.]), None)
    """

    controls, record, error, widget, static, _ipython_display_ = VIEWED

    def __init__(
        self,
        tables: TrialTables,
        orders: Mapping[str, Order] | None = None,
        *,
        trials: int = hyperparameters.TRIALS,
    ) -> None:
        self.tables, self.orders = tables, orders
        self.most = min(whole("trials", trials), len(tables.settings))
        if orders is not None and not orders:
            raise ValueError('there must be a contender, got none. Give {"in turn": [0, 1, 2]}, or leave orders out.')
        planes = records.settings_planes(tables)
        self.planes = {EVERY: planes}
        if len(planes) > 1:
            self.planes |= {plane.kind: (plane,) for plane in planes}
        self._known: dict[str, Mapping[str, Sequence[int]]] = {}
        names = list(orders or self._made(tables.names[0]))
        controls = self._make_controls(names)
        hidden = {name for name, several in (("contender", names), ("plane", planes)) if len(several) == 1}
        rows = [control for name, control in controls.items() if name not in hidden]
        told = "An explorer with lists of data sets, contenders and kinds of settings, and a slider for trials"
        self._view = Explorer(controls, self._current, self.draw, rows=rows, instead=told)
        self._view.refresh()

    def compute(
        self, *, dataset: str | None = None, trials: int = 5, contender: str | None = None, plane: str = EVERY
    ) -> records.SettingsRace:
        """The record for one setting of the controls; see ``records.settings_race``."""
        name, shown = dataset or self.tables.names[0], self.planes[choice("plane", plane, self.planes)]
        made = self._made(name)
        return records.settings_race(self.tables, name, made, trials=trials, contender=contender, planes=shown)

    @staticmethod
    def draw(fig: Figure, record: records.SettingsRace) -> None:
        """The regret on the left; on the right the settings, a plane above the other, as tall as it has rows."""
        fig.set(figwidth=8.6, figheight=5.4, dpi=100, facecolor="white")
        left = fig.add_axes((0.075, 0.2, 0.385, 0.72))
        left.spines[["top", "right"]].set_visible(False)
        plots.draw_settings_regret(left, record)
        left.legend(fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2)
        tall = [len(plane.rows) + 0.5 for plane in record.planes]
        sides: dict[str, Any] = {"left": 0.545, "right": 0.985, "top": 0.88, "bottom": 0.14, "hspace": 0.4}
        grid = fig.add_gridspec(len(tall), height_ratios=tall, **sides)
        for place, plane in enumerate(record.planes):
            ax = fig.add_subplot(grid[place])
            plots.draw_settings_plane(ax, record, plane)
            if plane is not record.planes[-1] and plane.columns == record.planes[place + 1].columns:
                ax.tick_params(labelbottom=False)  # the plane below says it
                ax.set_xlabel("")
        for ax in fig.axes:  # Left to itself, matplotlib measures every label twice.
            x = fig.dpi * fig.get_figwidth() * ax.get_position().width
            y = fig.dpi * fig.get_figheight() * ax.get_position().height
            ax.set_title(ax.get_title(), fontsize=ax.title.get_fontsize(), y=1.0)
            ax.xaxis.set_label_coords(0.5, -32 / y)
            ax.yaxis.set_label_coords(-46 / x, 0.5)
        fig.text(0.765, 0.95, f"Trials of: {record.contender}", ha="center", fontsize=10)
        told = "yellow: the best scores, blue: the worst; red frame: the best of all"
        fig.text(0.765, 0.02, told, ha="center", fontsize=8)

    def _make_controls(self, names: list[str]) -> dict[str, Any]:
        most, several = self.most, ipw.Dropdown
        return {
            "dataset": several(description="Data set", options=list(self.tables.names), **LINE),
            "trials": ipw.IntSlider(description="Trials", min=1, max=most, value=min(5, most), **LINE),
            "contender": several(description="Numbered", options=names, **LINE),
            "plane": several(description="Settings", options=list(self.planes), **LINE),
        }

    def _current(self, **values: Any) -> records.SettingsRace:
        if values["dataset"] not in self._known:
            self._view.sentence.value = f"Racing on {html.escape(values['dataset'])} ..."
        return self.compute(**values)

    def _made(self, name: str) -> Mapping[str, Sequence[int]]:
        """The orders of a data set, made when they are first asked for."""
        if name not in self._known:
            about = self.tables, name, self.most
            self._known[name] = (
                hyperparameters.compared(*about)
                if self.orders is None
                else {each: order(*about) if callable(order) else order for each, order in self.orders.items()}
            )
        return self._known[name]
