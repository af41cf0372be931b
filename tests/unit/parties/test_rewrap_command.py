"""`keymixer keys rewrap`: what it says, and what it ends with."""

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from core.errors import ConfigurationError
from parties.key_holder.commands import app
from parties.key_holder.errors import KekUrlError
from tests.unit.parties.strongroom import KEY, key, opened, seed_of

PEER = {"address": "127.0.0.1:1", "spiffe_id": "spiffe://demo/hub/orchestrator"}
SETTINGS = {
    "federation": "demo",
    "listen": "127.0.0.1:0",
    "orchestrator": PEER,
    "inference_server": PEER,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A key holder's folder in a run, with two keys and no certificate."""
    folder = tmp_path / "key-holder"
    folder.mkdir()
    (folder / "settings.json").write_text(json.dumps(SETTINGS))
    with opened(folder) as vault:
        for version in (1, 2):
            vault.create_key(key(version=version))
    return folder


def rewrap(*arguments: str, **options: Any) -> tuple[int, str]:
    done = CliRunner().invoke(app, list(arguments), **options)
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, " ".join(done.output.split())


def test_without_the_log_it_is_done_and_says_so(folder: Path) -> None:
    """There is no certificate to show to the orchestrator."""
    code, said = rewrap("--folder", str(folder), "--to", "file:new.key")

    assert code == 4
    assert "2 key versions and 0 embeddings are under" in said
    assert "not recorded in the audit log yet" in said
    (folder / "kek.key").unlink()
    with opened(folder) as vault:
        assert seed_of(vault)


def test_a_runs_key_holder_is_found(folder: Path) -> None:
    environment = {"KEYMIXER_RUN": str(folder.parent)}
    for arguments in (["--run", str(folder.parent)], []):
        _, said = rewrap("--to", "file:new.key", *arguments, env=environment)

        assert "2 key versions" in said


def test_what_does_not_open_is_named(folder: Path) -> None:
    connection = sqlite3.connect(folder / "key-holder.db")
    connection.execute(
        "UPDATE key_versions SET wrapped = zeroblob(60) WHERE version = 2"
    )
    connection.commit()
    connection.close()
    code, said = rewrap("--folder", str(folder), "--to", "file:new.key")

    assert code == 1
    assert "1 key versions" in said
    assert f"restore them from a backup: {KEY} version 2" in said


def test_as_json_it_is_one_object(folder: Path) -> None:
    code, said = rewrap("--folder", str(folder), "--to", "file:new.key", "--json")
    told = json.loads(said)

    assert code == 4
    assert told["key_versions"] == told["moved"] == 2
    assert told["recorded"] is False
    assert told["broken"] == []


def test_what_is_no_url_changes_nothing(folder: Path) -> None:
    with pytest.raises(KekUrlError):
        rewrap("--folder", str(folder), "--to", "new.key")

    with opened(folder) as vault:
        assert seed_of(vault)


def test_a_folder_that_is_no_key_holders_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"settings\.json"):
        rewrap("--folder", str(tmp_path), "--to", "file:new.key")

    assert list(tmp_path.iterdir()) == []
