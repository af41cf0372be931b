"""What an operator may set in motion: grant, create, revoke, destroy; and confirm.

Each of these alters rows and opens the job that does the rest, in one transaction.
"""

from collections.abc import Sequence
from dataclasses import replace

from sqlalchemy import select
from sqlalchemy.orm import Session

from core.errors import (
    Conflict,
    InvalidInput,
    KeyMismatchError,
    KeyRefusedError,
    NotAllowedError,
    NotFound,
    NotGrantedError,
)
from core.manifest import Manifest
from core.rpc.identity import DATA_OWNER, SpiffeId
from orchestrator.audit.notes import check_reason
from orchestrator.federation import Policies
from orchestrator.registry import store
from orchestrator.registry.budgets import UNLIMITED, Budget, set_budget
from orchestrator.registry.lifecycle import TRANSITIONS, KeyAction, KeyState, next_state
from orchestrator.registry.models import Grant, Job, Key, KeyVersion, Model, Party
from orchestrator.registry.store import Change
from orchestrator.workflows import ending, gate, jobs
from orchestrator.workflows.jobs import Kind, Step

LONGEST_KEY_ID = 64

_ENDED = frozenset({KeyState.DESTROY_SCHEDULED, KeyState.DESTROYED})
_STILL_WAITS = frozenset({Step.REMOVE, Step.WINDOW})


def grant(change: Change, owner: str, model: str, budget: Budget = UNLIMITED) -> None:
    """Allow an owner to use a model; allowed already is no change.

    The budget is for a grant that is new: one that was taken back keeps its own, so
    that to be granted again is no way around it.
    """
    party = data_owner(change, owner)
    row = store.model_named(change.session, model)
    known = find_grant(change, party, row)
    if known is not None and known.revoked_at_ms is None:
        return
    if known is None:
        known = Grant(owner=party, model=row, created_at_ms=change.now_ms)
        change.session.add(known)
        change.session.flush()
    else:
        budget = Budget.of(known)
    known.created_at_ms, known.revoked_at_ms = change.now_ms, None
    change.record("model.granted", {"owner": owner, "model": model}, [owner])
    set_budget(change, known, budget)


def create(change: Change, policies: Policies, owner: str, model: str) -> Job:
    """Have a key drawn for an owner that has none, or whose versions have all ended.

    Raises:
        NotGrantedError: the owner may not use the model.
        NotIssuable: the policies let nothing be issued for it.
        Conflict: the owner has a key for it, or the model has no version yet.
    """
    party = data_owner(change, owner)
    row = store.model_named(change.session, model)
    require_grant(change, party, row)
    key = store.key_of(change.session, owner, model) or _new_key(change, party, row)
    versions = store.versions_of(change.session, key)
    if any(version.state not in _ENDED for version in versions):
        raise Conflict("the owner has a key for this model: rotate or revoke it")
    require_fit(change, key)
    gate.require_issuable(change.session, policies, model)
    (job,) = add_versions(change, Kind.CREATE, [(key, next_number(versions))])
    return job


def revoke(
    change: Change, policies: Policies, owner: str, model: str, reason: str
) -> tuple[str, list[int]]:
    """End every version of a key at once; return its id and the versions that ended.

    Raises:
        InvalidInput: the reason is blank or long.
        NotFound: the owner never had a key for this model.
    """
    check_reason(reason)
    key = key_named(change, owner, model)
    ended = [
        version
        for version in store.versions_of(change.session, key)
        if (version.state, KeyAction.REVOKE) in TRANSITIONS
    ]
    for version in ended:
        ending.revoke(change, policies, version, reason)
    return key.key_id, [version.version for version in ended]


def revoke_party(
    change: Change, policies: Policies, spiffe_id: str, reason: str
) -> list[str]:
    """Expel a party and end its keys; return the ids of the keys that ended."""
    check_reason(reason)
    party = store.revoke_party(change, spiffe_id, reason)
    keys = change.session.scalars(select(Key).where(Key.owner_party_id == party.id))
    ended = [
        revoke(change, policies, spiffe_id, key.model.name, reason)
        for key in keys.all()
    ]
    return [key_id for key_id, versions in ended if versions]


def confirm(change: Change, key_id: str, version: int) -> None:
    """Note that the owner proved possession, and have its job go on.

    Confirmed already is no change.

    Raises:
        KeyRefusedError: the version was revoked, or is not drawn yet.
    """
    row = store.key_version(change.session, key_id, version)
    if row.confirmed:
        return
    if row.state != KeyState.PRE_ACTIVE or row.commitment is None:
        raise KeyRefusedError(f"a key version that is {row.state} is not confirmed")
    row.confirmed = True
    row.changed_at_ms = change.now_ms
    job = jobs.open_on(change.session, jobs.key_subject(row.key))
    about = {} if job is None else {"job": job.id}
    store.record_key(replace(change, about=about), row, "key.confirmed")
    if job is not None and job.step == Step.CONFIRM:
        jobs.advance(change, job, Step.PREPARE)


def destroy_now(change: Change, key_id: str, version: int) -> Job:
    """End the destroy window of a key version that waits in it.

    Raises:
        KeyRefusedError: the version does not wait to be destroyed.
    """
    row = store.key_version(change.session, key_id, version)
    job = ending_job(change, row)
    row.destroy_at_ms = min(row.destroy_at_ms or change.now_ms, change.now_ms)
    row.changed_at_ms = change.now_ms
    about = {**change.about, "job": job.id}
    store.record_key(replace(change, about=about), row, "key.window_ended")
    if job.step == Step.WINDOW:
        jobs.wake(change, job)
    return job


def ending_job(change: Change, version: KeyVersion) -> Job:
    """The job that destroys a version, if it has not begun to.

    Raises:
        KeyRefusedError: the version does not wait to be destroyed.
    """
    job = jobs.open_on(change.session, jobs.version_subject(version))
    if version.state != KeyState.DESTROY_SCHEDULED or job is None:
        raise KeyRefusedError(f"a key version that is {version.state} does not wait")
    if job.step not in _STILL_WAITS:
        raise KeyRefusedError("its destruction has begun")
    return job


def find_grant(change: Change, owner: Party, model: Model) -> Grant | None:
    """The grant of a model to an owner, even one that was taken back."""
    query = select(Grant).where(
        Grant.owner_party_id == owner.id, Grant.model_id == model.id
    )
    return change.session.scalar(query)


def require_grant(change: Change, owner: Party, model: Model) -> None:
    """Refuse an owner who may not use the model."""
    found = find_grant(change, owner, model)
    if found is None or found.revoked_at_ms is not None:
        raise NotGrantedError("the owner may not use this model")


def require_fit(change: Change, key: Key) -> None:
    """Refuse a key whose blocks are not those of the model's champion."""
    if block(change.session, key.model) != (key.patch_size, key.channels):
        raise KeyMismatchError("the model's patches are no longer the key's blocks")


def block(session: Session, model: Model) -> tuple[int, int]:
    """Patch size and channels of the version that keys are issued for."""
    version = store.champion(session, model.id)
    if version is None:
        raise Conflict("the model has no version yet")
    shape = Manifest.from_bytes(version.manifest).architecture
    return shape.patch_size, shape.channels


def data_owner(change: Change, spiffe_id: str) -> Party:
    """The active data owner of that name, or `NotAllowedError`."""
    party = store.active_party(change.session, spiffe_id)
    if party.role != DATA_OWNER:
        raise NotAllowedError(f"a {party.role} has no keys: name a data owner")
    return party


def key_named(change: Change, owner: str, model: str) -> Key:
    """The key of an owner for a model, or `NotFound`."""
    key = store.key_of(change.session, owner, model)
    if key is None:
        raise NotFound("the owner has no key for this model")
    return key


def key_id(owner: SpiffeId, model: str) -> str:
    """The name of an owner's key for a model: `<organisation>.<model>`."""
    name = f"{owner.organisation}.{model}"
    if len(name) > LONGEST_KEY_ID:
        raise InvalidInput(
            f"organisation and model: at most {LONGEST_KEY_ID - 1} characters together"
        )
    return name


def next_number(versions: Sequence[KeyVersion]) -> int:
    """The number of a key's next version; none is ever used twice."""
    return max((each.version for each in versions), default=0) + 1


def add_versions(
    change: Change,
    kind: Kind,
    wanted: Sequence[tuple[Key, int]],
    *,
    overlap_s: float = 0.0,
    parent_id: int | None = None,
    because: str = "",
) -> list[Job]:
    """Have new versions of keys drawn, each by a job of its own.

    Args:
        change: The transaction.
        kind: `create` or `rotate`.
        wanted: Keys, and the number of the version each gets.
        overlap_s: How long what each replaces is still served, in seconds.
        parent_id: The job that asks for them.
        because: What in the policy asks for them; empty: an operator does.
    """
    made = [
        _open(change, kind, each, overlap_s=overlap_s, parent_id=parent_id)
        for each in wanted
    ]
    # One flush, so that the rows travel together; then their ids are known.
    change.session.flush()
    said = {"overlap_s": overlap_s} | ({"because": because} if because else {})
    for version, job in made:
        about = {**change.about, "job": job.id}
        store.record_key(replace(change, about=about), version, "key.created", **said)
    return [job for _, job in made]


def _open(
    change: Change,
    kind: Kind,
    wanted: tuple[Key, int],
    *,
    overlap_s: float,
    parent_id: int | None,
) -> tuple[KeyVersion, Job]:
    key, number = wanted
    version = KeyVersion(
        key=key,
        version=number,
        state=next_state(None, KeyAction.CREATE),
        overlap_s=overlap_s,
        created_at_ms=change.now_ms,
        changed_at_ms=change.now_ms,
    )
    change.session.add(version)
    subject = jobs.key_subject(key)
    job = jobs.new(
        change, kind, subject, Step.DRAW, version=version, parent_id=parent_id
    )
    return version, job


def _new_key(change: Change, owner: Party, model: Model) -> Key:
    patch_size, channels = block(change.session, model)
    key = Key(
        key_id=key_id(SpiffeId.parse(owner.spiffe_id), model.name),
        owner=owner,
        model=model,
        patch_size=patch_size,
        channels=channels,
    )
    change.session.add(key)
    change.session.flush()
    return key
