"""What a transaction promises on every database."""

import threading
from contextlib import suppress
from functools import partial
from typing import NoReturn

import pytest
from sqlalchemy import func, insert, select, text
from sqlalchemy.orm import Session

from core.database import Database, before_commit
from core.database import open_database as open_any
from core.errors import (
    ConstraintConflict,
    DatabaseBusyError,
    KeymixerError,
    SchemaUnknown,
)
from orchestrator.registry.database import MIGRATIONS
from orchestrator.registry.models import Organisation


class Interrupted(Exception):
    """Something went wrong in the middle of a transaction."""


def enrol_and_fail(session: Session) -> NoReturn:
    session.add(Organisation(name="clinic"))
    session.flush()
    raise Interrupted


def add(session: Session, name: str) -> None:
    session.add(Organisation(name=name))


def add_now_and_at_last(session: Session, now: str, at_last: str) -> None:
    add(session, now)
    before_commit(session, partial(add, session, at_last))


def test_a_transaction_that_ends_is_kept(database: Database) -> None:
    with database.transaction() as session:
        session.add(Organisation(name="clinic"))

    assert names(database) == ["clinic"]


def test_a_transaction_that_fails_leaves_nothing(database: Database) -> None:
    with pytest.raises(Interrupted), database.transaction() as session:
        enrol_and_fail(session)

    assert names(database) == []


def test_a_writer_goes_on_after_another_one_failed(database: Database) -> None:
    with pytest.raises(Interrupted), database.transaction() as session:
        enrol_and_fail(session)
    with database.transaction() as session:
        session.add(Organisation(name="clinic"))

    assert names(database) == ["clinic"]


def test_last_things_are_done_before_the_commit_and_fail_with_it(
    database: Database,
) -> None:
    with database.transaction() as session:
        before_commit(session, partial(add, session, "kept"))
    with pytest.raises(ConstraintConflict), database.transaction() as session:
        add_now_and_at_last(session, "lost", "kept")

    assert names(database) == ["kept"]


def test_last_things_are_not_done_after_a_failure(database: Database) -> None:
    done: list[str] = []

    with suppress(Interrupted), database.transaction() as session:
        before_commit(session, partial(done.append, "done"))
        raise Interrupted

    assert done == []


def test_reading_cannot_write(database: Database) -> None:
    with pytest.raises(KeymixerError), database.reading() as session:
        session.execute(insert(Organisation).values(name="clinic"))

    assert names(database) == []


def test_reading_sees_one_snapshot_while_others_write(database: Database) -> None:
    with database.reading() as session:
        before = session.scalar(select(func.count()).select_from(Organisation))
        with database.transaction() as writer:
            writer.add(Organisation(name="clinic"))
        after = session.scalar(select(func.count()).select_from(Organisation))

    assert (before, after) == (0, 0)
    assert names(database) == ["clinic"]


def test_two_writers_do_not_lose_an_update(database: Database) -> None:
    """Each reads the number of rows and adds one: a race would repeat a name."""

    def add_twenty() -> None:
        for _ in range(20):
            with database.transaction() as session:
                count = session.scalar(select(func.count()).select_from(Organisation))
                session.add(Organisation(name=f"{count:03d}"))

    threads = [threading.Thread(target=add_twenty) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [f"{n:03d}" for n in range(60)] == names(database)


def test_a_writer_keeps_other_processes_out_from_its_first_read(
    url: str, database: Database
) -> None:
    """Otherwise what it read could change before it writes."""
    with (
        open_any(url, MIGRATIONS, wait_s=0.05) as elsewhere,
        database.transaction() as session,
    ):
        assert session.scalar(select(func.count()).select_from(Organisation)) == 0

        with pytest.raises(DatabaseBusyError), elsewhere.transaction() as other:
            other.add(Organisation(name="clinic"))
        with elsewhere.reading() as other:
            assert other.scalar(select(func.count()).select_from(Organisation)) == 0

    with database.transaction() as session:
        session.add(Organisation(name="clinic"))
    assert names(database) == ["clinic"]


def test_a_newer_schema_is_refused_and_left_alone(url: str, database: Database) -> None:
    ours = current_revision(database)
    set_revision(database, "9999")

    with pytest.raises(SchemaUnknown, match="9999"):
        open_any(url, MIGRATIONS)

    assert current_revision(database) == "9999"
    set_revision(database, ours)


def test_an_error_quotes_no_row(database: Database) -> None:
    """Its text goes into our log, and into why a job failed."""
    with pytest.raises(ConstraintConflict) as caught, database.transaction() as session:
        add_twice(session, "some clinic")

    assert "some clinic" not in str(caught.value)


def add_twice(session: Session, name: str) -> None:
    for _ in range(2):
        session.execute(insert(Organisation).values(name=name))


def current_revision(database: Database) -> str:
    with database.reading() as session:
        return str(session.scalar(text("SELECT version_num FROM alembic_version")))


def set_revision(database: Database, revision: str) -> None:
    with database.transaction() as session:
        statement = text("UPDATE alembic_version SET version_num = :revision")
        session.execute(statement, {"revision": revision})


def names(database: Database) -> list[str]:
    with database.reading() as session:
        return list(session.scalars(select(Organisation.name).order_by("name")))
