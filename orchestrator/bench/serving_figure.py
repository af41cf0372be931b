"""The picture of `keymixer bench serving`: images a second, and a processor second."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from core.wire import write_atomically
from orchestrator.simulation.report.drawing import (
    AMBER,
    BLUE,
    INK,
    MUTED,
    TEAL,
    as_svg,
    quiet,
    ruled,
)

_PLOTS: Final = (
    ("images_per_s", "images a second"),
    ("images_per_cpu_s", "images a second of the server's processors"),
)
_BAR: Final = 0.38


def write_figure(report: Mapping[str, Any], path: Path) -> None:
    """Write it as an SVG file.

    Args:
        report: As `measure_serving` gives it.
        path: Where to.

    Raises:
        StorageError: it cannot be written.
    """
    rows = sorted(report["rows"], key=lambda row: row["images_per_s"])
    height = 1.0 + _BAR * len(rows)
    figure = Figure(figsize=(10.0, height), layout="constrained")
    for axes, (field, title) in zip(
        figure.subplots(1, 2, sharey=True), _PLOTS, strict=True
    ):
        _draw(axes, rows, field, title)
    svg = as_svg(figure, "What is served, and by what", background="white")
    write_atomically(path, svg.encode())


def _draw(
    axes: Axes, rows: Sequence[Mapping[str, Any]], field: str, title: str
) -> None:
    ruled(axes)
    names = [row["peer"] for row in rows]
    values = [row[field] for row in rows]
    bars = axes.barh(names, values, color=[_colour(name) for name in names])
    axes.bar_label(bars, fmt="{:,.0f}", padding=3, color=INK, fontsize=8)
    axes.set_xlim(0, 1.15 * max(values))
    axes.set_title(title, loc="left", color=INK, fontsize=10)
    axes.tick_params(labelsize=8, labelcolor=MUTED)
    quiet(axes)


def _colour(name: str) -> str:
    """Ours, engines with nothing around them, and everybody else's."""
    if name.startswith("keymixer"):
        return BLUE
    return TEAL if name.startswith("bare") else AMBER
