"""How a key version goes out of use: overlap, remove, window, destroy.

Steps of `destroy` and `revoke` jobs, each about one key version:

* overlap: waits until a `retiring` version has had its time; then it is refused, and
  `destroy_scheduled`. The last step of a `rotate` job does the same.
* remove: each of its issued models is deleted at the inference server and is `gone`.
* window: waits until the destruction can no longer be taken back, and for the approval
  of two operators where the policy wants it.
* destroy: the key holder destroys the seed and signs a receipt; its digest is recorded.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import replace

from sqlalchemy.orm import Session

from core.errors import SignatureError
from core.rpc.identity import INFERENCE_SERVER, KEY_HOLDER
from core.statements import DESTRUCTION, DestructionReceipt, verify
from orchestrator.federation import Policies
from orchestrator.registry import store
from orchestrator.registry.lifecycle import IssuedState, KeyAction, KeyState
from orchestrator.registry.models import IssuedModel, Job, KeyVersion
from orchestrator.registry.store import Change
from orchestrator.workflows import approvals, issuing, jobs
from orchestrator.workflows.jobs import Kind, Step
from orchestrator.workflows.peers import IssueId, SignedReceipt
from orchestrator.workflows.work import Work

IN_OVERLAP = "the version before it is served until its overlap ends"
IN_WINDOW = "its destruction can still be taken back: `keymixer keys restore`"


def retire(change: Change, version: KeyVersion, overlap_s: float) -> None:
    """Serve a version only until its overlap ends; it is no longer the primary one."""
    version.is_primary = False
    version.retire_at_ms = change.now_ms + round(overlap_s * 1000)
    until = {"retire_at_ms": version.retire_at_ms}
    store.move(change, version, KeyAction.RETIRE, "key.retiring", **until)
    # What is on its way to the server still comes: the version is served meanwhile.
    issuing.retire(change, version, [IssuedState.LIVE])


def revoke(
    change: Change,
    policies: Policies,
    version: KeyVersion,
    reason: str,
    *,
    kind: Kind = Kind.REVOKE,
) -> Job:
    """End a version at once: it is refused from now on, and then deleted.

    Whatever was under way for it is given up in the same transaction.
    """
    abort_jobs(change, version, "the key version was revoked")
    job = open_ending(change, version, kind, Step.REMOVE)
    change.session.flush()
    told = replace(change, about={**change.about, "job": job.id})
    version.is_primary, version.reason = False, reason
    version.destroy_at_ms = _end_of_window(change, policies)
    store.move(told, version, KeyAction.REVOKE, "key.revoked", reason=reason)
    issuing.retire(told, version)
    return job


def abort_jobs(change: Change, version: KeyVersion, why: str) -> None:
    """Give up every job about a version."""
    for job in jobs.open_jobs(change.session, Job.key_version_id == version.id):
        jobs.abort(change, job, why)
    # The subject is free before another job takes it.
    change.session.flush()


def open_ending(change: Change, version: KeyVersion, kind: Kind, step: Step) -> Job:
    """Open the job that ends one version."""
    subject = jobs.version_subject(version)
    return jobs.new(change, kind, subject, step, version=version)


def await_overlap(
    change: Change, policies: Policies, job: Job, version: KeyVersion
) -> None:
    """Expire what has had its time, and wait for the rest of the key's versions."""
    retiring = [
        each
        for each in store.versions_of(change.session, version.key)
        if each.state == KeyState.RETIRING
    ]
    left = [each.retire_at_ms or 0 for each in retiring if not _is_over(change, each)]
    for each in retiring:
        if _is_over(change, each):
            _expire(change, policies, each)
    if left:
        jobs.wait(change, job, IN_OVERLAP, at_ms=min(left), step=Step.OVERLAP)
    elif job.kind == Kind.ROTATE:
        jobs.finish(change, job)


def hand_over(change: Change, job: Job) -> None:
    """End a rotation that waits for an overlap; each version waits by itself now."""
    if job.key_version is None or job.kind != Kind.ROTATE:
        return
    for version in store.versions_of(change.session, job.key_version.key):
        if version.state == KeyState.RETIRING:
            await_own_overlap(change, version)
    jobs.finish(change, job)


def await_own_overlap(change: Change, version: KeyVersion) -> None:
    """See that a retiring version ends, when no rotation waits for it."""
    if jobs.open_on(change.session, jobs.version_subject(version)) is None:
        job = open_ending(change, version, Kind.DESTROY, Step.OVERLAP)
        jobs.wait(change, job, IN_OVERLAP, at_ms=version.retire_at_ms)


def overlap(work: Work) -> None:
    """Wait until the overlap has ended; from then on the former version is refused."""
    with work.commit() as (change, job):
        version = work.version(change.session)
        if job.kind == Kind.ROTATE:
            await_overlap(change, work.policies, job, version)
        elif version.state != KeyState.RETIRING:
            jobs.finish(change, job)
        elif not _is_over(change, version):
            jobs.wait(change, job, IN_OVERLAP, at_ms=version.retire_at_ms)
        else:
            _move_to_end(change, work.policies, version)
            jobs.advance(change, job, Step.REMOVE)


def remove(work: Work) -> None:
    """Delete what the inference server may hold of the version, one by one."""
    with work.reading() as session:
        left = _left(session, work.lease.key_version_id)
        issue = _issue_id(left[0]) if left else None
    if issue is not None:
        key = work.idempotency_key(INFERENCE_SERVER, issue.model_version)
        work.peers.inference_server.delete(issue, key)
    with work.commit() as (change, job):
        left = _left(change.session, work.lease.key_version_id)
        for issued in left:
            if issue == _issue_id(issued):
                issued.state = IssuedState.GONE
                issuing.record(change, issued, "issued.gone")
        if any(issued.state != IssuedState.GONE for issued in left):
            jobs.advance(change, job, Step.REMOVE)
        else:
            jobs.advance(change, job, Step.WINDOW)
            _pass_window(change, work.policies, job, work.version(change.session))


def window(work: Work) -> None:
    """Wait until the window is over and, if need be, two operators agree."""
    with work.commit() as (change, job):
        _pass_window(change, work.policies, job, work.version(change.session))


def destroy(work: Work) -> None:
    """Have the seed destroyed, and keep the digest of the receipt in the log."""
    with work.reading() as session:
        version = work.version(session)
        named = (version.key.key_id, version.version)
    key = work.idempotency_key(KEY_HOLDER)
    signed = work.peers.key_holder.destroy(*named, key)
    with work.commit() as (change, job):
        version = work.version(change.session)
        _check_receipt(change.session, version, signed, work.peers.key_holder_id)
        digest = hashlib.sha256(signed.receipt).hexdigest() if signed.receipt else ""
        said = {"receipt_sha256": digest}
        store.move(change, version, KeyAction.DESTROY, "key.destroyed", **said)
        jobs.finish(change, job)


def _expire(change: Change, policies: Policies, version: KeyVersion) -> None:
    """Refuse a version from now on, and see that it is ended."""
    job = jobs.open_on(change.session, jobs.version_subject(version))
    _move_to_end(change, policies, version)
    if job is None:
        open_ending(change, version, Kind.DESTROY, Step.REMOVE)
    else:
        jobs.advance(change, job, Step.REMOVE)


def _move_to_end(change: Change, policies: Policies, version: KeyVersion) -> None:
    about = (Job.key_version_id == version.id, Job.kind == Kind.ISSUE)
    for job in jobs.open_jobs(change.session, *about):
        jobs.abort(change, job, "the overlap of the key version has ended")
    version.destroy_at_ms = _end_of_window(change, policies)
    until = {"destroy_at_ms": version.destroy_at_ms}
    store.move(change, version, KeyAction.EXPIRE, "key.expired", **until)
    issuing.retire(change, version)


def _is_over(change: Change, version: KeyVersion) -> bool:
    return (version.retire_at_ms or 0) <= change.now_ms


def _end_of_window(change: Change, policies: Policies) -> int:
    return change.now_ms + round(policies.destroy_window_s * 1000)


def _pass_window(
    change: Change, policies: Policies, job: Job, version: KeyVersion
) -> None:
    at_ms = version.destroy_at_ms or 0
    if at_ms > change.now_ms:
        jobs.wait(change, job, IN_WINDOW, at_ms=at_ms)
    elif approvals.may_destroy(change, policies, job):
        jobs.advance(change, job, Step.DESTROY)


def _left(session: Session, key_version_id: int | None) -> Sequence[IssuedModel]:
    """What the inference server may still hold of a version, the oldest first."""
    states = [state for state in IssuedState if state != IssuedState.GONE]
    return issuing.of_version(session, key_version_id, states)


def _issue_id(issued: IssuedModel) -> IssueId:
    key, model_version = issued.key_version.key, issued.model_version
    number = issued.key_version.version
    return IssueId(key.key_id, number, key.model.name, model_version.version)


def _check_receipt(
    session: Session, version: KeyVersion, signed: SignedReceipt, signer: str
) -> None:
    """Return if the key holder says, and signed, that this very seed is gone.

    A version that was never drawn has no receipt.
    """
    if version.commitment is None and not signed.receipt:
        return
    key = store.active_party(session, signer).signing_key
    verify(key or b"", DESTRUCTION, signed.receipt, signed.signature)
    receipt = DestructionReceipt.from_bytes(signed.receipt)
    said = (receipt.key_id, receipt.key_version, receipt.commitment)
    drawn = (version.commitment or b"").hex() or receipt.commitment
    if said != (version.key.key_id, version.version, drawn):
        raise SignatureError("the receipt is about another key version")
