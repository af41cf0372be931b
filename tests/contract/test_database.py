"""What a transaction promises on every database."""

import threading
from typing import NoReturn

import pytest
from sqlalchemy import func, insert, select
from sqlalchemy.orm import Session

from core.database import Database
from core.errors import KeymixerError
from orchestrator.registry.models import Organisation


class Interrupted(Exception):
    """Something went wrong in the middle of a transaction."""


def enrol_and_fail(session: Session) -> NoReturn:
    session.add(Organisation(name="clinic"))
    session.flush()
    raise Interrupted


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


def names(database: Database) -> list[str]:
    with database.reading() as session:
        return list(session.scalars(select(Organisation.name).order_by("name")))
