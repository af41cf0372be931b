"""What only a database server does: it goes away, and it refuses us."""

from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from core.database import Database, open_existing
from core.database import open_database as open_any
from core.errors import (
    ConfigurationError,
    DatabaseBusyError,
    DatabaseCorrupt,
    StorageError,
)
from orchestrator.registry.database import MIGRATIONS, open_database
from tests.contract.conftest import migrate
from tests.postgresql import PostgreSQL

PID = text("SELECT pg_backend_pid()")


@pytest.fixture
def url(postgresql: PostgreSQL) -> str:
    return postgresql.emptied(migrate)


def test_a_connection_that_was_lost_is_replaced(
    postgresql: PostgreSQL, database: Database
) -> None:
    """The server was started again: the pool's connections are dead."""
    with database.reading() as session:
        process = session.scalar(PID)
    end(postgresql, process)

    with database.reading() as session:
        assert session.scalar(PID) != process


def test_a_server_that_goes_away_meanwhile_is_worth_another_try(
    postgresql: PostgreSQL, database: Database
) -> None:
    with pytest.raises(DatabaseBusyError), database.transaction() as session:
        lose_the_server(postgresql, session)

    with database.transaction() as session:
        assert session.scalar(text("SELECT 1")) == 1


def lose_the_server(postgresql: PostgreSQL, session: Session) -> None:
    end(postgresql, session.scalar(PID))
    session.execute(text("SELECT 1"))


def test_a_server_that_is_not_there_is_worth_another_try(tmp_path: Path) -> None:
    with pytest.raises(DatabaseBusyError):
        open_database(f"postgresql://postgres@/test?host={tmp_path}")


def test_tables_that_are_not_ours_are_corrupt(
    postgresql: PostgreSQL,
) -> None:
    url = postgresql.empty()
    with (
        open_existing(url) as database,
        pytest.raises(DatabaseCorrupt, match="parties"),
    ):
        read_parties(database)
    postgresql.drop(url)


def read_parties(database: Database) -> None:
    with database.reading() as session:
        session.execute(text("SELECT * FROM parties"))


def test_an_existing_database_is_opened_for_reading_only(url: str) -> None:
    with open_existing(url) as database, pytest.raises(StorageError, match="read-only"):
        write(database)


def write(database: Database) -> None:
    with database.transaction() as session:
        session.execute(text("INSERT INTO organisations (name) VALUES ('clinic')"))


@pytest.mark.parametrize("url", ["", "registry.db", "mysql://host/db", "odbc://x"])
def test_a_url_that_is_none_of_ours_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError):
        open_any(url, MIGRATIONS)


@pytest.mark.parametrize("driver", ["pg8000", "unheard_of"])
def test_a_driver_that_is_not_installed_is_named(driver: str) -> None:
    with pytest.raises(ConfigurationError, match=r"install keymixer\[postgres\]"):
        open_any(f"postgresql+{driver}://host/db", MIGRATIONS)


def test_a_url_that_cannot_be_read_is_not_quoted() -> None:
    with pytest.raises(ConfigurationError) as caught:
        open_any("postgresql//me:hunter2@host/db", MIGRATIONS)

    assert "hunter2" not in str(caught.value)


def end(postgresql: PostgreSQL, process: object) -> None:
    postgresql.execute(f"SELECT pg_terminate_backend({process}, 10000)")
