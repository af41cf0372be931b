"""What only a database server does: it goes away, and it refuses us."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, make_url, select, text
from sqlalchemy.orm import Session

from core.database import Database, open_existing
from core.database import open_database as open_any
from core.database.fixed import Fixed
from core.errors import (
    ConfigurationError,
    DatabaseBusyError,
    DatabaseCorrupt,
    StorageError,
)
from orchestrator.registry.database import MIGRATIONS, open_database
from tests.contract.conftest import migrate
from tests.partitioned.proxy import network
from tests.postgresql import PostgreSQL

# Of seconds, for a slow machine may well be silent for less.
IMPATIENT_S = 2.0
WAITING = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
ENVIRONMENT = """
from sqlalchemy import MetaData
from core.database.schema import run_migrations
run_migrations(MetaData())
"""
SLOW = f"""
from alembic import op
revision, down_revision = "0001", None
def upgrade():
    op.execute("SELECT pg_sleep({2 * IMPATIENT_S})")
"""
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


@pytest.mark.parametrize("ask", ["reading", "transaction", "look"])
def test_a_server_that_cannot_be_reached_any_more_is_worth_another_try(
    url: str, ask: str
) -> None:
    """Whichever way it is asked; the pool has to connect anew, and nobody listens."""
    ways = {"reading": read, "transaction": write, "look": look}
    with network(url) as between:
        database = open_database(between.url(url))

    with database, pytest.raises(DatabaseBusyError):
        ways[ask](database)


def read(database: Database) -> None:
    with database.reading() as session:
        session.scalar(PID)


def look(database: Database) -> None:
    database.look(Fixed(select(func.pg_backend_pid())), {})


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


def test_the_server_takes_a_change_back_as_soon_as_the_url_says(url: str) -> None:
    """Only a change: who reads holds nobody up."""
    expected = {
        "idle_in_transaction_session_timeout": "1500ms",
        "statement_timeout": "2500ms",
    }

    with open_any(f"{url}&answer_s=2.5&idle_s=1.5", MIGRATIONS) as database:
        with database.transaction() as session:
            within = settings(session, expected)
        with database.reading() as session:
            outside = settings(session, expected)

    assert expected == within
    assert set(outside.values()) == {"0"}


def settings(session: Session, names: Iterable[str]) -> dict[str, str]:
    return {name: session.scalars(text(f"SHOW {name}")).one() for name in names}


def test_waiting_for_others_is_not_taken_for_silence(
    postgresql: PostgreSQL, url: str
) -> None:
    """A writer waits its time for its turn, however impatient it is otherwise."""
    with (
        open_any(f"{url}&idle_s=60", MIGRATIONS) as holder,
        open_any(f"{url}&answer_s={IMPATIENT_S}", MIGRATIONS, wait_s=60) as elsewhere,
        ThreadPoolExecutor(1) as pool,
    ):
        with holder.transaction():
            writing = pool.submit(write, elsewhere)
            while not postgresql.execute(WAITING):
                assert not writing.done()
            wait([writing], timeout=2 * IMPATIENT_S)
        writing.result()


def test_a_migration_may_take_its_time(postgresql: PostgreSQL, tmp_path: Path) -> None:
    (tmp_path / "versions").mkdir()
    (tmp_path / "versions/0001_slow.py").write_text(SLOW)
    (tmp_path / "env.py").write_text(ENVIRONMENT)
    url = postgresql.empty()

    open_any(f"{url}&answer_s={IMPATIENT_S}", tmp_path).close()

    versions = postgresql.execute(
        "SELECT version_num FROM alembic_version", str(make_url(url).database)
    )
    assert [("0001",)] == versions
    postgresql.drop(url)


@pytest.mark.parametrize(
    "said", ["answer_s=soon", "idle_s=0", "idle_s=-1", "answer_s=inf"]
)
def test_silence_that_is_no_duration_is_refused(said: str) -> None:
    name = said.partition("=")[0]

    with pytest.raises(ConfigurationError, match=f"{name}.*seconds"):
        open_any(f"postgresql://host/db?{said}", MIGRATIONS)


def test_what_the_url_tells_libpq_comes_before_what_we_do(url: str) -> None:
    said = f"{url}&connect_timeout=7&options=-c%20work_mem%3D1MB"
    with open_existing(said) as database, database.reading() as session:
        driver: Any = session.connection().connection.dbapi_connection
        told = driver.info.get_parameters()
        memory = settings(session, ["work_mem", "default_transaction_read_only"])

    assert ("7", "10") == (told["connect_timeout"], told["keepalives_idle"])
    assert {"work_mem": "1MB", "default_transaction_read_only": "on"} == memory


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
