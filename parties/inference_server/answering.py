"""One answer, whichever way it was asked for: found, computed, recorded, released."""

import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from core.errors import KeymixerError, NotAllowedError
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
from parties.inference_server.records import Answer, Receipt, Verdicts, release
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

    def answer(self, asked: Asked) -> pb.ModelInferResponse:
        """Return the answer to one request once it is recorded, or say why not.

        Whatever it raises has been counted, and reported to the log.
        """
        subject = _named(asked.request)
        trace = self.tracer.begin(asked.method, asked.call, asked.arrived_s)
        with self._ending(asked, subject, trace):
            with refusals_reported(self.reporter, asked.caller, asked.method, subject):
                answer = self._compute(asked, self._find(asked), trace)
            receipt = self._release(answer, asked.call, trace)
            response = protocol.write_answer(answer, receipt)
        trace.end(images=answer.shape[0], batch=answer.batch)
        return response

    def _release(self, answer: Answer, call: Call, trace: Trace) -> Receipt:
        """Have the answer recorded, or raise what the log says."""
        started_s = time.perf_counter()
        with known_to_the_log():
            left_s = call.time_remaining()
            receipt = release(self.releases, answer, self.entropy, timeout_s=left_s)
        ended_s = time.perf_counter()
        trace.stage("audit", started_s, ended_s)
        self.meter.answered(
            queue_s=answer.queue_s,
            audit_s=ended_s - started_s,
            received=len(answer.request),
            sent=len(answer.result),
        )
        return receipt

    def _find(self, asked: Asked) -> Served:
        """What the request asks for, if it is the caller's to ask for."""
        request = asked.request
        key = protocol.read_key(request)
        version = protocol.read_version(request.model_version)
        served = self.catalogue.find(
            request.model_name, version, key.key_id, key.key_version
        )
        if served.issue.statement.owner != asked.caller:
            raise NotAllowedError("the key belongs to another owner")
        self.standing.learn_key(key.key_id, key.key_version)
        self.standing.require_key(key.key_id, key.key_version)
        return served

    def _compute(self, asked: Asked, served: Served, trace: Trace) -> Answer:
        blocks = protocol.read_blocks(
            asked.request,
            served.model.manifest,
            max_images=self.limits.max_images,
            max_bytes=self.limits.max_message_bytes,
        )
        request_id = protocol.read_id(asked.request) or str(uuid.uuid4())
        self.log.require()
        self.rates.spend(asked.caller, len(blocks))
        work = Work(
            asked.caller,
            served.model.backbone,
            Question(blocks, served.issue.weight),
            asked.call,
            lambda: self._require_still(asked.caller, served),
        )
        entered_s = time.perf_counter()
        trace.stage("decode", asked.arrived_s, entered_s)
        logits = self.batcher.compute(work)
        ended_s = time.perf_counter()
        queue_s = max(0.0, ended_s - entered_s - work.compute_s)
        trace.stage("queue", entered_s, entered_s + queue_s)
        trace.stage("compute", entered_s + queue_s, ended_s)
        require_wanted(asked.call)
        return Answer(
            request_id=request_id,
            owner=asked.caller,
            name=served.name,
            shape=logits.shape,
            request=protocol.sent_bytes(asked.request),
            result=to_bytes(logits),
            compute_ms=work.compute_s * 1000,
            arrived_s=asked.arrived_s,
            batch=work.batch,
            queue_s=queue_s,
        )

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
