"""The report's figures, as SVG text that stands in the page itself."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from orchestrator.simulation.report.drawing import (
    AMBER,
    BLUE,
    GRID,
    INK,
    MUTED,
    RED,
    TEAL,
    drawn,
    quiet,
)

ROLE_COLOURS = {
    "operator": "#4a5bb0",
    "orchestrator": BLUE,
    "key-holder": "#8a4fa3",
    "inference-server": AMBER,
    "model-provider": "#3d8bbd",
    "training-site": "#7fb3d5",
    "data-owner": TEAL,
    "outsider": RED,
}
Story = Sequence[Mapping[str, Any]]
BEFORE = ("data", "train")


def training_curve(curve: Sequence[Mapping[str, float]]) -> str:
    """Loss (left) and accuracy (right) per epoch; the epoch that was kept is named.

    The accuracy of images held out to decide by, if there were any, is dashed.
    """

    def draw(axes: Axes) -> None:
        epochs = [point["epoch"] for point in curve]
        axes.plot(epochs, [p["loss"] for p in curve], "o-", color=MUTED, label="loss")
        axes.xaxis.set_major_locator(MaxNLocator(12, integer=True, min_n_ticks=1))
        axes.set_xlabel("epoch")
        axes.set_ylabel("training loss", color=MUTED)
        axes.set_ylim(bottom=0)
        right = axes.twinx()
        accuracy = [100 * point["accuracy"] for point in curve]
        right.plot(epochs, accuracy, "o-", color=BLUE)
        held = [v for point in curve if (v := point.get("validation")) is not None]
        if len(held) == len(epochs):
            right.plot(epochs, [100 * v for v in held], "--", color=BLUE, alpha=0.5)
        right.set_ylabel("test accuracy, %", color=BLUE)
        right.set_ylim(0, 100)
        kept = max(n for n, point in enumerate(curve) if point.get("kept", True))
        right.annotate(
            f"{accuracy[kept]:.1f} %",
            (epochs[kept], accuracy[kept]),
            xytext=(0, 8),
            textcoords="offset points",
            ha="right",
            color=BLUE,
            weight="bold",
        )
        quiet(right)
        right.spines["right"].set_visible(False)

    return drawn(draw, (6.2, 3.1), "Training curve: loss and test accuracy per epoch")


def accuracies(report: Mapping[str, Any]) -> str:
    """Accuracy plain, keyed and under a wrong key."""
    bars = [
        ("plain model", report["plain_accuracy"], BLUE),
        ("keyed, over the wire", report["keyed_accuracy"], TEAL),
        ("wrong key", report["wrong_key_accuracy"], RED),
    ]

    def draw(axes: Axes) -> None:
        for row, (_, value, colour) in enumerate(bars):
            axes.barh(row, 100 * value, color=colour, height=0.55)
            axes.text(
                100 * value + 1.5, row, f"{100 * value:.2f} %", va="center", color=INK
            )
        axes.set_yticks(range(len(bars)), [name for name, _, _ in bars])
        axes.invert_yaxis()
        axes.set_xlim(0, 112)
        axes.set_xticks(range(0, 101, 25))
        axes.set_xlabel("accuracy, %")
        axes.grid(visible=False, axis="y")

    return drawn(draw, (6.2, 2.3), "Accuracy of the plain, keyed and wrong-key answers")


def timeline(story: Story, seconds: Mapping[str, float]) -> str:
    """What happened when, from the start of the servers on: a lane for each party.

    What comes before, fetching and training, has a figure of its own and would leave
    no room here.
    """
    begin = sum(seconds.get(phase, 0.0) for phase in BEFORE)
    story = [happening for happening in story if happening["at_s"] >= begin]
    seconds = {name: s for name, s in seconds.items() if name not in BEFORE}
    parties = list(dict.fromkeys((s["role"], s["party"]) for s in story))
    order = list(ROLE_COLOURS)
    parties.sort(key=lambda who: order.index(who[0]) if who[0] in order else 99)
    lanes = {who: row for row, who in enumerate(parties)}

    def draw(axes: Axes) -> None:
        for row in range(len(lanes)):
            axes.axhline(row, color=GRID, linewidth=1, zorder=0)
        for happening in story:
            who = (happening["role"], happening["party"])
            colour = RED if "refused" in happening["text"] else ROLE_COLOURS.get(who[0])
            axes.plot(happening["at_s"], lanes[who], "o", ms=6, color=colour, alpha=0.8)
        axes.set_yticks(
            range(len(lanes)), [f"{party}  ({role})" for role, party in parties]
        )
        axes.invert_yaxis()
        axes.set_xlabel("seconds since the start (red: refused)")
        axes.grid(visible=False, axis="y")
        _phases(axes, begin, seconds, len(lanes))

    return drawn(draw, (10.5, 0.36 * len(lanes) + 1.3), "Timeline of events by party")


def _phases(axes: Axes, begin: float, seconds: Mapping[str, float], lanes: int) -> None:
    """Shade the phases; names alternate in height so that short ones stay readable."""
    phases = [(name, s) for name, s in seconds.items() if name != "total"]
    total = sum(s for _, s in phases) or 1.0
    for number, (name, length) in enumerate(phases):
        if number % 2:
            axes.axvspan(begin, begin + length, color="#f4f6f9", zorder=-1)
        if length / total > 0.03:  # noqa: PLR2004 -- narrower ones have no room
            axes.text(
                begin + length / 2,
                -0.75 - 0.45 * (number % 2),
                name,
                ha="center",
                color=MUTED,
                fontsize=8,
            )
        begin += length
    axes.set_ylim(lanes - 0.5, -1.6)
