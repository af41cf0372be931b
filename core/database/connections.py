"""How we connect to SQLite and to PostgreSQL so that both keep the same promises.

SQLite writes to a write-ahead log and waits for the disk at every commit (WAL,
synchronous=FULL): a commit that returned survives a power cut. What is deleted is
overwritten with zeros. PostgreSQL does the former by default and not the latter.

One writer at a time, across processes: SQLite's `BEGIN IMMEDIATE` locks the file;
on PostgreSQL a writer takes an advisory lock of the database before it reads.
"""

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.exc import ArgumentError
from sqlalchemy.pool import ConnectionPoolEntry

from core.errors import ConfigurationError

_DURABLE: Final = (
    "journal_mode=WAL",
    "synchronous=FULL",
    "foreign_keys=ON",
    "secure_delete=ON",
)
# SQLite's BEGIN gives a snapshot; PostgreSQL has to be asked for one.
_READER: Final[Mapping[str, Mapping[str, Any]]] = {
    "postgresql": {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
}
# `keymixer` in ASCII: one lock for each database of a server.
_WRITERS_LOCK: Final = int.from_bytes(b"keymixer")


def connect(url: URL, wait_s: float, *, read_only: bool = False) -> Engine:
    """Return a pool of connections to SQLite or PostgreSQL; none is made yet.

    Args:
        url: SQLAlchemy's.
        wait_s: How long to wait for a connection, and for other writers.
        read_only: Whether the database refuses every change, even of its journal.
    """
    backend = url.get_backend_name()
    if backend == "sqlite":
        return _sqlite(url, wait_s, read_only=read_only)
    if backend == "postgresql":
        return _postgresql(url, wait_s, read_only=read_only)
    raise ConfigurationError(f"no support for {backend}: use sqlite or postgresql")


def to_write(engine: Engine) -> Engine:
    """Return the engine whose transactions are the only ones that write."""
    return engine.execution_options(keymixer_writes=True)


def to_read(engine: Engine) -> Engine:
    """Return the engine whose transactions see one snapshot and cannot write."""
    return engine.execution_options(**_READER.get(engine.dialect.name, {}))


def empty_sqlite_log(engine: Engine) -> bool:
    """Move the write-ahead log into the file and cut it; say if it was done."""
    alone = engine.execution_options(keymixer_begins=False)
    with alone.connect() as connection:
        pragma = "PRAGMA wal_checkpoint(TRUNCATE)"
        return not connection.exec_driver_sql(pragma).one()[0]


def _sqlite(url: URL, wait_s: float, *, read_only: bool) -> Engine:
    if url.database not in {None, "", ":memory:"}:
        # Never `rwc`: where the file is gone, no empty one may take its place.
        query = {"mode": "ro" if read_only else "rw", "uri": "true"}
        url = url.set(database=f"file:{quote(str(url.database))}", query=query)
    engine = create_engine(
        url,
        pool_timeout=wait_s,
        connect_args={"timeout": wait_s},
        hide_parameters=True,
    )
    event.listen(engine, "connect", _take_over_transactions)
    if not read_only:
        event.listen(engine, "connect", _make_durable)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _postgresql(url: URL, wait_s: float, *, read_only: bool) -> Engine:
    options = {"options": "-c default_transaction_read_only=on"} if read_only else {}
    try:
        engine = create_engine(
            url,
            pool_timeout=wait_s,
            pool_pre_ping=True,
            connect_args=options,
            hide_parameters=True,
        )
    except (ArgumentError, ImportError) as error:
        message = "PostgreSQL's driver is missing: install keymixer[postgres]"
        raise ConfigurationError(message) from error

    def begin(connection: Connection) -> None:
        _begin_postgresql(connection, wait_s)

    event.listen(engine, "begin", begin)
    return engine


def _take_over_transactions(connection: Any, _entry: ConnectionPoolEntry) -> None:
    connection.isolation_level = None  # we emit BEGIN: the driver's own is too late


def _make_durable(connection: Any, _entry: ConnectionPoolEntry) -> None:
    for pragma in _DURABLE:
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    if not connection.get_execution_options().get("keymixer_begins", True):
        return
    writes = _writes(connection)
    connection.exec_driver_sql(f"PRAGMA query_only={'OFF' if writes else 'ON'}")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _begin_postgresql(connection: Connection, wait_s: float) -> None:
    if _writes(connection):
        wait_ms = int(wait_s * 1000)
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = {wait_ms}")
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_WRITERS_LOCK})")


def _writes(connection: Connection) -> bool:
    return bool(connection.get_execution_options().get("keymixer_writes", False))
