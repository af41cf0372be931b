"""How a key version comes into use: draw, confirm, prepare, send; and its successors'.

Steps of `create`, `rotate` and `issue` jobs:

* draw: the key holder draws the seed; we note its public commitment.
* confirm: waits until the owner has proved possession; `keys.confirm` moves it on.
* prepare: the model is transformed for the key; an issued model is `pending`.
* send: the inference server gets it, and it becomes `live`. If the key version was
  `pre_active`, in the same transaction it becomes `active` and primary, and the former
  primary `retiring` until its overlap ends. While an operator holds the key it becomes
  `suspended` at once.
* overlap (`rotate` only): waits for that end; see `orchestrator.workflows.ending`.

Whoever revokes or compromises the key version meanwhile aborts the job in the same
transaction, so that no step here finds a version it must not touch.
"""

from sqlalchemy.orm import Session

from core.rpc.identity import KEY_HOLDER
from orchestrator.errors import NotIssuable
from orchestrator.federation import Policies
from orchestrator.registry import store
from orchestrator.registry.lifecycle import KeyAction, KeyState
from orchestrator.registry.models import Job, KeyVersion
from orchestrator.registry.store import Change
from orchestrator.workflows import ending, gate, holding, issuing, jobs, leases
from orchestrator.workflows.jobs import Kind, Step
from orchestrator.workflows.peers import KeyToDraw
from orchestrator.workflows.work import Work

AWAITS_OWNER = "the owner has not fetched and confirmed it yet"
_SUPERSEDED = frozenset({KeyState.SUSPENDED, KeyState.COMPROMISED})


def draw(work: Work) -> None:
    """Have the seed drawn, and note the public identity of what was drawn."""
    with work.reading() as session:
        key = _to_draw(work.version(session))
    drawn = work.peers.key_holder.draw(key, work.idempotency_key(KEY_HOLDER))
    with work.commit() as (change, job):
        version = work.version(change.session)
        version.generator, version.commitment = drawn.generator, drawn.commitment
        version.changed_at_ms = change.now_ms
        said = {"generator": drawn.generator, "commitment": drawn.commitment.hex()}
        store.record_key(change, version, "key.drawn", **said)
        jobs.wait(change, job, AWAITS_OWNER, step=Step.CONFIRM)


def confirm(work: Work) -> None:
    """Go on if the owner has confirmed; else wait."""
    with work.commit() as (change, job):
        if work.version(change.session).confirmed:
            jobs.advance(change, job, Step.PREPARE)
        else:
            jobs.wait(change, job, AWAITS_OWNER)


def prepare(work: Work) -> None:
    """Have the model transformed for the key version."""
    with work.reading() as session:
        job = leases.held(session, work.lease)
        version = work.version(session)
        plan = issuing.to_prepare(session, job, version)
        refused = _refused(session, work, plan, version)
    if refused is not None:
        _hold_back(work)
        return
    if not plan.why:
        key = work.idempotency_key(KEY_HOLDER, plan.issue.model_version)
        prepared = work.peers.key_holder.prepare(plan.issue, key)
    with work.commit() as (change, job):
        version = work.version(change.session)
        now = issuing.to_prepare(change.session, job, version)
        if now.why:
            jobs.wait(change, job, now.why)
        elif now != plan:
            jobs.advance(change, job, Step.PREPARE)
        else:
            signer = work.peers.key_holder_id
            issuing.record_prepared(change, version, now, prepared, signer)
            gate.warn(change, work.policies, version, issuing.planned(now))
            jobs.advance(change, job, Step.SEND)
            jobs.note(job, model_version=plan.issue.model_version)


def send(work: Work) -> None:
    """Have the prepared model sent, and put it and its key version to use."""
    with work.reading() as session:
        job = leases.held(session, work.lease)
        version = work.version(session)
        plan = issuing.to_send(session, job, version)
        refused = _refused(session, work, plan, version)
    if refused is not None:
        _hold_back(work)
        return
    if not plan.why:
        key = work.idempotency_key(KEY_HOLDER, plan.issue.model_version)
        work.peers.key_holder.send(plan.issue, key)
    with work.commit() as (change, job):
        version = work.version(change.session)
        now = issuing.to_send(change.session, job, version)
        if now.why:
            _wait_or_prepare_another(change, job, version, now.why)
        elif now != plan:
            jobs.advance(change, job, Step.SEND)
        else:
            _put_to_use(change, work.policies, job, version, now)


def _refused(
    session: Session, work: Work, plan: issuing.Plan, version: KeyVersion
) -> NotIssuable | None:
    """Why the planned model version must not be issued under the key version."""
    if plan.why or plan.row is None:
        return None
    return gate.refusal(session, work.policies, plan.row, version)


def _hold_back(work: Work) -> None:
    """Put off what must not be issued, unless another version may; nothing was done.

    All is looked up again: a release may have come meanwhile, and woken the job.
    """
    with work.commit() as (change, job):
        version = work.version(change.session)
        other = issuing.to_prepare(change.session, job, version)
        plan = (
            issuing.to_send(change.session, job, version)
            if job.step == Step.SEND
            else other
        )
        refused = _refused(change.session, work, plan, version)
        if refused is None:
            jobs.advance(change, job, Step(job.step))
        elif not other.why and not _refused(change.session, work, other, version):
            jobs.advance(change, job, Step.PREPARE)
        else:
            gate.hold(change, job, issuing.planned(plan), refused)


def _to_draw(version: KeyVersion) -> KeyToDraw:
    key = version.key
    return KeyToDraw(
        key_id=key.key_id,
        version=version.version,
        owner=key.owner.spiffe_id,
        model=key.model.name,
        patch_size=key.patch_size,
        channels=key.channels,
    )


def _wait_or_prepare_another(
    change: Change, job: Job, version: KeyVersion, why: str
) -> None:
    """What was prepared may not be sent now; perhaps another version may."""
    other = issuing.to_prepare(change.session, job, version)
    if not other.why and other.issue.model_version != _prepared(job):
        jobs.advance(change, job, Step.PREPARE)
    else:
        jobs.wait(change, job, why)


def _prepared(job: Job) -> int:
    number: int = jobs.arguments(job)["model_version"]
    return number


def _put_to_use(
    change: Change,
    policies: Policies,
    job: Job,
    version: KeyVersion,
    plan: issuing.Plan,
) -> None:
    issuing.record_live(change, version, plan)
    if version.state == KeyState.PRE_ACTIVE:
        _activate(change, policies, job, version)
        if version.key.held_for is not None:
            holding.refuse(change, version, version.key.held_for)
        else:
            # The champion may have moved since this was prepared.
            issuing.ensure(change, version, plan)
    if job.kind == Kind.ROTATE:
        ending.await_overlap(change, policies, job, version)
    else:
        jobs.finish(change, job)


def _activate(
    change: Change, policies: Policies, job: Job, version: KeyVersion
) -> None:
    """Make it the primary version; the former one is served until its overlap ends."""
    for former in store.versions_of(change.session, version.key):
        if former.is_primary and former.state == KeyState.ACTIVE:
            ending.retire(change, former, version.overlap_s)
            if job.kind != Kind.ROTATE:
                ending.await_own_overlap(change, former)
        elif former.state in _SUPERSEDED and _recovers(job):
            reason = "superseded in a recovery"
            ending.revoke(change, policies, former, reason, kind=Kind.DESTROY)
        else:
            # A held version that was restored stays held beside its successor.
            former.is_primary = False
    # One primary at any instant, also between two statements.
    change.session.flush()
    version.is_primary = True
    store.move(change, version, KeyAction.ACTIVATE, "key.activated")


def _recovers(job: Job) -> bool:
    return job.parent is not None and job.parent.kind == Kind.RECOVER
