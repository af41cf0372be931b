"""SQLite as we open it: durable, private, one writer, and typed when it fails."""

import sqlite3
import stat
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from sqlalchemy import insert, text
from sqlalchemy.orm import Session

from core.database import WAIT_S, Database, open_existing
from core.database import open_database as open_any
from core.errors import (
    DatabaseBusyError,
    DatabaseCorrupt,
    DatabaseMoved,
    SchemaUnknown,
    StorageError,
)
from orchestrator.registry.database import MIGRATIONS, open_database
from orchestrator.registry.models import Organisation


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "registry.db"


@pytest.fixture
def database(path: Path) -> Iterator[Database]:
    with open_database(f"sqlite:///{path}") as opened:
        yield opened


@pytest.mark.parametrize(
    ("pragma", "value"),
    [
        ("journal_mode", "wal"),
        ("synchronous", 2),  # FULL: the disk has it when COMMIT returns
        ("foreign_keys", 1),
        ("secure_delete", 1),
        ("busy_timeout", round(WAIT_S * 1000)),
    ],
)
def test_every_connection_is_durable_and_strict(
    database: Database, pragma: str, value: object
) -> None:
    with database.transaction() as session:
        assert session.scalar(text(f"PRAGMA {pragma}")) == value
    with database.reading() as session:
        assert session.scalar(text(f"PRAGMA {pragma}")) == value


def test_only_the_owner_can_read_the_file(database: Database, path: Path) -> None:
    with database.transaction() as session:
        add_organisation(session, "clinic")

    files = [path, *path.parent.glob("registry.db-*")]
    assert len(files) > 1
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


def test_a_full_disk_is_a_storage_error_and_keeps_what_was_there(
    database: Database,
) -> None:
    with database.transaction() as session:
        add_organisation(session, "clinic")
        pages = session.scalar(text("PRAGMA page_count"))
        session.execute(text(f"PRAGMA max_page_count = {pages}"))

    with pytest.raises(StorageError, match="full"), database.transaction() as session:
        fill(session)

    assert names(database) == ["clinic"]


def test_a_locked_database_is_busy(path: Path) -> None:
    """Another process writes for longer than we wait."""
    with impatient(path) as database:
        other = sqlite3.connect(path)
        other.execute("BEGIN IMMEDIATE")

        with pytest.raises(DatabaseBusyError, match="locked"):
            write_one(database)
        other.close()

        write_one(database)
        assert names(database) == ["clinic"]


def test_a_writer_keeps_others_out_from_its_first_read(
    database: Database, path: Path
) -> None:
    """Otherwise what it read could change before it writes, in another process."""
    other = sqlite3.connect(path, timeout=0)
    with database.transaction() as session:
        assert session.scalar(text("SELECT count(*) FROM organisations")) == 0

        with pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("BEGIN IMMEDIATE")
    other.close()


def test_a_writer_keeps_others_out_before_it_does_anything(
    database: Database, path: Path
) -> None:
    """Whoever reads a clock in the block reads it after whoever wrote before."""
    other = sqlite3.connect(path, timeout=0)
    with (
        database.transaction(),
        pytest.raises(sqlite3.OperationalError, match="locked"),
    ):
        other.execute("BEGIN IMMEDIATE")
    other.close()


def test_a_writer_that_does_not_end_holds_up_the_others_only_so_long(
    path: Path,
) -> None:
    refusals: list[str] = []

    def second_writer(database: Database) -> None:
        try:
            write_one(database)
        except DatabaseBusyError as error:
            refusals.append(error.kind)

    with impatient(path) as database, database.transaction():
        thread = threading.Thread(target=second_writer, args=(database,))
        thread.start()
        thread.join()

    assert refusals == ["DatabaseBusy"]


def test_more_readers_than_connections_are_refused_not_queued_for_ever(
    path: Path,
) -> None:
    with impatient(path) as database:
        with ExitStack() as readers:
            for _ in range(15):
                session = readers.enter_context(database.reading())
                session.execute(text("SELECT 1"))

            with pytest.raises(DatabaseBusyError, match="busy"):
                names(database)

        assert names(database) == []


def test_a_file_that_is_no_database_is_refused(path: Path) -> None:
    path.write_bytes(b"this is not a database, it is a sentence" * 100)

    with pytest.raises(DatabaseCorrupt):
        open_database(f"sqlite:///{path}")


def test_a_folder_that_is_missing_is_a_storage_error(path: Path) -> None:
    with pytest.raises(StorageError, match="cannot open"):
        open_database(f"sqlite:///{path.parent}/missing/registry.db")


def test_a_newer_schema_is_refused_and_left_alone(path: Path) -> None:
    open_database(f"sqlite:///{path}").close()
    raw(path, "UPDATE alembic_version SET version_num = '9999'")

    with pytest.raises(SchemaUnknown, match="9999"):
        open_database(f"sqlite:///{path}")

    assert raw(path, "SELECT version_num FROM alembic_version") == [("9999",)]


def test_an_existing_database_is_opened_for_reading_only(path: Path) -> None:
    with open_database(f"sqlite:///{path}") as database:
        write_one(database)

    with open_existing(path) as existing:
        assert names(existing) == ["clinic"]
        with pytest.raises(StorageError, match="readonly"):
            write_one(existing)


@pytest.mark.parametrize("folder", ["a b", "a?b", "a#b", "a%20b"])
def test_an_existing_database_is_found_under_any_name(
    tmp_path: Path, folder: str
) -> None:
    path = tmp_path / folder / "registry.db"
    path.parent.mkdir()
    raw(path, "CREATE TABLE organisations (name)")

    with open_existing(path) as existing:
        assert names(existing) == []


def test_a_database_that_is_not_there_is_not_made(path: Path) -> None:
    with pytest.raises(StorageError, match="no database"):
        open_existing(path)

    assert not path.exists()


@pytest.mark.parametrize("replaced", [False, True])
def test_a_file_that_was_taken_away_is_not_written_until_it_is_back(
    path: Path, replaced: bool
) -> None:
    """Whoever has it open could go on, and nobody would ever read what it wrote."""
    aside = path.with_suffix(".aside")
    with open_database(f"sqlite:///{path}") as database:
        path.rename(aside)
        if replaced:
            path.touch()
        with pytest.raises(DatabaseMoved):
            write_one(database)
        assert path.exists() is replaced, "an empty one is in its place"
        aside.rename(path)
        write_one(database)


def test_no_empty_database_takes_the_place_of_one_that_is_gone(path: Path) -> None:
    with open_database(f"sqlite:///{path}") as database:
        database.close()  # the connections: the next are made anew
        path.unlink()
        with pytest.raises(StorageError):
            write_one(database)

    assert not path.exists()


def impatient(path: Path) -> Database:
    return open_any(f"sqlite:///{path}", MIGRATIONS, wait_s=0.05)


def write_one(database: Database) -> None:
    with database.transaction() as session:
        add_organisation(session, "clinic")


def fill(session: Session) -> None:
    for number in range(100):
        add_organisation(session, f"{number}" + "x" * 200)


def add_organisation(session: Session, name: str) -> None:
    session.execute(insert(Organisation).values(name=name))


def names(database: Database) -> list[str]:
    with database.reading() as session:
        return list(session.scalars(text("SELECT name FROM organisations")))


def raw(path: Path, statement: str) -> list[tuple[str]]:
    connection = sqlite3.connect(path, isolation_level=None)
    rows = connection.execute(statement).fetchall()
    connection.close()
    return rows
