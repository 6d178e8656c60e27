"""Buttons that set an explorer to something worth seeing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import ipywidgets as ipw

from metakit.widgets.explorer import show_widget


class Presets:
    """An explorer with a button for each of a few interesting settings above it.

    Arguments:
        explorer: it has ``.controls`` by name and ``.widget``; or pads to draw on, ``.draw(place, strokes)``.
        settings: by the button's text: what to set, by the name of the control or pad.

    Raises:
        ValueError: if a setting names a control that the explorer does not have.

    Example:
        >>> from metakit.widgets import SurfaceExplorer
        >>> surface = SurfaceExplorer()
        >>> presets = Presets(surface, {"No inner step": {"inner_lr": 0.0}})
        >>> presets.buttons["No inner step"].click()
        >>> surface.record.inner_lr
        0.0
    """

    def __init__(self, explorer: Any, settings: Mapping[str, Mapping[str, Any]]) -> None:
        self._apply: Callable[[str, Any], None]
        if hasattr(explorer, "pads"):
            names, self._apply, shown = set(explorer.places), explorer.draw, explorer.pads
        else:
            names, shown = set(explorer.controls), explorer.widget
            self._apply = lambda name, value: setattr(explorer.controls[name], "value", value)
        for text, setting in settings.items():
            if unknown := setting.keys() - names:
                raise ValueError(f"{text!r} must set {', '.join(sorted(names))}, got {min(unknown)!r}. Rename it.")
        self.buttons = {text: ipw.Button(description=text, layout={"width": "auto"}) for text in settings}
        for text, button in self.buttons.items():
            button.on_click(lambda _, setting=settings[text]: self._set(setting))
        row = ipw.HBox(list(self.buttons.values()), layout={"flex_flow": "row wrap"})
        self.widget = ipw.VBox([row, shown])

    def _set(self, setting: Mapping[str, Any]) -> None:
        for name, value in setting.items():
            self._apply(name, value)

    def _ipython_display_(self) -> None:
        show_widget(self.widget, f"An explorer with buttons for settings: {', '.join(self.buttons)}")
