"""Whether the log can be written, found out by writing.

Reads go on when the disk is full or somebody holds the database: they say nothing. So
one row is overwritten every second, by the same way as records are, and health tells
what became of it. When a record could not be written, it tells so at once.
"""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Lock, Thread
from typing import Final

from core.database import Database
from core.errors import KeymixerError, StorageError, Unavailable
from core.rpc.errors import details_of
from orchestrator.registry.models import Pulse as Row

log = logging.getLogger(__name__)

EVERY_S: Final = 1.0
# On a disk that is nearly full one small row may still find room, and the next records
# not: after a failure there must be room for as much as a batch of them takes.
ROOM_BYTES: Final = 1 << 16

# Health of the server: whether it serves, and if not, why.
Tell = Callable[[bool, str], None]


class Pulse:
    """Writes, and tells what became of it."""

    def __init__(self, database: Database, clock: Callable[[], int]) -> None:
        self._database = database
        self._clock = clock
        self._tell: Tell = lambda _serving, _why: None
        self._why = ""
        self._telling = Lock()

    def beat(self) -> None:
        """Write once, and tell what became of it."""
        try:
            self._write()
        except Unavailable as error:
            self.missed(error)
        except Exception as error:
            log.exception("pulse")
            self.missed(StorageError(type(error).__name__))
        else:
            self._say("")

    def missed(self, error: KeymixerError) -> None:
        """Tell that something could not be written: from now on, until a beat is."""
        log.warning("the log is away", extra={"kind": error.kind, "why": str(error)})
        self._say(details_of(error))

    @contextmanager
    def kept(self, tell: Tell, every_s: float = EVERY_S) -> Iterator[None]:
        """Tell that it serves, then beat on a thread until the block ends."""
        self._tell = tell
        self._say("")
        closing = Event()

        def run() -> None:
            while not closing.wait(every_s):
                self.beat()

        thread = Thread(target=run, name="pulse", daemon=True)
        thread.start()
        try:
            yield
        finally:
            closing.set()
            thread.join()

    def _write(self) -> None:
        filling = os.urandom(ROOM_BYTES) if self._why else b""
        with self._database.transaction() as session:
            session.merge(Row(id=1, at_ms=self._clock(), filling=filling))

    def _say(self, why: str) -> None:
        with self._telling:
            if why != self._why:
                log.info("the log", extra={"away": why or "no longer"})
            self._why = why
            self._tell(not why, why)
