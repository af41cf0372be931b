"""Statements compiled once: the same rows and the same errors as SQLAlchemy's own."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from sqlalchemy import (
    Column,
    Engine,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    bindparam,
    create_engine,
    insert,
    select,
    update,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.orm import Session

from core.database.fixed import Fixed

TABLE = Table(
    "things",
    MetaData(),
    Column("name", String, primary_key=True),
    Column("size", Integer),
    Column("body", LargeBinary),
)
INSERT = Fixed(insert(TABLE), list(TABLE.columns.keys()))
NAMED = Fixed(
    select(TABLE.c.name, TABLE.c.body)
    .where(
        TABLE.c.size > bindparam("least"),
        TABLE.c.name.in_(bindparam("names", expanding=True)),
    )
    .order_by(TABLE.c.name)
)
SMALLEST = Fixed(select(TABLE.c.name).order_by(TABLE.c.size).limit(1))
GROW = Fixed(
    update(TABLE)
    .where(TABLE.c.name == bindparam("of"))
    .values(size=TABLE.c.size + bindparam("by"))
)


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    engine = create_engine(f"sqlite:///{tmp_path}/things.db")
    TABLE.metadata.create_all(engine)
    with Session(engine) as opened:
        keep(opened, "abcdefg")
        yield opened
    engine.dispose()


def keep(session: Session, names: Sequence[str]) -> None:
    rows = [{"name": n, "size": ord(n), "body": n.encode()} for n in names]
    INSERT.run(session, rows)


@pytest.mark.parametrize("count", range(8))
def test_lists_of_any_length_find_what_sqlalchemy_finds(
    session: Session, count: int
) -> None:
    names = list("abcdefg")[:count]
    given = {"least": ord("a"), "names": names}
    expected = session.execute(NAMED._statement, given)

    assert NAMED.rows(session, given) == [tuple(row) for row in expected]


def test_a_list_is_asked_with_few_texts(session: Session) -> None:
    query = Fixed(select(TABLE.c.name).where(TABLE.c.name.in_(bindparam("names"))))
    for count in range(1, 65):
        query.rows(session, {"names": ["a"] * count})

    assert len(query._texts) == 7


def test_a_value_of_the_statement_itself_needs_not_be_given(session: Session) -> None:
    assert SMALLEST.rows(session, {}) == [("a",)]


def test_every_row_is_changed_by_its_own_values(session: Session) -> None:
    GROW.run(session, [{"of": "a", "by": 100}, {"of": "b", "by": -50}])

    found = session.execute(select(TABLE.c.name, TABLE.c.size))
    sizes = {row.name: row.size for row in found}
    assert (sizes["a"], sizes["b"], sizes["c"]) == (197, 48, 99)


def test_it_belongs_to_the_transaction_of_its_session(session: Session) -> None:
    session.commit()
    with Session(session.get_bind()) as other:
        keep(other, "z")
        other.rollback()

    assert NAMED.rows(session, {"least": 0, "names": ["z"]}) == []


def test_what_the_driver_raises_is_sqlalchemys_and_tells_no_values(
    session: Session,
) -> None:
    with pytest.raises(IntegrityError) as raised:
        INSERT.run(session, [{"name": "a", "size": 1, "body": b"secret"}])

    assert "secret" not in str(raised.value)


def test_a_table_that_is_gone_is_an_error_of_operation(session: Session) -> None:
    TABLE.drop(session.connection())
    with pytest.raises(OperationalError, match="no such table"):
        SMALLEST.rows(session, {})


def test_another_database_has_a_text_of_its_own() -> None:
    postgres = postgresql.psycopg.dialect()  # type: ignore[no-untyped-call]
    text = NAMED._compiled(postgres, {"least": 1, "names": ["a", "b"]})

    assert "IN (%(names_1)s::VARCHAR, %(names_2)s::VARCHAR)" in text.sql
    bound = text.bound({"least": 1, "names_1": "a", "names_2": "b"})
    assert bound == {"least": 1, "names_1": "a", "names_2": "b"}


def test_several_engines_may_share_a_statement(tmp_path: Path) -> None:
    def opened(name: str) -> Engine:
        engine = create_engine(f"sqlite:///{tmp_path}/{name}.db")
        TABLE.metadata.create_all(engine)
        return engine

    for name in "xy":
        engine = opened(name)
        with Session(engine) as session:
            keep(session, name)
            assert SMALLEST.rows(session, {}) == [(name,)]
        engine.dispose()
