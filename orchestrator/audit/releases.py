"""Which release a record is about: the digest of its manifest."""

from typing import Final

from sqlalchemy import bindparam, select
from sqlalchemy.orm import Session

from core.database.fixed import Fixed
from orchestrator.registry.models import Model, ModelVersion

_DIGEST: Final = Fixed(
    select(ModelVersion.manifest_digest)
    .join(ModelVersion.model)
    .where(
        Model.name == bindparam("model"),
        ModelVersion.version == bindparam("version"),
    )
)


def release_digest(session: Session, model: str, version: int) -> str:
    """Return the manifest's SHA-256 in hex; empty if there is no such version."""
    found = _DIGEST.rows(session, {"model": model, "version": version})
    return bytes(found[0][0]).hex() if found else ""
