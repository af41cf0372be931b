"""How we connect to SQLite and to PostgreSQL so that both keep the same promises.

SQLite writes to a write-ahead log and waits for the disk at every commit (WAL,
synchronous=FULL): a commit that returned survives a power cut. What is deleted is
overwritten with zeros. PostgreSQL does the former by default and not the latter.

One writer at a time, across processes: SQLite's `BEGIN IMMEDIATE` locks the file;
on PostgreSQL a writer takes an advisory lock of the database before it reads. A writer
whose network is cut loses it: the server waits for the next statement no longer than
`Silence` says.
"""

from collections.abc import Mapping
from math import ceil, inf
from typing import Any, Final
from urllib.parse import quote

from sqlalchemy import URL, Connection, Dialect, Engine, create_engine, event
from sqlalchemy.exc import ArgumentError
from sqlalchemy.pool import ConnectionPoolEntry

from core.database.fixed import as_usual
from core.database.silence import Silence
from core.errors import ConfigurationError

_DURABLE: Final = (
    "journal_mode=WAL",
    "synchronous=FULL",
    "foreign_keys=ON",
    "secure_delete=ON",
)
_IN_MEMORY: Final = frozenset({None, "", ":memory:"})
# Of a connection to SQLite: whether it was told to refuse writes.
_REFUSES: Final = "keymixer_refuses_writes"
# SQLite's BEGIN gives a snapshot; PostgreSQL has to be asked for one.
_READER: Final[Mapping[str, Mapping[str, Any]]] = {
    "postgresql": {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
}
# `keymixer` in ASCII: one lock for each database of a server.
_WRITERS_LOCK: Final = int.from_bytes(b"keymixer")
# The network stack gives up, too: for those who may wait for ever, such as the reader
# of a whole log, and on the server's side for the session of somebody who is gone.
_OPTIONS: Final = "-c tcp_keepalives_idle=10 -c tcp_user_timeout=25000"
# What libpq is told unless the URL says it.
_UNLESS_SAID: Final[Mapping[str, str]] = {
    "connect_timeout": "3",
    "keepalives_idle": "10",
    "tcp_user_timeout": "25000",
    "options": _OPTIONS,
}
_READ_ONLY: Final = "-c default_transaction_read_only=on"
# Between two statements of a migration there may be work to do.
_MIGRATION_IDLE_S: Final = 60.0


def connect(url: URL, wait_s: float, *, read_only: bool = False) -> Engine:
    """Return a pool of connections to SQLite or PostgreSQL; none is made yet.

    Args:
        url: SQLAlchemy's; for a server with what `Silence` is, if not the usual.
        wait_s: How long to wait for a connection, and for other writers.
        read_only: Whether the database refuses every change, even of its journal. It
            may then take its time to answer.
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


def waiting(left_s: float) -> Mapping[str, float]:
    """Options of a connection that waits for other writers no longer than this."""
    return {"keymixer_wait_s": left_s}


def to_migrate(engine: Engine) -> Engine:
    """Return the engine that writes, and whose statements may take any time."""
    return engine.execution_options(keymixer_writes=True, keymixer_migrates=True)


def to_read(engine: Engine) -> Engine:
    """Return the engine whose transactions see one snapshot and cannot write."""
    return engine.execution_options(**_READER.get(engine.dialect.name, {}))


def readers(engine: Engine, wait_s: float) -> Engine:
    """Return the engine for those who only read: if need be with a pool of its own.

    A connection of SQLite that turns from writing to reading forgets every statement
    that it has prepared. To parse them again takes as long as to run them.
    """
    if engine.dialect.name == "sqlite" and engine.url.database not in _IN_MEMORY:
        return to_read(_sqlite_pool(engine.url, wait_s))
    return to_read(engine)


def empty_sqlite_log(engine: Engine) -> bool:
    """Move the write-ahead log into the file and cut it; say if it was done."""
    alone = engine.execution_options(keymixer_begins=False)
    with alone.connect() as connection:
        pragma = "PRAGMA wal_checkpoint(TRUNCATE)"
        return not connection.exec_driver_sql(pragma).one()[0]


def _sqlite(url: URL, wait_s: float, *, read_only: bool) -> Engine:
    if url.database not in _IN_MEMORY:
        # Never `rwc`: where the file is gone, no empty one may take its place.
        query = {"mode": "ro" if read_only else "rw", "uri": "true"}
        url = url.set(database=f"file:{quote(str(url.database))}", query=query)
    return _sqlite_pool(url, wait_s)


def _sqlite_pool(url: URL, wait_s: float) -> Engine:
    engine = create_engine(
        url,
        pool_timeout=wait_s,
        connect_args={"timeout": wait_s},
        hide_parameters=True,
    )
    event.listen(engine, "connect", _take_over_transactions)
    if url.query.get("mode") != "ro":
        event.listen(engine, "connect", _make_durable)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _postgresql(url: URL, wait_s: float, *, read_only: bool) -> Engine:
    silence, url = Silence.taken_from(url)
    try:
        # Only with this extra is the driver there.
        from core.database.listening import Listening  # noqa: PLC0415

        engine = create_engine(
            url,
            pool_timeout=wait_s,
            pool_pre_ping=True,
            connect_args=_libpq_options(url, read_only=read_only),
            hide_parameters=True,
        )
    except (ArgumentError, ImportError) as error:
        message = "PostgreSQL's driver is missing: install keymixer[postgres]"
        raise ConfigurationError(message) from error
    if engine.dialect.driver != "psycopg":
        raise ConfigurationError("another driver: write postgresql://")

    def listen(
        _dialect: Dialect, _entry: object, where: list[Any], how: dict[str, Any]
    ) -> Listening:
        connection = Listening.connect(*where, **how)
        if not read_only:
            connection.answer_s = silence.answer_s
        return connection

    def begin(connection: Connection) -> None:
        _begin_postgresql(connection, wait_s, silence)

    event.listen(engine, "do_connect", listen)
    event.listen(engine, "begin", begin)
    return engine


def _libpq_options(url: URL, *, read_only: bool) -> dict[str, str]:
    told = {name: how for name, how in _UNLESS_SAID.items() if name not in url.query}
    if read_only:
        told["options"] = f"{url.query.get('options', _OPTIONS)} {_READ_ONLY}"
    return told


def _take_over_transactions(connection: Any, _entry: ConnectionPoolEntry) -> None:
    connection.isolation_level = None  # we emit BEGIN: the driver's own is too late


def _make_durable(connection: Any, _entry: ConnectionPoolEntry) -> None:
    for pragma in _DURABLE:
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    if not connection.get_execution_options().get("keymixer_begins", True):
        return
    try:
        _begin_on(_driver(connection), connection.info, writes=_writes(connection))
    except connection.dialect.loaded_dbapi.Error as error:
        raise as_usual(error, connection.dialect) from error


def _begin_on(driver: Any, known: dict[Any, Any], *, writes: bool) -> None:
    if known.get(_REFUSES, False) == writes:
        # Whatever was prepared is forgotten: see `readers`.
        driver.execute(f"PRAGMA query_only={'OFF' if writes else 'ON'}")
        known[_REFUSES] = not writes
    driver.execute("BEGIN IMMEDIATE" if writes else "BEGIN")


def _begin_postgresql(connection: Connection, wait_s: float, silence: Silence) -> None:
    """Wait for our turn to write; from then on the server is as impatient as we are.

    It was not before: others may keep us waiting for longer than it for a statement.
    """
    if not _writes(connection):
        return
    if _migrates(connection):
        # A pool would keep its patience.
        connection.detach()
        _driver(connection).answer_s = inf
        silence = Silence(answer_s=0, idle_s=_MIGRATION_IDLE_S)  # 0: for ever
    left_s = connection.get_execution_options().get("keymixer_wait_s", wait_s)
    waits = _setting("lock_timeout", left_s)
    idles = _setting("idle_in_transaction_session_timeout", silence.idle_s)
    answers = _setting("statement_timeout", silence.answer_s)
    connection.exec_driver_sql(f"SELECT {waits}, {idles}")
    with _driver(connection).patient(left_s):
        lock = f"pg_advisory_xact_lock({_WRITERS_LOCK})"
        connection.exec_driver_sql(f"SELECT {lock}, {answers}")


def _setting(name: str, limit_s: float) -> str:
    """A setting for this transaction, in milliseconds; 0 is no limit."""
    return f"set_config('{name}', '{ceil(limit_s * 1000)}', true)"


def _driver(connection: Connection) -> Any:
    return connection.connection.dbapi_connection


def _writes(connection: Connection) -> bool:
    return bool(connection.get_execution_options().get("keymixer_writes", False))


def _migrates(connection: Connection) -> bool:
    return bool(connection.get_execution_options().get("keymixer_migrates", False))
