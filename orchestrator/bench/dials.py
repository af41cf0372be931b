"""`keymixer bench dial`: the attacks of several logs of trainings, and their figure."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from core.errors import CorruptFileError
from orchestrator.bench.dial import Attacker, Told, measure_dial
from orchestrator.bench.dial_figure import Dial, write_figure, write_sheet


def measure_dials(
    attacker: Attacker, logs: Sequence[Path], figure: Path, told: Told
) -> list[dict[str, Any]]:
    """Attack the shields of every log, on its own data, and draw what came of it.

    Returns:
        A row for each shield: accuracy, points lost, the strongest attack's figures.

    Raises:
        CorruptFileError: one is no log of `keymixer bench shields`.
        AnotherMeasurement: an attacker was another one before.
    """
    dials = [_dial(attacker, log, told) for log in logs]
    write_figure(dials, figure)
    return [{"data": each.title, **point} for each in dials for point in each.points()]


def _dial(attacker: Attacker, log: Path, told: Told) -> Dial:
    try:
        content = json.loads(log.read_text())
        budget, runs = content["budget"], content["runs"]
        shields = [*dict.fromkeys(run["shield"] for run in runs)]
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise CorruptFileError(f"{log}: no log of bench shields: {error}") from error
    own = replace(attacker, data=budget["data"], patch_size=budget["patch_size"])
    recovered = log.with_name(f"{log.stem}-recovered.json")
    rows = measure_dial(own, shields, recovered, told)
    pictures = recovered.with_suffix(".npz")
    if pictures.exists():
        write_sheet(dict(np.load(pictures)), recovered.with_suffix(".png"))
    return Dial(Path(budget["data"]).stem, runs, rows)
