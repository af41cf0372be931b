"""Models whose plain embedding others have: marked, and not issued unless allowed.

From a public `W` and the issued `W A^T` the key `A` follows by one least-squares solve
(`docs/threat-model.md`), so such a key hides no picture from whoever has both. What was
trained on from a public version is public too, and so is what has its embedding, among
the models of one provider: nobody can mark another's.
"""

from sqlalchemy import Select, or_, select

from orchestrator.federation import Policies
from orchestrator.registry import store
from orchestrator.registry.models import Model, ModelVersion
from orchestrator.registry.store import Change


def is_issuable(policies: Policies, version: ModelVersion) -> bool:
    """Is its embedding a secret, or may public ones be issued?"""
    return policies.allow_public_embeddings or not version.public_embedding


def inherit(change: Change, version: ModelVersion) -> None:
    """Mark a version that was just registered, and what follows from it, as public."""
    if not version.public_embedding:
        akin = _akin(version).where(ModelVersion.public_embedding).limit(1)
        found = change.session.scalar(akin)
        if found is None:
            return
        _mark(change, version, found)
    waiting = [version]
    while waiting:
        source = waiting.pop()
        for each in change.session.scalars(_followers(source)).all():
            _mark(change, each, source)
            waiting.append(each)


def _akin(version: ModelVersion) -> Select[ModelVersion]:
    """What it was trained on from, and what has its embedding."""
    same = ModelVersion.embedding_digest == version.embedding_digest
    parent = ModelVersion.id == version.parent_id
    return _of_its_provider(version).where(or_(same, parent))


def _followers(source: ModelVersion) -> Select[ModelVersion]:
    """What has its embedding or was trained on from it, and counts as secret."""
    same = ModelVersion.embedding_digest == source.embedding_digest
    child = ModelVersion.parent_id == source.id
    found = _of_its_provider(source).where(or_(same, child))
    return found.where(ModelVersion.public_embedding.is_(False))


def _of_its_provider(version: ModelVersion) -> Select[ModelVersion]:
    provider = Model.provider_party_id == version.model.provider_party_id
    query = select(ModelVersion).join(ModelVersion.model).where(provider)
    return query.where(ModelVersion.id != version.id).order_by(ModelVersion.id)


def _mark(change: Change, version: ModelVersion, source: ModelVersion) -> None:
    version.public_embedding = True
    because = f"as that of {source.model.name} version {source.version}"
    _record(change, version, "model.public", because=because)


def _record(change: Change, version: ModelVersion, kind: str, **facts: str) -> None:
    readers = [version.model.provider.spiffe_id]
    change.record(kind, {**store.model_facts(version), **facts}, readers)
