"""Which release a record is about: the digest of its manifest."""

from functools import cache

from sqlalchemy import Select, bindparam, select
from sqlalchemy.orm import Session

from orchestrator.registry.models import Model, ModelVersion


def release_digest(session: Session, model: str, version: int) -> str:
    """Return the manifest's SHA-256 in hex; empty if there is no such version."""
    named = {"model": model, "version": version}
    digest = session.connection().scalar(_digest(), named)
    return digest.hex() if digest is not None else ""


@cache
def _digest() -> Select[bytes]:
    """Built once: every answer asks."""
    return (
        select(ModelVersion.manifest_digest)
        .join(ModelVersion.model)
        .where(
            Model.name == bindparam("model"),
            ModelVersion.version == bindparam("version"),
        )
    )
