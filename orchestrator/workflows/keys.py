"""What an operator may set in motion: grant, create, rotate, revoke.

Each of these only alters rows. What follows from the rows (draw, issue, activate,
delete, destroy) is the reconciler's work, and may be interrupted at any point.
"""

import math
from collections.abc import Sequence

from sqlalchemy import select

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
from orchestrator.registry import store
from orchestrator.registry.lifecycle import TRANSITIONS, KeyAction, KeyState, next_state
from orchestrator.registry.models import Grant, Key, KeyVersion, Model, Party
from orchestrator.registry.store import Change
from orchestrator.workflows import steps

LONGEST_OVERLAP_S = 30 * 24 * 3600.0
LONGEST_REASON = 500
LONGEST_KEY_ID = 64

_ENDED = frozenset({KeyState.DESTROY_SCHEDULED, KeyState.DESTROYED})


def grant(change: Change, owner: str, model: str) -> None:
    """Allow an owner to use a model; allowed already is no change."""
    party = _owner(change, owner)
    row = store.model_named(change.session, model)
    known = find_grant(change, party, row)
    if known is not None and known.revoked_at_ms is None:
        return
    if known is None:
        known = Grant(owner=party, model=row)
        change.session.add(known)
    known.created_at_ms, known.revoked_at_ms = change.now_ms, None
    change.record("model.granted", {"owner": owner, "model": model}, [owner])


def create(change: Change, owner: str, model: str) -> KeyVersion:
    """Have a key drawn for an owner that has none, or whose versions have all ended.

    Raises:
        NotGrantedError: the owner may not use the model.
        Conflict: the owner has a key for it, or the model has no version yet.
    """
    party = _owner(change, owner)
    row = store.model_named(change.session, model)
    _require_grant(change, party, row)
    key = store.key_of(change.session, owner, model) or _new_key(change, party, row)
    versions = store.versions_of(change.session, key)
    if any(version.state not in _ENDED for version in versions):
        raise Conflict("the owner has a key for this model: rotate or revoke it")
    return _new_version(change, key, versions, overlap_s=0.0)


def rotate(change: Change, owner: str, model: str, overlap_s: float) -> KeyVersion:
    """Have the next version of a key drawn; the old one is served until it takes over.

    Args:
        change: The operator's transaction.
        owner: A data owner's SPIFFE ID.
        model: A model's name.
        overlap_s: How long the old version is served after that, in seconds.

    Raises:
        KeyRefusedError: there is no active version to replace.
        Conflict: the next version is on its way already.
    """
    if not (math.isfinite(overlap_s) and 0 <= overlap_s <= LONGEST_OVERLAP_S):
        raise InvalidInput(f"overlap_s: expected 0 to {LONGEST_OVERLAP_S:g} seconds")
    party = _owner(change, owner)
    _require_grant(change, party, store.model_named(change.session, model))
    key = store.key_of(change.session, owner, model)
    versions = store.versions_of(change.session, key) if key else []
    states = {version.state for version in versions}
    if KeyState.PRE_ACTIVE in states:
        raise Conflict("the next version is drawn already, but not yet active")
    primary = any(v.is_primary and v.state == KeyState.ACTIVE for v in versions)
    if key is None or not primary:
        raise KeyRefusedError("the owner has no active key for this model")
    return _new_version(change, key, versions, overlap_s=overlap_s)


def revoke(
    change: Change, owner: str, model: str, reason: str
) -> tuple[str, list[int]]:
    """End every version of a key at once; return its id and the versions that ended.

    Raises:
        InvalidInput: the reason is blank or long.
        NotFound: the owner never had a key for this model.
    """
    if not reason.strip() or len(reason) > LONGEST_REASON:
        raise InvalidInput(f"reason: expected 1 to {LONGEST_REASON} characters")
    key = store.key_of(change.session, owner, model)
    if key is None:
        raise NotFound("the owner has no key for this model")
    ended = [
        version
        for version in store.versions_of(change.session, key)
        if (version.state, KeyAction.REVOKE) in TRANSITIONS
    ]
    for version in ended:
        version.is_primary = False
        version.reason = reason
        store.move(change, version, KeyAction.REVOKE, "key.revoked", reason=reason)
        steps.retire_issued(change, version)
    return key.key_id, [version.version for version in ended]


def confirm(change: Change, key_id: str, version: int) -> None:
    """Note that the owner proved possession; confirmed already is no change.

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
    store.record_key(change, row, "key.confirmed")


def find_grant(change: Change, owner: Party, model: Model) -> Grant | None:
    """The grant of a model to an owner, even one that was taken back."""
    query = select(Grant).where(
        Grant.owner_party_id == owner.id, Grant.model_id == model.id
    )
    return change.session.scalar(query)


def _owner(change: Change, spiffe_id: str) -> Party:
    party = store.active_party(change.session, spiffe_id)
    if party.role != DATA_OWNER:
        raise NotAllowedError(f"a {party.role} has no keys: name a data owner")
    return party


def _require_grant(change: Change, owner: Party, model: Model) -> None:
    found = find_grant(change, owner, model)
    if found is None or found.revoked_at_ms is not None:
        raise NotGrantedError("the owner may not use this model")


def _new_key(change: Change, owner: Party, model: Model) -> Key:
    patch_size, channels = _block(change, model)
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


def key_id(owner: SpiffeId, model: str) -> str:
    """The name of an owner's key for a model: `<organisation>.<model>`."""
    name = f"{owner.organisation}.{model}"
    if len(name) > LONGEST_KEY_ID:
        raise InvalidInput(
            f"organisation and model: at most {LONGEST_KEY_ID - 1} characters together"
        )
    return name


def _new_version(
    change: Change, key: Key, former: Sequence[KeyVersion], *, overlap_s: float
) -> KeyVersion:
    if _block(change, key.model) != (key.patch_size, key.channels):
        raise KeyMismatchError("the model's patches are no longer the key's blocks")
    version = KeyVersion(
        key=key,
        version=max((each.version for each in former), default=0) + 1,
        state=next_state(None, KeyAction.CREATE),
        overlap_s=overlap_s,
        created_at_ms=change.now_ms,
        changed_at_ms=change.now_ms,
    )
    change.session.add(version)
    store.record_key(change, version, "key.created", overlap_s=overlap_s)
    return version


def _block(change: Change, model: Model) -> tuple[int, int]:
    """Patch size and channels of the version that keys are issued for."""
    version = store.champion(change.session, model.id)
    if version is None:
        raise Conflict("the model has no version yet")
    shape = Manifest.from_bytes(version.manifest).architecture
    return shape.patch_size, shape.channels
