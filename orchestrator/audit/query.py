"""Which records of the log answer a question: page by page, a bounded look a call.

A question that fits few records would read the whole log to fill one page. So a call
looks at no more than `MOST_LOOKED_AT` records and says where to go on.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, NamedTuple

from sqlalchemy import ColumnElement, exists, select
from sqlalchemy.orm import Session
from sqlalchemy.orm.attributes import InstrumentedAttribute

from core.errors import InvalidInput
from orchestrator.audit.writer import StoredEntry, log_size
from orchestrator.registry.models import AuditLeaf, AuditLeafParty, AuditRequestId

REFUSALS: Final = ("inference.refused", "refused")
# Records read at once, and how often a call does so.
_CHUNK: Final = 500
_CHUNKS: Final = 20
MOST_LOOKED_AT: Final = _CHUNK * _CHUNKS

_SCHEME: Final = "spiffe://"
_FACTS: Final = ("model", "key_id", "request_id")


@dataclass(frozen=True, slots=True)
class Question:
    """What a record must fit; an empty field is fitted by all.

    Args:
        reader: The party that reads and sees only what names it; empty: an operator.
        named: SPIFFE IDs, each of which the record must name.
        kind: What happened, such as `key.created`.
        refused: Only the kinds in `REFUSALS`.
        organisation: Of the actor, or of a party in the record's facts.
        model: As the record's facts say, like `key_id` and `request_id`.
        key_id: The key.
        request_id: One inference.
        since_ms: Not before this, in milliseconds since the epoch.
        until_ms: Before this; 0: no end.
    """

    reader: str = ""
    named: tuple[str, ...] = ()
    kind: str = ""
    refused: bool = False
    organisation: str = ""
    model: str = ""
    key_id: str = ""
    request_id: str = ""
    since_ms: int = 0
    until_ms: int = 0

    def __post_init__(self) -> None:
        if self.since_ms < 0 or self.until_ms < 0:
            raise InvalidInput("expected since_ms >= 0 and until_ms >= 0")

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds that fit; none: every kind does."""
        if not self.refused:
            return (self.kind,) if self.kind else ()
        return tuple(each for each in REFUSALS if self.kind in ("", each))

    @property
    def fits_nothing(self) -> bool:
        """Whether it asks for refusals of a kind that is no refusal."""
        return self.refused and not self.kinds


class Page(NamedTuple):
    """Records by index, where to go on (0: the end), and the log's size."""

    entries: list[StoredEntry]
    next_start: int
    size: int


def read_page(session: Session, question: Question, start: int, limit: int) -> Page:
    """Read at most `limit` records that fit, from index `start` on.

    The size is read first: records that are committed meanwhile are for the next call,
    which begins there.
    """
    size = log_size(session)
    found: list[StoredEntry] = []
    for _ in range(0 if question.fits_nothing else _CHUNKS):
        candidates = _candidates(session, question, start, size)
        for entry in _fitting(session, question, candidates):
            found.append(entry)
            if len(found) == limit:
                return Page(found, _within(entry.index + 1, size), size)
        if len(candidates) < _CHUNK:
            return Page(found, 0, size)
        start = candidates[-1] + 1
    return Page(found, 0 if question.fits_nothing else _within(start, size), size)


def _within(start: int, size: int) -> int:
    return start if start < size else 0


def _candidates(
    session: Session, question: Question, start: int, size: int
) -> Sequence[int]:
    """The next records to look at, found by one index of the database.

    For a party they are its own, whatever it asks: where it is told to go on must not
    say where others' records lie.
    """
    if question.reader:
        return _naming(session, question.reader, start, size)
    if question.request_id:
        return _of_request(session, question.request_id, start, size)
    if kinds := question.kinds:
        found = [_of_kind(session, kind, start, size) for kind in kinds]
        return sorted(index for indices in found for index in indices)[:_CHUNK]
    if question.named:
        return _naming(session, question.named[0], start, size)
    return range(start, min(start + _CHUNK, size))


def _naming(session: Session, party: str, start: int, size: int) -> Sequence[int]:
    chosen = AuditLeafParty.spiffe_id == party
    return _indices(session, AuditLeafParty.index, chosen, start, size)


def _of_request(
    session: Session, request_id: str, start: int, size: int
) -> Sequence[int]:
    chosen = AuditRequestId.request_id == request_id
    return _indices(session, AuditRequestId.index, chosen, start, size)


def _of_kind(session: Session, kind: str, start: int, size: int) -> Sequence[int]:
    chosen = AuditLeaf.kind == kind
    return _indices(session, AuditLeaf.index, chosen, start, size)


def _indices(
    session: Session,
    column: InstrumentedAttribute[int],
    chosen: ColumnElement[bool],
    start: int,
    size: int,
) -> Sequence[int]:
    query = select(column).where(chosen, column >= start, column < size)
    return session.scalars(query.order_by(column).limit(_CHUNK)).all()


def _fitting(
    session: Session, question: Question, candidates: Sequence[int]
) -> Iterator[StoredEntry]:
    query = select(AuditLeaf.index, AuditLeaf.body).where(
        AuditLeaf.index.in_(candidates), *_conditions(question)
    )
    for index, body in session.execute(query.order_by(AuditLeaf.index)):
        if _says(question, body):
            yield StoredEntry(index, body)


def _conditions(question: Question) -> Iterator[ColumnElement[bool]]:
    """What the database's columns say of a record."""
    if kinds := question.kinds:
        yield AuditLeaf.kind.in_(kinds)
    if question.since_ms:
        yield AuditLeaf.time_ms >= question.since_ms
    if question.until_ms:
        yield AuditLeaf.time_ms < question.until_ms
    for party in (*question.named, question.reader):
        if party:
            yield exists().where(
                AuditLeafParty.index == AuditLeaf.index,
                AuditLeafParty.spiffe_id == party,
            )


def _says(question: Question, body: bytes) -> bool:
    """Whether the body's own facts fit."""
    wanted = {n: value for n in _FACTS if (value := getattr(question, n))}
    if not (question.organisation or wanted):
        return True
    if not all(map(partial(_may_hold, body), wanted.values())):
        return False
    record = json.loads(body)
    facts = _facts(record)
    return all(facts.get(name) == value for name, value in wanted.items()) and (
        not question.organisation
        or any(
            _is_of(question.organisation, each)
            for each in (record["actor"], *facts.values())
        )
    )


def _may_hold(body: bytes, value: str) -> bool:
    """Whether a body could hold a fact: most that do not need not be parsed.

    Only what JSON writes as it is can be looked for that way.
    """
    return value.encode() in body or json.dumps(value) != f'"{value}"'


def _facts(record: dict[str, Any]) -> dict[str, Any]:
    """A record's facts; a request for two operators names its own in its arguments."""
    facts: dict[str, Any] = record["subject"]
    if not record["kind"].startswith("approval."):
        return facts
    return {**facts, **json.loads(facts.get("arguments") or "{}")}


def _is_of(organisation: str, fact: object) -> bool:
    """Whether a fact is the SPIFFE ID of a party of the organisation."""
    text = str(fact)
    return text.startswith(_SCHEME) and text.split("/")[3:4] == [organisation]
