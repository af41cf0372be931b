"""What goes into the log beside changes and answers: what parties did, refusals.

A reporter may name what it reports. Reported again under the same name, because an
answer was lost, it is the record it was; nothing is appended.
"""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from core.errors import (
    ConfigurationError,
    InvalidInput,
    NotAllowedError,
    TooLargeError,
    Unavailable,
)
from core.rpc.identity import INFERENCE_SERVER, KEY_HOLDER, SpiffeId
from core.rpc.policy import Refusal
from orchestrator.audit.notes import DIGEST, REASON
from orchestrator.audit.repeats import Names
from orchestrator.errors import EventReused
from orchestrator.registry.store import Change, Registry, owner_of_key

LARGEST_BATCH: Final = 1000
LONGEST_FACT: Final = 512

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

# Kept beside the log, which what parties report again is compared with.
_PEOPLES: Final = frozenset({REASON, DIGEST})


@dataclass(frozen=True, slots=True)
class PartyEvent:
    """Something a party did or refused; `caller` is who asked, or empty."""

    kind: str
    caller: str
    subject: Mapping[str, str]
    event_id: str = ""


def record_events(change: Change, role: str, events: Sequence[PartyEvent]) -> list[int]:
    """Record what the actor, which plays `role`, says it did; return the indices.

    Raises:
        NotAllowedError: a kind is not for that role.
        InvalidInput: an event is malformed.
        EventReused: the name of one is that of another event.
    """
    for each in events:
        _check_event(role, each)
    names = Names(change, [each.event_id for each in events])
    return [_record(change, each, names) for each in events]


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


def _record(change: Change, event: PartyEvent, names: Names) -> int:
    facts = dict(event.subject) | ({"caller": event.caller} if event.caller else {})
    if known := names.recorded(event.event_id):
        if (known.kind, known.subject) != (event.kind, facts):
            raise EventReused(f"the event_id is that of another {known.kind}")
        return known.index
    owner = owner_of_key(change.session, event.subject.get("key_id", ""))
    index = change.record(event.kind, facts, {event.caller, owner} - {""})
    names.remember(event.event_id, index)
    return index


def _check_event(role: str, event: PartyEvent) -> None:
    """Facts are short: a picture, a key or an answer does not fit."""
    if event.kind not in KINDS.get(role, frozenset()):
        raise NotAllowedError(f"a {role} does not report {event.kind!r}")
    if not _PEOPLES.isdisjoint(event.subject):
        raise InvalidInput("subject: a party gives no reasons, which people type")
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
