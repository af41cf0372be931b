"""The inference server's three gRPC services: decode, call, encode."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from importlib import metadata

import grpc

from core.rpc.identity import SpiffeId, caller_of
from core.rpc.policy import current_caller
from core.statements import IssueStatement
from parties.audit import (
    AuditLog,
    Reporter,
    event_name,
    record_event,
    refusals_reported,
)
from parties.inference_server import protocol
from parties.inference_server.answering import Answering, Asked
from parties.inference_server.bulk import outcome, size
from parties.inference_server.catalogue import Catalogue
from parties.inference_server.fellows import CHUNK_BYTES
from parties.inference_server.intake import Intake
from parties.inference_server.store import IssuedName, ModelName
from parties.inference_server.streams import Streams
from protos import bulk_pb2 as bulk_pb
from protos import bulk_pb2_grpc as bulk_rpc
from protos import model_store_pb2 as store_pb
from protos import model_store_pb2_grpc as store_rpc
from protos import open_inference_pb2 as pb
from protos import open_inference_pb2_grpc as rpc

SERVER_NAME = "keymixer"
INFERENCE = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name
MODEL_INFER = f"/{INFERENCE}/ModelInfer"
BULK = bulk_pb.DESCRIPTOR.services_by_name["BulkInferenceService"].full_name
INFER_STREAM = f"/{BULK}/InferStream"
MODEL_STORE = store_pb.DESCRIPTOR.services_by_name["ModelStoreService"].full_name


class InferenceService(rpc.GRPCInferenceServiceServicer):
    """Answers only what the log has recorded."""

    def __init__(
        self,
        answering: Answering,
        catalogue: Catalogue,
        reporter: Reporter,
        *,
        ready: Callable[[], bool],
    ) -> None:
        self._answers = answering
        self._catalogue = catalogue
        self._reporter = reporter
        self._ready = ready

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
        caller = str(current_caller())
        return self._answers.answer(Asked(request, caller, MODEL_INFER, context))

    def _newest(self, model: str, text: str) -> int:
        versions = self._catalogue.versions(model)
        asked = protocol.read_version(text)
        version = versions[-1] if asked is None else asked
        self._catalogue.backbone(model, version)
        return version

    @contextmanager
    def _answering(self, method: str, subject: dict[str, str]) -> Iterator[str]:
        """Give the caller's SPIFFE ID, and report what is refused."""
        caller = str(current_caller())
        called = f"/{INFERENCE}/{method}"
        with refusals_reported(self._reporter, caller, called, subject):
            yield caller


class BulkInferenceService(bulk_rpc.BulkInferenceServiceServicer):
    """Answers each request of a stream as `InferenceService` answers a call."""

    def __init__(
        self, answering: Answering, streams: Streams, reporter: Reporter
    ) -> None:
        self._answers = answering
        self._streams = streams
        self._reporter = reporter

    def InferStream(
        self,
        request_iterator: Iterator[bulk_pb.InferStreamRequest],
        context: grpc.ServicerContext,
    ) -> Iterator[bulk_pb.InferStreamResponse]:
        caller = current_caller()
        asked = _asked(request_iterator, caller, context)
        with refusals_reported(self._reporter, str(caller), INFER_STREAM, {}):
            yield from self._streams.answers(
                str(caller), asked, partial(outcome, self._answers), size
            )


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


def _asked(
    requests: Iterator[bulk_pb.InferStreamRequest],
    caller: SpiffeId,
    context: grpc.ServicerContext,
) -> Iterator[Asked]:
    for each in requests:
        # A certificate may end while a stream is open.
        caller_of(context, caller.federation)
        yield Asked(each.request, str(caller), INFER_STREAM, context)


def issued_facts(name: IssuedName) -> dict[str, str]:
    """How records name an issued model."""
    return {field: str(value) for field, value in asdict(name).items()}
