"""May this answer be released? One query over key, owner, grant and issued model."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, NamedTuple

from sqlalchemy import and_, bindparam, select
from sqlalchemy.orm import Session

from core.database.fixed import Fixed
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

# The query's parameters, and the fields of claims that they list.
_ASKED: Final = {
    "key_ids": "key_id",
    "key_versions": "key_version",
    "model_versions": "model_version",
}

ANSWERS = frozenset({IssuedState.LIVE, IssuedState.RETIRING})


@dataclass(frozen=True, slots=True)
class Claim:
    """Who asked, with which key version, of which model version."""

    owner: str
    key_id: str
    key_version: int
    model: str
    model_version: int


class Standings:
    """How what is claimed stands in one transaction: one query for all claims."""

    def __init__(self, session: Session, claims: Collection[Claim]) -> None:
        # By key, its version, and the model's version; None: it has no such version.
        self._found: dict[tuple[str, int, int | None], _Standing] = {}
        if claims:
            asked = {
                name: sorted({getattr(claim, field) for claim in claims})
                for name, field in _ASKED.items()
            }
            for *names, rest in _rows(session, asked):
                self._found[tuple(names)] = rest

    def of(self, claim: Claim) -> "_Standing":
        """Raise `KeyRefusedError` if there is no such key version."""
        key = (claim.key_id, claim.key_version)
        found = self._found.get((*key, claim.model_version))
        if found is None:
            found = next((s for k, s in self._found.items() if k[:2] == key), None)
            if found is None:
                raise KeyRefusedError("no such key version")
            found = found._replace(issued_state=None)
        return found


def require_admitted(standings: Standings, claim: Claim, now_ms: int) -> Allowance:
    """Return if an answer to this claim may be released at `now_ms`.

    Returns:
        The grant's budget, which the answer is still to be drawn on.

    Raises:
        NotAllowedError: the key is not the owner's, or the owner was revoked.
        KeyMismatchError: the key is for another model.
        NotGrantedError: the owner may not use the model, or no longer.
        KeyRefusedError: no such key version, or it or its issued model is not in use.
    """
    found = standings.of(claim)
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


def _rows(session: Session, asked: Mapping[str, Any]) -> Iterator[Any]:
    for key_id, version, model_version, *rest in _standing().rows(session, asked):
        yield key_id, version, model_version, _Standing(*rest)


def _usable(found: _Standing, now_ms: int) -> bool:
    if found.state == KeyState.RETIRING:
        return (found.retire_at_ms or 0) > now_ms
    return found.state in USABLE


@cache
def _standing() -> Fixed:
    """Built once the tables know each other."""
    granted = and_(
        Grant.owner_party_id == Key.owner_party_id,
        Grant.model_id == Key.model_id,
        Grant.revoked_at_ms.is_(None),
    )
    asked = and_(
        ModelVersion.model_id == Key.model_id,
        ModelVersion.version.in_(bindparam("model_versions", expanding=True)),
    )
    issued = and_(
        IssuedModel.key_version_id == KeyVersion.id,
        IssuedModel.model_version_id == ModelVersion.id,
    )
    return Fixed(
        select(
            Key.key_id,
            KeyVersion.version,
            ModelVersion.version,
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
            Key.key_id.in_(bindparam("key_ids", expanding=True)),
            KeyVersion.version.in_(bindparam("key_versions", expanding=True)),
        )
    )
