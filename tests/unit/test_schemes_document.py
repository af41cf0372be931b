"""The accuracies in `docs/leakage.md` are those that their log of trainings gives."""

import json
import re
from pathlib import Path
from typing import Any

from orchestrator.bench.schemes import PLAIN, SCHEMES
from orchestrator.bench.shields import summed_up

DOCS = Path(__file__).parents[2] / "docs"
ROW = re.compile(r"^\| `([a-z, /]+)` \| (\d) \| (.+) \|$", re.MULTILINE)


def test_every_row_is_what_the_log_says() -> None:
    """How many seeds, their mean and span, and the points lost to plain pictures."""
    runs = json.loads((DOCS / "schemes.json").read_text())["runs"]
    expected = {
        row["scheme"]: (str(row["seeds"]), _figures(row))
        for row in summed_up(runs, "scheme", PLAIN)
    }
    text = (DOCS / "leakage.md").read_text()

    assert set(SCHEMES) == expected.keys()
    assert expected == {name: tuple(rest) for name, *rest in ROW.findall(text)}


def _figures(row: dict[str, Any]) -> str:
    span = f"{row['least']:.1f} to {row['most']:.1f}"
    return f"{row['accuracy']:.1f} | {span} | {row['lost']:.1f}"
