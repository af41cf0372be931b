"""The workflows' service: what it decodes, calls and encodes, and for whom."""

from collections.abc import Callable
from typing import Any

import grpc
import pytest

from core.rpc.policy import acting_as
from orchestrator.workflows.service import WorkflowService
from protos import workflows_pb2 as pb
from tests.fakes import Aborted, fake_context
from tests.unit.orchestrator.office import (
    ALDER_ID,
    BIRCH_ID,
    MODEL,
    OPERATOR_ID,
    Office,
    spiffe,
)

ALDER = str(ALDER_ID)
KEY = "alder.cells"
OF_ALDER: dict[str, Any] = {"owner": ALDER, "model": MODEL}


@pytest.fixture
def patient(office: Office) -> Office:
    office.policies = office.policies.model_copy(update={"destroy_window_s": 100.0})
    return office


def ask(office: Office, method: str, request: Any) -> Any:
    service = WorkflowService(office.registry, office.policies, office.key_holder)
    with acting_as(OPERATOR_ID):
        return getattr(service, method)(request, fake_context())


def refusal(call: Callable[[], object]) -> tuple[object, str]:
    with pytest.raises(Aborted) as caught:
        call()
    status, details = caught.value.args
    return status, str(details).partition(":")[0]


def test_a_keys_life_in_an_operators_words(patient: Office) -> None:
    office = patient
    ask(office, "GrantModel", pb.GrantModelRequest(**OF_ALDER))
    made = ask(office, "CreateKey", pb.CreateKeyRequest(**OF_ALDER))
    assert (made.key_id, made.version, made.approval_id) == (KEY, 1, 0)
    office.bring_into_use(KEY, 1)
    rotate = pb.RotateKeysRequest(owner=ALDER, model=MODEL, overlap_s=5)
    (rotation,) = ask(office, "RotateKeys", rotate).rotations
    assert (rotation.from_version, rotation.to_version) == (1, 2)
    office.bring_into_use(KEY, 2)
    suspend = pb.SuspendKeyRequest(**OF_ALDER, reason="lost")
    assert list(ask(office, "SuspendKey", suspend).versions) == [1, 2]
    resume = pb.ResumeKeyRequest(**OF_ALDER)
    assert list(ask(office, "ResumeKey", resume).versions) == [1, 2]
    revoke = pb.RevokeKeyRequest(**OF_ALDER, reason="done")
    assert list(ask(office, "RevokeKey", revoke).versions) == [1, 2]
    restore = pb.RestoreKeyRequest(key_id=KEY, version=1)
    assert ask(office, "RestoreKey", restore).state == "suspended"
    ask(office, "RevokeKey", revoke)
    destroyed = ask(office, "DestroyKey", pb.DestroyKeyRequest(key_id=KEY, version=1))
    office.settle()

    assert destroyed.job_id > made.job_id > 0
    assert office.states() == {(KEY, 1): "destroyed", (KEY, 2): "destroy_scheduled"}
    by_operator = {e.actor for e in office.entries("key.created")}
    assert by_operator == {str(OPERATOR_ID)}


def test_a_compromise_is_answered_with_what_is_needed(office: Office) -> None:
    office.active_key(ALDER_ID)
    office.active_key(BIRCH_ID)
    request = pb.ReportCompromiseRequest(**OF_ALDER, reason="leaked")
    answer = ask(office, "ReportCompromise", request)

    assert (answer.key_id, list(answer.versions)) == (KEY, [1])
    assert list(answer.suspended) == ["birch.cells"]
    assert answer.recovery_job_id == office.open_job("recover").id
    assert len(answer.needed) == 6


def test_a_party_is_expelled_with_its_keys(office: Office) -> None:
    office.active_key()
    request = pb.RevokePartyRequest(spiffe_id=ALDER, reason="left")

    assert list(ask(office, "RevokeParty", request).key_ids) == [KEY]


def test_what_cannot_be_is_a_status_and_a_kind(office: Office) -> None:
    create = pb.CreateKeyRequest(**OF_ALDER)
    rotate = pb.RotateKeysRequest(owner=ALDER, model=MODEL, overlap_s=-1)

    assert refusal(lambda: ask(office, "CreateKey", create)) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "NotGranted",
    )
    assert refusal(lambda: ask(office, "RotateKeys", rotate)) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "InvalidInput",
    )
    assert refusal(lambda: ask(office, "RetryJob", pb.RetryJobRequest(id=999))) == (
        grpc.StatusCode.NOT_FOUND,
        "NotFound",
    )


def test_a_stranger_is_refused_everything(office: Office) -> None:
    service = WorkflowService(office.registry, office.policies, office.key_holder)
    calls = {
        service.ListJobs: pb.ListJobsRequest(),
        service.ListApprovals: pb.ListApprovalsRequest(),
        service.SuspendKey: pb.SuspendKeyRequest(**OF_ALDER, reason="x"),
        service.Approve: pb.ApproveRequest(id=1),
    }
    for call, request in calls.items():
        with acting_as(spiffe("elsewhere", "operator")):
            answer = refusal(lambda: call(request, fake_context()))  # type: ignore[operator] # noqa: B023

        assert answer == (grpc.StatusCode.PERMISSION_DENIED, "NotAllowed")


# Jobs


def listed(office: Office, **asked: Any) -> list[pb.Job]:
    return list(ask(office, "ListJobs", pb.ListJobsRequest(**asked)).jobs)


def test_a_job_says_all_there_is_to_know_of_it(office: Office) -> None:
    office.grant()
    office.create()
    office.key_holder.away = True
    office.settle()
    job = listed(office)[0]

    assert (job.kind, job.subject, job.step) == ("create", "key:alder.cells", "draw")
    assert (job.state, job.attempts) == ("waiting", 1)
    assert job.next_at_ms == office.clock.now_ms + 200
    assert job.why == "PeerUnavailable: the key holder is away"
    assert (job.owner, job.key_id, job.key_version, job.model) == (ALDER, KEY, 1, MODEL)
    assert (job.created_by, job.parent_id) == (str(OPERATOR_ID), 0)
    assert job.created_at_ms == job.changed_at_ms == office.clock.now_ms


def test_a_job_about_no_key_still_names_its_model(office: Office) -> None:
    office.active_key()
    office.release()
    office.settle()
    issue, release = listed(office)[:2]

    assert (release.kind, release.model, release.owner) == ("release", MODEL, "")
    assert (release.next_at_ms, release.key_version) == (0, 0)
    assert (issue.kind, issue.parent_id) == ("issue", release.id)


def test_jobs_are_listed_newest_first_page_by_page(office: Office) -> None:
    office.active_key(ALDER_ID)
    office.active_key(BIRCH_ID)
    office.rotate(None)
    whole = [job.id for job in listed(office)]
    pages: list[int] = []
    while page := listed(office, limit=2, before=pages[-1] if pages else 0):
        assert len(page) <= 2
        pages += [job.id for job in page]

    assert pages == whole == sorted(whole, reverse=True)
    assert len(whole) == 5


def test_open_jobs_and_named_ones_are_found(office: Office) -> None:
    office.active_key()
    office.rotate()
    (open_one,) = listed(office, open=True)

    assert open_one.kind == "rotate"
    assert [job.id for job in listed(office, ids=[1, open_one.id])] == [open_one.id, 1]
    assert [job.id for job in listed(office, ids=[1], open=True)] == []


@pytest.mark.parametrize(
    "asked",
    [{"limit": 1001}, {"limit": -1}, {"before": -1}, {"ids": range(1, 1002)}],
)
def test_a_page_has_a_bound(office: Office, asked: dict[str, Any]) -> None:
    assert refusal(lambda: listed(office, **asked)) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "InvalidInput",
    )


def test_a_job_is_tried_again_and_given_up(office: Office) -> None:
    office.grant()
    office.create()
    office.key_holder.away = True
    office.settle()
    job_id = office.open_job("create").id
    retried = ask(office, "RetryJob", pb.RetryJobRequest(id=job_id)).job
    given_up = ask(office, "AbortJob", pb.AbortJobRequest(id=job_id, reason="no")).job

    assert (retried.state, retried.attempts) == ("ready", 0)
    assert (given_up.state, given_up.id) == ("aborted", job_id)


def test_approvals_are_listed_newest_first(office: Office) -> None:
    office.active_key()
    gated = office.policies.model_copy(update={"dual_control": ["revoke"]})
    office.policies = gated
    for reason in ("one", "two"):
        ask(office, "RevokeKey", pb.RevokeKeyRequest(**OF_ALDER, reason=reason))
    ask(office, "Reject", pb.RejectRequest(id=1, reason="no"))
    found = ask(office, "ListApprovals", pb.ListApprovalsRequest()).approvals
    still_open = ask(office, "ListApprovals", pb.ListApprovalsRequest(open=True))

    assert [(each.id, each.state) for each in found] == [
        (2, "pending"),
        (1, "rejected"),
    ]
    assert [each.id for each in still_open.approvals] == [2]
    newest = found[0]
    assert newest.action == "revoke_key"
    assert newest.arguments == (
        f'{{"model":"{MODEL}","owner":"{ALDER}","reason":"two"}}'
    )
    assert list(newest.approved_by) == [newest.requested_by] == [str(OPERATOR_ID)]
    assert newest.expires_at_ms == newest.created_at_ms + 24 * 3600 * 1000
    assert refusal(lambda: ask(office, "Approve", pb.ApproveRequest(id=2))) == (
        grpc.StatusCode.PERMISSION_DENIED,
        "NotAllowed",
    )
