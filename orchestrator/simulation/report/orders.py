"""What an operator ordered, drawn into a figure: a line, and words above it."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from matplotlib.axes import Axes

from orchestrator.simulation.report.drawing import INK

Order = Mapping[str, Any]

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


def draw_orders(axes: Axes, orders: Sequence[Order]) -> None:
    """A line through the axes for each order."""
    for order in orders:
        axes.axvline(order["at_s"], zorder=3, **_ORDER_LINE)


def tell_orders(axes: Axes, orders: Sequence[Order], seconds: float) -> None:
    """Name the orders above the axes; close ones so that no mast crosses a word."""
    for group in _close_together(orders, _CLOSE * seconds):
        late = group[-1]["at_s"] > _LATE * seconds
        for level, order in enumerate(group if late else reversed(group)):
            told = f"{order['action']} {order['owner'] or order['version'] or 'all'}"
            _flag(axes, order["at_s"], _LEVEL_POINTS * level, told, late=late)


def _close_together(orders: Sequence[Order], closer_s: float) -> list[list[Order]]:
    groups: list[list[Order]] = []
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
