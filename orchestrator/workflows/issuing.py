"""Which model version a key version should have, and what is written of it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from typing import Final

from sqlalchemy import ColumnElement, Select, String, and_, bindparam, cast, select
from sqlalchemy.orm import Session

from core.errors import KeymixerError, SignatureError
from core.manifest import Manifest
from core.statements import ISSUE, IssueStatement, verify
from orchestrator.audit.records import Fact
from orchestrator.registry import store
from orchestrator.registry.lifecycle import IssuedState, KeyState
from orchestrator.registry.models import (
    IssuedModel,
    Job,
    Key,
    KeyVersion,
    ModelAlias,
    ModelVersion,
)
from orchestrator.registry.store import Change
from orchestrator.workflows import exposure
from orchestrator.workflows.jobs import Kind, Step, arguments, new, open_on
from orchestrator.workflows.peers import IssueId, PreparedIssue

# What the inference server may hold, or be about to be sent.
_SERVED: Final = (IssuedState.LIVE, IssuedState.RETIRING)
_NO_ISSUE: Final = IssueId("", 0, "", 0)
EXPECTED: Final = (IssuedState.PENDING, IssuedState.LIVE)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a key version is issued next; if `why` is not empty, not yet."""

    issue: IssueId = _NO_ISSUE
    why: str = ""
    # The row of what is issued, as this transaction sees it.
    row: ModelVersion | None = field(default=None, compare=False, repr=False)


def to_prepare(session: Session, job: Job, version: KeyVersion) -> Plan:
    """What a job should have transformed: what it was opened for, or the champion."""
    number = arguments(job).get("model_version") if job.kind == Kind.ISSUE else None
    if number is None:
        wanted = target(session, version.key)
    else:
        wanted = store.model_version(session, version.key.model.name, number)
    if wanted is None:
        return Plan(why="no version of the model has the blocks of this key")
    return _plan(session, job, version, wanted)


def to_send(session: Session, job: Job, version: KeyVersion) -> Plan:
    """What a job has had prepared, and may send now."""
    number = arguments(job)["model_version"]
    wanted = store.model_version(session, version.key.model.name, number)
    return _plan(session, job, version, wanted)


def target(session: Session, key: Key) -> ModelVersion | None:
    """The version that a key is issued: the champion, if it has the key's blocks.

    Without a champion it is the newest version that has them.
    """
    versions = select(ModelVersion).where(ModelVersion.model_id == key.model_id)
    alias = session.get(ModelAlias, (key.model_id, store.CHAMPION))
    if alias is not None:
        versions = versions.where(ModelVersion.version == alias.version)
    ordered = versions.order_by(ModelVersion.version.desc())
    fitting = (row for row in session.scalars(ordered) if fits(row, key))
    return next(fitting, None)


def candidate(session: Session, key: Key) -> ModelVersion | None:
    """The version that is tried beside the champion, if it has the key's blocks."""
    alias = session.get(ModelAlias, (key.model_id, store.CANDIDATE))
    if alias is None:
        return None
    named = select(ModelVersion).where(
        ModelVersion.model_id == key.model_id, ModelVersion.version == alias.version
    )
    found = session.scalar(named)
    return found if found is not None and fits(found, key) else None


def fits(version: ModelVersion, key: Key) -> bool:
    """Are the model's patches the key's blocks?"""
    return blocks(version.manifest) == (key.patch_size, key.channels)


@lru_cache(maxsize=1024)
def blocks(manifest: bytes) -> tuple[int, int] | None:
    """The patch size and channels of a manifest; None if it cannot be read."""
    try:
        shape = Manifest.from_bytes(manifest).architecture
    except KeymixerError:
        return None
    return shape.patch_size, shape.channels


def record_prepared(
    change: Change,
    version: KeyVersion,
    plan: Plan,
    prepared: PreparedIssue,
    signer: str,
) -> None:
    """Expect this issued model, and no other; `plan` is this transaction's.

    Raises:
        SignatureError: `signer` did not sign it, or it speaks of something else.
    """
    statement = _checked(change.session, version, plan.issue, prepared, signer)
    wanted = planned(plan)
    issued = find(change.session, version, wanted)
    if issued is not None and issued.state == IssuedState.LIVE:
        return
    if issued is None:
        issued = IssuedModel(
            key_version=version, model_version=wanted, created_at_ms=change.now_ms
        )
        change.session.add(issued)
    issued.digest = bytes.fromhex(statement.digest)
    issued.statement, issued.signature = prepared.statement, prepared.signature
    issued.state = IssuedState.PENDING
    record(change, issued, "issued.prepared")


def record_live(change: Change, version: KeyVersion, plan: Plan) -> None:
    """The inference server has it: it may be used. Live already is no change."""
    issued = find(change.session, version, planned(plan))
    if issued is not None and issued.state == IssuedState.PENDING:
        issued.state = IssuedState.LIVE
        issued.live_index = record(change, issued, "issued.live")


def retire(
    change: Change, version: KeyVersion, states: Sequence[IssuedState] = EXPECTED
) -> None:
    """Expect no issued model in these states any more: a late one is not stored."""
    for issued in of_version(change.session, version.id, states):
        issued.state = IssuedState.RETIRING
        record(change, issued, "issued.retiring")


def ensure(change: Change, version: KeyVersion, plan: Plan | None = None) -> None:
    """Have a key version issued what it should have, unless it has it or soon will.

    `plan` is what it was issued just now.
    """
    key = version.key
    if exposure.is_burnt(change.session, version.id):
        return
    for wanted in (target(change.session, key), candidate(change.session, key)):
        if wanted is None or wanted.exposed_at_ms is not None:
            continue
        if plan is None or wanted is not plan.row:
            _ensure_issued(change, version, wanted)


def _ensure_issued(change: Change, version: KeyVersion, wanted: ModelVersion) -> None:
    issued = find(change.session, version, wanted)
    if issued is not None and issued.state in _SERVED:
        return
    if open_on(change.session, subject(version, wanted)) is None:
        open_issue(change, version, wanted)


def open_issue(
    change: Change,
    version: KeyVersion,
    model_version: ModelVersion,
    *,
    parent_id: int | None = None,
) -> Job:
    """Open the job that brings a model version to a key version in use."""
    return new(
        change,
        Kind.ISSUE,
        subject(version, model_version),
        Step.PREPARE,
        version=version,
        parent_id=parent_id,
        arguments={"model_version": model_version.version},
    )


def subject(version: KeyVersion, model_version: ModelVersion) -> str:
    """The subject of the job that issues a model version for a key version."""
    key = version.key
    return (
        f"issue:{key.key_id}/{version.version}/{key.model.name}/{model_version.version}"
    )


def brings(model_version: ModelVersion) -> ColumnElement[bool]:
    """Of jobs with their key versions and keys: does one issue this model version?"""
    key = "issue:" + Key.key_id + "/" + cast(KeyVersion.version, String)
    named = f"/{model_version.model.name}/{model_version.version}"
    return and_(Job.kind == Kind.ISSUE, Job.subject == key + named)


def find(
    session: Session, version: KeyVersion, model_version: ModelVersion
) -> IssuedModel | None:
    """One issued model, with all that its records name."""
    named = {"key_version": version.id, "model_version": model_version.id}
    return session.scalar(_one(), named)


def of_version(
    session: Session, key_version_id: int | None, states: Sequence[IssuedState]
) -> Sequence[IssuedModel]:
    """The issued models of a key version that are in these states, oldest first."""
    asked = {"key_version": key_version_id, "states": list(states)}
    return session.scalars(_some(), asked).all()


def record(change: Change, issued: IssuedModel, kind: str) -> int:
    """Record something about an issued model; the key's owner may read it."""
    facts: dict[str, Fact] = {
        "model_version": issued.model_version.version,
        "model_digest": issued.model_version.manifest_digest.hex(),
        "digest": issued.digest.hex(),
        "issued_state": str(issued.state),
        **store.embedding_facts(issued.model_version),
    }
    return store.record_key(change, issued.key_version, kind, **facts)


@cache
def _one() -> Select[IssuedModel]:
    """Built once: building it takes longer than running it, and every job asks."""
    return store.select_issued_models().where(
        IssuedModel.key_version_id == bindparam("key_version"),
        IssuedModel.model_version_id == bindparam("model_version"),
    )


@cache
def _some() -> Select[IssuedModel]:
    return (
        store.select_issued_models()
        .where(
            IssuedModel.key_version_id == bindparam("key_version"),
            IssuedModel.state.in_(bindparam("states", expanding=True)),
        )
        .order_by(IssuedModel.id)
    )


def planned(plan: Plan) -> ModelVersion:
    """The model version of a plan that names one."""
    if plan.row is None:
        raise LookupError("a plan without a hindrance names a model version")
    return plan.row


def _plan(
    session: Session, job: Job, version: KeyVersion, wanted: ModelVersion
) -> Plan:
    model, key = version.key.model.name, version.key.key_id
    issue = IssueId(key, version.version, model, wanted.version)
    return Plan(issue, _hindrance(session, job, version, wanted), wanted)


def _hindrance(
    session: Session, job: Job, version: KeyVersion, wanted: ModelVersion
) -> str:
    """Why nothing may be issued now; empty if it may."""
    if not fits(wanted, version.key):
        return f"version {wanted.version} of the model has other patches than the key"
    if wanted.exposed_at_ms is not None:
        return (
            f"the embedding of version {wanted.version} must be presumed known: "
            "a release from a fresh start must become the champion"
        )
    if exposure.is_burnt(session, version.id):
        return exposure.BURNT
    if version.state == KeyState.SUSPENDED:
        return "the key is suspended: `keymixer keys resume` lets it go on"
    if job.step == Step.SEND and job.kind == Kind.ROTATE:
        return _held(session, job, version)
    return ""


def _held(session: Session, job: Job, version: KeyVersion) -> str:
    """A suspended key gets no successor by the back door; a recovery may."""
    if job.parent is not None and job.parent.kind == Kind.RECOVER:
        return ""
    query = select(KeyVersion.id).where(
        KeyVersion.key_pk == version.key_pk,
        KeyVersion.is_primary,
        KeyVersion.state == KeyState.SUSPENDED,
    )
    if session.scalar(query) is None:
        return ""
    return "the key is suspended: `keymixer keys resume` lets it go on"


def _checked(
    session: Session,
    row: KeyVersion,
    issue: IssueId,
    prepared: PreparedIssue,
    signer: str,
) -> IssueStatement:
    """The statement, if the key holder signed it and it is about this issue."""
    key = store.active_party(session, signer).signing_key
    verify(key or b"", ISSUE, prepared.statement, prepared.signature)
    statement = IssueStatement.from_bytes(prepared.statement)
    expected = (
        *(issue.key_id, issue.key_version, issue.model, issue.model_version),
        *(row.key.owner.spiffe_id, row.key.patch_size, row.key.channels),
    )
    said = (
        *(statement.key_id, statement.key_version),
        *(statement.model, statement.model_version),
        *(statement.owner, statement.patch_size, statement.channels),
    )
    if said != expected:
        raise SignatureError("the signed statement is about another issued model")
    return statement
