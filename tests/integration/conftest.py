"""No party is taken to be away because the machine that all run on stood still."""

import pytest

LONG_S = 60.0


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lengthen what is short enough for a stall of seconds to pass it."""
    # What the log's health and a second verdict may take.
    monkeypatch.setattr("parties.log_watch._LOOK_S", LONG_S)
    monkeypatch.setattr("parties.audit._SECOND_VERDICT_S", LONG_S)
    # So that who waits for a party in vain learns its answer.
    monkeypatch.setattr("core.rpc.channel._PROBE_AT_LEAST_S", LONG_S)
    # How long a refusal waits to be told, so that a test finds it there.
    monkeypatch.setattr("core.rpc.refusals._PATIENCE_S", LONG_S)
