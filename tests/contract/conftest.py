"""The databases that keep the registry's contract: SQLite and PostgreSQL."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from core.database import Database
from orchestrator.registry.database import open_database
from tests.postgresql import PATIENT, PostgreSQL


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database without rows, of either kind; SQLite's without tables too."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/registry.db"
    server: PostgreSQL = request.getfixturevalue("postgresql")
    return server.emptied(migrate) + PATIENT


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    with open_database(url) as opened:
        yield opened


def migrate(url: str) -> None:
    open_database(url).close()
