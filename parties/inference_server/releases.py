"""Records that wait together go to the log in one call.

One call is on its way at a time; what comes meanwhile gathers for the next one. So a
slow log is asked less often, and not more, the more answers wait for it. Where several
shared the last call, the next one is held back a little for more of them: of a batch
all answers are ready at once, but they come one by one.
"""

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Final

from core.errors import AuditUnavailable
from parties.audit import AuditLog, RecordsRefused
from parties.inference_server.records import Awaited
from parties.inference_server.work import without_way_back
from protos import audit_pb2 as pb

log = logging.getLogger(__name__)

# The most records in one call, and how long a record may wait that has no deadline.
LARGEST: Final = 256
PATIENCE_S: Final = 10.0
# However long a call took, the next one is held back no longer than this.
_GATHER_S: Final = 0.01
_STOPS: Final = "the server stops"
_LATE: Final = "the log gave no verdict in time"


class Releases:
    """Hands records to the log, each within its own deadline; for many threads."""

    def __init__(self, audit: AuditLog, largest: int = LARGEST) -> None:
        self._audit = audit
        self._largest = largest
        # Python's own locks and conditions cost several times this. None only wakes.
        self._arrivals: SimpleQueue[_Place | None] = SimpleQueue()
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
            self._closing = True
            # The call on its way may take its time to end.
            self._give_up_all()
            self._arrivals.put(None)
            thread.join()

    def ask(
        self,
        record: pb.InferenceRecord,
        told: Callable[[Awaited], None],
        *,
        timeout_s: float | None = None,
    ) -> None:
        """Hand a record in, as `Verdicts` says; what is late by then is not sent."""
        left_s = PATIENCE_S
        if timeout_s is not None:
            left_s = max(0.0, min(without_way_back(timeout_s), PATIENCE_S))
        place = _Place(record, monotonic() + left_s, told)
        self._arrivals.put(place)
        if self._closing:
            self._give_up_all()

    def waiting(self) -> int:
        """How many records wait for the call after the one that is on its way."""
        return self._arrivals.qsize()

    def _run(self) -> None:
        while not self._closing:
            if group := self._next_group():
                began_s = monotonic()
                _settle(self._audit, group)
                self._shared, self._took_s = len(group), monotonic() - began_s

    def _next_group(self) -> list["_Place"]:
        """Wait for those who want a verdict, and then a little for more of them.

        For as many as shared the last call, or for as long as that took.
        """
        place = self._arrivals.get()
        until_s = monotonic() + min(self._took_s, _GATHER_S)
        group: list[_Place] = []
        while place is not None:
            if place.left_s() > 0:
                group.append(place)
            else:
                place.give_up(_LATE)
            place = self._more(len(group), until_s)
        return group

    def _more(self, count: int, until_s: float) -> "_Place | None":
        """The next one that is here, or still to be waited for; None: that is all."""
        if count == self._largest:
            return None
        left_s = until_s - monotonic() if 0 < count < self._shared else 0.0
        try:
            return self._arrivals.get(timeout=max(0.0, left_s))
        except Empty:
            return None

    def _give_up_all(self) -> None:
        with suppress(Empty):
            while True:
                if place := self._arrivals.get_nowait():
                    place.give_up(_STOPS)


@dataclass(eq=False, slots=True)
class _Place:
    """One record, and what became of it."""

    record: pb.InferenceRecord
    until_s: float
    told: Callable[[Awaited], None]
    _verdict: pb.InferenceVerdict | None = None
    _why: str = ""

    def left_s(self) -> float:
        return self.until_s - monotonic()

    def settle(self, verdict: pb.InferenceVerdict) -> None:
        self._verdict = verdict
        self._tell()

    def give_up(self, why: str) -> None:
        self._why = why
        self._tell()

    def verdict(self) -> pb.InferenceVerdict:
        """Return it, or raise `AuditUnavailable`: there is none."""
        if self._verdict is None:
            raise AuditUnavailable(self._why)
        return self._verdict

    def _tell(self) -> None:
        # Whoever is told keeps this place: to keep them here, too, would be a cycle,
        # and hold a whole request in memory until Python looks for cycles.
        told, self.told = self.told, _nobody
        told(self)


def _nobody(_place: Awaited) -> None:
    """Is told once already."""


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
