"""What schemes cost: one key for every picture, and a network that never sees plain."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from core.leakage.fidelity import Pictures
from orchestrator.bench.schemes import PLAIN, SCHEMES, measure_schemes
from orchestrator.bench.shields import Budget
from orchestrator.cli.__main__ import build

TINY = Budget("digits", images=80, epochs=1, hidden=4, depth=1, patch_size=2, seeds=1)


@pytest.fixture
def few() -> Pictures:
    return np.rint(np.random.default_rng(0).uniform(0, 255, (2, 3, 8, 8))) / 255


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_scheme_has_one_key_for_all_pictures_and_hides_them(
    scheme: str, few: Pictures
) -> None:
    """Equal pictures stay equal, another key gives others, and only plain is plain."""
    first, second = (
        SCHEMES[scheme](2, (8, 8, 3), np.random.default_rng(seed)) for seed in (0, 1)
    )
    seen = first(few[[0, 0, 1]])

    assert seen.shape == (3, 3, 8, 8)
    assert np.array_equal(seen[0], seen[1])
    assert np.allclose(seen[[0, 2]], few) == (scheme == PLAIN)
    assert np.allclose(first(few), second(few)) == (scheme == PLAIN)


def test_every_scheme_is_trained_once_with_each_seed(tmp_path: Path) -> None:
    log, told = tmp_path / "schemes.json", list[Any]()

    rows = measure_schemes(TINY, tuple(SCHEMES), log, lambda *each: told.append(each))
    measure_schemes(TINY, tuple(SCHEMES), log, lambda *each: told.append(each))

    runs = json.loads(log.read_text())["runs"]
    assert list(SCHEMES) == [row["scheme"] for row in rows]
    assert len({run["loss"] for run in runs}) == len(runs) == len(SCHEMES) == len(told)
    assert rows[0]["lost"] == 0.0


def test_an_unknown_scheme_is_refused(tmp_path: Path) -> None:
    options = ["bench", "schemes", "--scheme", "rot13", "--log", str(tmp_path / "x")]
    done = CliRunner().invoke(build(), options)

    assert done.exit_code == 2
    assert "expected one of" in done.output
