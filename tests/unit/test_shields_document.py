"""The tables in `docs/shields.md` are those that the logs behind them give."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator.bench.dial import strongest
from orchestrator.bench.shields import summed_up

DOCS = Path(__file__).parents[2] / "docs"
ROW = re.compile(r"^\| `([a-z]+(?::[\d.]+)?)` \| (\d+) \| (.+) \|$", re.MULTILINE)
RECOVERED = re.compile(
    r"^\| `([a-z]+(?::[\d.]+)?)` \| (-?\d+\.\d) \| (.+) \|$", re.MULTILINE
)


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


def test_the_longer_trainings_are_what_their_log_says() -> None:
    """Mean and deviation over three seeds, the span, and the points lost."""
    runs = json.loads((DOCS / "shields-longer.json").read_text())["runs"]
    expected = [f"| `{row['shield']}` | {_figures(row)} |" for row in summed_up(runs)]

    assert expected == _table("longer")
    assert {run["seed"] for run in runs} == {0, 1, 2}


def test_what_is_recovered_is_what_the_attacks_log_says() -> None:
    """Points lost as in the first table; both attacks; the stronger one's spread."""
    trained = json.loads((DOCS / "shields.json").read_text())["runs"]
    rows = json.loads((DOCS / "shields-recovered.json").read_text())["rows"]
    lost = {row["shield"]: row["lost"] for row in summed_up(trained)}
    expected = {
        spec: (f"{lost[spec]:.1f}", _recovered(rows, best))
        for spec, best in strongest(rows).items()
    }
    text = (DOCS / "shields.md").read_text()

    assert expected == {name: tuple(rest) for name, *rest in RECOVERED.findall(text)}
    assert len(expected) > 2


def test_the_blood_cells_are_what_their_logs_say() -> None:
    """Of what was attacked: accuracy, points lost, both attacks, and the spread."""
    trained = json.loads((DOCS / "blood-cells.json").read_text())["runs"]
    rows = json.loads((DOCS / "blood-cells-recovered.json").read_text())["rows"]
    best = strongest(rows)
    expected = [
        f"| `{row['shield']}` | {row['accuracy']:.1f} ± {row['deviation']:.1f} | "
        f"{row['lost']:.1f} | {_recovered(rows, dict(best[row['shield']]))} |"
        for row in summed_up(trained)
        if row["shield"] in best
    ]

    assert expected == _table("cells")
    assert len(expected) > 2


def _table(name: str) -> list[str]:
    """The rows of a table, between two comments of its name."""
    _, _, rest = (DOCS / "shields.md").read_text().partition(f"<!-- {name} -->")
    table, _, _ = rest.partition(f"<!-- /{name} -->")
    return [line for line in table.splitlines() if line.startswith("|")][2:]


def _figures(row: dict[str, Any]) -> str:
    spread = f"{row['accuracy']:.1f} ± {row['deviation']:.1f}"
    return f"{spread} | {row['least']:.1f} to {row['most']:.1f} | {row['lost']:.1f}"


def _recovered(rows: list[dict[str, Any]], best: Mapping[str, Any]) -> str:
    found = {r["attack"]: r for r in rows if r["shield"] == best["shield"]}
    ways = ("key", "key") if "key" in found else ("linear", "network")
    spread = f"{best['ssim_low']:.2f} to {best['ssim_high']:.2f}"
    return " | ".join((*(_pair(found[way]) for way in ways), spread))


def _pair(row: Mapping[str, Any]) -> str:
    return f"{row['psnr']:.1f} / {row['ssim']:.3f}"
