"""May a model version be issued? What its leakage card and the policies say.

Asked when a key, a rotation or an alias is asked for, and again by every job before the
model is transformed and before it is sent. A refusal is on record. A job that met one
waits for an operator; if only a fresh start helps, it waits for a release that has one.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Final

from sqlalchemy.orm import Session

from core.errors import KeymixerError
from core.manifest import Manifest
from core.rpc.identity import SpiffeId
from orchestrator.audit.records import Fact
from orchestrator.errors import (
    FreshReleaseNeeded,
    LeakageRefused,
    NotIssuable,
    PublicEmbeddingRefused,
)
from orchestrator.federation import LeakageRule, Policies
from orchestrator.registry import sight, store
from orchestrator.registry.cards import IssuedCard
from orchestrator.registry.models import Job, KeyVersion, ModelVersion
from orchestrator.registry.store import Change, Registry
from orchestrator.workflows import jobs, public
from orchestrator.workflows.jobs import Kind, Step

# These take whatever is the champion when they go on, before anything is prepared.
_TAKE_THE_CHAMPION: Final = frozenset({Kind.CREATE, Kind.ROTATE})
_REFUSALS: Final[Mapping[str, type[NotIssuable]]] = MappingProxyType(
    {"refuse": LeakageRefused, "fresh_release": FreshReleaseNeeded}
)


def require_issuable(
    session: Session, policies: Policies, model: str, number: int | None = None
) -> None:
    """Refuse a model whose champion, or whose version `number`, is not to be issued.

    Raises:
        NotIssuable: a rule of the policies says so.
        NotFound: there is no such version.
    """
    if refused := refusal_of(session, policies, model, number):
        raise refused


def refusal_of(
    session: Session, policies: Policies, model: str, number: int | None = None
) -> NotIssuable | None:
    """Why a model's champion, or its version `number`, is not issued; None: it is."""
    if number is None:
        row = store.model_named(session, model)
        version = store.champion(session, row.id)
    else:
        version = store.model_version(session, model, number)
    return None if version is None else refusal(session, policies, version)


def refusal(
    session: Session,
    policies: Policies,
    version: ModelVersion,
    key_version: KeyVersion | None = None,
) -> NotIssuable | None:
    """Why a version is not issued, under this key version if one is given."""
    named = (version.model.name, version.version)
    if not public.is_issuable(policies, version):
        return PublicEmbeddingRefused(*named)
    broken = _broken(session, policies, version, key_version)
    # Who waits for a fresh start should not find then that more was wrong.
    for then, kind in _REFUSALS.items():
        if why := [reason for rule, reason in broken if rule.then == then]:
            return kind(*named, "; ".join(why))
    return None


def warn(
    change: Change, policies: Policies, key_version: KeyVersion, version: ModelVersion
) -> None:
    """Have the log say what speaks against a version that is issued all the same."""
    broken = _broken(change.session, policies, version, key_version)
    if why := [reason for rule, reason in broken if rule.then == "warn"]:
        store.record_key(
            change,
            key_version,
            "issued.warned",
            model_version=version.version,
            because="; ".join(why),
        )


@contextmanager
def recording(registry: Registry, caller: SpiffeId) -> Iterator[None]:
    """Have the log tell of a refusal: the transaction that met it tells of nothing."""
    try:
        yield
    except NotIssuable as refused:
        with registry.own_change() as change:
            version = store.model_version(
                change.session, refused.model, refused.version
            )
            record(change, version, refused, caller=str(caller))
        raise


def hold(change: Change, job: Job, version: ModelVersion, refused: NotIssuable) -> None:
    """Let a job that would issue a version wait for whoever can change that."""
    record(change, version, refused)
    why = f"{refused.kind}: {refused}; {refused.hint}"
    waits = job.kind in _TAKE_THE_CHAMPION and job.step == Step.PREPARE
    if waits and isinstance(refused, FreshReleaseNeeded):
        jobs.wait(change, job, why)
    else:
        jobs.leave_to_operator(change, job, why, refused.kind)


def record(
    change: Change, version: ModelVersion, refused: NotIssuable, **facts: Fact
) -> None:
    """Have the log say that a version is not issued, and why."""
    if not isinstance(refused, PublicEmbeddingRefused):
        facts = {"because": refused.because, **facts}
    readers = [version.model.provider.spiffe_id]
    told = {**store.model_facts(version), **facts}
    kind = "model.held_back" if "because" in facts else "model.not_issued"
    change.record(kind, told, readers)


def card_of(
    session: Session, version: ModelVersion, key_version: KeyVersion | None = None
) -> IssuedCard | None:
    """The card as it is, or would be under a key version; None: nobody reads it."""
    try:
        manifest = Manifest.from_bytes(version.manifest)
    except KeymixerError:
        return None
    return IssuedCard.of(
        manifest,
        public_embedding=version.public_embedding,
        total=sight.of_embedding(session, version, key_version),
    )


def _broken(
    session: Session,
    policies: Policies,
    version: ModelVersion,
    key_version: KeyVersion | None,
) -> list[tuple[LeakageRule, str]]:
    """The rules that are broken; nothing is counted if there is no rule."""
    if not policies.leakage:
        return []
    card = card_of(session, version, key_version)
    return [] if card is None else card.broken(policies.leakage)
