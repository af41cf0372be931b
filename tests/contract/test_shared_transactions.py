"""Changes that share a commit: each is whole or nothing, whatever the others do."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from core.database import Database
from core.database.shared import SharedTransactions
from core.errors import (
    ConstraintConflict,
    DatabaseBusyError,
    InvalidInput,
    StorageError,
    Unavailable,
)
from orchestrator.registry.models import Organisation

AT_ONCE = 8
PATIENCE_S = 20


class Counting:
    """The database's transactions, counted, and held back at the first of them."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.begun = 0
        self.failing = False
        self.entered = threading.Event()
        self.go_on = threading.Event()

    @contextmanager
    def __call__(self) -> Iterator[Session]:
        self.begun += 1
        self.entered.set()
        assert self.go_on.wait(PATIENCE_S)
        with self._database.transaction() as session:
            yield session
            if self.failing:
                raise StorageError("no space left on device")


@pytest.fixture
def counting(database: Database) -> Counting:
    return Counting(database)


def test_those_who_wait_share_one_commit(
    database: Database, counting: Counting
) -> None:
    shared = SharedTransactions(counting)

    results = side_by_side(
        shared, counting, [adding(f"clinic-{n}") for n in range(AT_ONCE)]
    )

    assert [result.result() for result in results] == [
        f"clinic-{n}" for n in range(AT_ONCE)
    ]
    assert names(database) == [f"clinic-{n}" for n in range(AT_ONCE)]
    # The first came alone; all others waited for it.
    assert counting.begun == 2


def test_no_commit_is_larger_than_it_may_be(
    database: Database, counting: Counting
) -> None:
    shared = SharedTransactions(counting, largest=3)

    side_by_side(shared, counting, [adding(f"clinic-{n}") for n in range(AT_ONCE)])

    # One alone, then 3, 3 and 1.
    assert counting.begun == 4
    assert len(names(database)) == AT_ONCE


def refused(session: Session) -> str:
    adding("half")(session)
    raise InvalidInput("not like that")


def breaking_a_constraint(session: Session) -> str:
    session.add_all([Organisation(name="twice"), Organisation(name="twice")])
    session.flush()
    return "never"


def breaking_late(session: Session) -> str:
    """It leaves the database to find out with the next statement, or the commit."""
    session.add_all([Organisation(name="twice"), Organisation(name="twice")])
    return "never"


def dividing_by_zero(session: Session) -> str:
    adding("half")(session)
    return str(1 / 0)


@pytest.mark.parametrize(
    ("breaking", "error"),
    [
        (refused, InvalidInput),
        (breaking_a_constraint, ConstraintConflict),
        (breaking_late, ConstraintConflict),
        (dividing_by_zero, ZeroDivisionError),
    ],
)
def test_one_that_breaks_is_done_by_itself_and_so_are_the_others(
    database: Database,
    counting: Counting,
    breaking: Callable[[Session], str],
    error: type[Exception],
) -> None:
    """What is left of such a transaction is not believed, and nobody is taken along."""
    works = [adding("a"), adding("b"), breaking, adding("c")]
    results = side_by_side(SharedTransactions(counting), counting, works)

    with pytest.raises(error):
        results[2].result()
    assert [results[n].result() for n in (0, 1, 3)] == ["a", "b", "c"]
    assert names(database) == ["a", "b", "c"]


def test_a_commit_that_fails_fails_for_all_and_is_not_tried_again(
    database: Database, counting: Counting
) -> None:
    """It might be durable after all: to do it again could do it twice."""
    counting.failing = True
    works = [adding("a"), adding("b"), adding("c")]

    results = side_by_side(SharedTransactions(counting), counting, works)

    for result in results:
        with pytest.raises(StorageError):
            result.result()
    assert names(database) == []
    assert counting.begun == 2


def test_a_server_that_is_away_is_not_asked_again_for_each(
    database: Database, counting: Counting
) -> None:
    """Each would wait for it as long as all did together."""
    works = [adding("a"), adding("b"), falling_silent, adding("c")]

    results = side_by_side(SharedTransactions(counting), counting, works)

    assert results[0].result() == "a"
    for result in results[1:]:
        with pytest.raises(DatabaseBusyError):
            result.result()
    assert names(database) == ["a"]
    assert counting.begun == 2


def test_nor_for_those_who_came_meanwhile(
    database: Database, counting: Counting
) -> None:
    shared = SharedTransactions(counting)
    late: list[Future[str]] = []

    def falling_silent_for_long(session: Session) -> str:
        late.extend(pool.submit(shared.run, adding(name)) for name in ("b", "c"))
        wait_until_queued(shared, len(late))
        return falling_silent(session)

    with ThreadPoolExecutor(2) as pool:
        side_by_side(shared, counting, [adding("a"), falling_silent_for_long])

    for each in late:
        with pytest.raises(DatabaseBusyError):
            each.result()
    assert counting.begun == 2
    assert shared.run(adding("d")) == "d"
    assert names(database) == ["a", "d"]


def test_nor_when_each_is_done_by_itself(
    database: Database, counting: Counting
) -> None:
    works = [adding("a"), adding("b"), refused, falling_silent, adding("c")]

    results = side_by_side(SharedTransactions(counting), counting, works)

    for result in results[3:]:
        with pytest.raises(DatabaseBusyError):
            result.result()
    assert names(database) == ["a", "b"]
    # The first, the group, and three of its four.
    assert counting.begun == 5


def falling_silent(session: Session) -> str:
    adding("half")(session)
    raise DatabaseBusyError("the server was silent for 4 s")


def test_after_a_failure_others_are_served(
    database: Database, counting: Counting
) -> None:
    counting.failing = True
    shared = SharedTransactions(counting)
    side_by_side(shared, counting, [adding("a"), adding("b")])
    counting.failing = False

    assert shared.run(adding("c")) == "c"
    assert names(database) == ["c"]


def interrupted(_: Session) -> str:
    raise KeyboardInterrupt


def test_an_interrupted_leader_leaves_nobody_waiting_or_believing(
    database: Database, counting: Counting
) -> None:
    """Whose change was done but not committed must not take it for durable."""
    works = [adding("a"), adding("b"), adding("c"), interrupted, adding("d")]
    shared = SharedTransactions(counting)
    results = side_by_side(shared, counting, works)

    assert results[0].result() == "a"
    # The leader, whom it reaches, is the first of the group.
    with pytest.raises(KeyboardInterrupt):
        results[1].result()
    for result in results[2:]:
        with pytest.raises(Unavailable):
            result.result()
    assert shared.run(adding("e")) == "e"
    assert names(database) == ["a", "e"]


def test_an_interruption_while_each_is_done_by_itself_keeps_what_is_durable(
    database: Database, counting: Counting
) -> None:
    works = [adding("a"), adding("b"), adding("c"), refused, interrupted]
    shared = SharedTransactions(counting)
    results = side_by_side(shared, counting, works)

    assert results[0].result() == "a"
    with pytest.raises(KeyboardInterrupt):
        results[1].result()
    assert results[2].result() == "c"
    for result in results[3:]:
        with pytest.raises((InvalidInput, Unavailable)):
            result.result()
    assert names(database) == ["a", "b", "c"]


def test_many_threads_lose_and_double_nothing(database: Database) -> None:
    """Each reads the number of rows and adds one: a race would repeat a name."""

    def add_next(session: Session) -> int:
        count = session.scalar(select(func.count()).select_from(Organisation)) or 0
        session.add(Organisation(name=f"{count:04d}"))
        return count

    with ThreadPoolExecutor(AT_ONCE) as pool:
        seen = list(pool.map(lambda _: database.together(add_next), range(160)))

    assert sorted(seen) == list(range(160))
    assert names(database) == [f"{n:04d}" for n in range(160)]


def test_single_transactions_and_shared_ones_exclude_each_other(
    database: Database,
) -> None:
    def add_next(session: Session) -> None:
        count = session.scalar(select(func.count()).select_from(Organisation)) or 0
        session.add(Organisation(name=f"{count:04d}"))

    def add_alone() -> None:
        with database.transaction() as session:
            add_next(session)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        alone = [pool.submit(add_alone) for _ in range(20)]
        shared = [pool.submit(database.together, add_next) for _ in range(20)]
    for each in (*alone, *shared):
        each.result()

    assert names(database) == [f"{n:04d}" for n in range(40)]


def side_by_side(
    shared: SharedTransactions,
    counting: Counting,
    works: list[Callable[[Session], str]],
) -> list[Future[str]]:
    """Start them in this order, and let the first commit when all others wait."""
    counting.go_on.clear()
    counting.entered.clear()
    with ThreadPoolExecutor(len(works)) as pool:
        results = [pool.submit(shared.run, works[0])]
        assert counting.entered.wait(PATIENCE_S)
        for number, work in enumerate(works[1:], 1):
            results.append(pool.submit(shared.run, work))
            wait_until_queued(shared, number)
        counting.go_on.set()
    return results


def wait_until_queued(shared: SharedTransactions, count: int) -> None:
    for _ in range(PATIENCE_S * 1000):
        if len(shared._waiting) == count:
            return
        threading.Event().wait(0.001)
    raise AssertionError("it never came to wait")


def adding(name: str) -> Callable[[Session], str]:
    def add(session: Session) -> str:
        session.add(Organisation(name=name))
        session.flush()
        return name

    return add


def names(database: Database) -> list[str]:
    with database.reading() as session:
        return sorted(session.scalars(select(Organisation.name)))
