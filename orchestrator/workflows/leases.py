"""Who works on which job: leases, and the fences that make them exclusive.

Every lease has a number of its own, the fence, which is on the job's row: a worker
whose lease was taken over finds another fence there and writes nothing.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache
from typing import Final

from sqlalchemy import BigInteger, Integer, Select, bindparam, or_, select, update
from sqlalchemy.orm import Session

from core.errors import Conflict
from orchestrator.registry.lifecycle import JobState
from orchestrator.registry.models import Job
from orchestrator.registry.store import Change
from orchestrator.workflows import jobs

_CLAIMABLE: Final = (JobState.READY, JobState.WAITING)
_BY_ID: Final = select(Job).where(Job.id == bindparam("id"))


class LeaseLost(Conflict):
    """The job was taken over, moved on or ended while it was worked on."""

    hint = "nothing was changed; see `keymixer jobs show`"


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to do one step of a job, until it expires."""

    job_id: int
    kind: str
    step: str
    fence: int
    holder: str
    until_ms: int
    key_version_id: int | None

    def log_fields(self) -> dict[str, str | int]:
        """What every line of the log says of a leased job."""
        return {"job": self.job_id, "job_kind": self.kind, "step": self.step}


def claim(
    change: Change, holder: str, lease_ms: int, limit: int, barred: Iterable[str] = ()
) -> list[Lease]:
    """Lease up to `limit` jobs that are due, those longest due first.

    Args:
        change: The transaction that makes the leases durable.
        holder: Names the process that will work on them.
        lease_ms: For how long, in milliseconds.
        limit: How many at most.
        barred: Steps that are not to be begun now.
    """
    rows = due(change.session, change.now_ms, limit, barred)
    until_ms = change.now_ms + lease_ms
    leased = {
        "lease_holder": holder,
        "lease_until_ms": until_ms,
        "fence": Job.fence + 1,
    }
    ids = [lease.job_id for lease in rows]
    if ids:
        change.session.execute(update(Job).where(Job.id.in_(ids)).values(leased))
    return [
        replace(lease, holder=holder, until_ms=until_ms, fence=lease.fence + 1)
        for lease in rows
    ]


def due(
    session: Session, now_ms: int, limit: int, barred: Iterable[str] = ()
) -> list[Lease]:
    """What could be leased now: the jobs longest due, as they stand."""
    asked = {"now_ms": now_ms, "barred": list(barred), "most": limit}
    found = [
        row
        for state in _CLAIMABLE
        for row in session.execute(_due_in(), {"state": state, **asked})
    ]
    found.sort(key=lambda row: (row.next_at_ms, row.id))
    return [
        Lease(
            job_id=row.id,
            kind=row.kind,
            step=row.step,
            fence=row.fence,
            holder="",
            until_ms=0,
            key_version_id=row.key_version_id,
        )
        for row in found[:limit]
    ]


def held(session: Session, lease: Lease) -> Job:
    """The leased job, if it still stands where the lease found it.

    Raises:
        LeaseLost: somebody else works on it, or it was moved on or ended.
    """
    job = session.scalar(_BY_ID, {"id": lease.job_id})
    if job is None or (job.fence, job.step) != (lease.fence, lease.step):
        raise LeaseLost(f"job {lease.job_id} is no longer at {lease.step}")
    if job.state not in _CLAIMABLE or job.lease_holder != lease.holder:
        raise LeaseLost(f"job {lease.job_id} is {job.state}")
    return job


def keep_or_free(change: Change, job: Job, lease: Lease, lease_ms: int) -> Lease | None:
    """At the end of a step: lease it anew if its next one is due, else let it go."""
    if job.state != JobState.READY or (job.next_at_ms or 0) > change.now_ms:
        jobs.let_go(job)
        return None
    until_ms = change.now_ms + lease_ms
    job.lease_holder, job.lease_until_ms = lease.holder, until_ms
    return replace(lease, step=job.step, until_ms=until_ms)


def give_back(change: Change, holder: str) -> None:
    """Let go of everything a process has leased: it stops."""
    change.session.execute(
        update(Job)
        .where(Job.lease_holder == holder)
        .values(lease_holder=None, lease_until_ms=None)
    )


def free(change: Change, lease: Lease) -> None:
    """Let go of one job without having done anything."""
    change.session.execute(
        update(Job)
        .where(Job.id == lease.job_id, Job.fence == lease.fence)
        .values(lease_holder=None, lease_until_ms=None)
    )


def is_leased(job: Job, now_ms: int) -> bool:
    """May somebody be working on it at this moment?"""
    return job.lease_until_ms is not None and job.lease_until_ms > now_ms


@cache
def _due_in() -> Select[int, str, str, int, int | None, int | None]:
    """Jobs in one state, longest due first: an index gives them in that order.

    Asked many times a second: built once, as building it costs more than running it.
    """
    now_ms = bindparam("now_ms", type_=BigInteger)
    free = or_(Job.lease_until_ms.is_(None), Job.lease_until_ms <= now_ms)
    barred = Job.step.in_(bindparam("barred", expanding=True))
    return (
        select(
            Job.id,
            Job.kind,
            Job.step,
            Job.fence,
            Job.key_version_id,
            Job.next_at_ms,
        )
        .where(Job.state == bindparam("state"), Job.next_at_ms <= now_ms, free, ~barred)
        .order_by(Job.next_at_ms, Job.id)
        .limit(bindparam("most", type_=Integer))
    )
