"""What `docs/training.md` says of equal processor seconds is what the curves say."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pytest

DOCS = Path(__file__).parents[2] / "docs"
RUNS: Final[list[dict[str, Any]]] = json.loads((DOCS / "federated.json").read_text())[
    "runs"
]
NAMES = {"iid": "alike (iid)", "dirichlet:0.3": "unlike (Dirichlet 0.3)"}


@pytest.mark.parametrize("partition", NAMES)
def test_federated_at_the_seconds_of_the_single_site(partition: str) -> None:
    single = [_run("one site", partition, seed) for seed in (0, 1)]
    federated = [_run("federated", partition, seed) for seed in (0, 1)]
    seconds = [run["curve"][-1]["cpu_seconds"] for run in single]
    columns = f"{NAMES[partition]} | {seconds[0]:.0f}, {seconds[1]:.0f}"
    text = (DOCS / "training.md").read_text()

    for runs in (single, federated):
        by_then = map(_by, runs, seconds)
        row = " | ".join(f"{100 * accuracy:.1f} %" for accuracy in by_then)
        assert f"| {columns} | {row} |" in text


def _run(what: str, partition: str, seed: int) -> Mapping[str, Any]:
    """The one that had the whole budget."""
    whole = max(run["passes"] for run in RUNS)
    named = (what, partition, seed, whole)
    (found,) = (
        run
        for run in RUNS
        if (run["what"], run["partition"], run["seed"], run["passes"]) == named
    )
    return found


def _by(run: Mapping[str, Any], seconds: float) -> float:
    reached = [at for at in run["curve"] if at["cpu_seconds"] <= seconds]
    return float(reached[-1]["accuracy"])
