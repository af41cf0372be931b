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
# Orders that come closer than this share of the figure are told above one another.
_CLOSE: Final = 0.11
_LEVEL_POINTS: Final = 12
# From this share of the figure on, there is no room for words to the right.
_LATE: Final = 0.84
_ORDER_LINE: Final[Mapping[str, Any]] = {
    "color": INK,
    "linewidth": 0.8,
    "linestyle": (0, (2, 3)),
}

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
        _draw_orders(axes, rotation["orders"])
        quiet(axes)
    lower.set_xlim(0, rotation["seconds"])
    _tell_orders(upper, rotation)
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


def _draw_orders(axes: Axes, orders: Sequence[Mapping[str, Any]]) -> None:
    for order in orders:
        axes.axvline(order["at_s"], zorder=3, **_ORDER_LINE)


def _tell_orders(axes: Axes, rotation: Mapping[str, Any]) -> None:
    """Name the orders above the lanes; close ones so that no mast crosses a word."""
    for group in _close_together(rotation["orders"], _CLOSE * rotation["seconds"]):
        late = group[-1]["at_s"] > _LATE * rotation["seconds"]
        for level, order in enumerate(group if late else reversed(group)):
            told = f"{order['action']} {order['owner'] or 'all'}"
            _flag(axes, order["at_s"], _LEVEL_POINTS * level, told, late=late)


def _close_together(
    orders: Sequence[Mapping[str, Any]], closer_s: float
) -> list[list[Mapping[str, Any]]]:
    groups: list[list[Mapping[str, Any]]] = []
    for order in orders:
        if groups and order["at_s"] - groups[-1][-1]["at_s"] < closer_s:
            groups[-1].append(order)
        else:
            groups.append([order])
    return groups


def _flag(axes: Axes, at_s: float, points: float, text: str, *, late: bool) -> None:
    """A word on a thin mast above the axes; a late one stands left of its mast."""
    foot: dict[str, Any] = {
        "xy": (at_s, 1.0),
        "xycoords": ("data", "axes fraction"),
        "textcoords": "offset points",
    }
    mast = {"arrowstyle": "-", "shrinkA": 0, "shrinkB": 0, **_ORDER_LINE}
    aside: dict[str, Any] = {"xytext": (-2 if late else 2, points + 3)}
    aside["ha"] = "right" if late else "left"
    axes.annotate(text, color=INK, fontsize=8, **aside, **foot)
    axes.annotate("", xytext=(0, points + 12), arrowprops=mast, **foot)


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
