"""The table in `docs/shields.md` is the one that its log of trainings gives."""

import json
import re
from pathlib import Path
from typing import Any

from orchestrator.bench.shields import summed_up

DOCS = Path(__file__).parents[2] / "docs"
ROW = re.compile(r"^\| `([a-z]+(?::[\d.]+)?)` \| (\d+) \| (.+) \|$", re.MULTILINE)


def test_every_row_is_what_the_log_says() -> None:
    """Mean and deviation over the seeds, the span, and the points lost."""
    content = json.loads((DOCS / "shields.json").read_text())
    expected = {
        row["shield"]: (str(row["outputs"]), _figures(row))
        for row in summed_up(content["runs"])
    }
    text = (DOCS / "shields.md").read_text()

    assert expected == {name: tuple(rest) for name, *rest in ROW.findall(text)}
    seeds: dict[str, set[int]] = {}
    for run in content["runs"]:
        seeds.setdefault(run["shield"], set()).add(run["seed"])
    assert len({frozenset(each) for each in seeds.values()}) == 1
    assert min(map(len, seeds.values())) >= 3


def _figures(row: dict[str, Any]) -> str:
    spread = f"{row['accuracy']:.1f} ± {row['deviation']:.1f}"
    return f"{spread} | {row['least']:.1f} to {row['most']:.1f} | {row['lost']:.1f}"
