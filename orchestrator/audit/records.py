"""What a record of the log says: who did what to which thing, and when.

The body is RFC 8785 canonical JSON, stored and hashed as it is:

    {"actor":"spiffe://..","index":7,"kind":"key.created","subject":{..},"time_ms":..,"v":1}

Layout 1 will stay readable forever: a change of layout is a new `v`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from core.canonical import canonical, parse, take_fields
from core.errors import CorruptFileError, InvalidInput
from orchestrator.errors import RecordMalformed

LAYOUT: Final = 1
MAX_BODY_BYTES: Final = 8192
MAX_FACTS: Final = 32

Fact = str | int | float

_FIELDS: Final = {
    "v": int,
    "index": int,
    "time_ms": int,
    "kind": str,
    "actor": str,
    "subject": dict,
}
_NAMES: Final = frozenset({str})
_FACTS: Final = frozenset({str, int, float})
_KIND = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)*")
_KIND_LENGTH: Final = 64


@dataclass(frozen=True, slots=True)
class Entry:
    """One record. `actor` is a SPIFFE ID, or empty if the caller proved no identity."""

    index: int
    time_ms: int
    kind: str
    actor: str
    subject: Mapping[str, Fact]

    def to_bytes(self) -> bytes:
        """Return the canonical body, or raise `RecordMalformed`."""
        _check(self)
        try:
            body = canonical(
                {
                    "v": LAYOUT,
                    "index": self.index,
                    "time_ms": self.time_ms,
                    "kind": self.kind,
                    "actor": self.actor,
                    "subject": dict(self.subject),
                }
            )
        except InvalidInput as error:
            raise RecordMalformed("a fact has no canonical form") from error
        if len(body) > MAX_BODY_BYTES:
            raise RecordMalformed(f"{len(body)} bytes, at most {MAX_BODY_BYTES} fit")
        return body


def parse_entry(body: bytes) -> Entry:
    """Read a body back, or raise `RecordMalformed`; only canonical bytes are read."""
    try:
        fields = take_fields(parse(body), _FIELDS)
    except CorruptFileError as error:
        raise RecordMalformed(str(error)) from error
    if fields.pop("v") != LAYOUT:
        raise RecordMalformed(f"expected a record of layout {LAYOUT}")
    entry = Entry(**fields)
    _check(entry)
    return entry


def _check(entry: Entry) -> None:
    """Refuse what no record may say; the message quotes nothing of a subject."""
    if not _is_kind(entry.kind):
        raise RecordMalformed("a kind is lower-case words joined by dots")
    if entry.index < 0 or entry.time_ms < 0:
        raise RecordMalformed("index and time count from zero")
    if len(entry.subject) > MAX_FACTS:
        raise RecordMalformed(f"{len(entry.subject)} facts, at most {MAX_FACTS} fit")
    facts = entry.subject
    if not (
        _NAMES.issuperset(map(type, facts))
        and _FACTS.issuperset(map(type, facts.values()))
    ):
        raise RecordMalformed("a fact is a name with a string or a number")


@lru_cache(maxsize=256)
def _is_kind(word: str) -> bool:
    return len(word) <= _KIND_LENGTH and _KIND.fullmatch(word) is not None
