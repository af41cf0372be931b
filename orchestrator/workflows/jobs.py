"""The rows of jobs: opened, moved on, put off, woken, ended."""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    select,
)
from sqlalchemy.orm import Session, joinedload

from core.canonical import canonical, parse
from core.errors import Conflict, NotFound
from orchestrator.audit.records import Fact
from orchestrator.registry.lifecycle import JobState
from orchestrator.registry.models import Job, Key, KeyVersion
from orchestrator.registry.store import Change
from orchestrator.workflows import asked

OPEN: Final = (JobState.READY, JobState.WAITING, JobState.NEEDS_OPERATOR)
_STUMBLES: Final = "stumbles"


class Kind(StrEnum):
    """What a job is for."""

    CREATE = "create"
    ROTATE = "rotate"
    ISSUE = "issue"
    RELEASE = "release"
    REVOKE = "revoke"
    DESTROY = "destroy"
    RECOVER = "recover"


class Step(StrEnum):
    """What a job does next."""

    DRAW = "draw"
    CONFIRM = "confirm"
    PREPARE = "prepare"
    SEND = "send"
    OVERLAP = "overlap"
    REMOVE = "remove"
    WINDOW = "window"
    DESTROY = "destroy"
    ISSUE_ALL = "issue_all"
    AWAIT_RELEASE = "await_release"
    REKEY = "rekey"
    CHILDREN = "children"


# What they end is asked about: by who wants it sooner, or back.
_ENDINGS: Final = (Kind.REVOKE, Kind.DESTROY)


def key_subject(key: Key) -> str:
    """The subject of a job that brings a key its next version."""
    return f"key:{key.key_id}"


def version_subject(version: KeyVersion) -> str:
    """The subject of the job that ends one version of a key."""
    return f"key:{version.key.key_id}/{version.version}"


def restoring(version: KeyVersion) -> str:
    """The command that takes back that a version is destroyed."""
    return f"keymixer keys restore {version.key.key_id} --version {version.version}"


def new(
    change: Change,
    kind: Kind,
    subject: str,
    step: Step,
    *,
    version: KeyVersion | None = None,
    parent_id: int | None = None,
    arguments: Mapping[str, Any] | None = None,
) -> Job:
    """Open a job that is due at once. It has an id after the next flush.

    The database refuses a second open job on one subject; `open_on` finds the first.
    """
    job = Job(
        kind=kind,
        subject=subject,
        step=step,
        state=JobState.READY,
        arguments=canonical(arguments or {}),
        key_version=version,
        parent_id=parent_id,
        created_by=change.actor,
        created_at_ms=change.now_ms,
        changed_at_ms=change.now_ms,
        next_at_ms=change.now_ms,
        attempts=0,
        why="",
        fence=0,
    )
    change.session.add(job)
    change.has_work()
    return job


def open_on(session: Session, subject: str) -> Job | None:
    """The open job on a subject, if there is one."""
    return session.scalar(
        select(Job).where(Job.subject == subject, Job.state.in_(OPEN))
    )


def open_jobs(session: Session, *conditions: ColumnElement[bool]) -> Sequence[Job]:
    """The open jobs that fit, oldest first."""
    query = select(Job).where(Job.state.in_(OPEN), *conditions).order_by(Job.id)
    return session.scalars(query).all()


def named(session: Session, job_id: int) -> Job:
    """One job, or `NotFound`."""
    job = session.get(Job, job_id)
    if job is None:
        raise NotFound("no such job")
    return job


def listed(
    session: Session, *, open_only: bool, ids: Sequence[int], before: int, limit: int
) -> Sequence[Job]:
    """Jobs, newest first, with all that is shown of them.

    Args:
        session: Reads one snapshot.
        open_only: Only those that are not done or aborted.
        ids: Only these; empty: all.
        before: Only those with a smaller id: the next page. 0: from the newest.
        limit: How many at most.
    """
    query = select(Job).options(
        joinedload(Job.key_version)
        .joinedload(KeyVersion.key)
        .options(joinedload(Key.owner), joinedload(Key.model))
    )
    if open_only:
        query = query.where(Job.state.in_(OPEN))
    if ids:
        query = query.where(Job.id.in_(ids))
    if before:
        query = query.where(Job.id < before)
    return session.scalars(query.order_by(Job.id.desc()).limit(limit)).all()


def arguments(job: Job) -> dict[str, Any]:
    """What the job was opened with, or has noted since."""
    found: dict[str, Any] = parse(job.arguments)
    return found


def note(job: Job, **more: Any) -> None:
    """Have the job remember something for its later steps."""
    job.arguments = canonical(arguments(job) | more)


def stumble(job: Job) -> int:
    """Count what nobody expected to happen; returns how often it has, so far."""
    times: int = arguments(job).get(_STUMBLES, 0) + 1
    note(job, **{_STUMBLES: times})
    return times


def facts(job: Job) -> dict[str, Fact]:
    """What every record about a job says."""
    return {
        "job": job.id,
        "job_kind": job.kind,
        "job_subject": job.subject,
        "step": job.step,
    }


def readers(job: Job) -> list[str]:
    """Who may read what is recorded about a job: the owner whose key it is."""
    return [] if job.key_version is None else [job.key_version.key.owner.spiffe_id]


def is_open(job: Job) -> bool:
    """Has it still something to do?"""
    return job.state in OPEN


def advance(change: Change, job: Job, step: Step) -> None:
    """Go on to a step, which is due at once."""
    _stand(change, job, JobState.READY, why="", next_at_ms=change.now_ms)
    job.step, job.attempts = step, 0
    change.has_work()


def wait(
    change: Change, job: Job, why: str, *, at_ms: int | None = None, step: str = ""
) -> None:
    """Wait until `at_ms`, or for an event that wakes the job.

    Args:
        change: The step's transaction.
        job: The job that waits.
        why: What it waits for, for people.
        at_ms: When to look again; None: only when it is woken.
        step: The step to wait at; empty: where it is.
    """
    _stand(change, job, JobState.WAITING, why=why, next_at_ms=at_ms)
    if step and step != job.step:
        job.step, job.attempts = step, 0


def put_off(change: Change, job: Job, why: str, at_ms: int) -> None:
    """Try the step again later: it failed, and may not fail forever."""
    _stand(change, job, JobState.WAITING, why=why, next_at_ms=at_ms)
    job.attempts += 1


def wake(change: Change, job: Job) -> None:
    """Have a waiting job look again at once; another is left as it is."""
    if job.state == JobState.WAITING:
        _stand(change, job, JobState.READY, why="", next_at_ms=change.now_ms)
        change.has_work()


def finish(change: Change, job: Job) -> None:
    """Nothing is left to do."""
    _end(change, job, JobState.DONE, "")


def abort(change: Change, job: Job, why: str) -> None:
    """Give it up; whoever works on it writes nothing more. Ended already is fine."""
    if is_open(job):
        _end(change, job, JobState.ABORTED, why)


def leave_to_operator(change: Change, job: Job, why: str, kind: str) -> None:
    """It does not get on by itself: somebody must look at it.

    Args:
        change: The transaction.
        job: The job that fails.
        why: The reason and what can be done, for people.
        kind: The kind of error, for the record.
    """
    _stand(change, job, JobState.NEEDS_OPERATOR, why=why, next_at_ms=None)
    job.attempts += 1
    change.record("job.needs_operator", {**facts(job), "error": kind}, readers(job))


def retry(change: Change, job: Job) -> None:
    """Try a job again that needs an operator or waits for its next try.

    Raises:
        Conflict: it has ended.
    """
    if not is_open(job):
        raise Conflict(f"a job that is {job.state} is not tried again")
    _stand(change, job, JobState.READY, why="", next_at_ms=change.now_ms)
    job.attempts = 0
    note(job, **{_STUMBLES: 0})
    change.has_work()
    change.record("job.retried", facts(job), readers(job))


def let_go(job: Job) -> None:
    """Nobody works on it any more."""
    job.lease_holder = job.lease_until_ms = None


def children(session: Session, job: Job) -> Sequence[Job]:
    """The jobs that this one started and that are still open."""
    return open_jobs(session, Job.parent_id == job.id)


def has_open_child(session: Session, job_id: int) -> bool:
    """Is any job still open that this one started? The last one is open longest."""
    query = select(Job.id).where(Job.parent_id == job_id, Job.state.in_(OPEN))
    return session.scalar(query.order_by(Job.id.desc()).limit(1)) is not None


def _stand(
    change: Change, job: Job, state: JobState, *, why: str, next_at_ms: int | None
) -> None:
    job.state, job.why, job.next_at_ms = state, why, next_at_ms
    job.changed_at_ms = change.now_ms


def _end(change: Change, job: Job, state: JobState, why: str) -> None:
    _stand(change, job, state, why=why, next_at_ms=None)
    let_go(job)
    job.fence += 1
    if job.kind in _ENDINGS:
        asked.end_with(change, job)
    if job.parent_id is None or has_open_child(change.session, job.parent_id):
        return
    parent = named(change.session, job.parent_id)
    if parent.step == Step.CHILDREN:
        wake(change, parent)
