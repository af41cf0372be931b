"""What goes into the log beside changes: inferences, what parties did, refusals.

A reporter may name what it reports. Reported again under the same name, because an
answer was lost, it is the record it was, with the verdict it had; nothing is appended.
"""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from sqlalchemy import select, update

from core.errors import (
    ConfigurationError,
    InvalidInput,
    KeymixerError,
    NotAllowedError,
    TooLargeError,
    Unavailable,
)
from core.rpc.identity import INFERENCE_SERVER, KEY_HOLDER, SpiffeId
from core.rpc.policy import Refusal
from orchestrator.audit.admission import Claim, require_admitted
from orchestrator.audit.records import Entry, Fact
from orchestrator.audit.releases import release_digest
from orchestrator.audit.repeats import recorded, remember
from orchestrator.errors import EventReused
from orchestrator.registry.budgets import draw
from orchestrator.registry.models import Key, KeyVersion
from orchestrator.registry.store import Change, Registry, owner_of_key

LARGEST_BATCH: Final = 1000
LONGEST_FACT: Final = 512
RELEASED: Final = "inference"
_REFUSED: Final = "inference.refused"

# Who may report what; the orchestrator's own kinds are nobody else's.
KINDS: Final[Mapping[str, frozenset[str]]] = MappingProxyType(
    {
        KEY_HOLDER: frozenset(
            {
                "key_holder.started",
                "embedding.stored",
                "key.fetched",
                "key.sealed_for_recovery",
                "keys.rewrapped",
                "refused",
            }
        ),
        INFERENCE_SERVER: frozenset(
            {
                "server.started",
                "backbone.stored",
                "issued.stored",
                "issued.deleted",
                "refused",
                "failed",
            }
        ),
    }
)

_DIGEST_BYTES: Final = 32
_LONGEST_ID: Final = 128


@dataclass(frozen=True, slots=True)
class Inference:
    """One answer that waits to be released; its digests are keyed, 32 bytes each."""

    request_id: str
    claim: Claim
    images: int
    request_digest: bytes
    result_digest: bytes
    compute_ms: float
    # From the request's arrival at the server until the record was handed in.
    latency_ms: float = 0.0
    # How many images the engine computed at once.
    batch: int = 0
    event_id: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The record's index, and the kind of refusal; empty: release the answer."""

    index: int
    refusal: str


@dataclass(frozen=True, slots=True)
class PartyEvent:
    """Something a party did or refused; `caller` is who asked, or empty."""

    kind: str
    caller: str
    subject: Mapping[str, str]
    event_id: str = ""


def record_inference(change: Change, inference: Inference) -> Verdict:
    """Decide on one answer and record the decision, in the same transaction.

    Raises:
        InvalidInput: the record itself is malformed; nothing is decided.
        EventReused: its name is that of another record.
    """
    _check_inference(inference)
    facts = _inference_facts(change, inference)
    if known := recorded(change, inference.event_id):
        return _verdict_again(known, facts)
    claim = inference.claim
    if refusal := _refusal(change, inference):
        facts["refusal"] = refusal
    else:
        _count_images(change, claim, inference.images)
    facts["status"] = "refused" if refusal else "released"
    kind = _REFUSED if refusal else RELEASED
    index = change.record(kind, facts, [claim.owner])
    remember(change, inference.event_id, index)
    return Verdict(index, refusal)


def record_party_event(change: Change, role: str, event: PartyEvent) -> int:
    """Record what the actor, which plays `role`, says it did; return its index.

    Raises:
        NotAllowedError: the kind is not for that role.
        InvalidInput: the event is malformed.
        EventReused: its name is that of another event.
    """
    if event.kind not in KINDS.get(role, frozenset()):
        raise NotAllowedError(f"a {role} does not report {event.kind!r}")
    _check_event(event)
    facts = dict(event.subject) | ({"caller": event.caller} if event.caller else {})
    if known := recorded(change, event.event_id):
        if (known.kind, known.subject) != (event.kind, facts):
            raise EventReused(f"the event_id is that of another {known.kind}")
        return known.index
    owner = owner_of_key(change.session, event.subject.get("key_id", ""))
    index = change.record(event.kind, facts, {event.caller, owner} - {""})
    remember(change, event.event_id, index)
    return index


@dataclass(slots=True)
class RefusalRecorder:
    """Records the calls that the orchestrator's own guard refused.

    The guard calls it from one thread with a bounded queue, so a log that is away
    stalls nobody. What found no room there, or could not be written, is counted, and
    the count is recorded.
    """

    registry: Registry
    _missed: int = 0
    _counting: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, refusal: Refusal) -> None:
        """Record one refusal, or raise `Unavailable` and count it."""
        with self._counting:
            self._missed += refusal.missed
            try:
                self._record(refusal)
            except Unavailable:
                self._missed += 1
                raise
            self._missed = 0

    def _record(self, refusal: Refusal) -> None:
        with self.registry.own_change() as change:
            if self._missed:
                change.record("refusals.missed", {"count": self._missed})
            facts = {
                "caller": refusal.caller[:LONGEST_FACT],
                "method": refusal.method[:LONGEST_FACT],
                "kind": refusal.kind,
            }
            change.record("refused", facts, _readers(refusal.caller))


def check_batch(items: Sequence[object]) -> None:
    """Refuse a batch that is too large for one transaction."""
    if len(items) > LARGEST_BATCH:
        raise TooLargeError(f"{len(items)} records, at most {LARGEST_BATCH} a call")


def _inference_facts(change: Change, inference: Inference) -> dict[str, Fact]:
    claim = inference.claim
    return {
        "owner": claim.owner,
        "organisation": SpiffeId.parse(claim.owner).organisation,
        "key_id": claim.key_id,
        "key_version": claim.key_version,
        "model": claim.model,
        "model_version": claim.model_version,
        "model_digest": release_digest(
            change.session, claim.model, claim.model_version
        ),
        "images": inference.images,
        "request_id": inference.request_id,
        "request_digest": inference.request_digest.hex(),
        "result_digest": inference.result_digest.hex(),
        "compute_ms": inference.compute_ms,
        "latency_ms": inference.latency_ms,
        "batch": inference.batch,
        "server": change.actor,
    }


def _verdict_again(known: Entry, facts: Mapping[str, Fact]) -> Verdict:
    said = dict(known.subject)
    refusal = str(said.pop("refusal", ""))
    said.pop("status", None)
    if known.kind not in (RELEASED, _REFUSED) or said != facts:
        raise EventReused("the event_id is that of another record")
    return Verdict(known.index, refusal)


def _count_images(change: Change, claim: Claim, images: int) -> None:
    """Count on the key version what is released under it; policies read it there."""
    key = select(Key.id).where(Key.key_id == claim.key_id).scalar_subquery()
    counted = update(KeyVersion).where(
        KeyVersion.key_pk == key, KeyVersion.version == claim.key_version
    )
    added = counted.values(images_used=KeyVersion.images_used + images)
    change.session.execute(added, execution_options={"synchronize_session": False})


def _refusal(change: Change, inference: Inference) -> str:
    """Why the answer is not released; if it is, its images are drawn on the budget."""
    try:
        allowance = require_admitted(change.session, inference.claim, change.now_ms)
        draw(change, allowance, inference.images)
    except Unavailable:
        raise
    except KeymixerError as error:
        return error.kind
    return ""


def _check_inference(inference: Inference) -> None:
    _check_event_id(inference.event_id)
    digests = (inference.request_digest, inference.result_digest)
    if any(len(digest) != _DIGEST_BYTES for digest in digests):
        raise InvalidInput(f"digests: expected {_DIGEST_BYTES} bytes each")
    if inference.images < 1:
        raise InvalidInput("images: expected at least 1")
    if len(inference.request_id) > _LONGEST_ID:
        raise InvalidInput(f"request_id: at most {_LONGEST_ID} characters")
    SpiffeId.parse(inference.claim.owner)


def _check_event(event: PartyEvent) -> None:
    """Facts are short: a picture, a key or an answer does not fit."""
    _check_event_id(event.event_id)
    for name, fact in event.subject.items():
        if max(len(name), len(fact)) > LONGEST_FACT:
            raise InvalidInput(f"subject: at most {LONGEST_FACT} characters a fact")
    if event.caller:
        SpiffeId.parse(event.caller)


def _check_event_id(event_id: str) -> None:
    if len(event_id) > _LONGEST_ID:
        raise InvalidInput(f"event_id: at most {_LONGEST_ID} characters")
    # It is a column of its own, and a database may refuse what cannot be printed:
    # at the commit, in which others share.
    if event_id and not event_id.isprintable():
        raise InvalidInput("event_id: expected characters that can be printed")


def _readers(caller: str) -> list[str]:
    try:
        return [str(SpiffeId.parse(caller))]
    except ConfigurationError:
        return []
