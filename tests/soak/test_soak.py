"""A minute of mixed load on real servers: nothing unexpected, nothing unrecorded.

Whether memory stays flat takes longer to say: `python -m tests.soak --minutes 10` says
it with its exit code.
"""

import math
from pathlib import Path

import pytest
from rich.console import Console

from tests.soak.program import EVERYTHING
from tests.soak.report import require_sound
from tests.soak.soak import Plan, soak

pytestmark = [pytest.mark.slow, pytest.mark.heavy, pytest.mark.timeout(600)]


def test_a_minute_of_everything_at_once_has_no_surprise(tmp_path: Path) -> None:
    figure = tmp_path / "load.svg"
    plan = Plan(60.0, tmp_path / "site", figure=figure, rest_s=2.0)
    plan.folder.mkdir()

    report = soak(plan, Console(quiet=True), lambda _line: None)

    require_sound(report, growth=math.inf)
    assert {each.name for each in EVERYTHING} == set(report["endings"])
    assert report["answered"] > 0
    assert report["records_of_answers"] >= report["answered"]
    assert figure.read_text().startswith("<")
