"""What people type is kept beside the log, where it can be erased.

A record stays for ever, and a reason may name somebody. So a record has only a digest
of it: HMAC-SHA256 of the text under a salt of its own, which is kept with the text.
Once both are erased, nobody can try out what the text may have been.
"""

import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from core.errors import InvalidInput
from orchestrator.audit.records import Fact
from orchestrator.errors import AuditBroken

# The fact that people type, and what a record has in its place.
REASON: Final = "reason"
DIGEST: Final = "reason_hmac"
ERASED: Final = "(erased)"
SALT_BYTES: Final = 32
LONGEST: Final = 500


@dataclass(frozen=True, slots=True)
class Note:
    """A text, and the salt of its digest."""

    salt: bytes = field(repr=False)
    text: str = field(repr=False)

    def digest(self) -> str:
        """What the record says in its place, in hex."""
        return hmac.digest(self.salt, self.text.encode(), "sha256").hex()


def check_reason(reason: str) -> None:
    """Refuse a reason that says nothing or too much, or has what no text has."""
    if not reason.strip() or len(reason) > LONGEST or "\0" in reason:
        raise InvalidInput(f"reason: expected 1 to {LONGEST} characters of text")


def set_apart(subject: Mapping[str, Fact]) -> tuple[Mapping[str, Fact], Note | None]:
    """Take what people typed out of a record's facts."""
    if REASON not in subject:
        return subject, None
    note = Note(secrets.token_bytes(SALT_BYTES), str(subject[REASON]))
    return _replaced(subject, REASON, DIGEST, note.digest()), note


def put_back(
    subject: Mapping[str, Fact], note: Note | None, index: int
) -> Mapping[str, Fact]:
    """Give a record's facts with what was typed, for people to read.

    Records that are older than the notes have it among their facts.

    Raises:
        AuditBroken: the note is not the one that was kept with the record.
    """
    if note is not None:
        check(note, subject.get(DIGEST, ""), index)
    if DIGEST not in subject:
        return subject
    return _replaced(subject, DIGEST, REASON, ERASED if note is None else note.text)


def check(note: Note, digest: Fact, index: int) -> None:
    """Return if the note has the digest that its record says.

    Raises:
        AuditBroken: it has another one.
    """
    if not hmac.compare_digest(str(digest).encode(), note.digest().encode()):
        raise AuditBroken("note", index, "it is not the one that its record tells of")


def _replaced(
    subject: Mapping[str, Fact], old: str, new: str, value: str
) -> dict[str, Fact]:
    rest = {name: fact for name, fact in subject.items() if name != old}
    return {**rest, new: value}
