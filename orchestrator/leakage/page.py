"""`leakage.html`: one file that opens from disk and needs nothing else."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from core.leakage.coalitions import Coalition, Result
from core.leakage.fidelity import Pictures
from core.leakage.material import Finding
from orchestrator.leakage.coalition_rows import COLUMNS, words
from orchestrator.simulation.report.pictures import data_uri

_ROWS = {"original": "original", "seen": "what was seen", "recovered": "recovered"}
_BEHIND = {**_ROWS, "seen": "what the right key gives"}


def to_json(report: Mapping[str, Any]) -> bytes:
    """The report as text."""
    return (json.dumps(report, indent=2) + "\n").encode()


def render(
    report: Mapping[str, Any],
    findings: Sequence[Finding],
    coalitions: Sequence[Coalition] = (),
    behind: Sequence[Finding] = (),
) -> str:
    """The page's HTML; `behind` are the findings of the report's `shield`."""
    environment = Environment(
        loader=PackageLoader("orchestrator.leakage", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    shown = _shown(report["attacks"], findings, _ROWS)
    shield = report["shield"]
    through = _shown(shield["attacks"], behind, _BEHIND) if shield else []
    rows = report["coalitions"] or ()
    joined = [
        (words(row), _recovered(each.result), _recovered(each.leaked))
        for row, each in zip(rows, coalitions, strict=True)
    ]
    return environment.get_template("leakage.html.j2").render(
        report=report, shown=shown, columns=COLUMNS, joined=joined, through=through
    )


def _shown(
    rows: Sequence[Mapping[str, Any]],
    findings: Sequence[Finding],
    captions: Mapping[str, str],
) -> list[tuple[Mapping[str, Any], list[tuple[str, list[str]]]]]:
    """Each row of a report with its pictures, under their captions."""
    return [
        (row, [(said, _uris(getattr(found, name))) for name, said in captions.items()])
        for row, found in zip(rows, findings, strict=True)
    ]


def _recovered(result: Result | None) -> list[str]:
    return [] if result is None or result.shown is None else _uris(result.shown)


def _uris(pictures: Pictures) -> list[str]:
    pixels = np.rint(np.clip(pictures, 0, 1) * 255).astype(np.uint8)
    return [data_uri(one.transpose(1, 2, 0)) for one in pixels]
