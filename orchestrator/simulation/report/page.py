"""`report.html`: one file that opens from disk and needs nothing else."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from core.rpc.identity import DATA_OWNER
from core.wire import write_atomically
from orchestrator.leakage.cards import SENTENCE, figure_in_words
from orchestrator.simulation.report import figures
from orchestrator.simulation.report.canary import versions_over_time
from orchestrator.simulation.report.key_lives import key_lives
from orchestrator.simulation.report.pictures import PictureRow, picture_rows
from orchestrator.simulation.report.seen import COLUMNS, PROMISE, party_views
from orchestrator.simulation.workspace import Workspace


def write_page(workspace: Workspace, report: Mapping[str, Any]) -> Path:
    """Write `report.html` beside `report.json` and return its path."""
    page = workspace.root / "report.html"
    write_atomically(page, render(workspace, report).encode(), mode=0o644)
    return page


def render(workspace: Workspace, report: Mapping[str, Any]) -> str:
    """The page's HTML."""
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            report=report,
            samples=_samples(workspace),
            parties=list(party_views(workspace)),
            columns=COLUMNS.values(),
            promise=PROMISE,
            training=figures.training_curve(report["training"]),
            accuracies=figures.accuracies(report),
            timeline=figures.timeline(report["story"], report["seconds"]),
            key_lives=key_lives(report["rotation"]) if report["rotation"] else "",
            tried=_tried(report),
            leakage=Markup(render_cards(report["leakage"])),  # noqa: S704 -- made here
            milliseconds=_milliseconds,
            percent=_percent,
        )
    )


def render_cards(cards: Sequence[Mapping[str, Any]]) -> str:
    """The section about leakage cards: a row for each, and the attacks of a release."""
    releases: dict[tuple[str, int], Mapping[str, Any]] = {}
    for card in cards:
        releases.setdefault((card["model"], card["model_version"]), card)
    return (
        _environment()
        .get_template("leakage.html.j2")
        .render(
            cards=cards,
            releases=list(releases.values()),
            sentence=SENTENCE,
            in_words=figure_in_words,
        )
    )


def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("orchestrator.simulation.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _tried(report: Mapping[str, Any]) -> str:
    if not report["canary"]:
        return ""
    orders, seconds = (report["rotation"][name] for name in ("orders", "seconds"))
    return versions_over_time(report["canary"]["rate"], orders, seconds)


def _samples(workspace: Workspace) -> list[tuple[str, list[PictureRow]]]:
    """The first owner's pictures: a board looks at one set, not at all of them."""
    for owner in workspace.federation.organisations_with(DATA_OWNER):
        path = workspace.owner_folder(owner) / "samples.npz"
        if path.is_file():
            return [(owner, picture_rows(path))]
    return []


def _percent(value: float | None) -> str:
    return "none" if value is None else f"{value:.1%}"


def _milliseconds(value: float | None) -> str:
    return "never" if value is None else f"{value:,.0f} ms"
