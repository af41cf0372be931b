"""Which embeddings must be presumed known, and which keys were used with them.

Whoever holds a key `A` and the embedding `W A^T` that was issued under it computes `W`;
and `W` with what was issued of it under any other key gives that key. So one leaked key
gives version 1, version 1 gives the key of every owner that had version 1, and these
keys give whatever else was ever issued under them, version 2 say. How far that reaches
depends on what each key had, also long ago: we take all of it to be known.

A release with an exposed embedding, or trained on from an exposed version, is known as
well (`docs/threat-model.md`: a fine-tuned embedding is not new).
"""

from collections.abc import Sequence
from functools import cache

from sqlalchemy import ColumnElement, Select, bindparam, exists, select
from sqlalchemy.orm import Session

from orchestrator.registry import store
from orchestrator.registry.models import (
    IssuedModel,
    Key,
    KeyVersion,
    Model,
    ModelVersion,
)
from orchestrator.registry.store import Change

BURNT = "used with an exposed embedding: the recovery brings a new key version"


def expose(change: Change, key: Key, reason: str) -> list[ModelVersion]:
    """Expose what a leaked key opens; return it, with what was exposed before.

    That is every version of the model that was ever issued under any key: from one
    embedding to the owners' keys, and on to the next embedding. If nothing was ever
    issued under the leaked key, it is nothing.
    """
    versions = _versions(change.session, key.model_id)
    if not any(_issued_under(change.session, key)):
        return []
    issued = set(change.session.scalars(_ever_issued(key.model_id)))
    facts = {"key_id": key.key_id, "reason": reason}
    for version in versions:
        if version.id in issued and version.exposed_at_ms is None:
            version.exposed_at_ms = change.now_ms
            _record(change, version, **facts)
    _expose_kin(change, versions)
    return [each for each in versions if each.exposed_at_ms is not None]


def inherit(change: Change, version: ModelVersion) -> None:
    """Expose a version that was just registered if its embedding is no secret."""
    if version.exposed_at_ms is None:
        _expose_kin(change, _versions(change.session, version.model_id))


def exposed_versions(session: Session, model: Model) -> Sequence[ModelVersion]:
    """The versions of a model whose embedding must be presumed known."""
    found = _versions(session, model.id)
    return [version for version in found if version.exposed_at_ms is not None]


def is_burnt(session: Session, key_version_id: int) -> bool:
    """Was a key version ever issued a model version that is exposed?

    What is issued under it then is exposed at once.
    """
    return session.scalar(_exposed_under(), {"id": key_version_id}) is not None


def was_burnt(of: type[KeyVersion] = KeyVersion) -> ColumnElement[bool]:
    """The same, of the key versions that an enclosing query goes through."""
    return exists().where(
        IssuedModel.key_version_id == of.id,
        IssuedModel.model_version_id == ModelVersion.id,
        ModelVersion.exposed_at_ms.is_not(None),
    )


def _expose_kin(change: Change, versions: Sequence[ModelVersion]) -> None:
    """Expose what has an exposed embedding, or an exposed version among its parents.

    Since when: since that one was.
    """
    while found := _kin(versions):
        version, source, how = found
        version.exposed_at_ms = source.exposed_at_ms
        _record(change, version, reason=f"it {how} version {source.version}")


def _kin(
    versions: Sequence[ModelVersion],
) -> tuple[ModelVersion, ModelVersion, str] | None:
    """A version that is still held to be secret, and why it is not."""
    exposed = [each for each in versions if each.exposed_at_ms is not None]
    by_digest = {each.embedding_digest: each for each in exposed}
    by_id = {each.id: each for each in exposed}
    for version in versions:
        if version.exposed_at_ms is not None:
            continue
        if twin := by_digest.get(version.embedding_digest):
            return version, twin, "has the embedding of"
        if parent := by_id.get(version.parent_id or 0):
            return version, parent, "was trained on from"
    return None


def _record(change: Change, version: ModelVersion, **facts: str) -> None:
    readers = [version.model.provider.spiffe_id]
    change.record("model.exposed", {**store.model_facts(version), **facts}, readers)


def _versions(session: Session, model_id: int) -> Sequence[ModelVersion]:
    query = select(ModelVersion).where(ModelVersion.model_id == model_id)
    return session.scalars(query.order_by(ModelVersion.version)).all()


def _ever_issued(model_id: int) -> Select[int]:
    return (
        select(IssuedModel.model_version_id)
        .join(IssuedModel.model_version)
        .where(ModelVersion.model_id == model_id)
        .distinct()
    )


def _issued_under(session: Session, key: Key) -> Sequence[int]:
    query = select(IssuedModel.id).join(IssuedModel.key_version)
    return session.scalars(query.where(KeyVersion.key_pk == key.id).limit(1)).all()


@cache
def _exposed_under() -> Select[int]:
    """Built once: every step that issues something asks."""
    return (
        select(IssuedModel.id)
        .join(IssuedModel.model_version)
        .where(IssuedModel.key_version_id == bindparam("id"))
        .where(ModelVersion.exposed_at_ms.is_not(None))
        .limit(1)
    )
