"""The picture of `keymixer bench federated`: accuracy by processor seconds."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from core.datasets.partition import Partition
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

Run = Mapping[str, Any]


class _Line(NamedTuple):
    what: str
    label: str
    colour: str


_LINES: Final = (
    _Line("centralised", "all images in one place", TEAL),
    _Line("federated", "federated", BLUE),
    _Line("one site", "best single site", AMBER),
)


def write_figure(report: Mapping[str, Any], path: Path) -> None:
    """Write it as an SVG file: a plot for each way to deal the images out.

    Args:
        report: As `measure_federated` gives it.
        path: Where to.

    Raises:
        StorageError: it cannot be written.
    """
    partitions = report["plan"]["partitions"]
    figure = Figure(figsize=(5.0 * len(partitions), 4.2), layout="constrained")
    plots = figure.subplots(1, len(partitions), sharey=True, squeeze=False)[0]
    for axes, partition in zip(plots, partitions, strict=True):
        _draw(axes, partition, report["runs"])
    plots[0].set_ylabel("accuracy on all test images", color=MUTED, fontsize=9)
    plots[0].yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    title = "Accuracy by processor seconds: centralised, federated, one site alone"
    write_atomically(path, as_svg(figure, title, background="white").encode())


def _draw(axes: Axes, partition: str, runs: Sequence[Run]) -> None:
    ruled(axes)
    for line in _LINES:
        mine = [
            run["curve"]
            for run in runs
            if run["what"] == line.what and run["partition"] in {"", partition}
        ]
        _curve(axes, line, mine)
    axes.set_title(_titled(partition), loc="left", color=INK, fontsize=10)
    axes.set_xlabel("processor seconds of training", color=MUTED, fontsize=9)
    axes.set_xlim(left=0)
    axes.legend(frameon=False, fontsize=9, labelcolor=INK, loc="lower right")
    quiet(axes)


def _curve(
    axes: Axes, line: _Line, curves: Sequence[Sequence[Mapping[str, float]]]
) -> None:
    """The mean over the seeds, pass by pass, and from the least to the most."""
    taken = np.array([[point["cpu_seconds"] for point in each] for each in curves])
    right = np.array([[point["accuracy"] for point in each] for each in curves])
    at = taken.mean(axis=0)
    axes.fill_between(
        at, right.min(axis=0), right.max(axis=0), color=line.colour, alpha=0.18, lw=0
    )
    axes.plot(
        at,
        right.mean(axis=0),
        "o-",
        color=line.colour,
        label=line.label,
        markersize=3.5,
    )


def _titled(partition: str) -> str:
    parsed = Partition.parse(partition)
    if parsed.kind == "iid":
        return "sites alike (iid)"
    return f"sites unlike (Dirichlet {parsed.alpha:g})"
