"""A log that lost or changed what it once signed is found before it serves."""

import shutil
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import func, select

from core import merkle
from core.checkpoint import open_checkpoint, sign_checkpoint
from core.errors import AuditUnavailable, StorageError
from core.wire import write_atomically
from orchestrator.audit import writer
from orchestrator.audit.writer import AuditLog
from orchestrator.errors import LogRewound
from orchestrator.registry.models import Checkpoint
from tests.unit.orchestrator.logs import (
    OPERATOR,
    ORIGIN,
    PUBLIC_KEY,
    SIGNING_KEY,
    append,
    opened,
)


def test_a_checkpoint_is_on_disk_twice_before_anyone_sees_it(tmp_path: Path) -> None:
    with opened(tmp_path) as (database, log):
        append(database, log, 3)
        note = log.checkpoint()

        assert (tmp_path / "checkpoint.txt").read_bytes() == note
        with database.reading() as session:
            assert session.scalars(select(Checkpoint.note)).all() == [note]


def test_the_same_log_is_signed_once(tmp_path: Path) -> None:
    with opened(tmp_path) as (database, log):
        append(database, log, 3)
        notes = {log.checkpoint() for _ in range(3)}

        assert len(notes) == 1
        with database.reading() as session:
            assert session.scalar(select(func.count()).select_from(Checkpoint)) == 1


@pytest.mark.parametrize(
    ("covering", "size"), [(None, 5), (0, 3), (3, 3), (4, 5), (5, 5), (6, 5)]
)
def test_a_log_is_signed_anew_only_for_who_needs_more(
    tmp_path: Path, covering: int | None, size: int
) -> None:
    """It had signed 3 of 5; who asks for more than there is gets all there is."""
    with opened(tmp_path) as (database, log):
        append(database, log, 3)
        log.checkpoint()
        append(database, log, 2)

        note = log.checkpoint(covering)

        assert open_checkpoint(note, PUBLIC_KEY, ORIGIN).size == size


def test_an_empty_log_can_be_signed(tmp_path: Path) -> None:
    with opened(tmp_path) as (_, log):
        signed = open_checkpoint(log.checkpoint(), log.public_key, ORIGIN)

        assert (signed.size, signed.root) == (0, merkle.EMPTY_ROOT)
        log.check_against_last_checkpoint()


def test_a_checkpoint_that_cannot_be_written_is_not_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither file nor row: the next attempt starts afresh."""

    def full_disk(_path: Path, _data: bytes) -> None:
        raise StorageError("no space left")

    with opened(tmp_path) as (database, log):
        append(database, log, 1)
        monkeypatch.setattr(writer, "write_atomically", full_disk)
        with pytest.raises(StorageError):
            log.checkpoint()
        with database.reading() as session:
            assert session.scalars(select(Checkpoint)).all() == []

        monkeypatch.setattr(writer, "write_atomically", write_atomically)
        log.checkpoint()
        log.check_against_last_checkpoint()


def test_a_log_that_only_grew_may_serve(tmp_path: Path) -> None:
    for records in (0, 1, 6, 9):
        with opened(tmp_path) as (database, log):
            log.check_against_last_checkpoint()
            append(database, log, records)
            log.checkpoint()
            append(database, log, 2)


def test_a_new_log_may_serve(tmp_path: Path) -> None:
    with opened(tmp_path) as (_, log):
        log.check_against_last_checkpoint()


def test_a_restored_backup_is_found_by_the_side_file(tmp_path: Path) -> None:
    """The backup is whole and signed, and yet older than what others have seen."""
    path, backup = tmp_path / "registry.db", tmp_path / "backup.db"
    with opened(tmp_path) as (database, log):
        append(database, log, 3)
        log.checkpoint()
    shutil.copy(path, backup)
    with opened(tmp_path) as (database, log):
        append(database, log, 2)
        log.checkpoint()
    shutil.copy(backup, path)

    with (
        opened(tmp_path) as (_, log),
        pytest.raises(LogRewound, match="signed 5 records, the log holds 3"),
    ):
        log.check_against_last_checkpoint()


def test_a_restored_backup_that_grew_again_is_found(tmp_path: Path) -> None:
    """As long as before, or longer, but not the same records."""
    path, backup = tmp_path / "registry.db", tmp_path / "backup.db"
    with opened(tmp_path) as (database, log):
        append(database, log, 3)
    shutil.copy(path, backup)
    with opened(tmp_path) as (database, log):
        append(database, log, 2)
        log.checkpoint()
    shutil.copy(backup, path)

    with opened(tmp_path) as (database, log):
        with database.transaction() as session:
            log.append(session, "key.destroyed", OPERATOR, {})
        append(database, log, 7)
        with pytest.raises(LogRewound, match="first 5 records are not those signed"):
            log.check_against_last_checkpoint()


def test_a_missing_side_file_is_not_passed_over(tmp_path: Path) -> None:
    with opened(tmp_path) as (database, log):
        append(database, log, 3)
        log.checkpoint()
        (tmp_path / "checkpoint.txt").unlink()

        with pytest.raises(LogRewound, match="missing"):
            log.check_against_last_checkpoint()


@pytest.mark.parametrize(
    "note",
    [
        b"",
        b"not a note",
        sign_checkpoint(SIGNING_KEY, "another.log", 1, bytes(32)),
        sign_checkpoint(Ed25519PrivateKey.generate(), ORIGIN, 1, bytes(32)),
        sign_checkpoint(SIGNING_KEY, ORIGIN, 1, bytes(32)),
    ],
    ids=["empty", "no note", "another log", "another key", "another root"],
)
def test_a_side_file_that_is_not_this_logs_is_refused(
    tmp_path: Path, note: bytes
) -> None:
    with opened(tmp_path) as (database, log):
        append(database, log, 3)
        log.checkpoint()
        (tmp_path / "checkpoint.txt").write_bytes(note)

        with pytest.raises(LogRewound):
            log.check_against_last_checkpoint()


def test_another_signing_key_cannot_take_over_a_log(tmp_path: Path) -> None:
    with opened(tmp_path) as (database, log):
        append(database, log, 3)
        log.checkpoint()
        other = AuditLog(database, ORIGIN, Ed25519PrivateKey.generate(), lambda: 1)

        with pytest.raises(LogRewound):
            other.check_against_last_checkpoint()


def test_a_rewound_log_means_no_answers() -> None:
    """Callers see the category they already handle: no audit, no answer."""
    assert issubclass(LogRewound, AuditUnavailable)


def test_the_public_key_verifies_what_the_log_signs(tmp_path: Path) -> None:
    with opened(tmp_path) as (_, log):
        assert (log.public_key, log.origin) == (PUBLIC_KEY, ORIGIN)
