"""The picture of a run under load: memory over time, and how requests ended."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from core.rpc.identity import INFERENCE_SERVER, ORCHESTRATOR
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
from tests.soak.memory import Look

_COLOURS: Final = {INFERENCE_SERVER: BLUE, ORCHESTRATOR: TEAL}


def write_figure(
    looks: Sequence[Look], endings: Mapping[str, Mapping[str, int]], path: Path
) -> None:
    """Write it as an SVG file. Raises `StorageError`."""
    figure = Figure(figsize=(10.0, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    _draw_memory(left, looks)
    _draw_endings(right, endings)
    svg = as_svg(figure, "A server under mixed load", background="white")
    write_atomically(path, svg.encode())


def _draw_memory(axes: Axes, looks: Sequence[Look]) -> None:
    ruled(axes)
    minutes = [look.at_s / 60 for look in looks]
    for name, colour in _COLOURS.items():
        held = [look.resident[name] for look in looks]
        axes.plot(minutes, held, color=colour, label=name, linewidth=1.2)
    axes.set_ylim(bottom=0)
    axes.set_title("memory, MiB", loc="left", color=INK, fontsize=10)
    axes.set_xlabel("minutes", color=MUTED, fontsize=9)
    axes.legend(frameon=False, fontsize=9, labelcolor=INK)
    quiet(axes)


def _draw_endings(axes: Axes, endings: Mapping[str, Mapping[str, Any]]) -> None:
    ruled(axes)
    names = sorted(endings, key=lambda name: sum(endings[name].values()))
    answered = [endings[name].get("answered", 0) for name in names]
    others = [
        sum(endings[name].values()) - count
        for name, count in zip(names, answered, strict=True)
    ]
    axes.barh(names, answered, color=BLUE, label="answered")
    axes.barh(names, others, left=answered, color=AMBER, label="as it must: refused, …")
    axes.set_xscale("symlog")
    axes.set_title("requests, by kind of traffic", loc="left", color=INK, fontsize=10)
    axes.legend(frameon=False, fontsize=8, labelcolor=INK)
    quiet(axes)
