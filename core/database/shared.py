"""Many small changes, one commit: those who come together share a transaction.

A commit waits for the disk, whatever is in it. So whoever comes first commits for all
who wait by then, and hands over to the first who came meanwhile. No thread is needed,
and nobody leads for longer than one commit.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Final, Generic, TypeAlias, TypeVar

from sqlalchemy.orm import Session

from core.errors import DatabaseBusyError, Unavailable

T = TypeVar("T")

# The most changes in one commit.
LARGEST: Final = 256
# Those of the commit before are about to ask again: who leads next looks so often if
# more have come. Else every second commit is that of the first who came back.
_GATHER_S: Final = 0.0003

Transaction: TypeAlias = Callable[[], AbstractContextManager[Session]]


class SharedTransactions:
    """Runs changes of many threads in few transactions.

    Args:
        transaction: Opens one, and commits it when the block ends.
        largest: The most changes in one.
    """

    def __init__(self, transaction: Transaction, largest: int = LARGEST) -> None:
        self._transaction = transaction
        self._largest = largest
        self._waiting: deque[_Place[object]] = deque()
        self._queueing = threading.Lock()
        self._led = False
        # How many shared the commit before.
        self._crowd = 0

    def run(self, work: Callable[[Session], T]) -> T:
        """Return what `work` returns, once what it changed is durable.

        `work` runs perhaps in another caller's thread, and perhaps twice: it must do
        nothing but change the database. What it raises is raised here, and nothing of
        it happened; all that the others lose is time.
        """
        place: _Place[T] = _Place(work)
        with self._queueing:
            self._waiting.append(place)  # type: ignore[arg-type]  # only we read its result
            if not self._led:
                self._led = place.leads = True
        if not place.leads:
            place.wait()
        if place.leads:
            self._gather()
            self._lead()
        return place.result()

    def _gather(self) -> None:
        """Wait as long as more come, at most for as many as shared the last commit."""
        seen = 0
        while seen < (waiting := len(self._waiting)) < self._crowd:
            seen = waiting
            time.sleep(_GATHER_S)

    def _lead(self) -> None:
        group = self._next(self._largest)
        self._crowd = len(group)
        try:
            self._commit(group)
            if error := _away(group):
                # Those who came meanwhile would wait as long again, and in vain.
                late = self._next()
                _fail(late, error)
                group += late
        finally:
            self._hand_over()
            for place in group:
                if not place.leads:
                    place.wake()

    def _next(self, most: int | None = None) -> list["_Place[object]"]:
        with self._queueing:
            count = len(self._waiting) if most is None else most
            return [
                self._waiting.popleft() for _ in range(min(count, len(self._waiting)))
            ]

    def _hand_over(self) -> None:
        with self._queueing:
            self._led = bool(self._waiting)
            if self._led:
                self._waiting[0].leads = True
                self._waiting[0].wake()

    def _commit(self, group: Sequence["_Place[object]"]) -> None:
        """Do all of it or, if one of them fails, each by itself; if all must, none.

        A savepoint for each would be in the way of all: failures are rare, and after
        one of the database's there may be no transaction left to go on in.
        """
        committing = False
        try:
            with self._transaction() as session:
                done = [place.attempt(session) for place in group]
                committing = True
        except Exception as error:  # noqa: BLE001 - it is raised where it belongs
            # Whether a commit that failed is durable is not always known: once only.
            # And while the database is away each would wait as long again.
            away = isinstance(error, DatabaseBusyError)
            if committing or away or len(group) == 1:
                _fail(group, error)
                return
            for number, place in enumerate(group):
                self._commit([place])
                if gone := _away([place]):
                    _fail(group[number + 1 :], gone)
                    return
        else:
            for place, result in zip(group, done, strict=True):
                place.succeed(result)


@dataclass(eq=False, slots=True)
class _Place(Generic[T]):
    """One caller's change, and what became of it."""

    work: Callable[[Session], T]
    leads: bool = False
    # Held until it is done, or until it is this caller's turn to lead: a bare lock
    # costs a tenth of an event.
    _asleep: threading.Lock = field(default_factory=threading.Lock)
    _results: list[T] = field(default_factory=list)
    error: Exception | None = None

    def __post_init__(self) -> None:
        self._asleep.acquire()

    def wait(self) -> None:
        """Sleep until `wake`, which is called once."""
        self._asleep.acquire()

    def wake(self) -> None:
        """Let the caller go on."""
        self._asleep.release()

    def attempt(self, session: Session) -> T:
        """Do it, and have the database see all of it before the next one begins."""
        done = self.work(session)
        session.flush()
        return done

    def succeed(self, result: T) -> None:
        """Note what the change returned: not before it is durable."""
        self._results.append(result)

    def result(self) -> T:
        if self.error is not None:
            raise self.error
        if not self._results:
            raise Unavailable("the change was interrupted")
        return self._results[0]


def _fail(group: Sequence[_Place[object]], error: Exception) -> None:
    for place in group:
        place.error = error


def _away(group: Sequence[_Place[object]]) -> Exception | None:
    """The error of the last one, if it is that the database is away."""
    error = group[-1].error
    return error if isinstance(error, DatabaseBusyError) else None
