"""Hold a key without ending it, and let it go on: suspend, resume, restore."""

from collections.abc import Sequence
from typing import Final

from sqlalchemy import select

from core.errors import Conflict, KeyRefusedError
from orchestrator.audit.notes import check_reason
from orchestrator.registry import store
from orchestrator.registry.lifecycle import (
    USABLE,
    IssuedState,
    JobState,
    KeyAction,
    KeyState,
)
from orchestrator.registry.models import Job, Key, KeyVersion
from orchestrator.registry.store import Change
from orchestrator.workflows import (
    approvals,
    ending,
    exposure,
    issuing,
    jobs,
    keys,
    leases,
)
from orchestrator.workflows.jobs import Kind, Step

_HELD_UP: Final = (Kind.ROTATE, Kind.ISSUE)


def suspend(
    change: Change, owner: str, model: str, reason: str
) -> tuple[str, list[int]]:
    """Refuse a key until it is resumed; return its id and the versions concerned.

    The versions to come are refused too, those of a recovery included. If none can be
    used now, that alone is noted. Who holds a key already holds it for the same reason
    as before.

    Raises:
        InvalidInput: the reason is blank or long.
        NotFound: the owner never had a key for this model.
    """
    check_reason(reason)
    key = keys.key_named(change, owner, model)
    versions = store.versions_of(change.session, key)
    found = [version for version in versions if version.state in USABLE]
    for version in found:
        refuse(change, version, reason)
    if not found and key.held_for != reason:
        _record(change, key, "key.held", reason=reason)
    key.held_for = key.held_for or reason
    return key.key_id, [version.version for version in found]


def refuse(change: Change, version: KeyVersion, reason: str) -> None:
    """Suspend one version that may be used."""
    version.reason, version.retire_at_ms = reason, None
    action = KeyAction.SUSPEND
    store.move(change, version, action, "key.suspended", reason=reason)


def resume(change: Change, owner: str, model: str) -> tuple[str, list[int]]:
    """Serve a suspended key again; return its id and the versions that are served.

    A version beside the primary one is served for another overlap only. One that was
    used with an exposed embedding stays suspended; its successor will not be.

    Raises:
        NotAllowedError: the owner was revoked.
        Conflict: no operator holds the key, but an embedding that was used with it is
            exposed.
    """
    keys.data_owner(change, owner)
    key = keys.key_named(change, owner, model)
    versions = store.versions_of(change.session, key)
    suspended = [each for each in versions if each.state == KeyState.SUSPENDED]
    burnt = exposure.is_burnt
    held = [each for each in suspended if not burnt(change.session, each.id)]
    if suspended and not held and key.held_for is None:
        raise Conflict(_why_not(change, key))
    if not held and key.held_for is not None:
        _record(change, key, "key.no_longer_held")
    key.held_for = None
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


def _why_not(change: Change, key: Key) -> str:
    """Why a key is not resumed, and how its owner is served again."""
    why = "it was used with an embedding that is exposed"
    recovery = jobs.open_on(change.session, f"recover:{key.model.name}")
    if recovery is not None:
        return f"{why}: the recovery, job {recovery.id}, brings a new key version"
    return f"{why}: `keymixer keys revoke` it, then `keymixer keys create` another"


def _record(change: Change, key: Key, kind: str, **more: str) -> None:
    """Record something about a key, none of whose versions it changes."""
    owner = key.owner.spiffe_id
    facts = {"owner": owner, "model": key.model.name, "key_id": key.key_id}
    change.record(kind, {**facts, **more}, [owner])


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
