"""A key has leaked: what is held at once, and the way back; steps of `recover` jobs.

Whoever holds one owner's key and an issued embedding can compute the plain embedding
and from it every other owner's key for that model version (`docs/threat-model.md`). So
the versions of the key are refused at once, and every model version that was ever
issued is presumed known: see `orchestrator.workflows.exposure`.

* await_release: waits until a version that was registered since then, from a fresh
  start and with another embedding, is the champion.
* rekey: every owner of the model gets a new key version, by a `rotate` job of its own.
  When that version becomes active, the suspended and compromised ones are revoked.
* children: waits until those have ended, and begins again if a key is still to be
  replaced: its job was given up, or a former version was restored.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from sqlalchemy import ColumnElement, and_, exists, or_, select
from sqlalchemy.orm import Session, aliased

from orchestrator.audit.notes import check_reason
from orchestrator.federation import Policies
from orchestrator.registry import store
from orchestrator.registry.lifecycle import (
    TRANSITIONS,
    USABLE,
    KeyAction,
    KeyState,
    PartyState,
)
from orchestrator.registry.models import (
    Grant,
    Job,
    Key,
    KeyVersion,
    Model,
    ModelVersion,
    Party,
)
from orchestrator.registry.store import Change
from orchestrator.workflows import ending, exposure, jobs, keys, rotation
from orchestrator.workflows.jobs import Kind, Step
from orchestrator.workflows.release import AT_ONCE, await_children
from orchestrator.workflows.rotation import Candidate
from orchestrator.workflows.work import Work

# What is, or would be, used with an embedding that must be presumed known.
_BURNS: Final = (KeyState.PRE_ACTIVE, KeyState.ACTIVE, KeyState.SUSPENDED)
# What an operator must see to, in order.
_NEEDED: Final = (
    (
        "The plain embedding of {model} version {versions} must be presumed known, and"
        " with it every key it was used with: what was sent under them can be read."
    ),
    "Find out how the key of {owner} became known, and close that way.",
    (
        "Have the provider train {model} again from a fresh secret start (no parent,"
        " another seed), release it, and hand over embedding and backbone."
    ),
    "Make that version the champion: `keymixer models alias {model} champion N`.",
    (
        "Every owner then gets a new key version, and is served again once it has"
        " confirmed it; the former ones are destroyed."
    ),
    "Watch it: `keymixer jobs show {job}`.",
)
_NEEDED_FOR_THE_KEY_ALONE: Final = (
    (
        "End the key of {owner} with `keymixer keys revoke`. Nothing was ever issued"
        " under it, so {model} is not exposed."
    ),
    "Give the owner another one with `keymixer keys create`.",
)


@dataclass(frozen=True, slots=True)
class Compromise:
    """What was done at once, and what an operator must see to now."""

    key_id: str
    versions: list[int]
    # The other owners' key ids that were suspended by policy.
    suspended: list[str]
    # None: nothing was ever issued under the key, so that it alone is lost.
    recovery: Job | None
    needed: list[str]


def report(
    change: Change, policies: Policies, owner: str, model: str, reason: str
) -> Compromise:
    """Note that an owner's key is known to somebody else, and hold what it exposes.

    Raises:
        InvalidInput: the reason is blank or long.
        NotFound: the owner never had a key for this model.
    """
    check_reason(reason)
    key = keys.key_named(change, owner, model)
    if key.held_for == reason:
        # It was held only until a second operator would agree to this report.
        key.held_for = None
    versions = _compromise(change, key, reason)
    exposed = exposure.expose(change, key, reason)
    suspended: list[str] = []
    if exposed and policies.compromise.suspend == "model":
        suspended = _suspend_others(change, key)
    job = _open(change, key.model) if exposed else None
    needed = _needed(key, exposed, job)
    return Compromise(key.key_id, versions, suspended, job, needed)


def await_release(work: Work) -> None:
    """Go on once a clean version of the model is the champion."""
    with work.commit() as (change, job):
        model = _model(change.session, job)
        champion = store.champion(change.session, model.id)
        why = _unclean(change.session, model, champion)
        if why:
            jobs.wait(change, job, why)
        else:
            jobs.advance(change, job, Step.REKEY)


def rekey(work: Work) -> None:
    """Have a new version of every key drawn that must be replaced, some at a time."""
    with work.commit() as (change, job):
        model = _model(change.session, job)
        champion = store.champion(change.session, model.id)
        if _unclean(change.session, model, champion):
            jobs.advance(change, job, Step.AWAIT_RELEASE)
            return
        _adopt(change, job, model)
        found = _to_rekey(change.session, job, model)
        chosen = found[:AT_ONCE]
        for each in chosen:
            _end_burnt(change, work.policies, each)
        rotation.open_rotations(change, chosen, 0.0, parent_id=job.id)
        if len(found) > AT_ONCE:
            jobs.advance(change, job, Step.REKEY)
        else:
            await_children(change, job)


def children(work: Work) -> None:
    """Be done once no key is left to be replaced and nothing is under way."""
    with work.commit() as (change, job):
        model = _model(change.session, job)
        if jobs.has_open_child(change.session, job.id):
            await_children(change, job)
        elif _to_rekey(change.session, job, model):
            jobs.advance(change, job, Step.REKEY)
        else:
            jobs.finish(change, job)


def _compromise(change: Change, key: Key, reason: str) -> list[int]:
    """Refuse every version from now on, and give up what is under way for it."""
    found = [
        version
        for version in store.versions_of(change.session, key)
        if (version.state, KeyAction.COMPROMISE) in TRANSITIONS
    ]
    for version in found:
        ending.abort_jobs(change, version, "the key was compromised")
        version.is_primary, version.reason = False, reason
        action = KeyAction.COMPROMISE
        store.move(change, version, action, "key.compromised", reason=reason)
    return [version.version for version in found]


def _suspend_others(change: Change, key: Key) -> list[str]:
    query = (
        store.select_key_versions()
        .where(Key.model_id == key.model_id, KeyVersion.key_pk != key.id)
        .where(KeyVersion.state.in_(USABLE))
        .order_by(Key.key_id, KeyVersion.version)
    )
    reason = f"the embedding of {key.model.name} is exposed"
    found: dict[str, None] = {}
    for version in change.session.scalars(query).all():
        version.reason = reason
        action = KeyAction.SUSPEND
        store.move(change, version, action, "key.suspended", reason=reason)
        found[version.key.key_id] = None
    return list(found)


def _open(change: Change, model: Model) -> Job:
    """The recovery of this model; one that is under way begins again."""
    subject = f"recover:{model.name}"
    job = jobs.open_on(change.session, subject)
    if job is None:
        named = {"model": model.name}
        step = Step.AWAIT_RELEASE
        job = jobs.new(change, Kind.RECOVER, subject, step, arguments=named)
        change.session.flush()
    else:
        jobs.advance(change, job, Step.AWAIT_RELEASE)
    about = {**change.about, "job": job.id}
    facts = {"model": model.name}
    replace(change, about=about).record("model.recovery_started", facts)
    return job


def _needed(key: Key, exposed: Sequence[ModelVersion], job: Job | None) -> list[str]:
    texts = _NEEDED if job else _NEEDED_FOR_THE_KEY_ALONE
    names = {
        "owner": key.owner.spiffe_id,
        "model": key.model.name,
        "versions": ", ".join(str(version.version) for version in exposed),
        "job": job.id if job else 0,
    }
    return [text.format_map(names) for text in texts]


def _model(session: Session, job: Job) -> Model:
    return store.model_named(session, jobs.arguments(job)["model"])


def _unclean(session: Session, model: Model, champion: ModelVersion | None) -> str:
    """Why the champion ends no exposure; empty if it does."""
    if champion is None or champion.exposed_at_ms is not None:
        return "a release from a fresh secret start must become the champion"
    exposed = exposure.exposed_versions(session, model)
    number = champion.version
    if champion.public_embedding:
        return f"version {number}, the champion, has a public embedding"
    if any(champion.created_at_ms < (each.exposed_at_ms or 0) for each in exposed):
        return f"version {number}, the champion, was registered before the exposure"
    if champion.parent_id is not None:
        return f"version {number} was trained on from another: it needs a fresh start"
    return ""


def _adopt(change: Change, job: Job, model: Model) -> None:
    """What was under way for a key that must be replaced becomes part of the recovery.

    A key has one such job at a time: another cannot be opened beside it.
    """
    query = (
        select(Job)
        .join(Job.key_version)
        .join(KeyVersion.key)
        .where(Key.model_id == model.id, Job.kind.in_((Kind.CREATE, Kind.ROTATE)))
        .where(_must_be_replaced())
        .where(Job.state.in_(jobs.OPEN), Job.step != Step.OVERLAP)
        .where(Job.parent_id.is_(None))
    )
    for each in change.session.scalars(query).all():
        each.parent_id = job.id
        if each.key_version is not None:
            each.key_version.overlap_s = 0.0
        if each.step in (Step.PREPARE, Step.SEND):
            jobs.wake(change, each)
    change.session.flush()


def _to_rekey(session: Session, job: Job, model: Model) -> list[Candidate]:
    """Keys of granted owners that must be replaced and are not yet about to be.

    What is about to replace one, but has an exposed model version itself, does not.
    """
    granted = exists().where(
        Grant.owner_party_id == Key.owner_party_id,
        Grant.model_id == Key.model_id,
        Grant.revoked_at_ms.is_(None),
    )
    to_come = aliased(KeyVersion)
    under_way = exists().where(
        Job.parent_id == job.id,
        Job.state.in_(jobs.OPEN),
        Job.key_version_id == to_come.id,
        to_come.key_pk == Key.id,
        ~exposure.was_burnt(to_come),
    )
    query = (
        select(Key)
        .join(Key.owner)
        .where(Key.model_id == model.id, Party.state == PartyState.ACTIVE)
        .where(granted, _must_be_replaced(), ~under_way)
        .order_by(Key.key_id)
        .limit(AT_ONCE + 1)
    )
    return [
        Candidate(key, store.versions_of(session, key))
        for key in session.scalars(query)
    ]


def _must_be_replaced() -> ColumnElement[bool]:
    """Has the key a version that leaked, or one that had an exposed model version?

    One that is only held by an operator has not, and is resumed some day.
    """
    each = aliased(KeyVersion)
    burnt = and_(each.state.in_(_BURNS), exposure.was_burnt(each))
    leaked = each.state == KeyState.COMPROMISED
    return exists().where(each.key_pk == Key.id, or_(leaked, burnt))


def _end_burnt(change: Change, policies: Policies, each: Candidate) -> None:
    """End what was to come: its model was exposed before it came into use."""
    for version in each.versions:
        if version.state == KeyState.PRE_ACTIVE:
            reason = exposure.BURNT
            ending.revoke(change, policies, version, reason, kind=Kind.DESTROY)
    change.session.flush()
