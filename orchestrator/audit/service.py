"""The audit log's gRPC service: decode, call, encode."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import grpc

from core.errors import InvalidInput, NotAllowedError, Unavailable
from core.rpc.errors import rpc_errors
from core.rpc.identity import OPERATOR, SpiffeId
from core.rpc.policy import current_caller
from orchestrator.audit.admission import Claim
from orchestrator.audit.cosignatures import cosignatures, keep_cosignature
from orchestrator.audit.decisions import Inference, Verdict, record_inferences
from orchestrator.audit.erasure import erase, notes_of
from orchestrator.audit.events import PartyEvent, check_batch, record_events
from orchestrator.audit.notes import Note
from orchestrator.audit.query import Question, read_page
from orchestrator.audit.writer import StoredEntry, log_size
from orchestrator.registry import store
from orchestrator.registry.models import Cosignature
from orchestrator.registry.store import Change, Registry
from protos import audit_pb2 as pb
from protos import audit_pb2_grpc as rpc

LARGEST_PAGE = 1000


class AuditService(rpc.AuditServiceServicer):
    """Every answer that says so is durable.

    Args:
        registry: Holds the log.
        on_missed: Told why, when records could not be written.
    """

    def __init__(
        self, registry: Registry, on_missed: Callable[[Unavailable], None] | None = None
    ) -> None:
        self._registry = registry
        self._on_missed = on_missed

    def RecordInferences(
        self, request: pb.RecordInferencesRequest, context: grpc.ServicerContext
    ) -> pb.RecordInferencesResponse:
        with rpc_errors(context):
            check_batch(request.records)
            inferences = [_inference(each) for each in request.records]

            def record(change: Change) -> list[Verdict]:
                return record_inferences(change, inferences)

            with self._missing():
                verdicts = self._registry.change_together(current_caller(), record)
            return pb.RecordInferencesResponse(
                verdicts=[
                    pb.InferenceVerdict(index=each.index, refusal=each.refusal)
                    for each in verdicts
                ]
            )

    def RecordEvents(
        self, request: pb.RecordEventsRequest, context: grpc.ServicerContext
    ) -> pb.RecordEventsResponse:
        with rpc_errors(context):
            check_batch(request.events)
            caller = current_caller()
            events = [_event(each) for each in request.events]

            def record(change: Change) -> list[int]:
                return record_events(change, caller.role, events)

            with self._missing():
                indices = self._registry.change_together(caller, record)
            return pb.RecordEventsResponse(indices=indices)

    def ListEntries(
        self, request: pb.ListEntriesRequest, context: grpc.ServicerContext
    ) -> pb.ListEntriesResponse:
        with rpc_errors(context):
            limit = _page_size(request)
            caller = current_caller()
            question = _question(caller, request)
            with self._registry.reading(caller) as session:
                page = read_page(session, question, request.start, limit)
                notes = notes_of(session, (each.index for each in page.entries))
            return pb.ListEntriesResponse(
                entries=[_entry(each, notes) for each in page.entries],
                next_start=page.next_start,
                size=page.size,
            )

    def EraseNote(
        self, request: pb.EraseNoteRequest, context: grpc.ServicerContext
    ) -> pb.EraseNoteResponse:
        with rpc_errors(context):
            with self._registry.change(current_caller()) as change:
                others = erase(change, request.index, request.reason)
            self._registry.database.empty_log()
            return pb.EraseNoteResponse(same_text=others)

    def GetCheckpoint(
        self, request: pb.GetCheckpointRequest, context: grpc.ServicerContext
    ) -> pb.GetCheckpointResponse:
        with rpc_errors(context):
            self._enrolled_caller()
            log = self._registry.log
            covering = request.covering if request.HasField("covering") else None
            return pb.GetCheckpointResponse(
                checkpoint=log.checkpoint(covering), public_key=log.public_key
            )

    def GetInclusionProof(
        self, request: pb.GetInclusionProofRequest, context: grpc.ServicerContext
    ) -> pb.GetInclusionProofResponse:
        with rpc_errors(context):
            self._enrolled_caller()
            proof = self._registry.log.inclusion_proof(request.index, request.tree_size)
            return pb.GetInclusionProofResponse(
                leaf_hash=proof.leaf_hash, path=proof.path
            )

    def GetConsistencyProof(
        self, request: pb.GetConsistencyProofRequest, context: grpc.ServicerContext
    ) -> pb.GetConsistencyProofResponse:
        with rpc_errors(context):
            self._enrolled_caller()
            path = self._registry.log.consistency_proof(
                request.first_size, request.second_size
            )
            return pb.GetConsistencyProofResponse(path=path)

    def SubmitCosignature(
        self, request: pb.SubmitCosignatureRequest, context: grpc.ServicerContext
    ) -> pb.SubmitCosignatureResponse:
        with rpc_errors(context):

            def keep(change: Change) -> None:
                keep_cosignature(change, request.checkpoint)

            self._registry.change_together(current_caller(), keep)
            return pb.SubmitCosignatureResponse()

    def ListCosignatures(
        self, request: pb.ListCosignaturesRequest, context: grpc.ServicerContext
    ) -> pb.ListCosignaturesResponse:
        with rpc_errors(context):
            with self._registry.reading(current_caller()) as session:
                rows = cosignatures(session, after=request.after)
                found = [_cosignature(row) for row in rows]
                size = log_size(session)
            after = rows[-1].party_id if len(rows) == store.LARGEST_PAGE else 0
            return pb.ListCosignaturesResponse(
                cosignatures=found, next=after, size=size
            )

    @contextmanager
    def _missing(self) -> Iterator[None]:
        try:
            yield
        except Unavailable as error:
            if self._on_missed is not None:
                self._on_missed(error)
            raise

    def _enrolled_caller(self) -> SpiffeId:
        caller = current_caller()
        with self._registry.reading(caller):
            return caller


def _question(caller: SpiffeId, request: pb.ListEntriesRequest) -> Question:
    """What is asked for; an operator reads everybody's records, a party its own."""
    named = tuple(each for each in (request.party, request.owner) if each)
    for each in named:
        SpiffeId.parse(each)
    reader = "" if caller.role == OPERATOR else str(caller)
    if reader and request.party not in ("", reader):
        raise NotAllowedError("a party reads the records that name it, not another's")
    return Question(
        reader=reader,
        named=named,
        kind=request.kind,
        refused=request.refused,
        organisation=request.organisation,
        model=request.model,
        key_id=request.key_id,
        request_id=request.request_id,
        since_ms=request.since_ms,
        until_ms=request.until_ms,
    )


def _page_size(request: pb.ListEntriesRequest) -> int:
    if request.start < 0 or not 0 <= request.limit <= LARGEST_PAGE:
        raise InvalidInput(f"expected start >= 0 and 0 <= limit <= {LARGEST_PAGE}")
    return request.limit or LARGEST_PAGE


def _entry(entry: StoredEntry, notes: Mapping[int, Note]) -> pb.AuditEntry:
    told = pb.AuditEntry(index=entry.index, body=entry.body)
    if note := notes.get(entry.index):
        told.note.MergeFrom(pb.AuditNote(salt=note.salt, text=note.text))
    return told


def _cosignature(row: Cosignature) -> pb.Cosignature:
    return pb.Cosignature(
        witness=row.party.spiffe_id, size=row.size, at_s=row.at_s, checkpoint=row.note
    )


def _inference(record: pb.InferenceRecord) -> Inference:
    return Inference(
        request_id=record.request_id,
        claim=Claim(
            owner=record.owner,
            key_id=record.key_id,
            key_version=record.key_version,
            model=record.model,
            model_version=record.model_version,
        ),
        images=record.images,
        request_digest=record.request_digest,
        result_digest=record.result_digest,
        compute_ms=record.compute_ms,
        latency_ms=record.latency_ms,
        batch=record.batch,
        event_id=record.event_id,
        names_question=record.names_question,
    )


def _event(event: pb.Event) -> PartyEvent:
    return PartyEvent(event.kind, event.caller, dict(event.subject), event.event_id)
