"""The audit service: no answer without a record, no record without a right to it."""

from collections.abc import Callable
from typing import Any

import grpc
import pytest
from sqlalchemy import select

from core.checkpoint import open_checkpoint
from core.errors import StorageError
from core.merkle import verify_consistency, verify_inclusion
from core.rpc.identity import SpiffeId
from core.rpc.policy import Refusal, acting_as
from orchestrator.audit.events import KINDS, RefusalRecorder
from orchestrator.audit.records import parse_entry
from orchestrator.audit.service import AuditService
from orchestrator.registry import store
from orchestrator.registry.lifecycle import IssuedState, PartyState
from orchestrator.registry.models import Grant, IssuedModel
from orchestrator.registry.store import Registry
from orchestrator.workflows import keys
from protos import audit_pb2 as pb
from tests.fakes import Aborted, fake_context
from tests.unit.orchestrator.office import (
    ALDER_ID,
    BIRCH_ID,
    FEDERATION,
    KEY_HOLDER_ID,
    MODEL,
    OPERATOR_ID,
    PROVIDER_ID,
    SERVER_ID,
    Office,
    register_model,
)

KEY = "alder.cells"
ALDER = str(ALDER_ID)


def ask(
    office: Office, caller: SpiffeId, method: Callable[..., Any], request: object
) -> Any:
    with acting_as(caller):
        return method(AuditService(office.registry), request, fake_context())


def refusal(
    office: Office, caller: SpiffeId, method: Callable[..., Any], request: object
) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(Aborted) as caught:
        ask(office, caller, method, request)
    code, details = caught.value.args
    return code, details.partition(":")[0]


def inference(**changed: Any) -> pb.InferenceRecord:
    fields: dict[str, Any] = {
        "request_id": "r1",
        "owner": ALDER,
        "key_id": KEY,
        "key_version": 1,
        "model": MODEL,
        "model_version": 1,
        "images": 2,
        "request_digest": b"q" * 32,
        "result_digest": b"a" * 32,
        "compute_ms": 1.5,
        "latency_ms": 12.5,
        "batch": 8,
    }
    return pb.InferenceRecord(**fields | changed)


def verdicts(office: Office, *records: pb.InferenceRecord) -> list[str]:
    request = pb.RecordInferencesRequest(records=records)
    answer = ask(office, SERVER_ID, AuditService.RecordInferences, request)
    return [verdict.refusal for verdict in answer.verdicts]


def test_an_answer_under_an_active_key_is_released_and_recorded(
    office: Office,
) -> None:
    office.active_key()
    request = pb.RecordInferencesRequest(records=[inference()])
    answer = ask(office, SERVER_ID, AuditService.RecordInferences, request)
    (entry,) = office.entries("inference")

    assert answer.verdicts == [pb.InferenceVerdict(index=entry.index, refusal="")]
    assert entry.actor == str(SERVER_ID)
    assert entry.subject == {
        "owner": ALDER,
        "organisation": ALDER_ID.organisation,
        "status": "released",
        "key_id": KEY,
        "key_version": 1,
        "model": MODEL,
        "model_version": 1,
        "model_digest": office.model_digest(),
        "images": 2,
        "request_id": "r1",
        "request_digest": (b"q" * 32).hex(),
        "result_digest": (b"a" * 32).hex(),
        "compute_ms": 1.5,
        "latency_ms": 12.5,
        "batch": 8,
        "server": str(SERVER_ID),
    }


@pytest.mark.parametrize(
    ("changed", "kind"),
    [
        ({"owner": str(BIRCH_ID)}, "NotAllowed"),
        ({"key_id": "ghost.cells"}, "KeyRefused"),
        ({"key_version": 2}, "KeyRefused"),
        ({"model": "another"}, "KeyMismatch"),
        ({"model_version": 2}, "KeyRefused"),
        ({"model_version": 9}, "KeyRefused"),
    ],
)
def test_a_claim_that_does_not_hold_is_refused_and_recorded(
    office: Office, changed: dict[str, Any], kind: str
) -> None:
    office.active_key()
    register_model(office, "another")
    register_model(office, seed=1)

    assert verdicts(office, inference(**changed)) == [kind]
    (entry,) = office.entries("inference.refused")
    assert entry.subject["refusal"] == kind
    assert entry.subject["status"] == "refused"
    assert office.entries("inference") == []


def test_each_record_of_a_batch_has_a_verdict_of_its_own(office: Office) -> None:
    office.active_key()
    batch = [inference(), inference(key_version=7), inference(request_id="r3")]

    assert verdicts(office, *batch) == ["", "KeyRefused", ""]
    assert [entry.kind for entry in office.entries()][-3:] == [
        "inference",
        "inference.refused",
        "inference",
    ]


def test_after_a_revocation_the_very_next_answer_is_refused(office: Office) -> None:
    office.active_key()
    assert verdicts(office, inference()) == [""]
    office.revoke()

    assert verdicts(office, inference()) == ["KeyRefused"]


def test_a_key_that_waits_for_its_owner_answers_nothing(office: Office) -> None:
    with office.change() as change:
        keys.grant(change, ALDER, MODEL)
        keys.create(change, office.policies, ALDER, MODEL)
    office.settle()

    assert verdicts(office, inference()) == ["KeyRefused"]


def test_a_retiring_key_answers_until_its_last_millisecond(office: Office) -> None:
    office.active_key()
    office.rotate(overlap_s=1.0)
    office.settle()
    office.confirm(KEY, 2)
    office.settle()
    both = [inference(), inference(key_version=2)]
    assert verdicts(office, *both) == ["", ""]
    office.clock.pass_seconds(0.999)
    assert verdicts(office, *both) == ["", ""]
    office.clock.pass_seconds(0.001)

    assert office.states()[KEY, 1] == "retiring", "no job has run"
    assert verdicts(office, *both) == ["KeyRefused", ""]


def test_an_owner_without_a_grant_gets_no_answer(office: Office) -> None:
    office.active_key()
    with office.change() as change:
        row = change.session.scalars(select(Grant)).one()
        row.revoked_at_ms = change.now_ms

    assert verdicts(office, inference()) == ["NotGranted"]


@pytest.mark.parametrize(
    ("owner", "model"), [(str(BIRCH_ID), MODEL), (ALDER, "another")]
)
def test_a_grant_of_something_else_admits_nothing(
    office: Office, owner: str, model: str
) -> None:
    office.active_key()
    register_model(office, "another")
    with office.change() as change:
        row = change.session.scalars(select(Grant)).one()
        row.revoked_at_ms = change.now_ms
        keys.grant(change, owner, model)

    assert verdicts(office, inference()) == ["NotGranted"]


@pytest.mark.parametrize("state", [IssuedState.PENDING, IssuedState.GONE])
def test_a_model_that_is_not_served_answers_nothing(
    office: Office, state: IssuedState
) -> None:
    office.active_key()
    with office.change() as change:
        change.session.scalars(select(IssuedModel)).one().state = state

    assert office.states() == {(KEY, 1): "active"}
    assert verdicts(office, inference()) == ["KeyRefused"]


def test_a_revoked_owner_gets_no_answer(office: Office) -> None:
    office.active_key()
    with office.change() as change:
        party = store.active_party(change.session, ALDER)
        party.state = PartyState.REVOKED

    assert verdicts(office, inference()) == ["NotAllowed"]


@pytest.mark.parametrize(
    "changed",
    [
        {"request_digest": b"q" * 31},
        {"result_digest": b""},
        {"images": 0},
        {"request_id": "r" * 129},
        {"owner": "alder"},
        {"compute_ms": float("nan")},
    ],
)
def test_a_malformed_record_spoils_the_whole_batch(
    office: Office, changed: dict[str, Any]
) -> None:
    office.active_key()
    request = pb.RecordInferencesRequest(records=[inference(), inference(**changed)])
    code, _ = refusal(office, SERVER_ID, AuditService.RecordInferences, request)

    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert office.entries("inference") == []


def test_a_batch_has_a_bound(office: Office) -> None:
    request = pb.RecordEventsRequest(events=[pb.Event(kind="refused")] * 1001)

    assert refusal(office, KEY_HOLDER_ID, AuditService.RecordEvents, request) == (
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "TooLarge",
    )


def test_no_audit_no_answer(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    office.active_key()

    def full(*_: object, **__: object) -> int:
        raise StorageError("disk full")

    monkeypatch.setattr(office.registry.log, "append", full)
    request = pb.RecordInferencesRequest(records=[inference()])
    code, _ = refusal(office, SERVER_ID, AuditService.RecordInferences, request)

    assert code is grpc.StatusCode.UNAVAILABLE


def test_a_partys_event_names_the_caller_and_the_keys_owner(office: Office) -> None:
    key_id = office.active_key()
    event = pb.Event(
        kind="key.fetched", caller=str(BIRCH_ID), subject={"key_id": key_id}
    )
    request = pb.RecordEventsRequest(events=[event])
    (index,) = ask(office, KEY_HOLDER_ID, AuditService.RecordEvents, request).indices
    (entry,) = office.entries("key.fetched")

    assert entry.index == index
    assert entry.actor == str(KEY_HOLDER_ID)
    assert entry.subject == {"key_id": key_id, "caller": str(BIRCH_ID)}
    for reader in (ALDER_ID, BIRCH_ID, KEY_HOLDER_ID):
        found = office.registry.log.entries(index, 1, party=str(reader))
        assert [each.index for each in found] == [index]


def test_a_party_reports_only_what_its_role_does(office: Office) -> None:
    for caller, kind in (
        (KEY_HOLDER_ID, "backbone.stored"),
        (KEY_HOLDER_ID, "inference"),
        (SERVER_ID, "key.fetched"),
        (SERVER_ID, "key.destroyed"),
        (ALDER_ID, "refused"),
    ):
        request = pb.RecordEventsRequest(events=[pb.Event(kind=kind)])
        assert refusal(office, caller, AuditService.RecordEvents, request) == (
            grpc.StatusCode.PERMISSION_DENIED,
            "NotAllowed",
        )


def test_no_party_can_report_a_change_of_state(office: Office) -> None:
    office.active_key()
    office.revoke()
    office.settle()

    assert set(office.kinds()).isdisjoint(set().union(*KINDS.values()))


def test_a_picture_does_not_fit_into_a_fact(office: Office) -> None:
    events = [pb.Event(kind="refused", subject={"why": "x" * 513})]
    request = pb.RecordEventsRequest(events=events)
    code, _ = refusal(office, SERVER_ID, AuditService.RecordEvents, request)

    assert code is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("fact", ["reason", "reason_hmac"])
def test_a_party_gives_no_reason(office: Office, fact: str) -> None:
    """Only what an operator types is kept beside the log."""
    events = [pb.Event(kind="refused", subject={fact: "because"})]
    request = pb.RecordEventsRequest(events=events)
    code, _ = refusal(office, SERVER_ID, AuditService.RecordEvents, request)

    assert code is grpc.StatusCode.INVALID_ARGUMENT


def test_a_party_reads_only_what_names_it(office: Office) -> None:
    office.active_key(ALDER_ID)
    office.active_key(BIRCH_ID)

    def bodies(caller: SpiffeId) -> list[bytes]:
        request = pb.ListEntriesRequest()
        answer = ask(office, caller, AuditService.ListEntries, request)
        return [entry.body for entry in answer.entries]

    assert len(bodies(OPERATOR_ID)) == office.registry.log.size()
    assert all(str(ALDER_ID).encode() in body for body in bodies(ALDER_ID))
    assert not any(str(BIRCH_ID).encode() in body for body in bodies(ALDER_ID))
    assert {parse_entry(body).kind for body in bodies(PROVIDER_ID)} == {
        "party.enrolled",
        "party.keys_registered",
        "model.registered",
    }


@pytest.mark.parametrize("limit", [1, 7, 1000])
def test_the_log_is_read_page_by_page(office: Office, limit: int) -> None:
    office.active_key()
    found, start = [], 0
    while True:
        request = pb.ListEntriesRequest(start=start, limit=limit)
        page = ask(office, OPERATOR_ID, AuditService.ListEntries, request)
        found += [entry.index for entry in page.entries]
        if not page.next_start:
            break
        start = page.next_start

    assert found == list(range(office.registry.log.size()))


@pytest.mark.parametrize(("start", "limit"), [(-1, 0), (0, -1), (0, 1001)])
def test_a_page_has_bounds(office: Office, start: int, limit: int) -> None:
    request = pb.ListEntriesRequest(start=start, limit=limit)
    code, _ = refusal(office, OPERATOR_ID, AuditService.ListEntries, request)

    assert code is grpc.StatusCode.INVALID_ARGUMENT


def test_the_checkpoint_and_the_proofs_verify(office: Office) -> None:
    def checkpoint() -> tuple[int, bytes]:
        request = pb.GetCheckpointRequest()
        signed = ask(office, ALDER_ID, AuditService.GetCheckpoint, request)
        origin = f"{FEDERATION}/audit"
        opened = open_checkpoint(signed.checkpoint, signed.public_key, origin)
        return opened.size, opened.root

    first, first_root = checkpoint()
    office.active_key()
    second, second_root = checkpoint()
    inclusion = ask(
        office,
        ALDER_ID,
        AuditService.GetInclusionProof,
        pb.GetInclusionProofRequest(index=first, tree_size=second),
    )
    consistency = ask(
        office,
        ALDER_ID,
        AuditService.GetConsistencyProof,
        pb.GetConsistencyProofRequest(first_size=first, second_size=second),
    )

    assert first < second == office.registry.log.size()
    verify_inclusion(
        leaf=inclusion.leaf_hash,
        index=first,
        size=second,
        path=list(inclusion.path),
        root_hash=second_root,
    )
    verify_consistency(
        first_size=first,
        second_size=second,
        first_root=first_root,
        second_root=second_root,
        path=list(consistency.path),
    )


def test_a_proof_of_what_is_not_there_is_not_found(office: Office) -> None:
    request = pb.GetInclusionProofRequest(index=0, tree_size=10_000)
    code, _ = refusal(office, ALDER_ID, AuditService.GetInclusionProof, request)

    assert code is grpc.StatusCode.NOT_FOUND


def test_a_refusal_of_the_guard_is_recorded(office: Office) -> None:
    record = RefusalRecorder(office.registry)
    record(Refusal(ALDER, "/keymixer.v1.WorkflowService/RevokeKey", "NotAllowed"))
    record(Refusal("", "/no/Method", "WrongFederation"))
    first, second = office.entries("refused")

    assert first.subject == {
        "caller": ALDER,
        "method": "/keymixer.v1.WorkflowService/RevokeKey",
        "kind": "NotAllowed",
    }
    assert second.subject["caller"] == ""
    mine = office.registry.log.entries(0, 1000, kind="refused", party=ALDER)
    assert [entry.index for entry in mine] == [first.index]


def test_refusals_that_could_not_be_recorded_are_counted(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = RefusalRecorder(office.registry)
    one = Refusal(ALDER, "/keymixer.v1.WorkflowService/RevokeKey", "NotAllowed")

    def away(_: Registry) -> None:
        raise StorageError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(Registry, "own_change", away)
        for _ in range(3):
            with pytest.raises(StorageError):
                record(one)
    record(one)
    record(one)

    assert [entry.subject for entry in office.entries("refusals.missed")] == [
        {"count": 3}
    ]
    assert len(office.entries("refused")) == 2
