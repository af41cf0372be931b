"""Dual control: one operator alone is refused, and two different ones are not."""

from typing import Any

import pytest

from core.errors import (
    Conflict,
    InvalidInput,
    KeyRefusedError,
    NotAllowedError,
    NotFound,
)
from core.rpc.identity import OPERATOR, SpiffeId
from core.rpc.policy import acting_as
from orchestrator.registry import store
from orchestrator.registry.models import Approval
from orchestrator.workflows import approvals, keys
from orchestrator.workflows.approvals import GATES, Action
from orchestrator.workflows.requests import PERFORM
from orchestrator.workflows.service import WorkflowService
from protos import workflows_pb2 as pb
from tests.fakes import Aborted, fake_context
from tests.unit.orchestrator.office import (
    ALDER_ID,
    MODEL,
    OPERATOR_ID,
    PROVIDER_ID,
    Office,
    spiffe,
)

ALDER = str(ALDER_ID)
KEY = "alder.cells"
SECOND_ID = spiffe("ministry", OPERATOR)
THIRD_ID = spiffe("auditor", OPERATOR)
ALL = ["issue", "revoke", "destroy", "export"]
DAY_S = 24 * 3600.0


@pytest.fixture
def strict(office: Office) -> Office:
    """An office with three operators, where everything needs two of them."""
    with office.registry.own_change() as change:
        for operator in (SECOND_ID, THIRD_ID):
            store.enrol(change, operator)
    office.active_key()
    set_policy(office, dual_control=ALL)
    return office


def set_policy(office: Office, **changed: object) -> None:
    office.policies = office.policies.model_copy(update=changed)


def service(office: Office) -> WorkflowService:
    return WorkflowService(office.registry, office.policies, office.key_holder)


def approve(office: Office, approval_id: int, by: SpiffeId = SECOND_ID) -> Approval:
    with office.change(by) as change:
        return approvals.approve(change, office.policies, approval_id, PERFORM)


def reject(office: Office, approval_id: int, by: SpiffeId = SECOND_ID) -> Approval:
    with office.change(by) as change:
        return approvals.reject(change, office.policies, approval_id, "not now")


def ask_to_revoke(office: Office, by: SpiffeId = OPERATOR_ID) -> int:
    request = pb.RevokeKeyRequest(owner=ALDER, model=MODEL, reason="lost")
    with acting_as(by):
        return service(office).RevokeKey(request, fake_context()).approval_id


def ask_for(office: Office, action: Action) -> int:
    """Ask for one of the gated actions; the id of the request, 0 if it was done."""
    desk, context = service(office), fake_context()
    of_alder: dict[str, Any] = {"owner": ALDER, "model": MODEL}
    version: dict[str, Any] = {"key_id": KEY, "version": 1}
    asked = {
        Action.CREATE_KEY: (desk.CreateKey, pb.CreateKeyRequest(**of_alder)),
        Action.ROTATE_KEYS: (
            desk.RotateKeys,
            pb.RotateKeysRequest(**of_alder, overlap_s=5),
        ),
        Action.REVOKE_KEY: (
            desk.RevokeKey,
            pb.RevokeKeyRequest(**of_alder, reason="lost"),
        ),
        Action.REVOKE_PARTY: (
            desk.RevokeParty,
            pb.RevokePartyRequest(spiffe_id=ALDER, reason="left"),
        ),
        Action.RESTORE_KEY: (desk.RestoreKey, pb.RestoreKeyRequest(**version)),
        Action.REPORT_COMPROMISE: (
            desk.ReportCompromise,
            pb.ReportCompromiseRequest(**of_alder, reason="leaked"),
        ),
        Action.DESTROY_KEY: (desk.DestroyKey, pb.DestroyKeyRequest(**version)),
        Action.EXPORT_KEY: (desk.ExportKey, pb.ExportKeyRequest(**version)),
    }
    call: Any
    call, request = asked[action]
    with acting_as(OPERATOR_ID):
        approval_id: int = call(request, context).approval_id
    return approval_id


def prepared_for(office: Office, action: Action) -> None:
    """Bring the key to where the action is possible."""
    if action in (Action.CREATE_KEY, Action.DESTROY_KEY, Action.RESTORE_KEY):
        window_s = 0.0 if action == Action.CREATE_KEY else DAY_S
        set_policy(office, destroy_window_s=window_s)
        office.revoke()
        office.settle()


@pytest.mark.parametrize("action", sorted(set(Action) - {Action.REPORT_COMPROMISE}))
def test_one_operator_alone_does_nothing(strict: Office, action: Action) -> None:
    prepared_for(strict, action)
    before = (strict.states(), strict.jobs(), dict(strict.key_holder.calls))
    kinds = strict.kinds()

    assert ask_for(strict, action) > 0
    assert (strict.states(), strict.jobs(), dict(strict.key_holder.calls)) == before
    assert strict.kinds() == [*kinds, "approval.requested"]


@pytest.mark.parametrize("action", Action)
def test_nobody_approves_what_is_their_own_request(
    strict: Office, action: Action
) -> None:
    prepared_for(strict, action)
    approval_id = ask_for(strict, action)
    before = strict.kinds()

    with pytest.raises(NotAllowedError, match="two different operators"):
        approve(strict, approval_id, OPERATOR_ID)
    assert strict.kinds() == before


@pytest.mark.parametrize("action", sorted(set(Action) - {Action.EXPORT_KEY}))
def test_a_second_operator_has_it_done_as_it_was_asked_for(
    strict: Office, action: Action
) -> None:
    prepared_for(strict, action)
    approval_id = ask_for(strict, action)
    found = approve(strict, approval_id)
    done = {
        Action.CREATE_KEY: "key.created",
        Action.ROTATE_KEYS: "key.created",
        Action.REVOKE_KEY: "key.revoked",
        Action.REVOKE_PARTY: "party.revoked",
        Action.RESTORE_KEY: "key.restored",
        Action.REPORT_COMPROMISE: "key.compromised",
        Action.DESTROY_KEY: "key.window_ended",
    }[action]

    assert found.state == "executed"
    entry = strict.entries(done)[-1]
    assert entry.actor == str(OPERATOR_ID), "in the name of who asked"
    assert entry.subject["approval"] == approval_id
    assert strict.kinds()[-1] == "approval.executed"
    assert strict.entries("approval.approved")[-1].actor == str(SECOND_ID)


@pytest.mark.parametrize("action", Action)
def test_without_dual_control_one_operator_is_enough(
    strict: Office, action: Action
) -> None:
    others = [word for word in ALL if word != GATES[action]]
    set_policy(strict, dual_control=others)
    prepared_for(strict, action)

    assert ask_for(strict, action) == 0
    asked = {entry.actor for entry in strict.entries("approval.requested")}
    assert str(OPERATOR_ID) not in asked


def test_what_is_done_is_what_was_asked_for(strict: Office) -> None:
    approval_id = ask_for(strict, Action.ROTATE_KEYS)
    approve(strict, approval_id)
    strict.bring_into_use(KEY, 2)

    (entry,) = strict.entries("key.retiring")
    assert entry.subject["retire_at_ms"] == strict.clock.now_ms + 5000


def test_a_dry_run_asks_nobody(strict: Office) -> None:
    request = pb.RotateKeysRequest(model=MODEL, overlap_s=5, dry_run=True)
    with acting_as(OPERATOR_ID):
        answer = service(strict).RotateKeys(request, fake_context())

    assert answer.approval_id == 0
    assert [each.to_version for each in answer.rotations] == [2]


def test_asked_for_twice_it_is_one_request(strict: Office) -> None:
    first = ask_to_revoke(strict)

    assert ask_to_revoke(strict) == first
    assert len(strict.entries("approval.requested")) == 1


def test_another_operators_same_request_is_no_approval(strict: Office) -> None:
    """Who approves says so; a request of one's own may mean something else."""
    first = ask_to_revoke(strict)

    assert ask_to_revoke(strict, SECOND_ID) != first
    assert strict.states() == {(KEY, 1): "active"}


def test_what_cannot_be_done_any_more_is_not_executed(strict: Office) -> None:
    approval_id = ask_for(strict, Action.ROTATE_KEYS)
    strict.suspend()
    with pytest.raises(KeyRefusedError):
        approve(strict, approval_id)

    with strict.database.reading() as session:
        assert approvals.named(session, approval_id).state == "pending"
    assert strict.entries("approval.approved") == []


def test_what_was_decided_is_not_decided_again(strict: Office) -> None:
    approval_id = ask_to_revoke(strict)
    approve(strict, approval_id)
    for again in (approve, reject):
        with pytest.raises(Conflict, match="executed already"):
            again(strict, approval_id, THIRD_ID)
    with pytest.raises(NotFound):
        approve(strict, 999)


def test_only_the_approvers_that_the_policy_names_approve(strict: Office) -> None:
    set_policy(strict, approvers=["auditor"])
    approval_id = ask_to_revoke(strict)
    for decide in (approve, reject):
        with pytest.raises(NotAllowedError, match="other approvers"):
            decide(strict, approval_id, SECOND_ID)

    assert approve(strict, approval_id, THIRD_ID).state == "executed"


def test_an_operator_who_was_expelled_since_counts_no_more(strict: Office) -> None:
    approval_id = ask_to_revoke(strict)
    with strict.change(THIRD_ID) as change:
        store.revoke_party(change, str(OPERATOR_ID), "left")
    assert approve(strict, approval_id, SECOND_ID).state == "pending"
    assert strict.states() == {(KEY, 1): "active"}

    assert approve(strict, approval_id, THIRD_ID).state == "executed"


def test_no_one_but_an_operator_has_a_vote(strict: Office) -> None:
    """The table of who may call is the first door; votes are counted behind it."""
    approval_id = ask_to_revoke(strict)

    assert approve(strict, approval_id, PROVIDER_ID).state == "pending"


def test_a_request_is_rejected_by_another_or_taken_back(strict: Office) -> None:
    first = ask_to_revoke(strict)
    assert reject(strict, first, SECOND_ID).state == "rejected"
    second = ask_to_revoke(strict)
    assert second != first
    assert reject(strict, second, OPERATOR_ID).state == "rejected"

    said = [entry.subject["reason"] for entry in strict.entries("approval.rejected")]
    assert said == ["not now", "not now"]
    with pytest.raises(Conflict):
        approve(strict, second)
    third = ask_to_revoke(strict)
    with pytest.raises(InvalidInput), strict.change(SECOND_ID) as change:
        approvals.reject(change, strict.policies, third, "x" * 501)


def test_a_request_is_good_for_a_day(strict: Office) -> None:
    approval_id = ask_to_revoke(strict)
    strict.clock.pass_seconds(DAY_S)
    with pytest.raises(Conflict, match="expired"):
        approve(strict, approval_id)
    strict.settle()
    with strict.database.reading() as session:
        assert approvals.named(session, approval_id).state == "expired"

    assert len(strict.entries("approval.expired")) == 1
    assert ask_to_revoke(strict) != approval_id


# Exports


def export(office: Office, by: SpiffeId = OPERATOR_ID) -> pb.ExportKeyResponse:
    with acting_as(by):
        request = pb.ExportKeyRequest(key_id=KEY, version=1)
        return service(office).ExportKey(request, fake_context())


def test_an_approved_export_is_fetched_once_by_who_asked(strict: Office) -> None:
    approval_id = export(strict).approval_id
    assert approve(strict, approval_id).state == "approved"
    assert export(strict, SECOND_ID).approval_id not in (0, approval_id)
    fetched = export(strict)

    assert (fetched.envelope, fetched.approval_id) == (b"alder.cells/1", 0)
    (entry,) = strict.entries("key.exported")
    assert entry.subject["approval"] == approval_id
    assert entry.actor == str(OPERATOR_ID)
    assert export(strict).approval_id not in (0, approval_id), "it is used up"
    assert strict.key_holder.calls["export"] == 1


def test_a_key_leaves_only_once_its_record_is_durable(strict: Office) -> None:
    set_policy(strict, dual_control=[])
    seen: list[list[str]] = []
    real = strict.key_holder.export

    def look(key_id: str, version: int) -> object:
        seen.append(strict.kinds())
        return real(key_id, version)

    strict.key_holder.export = look  # type: ignore[method-assign, assignment]
    export(strict)

    assert [kinds[-1] for kinds in seen] == ["key.exported"]


def test_a_seed_that_is_not_there_is_not_exported(strict: Office) -> None:
    set_policy(strict, dual_control=[])
    strict.revoke()
    strict.settle()
    with pytest.raises(Aborted, match="KeyRefused"):
        export(strict)

    assert strict.key_holder.calls["export"] == 0
    assert strict.entries("key.exported") == []


# The end of a window


def test_a_window_ends_only_once_two_operators_agree(strict: Office) -> None:
    """The orchestrator asked, and has no vote."""
    set_policy(strict, dual_control=["destroy"])
    strict.revoke()
    strict.settle()
    (request,) = strict.entries("approval.requested")
    assert strict.open_job("revoke").step == "window"
    approval_id = int(request.subject["approval"])
    assert approve(strict, approval_id, OPERATOR_ID).state == "pending"
    strict.settle()
    assert strict.states() == {(KEY, 1): "destroy_scheduled"}
    with pytest.raises(NotAllowedError):
        approve(strict, approval_id, OPERATOR_ID)
    assert approve(strict, approval_id, SECOND_ID).state == "executed"
    strict.settle()

    assert strict.states() == {(KEY, 1): "destroyed"}


def test_a_destruction_that_two_wanted_early_needs_no_third(strict: Office) -> None:
    set_policy(strict, dual_control=["destroy"], destroy_window_s=DAY_S)
    strict.revoke()
    strict.settle()
    approve(strict, ask_for(strict, Action.DESTROY_KEY))
    strict.settle()

    assert strict.states() == {(KEY, 1): "destroyed"}
    assert len(strict.entries("approval.requested")) == 1


def test_a_destruction_that_nobody_approves_is_asked_for_again(strict: Office) -> None:
    set_policy(strict, dual_control=["destroy"])
    strict.revoke()
    strict.settle()
    strict.clock.pass_seconds(DAY_S)
    strict.settle()

    assert len(strict.entries("approval.expired")) == 1
    assert len(strict.entries("approval.requested")) == 2
    assert strict.states() == {(KEY, 1): "destroy_scheduled"}


def test_a_destruction_that_is_rejected_is_an_operators_business(
    strict: Office,
) -> None:
    set_policy(strict, dual_control=["destroy"])
    strict.revoke()
    strict.settle()
    (request,) = strict.entries("approval.requested")
    reject(strict, int(request.subject["approval"]))

    job = strict.open_job("revoke")
    assert job.state == "needs_operator"
    assert f"`keymixer jobs retry {job.id}` asks again" in job.why
    assert f"`keymixer keys restore {KEY} --version 1` keeps the key" in job.why
    strict.settle()
    assert strict.states() == {(KEY, 1): "destroy_scheduled"}


def test_a_request_to_destroy_early_that_is_rejected_changes_nothing(
    strict: Office,
) -> None:
    set_policy(strict, dual_control=["destroy"], destroy_window_s=DAY_S)
    strict.revoke()
    strict.settle()
    reject(strict, ask_for(strict, Action.DESTROY_KEY))

    assert strict.open_job("revoke").state == "waiting"


def test_every_action_is_gated_by_a_word_of_the_policy() -> None:
    assert set(GATES) == set(Action)
    assert set(GATES.values()) == set(ALL)
    assert set(PERFORM) == set(Action) - {Action.EXPORT_KEY}


# Keeping what was to be destroyed


def ask_to_destroy(office: Office) -> int:
    """Bring a revoked key to the end of its window; the id of the request it makes."""
    office.revoke()
    office.settle()
    return int(office.entries("approval.requested")[-1].subject["approval"])


def give_up(office: Office, job_id: int) -> None:
    request = pb.AbortJobRequest(id=job_id, reason="not wanted")
    with acting_as(OPERATOR_ID):
        service(office).AbortJob(request, fake_context())


def test_a_key_whose_destruction_is_rejected_can_be_kept(strict: Office) -> None:
    """The window is over, and the seed is there: the advice it gives must work."""
    set_policy(strict, dual_control=["destroy"])
    reject(strict, ask_to_destroy(strict))
    assert ask_for(strict, Action.RESTORE_KEY) == 0
    strict.settle()

    assert strict.states() == {(KEY, 1): "suspended"}
    strict.resume()
    strict.settle()
    assert strict.states() == {(KEY, 1): "active"}
    assert strict.issued() == {(KEY, 1, 1): "live"}


def test_a_key_whose_destruction_nobody_has_agreed_to_can_be_kept(
    strict: Office,
) -> None:
    set_policy(strict, dual_control=["destroy"])
    approval_id = ask_to_destroy(strict)
    strict.restore(KEY, 1)
    strict.settle()

    assert strict.states() == {(KEY, 1): "suspended"}
    with pytest.raises(Conflict, match="rejected already"):
        approve(strict, approval_id)


def test_a_job_whose_destruction_is_rejected_can_be_given_up(strict: Office) -> None:
    set_policy(strict, dual_control=["destroy"])
    reject(strict, ask_to_destroy(strict))
    give_up(strict, strict.open_job("revoke").id)

    assert strict.states() == {(KEY, 1): "suspended"}


def test_a_destruction_that_two_agreed_to_is_not_taken_back(strict: Office) -> None:
    set_policy(strict, dual_control=["destroy"])
    approval_id = ask_to_destroy(strict)
    for operator in (OPERATOR_ID, SECOND_ID):
        approve(strict, approval_id, operator)

    with pytest.raises(KeyRefusedError, match="window is over"):
        strict.restore(KEY, 1)


def test_one_operator_does_not_undo_what_two_have_decided(strict: Office) -> None:
    set_policy(strict, destroy_window_s=DAY_S)
    approve(strict, ask_to_revoke(strict))
    strict.settle()
    approval_id = ask_for(strict, Action.RESTORE_KEY)
    with pytest.raises(Aborted, match="TwoOperatorsNeeded: `keymixer keys restore`"):
        give_up(strict, strict.open_job("revoke").id)
    assert strict.states() == {(KEY, 1): "destroy_scheduled"}

    approve(strict, approval_id)
    assert strict.states() == {(KEY, 1): "suspended"}


def test_a_wish_to_keep_a_key_that_is_rejected_changes_nothing(strict: Office) -> None:
    set_policy(strict, dual_control=["revoke"], destroy_window_s=DAY_S)
    strict.revoke()
    strict.settle()
    reject(strict, ask_for(strict, Action.RESTORE_KEY))
    assert strict.open_job("revoke").state == "waiting"
    strict.clock.pass_seconds(DAY_S)
    strict.settle()

    assert strict.states() == {(KEY, 1): "destroyed"}


# Requests about what has ended


def test_a_request_ends_with_the_job_that_it_is_about(strict: Office) -> None:
    """Wanted once, before it was restored: no vote for the next time."""
    set_policy(strict, dual_control=["destroy"], destroy_window_s=DAY_S)
    strict.revoke()
    strict.settle()
    old, job = ask_for(strict, Action.DESTROY_KEY), strict.open_job("revoke")
    strict.restore(KEY, 1)

    (entry,) = strict.entries("approval.rejected")
    assert (entry.subject["approval"], entry.subject["reason"]) == (
        old,
        f"job {job.id}, which it was about, has ended",
    )
    with pytest.raises(Conflict, match="rejected already"):
        approve(strict, old)


def test_a_destruction_asked_for_again_is_another_request(strict: Office) -> None:
    set_policy(strict, dual_control=["destroy"], destroy_window_s=DAY_S)
    strict.revoke()
    strict.settle()
    old = ask_for(strict, Action.DESTROY_KEY)
    strict.restore(KEY, 1)
    strict.resume()
    strict.revoke()
    strict.settle()
    new = ask_for(strict, Action.DESTROY_KEY)
    assert new != old
    approve(strict, new)
    strict.settle()

    assert strict.states() == {(KEY, 1): "destroyed"}


def test_a_wish_to_keep_what_is_destroyed_meanwhile_ends(strict: Office) -> None:
    set_policy(strict, dual_control=["revoke"], destroy_window_s=DAY_S)
    strict.revoke()
    strict.settle()
    approval_id = ask_for(strict, Action.RESTORE_KEY)
    strict.clock.pass_seconds(DAY_S - 1)
    with strict.change() as change:
        keys.destroy_now(change, KEY, 1)
    strict.settle()

    assert strict.states() == {(KEY, 1): "destroyed"}
    with strict.database.reading() as session:
        assert approvals.named(session, approval_id).state == "rejected"


# A leak


def test_a_leaked_key_is_suspended_by_one_operator_and_ended_by_two(
    strict: Office,
) -> None:
    """Nobody waits for a second operator to stop it; to end every key, they do."""
    approval_id = ask_for(strict, Action.REPORT_COMPROMISE)
    assert approval_id > 0
    assert strict.states() == {(KEY, 1): "suspended"}
    assert strict.jobs(open_only=True) == []
    approve(strict, approval_id)

    assert strict.states() == {(KEY, 1): "compromised"}
    assert strict.open_job("recover").step == "await_release"
    assert strict.entries("key.compromised")[0].subject["reason"] == "leaked"


def test_a_report_of_a_leak_that_is_rejected_leaves_the_key_suspended(
    strict: Office,
) -> None:
    reject(strict, ask_for(strict, Action.REPORT_COMPROMISE))
    assert strict.states() == {(KEY, 1): "suspended"}
    strict.resume()

    assert strict.states() == {(KEY, 1): "active"}


# Exports that go wrong


def test_an_export_needs_both_who_agreed_to_it_to_be_operators_still(
    strict: Office,
) -> None:
    approval_id = export(strict).approval_id
    approve(strict, approval_id)
    with strict.registry.own_change() as change:
        store.revoke_party(change, str(SECOND_ID), "stolen laptop")
    again = export(strict).approval_id

    assert again not in (0, approval_id)
    assert strict.key_holder.calls["export"] == 0
    (entry,) = strict.entries("approval.rejected")
    assert entry.subject["reason"] == "who approved it is no operator any more"
    approve(strict, again, THIRD_ID)
    assert export(strict).envelope == b"alder.cells/1"


def test_an_export_that_the_key_holder_did_not_answer_is_asked_for_anew(
    strict: Office,
) -> None:
    """It may have left all the same: what was agreed to is one export."""
    approve(strict, export(strict).approval_id)
    strict.key_holder.away = True
    with pytest.raises(Aborted, match=r"ExportInterrupted: .*they must anew"):
        export(strict)
    strict.key_holder.away = False

    assert len(strict.entries("key.exported")) == 1
    assert export(strict).approval_id > 0
