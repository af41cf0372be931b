"""A log where its keeper keeps it: SQLite's file, or a server's database."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import make_url

from core.database import Database, open_existing
from orchestrator.audit.writer import SIDE_FILE
from orchestrator.settings import Settings


@contextmanager
def log_of(folder: Path) -> Iterator[tuple[Database | Path, Path | None]]:
    """The log of the orchestrator in `folder`, and where its last checkpoint is.

    SQLite's file has the checkpoint beside it, which needs no telling. A server's
    database is opened for reading only: it may be in use.
    """
    found = Settings.load(folder).database
    url = make_url(found)
    if url.get_backend_name() == "sqlite":
        yield Path(url.database or ""), None
        return
    with open_existing(found) as database:
        yield database, folder / SIDE_FILE
