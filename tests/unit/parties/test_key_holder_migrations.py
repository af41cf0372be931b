"""The key holder's migrations make exactly its tables, guarded, up and down again."""

from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, inspect, text

from core.database import schema
from parties.key_holder.opening import MIGRATIONS
from parties.key_holder.tables import Base

GUARDS = [f"key_versions_kept_{event}" for event in ("delete", "insert", "update")]


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[Connection]:
    engine = create_engine(f"sqlite:///{tmp_path}/key-holder.db")
    with engine.begin() as opened:
        yield opened
    engine.dispose()


def migrations(connection: Connection | None = None, *, dialect: str = "") -> Config:
    return schema.migrations(MIGRATIONS, connection, dialect=dialect)


def rendered(direction: str, revisions: str) -> str:
    """Return what Alembic's `--sql` would print for PostgreSQL."""
    config = migrations(dialect="postgresql")
    config.output_buffer = StringIO()
    getattr(command, direction)(config, revisions, sql=True)
    return config.output_buffer.getvalue()


def triggers(connection: Connection) -> list[str]:
    query = text("SELECT name FROM sqlite_master WHERE type = 'trigger' ORDER BY name")
    return list(connection.scalars(query))


def statements(connection: Connection) -> dict[str, list[str]]:
    """Return each table's and index's parts, sorted: the order of rules is free."""
    query = text(
        "SELECT name, sql FROM sqlite_master WHERE type IN ('table', 'index') "
        "AND sql IS NOT NULL AND name <> 'alembic_version'"
    )
    return {
        name: sorted(line.strip().rstrip(",") for line in sql.splitlines())
        for name, sql in connection.execute(query)
    }


def test_migrated_tables_are_those_of_the_models_to_the_last_check(
    connection: Connection,
) -> None:
    command.upgrade(migrations(connection), "head")
    command.check(migrations(connection))
    models = create_engine("sqlite://")
    with models.begin() as expected:
        Base.metadata.create_all(expected)

        assert statements(expected) == statements(connection)
    models.dispose()


def test_up_down_up_leaves_what_up_leaves(connection: Connection) -> None:
    command.upgrade(migrations(connection), "head")
    first = statements(connection), triggers(connection)
    command.downgrade(migrations(connection), "base")
    assert inspect(connection).get_table_names() == ["alembic_version"]
    assert triggers(connection) == []

    command.upgrade(migrations(connection), "head")
    assert (statements(connection), triggers(connection)) == first


def test_there_is_one_newest_schema() -> None:
    assert len(ScriptDirectory.from_config(migrations()).get_heads()) == 1


def test_key_versions_are_guarded_on_sqlite(connection: Connection) -> None:
    command.upgrade(migrations(connection), "head")

    assert triggers(connection) == GUARDS


def test_key_versions_are_guarded_on_postgresql() -> None:
    script = rendered("upgrade", "head")

    assert "BEFORE DELETE OR TRUNCATE ON key_versions" in script
    assert "BEFORE UPDATE ON key_versions FOR EACH ROW WHEN" in script
    assert "IS DISTINCT FROM (NEW.key_id, NEW.version, NEW.owner" in script
    assert "%" not in script


def test_the_way_down_is_rendered_for_postgresql_too() -> None:
    script = rendered("downgrade", "head:base")

    assert script.index("DROP TABLE embeddings") < script.index("DROP FUNCTION")
