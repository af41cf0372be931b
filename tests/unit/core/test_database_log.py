"""SQLite's write-ahead log holds what was overwritten, until it is emptied."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from core.database import Database, open_database
from core.errors import DatabaseBusyError
from parties.key_holder.opening import MIGRATIONS

NEEDLE = b"a wrapped key of 32 bytes........"


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    url = f"sqlite:///{tmp_path}/some.db"
    with open_database(url, MIGRATIONS, wait_s=0.05) as opened:
        yield opened


def write(database: Database, content: bytes) -> None:
    with database.transaction() as session:
        session.execute(text("CREATE TABLE IF NOT EXISTS notes (content BLOB)"))
        session.execute(text("DELETE FROM notes"))
        session.execute(text("INSERT INTO notes VALUES (:it)"), {"it": content})


def found(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir() if NEEDLE in p.read_bytes()}


def test_an_emptied_log_holds_nothing_of_what_was_deleted(
    database: Database, tmp_path: Path
) -> None:
    write(database, NEEDLE)
    write(database, b"")
    assert found(tmp_path) == {"some.db-wal"}

    database.empty_log()
    assert found(tmp_path) == set()
    assert (tmp_path / "some.db-wal").stat().st_size == 0


def test_what_is_there_outlives_the_emptying(
    database: Database, tmp_path: Path
) -> None:
    write(database, NEEDLE)
    database.empty_log()

    with database.reading() as session:
        assert session.scalar(text("SELECT content FROM notes")) == NEEDLE
    assert found(tmp_path) == {"some.db"}


def test_a_reader_elsewhere_keeps_the_log_and_that_is_said(
    database: Database, tmp_path: Path
) -> None:
    write(database, NEEDLE)
    reader = sqlite3.connect(tmp_path / "some.db", isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM notes").fetchone()
    write(database, b"")

    with pytest.raises(DatabaseBusyError, match="write-ahead log"):
        database.empty_log()
    reader.close()
    database.empty_log()
    assert found(tmp_path) == set()
