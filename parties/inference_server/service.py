"""The inference server's two gRPC services: decode, call, encode."""

import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib import metadata

import grpc

from core.errors import (
    KeymixerError,
    KeyRefusedError,
    NotAllowedError,
    NotFound,
)
from core.rpc.policy import current_caller
from core.statements import IssueStatement
from core.wire import to_bytes
from parties.audit import (
    AuditLog,
    Reporter,
    event_name,
    failures_reported,
    known_to_the_log,
    record_event,
    refusals_reported,
)
from parties.inference_server import protocol
from parties.inference_server.batcher import Batcher
from parties.inference_server.catalogue import Catalogue, Served
from parties.inference_server.engine import Question
from parties.inference_server.fellows import CHUNK_BYTES
from parties.inference_server.intake import Intake
from parties.inference_server.meter import Meter, NoMeter
from parties.inference_server.rates import Rates
from parties.inference_server.records import Answer, Receipt, release
from parties.inference_server.releases import Releases
from parties.inference_server.store import IssuedName, ModelName
from parties.inference_server.supply import Wanted
from parties.inference_server.work import Call, Work, require_wanted
from parties.log_watch import LogWatch
from parties.standing import Standing
from protos import model_store_pb2 as store_pb
from protos import model_store_pb2_grpc as store_rpc
from protos import open_inference_pb2 as pb
from protos import open_inference_pb2_grpc as rpc

SERVER_NAME = "keymixer"
INFERENCE = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name
MODEL_STORE = store_pb.DESCRIPTOR.services_by_name["ModelStoreService"].full_name


@dataclass(frozen=True, slots=True)
class Limits:
    """The most one request may ask for."""

    max_images: int
    max_message_bytes: int


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as it came: who asks, on which call, and when it arrived."""

    request: pb.ModelInferRequest = field(repr=False)
    caller: str
    call: Call
    # On the clock of `time.perf_counter`.
    arrived_s: float


class InferenceService(rpc.GRPCInferenceServiceServicer):
    """Answers only what the log has recorded."""

    def __init__(
        self,
        catalogue: Catalogue,
        releases: Releases,
        reporter: Reporter,
        limits: Limits,
        standing: Standing,
        *,
        log: LogWatch,
        ready: Callable[[], bool],
        entropy: Callable[[int], bytes] = os.urandom,
        batcher: Batcher | None = None,
        rates: Rates | None = None,
        meter: Meter | None = None,
        obtain: Callable[[Wanted], None] = lambda _wanted: None,
    ) -> None:
        self._catalogue = catalogue
        self._obtain = obtain
        self._releases = releases
        self._reporter = reporter
        self._limits = limits
        self._standing = standing
        self._log = log
        self._meter = meter or NoMeter()
        self._batcher = batcher or Batcher(meter=self._meter)
        self._rates = rates or Rates()
        self._ready = ready
        self._entropy = entropy

    def ServerLive(
        self, _request: pb.ServerLiveRequest, _context: grpc.ServicerContext
    ) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    def ServerReady(
        self, _request: pb.ServerReadyRequest, _context: grpc.ServicerContext
    ) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=self._ready())

    def ServerMetadata(
        self, _request: pb.ServerMetadataRequest, _context: grpc.ServicerContext
    ) -> pb.ServerMetadataResponse:
        return pb.ServerMetadataResponse(
            name=SERVER_NAME, version=metadata.version("keymixer")
        )

    def ModelReady(
        self, request: pb.ModelReadyRequest, _context: grpc.ServicerContext
    ) -> pb.ModelReadyResponse:
        with self._answering("ModelReady", {"model": request.name}):
            self._newest(request.name, request.version)
            return pb.ModelReadyResponse(ready=self._ready())

    def ModelMetadata(
        self, request: pb.ModelMetadataRequest, _context: grpc.ServicerContext
    ) -> pb.ModelMetadataResponse:
        with self._answering("ModelMetadata", {"model": request.name}):
            version = self._newest(request.name, request.version)
            model = self._catalogue.backbone(request.name, version)
            versions = self._catalogue.versions(request.name)
            facts = model.backbone.facts
            return protocol.metadata(request.name, versions, model.manifest, facts)

    def ModelInfer(
        self, request: pb.ModelInferRequest, context: grpc.ServicerContext
    ) -> pb.ModelInferResponse:
        arrived_s = time.perf_counter()
        with self._ending(request):
            with self._answering("ModelInfer", _named(request)) as caller:
                served = self._find(request, caller)
                call = Asked(request, caller, context, arrived_s)
                answer = self._compute(call, served)
            return protocol.write_answer(answer, self._release(answer, context))

    def _release(self, answer: Answer, call: Call) -> Receipt:
        """Have the answer recorded, or raise what the log says."""
        started_s = time.perf_counter()
        with known_to_the_log():
            left_s = call.time_remaining()
            receipt = release(self._releases, answer, self._entropy, timeout_s=left_s)
        self._meter.answered(
            queue_s=answer.queue_s,
            audit_s=time.perf_counter() - started_s,
            received=len(answer.request),
            sent=len(answer.result),
        )
        return receipt

    def _newest(self, model: str, text: str) -> int:
        versions = self._catalogue.versions(model)
        asked = protocol.read_version(text)
        version = versions[-1] if asked is None else asked
        self._catalogue.backbone(model, version)
        return version

    def _find(self, request: pb.ModelInferRequest, caller: str) -> Served:
        """What the request asks for, if it is the caller's to ask for."""
        key = protocol.read_key(request)
        version = protocol.read_version(request.model_version)
        wanted = Wanted(
            caller, request.model_name, version, key.key_id, key.key_version
        )
        served = self._here(wanted)
        if served.issue.statement.owner != caller:
            raise NotAllowedError("the key belongs to another owner")
        self._standing.learn_key(key.key_id, key.key_version)
        self._standing.require_key(key.key_id, key.key_version)
        return served

    def _here(self, wanted: Wanted) -> Served:
        """What is wanted; if it is live and only not here, it is fetched."""
        named = (wanted.model, wanted.model_version, wanted.key_id, wanted.key_version)
        try:
            return self._catalogue.find(*named)
        except (NotFound, KeyRefusedError):
            self._standing.learn_key(wanted.key_id, wanted.key_version)
            self._standing.require_key(wanted.key_id, wanted.key_version)
            self._obtain(wanted)
            return self._catalogue.find(*named)

    def _compute(self, asked: Asked, served: Served) -> Answer:
        blocks = protocol.read_blocks(
            asked.request,
            served.model.manifest,
            max_images=self._limits.max_images,
            max_bytes=self._limits.max_message_bytes,
        )
        request_id = protocol.read_id(asked.request) or str(uuid.uuid4())
        question_id = protocol.read_question_id(asked.request)
        self._log.require()
        self._rates.spend(asked.caller, len(blocks))
        work = Work(
            asked.caller,
            served.model.backbone,
            Question(blocks, served.issue.weight),
            asked.call,
            lambda: self._require_still(asked.caller, served),
        )
        entered_s = time.perf_counter()
        logits = self._batcher.compute(work)
        waited_s = time.perf_counter() - entered_s
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
            queue_s=max(0.0, waited_s - work.compute_s),
            question_id=question_id,
        )

    def _require_still(self, caller: str, served: Served) -> None:
        """It may have waited for seconds, and owner or key be revoked meanwhile."""
        self._standing.require_party(caller)
        self._standing.require_key(served.name.key_id, served.name.key_version)
        self._log.require()

    @contextmanager
    def _ending(self, request: pb.ModelInferRequest) -> Iterator[None]:
        """Report what ends without an answer, and is no refusal."""
        caller, called = str(current_caller()), f"/{INFERENCE}/ModelInfer"
        with (
            self._counted(),
            failures_reported(self._reporter, caller, called, _named(request)),
        ):
            yield

    @contextmanager
    def _counted(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            kind = error.kind if isinstance(error, KeymixerError) else "Internal"
            self._meter.refused(kind)
            raise

    @contextmanager
    def _answering(self, method: str, subject: dict[str, str]) -> Iterator[str]:
        """Give the caller's SPIFFE ID, and report what is refused."""
        caller = str(current_caller())
        called = f"/{INFERENCE}/{method}"
        with refusals_reported(self._reporter, caller, called, subject):
            yield caller


class ModelStoreService(store_rpc.ModelStoreServiceServicer):
    """Every method may be called again: the answer is the same."""

    def __init__(self, intake: Intake, audit: AuditLog, reporter: Reporter) -> None:
        self._intake = intake
        self._audit = audit
        self._reporter = reporter

    def StoreBackbone(
        self,
        request_iterator: Iterator[store_pb.StoreBackboneRequest],
        _context: grpc.ServicerContext,
    ) -> store_pb.StoreBackboneResponse:
        with self._answering("StoreBackbone", {}) as caller:

            def record(name: ModelName, digest: str) -> None:
                facts = {"model": name.model, "model_version": str(name.version)}
                facts |= {"digest": digest}
                # The version has one backbone: uploaded again, it is the same event.
                version = f"{name.model}/{name.version}"
                self._record("backbone.stored", caller, facts, version)

            self._intake.take_backbone(caller, request_iterator, record)
            return store_pb.StoreBackboneResponse()

    def StoreIssuedModel(
        self, request: store_pb.StoreIssuedModelRequest, _context: grpc.ServicerContext
    ) -> store_pb.StoreIssuedModelResponse:
        with self._answering("StoreIssuedModel", {}) as caller:

            def record(facts: IssueStatement) -> None:
                subject = issued_facts(IssuedName.of(facts)) | {"digest": facts.digest}
                self._record("issued.stored", caller, subject, request.idempotency_key)

            self._intake.take_issue(caller, request, record)
            return store_pb.StoreIssuedModelResponse()

    def DeleteIssuedModel(
        self, request: store_pb.DeleteIssuedModelRequest, _context: grpc.ServicerContext
    ) -> store_pb.DeleteIssuedModelResponse:
        name = IssuedName(
            request.key_id, request.key_version, request.model, request.model_version
        )
        with self._answering("DeleteIssuedModel", issued_facts(name)) as caller:
            # Here the effect comes first: to delete twice is harmless, so a caller who
            # got no answer asks again, and the orchestrator records `issued.gone` only
            # after an answer.
            self._intake.drop_issue(name)
            key = request.idempotency_key
            self._record("issued.deleted", caller, issued_facts(name), key)
            return store_pb.DeleteIssuedModelResponse()

    def FetchBackbone(
        self, request: store_pb.FetchBackboneRequest, _context: grpc.ServicerContext
    ) -> Iterator[store_pb.FetchBackboneResponse]:
        name = ModelName(request.model, request.model_version)
        facts = {"model": name.model, "model_version": str(name.version)}
        with self._answering("FetchBackbone", facts):
            content = self._intake.store.backbone_file(name)
        for start in range(0, len(content), CHUNK_BYTES):
            chunk = content[start : start + CHUNK_BYTES]
            yield store_pb.FetchBackboneResponse(chunk=chunk)

    def _record(self, kind: str, caller: str, facts: dict[str, str], key: str) -> None:
        """Record what is done under an idempotency key, once."""
        name = event_name(key, kind)
        record_event(self._audit, kind, caller=caller, subject=facts, event_id=name)

    @contextmanager
    def _answering(self, method: str, subject: dict[str, str]) -> Iterator[str]:
        """Give the caller's SPIFFE ID, and report what is refused."""
        caller = str(current_caller())
        called = f"/{MODEL_STORE}/{method}"
        with refusals_reported(self._reporter, caller, called, subject):
            yield caller


def issued_facts(name: IssuedName) -> dict[str, str]:
    """How records name an issued model."""
    return {field: str(value) for field, value in asdict(name).items()}


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
