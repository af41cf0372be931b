"""The engine's threads: one leases what is due, the others do it."""

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Final

from core.errors import KeymixerError
from orchestrator.workflows.engine import Engine
from orchestrator.workflows.leases import Lease

log = logging.getLogger(__name__)

POLL_S: Final = 0.1
# How often the policies are looked at, and how many times longer than that takes.
SCHEDULE_S: Final = 1.0
SCHEDULE_SHARE: Final = 20.0


@contextmanager
def running(engine: Engine) -> Iterator[None]:
    """Run the engine in threads of its own until the context is left.

    Steps that have begun are then finished, and every lease is given back.
    """
    crew = _Crew(engine)
    crew.start()
    try:
        yield
    finally:
        crew.stop()


class _Crew:
    """The threads: one leases what is due, the others do it."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._stopping = threading.Event()
        self._queue: SimpleQueue[Lease | None] = SimpleQueue()
        # A few more than there are workers, so that none waits for the next claim.
        self._room = threading.BoundedSemaphore(2 * engine.workers)
        names = [f"worker-{number}" for number in range(engine.workers)]
        self._workers = [
            threading.Thread(target=self._work, name=name, daemon=True)
            for name in names
        ]
        self._clerk = threading.Thread(target=self._lease, name="jobs", daemon=True)
        self._look_at = 0.0

    def start(self) -> None:
        for thread in (self._clerk, *self._workers):
            thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._engine.registry.work.set()
        self._clerk.join()
        for _ in self._workers:
            self._queue.put(None)
        for thread in self._workers:
            thread.join()
        try:
            self._engine.give_back()
        except KeymixerError as error:
            log.warning("leases not given back", extra={"kind": error.kind})

    def _lease(self) -> None:
        """Lease what is due for as long as there is room; no failure ends it."""
        bell = self._engine.registry.work
        while not self._stopping.is_set():
            bell.clear()
            try:
                self._look_at_policies()
                busy = self._fill()
            except Exception:
                log.exception("jobs cannot be leased")
                busy = False
            if not busy:
                bell.wait(POLL_S)

    def _look_at_policies(self) -> None:
        """Once a second, or more seldom if it takes long, as of very many keys."""
        began = time.monotonic()
        if began < self._look_at:
            return
        self._engine.look_at_policies()
        now = time.monotonic()
        self._look_at = now + max(SCHEDULE_S, SCHEDULE_SHARE * (now - began))

    def _fill(self) -> bool:
        """Fill the queue; returns whether there may be more to lease."""
        room = 0
        while self._room.acquire(blocking=False):
            room += 1
        leases: Sequence[Lease] = ()
        try:
            leases = self._engine.claim(room)
        finally:
            if spare := room - len(leases):
                self._room.release(spare)
        for lease in leases:
            self._queue.put(lease)
        return 0 < room == len(leases)

    def _work(self) -> None:
        while (lease := self._queue.get()) is not None:
            try:
                self._work_on(lease)
            except Exception:
                log.exception("a worker stumbled", extra=lease.log_fields())
            finally:
                self._room.release()
                self._engine.registry.work.set()

    def _work_on(self, lease: Lease | None) -> None:
        """Step by step; what is left when we stop is given back."""
        while lease is not None and not self._stopping.is_set():
            lease = self._engine.step(lease)
