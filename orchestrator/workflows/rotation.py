"""Which keys get their next version: one owner's, all of a model, those of an age."""

import math
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import Final

from sqlalchemy import ColumnElement, exists, or_, select
from sqlalchemy.orm import aliased, contains_eager, joinedload

from core.duration import show_duration
from core.errors import (
    Conflict,
    InvalidInput,
    KeyMismatchError,
    KeymixerError,
    KeyRefusedError,
    NotAllowedError,
    NotGrantedError,
)
from orchestrator.federation import Policies
from orchestrator.registry import store
from orchestrator.registry.lifecycle import KeyState, PartyState
from orchestrator.registry.models import Grant, Job, Key, KeyVersion, Model, Party
from orchestrator.registry.store import Change
from orchestrator.workflows import ending, gate, jobs, keys
from orchestrator.workflows.jobs import Kind, Step

LONGEST_OVERLAP_S: Final = 30 * 24 * 3600.0
# More would hold up every answer while they are written; ask again for the rest.
MOST_AT_ONCE: Final = 1000
# So many names fit into one statement; of more, all there are are looked at.
_FEW: Final = 1000


@dataclass(frozen=True, slots=True)
class Wish:
    """Which keys are to be rotated, and how long old versions are served then."""

    model: str
    overlap_s: float
    # A SPIFFE ID; empty: every owner.
    owner: str = ""
    older_than_s: float = 0.0

    def __post_init__(self) -> None:
        if not (
            math.isfinite(self.overlap_s) and 0 <= self.overlap_s <= LONGEST_OVERLAP_S
        ):
            raise InvalidInput(f"overlap_s: expected 0 to {LONGEST_OVERLAP_S:g}")
        if not (math.isfinite(self.older_than_s) and self.older_than_s >= 0):
            raise InvalidInput("older_than_s: expected 0 or more")


@dataclass(frozen=True, slots=True)
class Candidate:
    """A key, its primary and newest version, and what hinders its rotation."""

    key: Key
    versions: Sequence[KeyVersion]
    hindrance: KeymixerError | None = None

    @property
    def primary(self) -> KeyVersion | None:
        """The version that new requests use."""
        return next((each for each in self.versions if each.is_primary), None)


@dataclass(frozen=True, slots=True)
class Rotation:
    """What happens, or would happen, to one key."""

    owner: str
    key_id: str
    from_version: int
    to_version: int
    job_id: int
    left_out: str
    age_ms: int
    images_used: int


def rotate(
    change: Change, policies: Policies, wish: Wish, *, dry_run: bool = False
) -> list[Rotation]:
    """Have the next versions of the keys that fit drawn, one rotation a key.

    Raises:
        KeyRefusedError, Conflict, NotGrantedError, KeyMismatchError,
        PublicEmbeddingRefused: one owner was named, and its key cannot be rotated; of
            many keys it is left out.
    """
    found = candidates(change, policies, wish)
    if wish.owner and not dry_run:
        _require(change, wish, found)
    chosen = [each for each in found if each.hindrance is None]
    opened = [] if dry_run else open_rotations(change, chosen, wish.overlap_s)
    by_subject = {job.subject: job.id for job in opened}
    return [_rotation(change, each, by_subject) for each in found]


def open_rotations(
    change: Change,
    chosen: Sequence[Candidate],
    overlap_s: float,
    *,
    parent_id: int | None = None,
    because: str = "",
) -> list[Job]:
    """Open a rotation for each of these keys; an earlier one's overlap goes on."""
    _hand_over(change, {jobs.key_subject(each.key) for each in chosen})
    wanted = [(each.key, keys.next_number(each.versions)) for each in chosen]
    return keys.add_versions(
        change,
        Kind.ROTATE,
        wanted,
        overlap_s=overlap_s,
        parent_id=parent_id,
        because=because,
    )


def candidates(change: Change, policies: Policies, wish: Wish) -> list[Candidate]:
    """The keys that a wish names, by key id, each with what hinders its rotation."""
    model = store.model_named(change.session, wish.model)
    if wish.owner:
        keys.data_owner(change, wish.owner)
    named = [Party.spiffe_id == wish.owner] if wish.owner else []
    found = _with_versions(change, model, *named)
    hinder = _hindrances(change, policies, model, wish, found)
    judged = [replace(each, hindrance=hinder(each)) for each in found]
    return _first(judged, MOST_AT_ONCE)


def free_among(
    change: Change, policies: Policies, model: Model, key_ids: AbstractSet[str]
) -> list[Candidate]:
    """Those of these keys that nothing hinders."""
    found = _with_versions(change, model, Key.key_id.in_(key_ids))
    wish = Wish(model.name, overlap_s=0.0)
    hinder = _hindrances(change, policies, model, wish, found)
    return [each for each in found if hinder(each) is None]


def _require(change: Change, wish: Wish, found: Sequence[Candidate]) -> None:
    """Say why one owner's key is not rotated; that it is too young is no error."""
    if not found:
        party = keys.data_owner(change, wish.owner)
        keys.require_grant(change, party, store.model_named(change.session, wish.model))
        raise KeyRefusedError("the owner has no key for this model")
    hindrance = found[0].hindrance
    if hindrance is not None and not isinstance(hindrance, _TooYoung):
        raise hindrance


def _with_versions(
    change: Change, model: Model, *conditions: ColumnElement[bool]
) -> list[Candidate]:
    query = (
        select(KeyVersion)
        .join(KeyVersion.key)
        .join(Key.owner)
        .where(Key.model_id == model.id, *conditions)
        # Of a key's many former versions none matters.
        .where(or_(KeyVersion.is_primary, ~_has_successor()))
        .options(
            contains_eager(KeyVersion.key).options(
                contains_eager(Key.owner), joinedload(Key.model)
            )
        )
        .order_by(Key.key_id, KeyVersion.version)
    )
    grouped: dict[int, list[KeyVersion]] = {}
    for version in change.session.scalars(query):
        grouped.setdefault(version.key_pk, []).append(version)
    return [Candidate(versions[0].key, versions) for versions in grouped.values()]


def _has_successor() -> ColumnElement[bool]:
    other = aliased(KeyVersion)
    return exists().where(
        other.key_pk == KeyVersion.key_pk, other.version > KeyVersion.version
    )


class _TooYoung(Conflict):
    """The key's primary version is younger than asked for."""


def _hindrances(
    change: Change,
    policies: Policies,
    model: Model,
    wish: Wish,
    found: Sequence[Candidate],
) -> Callable[[Candidate], KeymixerError | None]:
    """Says why a key cannot be rotated; what holds for all keys is looked up once."""
    granted = _granted(change, model, found)
    busy = _busy(change, found)
    fits = keys.block(change.session, model)
    refused = gate.refusal_of(change.session, policies, model.name)

    def judge(each: Candidate) -> KeymixerError | None:
        key, primary = each.key, each.primary
        if key.owner.state != PartyState.ACTIVE:
            return NotAllowedError("the owner was revoked")
        if key.owner_party_id not in granted:
            return NotGrantedError("the owner may not use this model")
        if (job_id := busy.get(jobs.key_subject(key))) is not None:
            return Conflict(f"its next version is on its way: job {job_id}")
        if primary is None or primary.state != KeyState.ACTIVE:
            held = primary is not None
            return KeyRefusedError("it is suspended" if held else "none is in use")
        if fits != (key.patch_size, key.channels):
            return KeyMismatchError("the model's patches are no longer its blocks")
        return refused or _age(change, primary, wish)

    return judge


def _granted(
    change: Change, model: Model, found: Sequence[Candidate]
) -> AbstractSet[int]:
    """The owners that may use the model, by their rows' ids."""
    query = select(Grant.owner_party_id).where(
        Grant.model_id == model.id, Grant.revoked_at_ms.is_(None)
    )
    if len(found) <= _FEW:
        owners = [each.key.owner_party_id for each in found]
        query = query.where(Grant.owner_party_id.in_(owners))
    return set(change.session.scalars(query))


def _busy(change: Change, found: Sequence[Candidate]) -> Mapping[str, int]:
    """The open jobs that bring a key its next version, by subject."""
    query = select(Job.subject, Job.id).where(
        Job.state.in_(jobs.OPEN),
        Job.kind.in_((Kind.CREATE, Kind.ROTATE)),
        Job.step != Step.OVERLAP,
    )
    if len(found) <= _FEW:
        subjects = [jobs.key_subject(each.key) for each in found]
        query = query.where(Job.subject.in_(subjects))
    return dict(change.session.execute(query).all())


def _hand_over(change: Change, subjects: AbstractSet[str]) -> None:
    """Have jobs of their own wait for what earlier rotations of these keys wait for."""
    waiting = (Job.subject.in_(subjects), Job.step == Step.OVERLAP)
    for job in jobs.open_jobs(change.session, *waiting):
        ending.hand_over(change, job)
    change.session.flush()


def _age(change: Change, primary: KeyVersion, wish: Wish) -> _TooYoung | None:
    age_s = (change.now_ms - primary.created_at_ms) / 1000
    if age_s >= wish.older_than_s:
        return None
    return _TooYoung(
        f"it is {show_duration(age_s)} old, not {show_duration(wish.older_than_s)}"
    )


def _first(judged: Sequence[Candidate], most: int) -> list[Candidate]:
    """Leave out, with a reason, what is too much for one transaction."""
    room, kept = most, []
    for each in judged:
        if each.hindrance is None and room == 0:
            more = Conflict(f"at most {most} keys at once: ask again for the rest")
            kept.append(replace(each, hindrance=more))
            continue
        room -= each.hindrance is None
        kept.append(each)
    return kept


def _rotation(
    change: Change, each: Candidate, by_subject: Mapping[str, int]
) -> Rotation:
    primary = each.primary
    return Rotation(
        owner=each.key.owner.spiffe_id,
        key_id=each.key.key_id,
        from_version=primary.version if primary else 0,
        to_version=0 if each.hindrance else keys.next_number(each.versions),
        job_id=0 if each.hindrance else by_subject.get(jobs.key_subject(each.key), 0),
        left_out=str(each.hindrance or ""),
        age_ms=change.now_ms - primary.created_at_ms if primary else 0,
        images_used=primary.images_used if primary else 0,
    )
