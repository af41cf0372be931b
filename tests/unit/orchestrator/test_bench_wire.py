"""The measurement of the three datatypes, on a small release."""

from pathlib import Path

import pytest

from core.errors import NotFound
from orchestrator.bench.wire import measure_wire


def test_without_a_release_it_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="keymixer simulate"):
        measure_wire(tmp_path)
