"""What a database's driver raises, as errors of ours."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from sqlalchemy.exc import DatabaseError, DBAPIError, IntegrityError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from core.errors import (
    ConstraintConflict,
    DatabaseBusyError,
    DatabaseCorrupt,
    KeymixerError,
    StorageError,
)

_DISK: Final = frozenset(
    {
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_CANTOPEN,
        "53100",  # disk full
        "58030",  # input or output failed
        "25006",  # read-only transaction
    }
)
# SQLITE_ERROR: our statements are fixed, so it is the tables that are not ours.
_BROKEN: Final = frozenset(
    {
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_ERROR,
        "42P01",  # no such table
        "42703",  # no such column
        "XX001",  # data corrupted
        "XX002",  # index corrupted
    }
)


@contextmanager
def typed_errors() -> Iterator[None]:
    """Turn what leaves the block into one of ours."""
    try:
        yield
    except PoolTimeout as error:
        raise DatabaseBusyError("every connection is busy") from error
    except IntegrityError as error:
        raise ConstraintConflict(_message(error.orig)) from error
    except DatabaseError as error:
        raise _typed(error) from error


def _typed(error: DBAPIError) -> KeymixerError:
    """Say whose move it is: the disk's, a backup's, or a later try's."""
    code, message = _code(error.orig), _message(error.orig)
    if code in _BROKEN:
        return DatabaseCorrupt(message)
    if code in _DISK:
        return StorageError(message)
    if isinstance(error, OperationalError):
        return DatabaseBusyError(message)
    return StorageError(message)


def _code(error: Any) -> int | str:
    """Return SQLite's primary result code, or PostgreSQL's SQLSTATE."""
    sqlstate = getattr(error, "sqlstate", None)
    return sqlstate or getattr(error, "sqlite_errorcode", 0) & 0xFF


def _message(error: Any) -> str:
    """Return the first line: PostgreSQL's others quote the row."""
    diagnosis = getattr(error, "diag", None)
    return getattr(diagnosis, "message_primary", None) or str(error)
