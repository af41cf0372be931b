"""What shields cost: measured once each, and written down as it was."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.bench.shields import (
    AnotherMeasurement,
    Budget,
    measure_shields,
    summed_up,
)

TINY = Budget("digits", images=120, epochs=1, hidden=8, depth=1, patch_size=2, seeds=2)
SPECS = ("none", "highpass:1", "noise:0.5")


def run(spec: str, seed: int, accuracy: float) -> dict[str, Any]:
    return {"shield": spec, "seed": seed, "accuracy": accuracy, "outputs": 4}


def test_the_table_has_the_mean_over_seeds_and_what_is_lost_to_none() -> None:
    runs = [
        run("none", 0, 0.70),
        run("highpass:1", 0, 0.60),
        run("none", 1, 0.72),
        run("highpass:1", 1, 0.64),
    ]
    plain, shielded = summed_up(runs)

    assert (plain["accuracy"], plain["lost"], plain["seeds"]) == (71.0, 0.0, 2)
    assert (shielded["accuracy"], shielded["lost"]) == (62.0, 9.0)
    assert (shielded["deviation"], shielded["least"]) == (2.83, 60.0)
    assert next(summed_up(runs[1:2]))["lost"] is None


def test_a_measurement_that_was_ended_goes_on_where_it_was(tmp_path: Path) -> None:
    """The second time the first shield is not trained again, nor is its row lost."""
    log, told = tmp_path / "shields.json", list[Mapping[str, Any]]()

    def tell(run: Mapping[str, Any], _done: int, _total: int) -> None:
        told.append(run)

    measure_shields(TINY, SPECS[:1], log, tell)
    rows = measure_shields(TINY, SPECS, log, tell)
    runs = json.loads(log.read_text())["runs"]

    asked = [(run["shield"], run["seed"]) for run in told]
    assert [("none", 0), ("none", 1)] == asked[:2]
    assert sorted({(spec, seed) for spec in SPECS for seed in (0, 1)}) == sorted(asked)
    assert runs == told
    assert [("none", 4), ("highpass:1", 3), ("noise:0.5", 4)] == [
        (row["shield"], row["outputs"]) for row in rows
    ]
    assert len({run["loss"] for run in runs}) == len(runs)
    with pytest.raises(AnotherMeasurement):
        measure_shields(replace(TINY, epochs=2), SPECS, log, tell)
