"""Whoever changes the stored log is found, and told where: nothing stored is believed.

Each test changes the database file behind our back, with the triggers dropped, as
someone with the file would.
"""

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from core.checkpoint import sign_checkpoint
from core.errors import DatabaseCorrupt, SignatureError, StorageError
from core.merkle import leaf_hash, node_hash, root
from orchestrator.audit import verify
from orchestrator.audit.records import Entry
from orchestrator.audit.verify import verify_log
from orchestrator.errors import AuditBroken
from tests.unit.orchestrator.logs import (
    OPERATOR,
    ORIGIN,
    PUBLIC_KEY,
    SIGNING_KEY,
    append,
    opened,
)

SIGNED = 13
SIZE = 16

Change = Callable[[sqlite3.Connection], object]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A log of 16 records: checkpoints over 5 and 13 of them, three are not signed."""
    with opened(tmp_path) as (database, log):
        append(database, log, 5)
        log.checkpoint()
        append(database, log, SIGNED - 5)
        log.checkpoint()
        append(database, log, SIZE - SIGNED)
    return tmp_path / "registry.db"


def alter(path: Path, change: Change) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA ignore_check_constraints = ON")
    triggers = "SELECT name FROM sqlite_master WHERE type = 'trigger'"
    for (name,) in connection.execute(triggers).fetchall():
        connection.execute(f"DROP TRIGGER {name}")
    change(connection)
    connection.close()


def sql(statement: str, *values: object) -> Change:
    return lambda connection: connection.execute(statement, values)


def body_of(connection: sqlite3.Connection, index: int) -> bytes:
    query = 'SELECT body FROM audit_leaves WHERE "index" = ?'
    (body,) = connection.execute(query, (index,)).fetchone()
    assert isinstance(body, bytes)
    return body


def set_body(connection: sqlite3.Connection, index: int, body: bytes) -> None:
    """Replace a body, and its leaf hash so that the two agree."""
    connection.execute(
        'UPDATE audit_leaves SET body = ?, leaf_hash = ? WHERE "index" = ?',
        (body, leaf_hash(body), index),
    )


def swap(connection: sqlite3.Connection) -> None:
    """Exchange records 3 and 4 whole: each index holds the other's row."""
    for old, new in ((3, -1), (4, 3), (-1, 4)):
        statement = 'UPDATE audit_leaves SET "index" = ? WHERE "index" = ?'
        connection.execute(statement, (new, old))


def replay(connection: sqlite3.Connection) -> None:
    """Put record 2 in the place of record 6, with a leaf hash that fits."""
    set_body(connection, 6, body_of(connection, 2))


def reorder_fields(connection: sqlite3.Connection) -> None:
    body = body_of(connection, 7).replace(b"{", b"{ ", 1)
    set_body(connection, 7, body)


def forge(connection: sqlite3.Connection) -> None:
    """Rewrite record 5 and every hash above it: all that is stored fits together."""
    entry = Entry(5, 1_750_000_000_005, "key.created", "spiffe://test/x/operator", {})
    set_body(connection, 5, entry.to_bytes())
    connection.execute("DELETE FROM audit_nodes")
    leaves = 'SELECT leaf_hash FROM audit_leaves ORDER BY "index"'
    level = [digest for (digest,) in connection.execute(leaves)]
    for height in range(1, 5):
        pairs = zip(level[::2], level[1::2], strict=True)
        level = [node_hash(left, right) for left, right in pairs]
        rows = [(height, position, digest) for position, digest in enumerate(level)]
        connection.executemany("INSERT INTO audit_nodes VALUES (?, ?, ?)", rows)


def insert_twin(connection: sqlite3.Connection) -> None:
    """Insert a copy of record 2 as record 3, moving the others up."""
    move = 'UPDATE audit_leaves SET "index" = "index" + ? WHERE "index" >= 3'
    connection.execute(move, (100,))
    connection.execute(move, (-99,))
    connection.execute(
        "INSERT INTO audit_leaves SELECT 3, body, leaf_hash, kind, time_ms "
        'FROM audit_leaves WHERE "index" = 2'
    )


def fork(connection: sqlite3.Connection) -> None:
    """Put a checkpoint that the log's key signed over 13 other records."""
    others = [leaf_hash(f"other {number}".encode()) for number in range(SIGNED)]
    note = sign_checkpoint(SIGNING_KEY, ORIGIN, SIGNED, root(others))
    connection.execute("UPDATE checkpoints SET note = ? WHERE size = 13", (note,))


def edit(before: str) -> Change:
    """Change the character that comes before this text in the last checkpoint."""

    def change(connection: sqlite3.Connection) -> None:
        query = "SELECT note FROM checkpoints WHERE size = 13"
        (note,) = connection.execute(query).fetchone()
        edited = bytearray(note)
        edited[max(note.index(before.encode()) - 1, 0)] ^= 1
        statement = "UPDATE checkpoints SET note = ? WHERE size = 13"
        connection.execute(statement, (bytes(edited),))

    return change


LEAF = 'UPDATE audit_leaves SET {} WHERE "index" = 9'
CHANGES: dict[str, tuple[Change, str, int]] = {
    "a changed byte": (
        lambda c: c.execute(
            LEAF.format("body = ?"), (body_of(c, 9).replace(b"k", b"q", 1),)
        ),
        "record",
        9,
    ),
    "a truncated body": (
        lambda c: c.execute(LEAF.format("body = ?"), (body_of(c, 9)[:-9],)),
        "record",
        9,
    ),
    "a truncated body with its hash": (
        lambda c: set_body(c, 9, body_of(c, 9)[:-9]),
        "record",
        9,
    ),
    "an emptied body": (sql(LEAF.format("body = x''")), "record", 9),
    "a body that is text": (
        sql(LEAF.format("body = CAST(body AS TEXT)")),
        "record",
        9,
    ),
    "a body in another form": (reorder_fields, "record", 7),
    "a changed leaf hash": (sql(LEAF.format("leaf_hash = zeroblob(32)")), "record", 9),
    "a short leaf hash": (sql(LEAF.format("leaf_hash = x'00'")), "record", 9),
    "a changed kind": (sql(LEAF.format("kind = 'key.lost'")), "record", 9),
    "a changed time": (sql(LEAF.format("time_ms = 1")), "record", 9),
    "an index that is text": (sql(LEAF.format("\"index\" = 'nine'")), "record", 9),
    "the first record deleted": (
        sql('DELETE FROM audit_leaves WHERE "index" = 0'),
        "record",
        0,
    ),
    "a record deleted": (
        sql('DELETE FROM audit_leaves WHERE "index" = 4'),
        "record",
        4,
    ),
    "a record deleted, the rest moved": (
        lambda c: (
            c.execute('DELETE FROM audit_leaves WHERE "index" = 4'),
            c.execute('UPDATE audit_leaves SET "index" = -"index" WHERE "index" > 4'),
            c.execute('UPDATE audit_leaves SET "index" = -"index" - 1 WHERE "index"<0'),
        ),
        "record",
        4,
    ),
    "a record inserted": (insert_twin, "record", 3),
    "two records swapped": (swap, "record", 3),
    "a record replayed": (replay, "record", 6),
    "the signed end cut off": (
        sql('DELETE FROM audit_leaves WHERE "index" >= 8'),
        "checkpoint",
        SIGNED,
    ),
    "the unsigned end cut off": (
        sql('DELETE FROM audit_leaves WHERE "index" = 15'),
        "node",
        15,
    ),
    "the last record deleted with its nodes": (
        lambda c: (
            c.execute('DELETE FROM audit_leaves WHERE "index" >= 12'),
            c.execute("DELETE FROM audit_nodes WHERE (position + 1) << level > 12"),
        ),
        "checkpoint",
        SIGNED,
    ),
    "a record written after the end": (
        lambda c: c.execute(
            "INSERT INTO audit_leaves SELECT 16, body, leaf_hash, kind, time_ms "
            'FROM audit_leaves WHERE "index" = 15'
        ),
        "record",
        16,
    ),
    "a reader of no record": (
        sql("INSERT INTO audit_leaf_parties VALUES (16, 'spiffe://x')"),
        "record",
        16,
    ),
    "a name of no record": (
        sql("INSERT INTO audit_event_ids VALUES ('spiffe://x', 'e', -3)"),
        "record",
        -3,
    ),
    "a request of no record": (
        sql("INSERT INTO audit_request_ids VALUES ('r', 16)"),
        "record",
        16,
    ),
    "everything deleted": (sql("DELETE FROM audit_leaves"), "checkpoint", SIGNED),
    "a changed node": (
        sql("UPDATE audit_nodes SET hash = zeroblob(32) WHERE level=2 AND position=1"),
        "node",
        4,
    ),
    "a deleted node": (
        sql("DELETE FROM audit_nodes WHERE level = 2 AND position = 1"),
        "node",
        4,
    ),
    "a node too many": (
        sql("INSERT INTO audit_nodes VALUES (5, 0, zeroblob(32))"),
        "node",
        SIZE,
    ),
    "history rewritten throughout": (forge, "checkpoint", SIGNED),
    "a fork of equal size, signed": (fork, "checkpoint", SIGNED),
    "a checkpoint's root edited": (edit("="), "checkpoint", SIGNED),
    "a checkpoint's signature edited": (edit("\n\n\u2014"), "checkpoint", SIGNED),
    "a checkpoint's origin edited": (edit("test.example"), "checkpoint", SIGNED),
    "a checkpoint's size edited": (
        lambda c: c.execute(
            "UPDATE checkpoints SET note = CAST(replace(CAST(note AS TEXT), ?, ?) "
            "AS BLOB) WHERE size = 13",
            ("\n13\n", "\n12\n"),
        ),
        "checkpoint",
        SIGNED,
    ),
    "a checkpoint under another size": (
        sql("UPDATE checkpoints SET size = 12 WHERE size = 5"),
        "checkpoint",
        12,
    ),
    "a checkpoint that is text": (
        sql("UPDATE checkpoints SET note = CAST(note AS TEXT) WHERE size = 5"),
        "checkpoint",
        5,
    ),
    "a checkpoint emptied": (
        sql("UPDATE checkpoints SET note = x'' WHERE size = 5"),
        "checkpoint",
        5,
    ),
    "a checkpoint signed over another root": (
        sql(
            "UPDATE checkpoints SET note = ? WHERE size = 5",
            sign_checkpoint(SIGNING_KEY, ORIGIN, 5, bytes(32)),
        ),
        "checkpoint",
        5,
    ),
    "a checkpoint of another log": (
        sql(
            "UPDATE checkpoints SET note = ? WHERE size = 13",
            sign_checkpoint(SIGNING_KEY, "another.log", SIGNED, bytes(32)),
        ),
        "checkpoint",
        SIGNED,
    ),
}


@pytest.mark.parametrize(
    ("change", "part", "index"), CHANGES.values(), ids=CHANGES.keys()
)
def test_a_changed_log_is_found_and_told_where(
    path: Path, change: Change, part: str, index: int
) -> None:
    alter(path, change)

    with pytest.raises(AuditBroken) as caught:
        verify_log(path, PUBLIC_KEY)

    assert (caught.value.part, caught.value.index) == (part, index)
    assert str(caught.value).startswith(f"{part} {index}: ")


@pytest.mark.parametrize("index", [0, 9, SIGNED - 1])
def test_every_changed_byte_of_a_record_is_found(path: Path, index: int) -> None:
    """With its leaf hash made to fit, and without."""
    alter(path, lambda _: None)
    connection = sqlite3.connect(path, isolation_level=None)
    whole = body_of(connection, index)
    for byte in range(len(whole)):
        changed = bytearray(whole)
        changed[byte] ^= 1
        set_body(connection, index, bytes(changed))
        with pytest.raises(AuditBroken):
            verify_log(path, PUBLIC_KEY)
        statement = 'UPDATE audit_leaves SET leaf_hash = ? WHERE "index" = ?'
        connection.execute(statement, (leaf_hash(whole), index))
        with pytest.raises(AuditBroken, match=f"record {index}: "):
            verify_log(path, PUBLIC_KEY)
    set_body(connection, index, whole)
    connection.close()

    assert verify_log(path, PUBLIC_KEY).size == SIZE


@pytest.mark.parametrize(
    "table", ["audit_leaf_parties", "audit_event_ids", "audit_request_ids"]
)
def test_an_erased_index_leaves_the_log_whole(path: Path, table: str) -> None:
    """Who may read a record, and what its reporter called it, is not evidence."""
    alter(path, sql(f"DELETE FROM {table}"))  # noqa: S608 - constants

    assert verify_log(path, PUBLIC_KEY).size == SIZE


@pytest.mark.parametrize("change", ["salt = 'salt'", "text = x'6c6f7374'"])
def test_a_note_of_another_type_is_found(tmp_path: Path, change: str) -> None:
    """SQLite keeps what it is given, whatever the column's type is."""
    with opened(tmp_path) as (database, log), database.transaction() as session:
        log.append(session, "key.held", OPERATOR, {"reason": "lost"})
    path = tmp_path / "registry.db"
    alter(path, sql(f"UPDATE audit_notes SET {change}"))  # noqa: S608 - constants

    with pytest.raises(AuditBroken, match="note 0: it is not stored as"):
        verify_log(path, PUBLIC_KEY)


def test_dropping_the_triggers_alone_changes_nothing(path: Path) -> None:
    """The oracle of the test above: it is the change that is found, not the rest."""
    alter(path, lambda _: None)

    report = verify_log(path, PUBLIC_KEY, origin=ORIGIN)

    assert (report.size, report.signed_size, report.checkpoints) == (SIZE, SIGNED, 2)
    assert report.records_per_second > 0


def test_another_key_verifies_nothing(path: Path) -> None:
    with pytest.raises(AuditBroken, match="checkpoint 5"):
        verify_log(path, bytes(32))


def test_another_origin_verifies_nothing(path: Path) -> None:
    with pytest.raises(AuditBroken, match="checkpoint 5"):
        verify_log(path, PUBLIC_KEY, origin="another.log")


def test_a_side_file_with_another_root_is_found(path: Path) -> None:
    """It signs 13 records as the table does: one of the two is a fork."""
    fork = sign_checkpoint(SIGNING_KEY, ORIGIN, SIGNED, bytes(32))
    path.with_name("checkpoint.txt").write_bytes(fork)

    with pytest.raises(AuditBroken, match="checkpoint 13: two roots are signed"):
        verify_log(path, PUBLIC_KEY)


def test_a_side_file_over_more_records_than_there_are_is_found(path: Path) -> None:
    ahead = sign_checkpoint(SIGNING_KEY, ORIGIN, 99, bytes(32))
    path.with_name("checkpoint.txt").write_bytes(ahead)

    with pytest.raises(AuditBroken, match="checkpoint 99: the log holds only 16"):
        verify_log(path, PUBLIC_KEY)


def test_a_changed_side_file_is_found(path: Path) -> None:
    path.with_name("checkpoint.txt").write_bytes(b"changed")

    with pytest.raises(AuditBroken, match="side file"):
        verify_log(path, PUBLIC_KEY)


def test_a_log_sent_without_its_side_file_verifies(path: Path) -> None:
    path.with_name("checkpoint.txt").unlink()

    assert verify_log(path, PUBLIC_KEY).checkpoints == 2


def test_what_is_not_signed_is_reported_as_such(path: Path) -> None:
    """Whoever cuts unsigned records, and all that speaks of them, leaves no trace."""
    alter(path, sql('DELETE FROM audit_leaf_parties WHERE "index" >= 14'))
    alter(path, sql('DELETE FROM audit_leaves WHERE "index" >= 14'))
    alter(path, sql("DELETE FROM audit_nodes WHERE (position + 1) << level > 14"))

    report = verify_log(path, PUBLIC_KEY)

    assert (report.size, report.signed_size) == (14, SIGNED)


def test_progress_ends_at_the_size(path: Path) -> None:
    seen: list[tuple[int, int]] = []

    verify_log(path, PUBLIC_KEY, lambda done, total: seen.append((done, total)))

    assert seen[-1] == (SIZE, SIZE)


def test_an_open_log_is_verified_while_it_grows(tmp_path: Path) -> None:
    with opened(tmp_path) as (database, log):
        append(database, log, 3)

        report = verify_log(
            database, log.public_key, lambda *_: append(database, log, 1)
        )

        assert (report.size, log.size()) == (3, 4)


def test_a_log_larger_than_a_batch_verifies(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify, "_BATCH", 7)
    seen: list[int] = []

    report = verify_log(path, PUBLIC_KEY, lambda done, _: seen.append(done))

    assert (report.size, report.signed_size) == (SIZE, SIGNED)
    assert seen == [7, 14, 16]


@pytest.mark.parametrize("batch", [1, 2, 3, 5, 8])
def test_a_changed_node_is_found_wherever_batches_end(
    path: Path, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    monkeypatch.setattr(verify, "_BATCH", batch)
    alter(path, sql("UPDATE audit_nodes SET hash = zeroblob(32) WHERE level = 3"))

    with pytest.raises(AuditBroken, match="level 3, position 0"):
        verify_log(path, PUBLIC_KEY)


def test_a_database_that_is_not_there_cannot_be_verified(tmp_path: Path) -> None:
    with pytest.raises(StorageError):
        verify_log(tmp_path / "nothing.db", PUBLIC_KEY)


def test_a_database_without_a_log_cannot_be_verified(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "other.db")
    connection.execute("CREATE TABLE t (x)")
    connection.close()

    with pytest.raises(DatabaseCorrupt, match="no such table"):
        verify_log(tmp_path / "other.db", PUBLIC_KEY)


def test_a_broken_log_is_a_signature_that_does_not_verify() -> None:
    assert issubclass(AuditBroken, SignatureError)
