"""The figure of releases that were tried: how much each version answered, and when."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from matplotlib.figure import Figure

from orchestrator.simulation.report.drawing import (
    AMBER,
    BLUE,
    INK,
    RED,
    TEAL,
    VIOLET,
    as_svg,
    quiet,
    ruled,
)
from orchestrator.simulation.report.orders import Order, draw_orders, tell_orders

# Of the first version, the second, and so on; more than there are begin anew.
COLOURS: Final = (BLUE, AMBER, TEAL, VIOLET, RED)
_SIZE: Final = (10.5, 2.9)


def versions_over_time(
    rate: Mapping[str, Any], orders: Sequence[Order], seconds: float
) -> str:
    """Draw the block `canary.rate` of a report, stacked, with what was ordered."""
    figure = Figure(figsize=_SIZE, layout="constrained")
    axes = figure.subplots()
    ruled(axes)
    width, bottom = rate["bin_s"], [0] * max(map(len, rate["versions"].values()))
    for number, (version, counts) in enumerate(rate["versions"].items()):
        axes.bar(
            [place * width for place in range(len(counts))],
            counts,
            width=width * 0.92,
            bottom=bottom,
            align="edge",
            color=COLOURS[number % len(COLOURS)],
            label=f"version {version} ({sum(counts):,})",
            zorder=2,
        )
        bottom = [low + count for low, count in zip(bottom, counts, strict=True)]
    axes.set_xlim(0, seconds)
    axes.set_ylabel(f"answers in {width:g} s", color=INK)
    axes.set_xlabel("seconds since the owners began to ask")
    axes.grid(visible=False, axis="x")
    figure.legend(loc="outside upper left", frameon=False, ncols=len(rate["versions"]))
    draw_orders(axes, orders)
    tell_orders(axes, orders, seconds)
    quiet(axes)
    return as_svg(figure, "Answers by the version of the model that gave them")
