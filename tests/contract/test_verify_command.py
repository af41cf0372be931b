"""`keymixer audit verify` finds the log wherever the orchestrator's settings put it."""

import json
from pathlib import Path

import pytest
from sqlalchemy import delete

from core.rpc.identity import ORCHESTRATOR
from orchestrator.audit.erasure import ERASURE
from orchestrator.audit.keys import ensure_log_key
from orchestrator.audit.writer import SIDE_FILE, AuditLog, beside
from orchestrator.registry.database import open_database
from orchestrator.registry.models import AuditNote
from orchestrator.simulation.workspace import create_workspace
from tests.unit.orchestrator.cli.desk import SCENARIO, Terminal
from tests.unit.orchestrator.logs import ORIGIN, SIGNING_KEY

ACTOR = "spiffe://digits.keymixer/consortium/operator"


@pytest.fixture
def terminal(
    url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Terminal:
    """A run whose log is at `url`: three records, one checkpoint."""
    workspace = create_workspace(tmp_path / "runs", SCENARIO)
    folder = workspace.server_folder(ORCHESTRATOR)
    settings = json.loads((folder / "settings.json").read_text())
    (folder / "settings.json").write_text(json.dumps({**settings, "database": url}))
    with open_database(url) as database:
        side_file = beside(database) or folder / SIDE_FILE
        key = ensure_log_key(folder)
        origin = "digits.keymixer/audit"
        log = AuditLog(database, origin, key, lambda: 1, side_file=side_file)
        for number in range(3):
            with database.transaction() as session:
                log.append(session, "key.created", ACTOR, {"key_version": number})
        log.checkpoint()
    return Terminal(workspace.root, monkeypatch, capsys)


def test_the_log_is_verified_where_the_settings_put_it(terminal: Terminal) -> None:
    verified = terminal.json("audit", "verify")

    assert verified["verified"] is True
    assert (verified["size"], verified["signed_size"]) == (3, 3)


def test_how_many_notes_were_erased_is_told(terminal: Terminal, url: str) -> None:
    kept = terminal.json("audit", "verify")
    with open_database(url) as database:
        log = AuditLog(database, ORIGIN, SIGNING_KEY, lambda: 1)
        with database.transaction() as session:
            log.append(session, "key.held", ACTOR, {"reason": "lost"})
        with database.transaction() as session:
            session.execute(delete(AuditNote))
            log.append(session, ERASURE, ACTOR, {"record": 3})
    told = terminal.json("audit", "verify")

    assert (0, 1) == (kept["erased"], told["erased"])
    assert "notes erased on record: 1" in terminal.text("audit", "verify")


def test_the_log_is_exported_from_where_the_settings_put_it(
    terminal: Terminal, tmp_path: Path
) -> None:
    tiles = str(tmp_path / "tiles")

    assert terminal.json("audit", "export", tiles)["size"] == 3
    verified = terminal.json("audit", "verify", "--from-tiles", tiles)
    assert verified["signed_size"] == 3
    # Tiles hold no notes, erased or not.
    assert verified["erased"] is None
