"""Is the database's file still where it was opened?

A file that was removed or replaced can still be written by whoever has it open, and
nobody will ever read that. A log that goes on so loses what it says is durable.
"""

from collections.abc import Callable
from pathlib import Path

from core.errors import DatabaseMoved, StorageError


def unmoved(path: Path) -> Callable[[], None]:
    """Return a check that `path` is the file that it is now.

    The check returns, or raises `DatabaseMoved`; once the file is back, it returns.
    """
    opened = _identity(path)

    def check() -> None:
        if _identity(path) != opened:
            raise DatabaseMoved(f"{path} is not the file that was opened")

    return check


def _identity(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except FileNotFoundError:
        raise DatabaseMoved(f"{path} is gone") from None
    except OSError as error:
        raise StorageError(f"cannot look at {path}") from error
    return found.st_dev, found.st_ino
