"""The life of every key version, a lane for each owner, above the request rate."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke

from orchestrator.registry.lifecycle import KeyState
from orchestrator.simulation.report.drawing import (
    AMBER,
    BLUE,
    INK,
    MUTED,
    RED,
    SHADE,
    TEAL,
    VIOLET,
    as_svg,
    quiet,
    ruled,
)
from orchestrator.simulation.report.orders import draw_orders, tell_orders

COLOURS: Final[Mapping[str, str]] = {
    KeyState.PRE_ACTIVE: "#9dc3e6",
    KeyState.ACTIVE: TEAL,
    KeyState.RETIRING: "#e3b04b",
    KeyState.SUSPENDED: VIOLET,
    KeyState.COMPROMISED: RED,
    KeyState.DESTROY_SCHEDULED: "#8b97a5",
    KeyState.DESTROYED: "#d5dbe2",
}
_OUTCOMES: Final = {"answered": BLUE, "refused": AMBER, "failed": RED}

_BAR, _THIN = 0.72, 0.16
_ROW_INCHES, _RATE_INCHES, _AROUND_INCHES = 0.19, 1.5, 1.25
_WIDTH_INCHES = 10.5

Life = Mapping[str, Any]
Lanes = Mapping[str, Sequence[Life]]


def key_lives(rotation: Mapping[str, Any]) -> str:
    """Draw the block `rotation` of a report."""
    lanes = _lanes(rotation["lives"])
    rows = len(rotation["lives"]) + len(lanes)
    height = rows * _ROW_INCHES + _RATE_INCHES + _AROUND_INCHES
    figure = Figure(figsize=(_WIDTH_INCHES, height), layout="constrained")
    upper, lower = figure.subplots(
        2, 1, sharex=True, height_ratios=(rows * _ROW_INCHES + 0.5, _RATE_INCHES)
    )
    _draw_lanes(upper, lanes, rotation)
    _draw_rate(lower, rotation["rate"])
    for axes in (upper, lower):
        draw_orders(axes, rotation["orders"])
        quiet(axes)
    lower.set_xlim(0, rotation["seconds"])
    tell_orders(upper, rotation["orders"], rotation["seconds"])
    _tell_states(figure, rotation["lives"])
    return as_svg(figure, "The life of every key version, above the request rate")


def _lanes(lives: Sequence[Life]) -> dict[str, list[Life]]:
    lanes: dict[str, list[Life]] = {}
    for life in lives:
        lanes.setdefault(life["owner"], []).append(life)
    return lanes


def _draw_lanes(axes: Axes, lanes: Lanes, rotation: Mapping[str, Any]) -> None:
    """A lane for each owner, shaded in turn, and in it a row for each version."""
    top, middles = 0.0, []
    for number, lives in enumerate(lanes.values()):
        bottom = top + len(lives) + 1
        if number % 2 == 0:
            axes.axhspan(top, bottom, color=SHADE, zorder=0)
        for row, life in enumerate(lives):
            _draw_life(axes, life, top + 1 + row)
        middles.append((top + bottom) / 2)
        top = bottom
    axes.set_yticks(middles, list(lanes))
    axes.set_ylim(top, 0)
    axes.set_xlim(0, rotation["seconds"])
    axes.tick_params(labelbottom=False)
    # Room for the version beside a life that begins at the edge.
    axes.tick_params(axis="y", pad=16)
    axes.grid(visible=False)


def _draw_life(axes: Axes, life: Life, row: float) -> None:
    for stay in life["stays"]:
        over = stay["state"] == KeyState.DESTROYED
        axes.barh(
            row,
            stay["to_s"] - stay["from_s"],
            left=stay["from_s"],
            height=_THIN if over else _BAR,
            color=COLOURS[stay["state"]],
            zorder=2,
        )
    first = min((stay["from_s"] for stay in life["stays"]), default=0.0)
    axes.annotate(
        f"v{life['version']}",
        (first, row),
        xytext=(-3, 0),
        textcoords="offset points",
        ha="right",
        va="center",
        color=MUTED,
        fontsize=7,
        zorder=4,
        path_effects=[withStroke(linewidth=2.5, foreground="white")],
    )


def _draw_rate(axes: Axes, rate: Mapping[str, Any]) -> None:
    """Requests by outcome, stacked, in each bin."""
    ruled(axes)
    width, bottom = rate["bin_s"], [0] * len(rate["answered"])
    lefts = [number * width for number in range(len(bottom))]
    for outcome, colour in _OUTCOMES.items():
        counts = rate[outcome]
        if any(counts) or outcome == "answered":
            label = f"{outcome} ({sum(counts):,})"
            axes.bar(
                lefts,
                counts,
                width=width * 0.92,
                bottom=bottom,
                align="edge",
                color=colour,
                label=label,
                zorder=2,
            )
        bottom = [low + count for low, count in zip(bottom, counts, strict=True)]
    axes.set_ylabel(f"requests in {width:g} s", color=INK)
    axes.set_xlabel("seconds since the owners began to ask")
    axes.grid(visible=False, axis="x")
    axes.legend(
        loc="lower left", bbox_to_anchor=(0, 1), frameon=False, ncols=3, borderpad=0.2
    )


def _tell_states(figure: Figure, lives: Sequence[Life]) -> None:
    seen = {stay["state"] for life in lives for stay in life["stays"]}
    patches = [
        Patch(color=colour, label=str(state).replace("_", " "))
        for state, colour in COLOURS.items()
        if state in seen
    ]
    figure.legend(
        handles=patches, loc="outside upper left", ncols=len(patches), frameon=False
    )
