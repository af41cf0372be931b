"""The rows of requests for approval: what is recorded of them, and how they end."""

from typing import Final

from sqlalchemy import select

from core.canonical import canonical, parse
from orchestrator.audit.notes import REASON
from orchestrator.audit.records import Fact
from orchestrator.registry.lifecycle import ApprovalState
from orchestrator.registry.models import Approval, Job
from orchestrator.registry.store import Change

OPEN: Final = (ApprovalState.PENDING, ApprovalState.APPROVED)


def decide(change: Change, approval: Approval, state: ApprovalState) -> None:
    """Note what became of a request."""
    approval.state, approval.changed_at_ms = state, change.now_ms


def reject(change: Change, approval: Approval, reason: str) -> None:
    """End a request undone, and record why."""
    decide(change, approval, ApprovalState.REJECTED)
    change.record("approval.rejected", {**facts(approval), "reason": reason})


def end_with(change: Change, job: Job) -> None:
    """A job has ended: what was asked about it means nothing any more.

    The same may be asked again later, about another job; an old vote is no vote then.
    """
    query = select(Approval).where(Approval.job_id == job.id, Approval.state.in_(OPEN))
    for approval in change.session.scalars(query).all():
        reject(change, approval, f"job {job.id}, which it was about, has ended")


def facts(approval: Approval) -> dict[str, Fact]:
    """What every record about a request says; its reason is said when it is made."""
    arguments = parse(approval.arguments)
    arguments.pop(REASON, None)
    return {
        "approval": approval.id,
        "action": approval.action,
        "arguments": canonical(arguments).decode(),
        "requested_by": approval.requested_by,
    }


def facts_when_made(approval: Approval) -> dict[str, Fact]:
    """What is recorded of a request when it is made: why it is wanted, too."""
    arguments = parse(approval.arguments)
    reason = {REASON: arguments[REASON]} if REASON in arguments else {}
    return {**facts(approval), **reason}
