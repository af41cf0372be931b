"""Records that wait together go to the log in one call.

One call is on its way at a time; what comes meanwhile gathers for the next one. So a
slow log is asked less often, and not more, the more answers wait for it. Where several
shared the last call, the next one is held back a little for more of them: of a batch
all answers are ready at once, but they come one by one.
"""

import logging
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Final

from core.errors import AuditUnavailable
from parties.audit import AuditLog, RecordsRefused
from protos import audit_pb2 as pb

log = logging.getLogger(__name__)

# The most records in one call, and how long a record may wait that has no deadline.
LARGEST: Final = 256
PATIENCE_S: Final = 10.0
# However long a call took, the next one is held back no longer than this.
_GATHER_S: Final = 0.01
# Of the time that is left, what the answer's way back to its caller may take.
_WAY_BACK: Final = 0.1
_WAY_BACK_AT_MOST_S: Final = 0.5
_STOPS: Final = "the server stops"


class Releases:
    """Hands the records of many threads to the log, each within its own deadline."""

    def __init__(self, audit: AuditLog, largest: int = LARGEST) -> None:
        self._audit = audit
        self._largest = largest
        self._waiting: deque[_Place] = deque()
        self._changed = threading.Condition()
        self._closing = False
        # How many shared the last call, and how long it took.
        self._shared = 0
        self._took_s = 0.0

    @contextmanager
    def sending(self) -> Iterator[None]:
        """Send on a thread, until the block ends; what waits then is given up."""
        thread = threading.Thread(target=self._run, name="releases", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._close()
            thread.join()

    def verdict(
        self, record: pb.InferenceRecord, *, timeout_s: float | None = None
    ) -> pb.InferenceVerdict:
        """Return the log's verdict on one record.

        Args:
            record: With a name (`event_id`), so that it may be sent again.
            timeout_s: The time its caller has left; None: the log's patience.

        Raises:
            AuditUnavailable: there is no verdict, or none in time. What was not sent by
                then is not sent at all.
        """
        left_s = _without_way_back(timeout_s)
        place = _Place(record, monotonic() + left_s)
        with self._changed:
            if self._closing:
                raise AuditUnavailable(_STOPS)
            self._waiting.append(place)
            self._changed.notify()
        return place.result(left_s)

    def waiting(self) -> int:
        """How many records wait for the call after the one that is on its way."""
        with self._changed:
            return len(self._waiting)

    def _run(self) -> None:
        while group := self._next_group():
            began_s = monotonic()
            _settle(self._audit, group)
            self._shared, self._took_s = len(group), monotonic() - began_s

    def _next_group(self) -> list["_Place"]:
        """Wait for those who still want a verdict; nobody comes: we are closing."""
        with self._changed:
            while not self._closing:
                self._gather()
                if group := self._take():
                    return group
                self._changed.wait()
        return []

    def _gather(self) -> None:
        """Wait until as many are here as shared the last call, or for as long again."""
        until_s = monotonic() + min(self._took_s, _GATHER_S)
        wanted = self._shared if self._shared > 1 else 0
        while len(self._waiting) < wanted and not self._closing:
            left_s = until_s - monotonic()
            if not self._waiting or left_s <= 0:
                return
            self._changed.wait(left_s)

    def _close(self) -> None:
        """Give up those who wait: the call on its way may take its time to end."""
        with self._changed:
            self._closing = True
            while self._waiting:
                self._waiting.popleft().give_up(_STOPS)
            self._changed.notify()

    def _take(self) -> list["_Place"]:
        group: list[_Place] = []
        while self._waiting and len(group) < self._largest:
            place = self._waiting.popleft()
            if place.left_s() > 0:
                group.append(place)
        return group


@dataclass(eq=False, slots=True)
class _Place:
    """One record, and what became of it."""

    record: pb.InferenceRecord
    until_s: float
    # Python's events cost several times this.
    _done: "SimpleQueue[None]" = field(default_factory=SimpleQueue)
    _verdict: pb.InferenceVerdict | None = None
    _why: str = ""

    def left_s(self) -> float:
        return self.until_s - monotonic()

    def settle(self, verdict: pb.InferenceVerdict) -> None:
        self._verdict = verdict
        self._done.put(None)

    def give_up(self, why: str) -> None:
        self._why = why
        self._done.put(None)

    def result(self, timeout_s: float) -> pb.InferenceVerdict:
        """Wait for the verdict, or raise `AuditUnavailable`: there is none."""
        try:
            self._done.get(timeout=timeout_s)
        except Empty:
            raise AuditUnavailable("the log gave no verdict in time") from None
        if self._verdict is None:
            raise AuditUnavailable(self._why)
        return self._verdict


def _settle(audit: AuditLog, group: Sequence[_Place]) -> None:
    """Ask for all at once or, where the log takes issue with one of them, for each.

    It is asked for as long as anybody waits: who waits less has left by then.
    """
    records = [place.record for place in group]
    left_s = max(place.left_s() for place in group)
    try:
        verdicts = audit.record_inferences(records, timeout_s=max(left_s, 0.0))
    except RecordsRefused as error:
        _settle_each(audit, group, str(error))
    except AuditUnavailable as error:
        _give_up(group, str(error))
    except Exception as error:
        # Whatever it was, to stop sending would be to answer nobody for good.
        log.exception("records were not sent")
        _give_up(group, type(error).__name__)
    else:
        for place, verdict in zip(group, verdicts, strict=True):
            place.settle(verdict)


def _settle_each(audit: AuditLog, group: Sequence[_Place], why: str) -> None:
    if len(group) == 1:
        log.error("the log refuses a record", extra={"why": why})
        _give_up(group, why)
        return
    for place in group:
        _settle(audit, [place])


def _give_up(group: Sequence[_Place], why: str) -> None:
    for place in group:
        place.give_up(why)


def _without_way_back(timeout_s: float | None) -> float:
    if timeout_s is None:
        return PATIENCE_S
    left_s = timeout_s - min(timeout_s * _WAY_BACK, _WAY_BACK_AT_MOST_S)
    return max(0.0, min(left_s, PATIENCE_S))
