"""Give a job up: what it has begun is undone, or ended by a job of its own."""

from core.errors import Conflict
from orchestrator.audit.notes import check_reason
from orchestrator.errors import TwoOperatorsNeeded
from orchestrator.federation import Policies
from orchestrator.registry.lifecycle import KeyState
from orchestrator.registry.models import Job
from orchestrator.registry.store import Change
from orchestrator.workflows import approvals, ending, holding, jobs
from orchestrator.workflows.approvals import Action
from orchestrator.workflows.jobs import Kind, Step


def give_up(change: Change, policies: Policies, job_id: int, reason: str) -> Job:
    """Abort a job as an operator asks for.

    * `create`, `rotate`: the new version is revoked; the former one stays in use.
    * `issue`: what was not put to use is not; the key's other models stay.
    * `release`, `recover`: what they have started is given up too.
    * `destroy`, `revoke`: the version is restored, and suspended.

    Raises:
        TwoOperatorsNeeded: it would take back what only two operators take back.
        Conflict: it has ended, or has come too far to be given up.
    """
    check_reason(reason)
    job = jobs.named(change.session, job_id)
    if not jobs.is_open(job):
        raise Conflict(f"the job is {job.state} already")
    _undo(change, policies, job, f"given up by an operator: {reason}")
    return job


def _undo(change: Change, policies: Policies, job: Job, why: str) -> None:
    change.record("job.aborted", {**jobs.facts(job), "reason": why}, jobs.readers(job))
    version = job.key_version
    if job.kind in (Kind.RELEASE, Kind.RECOVER):
        for child in jobs.children(change.session, job):
            if child.step != Step.OVERLAP:
                _undo(change, policies, child, why)
    elif job.kind in (Kind.DESTROY, Kind.REVOKE) and version is not None:
        _keep(change, policies, job)
    elif version is not None and version.state == KeyState.PRE_ACTIVE:
        jobs.abort(change, job, why)
        ending.revoke(change, policies, version, why)
    elif job.step == Step.OVERLAP:
        raise Conflict("the new version is in use: there is nothing left to give up")
    jobs.abort(change, job, why)


def _keep(change: Change, policies: Policies, job: Job) -> None:
    version = job.key_version
    if version is None or version.state != KeyState.DESTROY_SCHEDULED:
        raise Conflict("the version is still served: suspend or revoke it")
    if approvals.is_gated(policies, Action.RESTORE_KEY):
        raise TwoOperatorsNeeded(f"ask for it with `{jobs.restoring(version)}`")
    holding.restore(change, version.key.key_id, version.version)
