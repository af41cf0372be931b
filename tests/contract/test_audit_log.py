"""What the audit log promises on every database; the oracle is `core.merkle`."""

import multiprocessing
from contextlib import suppress
from pathlib import Path

import pytest
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from core.checkpoint import open_checkpoint
from core.database import Database
from core.errors import ConstraintConflict, KeymixerError
from core.merkle import (
    consistency_path,
    inclusion_path,
    leaf_hash,
    root,
    verify_consistency,
    verify_inclusion,
)
from core.wire import write_atomically
from orchestrator.audit import writer
from orchestrator.audit.records import parse_entry
from orchestrator.audit.verify import verify_log
from orchestrator.audit.writer import AuditLog, log_size
from orchestrator.errors import NotInLog, RecordMalformed
from orchestrator.registry.database import open_database
from orchestrator.registry.models import Checkpoint, Organisation
from tests.unit.orchestrator.logs import (
    OPERATOR,
    ORIGIN,
    OWNER,
    PUBLIC_KEY,
    append,
    new_log,
)

SIZE = 21


@pytest.fixture
def log(database: Database, tmp_path: Path) -> AuditLog:
    return new_log(database, tmp_path / "checkpoint.txt")


def hashes(log: AuditLog) -> list[bytes]:
    return [leaf_hash(entry.body) for entry in log.entries(0, 10_000)]


def test_records_are_numbered_from_zero_and_read_back(
    database: Database, log: AuditLog
) -> None:
    with database.transaction() as session:
        first = log.append(session, "key.created", OPERATOR, {"key_id": "k"}, [OWNER])
        second = log.append(session, "refused", "", {"kind": "NotAllowed"})

    entries = [parse_entry(entry.body) for entry in log.entries(0, 10)]
    assert [first, second] == [0, 1] == [entry.index for entry in entries]
    assert [entry.kind for entry in entries] == ["key.created", "refused"]
    assert [entry.actor for entry in entries] == [OPERATOR, ""]
    assert entries[0].subject == {"key_id": "k"}


def test_a_record_falls_with_the_change_it_records(
    database: Database, log: AuditLog
) -> None:
    with pytest.raises(ConstraintConflict), database.transaction() as session:
        enrol(session, log, "party.enrolled", clinics=2)

    assert log.size() == 0


def test_a_transaction_sees_what_it_has_appended(
    database: Database, log: AuditLog
) -> None:
    append(database, log, 3)

    with database.transaction() as session:
        before = log_size(session)
        log.append(session, "key.created", OPERATOR, {"key_id": "k"})

        assert (before, log_size(session)) == (3, 4)
        assert log.size() == 3


def test_what_was_taken_back_leaves_no_trace_in_the_tree(
    database: Database, log: AuditLog
) -> None:
    """Neither before, between nor after transactions that were committed."""
    for _ in range(SIZE):
        with suppress(ZeroDivisionError), database.transaction() as session:
            log.append(session, "key.created", OPERATOR, {"key_id": "lost"})
            raise ZeroDivisionError
        append(database, log, 1)

    assert open_checkpoint(log.checkpoint(), PUBLIC_KEY, ORIGIN).root == root(
        hashes(log)
    )
    assert verify_log(database, PUBLIC_KEY).size == SIZE


def test_two_writers_of_one_log_take_turns(
    database: Database, log: AuditLog, tmp_path: Path
) -> None:
    """As two orchestrators do: each knows what the other has appended meanwhile."""
    other = new_log(database, tmp_path / "another.txt")

    for writer_of_the_day in (log, log, other, log, other, other, other, log):
        append(database, writer_of_the_day, 3)

    assert verify_log(database, PUBLIC_KEY).size == 24


def test_a_change_falls_with_the_record_that_is_refused(
    database: Database, log: AuditLog
) -> None:
    with pytest.raises(RecordMalformed), database.transaction() as session:
        enrol(session, log, "NOT A KIND", clinics=1)

    with database.reading() as session:
        assert session.scalar(text("SELECT count(*) FROM organisations")) == 0


def enrol(session: Session, log: AuditLog, kind: str, *, clinics: int) -> None:
    """Enrol a clinic and record it; two of one name break a rule, at the end."""
    session.add_all(Organisation(name="clinic") for _ in range(clinics))
    with session.no_autoflush:
        log.append(session, kind, OPERATOR, {"party": OWNER})


def test_a_party_finds_the_records_that_name_it(
    database: Database, log: AuditLog
) -> None:
    with database.transaction() as session:
        log.append(session, "key.created", OPERATOR, {}, [OWNER, OWNER])
        log.append(session, "model.released", OPERATOR, {})
        log.append(session, "inference", OWNER, {})

    assert [entry.index for entry in log.entries(0, 9, party=OWNER)] == [0, 2]
    assert [entry.index for entry in log.entries(0, 9, party=OPERATOR)] == [0, 1]
    assert [entry.index for entry in log.entries(0, 9, kind="inference")] == [2]
    assert [entry.index for entry in log.entries(1, 9)] == [1, 2]
    assert [entry.index for entry in log.entries(0, 1)] == [0]


def test_every_checkpoint_signs_the_slow_root(
    database: Database, log: AuditLog
) -> None:
    for size in range(SIZE):
        signed = open_checkpoint(log.checkpoint(), log.public_key, ORIGIN)

        assert (size, root(hashes(log))) == (signed.size, signed.root)
        append(database, log, 1)


def test_every_inclusion_proof_is_the_slow_one_and_verifies(
    database: Database, log: AuditLog
) -> None:
    append(database, log, SIZE)
    leaves = hashes(log)
    for size in range(1, SIZE + 1):
        for index in range(size):
            proof = log.inclusion_proof(index, size)
            assert inclusion_path(leaves[:size], index) == proof.path
            verify_inclusion(
                leaf=proof.leaf_hash,
                index=index,
                size=size,
                path=proof.path,
                root_hash=root(leaves[:size]),
            )


def test_every_consistency_proof_is_the_slow_one_and_verifies(
    database: Database, log: AuditLog
) -> None:
    append(database, log, SIZE)
    leaves = hashes(log)
    for second in range(1, SIZE + 1):
        for first in range(1, second + 1):
            path = log.consistency_proof(first, second)
            assert consistency_path(leaves[:second], first) == path
            verify_consistency(
                first_size=first,
                second_size=second,
                first_root=root(leaves[:first]),
                second_root=root(leaves[:second]),
                path=path,
            )


@pytest.mark.parametrize(("index", "size"), [(-1, 3), (3, 3), (0, 0), (0, 4), (0, -1)])
def test_no_inclusion_proof_outside_the_log(
    database: Database, log: AuditLog, index: int, size: int
) -> None:
    append(database, log, 3)

    with pytest.raises(NotInLog):
        log.inclusion_proof(index, size)


@pytest.mark.parametrize(("first", "second"), [(0, 3), (3, 2), (1, 4), (-1, 2), (0, 0)])
def test_no_consistency_proof_outside_the_log(
    database: Database, log: AuditLog, first: int, second: int
) -> None:
    append(database, log, 3)

    with pytest.raises(NotInLog):
        log.consistency_proof(first, second)


@pytest.mark.parametrize("records", [0, 1, 7, 64, 65])
def test_what_was_written_verifies(
    database: Database, log: AuditLog, records: int
) -> None:
    append(database, log, records)
    log.checkpoint()

    report = verify_log(database, PUBLIC_KEY, origin=ORIGIN)

    assert (records, root(hashes(log)), 1) == (
        report.size,
        report.root,
        report.checkpoints,
    )


TABLES = {
    "audit_leaves": "kind = 'x'",
    "audit_leaf_parties": "spiffe_id = 'x'",
    "audit_nodes": "position = 9",
    "checkpoints": "size = 99",
}


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize(
    "change", ["DELETE FROM {table}", "UPDATE {table} SET {field}"]
)
def test_the_tables_of_the_log_only_grow(
    database: Database, log: AuditLog, table: str, change: str
) -> None:
    append(database, log, 2)
    log.checkpoint()
    statement = change.format(table=table, field=TABLES[table])

    with (
        pytest.raises(KeymixerError, match=f"{table} is append-only"),
        database.transaction() as session,
    ):
        session.execute(text(statement))

    verify_log(database, PUBLIC_KEY)


def test_two_processes_that_sign_one_size_give_one_checkpoint(
    url: str, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one signs while ours is between reading the root and keeping it."""
    ours, theirs = tmp_path / "ours.txt", tmp_path / "theirs.txt"
    with open_database(url) as elsewhere:
        first, second = new_log(database, ours), new_log(elsewhere, theirs)
        append(database, first, 3)
        theirs_came_first: list[bytes] = []

        def write(path: Path, data: bytes) -> None:
            write_atomically(path, data)
            if path == ours:
                theirs_came_first.append(second.checkpoint())

        monkeypatch.setattr(writer, "write_atomically", write)
        note = first.checkpoint()

    assert [note] == theirs_came_first
    assert ours.read_bytes() == theirs.read_bytes() == note
    with database.reading() as session:
        assert list(session.scalars(select(Checkpoint.note))) == [note]


def test_a_process_that_joins_a_log_needs_no_side_file_of_its_own_yet(
    url: str, database: Database, tmp_path: Path
) -> None:
    log = new_log(database, tmp_path / "checkpoint.txt")
    append(database, log, 3)
    log.checkpoint()

    with open_database(url) as elsewhere:
        joined = new_log(elsewhere, tmp_path / "joined.txt")
        joined.check_against_last_checkpoint()
        joined.checkpoint()
        append(database, log, 2)
        joined.check_against_last_checkpoint()


@pytest.mark.slow
def test_processes_append_and_sign_at_once_and_lose_nothing(
    url: str, database: Database, tmp_path: Path
) -> None:
    spawn = multiprocessing.get_context("spawn")
    processes = [
        spawn.Process(target=append_and_sign, args=(url, tmp_path / f"{name}.txt"))
        for name in range(3)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()

    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert verify_log(database, PUBLIC_KEY).size == 60


def append_and_sign(url: str, side_file: Path) -> None:
    with open_database(url) as database:
        log = new_log(database, side_file)
        for _ in range(20):
            append(database, log, 1)
            log.checkpoint()
        log.check_against_last_checkpoint()
