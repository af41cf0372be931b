"""The tables are portable, and every rule has a name to be found by."""

import pytest
from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Dialect,
    LargeBinary,
    Table,
    make_url,
)
from sqlalchemy.orm import configure_mappers
from sqlalchemy.schema import CreateIndex, CreateTable

from orchestrator.registry.models import Base, KeyVersion

TABLES = Base.metadata.sorted_tables
DIALECTS = [make_url(f"{name}://").get_dialect()() for name in ("sqlite", "postgresql")]


def test_the_tables_are_those_of_the_design() -> None:
    expected = (
        "organisations parties models model_versions model_aliases grants keys "
        "key_versions issued_models jobs approvals approval_votes audit_leaves "
        "audit_leaf_parties audit_nodes audit_event_ids checkpoints cosignatures "
        "audit_notes audit_request_ids pulse"
    )

    assert {table.name for table in TABLES} == set(expected.split())


def test_the_mappers_fit_together() -> None:
    configure_mappers()


@pytest.mark.parametrize("table", TABLES, ids=str)
def test_every_constraint_has_a_name(table: Table) -> None:
    """Without one, a later migration could not alter it."""
    assert all(constraint.name for constraint in table.constraints)
    assert all(index.name for index in table.indexes)


@pytest.mark.parametrize("table", TABLES, ids=str)
def test_no_name_is_too_long_for_postgresql(table: Table) -> None:
    names = [str(rule.name) for rule in table.constraints]
    names += [str(index.name) for index in table.indexes]

    assert [name for name in names if len(name) > 63] == []


@pytest.mark.parametrize("table", TABLES, ids=str)
@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
def test_a_table_can_be_written_in_each_dialect(table: Table, dialect: Dialect) -> None:
    statement = str(CreateTable(table).compile(dialect=dialect))

    assert f"CREATE TABLE {table.name}" in statement


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
def test_the_one_primary_index_is_partial_in_each_dialect(
    dialect: Dialect,
) -> None:
    table = Base.metadata.tables[KeyVersion.__tablename__]
    named = {str(index.name): index for index in table.indexes}
    index = named["uq_key_versions_one_primary"]

    assert str(CreateIndex(index).compile(dialect=dialect)).endswith(
        "ON key_versions (key_pk) WHERE is_primary"
    )


def test_times_have_room_for_milliseconds() -> None:
    """32 bits of milliseconds would end after 25 days."""
    times = [c for table in TABLES for c in table.columns if c.name.endswith("_ms")]

    assert times
    assert all(isinstance(column.type, BigInteger) for column in times)


def test_no_column_could_hold_a_key_or_a_picture() -> None:
    """The orchestrator knows digests, signatures and public things only."""
    binary = {
        column.name
        for table in TABLES
        for column in table.columns
        if isinstance(column.type, LargeBinary)
    }

    assert binary == {
        "signing_key",
        "sealing_key",
        "manifest",
        "manifest_digest",
        "signature",
        "embedding_digest",
        "backbone_digest",
        "commitment",
        "digest",
        "statement",
        "body",
        "leaf_hash",
        "hash",
        "note",
        # Random, with what was typed.
        "salt",
        # Names and numbers that a job or an approval needs; see the next test.
        "arguments",
        # Random, written to see whether there is room for a record.
        "filling",
    }


def test_arguments_leave_no_room_for_a_picture() -> None:
    """As `float32`, one of 224 x 224 pixels takes 588 KiB."""
    rules = {
        (table.name, str(rule.sqltext))
        for table in TABLES
        for rule in table.constraints
        if isinstance(rule, CheckConstraint) and "arguments" in str(rule.sqltext)
    }

    bound = "length(arguments) <= 65536"
    assert rules == {("jobs", bound), ("approvals", bound)}
