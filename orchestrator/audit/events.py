"""What goes into the log beside changes: inferences, what parties did, refusals."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

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
from orchestrator.audit.records import Fact
from orchestrator.registry.store import Change, Registry, owner_of_key

LARGEST_BATCH: Final = 1000
LONGEST_FACT: Final = 512

# Who may report what; the orchestrator's own kinds are nobody else's.
KINDS: Final[Mapping[str, frozenset[str]]] = MappingProxyType(
    {
        KEY_HOLDER: frozenset(
            {"key_holder.started", "embedding.stored", "key.fetched", "refused"}
        ),
        INFERENCE_SERVER: frozenset(
            {
                "server.started",
                "backbone.stored",
                "issued.stored",
                "issued.deleted",
                "refused",
            }
        ),
    }
)

_DIGEST_BYTES: Final = 32
_LONGEST_REQUEST_ID: Final = 128


@dataclass(frozen=True, slots=True)
class Inference:
    """One answer that waits to be released; its digests are keyed, 32 bytes each."""

    request_id: str
    claim: Claim
    images: int
    request_digest: bytes
    result_digest: bytes
    compute_ms: float


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


def record_inference(change: Change, inference: Inference) -> Verdict:
    """Decide on one answer and record the decision, in the same transaction.

    Raises:
        InvalidInput: the record itself is malformed; nothing is decided.
    """
    _check_inference(inference)
    claim = inference.claim
    refusal = _refusal(change, claim)
    kind = "inference.refused" if refusal else "inference"
    facts: dict[str, Fact] = {
        "owner": claim.owner,
        "key_id": claim.key_id,
        "key_version": claim.key_version,
        "model": claim.model,
        "model_version": claim.model_version,
        "images": inference.images,
        "request_id": inference.request_id,
        "request_digest": inference.request_digest.hex(),
        "result_digest": inference.result_digest.hex(),
        "compute_ms": inference.compute_ms,
        "server": change.actor,
    }
    if refusal:
        facts["refusal"] = refusal
    return Verdict(change.record(kind, facts, [claim.owner]), refusal)


def record_party_event(change: Change, role: str, event: PartyEvent) -> int:
    """Record what the actor, which plays `role`, says it did.

    Raises:
        NotAllowedError: the kind is not for that role.
        InvalidInput: the event is malformed.
    """
    if event.kind not in KINDS.get(role, frozenset()):
        raise NotAllowedError(f"a {role} does not report {event.kind!r}")
    _check_event(event)
    owner = owner_of_key(change.session, event.subject.get("key_id", ""))
    facts = dict(event.subject)
    if event.caller:
        facts["caller"] = event.caller
    return change.record(event.kind, facts, {event.caller, owner} - {""})


@dataclass(slots=True)
class RefusalRecorder:
    """Records the calls that the orchestrator's own guard refused.

    The guard calls it from one thread with a bounded queue, so a log that is away
    stalls nobody. What could not be written is counted, and the count is recorded.
    """

    registry: Registry
    _missed: int = 0
    _counting: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, refusal: Refusal) -> None:
        """Record one refusal, or raise `Unavailable` and count it."""
        with self._counting:
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


def _refusal(change: Change, claim: Claim) -> str:
    try:
        require_admitted(change.session, claim, change.now_ms)
    except Unavailable:
        raise
    except KeymixerError as error:
        return error.kind
    return ""


def _check_inference(inference: Inference) -> None:
    digests = (inference.request_digest, inference.result_digest)
    if any(len(digest) != _DIGEST_BYTES for digest in digests):
        raise InvalidInput(f"digests: expected {_DIGEST_BYTES} bytes each")
    if inference.images < 1:
        raise InvalidInput("images: expected at least 1")
    if len(inference.request_id) > _LONGEST_REQUEST_ID:
        raise InvalidInput(f"request_id: at most {_LONGEST_REQUEST_ID} characters")
    SpiffeId.parse(inference.claim.owner)


def _check_event(event: PartyEvent) -> None:
    """Facts are short: a picture, a key or an answer does not fit."""
    for name, fact in event.subject.items():
        if max(len(name), len(fact)) > LONGEST_FACT:
            raise InvalidInput(f"subject: at most {LONGEST_FACT} characters a fact")
    if event.caller:
        SpiffeId.parse(event.caller)


def _readers(caller: str) -> list[str]:
    try:
        return [str(SpiffeId.parse(caller))]
    except ConfigurationError:
        return []
