"""Coverage-guided fuzzing of every decoder, five minutes in all."""

import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.fuzz.targets import TARGETS

pytest.importorskip("atheris", reason="atheris has no wheel for this machine")

ALL_S: Final = 300
# As many as run at a time.
_PARTS: Final = 2
_START_S: Final = 240


@pytest.mark.heavy
@pytest.mark.timeout(ALL_S + _START_S)
@pytest.mark.parametrize("part", range(_PARTS))
def test_decoders_hold(part: int, tmp_path: Path) -> None:
    names = ",".join(list(TARGETS)[part::_PARTS])
    seconds = ALL_S // len(TARGETS)
    options = [f"-max_total_time={seconds}", f"-artifact_prefix={tmp_path}/"]
    options += ["-max_len=20000", "-rss_limit_mb=3000"]
    run = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", names, tmp_path / "found", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
        text=True,
        errors="replace",
        timeout=ALL_S + _START_S,
    )
    assert run.returncode == 0, _told(run.stdout)


def _told(text: str) -> str:
    """Each exception that was not caught, and whose it was."""
    parts = text.split("=== Uncaught Python exception: ===")[1:]
    return "\n".join([*(part[:4000] for part in parts), text[-200:]])
