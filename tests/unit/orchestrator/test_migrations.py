"""The migrations make exactly the models' tables, and can go down and up again."""

from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, MetaData, create_engine, inspect, text

from core.database import schema
from orchestrator.registry.database import MIGRATIONS, open_database
from orchestrator.registry.models import Base

LOG_TABLES = (
    *("audit_leaves", "audit_leaf_parties", "audit_nodes", "audit_request_ids"),
    "checkpoints",
)
KEPT_TABLES = (
    *("parties", "models", "model_versions", "keys", "key_versions", "issued_models"),
    *("jobs", "approvals", "approval_votes", "audit_event_ids"),
)


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[Connection]:
    engine = create_engine(f"sqlite:///{tmp_path}/registry.db")
    with engine.begin() as opened:
        yield opened
    engine.dispose()


def test_alembic_finds_nothing_to_change(connection: Connection) -> None:
    """What `alembic check` asks, and the comparison it rests on."""
    command.upgrade(migrations(connection), "head")

    command.check(migrations(connection))
    context = MigrationContext.configure(connection)
    assert compare_metadata(context, Base.metadata) == []


def test_migrated_tables_are_those_of_the_models_to_the_last_check(
    connection: Connection,
) -> None:
    """Autogenerate compares no check constraints: compare the statements themselves."""
    command.upgrade(migrations(connection), "head")
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


def test_opening_a_database_twice_migrates_it_once(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/registry.db"
    for _ in range(2):
        with open_database(url) as database, database.reading() as session:
            revision = session.scalar(text("SELECT version_num FROM alembic_version"))

            assert revision == head()


def test_there_is_one_newest_schema() -> None:
    """Two heads would be two schemas, and nobody to say which."""
    assert len(ScriptDirectory.from_config(migrations()).get_heads()) == 1


def test_every_table_of_the_log_is_guarded_on_sqlite(connection: Connection) -> None:
    command.upgrade(migrations(connection), "head")
    guards = ("no_delete", "no_replace", "no_update")

    expected = {f"{table}_{guard}" for table in LOG_TABLES for guard in guards}
    names = {
        f"{table}_{guard}"
        for table in ("audit_event_ids", "audit_notes")
        for guard in ("no_replace", "no_update")
    }
    assert expected | names == {name for name in triggers(connection) if "_no_" in name}


def test_no_row_that_names_something_can_be_deleted(connection: Connection) -> None:
    command.upgrade(migrations(connection), "head")

    expected = sorted(f"{table}_kept" for table in KEPT_TABLES)
    assert expected == [name for name in triggers(connection) if "_kept" in name]


def test_every_table_of_the_log_is_guarded_on_postgresql() -> None:
    """Rendered, for there is no server here: three ways to change are refused."""
    script = rendered("upgrade", "head")

    assert "RAISE EXCEPTION USING ERRCODE" in script
    assert "%" not in script
    for table in LOG_TABLES:
        assert (
            f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE OR TRUNCATE "
            f"ON {table} FOR EACH STATEMENT EXECUTE FUNCTION keymixer_append_only();"
        ) in script


def test_the_way_down_is_rendered_for_postgresql_too() -> None:
    script = rendered("downgrade", "head:base")

    assert script.index("DROP TABLE jobs") < script.index("DROP TABLE key_versions")
    assert "ALTER TABLE key_versions DROP COLUMN images_used" in script
    assert script.index("DROP TABLE audit_leaves") < script.index(
        "DROP FUNCTION keymixer_append_only"
    )


def test_rows_from_before_the_jobs_keep_what_they_said(connection: Connection) -> None:
    """They were used for no images that anybody counted, and changed long ago."""
    command.upgrade(migrations(connection), "0001")
    connection.execute(text("INSERT INTO organisations VALUES (1, 'hospital')"))
    connection.execute(
        text(
            "INSERT INTO parties "
            "(id, organisation_id, role, spiffe_id, state, created_at_ms) "
            "VALUES (7, 1, 'data-owner', 'spiffe://bank/a/data-owner', 'active', 5)"
        )
    )
    command.upgrade(migrations(connection), "head")
    row = connection.execute(text("SELECT id, state, revision FROM parties")).one()

    assert tuple(row) == (7, "active", 0)


def test_grants_from_before_the_budgets_count_what_was_answered(
    connection: Connection,
) -> None:
    """Of the owner's own key for that model, under every version of it."""
    command.upgrade(migrations(connection), "0002")
    earlier = MetaData()
    earlier.reflect(connection)
    for table, rows in BEFORE_THE_BUDGETS.items():
        connection.execute(earlier.tables[table].insert(), rows)
    command.upgrade(migrations(connection), "head")
    query = text("SELECT id, max_images, budget_period, images_used FROM grants")

    assert connection.execute(query).all() == [
        (1, None, "total", 7),
        (2, None, "total", 0),
        (3, None, "total", 30),
    ]


NEVER_USED = {
    "version": 1,
    "state": "pre_active",
    "is_primary": False,
    "confirmed": False,
    "overlap_s": 0,
    "reason": "",
    "created_at_ms": 5,
    "changed_at_ms": 5,
}
# The first owner was granted a second model, and has no key for it.
BEFORE_THE_BUDGETS: dict[str, list[dict[str, Any]]] = {
    "organisations": [{"id": 1, "name": "hospital"}],
    "parties": [
        {
            "id": number,
            "organisation_id": 1,
            "role": "data-owner",
            "spiffe_id": f"spiffe://bank/{number}/data-owner",
            "state": "active",
            "created_at_ms": 5,
        }
        for number in (1, 2)
    ],
    "models": [
        {"id": 1, "name": "cells", "provider_party_id": 1},
        {"id": 2, "name": "bones", "provider_party_id": 1},
    ],
    "keys": [
        {
            "id": owner,
            "key_id": f"{owner}.cells",
            "owner_party_id": owner,
            "model_id": 1,
            "patch_size": 4,
            "channels": 3,
        }
        for owner in (1, 2)
    ],
    "key_versions": [
        NEVER_USED | {"key_pk": key, "version": version, "images_used": used}
        for key, version, used in ((1, 1, 3), (1, 2, 4), (2, 1, 30))
    ],
    "grants": [
        {"id": number, "owner_party_id": owner, "model_id": model, "created_at_ms": 5}
        for number, owner, model in ((1, 1, 1), (2, 1, 2), (3, 2, 1))
    ],
}


def migrations(connection: Connection | None = None, *, dialect: str = "") -> Config:
    return schema.migrations(MIGRATIONS, connection, dialect=dialect)


def rendered(direction: str, revisions: str) -> str:
    """Return what Alembic's `--sql` would print for PostgreSQL."""
    config = migrations(dialect="postgresql")
    config.output_buffer = StringIO()
    getattr(command, direction)(config, revisions, sql=True)
    return config.output_buffer.getvalue()


def head() -> str | None:
    return ScriptDirectory.from_config(migrations()).get_current_head()


def triggers(connection: Connection) -> list[str]:
    query = text("SELECT name FROM sqlite_master WHERE type = 'trigger' ORDER BY name")
    return list(connection.scalars(query))


def statements(connection: Connection) -> dict[str, list[str]]:
    """Return each table's and index's parts, sorted: the order of rules is free."""
    query = text(
        "SELECT name, sql FROM sqlite_master WHERE type IN ('table', 'index') "
        "AND sql IS NOT NULL AND name <> 'alembic_version'"
    )
    return {name: sorted(parts(sql)) for name, sql in connection.execute(query)}


def parts(statement: str) -> Iterator[str]:
    """Cut where no parenthesis is open: SQLite writes added columns on the last line.

    No rule of ours has a parenthesis or a comma in a quoted word.
    """
    head, _, body = statement.strip().removesuffix(")").partition("(")
    yield head
    depth, part = 0, ""
    for character in body:
        depth += (character == "(") - (character == ")")
        if character == "," and depth == 0:
            yield " ".join(part.split())
            part = ""
        else:
            part += character
    yield " ".join(part.split())


def test_a_statement_is_cut_between_its_columns_and_rules() -> None:
    """The comparison above is worth what this is worth."""
    statement = "CREATE TABLE t (\n a INT, \n CHECK (a IN (1, 2)), b INT DEFAULT '0')"

    assert list(parts(statement)) == [
        "CREATE TABLE t ",
        "a INT",
        "CHECK (a IN (1, 2))",
        "b INT DEFAULT '0'",
    ]
