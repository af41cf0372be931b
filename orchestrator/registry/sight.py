"""What a server has seen that holds an embedding: pictures and blocks, over all keys.

From two issued embeddings of one `W` follows `A2 A1^T`: the server carries what was
sent under any key into one common basis. So what counts is not a key's own pictures but
those of every key that leads to the same basis, and a rotation gives none of it back.

Two model versions share a basis if they have one embedding, if one was trained on from
the other, or if both were issued under one key version: what was sent under it is
`W' (A x)` for each `W' = W A^T`. An embedding from a fresh start that is issued under
new key versions alone begins at nothing, and nothing else does.

Counted are pictures that were answered; a server sees those that were refused, too.
"""

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from sqlalchemy import Select, func, or_, select
from sqlalchemy.orm import Session, aliased

from core.errors import KeymixerError
from core.manifest import Manifest
from orchestrator.registry.models import IssuedModel, KeyVersion, ModelVersion


@dataclass(frozen=True, slots=True)
class Seen:
    """Pictures, and their blocks; at least so many."""

    images: int = 0
    blocks: int = 0


NOTHING: Final = Seen()


def under_key(issued: IssuedModel) -> Seen:
    """What was answered under the key version of an issued model, in its own blocks."""
    images = issued.key_version.images_used
    return Seen(images, images * blocks_of(issued.model_version.manifest))


def of_embedding(
    session: Session, version: ModelVersion, also: KeyVersion | None = None
) -> Seen:
    """What was answered under every key that leads to a version's embedding.

    Where pictures of several sizes went under one key version, each counts as one of
    the largest. With `also` it is as if the version were issued under that one, too.
    """
    begin = {version.id}
    if also is not None:
        begin |= set(session.scalars(_issued_under(also.id)))
    return _seen(session, _linked(session, begin))


@lru_cache(maxsize=1024)
def blocks_of(manifest: bytes) -> int:
    """How many blocks a picture of a model has; 1 for a manifest that nobody reads."""
    try:
        shape = Manifest.from_bytes(manifest).architecture
    except KeymixerError:
        return 1
    return shape.rows * shape.columns


def _linked(session: Session, found: set[int]) -> set[int]:
    """The rows of all model versions that share a basis with these."""
    while True:
        more = found | set(session.scalars(_neighbours(found)))
        if more == found:
            return found
        found = more


def _neighbours(found: Collection[int]) -> Select[int]:
    mine = select(ModelVersion).where(ModelVersion.id.in_(found))
    digests = mine.with_only_columns(ModelVersion.embedding_digest)
    parents = mine.with_only_columns(ModelVersion.parent_id).where(
        ModelVersion.parent_id.is_not(None)
    )
    ours, theirs = aliased(IssuedModel), aliased(IssuedModel)
    beside = (
        select(theirs.model_version_id)
        .join(ours, ours.key_version_id == theirs.key_version_id)
        .where(ours.model_version_id.in_(found))
    )
    near = (
        ModelVersion.embedding_digest.in_(digests),
        ModelVersion.parent_id.in_(found),
        ModelVersion.id.in_(parents),
        ModelVersion.id.in_(beside),
    )
    return select(ModelVersion.id).where(or_(*near))


def _seen(session: Session, linked: Collection[int]) -> Seen:
    """Add up every key version once, at the size of the largest pictures it had."""
    sizes: dict[int, list[int]] = defaultdict(list)
    query = select(ModelVersion.id, ModelVersion.manifest)
    for row, manifest in session.execute(query.where(ModelVersion.id.in_(linked))):
        sizes[blocks_of(manifest)].append(row)
    images = blocks = 0
    larger: list[int] = []
    for size in sorted(sizes, reverse=True):
        used = _images(session, sizes[size], larger)
        images, blocks = images + used, blocks + used * size
        larger += sizes[size]
    return Seen(images, blocks)


def _images(session: Session, issued: list[int], but: list[int]) -> int:
    """Images of the key versions that had one of these, and none of the others."""
    query = select(func.sum(KeyVersion.images_used)).where(
        KeyVersion.id.in_(_had(issued)), KeyVersion.id.not_in(_had(but))
    )
    return int(session.scalar(query) or 0)


def _had(model_versions: Collection[int]) -> Select[int]:
    query = select(IssuedModel.key_version_id)
    return query.where(IssuedModel.model_version_id.in_(model_versions))


def _issued_under(key_version_id: int) -> Select[int]:
    query = select(IssuedModel.model_version_id)
    return query.where(IssuedModel.key_version_id == key_version_id)
