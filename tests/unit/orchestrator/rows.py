"""Rows that keep every rule of the registry, for tests to break one at a time."""

from typing import Any

from sqlalchemy.orm import Session

from orchestrator.registry.models import (
    Approval,
    IssuedModel,
    Job,
    Key,
    KeyVersion,
    Model,
    ModelVersion,
    Organisation,
    Party,
)

DIGEST = bytes(range(32))
SIGNATURE = bytes(range(64))


def party(role: str = "data-owner", organisation: str = "clinic", **more: Any) -> Party:
    return Party(
        spiffe_id=f"spiffe://test/{organisation}/{role}",
        organisation=Organisation(name=organisation),
        role=role,
        created_at_ms=1,
        **more,
    )


def model(name: str = "cells") -> Model:
    provider = party("model-provider", f"provider of {name}")
    return Model(name=name, provider=provider)


def model_version(of: Model, version: int = 1, **changed: Any) -> ModelVersion:
    fields = {
        "model": of,
        "version": version,
        "manifest": b"{}",
        "manifest_digest": DIGEST,
        "signature": SIGNATURE,
        "embedding_digest": DIGEST,
        "backbone_digest": DIGEST,
        "created_at_ms": 1,
    }
    return ModelVersion(**fields | changed)


def key(key_id: str = "k1", **changed: Any) -> Key:
    fields = {"key_id": key_id, "patch_size": 4, "channels": 3} | changed
    return Key(**{"owner": party(), "model": model()} | fields)


def key_version(of: Key, version: int = 1, **changed: Any) -> KeyVersion:
    fields = {
        "key": of,
        "version": version,
        "generator": "keymixer-haar-v1",
        "commitment": DIGEST,
        "state": "active",
        "confirmed": True,
        "created_at_ms": 1,
        "changed_at_ms": 1,
    }
    return KeyVersion(**fields | changed)


def issued_model(of: KeyVersion, version: ModelVersion, **changed: Any) -> IssuedModel:
    fields = {
        "key_version": of,
        "model_version": version,
        "digest": DIGEST,
        "statement": b"{}",
        "signature": SIGNATURE,
        "created_at_ms": 1,
    }
    return IssuedModel(**fields | changed)


def job(subject: str = "key:k1", **changed: Any) -> Job:
    fields = {
        "kind": "create",
        "subject": subject,
        "step": "draw",
        "arguments": b"{}",
        "created_by": "spiffe://test/hub/operator",
        "created_at_ms": 1,
        "changed_at_ms": 1,
    }
    return Job(**fields | changed)


def approval(**changed: Any) -> Approval:
    fields = {
        "action": "revoke",
        "arguments": b"{}",
        "requested_by": "spiffe://test/hub/operator",
        "created_at_ms": 1,
        "expires_at_ms": 2,
        "changed_at_ms": 1,
    }
    return Approval(**fields | changed)


def add(session: Session, *rows: object) -> None:
    session.add_all(rows)
    session.flush()
