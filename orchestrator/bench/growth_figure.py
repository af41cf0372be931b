"""The figure of a log's growth: four small plots over the number of records."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

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

Looks = Sequence[Mapping[str, float]]


class _Line(NamedTuple):
    field: str
    label: str
    colour: str


_PLOTS: Final[tuple[tuple[str, tuple[_Line, ...]], ...]] = (
    (
        "records a second",
        (
            _Line("appends_per_s", "appended", BLUE),
            _Line("verified_per_s", "verified", TEAL),
        ),
    ),
    (
        "milliseconds",
        (
            _Line("inclusion_ms", "prove a record", BLUE),
            _Line("consistency_ms", "prove an extension", TEAL),
            _Line("request_ms", "find a request", AMBER),
        ),
    ),
    ("MB of memory to verify", (_Line("verify_mb", "", BLUE),)),
    ("bytes on disk a record", (_Line("bytes_a_record", "", BLUE),)),
)


def write_figure(looks: Looks, path: Path) -> None:
    """Write the figure as an SVG file.

    Args:
        looks: As `measure_growth` reports them.
        path: Where to.

    Raises:
        StorageError: it cannot be written.
    """
    figure = Figure(figsize=(9.0, 5.6), layout="constrained")
    for axes, (title, lines) in zip(figure.subplots(2, 2).flat, _PLOTS, strict=True):
        _draw(axes, title, lines, looks)
    svg = as_svg(figure, "What a log costs as it grows")
    write_atomically(path, svg.encode())


def _draw(axes: Axes, title: str, lines: Sequence[_Line], looks: Looks) -> None:
    ruled(axes)
    records = [look["records"] for look in looks]
    for field, label, colour in lines:
        values = [look[field] for look in looks]
        axes.plot(records, values, "o-", color=colour, label=label)
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.set_title(title, loc="left", color=INK, fontsize=10)
    axes.set_xlabel("records in the log", color=MUTED, fontsize=9)
    if lines[0].label:
        axes.legend(frameon=False, fontsize=9, labelcolor=INK)
    quiet(axes)
