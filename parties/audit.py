"""The orchestrator's audit log as a party sees it, and the reporting of refusals."""

import hashlib
import logging
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from queue import Empty, Full, Queue
from threading import Event, Lock, Thread
from typing import Final, Protocol, Self

import grpc

from core.errors import (
    AuditUnavailable,
    ConfigurationError,
    Conflict,
    KeymixerError,
    PeerUnavailable,
    Refused,
    Unavailable,
)
from core.rpc.errors import RemoteError, remote_errors, status_of
from core.rpc.identity import SpiffeId
from core.rpc.policy import Refusal
from protos import audit_pb2 as pb
from protos import audit_pb2_grpc as rpc

log = logging.getLogger(__name__)

REFUSED = "refused"
FAILED = "failed"
_LARGEST_BATCH = 256
_LONGEST_FACT = 512
_RETRY_S = 0.2
_LOST = "ReportsLost"
# To send such a report again would keep all later ones waiting for ever.
_FINAL = frozenset(
    {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.PERMISSION_DENIED}
)
# What the log says of a record that it will not take; nothing is recorded then.
_OBJECTIONS = frozenset(
    {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION}
)
_RETRY_AT_MOST_S = 5.0
_LONGEST_NAME: Final = 128
# How long a verdict is waited for, and, if no answer came, a second time.
_VERDICT_S: Final = 10.0
_SECOND_VERDICT_S: Final = 2.0


class RecordsRefused(AuditUnavailable):
    """The log takes issue with one of several records, and recorded none of them."""


class AuditLog(Protocol):
    """What a party may write."""

    def record_events(self, events: Sequence[pb.Event]) -> None:
        """Append what this party did or refused; durable on return."""
        ...

    def record_inferences(
        self,
        records: Sequence[pb.InferenceRecord],
        *,
        timeout_s: float | None = None,
    ) -> list[pb.InferenceVerdict]:
        """Append a record and give a verdict for each answer that waits.

        Durable on return; whatever goes wrong is `AuditUnavailable`, and if it is one
        of the records that the log objects to, `RecordsRefused`. It takes no longer
        than `timeout_s`; None: as long as the log is worth waiting for.
        """
        ...


class GrpcAuditLog:
    """The log over a channel to the orchestrator."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._stub = rpc.AuditServiceStub(channel)

    def record_events(self, events: Sequence[pb.Event]) -> None:
        with remote_errors("orchestrator"):
            self._stub.RecordEvents(pb.RecordEventsRequest(events=events))

    def record_inferences(
        self,
        records: Sequence[pb.InferenceRecord],
        *,
        timeout_s: float | None = None,
    ) -> list[pb.InferenceVerdict]:
        request = pb.RecordInferencesRequest(records=records)
        left_s = _VERDICT_S if timeout_s is None else min(timeout_s, _VERDICT_S)
        try:
            verdicts = self._verdicts(request, left_s)
        except KeymixerError as error:
            refused = status_of(error) in _OBJECTIONS
            kind = RecordsRefused if refused else AuditUnavailable
            raise kind(f"the log did not record: {error.kind}") from error
        if len(verdicts) != len(records):
            raise AuditUnavailable("the log answered for other records")
        return list(verdicts)

    def _verdicts(
        self, request: pb.RecordInferencesRequest, left_s: float
    ) -> Sequence[pb.InferenceVerdict]:
        """Ask, and once more if the answer was lost: what has a name is recorded once.

        The first attempt may take half of the time, so that there is a second one.
        """
        if not all(record.event_id for record in request.records):
            return self._verdicts_at_once(request, left_s, wait=False)
        end_s = time.monotonic() + left_s
        try:
            return self._verdicts_at_once(request, left_s / 2, wait=False)
        except RemoteError:
            raise  # an answer, if not the one that was hoped for
        except PeerUnavailable as lost:
            log.info("asking the log again", extra={"why": str(lost)})
        left_s = min(end_s - time.monotonic(), _SECOND_VERDICT_S)
        return self._verdicts_at_once(request, left_s, wait=True)

    def _verdicts_at_once(
        self, request: pb.RecordInferencesRequest, timeout_s: float, *, wait: bool
    ) -> Sequence[pb.InferenceVerdict]:
        """Ask once; with `wait`, a connection that is being made is waited for."""
        with remote_errors("orchestrator"):
            answer = self._stub.RecordInferences(
                request, timeout=max(timeout_s, 0.0), wait_for_ready=wait
            )
        return answer.verdicts


class Reporter:
    """Tells the log what this party refused, without keeping the refused waiting.

    A bounded queue and one thread. While the log is away reports wait here; when the
    queue is full the newest are only counted, like those that the log will never take,
    and the count is recorded later. Each report has a name, so that one whose answer
    was lost is not recorded twice. What was *done* is not reported here but recorded
    before it is answered: see `record_event`.
    """

    def __init__(self, audit: AuditLog, *, room: int = 4096) -> None:
        self._audit = audit
        # None only wakes the thread.
        self._queue: Queue[pb.Event | None] = Queue(room)
        self._closing = Event()
        self._uncounted = 0
        self._counting = Lock()
        self._thread = Thread(target=self._run, name="reporter", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Flush: one last attempt for what still waits, then stop."""
        self._closing.set()
        with suppress(Full):
            self._queue.put_nowait(None)
        self._thread.join()

    def refused(
        self,
        *,
        caller: str,
        method: str,
        kind: str,
        subject: Mapping[str, str] | None = None,
    ) -> None:
        """Report one refusal; never blocks and never raises."""
        log.info("refused", extra={"refusal": kind, "method": method, "caller": caller})
        facts = {"method": method, "kind": kind, **(subject or {})}
        self.report(REFUSED, facts, caller=caller)

    def failed(
        self, *, caller: str, method: str, kind: str, subject: Mapping[str, str]
    ) -> None:
        """Report that a call found no answer; never blocks and never raises."""
        self.report(FAILED, {"method": method, "kind": kind, **subject}, caller=caller)

    def tell(self, refusal: Refusal) -> None:
        """Report what the guard refused."""
        self._lose(refusal.missed)
        self.refused(caller=refusal.caller, method=refusal.method, kind=refusal.kind)

    def report(self, kind: str, subject: Mapping[str, str], caller: str = "") -> None:
        """Put one event in the queue; never blocks and never raises."""
        try:
            self._queue.put_nowait(_event(kind, caller, subject, str(uuid.uuid4())))
        except Full:
            self._lose(1)

    def _run(self) -> None:
        while not self._closing.is_set() or not self._queue.empty():
            batch = self._next_batch()
            if unsent := self._deliver(batch):
                lost = len(unsent) + sum(
                    event is not None for event in self._queue.queue
                )
                log.error("reports were not recorded", extra={"count": lost})
                return
        self._deliver(self._count())

    def _deliver(self, batch: Sequence[pb.Event]) -> Sequence[pb.Event]:
        """Try until the log has them; when closing, only once. Give what is left."""
        pause = _RETRY_S
        while batch := self._send(batch):
            if self._closing.is_set():
                break
            self._closing.wait(pause)
            pause = min(2 * pause, _RETRY_AT_MOST_S)
        return batch

    def _next_batch(self) -> list[pb.Event]:
        found: list[pb.Event | None] = []
        with suppress(Empty):
            found.append(self._queue.get(timeout=_RETRY_S))
            while len(found) < _LARGEST_BATCH:
                found.append(self._queue.get_nowait())
        batch = [event for event in found if event is not None]
        # A count never goes alone: whom the log refuses would send it for ever.
        return batch + self._count() if batch else []

    def _count(self) -> list[pb.Event]:
        with self._counting:
            uncounted, self._uncounted = self._uncounted, 0
        if not uncounted:
            return []
        facts = {"kind": _LOST, "count": str(uncounted)}
        return [_event(REFUSED, "", facts, str(uuid.uuid4()))]

    def _lose(self, count: int) -> None:
        with self._counting:
            self._uncounted += count

    def _send(self, batch: Sequence[pb.Event]) -> Sequence[pb.Event]:
        """Give what is to be sent again."""
        if not batch:
            return []
        try:
            self._audit.record_events(batch)
        except KeymixerError as error:
            if status_of(error) not in _FINAL:
                log.warning("the log is away", extra={"kind": error.kind})
                return batch
            if len(batch) > 1:
                return self._send_each(batch)
            self._drop(batch[0])
        return []

    def _send_each(self, batch: Sequence[pb.Event]) -> Sequence[pb.Event]:
        for position, event in enumerate(batch):
            if self._send([event]):
                return batch[position:]
        return []

    def _drop(self, event: pb.Event) -> None:
        log.error("the log refuses a report", extra={"kind": event.kind})
        counts_others = event.subject.get("kind") == _LOST
        self._lose(int(event.subject["count"]) if counts_others else 1)


class ReportedRefusalError(RemoteError):
    """A refusal the log is told of already, as its caller sees it.

    The guard reports every `Refused` and `Conflict`, but knows no more than the method:
    this is neither.
    """


@contextmanager
def refusals_reported(
    reporter: Reporter, caller: str, method: str, subject: Mapping[str, str]
) -> Iterator[None]:
    """Report a refusal that leaves the block. What may work later is no refusal."""
    with known_to_the_log():
        try:
            yield
        except Unavailable:
            raise
        except KeymixerError as error:
            reporter.refused(
                caller=caller, method=method, kind=error.kind, subject=subject
            )
            raise


@contextmanager
def failures_reported(
    reporter: Reporter, caller: str, method: str, subject: Mapping[str, str]
) -> Iterator[None]:
    """Report what leaves the block and is no refusal: what was away, or broke.

    A refusal is on record already when it comes here.
    """
    try:
        yield
    except Unavailable as error:
        reporter.failed(caller=caller, method=method, kind=error.kind, subject=subject)
        raise
    except KeymixerError:
        raise
    except Exception:
        reporter.failed(caller=caller, method=method, kind="Internal", subject=subject)
        raise


@contextmanager
def known_to_the_log() -> Iterator[None]:
    """Keep the guard from reporting again what leaves the block."""
    try:
        yield
    except (Refused, Conflict) as error:
        raise ReportedRefusalError(error.kind, error.hint, status_of(error)) from error


def record_event(
    audit: AuditLog,
    kind: str,
    *,
    caller: str,
    subject: Mapping[str, str],
    event_id: str = "",
) -> None:
    """Record something done, durably, or raise `AuditUnavailable`.

    With an `event_id` it is recorded once, however often it is done and reported.
    """
    try:
        audit.record_events([_event(kind, caller, subject, event_id)])
    except KeymixerError as error:
        raise AuditUnavailable(f"the log did not record: {error.kind}") from error


def event_name(key: str, kind: str) -> str:
    """Name what is recorded as `kind` under an idempotency key; empty without one.

    The log takes no long names: a hash stands for one.
    """
    if not key:
        return ""
    name = f"{key}/{kind}"
    if len(name) <= _LONGEST_NAME:
        return name
    return hashlib.sha256(name.encode()).hexdigest()


def _event(
    kind: str, caller: str, subject: Mapping[str, str], event_id: str
) -> pb.Event:
    """Facts are cut to the length the log takes; who has no SPIFFE ID is nobody."""
    facts = {name: fact[:_LONGEST_FACT] for name, fact in subject.items()}
    try:
        known = str(SpiffeId.parse(caller)) if caller else ""
    except ConfigurationError:
        known, facts["claimed_caller"] = "", caller[:_LONGEST_FACT]
    return pb.Event(kind=kind, caller=known, subject=facts, event_id=event_id)
