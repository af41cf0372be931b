"""One SQL database, opened at the newest schema, with one writer at a time.

SQLite writes to a write-ahead log and waits for the disk at every commit (WAL,
synchronous=FULL): a commit that returned survives a power cut.
"""

import os
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import quote

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import DatabaseError, DBAPIError, IntegrityError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session
from sqlalchemy.pool import ConnectionPoolEntry

from core.errors import AuditUnavailable, KeymixerError, StorageError
from orchestrator.errors import DatabaseCorrupt, RegistryConflict, SchemaUnknown

# How long a writer waits for another one, in this process and in the database.
WAIT_S: Final = 10.0

# SQLite's BEGIN gives a snapshot; PostgreSQL has to be asked for one.
_READER: Final[Mapping[str, Mapping[str, Any]]] = {
    "postgresql": {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
}
_MIGRATIONS: Final = Path(__file__).with_name("migrations")
_DISK: Final = frozenset(
    {
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_CANTOPEN,
    }
)
# SQLITE_ERROR: our statements are fixed, so it is the tables that are not ours.
_BROKEN: Final = frozenset(
    {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR}
)


class Database:
    """Transactions on one database; made by `open_database`."""

    def __init__(self, engine: Engine, folder: Path | None = None) -> None:
        self._engine = engine
        self._folder = folder
        self._writer = engine.execution_options(keymixer_begin="IMMEDIATE")
        self._reader = engine.execution_options(**_READER.get(engine.dialect.name, {}))
        self._one_writer = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def folder(self) -> Path | None:
        """Where an SQLite database's file is; None for a server's database."""
        return self._folder

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """Write: all of it is durable when the block ends, or none of it happened.

        Raises:
            AuditUnavailable: others held the database for longer than `WAIT_S`.
            StorageError: the disk is full or not writable.
            RegistryConflict: a constraint forbids the change.
        """
        if not self._one_writer.acquire(timeout=WAIT_S):
            raise AuditUnavailable(f"another writer was busy for {WAIT_S:g} s")
        try:
            with (
                _typed_errors(),
                Session(self._writer, expire_on_commit=False) as session,
                session.begin(),
            ):
                yield session
        finally:
            self._one_writer.release()

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """Read one consistent snapshot; the database refuses writes."""
        with _typed_errors(), Session(self._reader) as session:
            yield session

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()


def open_database(url: str) -> Database:
    """Open the database at an SQLAlchemy URL and bring its schema to the newest.

    Raises:
        SchemaUnknown: a newer keymixer has already migrated it further.
        StorageError: it cannot be opened or written.
    """
    engine = _engine(make_url(url))
    path = _sqlite_file(engine.url)
    try:
        if path is not None:
            _create_private(path)
        with _typed_errors():
            _upgrade(engine)
    except KeymixerError:
        engine.dispose()
        raise
    return Database(engine, path.parent if path else None)


def open_existing(path: Path) -> Database:
    """Open an SQLite file as it is, for reading only: nothing is migrated."""
    if not path.is_file():
        raise StorageError(f"no database at {path}")
    read_only = {"mode": "ro", "uri": "true"}
    url = URL.create("sqlite", database=f"file:{quote(str(path))}", query=read_only)
    return Database(_engine(url), path.parent)


def migrations(connection: Connection | None = None, *, dialect: str = "") -> Config:
    """Return Alembic's configuration: for `connection`, or to render for `dialect`."""
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    config.attributes["dialect"] = dialect
    return config


def _engine(url: URL) -> Engine:
    if url.get_backend_name() != "sqlite":
        return create_engine(url, pool_timeout=WAIT_S)
    timeout = {"timeout": WAIT_S}
    engine = create_engine(url, pool_timeout=WAIT_S, connect_args=timeout)
    event.listen(engine, "connect", _take_over_transactions)
    if url.query.get("mode") != "ro":
        event.listen(engine, "connect", _make_durable)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _take_over_transactions(connection: Any, _entry: ConnectionPoolEntry) -> None:
    connection.isolation_level = None  # we emit BEGIN: the driver's own is too late


def _make_durable(connection: Any, _entry: ConnectionPoolEntry) -> None:
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    mode = connection.get_execution_options().get("keymixer_begin", "")
    connection.exec_driver_sql(f"PRAGMA query_only={'OFF' if mode else 'ON'}")
    connection.exec_driver_sql(f"BEGIN {mode}")


def _upgrade(engine: Engine) -> None:
    writer = engine.execution_options(keymixer_begin="IMMEDIATE")
    try:
        with writer.begin() as connection:
            command.upgrade(migrations(connection), "head")
    except CommandError as error:
        raise SchemaUnknown(str(error)) from error


def _create_private(path: Path) -> None:
    """Create the file for our eyes only; its -wal and -shm inherit the mode."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    except OSError as error:
        raise StorageError(f"cannot open {path}") from error


def _sqlite_file(url: URL) -> Path | None:
    in_memory = url.database in (None, "", ":memory:")
    if url.get_backend_name() != "sqlite" or in_memory:
        return None
    return Path(str(url.database))


@contextmanager
def _typed_errors() -> Iterator[None]:
    try:
        yield
    except PoolTimeout as error:
        raise AuditUnavailable("every connection is busy") from error
    except IntegrityError as error:
        raise RegistryConflict(str(error.orig)) from error
    except DatabaseError as error:
        raise _typed(error) from error


def _typed(error: DBAPIError) -> KeymixerError:
    """Say whose move it is: the disk's, a backup's, or a later try's."""
    code = getattr(error.orig, "sqlite_errorcode", 0) & 0xFF
    if code in _BROKEN:
        return DatabaseCorrupt(str(error.orig))
    if code in _DISK:
        return StorageError(str(error.orig))
    if isinstance(error, OperationalError):
        return AuditUnavailable(str(error.orig))
    return StorageError(str(error.orig))
