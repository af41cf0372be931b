"""Tell somebody of every refusal, without letting that delay or break the refusal."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from queue import Full, Queue
from threading import Event, Lock, Thread
from typing import Final

from core.rpc.policy import Refusal

log = logging.getLogger(__name__)

_WAITING: Final = 1000
# A caller is kept waiting this long for its refusal to be on record, not longer.
_PATIENCE_S: Final = 0.25
_FLUSH_S: Final = 5.0


@contextmanager
def reporting(
    on_refusal: Callable[[Refusal], None],
) -> Iterator[Callable[[Refusal], None]]:
    """Yield a function that hands refusals to `on_refusal`, on a thread of its own.

    It returns as soon as `on_refusal` is done, and after a quarter of a second even
    if it is not. What `on_refusal` raises is logged. When it falls behind by a
    thousand, further refusals are in the log only; the next one that is told says how
    many those were (`Refusal.missed`).
    """
    queue: Queue[tuple[Refusal, Event] | None] = Queue(_WAITING)
    missed = _Count()

    def report(refusal: Refusal) -> None:
        done = Event()
        try:
            queue.put_nowait((refusal, done))
        except Full:
            log.warning("refusal not reported: queue full", extra=_fields(refusal))
            missed.add()
            return
        if queue.qsize() <= 1:
            done.wait(_PATIENCE_S)

    def tell(refusal: Refusal) -> None:
        on_refusal(replace(refusal, missed=missed.take()))

    thread = Thread(target=_work, args=(queue, tell), daemon=True)
    thread.start()
    try:
        yield report
    finally:
        with suppress(Full):
            queue.put(None, timeout=_FLUSH_S)
        thread.join(_FLUSH_S)


class _Count:
    """A number that many threads add to, and one takes."""

    def __init__(self) -> None:
        self._number = 0
        self._lock = Lock()

    def add(self) -> None:
        with self._lock:
            self._number += 1

    def take(self) -> int:
        with self._lock:
            number, self._number = self._number, 0
        return number


def _work(
    queue: Queue[tuple[Refusal, Event] | None], on_refusal: Callable[[Refusal], None]
) -> None:
    while (item := queue.get()) is not None:
        refusal, done = item
        try:
            on_refusal(refusal)
        except Exception:
            log.exception("refusal not reported", extra=_fields(refusal))
        finally:
            done.set()


def _fields(refusal: Refusal) -> dict[str, str]:
    return {
        "caller": refusal.caller,
        "method": refusal.method,
        "kind": refusal.kind,
    }
