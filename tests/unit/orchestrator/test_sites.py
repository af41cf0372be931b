"""The SuperLink that sites train over: who waits for it in vain is told so."""

from pathlib import Path

import pytest

from core.console import UNAVAILABLE, exit_code
from orchestrator.simulation import sites
from orchestrator.simulation.processes import Processes


def test_a_superlink_that_does_not_listen_is_named_with_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not called a full disk: a refused connection is an `OSError` too."""
    monkeypatch.setattr(sites, "_READY_S", 0.0)
    running = Processes(tmp_path, tmp_path / "processes.json")

    with pytest.raises(
        sites.LinkNotReady, match=r"127\.0\.0\.1:1 .*superlink\.log"
    ) as caught:
        sites._wait_for(running, "127.0.0.1:1")
    assert UNAVAILABLE == exit_code(caught.value)
