"""May this answer be released? One query over key, owner, grant and issued model."""

from dataclasses import asdict, dataclass
from functools import cache
from typing import NamedTuple

from sqlalchemy import Select, and_, bindparam, select
from sqlalchemy.orm import Session

from core.errors import (
    KeyMismatchError,
    KeyRefusedError,
    NotAllowedError,
    NotGrantedError,
)
from orchestrator.registry.budgets import Allowance
from orchestrator.registry.lifecycle import USABLE, IssuedState, KeyState, PartyState
from orchestrator.registry.models import (
    Grant,
    IssuedModel,
    Key,
    KeyVersion,
    Model,
    ModelVersion,
    Party,
)

ANSWERS = frozenset({IssuedState.LIVE, IssuedState.RETIRING})


@dataclass(frozen=True, slots=True)
class Claim:
    """Who asked, with which key version, of which model version."""

    owner: str
    key_id: str
    key_version: int
    model: str
    model_version: int


def require_admitted(session: Session, claim: Claim, now_ms: int) -> Allowance:
    """Return if an answer to this claim may be released at `now_ms`.

    Returns:
        The grant's budget, which the answer is still to be drawn on.

    Raises:
        NotAllowedError: the key is not the owner's, or the owner was revoked.
        KeyMismatchError: the key is for another model.
        NotGrantedError: the owner may not use the model, or no longer.
        KeyRefusedError: no such key version, or it or its issued model is not in use.
    """
    row = session.connection().execute(_standing(), asdict(claim)).one_or_none()
    if row is None:
        raise KeyRefusedError("no such key version")
    found = _Standing(*row)
    if found.owner != claim.owner or found.owner_state != PartyState.ACTIVE:
        raise NotAllowedError("the key is not the caller's, or the caller was revoked")
    if found.model != claim.model:
        raise KeyMismatchError("the key is for another model")
    if found.grant is None:
        raise NotGrantedError("the owner may not use this model")
    if not _usable(found, now_ms):
        raise KeyRefusedError(f"the key version is {found.state}")
    if found.issued_state not in ANSWERS:
        raise KeyRefusedError("the model version is not issued under this key")
    return Allowance(
        found.grant,
        found.max_images,
        found.period,
        found.period_start_ms,
        found.images_used,
    )


class _Standing(NamedTuple):
    """How a claimed key version stands; None: no grant, or nothing issued."""

    state: str
    retire_at_ms: int | None
    owner: str
    owner_state: str
    model: str
    grant: int | None
    issued_state: str | None
    max_images: int | None
    period: str
    period_start_ms: int
    images_used: int


def _usable(found: _Standing, now_ms: int) -> bool:
    if found.state == KeyState.RETIRING:
        return (found.retire_at_ms or 0) > now_ms
    return found.state in USABLE


@cache
def _standing() -> Select[
    str, int | None, str, str, str, int, str, int | None, str, int, int
]:
    """Built once: every answer asks."""
    granted = and_(
        Grant.owner_party_id == Key.owner_party_id,
        Grant.model_id == Key.model_id,
        Grant.revoked_at_ms.is_(None),
    )
    asked = and_(
        ModelVersion.model_id == Key.model_id,
        ModelVersion.version == bindparam("model_version"),
    )
    issued = and_(
        IssuedModel.key_version_id == KeyVersion.id,
        IssuedModel.model_version_id == ModelVersion.id,
    )
    return (
        select(
            KeyVersion.state,
            KeyVersion.retire_at_ms,
            Party.spiffe_id,
            Party.state,
            Model.name,
            Grant.id,
            IssuedModel.state,
            Grant.max_images,
            Grant.budget_period,
            Grant.period_start_ms,
            Grant.images_used,
        )
        .join(KeyVersion.key)
        .join(Key.owner)
        .join(Key.model)
        .outerjoin(Grant, granted)
        .outerjoin(ModelVersion, asked)
        .outerjoin(IssuedModel, issued)
        .where(
            Key.key_id == bindparam("key_id"),
            KeyVersion.version == bindparam("key_version"),
        )
    )
