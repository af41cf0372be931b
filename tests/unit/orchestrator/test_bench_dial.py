"""The dial: shields that were trained under are attacked, once each, and drawn."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from core.errors import CorruptFileError
from orchestrator.bench.dial import Attacker, strongest
from orchestrator.bench.dial_figure import Dial
from orchestrator.bench.dials import measure_dials
from orchestrator.bench.shields import AnotherMeasurement

BUDGET = {"data": "digits", "patch_size": 2}
ATTACKER = Attacker(public=128, attacked=16, epochs=1)


def run(shield: str, seed: int, accuracy: float) -> dict[str, Any]:
    return {"shield": shield, "seed": seed, "accuracy": accuracy, "outputs": 4}


def trained(path: Path, *shields: str) -> Path:
    runs = [run(shield, seed, 0.9) for shield in shields for seed in (0, 1)]
    path.write_text(json.dumps({"budget": BUDGET, "runs": runs}))
    return path


def test_each_shield_is_attacked_once_and_drawn(tmp_path: Path) -> None:
    """The one that was attacked before is not again; its row and pictures stay."""
    log, figure = tmp_path / "trained.json", tmp_path / "dial.svg"
    told: list[Mapping[str, Any]] = []

    def tell(row: Mapping[str, Any], _done: int, _total: int) -> None:
        told.append(row)

    trained(log, "none", "highpass:1")
    measure_dials(ATTACKER, [log], figure, tell)
    trained(log, "none", "highpass:1", "noise:5")
    points = measure_dials(ATTACKER, [log], figure, tell)

    assert [row["shield"] for row in told] == ["none", "highpass:1", "noise:5"]
    plain, cut, drowned = points
    assert (plain["attack"], plain["ssim"], plain["data"]) == ("key", 1.0, "digits")
    assert 1 > cut["ssim"] > drowned["ssim"]
    rows = json.loads((tmp_path / "trained-recovered.json").read_text())["rows"]
    assert [(row["shield"], row["attack"]) for row in rows] == [
        ("none", "key"),
        *((spec, way) for spec in ("highpass:1", "noise:5") for way in WAYS),
    ]
    assert figure.read_text().startswith("<svg")
    assert (tmp_path / "trained-recovered.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(AnotherMeasurement):
        measure_dials(Attacker(public=129), [log], figure, tell)


WAYS = ("linear", "network")


def test_the_stronger_attack_counts() -> None:
    rows = [
        {"shield": "noise:1", "attack": "linear", "ssim": 0.6, "psnr": 20.0},
        {"shield": "noise:1", "attack": "network", "ssim": 0.5, "psnr": 21.0},
    ]

    assert strongest(rows)["noise:1"]["attack"] == "linear"


def test_only_shields_that_have_both_are_points() -> None:
    rows = [{"shield": "noise:1", "attack": "linear", "ssim": 0.6, "psnr": 20.0}]
    runs = [run("none", 0, 0.9), run("noise:1", 0, 0.8)]

    (point,) = Dial("digits", runs, rows).points()

    assert (point["shield"], point["lost"], point["ssim"]) == ("noise:1", 10.0, 0.6)


def test_a_file_that_is_no_log_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    path.write_text("{}")
    with pytest.raises(CorruptFileError, match="no log of bench shields"):
        measure_dials(ATTACKER, [path], tmp_path / "dial.svg", lambda *_: None)
