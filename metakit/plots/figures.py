"""Paper to draw on, colours told apart by every reader, and ways to show a figure."""

from __future__ import annotations

import io
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

# The palette of Okabe and Ito 2008, told apart by readers of every colour vision.
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
YELLOW, BLUE, RED, PURPLE = "#F0E442", "#0072B2", "#D55E00", "#CC79A7"
GREY = "#767676"
CYCLE = (BLUE, RED, GREEN, PURPLE, ORANGE, SKY, BLACK)
DASHES = ("-", "--", "-.", ":")
_DPI = 100


def figure(width: float = 6.4, height: float = 3.8, *, columns: int = 1, ratios: Any = None) -> tuple[Figure, Any]:
    """A white figure (so that it reads in a dark theme too) and its axis, or its axes where there are several.

    Arguments:
        width, height: size in inches, of 100 dots each.
        columns: number of axes beside each other.
        ratios: their relative widths.
    """
    fig = Figure(figsize=(width, height), dpi=_DPI, facecolor="white", layout="tight")
    axes = fig.subplots(1, columns, width_ratios=ratios, squeeze=False)[0]
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
    return fig, axes[0] if columns == 1 else axes


def png(fig: Figure, *, compress: int = 9) -> bytes:
    """The figure as PNG; a live picture, read once, is quicker with ``compress=1``."""
    buffer = io.BytesIO()
    fig.savefig(buffer, format="png", dpi=_DPI, pil_kwargs={"compress_level": compress})
    return buffer.getvalue()


def show(fig: Figure, alt: str) -> None:
    """Show the figure in a notebook, with a caption that tells what it shows.

    The text is kept as the picture's ``alt`` too; JupyterLab 4 does not pass that on to a screen reader, and reads the
    caption.

    Raises:
        ValueError: if the text is missing.
    """
    from IPython.display import Image, Markdown, display  # here, so that plots serves without a notebook

    display(Image(png(fig), alt=check_alt(alt)), Markdown(f"*Figure: {alt}*"))


def check_alt(alt: str) -> str:
    """The description of a picture, if there is one."""
    if not isinstance(alt, str) or len(alt.split()) < 3:
        raise ValueError(
            f"alt must tell in a sentence what the picture shows, got {alt!r}. Not every reader can see it."
        )
    return alt


def plain_log_axis(ax: Axes) -> None:
    """A logarithmic axis labelled 0.5, 1, 2: plain numbers, some of them between the powers of ten."""
    ax.set_yscale("log")
    ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter("{x:g}")
