"""The pictures of `keymixer bench dial`: accuracy against what is recovered."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from core.wire import write_atomically
from orchestrator.bench.dial import strongest
from orchestrator.bench.shields import summed_up
from orchestrator.simulation.report.drawing import (
    AMBER,
    BLUE,
    INK,
    MUTED,
    SHADE,
    TEAL,
    as_svg,
    quiet,
    ruled,
)

# What a better trade is to reach: points lost at most, SSIM recovered at most.
POINTS: Final = 5.0
SSIM: Final = 0.5
_MARGIN: Final = 0.01

_COLOURS: Final = {"none": INK, "highpass": BLUE, "noise": AMBER, "magnitude": TEAL}


@dataclass(frozen=True, slots=True)
class Dial:
    """The trainings of `bench shields` and the attacks on the same shields."""

    title: str
    runs: Sequence[Mapping[str, Any]]
    rows: Sequence[Mapping[str, Any]]

    def points(self) -> list[dict[str, Any]]:
        """Accuracy and points lost beside SSIM, one for each shield that has both."""
        best = strongest(self.rows)
        return [
            {**cost, **{k: best[cost["shield"]][k] for k in ("attack", "ssim", "psnr")}}
            for cost in summed_up(self.runs)
            if cost["shield"] in best
        ]


def write_figure(dials: Sequence[Dial], path: Path) -> None:
    """Draw a plot for each dial, into one SVG file. Raises `StorageError`."""
    figure = Figure(figsize=(5.6 * len(dials), 4.4), layout="constrained")
    plots = figure.subplots(1, len(dials), squeeze=False)[0]
    for axes, dial in zip(plots, dials, strict=True):
        _draw(axes, dial)
    plots[0].set_ylabel("accuracy on test images", color=MUTED, fontsize=9)
    title = "Accuracy against what an attacker with the key recovers"
    write_atomically(path, as_svg(figure, title, background="white").encode())


def write_sheet(pictures: Mapping[str, np.ndarray], path: Path) -> None:
    """Draw what was recovered of some pictures, a row for each attack, as PNG."""
    rows = [*pictures]
    figure = Figure(figsize=(5.6, 0.9 * len(rows)), layout="constrained")
    plots = figure.subplots(len(rows), 1, squeeze=False)[:, 0]
    for axes, name in zip(plots, rows, strict=True):
        strip = np.concatenate([*pictures[name].transpose(0, 2, 3, 1)], axis=1)
        axes.imshow(strip if strip.shape[2] > 1 else strip[..., 0], cmap="gray")
        axes.set_axis_off()
        axes.set_title(name, loc="left", fontsize=8, color=INK, pad=2)
    figure.savefig(path, format="png", dpi=80, facecolor="white")


def _draw(axes: Axes, dial: Dial) -> None:
    ruled(axes)
    points = dial.points()
    for point in points:
        kind = point["shield"].partition(":")[0]
        axes.errorbar(
            point["ssim"],
            point["accuracy"] / 100,
            yerr=(point["deviation"] or 0) / 100,
            marker="o",
            color=_COLOURS[kind],
        )
        at = (point["ssim"], point["accuracy"] / 100)
        axes.annotate(
            point["shield"],
            at,
            # Below, since little noise lies beside no shield at all.
            xytext=(5, -11) if kind == "noise" else (5, 5),
            textcoords="offset points",
            fontsize=8,
            color=MUTED,
        )
    _mark_goal(axes, points)
    axes.set_xlim(0, 1.12)
    axes.set_title(dial.title, loc="left", color=INK, fontsize=10)
    axes.set_xlabel(
        "SSIM recovered by the stronger attack (lower is better)",
        color=MUTED,
        fontsize=9,
    )
    # Whole points only, or 52.5 would be written as 52.
    axes.yaxis.set_major_locator(MaxNLocator(steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    quiet(axes)


def _mark_goal(axes: Axes, points: Sequence[Mapping[str, Any]]) -> None:
    """Shade where a better trade would lie."""
    plain = [p["accuracy"] for p in points if p["shield"] == "none"]
    if not plain:
        return
    low = (plain[0] - POINTS) / 100
    high = max(point["accuracy"] for point in points) / 100 + _MARGIN
    axes.axhspan(low, high, xmax=SSIM / 1.12, color=SHADE, zorder=0)
    axes.text(
        0.01,
        low,
        f"{POINTS:g} points, SSIM {SSIM:g}",
        fontsize=8,
        color=MUTED,
        va="bottom",
    )
