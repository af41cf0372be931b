"""What each rule of the reconciler applies to, and what it writes afterwards.

Functions that take a `Session` find rows. Functions that take a `Change` run after the
remote call: they read the row again, and do nothing if it has moved on meanwhile.
"""

from functools import lru_cache
from typing import NamedTuple

from sqlalchemy import ColumnElement, Select, and_, exists, func, or_, select
from sqlalchemy.orm import Session, aliased

from core.errors import KeymixerError, SignatureError
from core.manifest import Manifest
from core.statements import ISSUE, IssueStatement, verify
from orchestrator.audit.records import Fact
from orchestrator.registry import store
from orchestrator.registry.lifecycle import IssuedState, KeyAction, KeyState
from orchestrator.registry.models import (
    IssuedModel,
    Key,
    KeyVersion,
    Model,
    ModelAlias,
    ModelVersion,
    Party,
)
from orchestrator.registry.store import Change
from orchestrator.workflows.peers import DrawnKey, IssueId, KeyToDraw, PreparedIssue

_SERVED = (KeyState.PRE_ACTIVE, KeyState.ACTIVE)


class KeyName(NamedTuple):
    """Names one key version."""

    key_id: str
    version: int


def keys_to_draw(session: Session) -> list[KeyToDraw]:
    """Rule 1: key versions that nobody has drawn yet."""
    query = (
        select(
            Key.key_id,
            KeyVersion.version,
            Party.spiffe_id,
            Model.name,
            Key.patch_size,
            Key.channels,
        )
        .select_from(KeyVersion)
        .join(KeyVersion.key)
        .join(Key.owner)
        .join(Key.model)
        .where(KeyVersion.state == KeyState.PRE_ACTIVE, KeyVersion.commitment.is_(None))
    )
    return [KeyToDraw(*row) for row in session.execute(query)]


def issues_to_prepare(session: Session) -> list[IssueId]:
    """Rule 2: key versions that have no issued model of the version they should.

    That is the champion, or without one the newest version with the key's blocks. A
    champion with other blocks waits for another key.
    """
    found: dict[KeyName, IssueId] = {}
    for row in session.execute(_candidates()):
        issue, blocks = IssueId(*row[:4]), row[4:6]
        if blocks == _blocks(row.manifest):
            found.setdefault(KeyName(issue.key_id, issue.key_version), issue)
    return list(found.values())


def issues_to_send(session: Session) -> list[IssueId]:
    """Rule 3: prepared models that the inference server may not have yet."""
    return _issues(
        session,
        IssuedModel.state == IssuedState.PENDING,
        KeyVersion.state.in_(_SERVED),
    )


def keys_to_expire(session: Session, now_ms: int) -> list[KeyName]:
    """Rule 4: key versions whose overlap has ended."""
    return _keys(
        session,
        KeyVersion.state == KeyState.RETIRING,
        KeyVersion.retire_at_ms <= now_ms,
    )


def issues_to_delete(session: Session) -> list[IssueId]:
    """Rule 5: what the inference server may still hold of ended key versions."""
    return _issues(
        session,
        IssuedModel.state != IssuedState.GONE,
        KeyVersion.state == KeyState.DESTROY_SCHEDULED,
    )


def keys_to_destroy(session: Session) -> list[KeyName]:
    """Rule 6: ended key versions of which no issued model is left."""
    left = exists().where(
        IssuedModel.key_version_id == KeyVersion.id,
        IssuedModel.state != IssuedState.GONE,
    )
    return _keys(session, KeyVersion.state == KeyState.DESTROY_SCHEDULED, ~left)


def record_drawn(change: Change, key: KeyToDraw, drawn: DrawnKey) -> None:
    """Rule 1, afterwards: note the public identity of what was drawn."""
    row = store.key_version(change.session, key.key_id, key.version)
    if row.state != KeyState.PRE_ACTIVE or row.commitment is not None:
        return
    row.generator, row.commitment = drawn.generator, drawn.commitment
    row.changed_at_ms = change.now_ms
    store.record_key(
        change,
        row,
        "key.drawn",
        generator=drawn.generator,
        commitment=drawn.commitment.hex(),
    )


def record_prepared(
    change: Change, issue: IssueId, prepared: PreparedIssue, signer: str
) -> None:
    """Rule 2, afterwards: expect this issued model, and no other.

    Raises:
        SignatureError: `signer` did not sign it, or it speaks of something else.
    """
    row = store.key_version(change.session, issue.key_id, issue.key_version)
    if row.state not in _SERVED or _find_issued(change.session, issue) is not None:
        return
    statement = _checked(change.session, row, issue, prepared, signer)
    issued = IssuedModel(
        key_version=row,
        model_version=store.model_version(
            change.session, issue.model, issue.model_version
        ),
        digest=bytes.fromhex(statement.digest),
        statement=prepared.statement,
        signature=prepared.signature,
        state=IssuedState.PENDING,
        created_at_ms=change.now_ms,
    )
    change.session.add(issued)
    _record_issued(change, issued, "issued.prepared")


def record_live(change: Change, issue: IssueId) -> None:
    """Rule 3, afterwards: the issued model may be used, and so may its key version."""
    issued = _find_issued(change.session, issue)
    if issued is None or issued.state != IssuedState.PENDING:
        return
    if issued.key_version.state not in _SERVED:
        return
    issued.state = IssuedState.LIVE
    _record_issued(change, issued, "issued.live")
    if issued.key_version.state == KeyState.PRE_ACTIVE:
        _activate(change, issued.key_version)


def record_expired(change: Change, key: KeyName) -> None:
    """Rule 4: from now on the version is refused."""
    row = store.key_version(change.session, key.key_id, key.version)
    ended = row.retire_at_ms is not None and row.retire_at_ms <= change.now_ms
    if row.state == KeyState.RETIRING and ended:
        store.move(change, row, KeyAction.EXPIRE, "key.expired")
        retire_issued(change, row)


def record_gone(change: Change, issue: IssueId) -> None:
    """Rule 5, afterwards: the inference server no longer holds it."""
    issued = _find_issued(change.session, issue)
    if issued is None or issued.state == IssuedState.GONE:
        return
    if issued.key_version.state == KeyState.DESTROY_SCHEDULED:
        issued.state = IssuedState.GONE
        _record_issued(change, issued, "issued.gone")


def record_destroyed(change: Change, key: KeyName) -> None:
    """Rule 6, afterwards: the seed is gone."""
    row = store.key_version(change.session, key.key_id, key.version)
    if row.state == KeyState.DESTROY_SCHEDULED:
        store.move(change, row, KeyAction.DESTROY, "key.destroyed")


def retire_issued(change: Change, version: KeyVersion) -> None:
    """Expect no issued model of a version any more: a late one is not stored."""
    query = store.select_issued_models().where(
        IssuedModel.key_version_id == version.id,
        IssuedModel.state.in_((IssuedState.PENDING, IssuedState.LIVE)),
    )
    for issued in change.session.scalars(query).all():
        issued.state = IssuedState.RETIRING
        _record_issued(change, issued, "issued.retiring")


def _activate(change: Change, version: KeyVersion) -> None:
    """Make it the primary version; the former one is served until its overlap ends."""
    for former in store.versions_of(change.session, version.key):
        if former.is_primary:
            _retire(change, former, version.overlap_s)
    # One primary at any instant, also between two statements.
    change.session.flush()
    version.is_primary = True
    store.move(change, version, KeyAction.ACTIVATE, "key.activated")


def _retire(change: Change, former: KeyVersion, overlap_s: float) -> None:
    former.is_primary = False
    if former.state != KeyState.ACTIVE:
        return
    former.retire_at_ms = change.now_ms + round(overlap_s * 1000)
    store.move(
        change,
        former,
        KeyAction.RETIRE,
        "key.retiring",
        retire_at_ms=former.retire_at_ms,
    )
    retire_issued(change, former)


def _keys(session: Session, *conditions: ColumnElement[bool]) -> list[KeyName]:
    query = select(Key.key_id, KeyVersion.version).join(KeyVersion.key)
    return [KeyName(*row) for row in session.execute(query.where(*conditions))]


def _issues(session: Session, *conditions: ColumnElement[bool]) -> list[IssueId]:
    query = (
        select(Key.key_id, KeyVersion.version, Model.name, ModelVersion.version)
        .select_from(IssuedModel)
        .join(IssuedModel.key_version)
        .join(KeyVersion.key)
        .join(Key.model)
        .join(IssuedModel.model_version)
        .where(*conditions)
        .order_by(IssuedModel.id)
    )
    return [IssueId(*row) for row in session.execute(query)]


def _candidates() -> Select[str, int, str, int, int, int, bytes]:
    """What could be issued for each key version, the newest model version first."""
    issued = and_(
        IssuedModel.key_version_id == KeyVersion.id,
        IssuedModel.model_version_id == ModelVersion.id,
    )
    return (
        select(
            Key.key_id,
            KeyVersion.version,
            Model.name,
            ModelVersion.version,
            Key.patch_size,
            Key.channels,
            ModelVersion.manifest,
        )
        .select_from(KeyVersion)
        .join(KeyVersion.key)
        .join(Key.model)
        .join(ModelVersion, ModelVersion.model_id == Model.id)
        .outerjoin(IssuedModel, issued)
        .where(KeyVersion.confirmed, KeyVersion.state.in_(_SERVED))
        .where(_due(), IssuedModel.id.is_(None))
        .order_by(Key.key_id, KeyVersion.version, ModelVersion.version.desc())
    )


def _due() -> ColumnElement[bool]:
    """The champion; without one, whatever is newer than what the key version has."""
    alias = select(ModelAlias.version).where(
        ModelAlias.model_id == Model.id, ModelAlias.alias == store.CHAMPION
    )
    champion = alias.correlate(Model).scalar_subquery()
    issued, issued_version = aliased(IssuedModel), aliased(ModelVersion)
    newest = (
        select(func.coalesce(func.max(issued_version.version), 0))
        .join_from(issued, issued_version, issued.model_version)
        .where(issued.key_version_id == KeyVersion.id)
        .correlate(KeyVersion)
        .scalar_subquery()
    )
    newer = and_(champion.is_(None), ModelVersion.version > newest)
    return or_(ModelVersion.version == champion, newer)


@lru_cache(maxsize=1024)
def _blocks(manifest: bytes) -> tuple[int, int] | None:
    """The patch size and channels of a manifest; None if it cannot be read."""
    try:
        shape = Manifest.from_bytes(manifest).architecture
    except KeymixerError:
        return None
    return shape.patch_size, shape.channels


def _find_issued(session: Session, issue: IssueId) -> IssuedModel | None:
    query = store.select_issued_models().where(
        Key.key_id == issue.key_id,
        KeyVersion.version == issue.key_version,
        ModelVersion.version == issue.model_version,
    )
    return session.scalar(query)


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


def _record_issued(change: Change, issued: IssuedModel, kind: str) -> None:
    facts: dict[str, Fact] = {
        "model_version": issued.model_version.version,
        "digest": issued.digest.hex(),
        "issued_state": str(issued.state),
    }
    store.record_key(change, issued.key_version, kind, **facts)
