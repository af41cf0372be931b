"""The databases that keep the registry's contract: SQLite, and PostgreSQL if given.

`KEYMIXER_TEST_POSTGRESQL` names a PostgreSQL database by its SQLAlchemy URL. Its schema
`public` is dropped before every test, so give it a database of its own.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from core.database import Database
from orchestrator.registry.database import open_database

POSTGRESQL = os.environ.get("KEYMIXER_TEST_POSTGRESQL", "")


@pytest.fixture(params=["sqlite", *(["postgresql"] if POSTGRESQL else [])])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    url = f"sqlite:///{tmp_path}/registry.db"
    if request.param == "postgresql":
        url = POSTGRESQL
        _empty(url)
    with open_database(url) as opened:
        yield opened


def _empty(url: str) -> None:
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text("DROP SCHEMA public CASCADE"))
        connection.execute(text("CREATE SCHEMA public"))
    engine.dispose()
