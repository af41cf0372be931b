"""Hold a key without ending it, and let it go on: suspend, resume, restore."""

from collections.abc import Sequence
from typing import Final

from sqlalchemy import select

from core.errors import Conflict, KeyRefusedError
from orchestrator.registry import store
from orchestrator.registry.lifecycle import (
    USABLE,
    IssuedState,
    JobState,
    KeyAction,
    KeyState,
)
from orchestrator.registry.models import IssuedModel, Job, Key, KeyVersion, ModelVersion
from orchestrator.registry.store import Change
from orchestrator.workflows import approvals, ending, issuing, jobs, keys, leases
from orchestrator.workflows.jobs import Kind, Step

_HELD_UP: Final = (Kind.ROTATE, Kind.ISSUE)


def suspend(
    change: Change, owner: str, model: str, reason: str
) -> tuple[str, list[int]]:
    """Refuse a key until it is resumed; return its id and the versions concerned.

    Raises:
        InvalidInput: the reason is blank or long.
        NotFound: the owner never had a key for this model.
    """
    keys.check_reason(reason)
    key = keys.key_named(change, owner, model)
    found = [v for v in store.versions_of(change.session, key) if v.state in USABLE]
    for version in found:
        version.reason, version.retire_at_ms = reason, None
        action = KeyAction.SUSPEND
        store.move(change, version, action, "key.suspended", reason=reason)
    return key.key_id, [version.version for version in found]


def resume(change: Change, owner: str, model: str) -> tuple[str, list[int]]:
    """Serve a suspended key again; return its id and the versions that are served.

    A version beside the primary one is served for another overlap only.

    Raises:
        NotAllowedError: the owner was revoked.
        Conflict: an embedding that was used with the key is exposed.
    """
    keys.data_owner(change, owner)
    key = keys.key_named(change, owner, model)
    versions = store.versions_of(change.session, key)
    held = [each for each in versions if each.state == KeyState.SUSPENDED]
    _require_unexposed(change, held)
    for version in held:
        version.reason = ""
        store.move(change, version, KeyAction.RESUME, "key.resumed")
    _keep_one_primary(change, versions, held)
    for version in held:
        issuing.ensure(change, version)
    _go_on(change, key)
    return key.key_id, [version.version for version in held]


def restore(change: Change, key_id: str, version: int) -> KeyVersion:
    """Take the destruction of a version back; it is suspended then.

    What the inference server held of it may be gone: it is issued again when the key is
    resumed.

    Raises:
        KeyRefusedError, Conflict: as `restorable` does.
    """
    job = restorable(change, key_id, version)
    row = store.key_version(change.session, key_id, version)
    jobs.abort(change, job, "the key version was restored")
    row.destroy_at_ms = row.retire_at_ms = None
    store.move(change, row, KeyAction.CANCEL, "key.restored")
    _expect_again(change, row)
    return row


def restorable(change: Change, key_id: str, version: int) -> Job:
    """The job that would destroy a version, if that can still be taken back.

    It can until the key holder is asked to: while the window is open, and afterwards
    for as long as operators must see to it, or have not agreed.

    Raises:
        KeyRefusedError: it does not wait to be destroyed, or its window is over.
        Conflict: something of it is being deleted at this moment.
    """
    row = store.key_version(change.session, key_id, version)
    job = keys.ending_job(change, row)
    is_over = (row.destroy_at_ms or 0) <= change.now_ms
    if is_over and not _waits_for_operators(change, job):
        raise KeyRefusedError("its destroy window is over")
    if leases.is_leased(job, change.now_ms):
        raise Conflict("it is being worked on at this moment: try again")
    return job


def _waits_for_operators(change: Change, job: Job) -> bool:
    if job.state == JobState.NEEDS_OPERATOR:
        return True
    asked = approvals.destruction_asked(change.session, job, change.now_ms)
    return job.state == JobState.WAITING and asked is not None


def _require_unexposed(change: Change, held: Sequence[KeyVersion]) -> None:
    exposed = (
        select(ModelVersion.version)
        .join(IssuedModel, IssuedModel.model_version_id == ModelVersion.id)
        .where(IssuedModel.key_version_id.in_([each.id for each in held]))
        .where(ModelVersion.exposed_at_ms.is_not(None))
    )
    number = change.session.scalar(exposed.limit(1))
    if number is not None:
        raise Conflict(
            f"the embedding of model version {number} is exposed: the recovery brings "
            "a new key version"
        )


def _keep_one_primary(
    change: Change, versions: Sequence[KeyVersion], resumed: Sequence[KeyVersion]
) -> None:
    if not resumed:
        return
    primary = next((each for each in versions if each.is_primary), None)
    if primary is None:
        primary = resumed[-1]
        primary.is_primary = True
    for version in resumed:
        if version is not primary:
            ending.retire(change, version, primary.overlap_s)
            _see_to_its_end(change, version)


def _see_to_its_end(change: Change, version: KeyVersion) -> None:
    rotation = jobs.open_on(change.session, jobs.key_subject(version.key))
    if rotation is None or rotation.step != Step.OVERLAP:
        ending.await_own_overlap(change, version)


def _go_on(change: Change, key: Key) -> None:
    """Wake what waited for the key to be resumed."""
    of_key = select(KeyVersion.id).where(KeyVersion.key_pk == key.id)
    waiting = (Job.key_version_id.in_(of_key), Job.kind.in_(_HELD_UP))
    for job in jobs.open_jobs(change.session, *waiting):
        if job.step in (Step.PREPARE, Step.SEND):
            jobs.wake(change, job)


def _expect_again(change: Change, version: KeyVersion) -> None:
    """Nobody knows what is still there: it counts once it has been sent again."""
    uncertain = [IssuedState.RETIRING]
    for issued in issuing.of_version(change.session, version.id, uncertain):
        issued.state = IssuedState.PENDING
        issuing.record(change, issued, "issued.pending")
