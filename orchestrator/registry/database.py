"""The registry's own database: the registry and the audit log in one."""

from pathlib import Path
from typing import Final

from core.database import Database
from core.database import open_database as open_any

MIGRATIONS: Final = Path(__file__).with_name("migrations")


def open_database(url: str) -> Database:
    """Open the database at an SQLAlchemy URL and bring its schema to the newest."""
    return open_any(url, MIGRATIONS)
