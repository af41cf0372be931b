"""Coverage-guided fuzzing of every decoder, five minutes in all."""

import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.fuzz.targets import TARGETS

pytest.importorskip("atheris", reason="atheris has no wheel for this machine")

ALL_S: Final = 300
_START_S: Final = 120


@pytest.mark.heavy
@pytest.mark.parametrize("name", TARGETS)
def test_a_decoder_holds(name: str, tmp_path: Path) -> None:
    found = tmp_path / "found"
    found.mkdir()
    seconds = ALL_S // len(TARGETS)
    options = [f"-max_total_time={seconds}", f"-artifact_prefix={tmp_path}/"]
    options += ["-max_len=20000", "-rss_limit_mb=3000"]
    run = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", name, found, *options],
        capture_output=True,
        check=False,
        text=True,
        timeout=seconds + _START_S,
    )
    assert run.returncode == 0, run.stderr[-4000:]
