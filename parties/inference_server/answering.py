"""One answer, whichever way it was asked for: found, computed, recorded, released."""

import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from core.errors import (
    AuditUnavailable,
    KeymixerError,
    KeyRefusedError,
    NotAllowedError,
    NotFound,
)
from core.wire import to_bytes
from parties.audit import (
    Reporter,
    failures_reported,
    known_to_the_log,
    refusals_reported,
)
from parties.inference_server import protocol
from parties.inference_server.batcher import Batcher
from parties.inference_server.catalogue import Catalogue, Served
from parties.inference_server.engine import Question
from parties.inference_server.meter import Meter, NoMeter
from parties.inference_server.rates import Rates
from parties.inference_server.records import Answer, Receipt, Releasing, Verdicts
from parties.inference_server.store import IssuedName
from parties.inference_server.supply import Wanted
from parties.inference_server.tracing import Carrier, NoTracer, Trace, Tracer
from parties.inference_server.work import Call, Work, require_wanted
from parties.log_watch import LogWatch
from parties.standing import Standing
from protos import open_inference_pb2 as pb


@dataclass(frozen=True, slots=True)
class Limits:
    """The most one request may ask for."""

    max_images: int
    max_message_bytes: int


class RpcCall(Call, Carrier, Protocol):
    """What of `grpc.ServicerContext` an answer needs."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as it came: who asks, by which method and call, and when it arrived."""

    request: pb.ModelInferRequest = field(repr=False)
    caller: str
    method: str
    call: RpcCall
    # On the clock of `time.perf_counter`.
    arrived_s: float = field(default_factory=time.perf_counter)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answering:
    """Answers only what the log has recorded; many threads may ask at once."""

    catalogue: Catalogue
    releases: Verdicts
    reporter: Reporter
    limits: Limits
    standing: Standing
    log: LogWatch
    entropy: Callable[[int], bytes] = os.urandom
    batcher: Batcher = field(default_factory=Batcher)
    rates: Rates = field(default_factory=Rates)
    meter: Meter = field(default_factory=NoMeter)
    tracer: Tracer = field(default_factory=NoTracer)
    # Has what is live and not here fetched.
    obtain: Callable[[Wanted], None] = lambda _wanted: None

    def answer(self, asked: Asked) -> pb.ModelInferResponse:
        """Return the answer to one request once it is recorded, or say why not.

        Whatever it raises has been counted, and reported to the log.
        """
        subject = _named(asked.request)
        trace = self.tracer.begin(asked.method, asked.call, asked.arrived_s)
        with self._ending(asked, subject, trace):
            with refusals_reported(self.reporter, asked.caller, asked.method, subject):
                course = self._compute(asked, self._find(asked), trace)
            with known_to_the_log():
                receipt = course.receipt()
            answer = course.answer
            self.meter.answered(
                queue_s=answer.queue_s,
                audit_s=course.audit_s,
                received=len(answer.request),
                sent=len(answer.result),
            )
            response = protocol.write_answer(answer, receipt)
        trace.end(images=answer.shape[0], batch=answer.batch)
        return response

    def _find(self, asked: Asked) -> Served:
        """What the request asks for, if it is the caller's to ask for."""
        request = asked.request
        key = protocol.read_key(request)
        version = protocol.read_version(request.model_version)
        wanted = Wanted(
            asked.caller, request.model_name, version, key.key_id, key.key_version
        )
        served = self._here(wanted)
        if served.issue.statement.owner != asked.caller:
            raise NotAllowedError("the key belongs to another owner")
        self.standing.learn_key(key.key_id, key.key_version)
        self.standing.require_key(key.key_id, key.key_version)
        return served

    def _here(self, wanted: Wanted) -> Served:
        """What is wanted; if it is live and only not here, it is fetched."""
        named = (wanted.model, wanted.model_version, wanted.key_id, wanted.key_version)
        try:
            return self.catalogue.find(*named)
        except (NotFound, KeyRefusedError):
            self.standing.learn_key(wanted.key_id, wanted.key_version)
            self.standing.require_key(wanted.key_id, wanted.key_version)
            self.obtain(wanted)
            return self.catalogue.find(*named)

    def _compute(self, asked: Asked, served: Served, trace: Trace) -> "_Course":
        """Have it computed, and its record handed in; wait for both."""
        blocks = protocol.read_blocks(
            asked.request,
            served.model.manifest,
            max_images=self.limits.max_images,
            max_bytes=self.limits.max_message_bytes,
        )
        course = _Course(
            asked,
            served.name,
            trace,
            self.releases,
            self.entropy,
            protocol.read_id(asked.request) or str(uuid.uuid4()),
            protocol.read_question_id(asked.request),
        )
        self.log.require()
        self.rates.spend(asked.caller, len(blocks))
        work = Work(
            asked.caller,
            served.model.backbone,
            Question(blocks, served.issue.weight),
            asked.call,
            lambda: self._require_still(asked.caller, served),
            course.computed,
        )
        course.enter()
        self.batcher.compute(work)
        return course

    def _require_still(self, caller: str, served: Served) -> None:
        """It may have waited for seconds, and owner or key be revoked meanwhile."""
        self.standing.require_party(caller)
        self.standing.require_key(served.name.key_id, served.name.key_version)
        self.log.require()

    @contextmanager
    def _ending(
        self, asked: Asked, subject: dict[str, str], trace: Trace
    ) -> Iterator[None]:
        """Count and report what ends without an answer, and is no refusal."""
        try:
            with failures_reported(self.reporter, asked.caller, asked.method, subject):
                yield
        except Exception as error:
            kind = error.kind if isinstance(error, KeymixerError) else "Internal"
            self.meter.refused(kind)
            trace.end(kind)
            raise


@dataclass(slots=True, eq=False)
class _Course:
    """The course of one request from its decoding to the log's verdict."""

    asked: Asked
    name: IssuedName
    trace: Trace
    releases: Verdicts
    entropy: Callable[[int], bytes]
    request_id: str
    question_id: bytes
    entered_s: float = 0.0
    computed_s: float = 0.0
    audit_s: float = 0.0
    _releasing: Releasing | None = None

    @property
    def answer(self) -> Answer:
        """What was computed."""
        return self._handed_in().answer

    def enter(self) -> None:
        """It is read, and begins to wait for a batch."""
        self.entered_s = time.perf_counter()
        self.trace.stage("decode", self.asked.arrived_s, self.entered_s)

    def computed(self, work: Work) -> None:
        """Hand in the record of what was computed; the verdict ends the work.

        Whoever computed it does this for all of a batch: so their records go together,
        and each caller is woken once.
        """
        self.computed_s = time.perf_counter()
        call = self.asked.call
        require_wanted(call)
        # Kept first: the verdict may wake the caller before `hand_in` returns.
        self._releasing = Releasing(self._answer(work), self.entropy)
        self._releasing.hand_in(
            self.releases, work.end, timeout_s=call.time_remaining()
        )

    def receipt(self) -> Receipt:
        """Return the log's receipt, or raise what its verdict is; see `Releasing`."""
        ended_s = time.perf_counter()
        started_s = self.entered_s + self._queue_s
        self.trace.stage("queue", self.entered_s, started_s)
        self.trace.stage("compute", started_s, self.computed_s)
        receipt = self._handed_in().receipt()
        self.trace.stage("audit", self.computed_s, ended_s)
        self.audit_s = ended_s - self.computed_s
        return receipt

    def _handed_in(self) -> Releasing:
        if self._releasing is None:
            raise AuditUnavailable("its record was not handed in in time")
        return self._releasing

    @property
    def _queue_s(self) -> float:
        return self._handed_in().answer.queue_s

    def _answer(self, work: Work) -> Answer:
        logits = work.result()
        waited_s = self.computed_s - self.entered_s
        return Answer(
            request_id=self.request_id,
            owner=self.asked.caller,
            name=self.name,
            shape=logits.shape,
            request=protocol.sent_bytes(self.asked.request),
            result=to_bytes(logits),
            compute_ms=work.compute_s * 1000,
            arrived_s=self.asked.arrived_s,
            batch=work.batch,
            queue_s=max(0.0, waited_s - work.compute_s),
            question_id=self.question_id,
        )


def _named(request: pb.ModelInferRequest) -> dict[str, str]:
    """What a request says it is about, for the record of its end: cut, unverified."""
    said = {
        "request_id": request.id,
        "model": request.model_name,
        "key_id": request.parameters["key_id"].string_param
        if "key_id" in request.parameters
        else "",
        "key_version": str(request.parameters["key_version"].int64_param)
        if "key_version" in request.parameters
        else "",
    }
    return {name: value[:128] for name, value in said.items() if value}
