"""What the database itself refuses on the log's tables, whoever asks it."""

from pathlib import Path

import pytest
from sqlalchemy import insert, text

from core.database import Database
from core.errors import KeymixerError
from core.merkle import leaf_hash
from orchestrator.audit.verify import verify_log
from orchestrator.errors import AuditBroken
from orchestrator.registry.models import Base
from tests.unit.orchestrator.logs import OPERATOR, PUBLIC_KEY, append, new_log

HASH = leaf_hash(b"forged")
LEAVES = Base.metadata.tables["audit_leaves"]

# Each table, and a row like one that is there but for what it says.
FORGED: dict[str, dict[str, object]] = {
    "audit_leaves": {
        "index": 1,
        "body": b"forged",
        "leaf_hash": HASH,
        "kind": "forged",
        "time_ms": 1,
    },
    "audit_leaf_parties": {"index": 1, "spiffe_id": OPERATOR},
    "audit_event_ids": {"actor": OPERATOR, "event_id": "e", "index": 0},
    "audit_nodes": {"level": 1, "position": 0, "hash": HASH},
    "audit_request_ids": {"request_id": "r", "index": 2},
    "audit_notes": {"index": 2, "salt": b"s" * 32, "text": "forged"},
    "checkpoints": {"size": 3, "note": b"forged"},
}
KEYS = {
    "audit_leaves": '"index"',
    "audit_leaf_parties": '"index", spiffe_id',
    "audit_event_ids": "actor, event_id",
    "audit_nodes": "level, position",
    "audit_request_ids": 'request_id, "index"',
    "audit_notes": '"index"',
    "checkpoints": "size",
}
# Of a note, the table keeps nothing once it is erased.
KEPT = sorted(FORGED.keys() - {"audit_notes"})


@pytest.fixture
def log(database: Database, tmp_path: Path) -> Database:
    """A log of three records: the second has a name, the last a note and a request."""
    written = new_log(database, tmp_path / "checkpoint.txt")
    append(database, written, 2)
    with database.transaction() as session:
        facts = {"reason": "lost", "request_id": "r"}
        written.append(session, "key.held", OPERATOR, facts)
    written.checkpoint()
    with database.transaction() as session:
        names = Base.metadata.tables["audit_event_ids"]
        session.execute(insert(names), {"actor": OPERATOR, "event_id": "e", "index": 1})
    return database


def refused(log: Database, statement: str, row: dict[str, object], said: str) -> None:
    with (
        pytest.raises(KeymixerError, match=said),
        log.transaction() as session,
    ):
        session.execute(text(statement), row)

    assert verify_log(log, PUBLIC_KEY).size == 3


def inserting(table: str, how: str = "INSERT") -> str:
    columns = ", ".join(f'"{name}"' for name in FORGED[table])
    values = ", ".join(f":{name}" for name in FORGED[table])
    return f"{how} INTO {table} ({columns}) VALUES ({values})"


@pytest.mark.parametrize("table", FORGED)
def test_no_row_is_changed(log: Database, table: str) -> None:
    name = KEYS[table].partition(",")[0]

    refused(log, f"UPDATE {table} SET {name} = {name}", {}, "append-only")  # noqa: S608 - constants


@pytest.mark.parametrize("table", KEPT)
def test_no_row_is_deleted(log: Database, table: str) -> None:
    refused(log, f"DELETE FROM {table}", {}, "append-only|keeps its rows")  # noqa: S608 - constants


def test_a_note_that_is_deleted_by_hand_is_missed(log: Database) -> None:
    """The database lets it go, as an erasure must; but no record says so."""
    with log.transaction() as session:
        session.execute(text("DELETE FROM audit_notes"))

    with pytest.raises(AuditBroken, match="note 2: it is gone, and nobody erased it"):
        verify_log(log, PUBLIC_KEY)


@pytest.mark.parametrize("table", FORGED)
def test_no_row_is_replaced(log: Database, table: str) -> None:
    """Each database has its own way to say it, and the other's is no SQL to it."""
    replacing = inserting(table, "INSERT OR REPLACE")

    refused(log, replacing, FORGED[table], "append-only|syntax")


@pytest.mark.parametrize("table", FORGED)
def test_no_row_is_changed_by_an_insert(log: Database, table: str) -> None:
    name = list(FORGED[table])[-1]
    change = f'ON CONFLICT ({KEYS[table]}) DO UPDATE SET "{name}" = excluded."{name}"'

    refused(log, f"{inserting(table)} {change}", FORGED[table], "append-only")


@pytest.mark.parametrize("more", ["", " CASCADE"])
@pytest.mark.parametrize("table", FORGED)
def test_no_table_is_emptied(log: Database, table: str, more: str) -> None:
    """SQLite has no TRUNCATE; PostgreSQL's fires no trigger for rows."""
    refused(log, f"TRUNCATE {table}{more}", {}, "append-only|syntax|referenced")


@pytest.mark.parametrize("index", [4, 99, 2, 0])
def test_no_record_is_out_of_its_place(log: Database, index: int) -> None:
    row = {**FORGED["audit_leaves"], "index": index}

    refused(log, inserting("audit_leaves"), row, "append-only")


@pytest.mark.parametrize("order", [[4, 3], [3, 5], [3, 3], [2, 3]])
def test_many_records_in_one_statement_are_in_order_too(
    log: Database, order: list[int]
) -> None:
    with (
        pytest.raises(KeymixerError, match="append-only"),
        log.transaction() as session,
    ):
        session.execute(insert(LEAVES).values(records(order)))


def test_many_records_in_order_are_taken(log: Database) -> None:
    with log.transaction() as session:
        session.execute(insert(LEAVES).values(records([3, 4])))
        session.execute(insert(LEAVES), records([5, 6]))

    with log.reading() as session:
        assert session.scalar(text("SELECT count(*) FROM audit_leaves")) == 7


def records(indexes: list[int]) -> list[dict[str, object]]:
    return [{**FORGED["audit_leaves"], "index": index} for index in indexes]
