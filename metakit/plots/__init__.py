"""Pictures of records: each ``draw_*(ax, record)`` takes an axis and a record, draws, and computes nothing new.

fig, ax = plots.figure()
plots.draw_history(ax, history)
plots.show(fig, "Loss at each outer step; it falls from 4 to 0.6.")
"""

from metakit.plots.adaptation import Adaptation, draw_adaptation, draw_steps
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
from metakit.plots.learning import draw_evaluation, draw_history, draw_rates

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
    "YELLOW",
    "Adaptation",
    "check_alt",
    "draw_adaptation",
    "draw_evaluation",
    "draw_history",
    "draw_rates",
    "draw_steps",
    "figure",
    "png",
    "show",
]
