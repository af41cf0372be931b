"""The registry must be what the log made it, and its signatures must hold."""

import sqlite3
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from core.statements import ISSUE, MANIFEST, IssueStatement, sign
from orchestrator.audit.verify import verify_log
from orchestrator.errors import AuditBroken
from tests.unit.orchestrator.office import LOG_KEY, Office, manifest_bytes

PUBLIC_KEY = LOG_KEY.public_key().public_bytes_raw()
STRANGER = Ed25519PrivateKey.from_private_bytes(b"s" * 32)
OTHER_MANIFEST = manifest_bytes(seed=9)


@pytest.fixture
def path(office: Office) -> Path:
    """A key that is active, with a model issued under it."""
    office.active_key()
    office.registry.log.checkpoint()
    return office.folder / "registry.db"


def alter(path: Path, statement: str, *values: object) -> None:
    with sqlite3.connect(path) as connection:
        triggers = "SELECT name FROM sqlite_master WHERE type = 'trigger'"
        for (name,) in connection.execute(triggers).fetchall():
            connection.execute(f"DROP TRIGGER {name}")
        connection.execute(statement, values)
    connection.close()


def other_statement(path: Path, **changed: int) -> bytes:
    with sqlite3.connect(path) as connection:
        ((statement,),) = connection.execute("SELECT statement FROM issued_models")
    connection.close()
    told = IssueStatement.from_bytes(statement)
    parts = {name: getattr(told, name) for name in told.__slots__}
    return IssueStatement(**{**parts, **changed}).to_bytes()


def test_what_the_workflows_wrote_holds(path: Path) -> None:
    assert verify_log(path, PUBLIC_KEY).checkpoints == 1


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        (
            "UPDATE key_versions SET state = 'destroyed', is_primary = 0",
            "version 1 of key .* it is destroyed, the log says",
        ),
        (
            "UPDATE keys SET key_id = 'another'",
            "version 1 of key another: it is .*, the log says nothing of it",
        ),
        (
            "UPDATE issued_models SET state = 'gone'",
            "model version 1 under version 1 of key .*: it is gone, the log says",
        ),
        (
            "UPDATE issued_models SET signature = zeroblob(64)",
            "no key holder signed its statement",
        ),
        (
            "UPDATE issued_models SET digest = zeroblob(32)",
            "its signed statement is about another",
        ),
        (
            "UPDATE model_versions SET signature = zeroblob(64)",
            "version 1 of model cells: the signature of this manifest does not verify",
        ),
        (
            "UPDATE model_versions SET version = 2",
            "version 2 of model cells: its manifest is not the one",
        ),
    ],
)
def test_a_row_that_no_record_explains_is_found(
    path: Path, statement: str, said: str
) -> None:
    alter(path, statement)

    with pytest.raises(AuditBroken, match=f"registry: .*{said}"):
        verify_log(path, PUBLIC_KEY)


def test_a_manifest_with_a_new_signature_is_found(path: Path) -> None:
    signature = sign(STRANGER, MANIFEST, OTHER_MANIFEST)
    new = "UPDATE model_versions SET manifest = ?, signature = ?"
    alter(path, new, OTHER_MANIFEST, signature)

    with pytest.raises(AuditBroken, match="its manifest is not the one"):
        verify_log(path, PUBLIC_KEY)


def test_a_stranger_who_registers_a_key_by_hand_signs_nothing(path: Path) -> None:
    """The log says which key the key holder registered; the table is not asked."""
    statement = other_statement(path)
    public = STRANGER.public_key().public_bytes_raw()
    alter(path, "UPDATE parties SET signing_key = ?", public)
    signature = sign(STRANGER, ISSUE, statement)
    alter(path, "UPDATE issued_models SET signature = ?", signature)

    with pytest.raises(AuditBroken, match="no key holder signed its statement"):
        verify_log(path, PUBLIC_KEY)


def test_a_true_statement_about_another_model_is_found(
    path: Path, office: Office
) -> None:
    statement = other_statement(path, model_version=7)
    signature = sign(office.key_holder.signing_key, ISSUE, statement)
    new = "UPDATE issued_models SET statement = ?, signature = ?"
    alter(path, new, statement, signature)

    with pytest.raises(AuditBroken, match="its signed statement is about another"):
        verify_log(path, PUBLIC_KEY)
