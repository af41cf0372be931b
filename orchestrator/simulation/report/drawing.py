"""The look of the report's figures: their colours, and axes without ornament."""

import io
from collections.abc import Callable
from typing import Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK: Final = "#1d2733"
MUTED: Final = "#66727f"
GRID: Final = "#e3e8ee"
SHADE: Final = "#f4f6f9"
BLUE: Final = "#2f6fb3"
TEAL: Final = "#1c8a7d"
RED: Final = "#c0453b"
AMBER: Final = "#c98a1b"
VIOLET: Final = "#8a4fa3"


def drawn(draw: Callable[[Axes], None], size: tuple[float, float], title: str) -> str:
    """Draw on axes of our own (no global state) and return the SVG element.

    Args:
        draw: called with the axes.
        size: width and height in inches.
        title: what a person who does not see the figure is told.
    """
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    ruled(axes)
    draw(axes)
    quiet(axes)
    return as_svg(figure, title)


def as_svg(figure: Figure, title: str, background: str = "none") -> str:
    """A figure as an SVG element that stands in the page itself, or in a file."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", facecolor=background, metadata={"Date": None})
    svg = buffer.getvalue()
    element = svg[svg.index("<svg") :]
    return element.replace("<svg", f'<svg role="img" aria-label="{title}"', 1)


def ruled(axes: Axes) -> None:
    """Give the axes a faint grid, behind what is drawn."""
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)


def quiet(axes: Axes) -> None:
    """Take away every line and tick that says nothing."""
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(GRID)
    axes.tick_params(colors=MUTED, length=0)
    for label in (*axes.get_xticklabels(), *axes.get_yticklabels()):
        label.set_color(INK)
