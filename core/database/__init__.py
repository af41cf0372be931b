"""One SQL database, opened at the newest schema, with one writer at a time."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeVar

from sqlalchemy import URL, Engine, PoolProxiedConnection, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.orm import Session

from core.database.connections import (
    connect,
    empty_sqlite_log,
    readers,
    to_migrate,
    to_write,
    waiting,
)
from core.database.failures import typed_errors
from core.database.fixed import Driver, Fixed, Given, Rows, as_usual
from core.database.place import unmoved
from core.database.schema import upgrade
from core.database.shared import SharedTransactions
from core.errors import (
    ConfigurationError,
    DatabaseBusyError,
    KeymixerError,
    StorageError,
)

T = TypeVar("T")

# In a session: what `before_commit` was given.
_LAST: Final = "keymixer_before_commit"

# How long a writer waits for others, in this process and in the database: with what a
# silent server costs, less than the ten seconds that most callers wait for an answer.
WAIT_S: Final = 5.0


class Database:
    """Transactions on one database; made by `open_database`."""

    def __init__(
        self, engine: Engine, file: Path | None = None, *, wait_s: float = WAIT_S
    ) -> None:
        self._engine = engine
        self._folder = file.parent if file else None
        self._wait_s = wait_s
        self._writer = to_write(engine)
        self._reader = readers(engine, wait_s)
        self._one_writer = threading.Lock()
        self._shared = SharedTransactions(self.transaction)
        self._require_file = unmoved(file) if file else _in_place

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

        From the start of the block on, no other writer changes what it sees: neither
        one of this process nor one of another. So a clock that is read in the block
        never goes behind what an earlier transaction wrote.

        Raises:
            DatabaseBusyError: others held the database for longer than `wait_s`, or
                its server fell silent. If that was at the end, the change may be
                durable all the same.
            StorageError: the disk is full or not writable, or the file is gone.
            ConstraintConflict: a constraint forbids the change.
        """
        with (
            self._only_writer() as left_s,
            typed_errors(),
            Session(self._writer, expire_on_commit=False) as session,
            session.begin(),
        ):
            # It begins here, not with the first statement: whoever waits, waits here.
            session.connection(execution_options=waiting(left_s))
            yield session
            for work in session.info.pop(_LAST, ()):
                work()
            # The last thing before the commit, which a removed file would swallow.
            self._require_file()

    def together(self, work: Callable[[Session], T]) -> T:
        """Write like `transaction`, and share the commit with others that wait.

        Args:
            work: Changes the database and does nothing else: it may run twice, and in
                another caller's thread.

        Raises:
            Exception: as `transaction`, and what `work` raises.
        """
        return self._shared.run(work)

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """Read one consistent snapshot; the database refuses writes."""
        with typed_errors(), Session(self._reader) as session:
            yield session

    def look(self, query: Fixed, given: Given) -> Rows:
        """Return what one query finds at this instant: a transaction of its own."""
        with typed_errors():
            connection = self._checked_out()
            try:
                driver = Driver(connection.dbapi_connection, self._reader.dialect)
                return query.rows_on(driver, given)
            finally:
                connection.close()

    def empty_log(self) -> None:
        """Leave nothing of overwritten rows in SQLite's write-ahead log.

        What is committed is moved into the file, and the log is cut to nothing. Other
        databases have no such log that a client may empty: nothing happens.

        Raises:
            DatabaseBusyError: somebody still reads a snapshot that needs the log.
        """
        if self._engine.dialect.name != "sqlite":
            return
        with self._only_writer(), typed_errors():
            emptied = empty_sqlite_log(self._engine)
        if not emptied:
            raise DatabaseBusyError("a reader keeps the write-ahead log from emptying")

    def close(self) -> None:
        """Close every connection."""
        self._reader.dispose()
        self._engine.dispose()

    def _checked_out(self) -> PoolProxiedConnection:
        """A connection of the pool's; what the driver raises when it connects is typed.

        Of what a session does SQLAlchemy sees to that, and not here.
        """
        dialect = self._reader.dialect
        try:
            return self._reader.raw_connection()
        except dialect.loaded_dbapi.Error as error:
            raise as_usual(error, dialect) from error

    @contextmanager
    def _only_writer(self) -> Iterator[float]:
        """Wait for our turn in this process; gives what is left of `wait_s`."""
        end = time.monotonic() + self._wait_s
        if not self._one_writer.acquire(timeout=self._wait_s):
            raise DatabaseBusyError(f"another writer was busy for {self._wait_s:g} s")
        try:
            # Never 0, which to the database is no limit.
            yield max(end - time.monotonic(), 0.001)
        finally:
            self._one_writer.release()


def before_commit(session: Session, work: Callable[[], None]) -> None:
    """Have `work` done as the last thing of this transaction, if it comes so far."""
    session.info.setdefault(_LAST, []).append(work)


def open_database(url: str, migrations: Path, *, wait_s: float = WAIT_S) -> Database:
    """Open the database at an SQLAlchemy URL and bring its schema to the newest.

    Args:
        url: Such as `sqlite:////srv/keymixer/registry.db` or `postgresql://host/name`.
        migrations: The folder of the Alembic scripts that make the schema.
        wait_s: How long a writer waits for another one.

    Raises:
        ConfigurationError: the URL is none, or its driver is not installed.
        SchemaUnknown: a newer keymixer has already migrated it further.
        StorageError: it cannot be opened or written.
    """
    parsed = _parse(url)
    path = _sqlite_file(parsed)
    if path is not None:
        _create_private(path)
    engine = connect(parsed, wait_s)
    try:
        with typed_errors():
            upgrade(to_migrate(engine), migrations)
    except KeymixerError:
        engine.dispose()
        raise
    return Database(engine, path, wait_s=wait_s)


def open_existing(where: Path | str) -> Database:
    """Open an SQLite file or a URL as it is, for reading only: nothing is migrated."""
    if isinstance(where, str):
        url = _parse(where)
        path = _sqlite_file(url)
        if path is None:
            return Database(connect(url, WAIT_S, read_only=True))
        where = path
    if not where.is_file():
        raise StorageError(f"no database at {where}")
    url = URL.create("sqlite", database=str(where))
    return Database(connect(url, WAIT_S, read_only=True), where)


def _in_place() -> None:
    """No file of ours can be moved."""


def _parse(url: str) -> URL:
    try:
        return make_url(url)
    except (ArgumentError, ValueError):
        # Its text would quote the URL, and with it a password.
        raise ConfigurationError("the database's URL cannot be read") from None


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
