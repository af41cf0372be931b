"""PostgreSQL's driver, with an end to its patience.

The driver itself waits for an answer for as long as the connection is open, and a cut
network may leave it open.
"""

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from math import inf
from typing import Any, Final, TypeVar

import psycopg

T = TypeVar("T")

_LOOK_EVERY_S: Final = 0.1


class Ticking(psycopg.Cursor[Any]):
    """A cursor after which the server counts how long we idle in a transaction."""

    def executemany(self, *asked: Any, **others: Any) -> None:
        """Do something once for each row, as the driver does: in a pipeline.

        That ends with Sync and then Flush. The server counts our idle time from the
        Sync, and any message stops its clock: after the Flush it would wait for us for
        ever, with our locks. An empty question sets it going again.
        """
        super().executemany(*asked, **others)
        self.connection.execute("")


class Listening(psycopg.Connection[Any]):
    """A connection that is closed, with an error, if its server falls silent."""

    # Until it is told otherwise: for ever.
    answer_s: float = inf

    def __init__(self, *opened: Any, **others: Any) -> None:
        super().__init__(*opened, **others)
        self.cursor_factory = Ticking

    @contextmanager
    def patient(self, more_s: float) -> Iterator[None]:
        """Within the block the server may take so much longer to answer."""
        self.answer_s += more_s
        try:
            yield
        finally:
            self.answer_s -= more_s

    def wait(  # type: ignore[override] # newer drivers have more arguments
        self,
        gen: Generator[Any, Any, T],
        interval: float = _LOOK_EVERY_S,
        **others: Any,
    ) -> T:
        """Wait for an answer as the driver does, which calls this for every one."""
        return super().wait(self._heard(gen, interval), interval, **others)

    def _heard(
        self, answer: Generator[Any, Any, T], interval: float
    ) -> Generator[Any, Any, T]:
        """Pass on what the driver asks for and is told, and count the silence.

        The driver tells at every interval that nothing has come. Those are counted, not
        the seconds: we may have stood still, and what came meanwhile is not read yet.
        """
        silent_s = 0.0
        try:
            asked = next(answer)
            while True:
                ready = yield asked
                silent_s = 0.0 if ready else silent_s + interval
                if silent_s > self.answer_s:
                    self._give_up()
                asked = answer.send(ready)
        except StopIteration as end:
            done: T = end.value
            return done

    def _give_up(self) -> None:
        # Whatever comes now would be taken for the answer to another question.
        self.close()
        message = f"the server was silent for {self.answer_s:g} s"
        raise psycopg.OperationalError(message)
