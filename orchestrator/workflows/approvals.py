"""Dual control: what two different operators must want before it is done.

A request is kept with the vote of the operator who made it. Once another operator adds
a vote it is done, as asked for by the first, in the same transaction. What a policy
asks for by itself (the end of a destroy window) has no vote: two operators are needed.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from core.canonical import canonical, parse
from core.errors import Conflict, NotAllowedError, NotFound
from core.rpc.identity import OPERATOR, SpiffeId
from orchestrator.audit.notes import check_reason
from orchestrator.federation import Policies
from orchestrator.registry.lifecycle import ApprovalState, PartyState
from orchestrator.registry.models import Approval, ApprovalVote, Job, Party
from orchestrator.registry.store import Change
from orchestrator.workflows import asked, jobs
from orchestrator.workflows.jobs import Step

VALID_MS: Final = 24 * 3600 * 1000
_OPERATORS_NEEDED: Final = 2


class Action(StrEnum):
    """What may need two operators."""

    CREATE_KEY = "create_key"
    ROTATE_KEYS = "rotate_keys"
    REVOKE_KEY = "revoke_key"
    REVOKE_PARTY = "revoke_party"
    RESTORE_KEY = "restore_key"
    REPORT_COMPROMISE = "report_compromise"
    DESTROY_KEY = "destroy_key"
    EXPORT_KEY = "export_key"


# The word of `policies.dual_control` that each action falls under.
GATES: Final[Mapping[Action, str]] = MappingProxyType(
    {
        Action.CREATE_KEY: "issue",
        Action.ROTATE_KEYS: "issue",
        Action.REVOKE_KEY: "revoke",
        Action.REVOKE_PARTY: "revoke",
        # What two operators have ended, one alone does not bring back.
        Action.RESTORE_KEY: "revoke",
        # One operator alone suspends the key; see `requests.report_compromise`.
        Action.REPORT_COMPROMISE: "revoke",
        Action.DESTROY_KEY: "destroy",
        Action.EXPORT_KEY: "export",
    }
)

Perform = Callable[[Change, Policies, Mapping[str, Any]], object]


def is_gated(policies: Policies, action: Action) -> bool:
    """Does the policy want two operators for this?"""
    return GATES[action] in policies.dual_control


def request(
    change: Change,
    action: Action,
    arguments: Mapping[str, Any],
    *,
    job_id: int | None = None,
) -> Approval:
    """Keep a request until it has its votes; the same once more is the one there is.

    Args:
        change: The transaction of who asks.
        action: What is asked for.
        arguments: Exactly what will be done.
        job_id: The job that it is about: the request ends with it.
    """
    written = canonical(arguments)
    known = _open_request(change, action, written, job_id)
    if known is not None:
        return known
    made = Approval(
        action=action.value,
        arguments=written,
        requested_by=change.actor,
        state=ApprovalState.PENDING,
        created_at_ms=change.now_ms,
        expires_at_ms=change.now_ms + VALID_MS,
        changed_at_ms=change.now_ms,
        job_id=job_id,
    )
    change.session.add(made)
    change.session.flush()
    if SpiffeId.parse(change.actor).role == OPERATOR:
        _vote(change, made)
    change.record("approval.requested", asked.facts_when_made(made))
    return made


def approve(
    change: Change,
    policies: Policies,
    approval_id: int,
    perform: Mapping[Action, Perform],
) -> Approval:
    """Add the actor's vote; with the votes of two operators it is done.

    Raises:
        NotAllowedError: it is the actor's own request, or the actor may not approve.
        Conflict: it is decided or expired, or cannot be done as things stand.
    """
    approval = _pending(change, approval_id)
    _require_another_approver(change, policies, approval)
    _vote(change, approval)
    change.record("approval.approved", asked.facts(approval))
    if _is_agreed(change, approval):
        _execute(change, policies, approval, perform)
    return approval


def reject(
    change: Change, policies: Policies, approval_id: int, reason: str
) -> Approval:
    """Decide against a request; the one who made it may do so too."""
    check_reason(reason)
    approval = named(change.session, approval_id)
    if approval.state not in asked.OPEN:
        raise Conflict(f"the request is {approval.state} already")
    if approval.requested_by != change.actor:
        _require_approver(change, policies)
    asked.reject(change, approval, reason)
    _tell_waiting_job(change, approval)
    return approval


def use_up(
    change: Change, action: Action, arguments: Mapping[str, Any]
) -> Approval | None:
    """The actor's approved request, executed with this; None: there is none.

    One whose voters are no longer two operators is rejected: it must be asked for anew.
    """
    known = _open_request(change, action, canonical(arguments), None)
    if known is None or known.state != ApprovalState.APPROVED:
        return None
    if not _is_agreed(change, known):
        asked.reject(change, known, "who approved it is no operator any more")
        return None
    asked.decide(change, known, ApprovalState.EXECUTED)
    change.record("approval.executed", asked.facts(known))
    return known


def may_destroy(change: Change, policies: Policies, job: Job) -> bool:
    """May the job destroy its key version? If not yet, it is made to wait."""
    if not is_gated(policies, Action.DESTROY_KEY) or _was_approved(change, job):
        return True
    version = job.key_version
    if version is None:
        return True
    named = {"key_id": version.key.key_id, "version": version.version}
    approval = destruction_asked(change.session, job, change.now_ms) or request(
        change, Action.DESTROY_KEY, named, job_id=job.id
    )
    why = f"two operators must approve it: `keymixer approvals approve {approval.id}`"
    jobs.wait(change, job, why, at_ms=approval.expires_at_ms)
    return False


def destruction_asked(session: Session, job: Job, now_ms: int) -> Approval | None:
    """The request that the end of a job's window waits for, if it waits for one."""
    query = select(Approval).where(
        Approval.job_id == job.id,
        Approval.action == Action.DESTROY_KEY,
        Approval.state == ApprovalState.PENDING,
        Approval.expires_at_ms > now_ms,
    )
    return session.scalar(query.order_by(Approval.id).limit(1))


def expire(change: Change) -> None:
    """Note which requests nobody approved in time."""
    query = select(Approval).where(
        Approval.state.in_(asked.OPEN), Approval.expires_at_ms <= change.now_ms
    )
    for approval in change.session.scalars(query).all():
        asked.decide(change, approval, ApprovalState.EXPIRED)
        change.record("approval.expired", asked.facts(approval))


def expiring(session: Session, now_ms: int) -> bool:
    """Has any request run out of time?"""
    query = select(Approval.id).where(
        Approval.state.in_(asked.OPEN), Approval.expires_at_ms <= now_ms
    )
    return session.scalar(query.limit(1)) is not None


def named(session: Session, approval_id: int) -> Approval:
    """One request, or `NotFound`."""
    approval = session.get(Approval, approval_id)
    if approval is None:
        raise NotFound("no such request")
    return approval


def listed(session: Session, *, open_only: bool) -> Sequence[Approval]:
    """Requests, newest first."""
    query = select(Approval).order_by(Approval.id.desc())
    if open_only:
        query = query.where(Approval.state.in_(asked.OPEN))
    return session.scalars(query).all()


def arguments(approval: Approval) -> dict[str, Any]:
    """What was asked for."""
    found: dict[str, Any] = parse(approval.arguments)
    return found


def voters(session: Session, approval: Approval) -> set[str]:
    """The operators who want it and are still operators."""
    query = (
        select(ApprovalVote.operator)
        .join(Party, Party.spiffe_id == ApprovalVote.operator)
        .where(
            ApprovalVote.approval_id == approval.id,
            Party.state == PartyState.ACTIVE,
            Party.role == OPERATOR,
        )
    )
    return set(session.scalars(query))


def _execute(
    change: Change,
    policies: Policies,
    approval: Approval,
    perform: Mapping[Action, Perform],
) -> None:
    """Do what was asked, as the one who asked; an export waits to be fetched."""
    action = Action(approval.action)
    if action == Action.EXPORT_KEY:
        asked.decide(change, approval, ApprovalState.APPROVED)
        return
    # Before it is done: with it, what else was asked about the same job may end.
    asked.decide(change, approval, ApprovalState.EXECUTED)
    change.session.flush()
    about = {**change.about, "approval": approval.id}
    as_asked = replace(change, actor=approval.requested_by, about=about)
    perform[action](as_asked, policies, arguments(approval))
    change.record("approval.executed", asked.facts(approval))


def _is_agreed(change: Change, approval: Approval) -> bool:
    return len(voters(change.session, approval)) >= _OPERATORS_NEEDED


def _vote(change: Change, approval: Approval) -> None:
    vote = ApprovalVote(operator=change.actor, at_ms=change.now_ms)
    approval.votes.append(vote)
    change.session.flush()


def _pending(change: Change, approval_id: int) -> Approval:
    approval = named(change.session, approval_id)
    if approval.state != ApprovalState.PENDING:
        raise Conflict(f"the request is {approval.state} already")
    if approval.expires_at_ms <= change.now_ms:
        raise Conflict("the request has expired: ask again")
    return approval


def _require_another_approver(
    change: Change, policies: Policies, approval: Approval
) -> None:
    if change.actor in {vote.operator for vote in approval.votes}:
        raise NotAllowedError("two different operators are needed: ask another one")
    _require_approver(change, policies)


def _require_approver(change: Change, policies: Policies) -> None:
    actor = SpiffeId.parse(change.actor)
    if policies.approvers and actor.organisation not in policies.approvers:
        raise NotAllowedError("the federation's policy names other approvers")


def _open_request(
    change: Change, action: Action, written: bytes, job_id: int | None
) -> Approval | None:
    query = select(Approval).where(
        Approval.action == action,
        Approval.arguments == written,
        Approval.job_id == job_id,
        Approval.requested_by == change.actor,
        Approval.state.in_(asked.OPEN),
        Approval.expires_at_ms > change.now_ms,
    )
    return change.session.scalar(query.order_by(Approval.id).limit(1))


def _was_approved(change: Change, job: Job) -> bool:
    query = select(func.count()).where(
        Approval.job_id == job.id,
        Approval.action == Action.DESTROY_KEY,
        Approval.state == ApprovalState.EXECUTED,
    )
    return bool(change.session.scalar(query))


def _tell_waiting_job(change: Change, approval: Approval) -> None:
    """A job that waits for nothing else is somebody's to decide on."""
    if approval.job_id is None or approval.action != Action.DESTROY_KEY:
        return
    job = jobs.named(change.session, approval.job_id)
    version = job.key_version
    if job.step != Step.WINDOW or version is None or not jobs.is_open(job):
        return
    if (version.destroy_at_ms or 0) <= change.now_ms:
        why = (
            f"the destruction was rejected: `keymixer jobs retry {job.id}` asks again, "
            f"`{jobs.restoring(version)}` keeps the key"
        )
        jobs.leave_to_operator(change, job, why, "Rejected")
