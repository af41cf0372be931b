"""The notes beside the log, held against the records that tell of them.

A note may be gone only if a later record says who erased it.
"""

from sqlalchemy import select
from sqlalchemy.orm import Session

from orchestrator.audit.erasure import ERASURE, RECORD
from orchestrator.audit.notes import DIGEST, Note, check
from orchestrator.audit.records import Entry, Fact
from orchestrator.errors import AuditBroken
from orchestrator.registry.models import AuditNote


class NoteCheck:
    """Which notes the records so far tell of, and which of them were erased."""

    def __init__(self) -> None:
        # The digest of each note, by index.
        self._told: dict[int, Fact] = {}
        self._erased: set[Fact] = set()

    def add(self, entry: Entry) -> None:
        """Take in the next record.

        Raises:
            AuditBroken: it erases a note that no earlier record tells of.
        """
        if entry.kind == ERASURE:
            erased = entry.subject.get(RECORD, "")
            if erased not in self._told or erased in self._erased:
                raise AuditBroken("record", entry.index, "it erases what was not kept")
            self._erased.add(erased)
        if DIGEST in entry.subject:
            self._told[entry.index] = entry.subject[DIGEST]

    def check(self, session: Session) -> int:
        """Compare the notes with the records; return how many were erased.

        Raises:
            AuditBroken: a note was changed, or is there or gone and should not be.
        """
        kept = set()
        query = select(AuditNote.index, AuditNote.salt, AuditNote.text)
        for index, salt, text in session.execute(query.order_by(AuditNote.index)).all():
            self._check(index, salt, text)
            kept.add(index)
        missing = self._told.keys() - kept - self._erased
        if missing:
            raise AuditBroken("note", min(missing), "it is gone, and nobody erased it")
        return len(self._erased)

    def _check(self, index: int, salt: object, text: object) -> None:
        """Hold one note against its record; SQLite keeps any type in any column."""
        if index not in self._told:
            raise AuditBroken("note", index, "no record tells of it")
        if index in self._erased:
            raise AuditBroken("note", index, "it was erased, and is there")
        if type(salt) is not bytes or type(text) is not str:
            raise AuditBroken("note", index, "it is not stored as bytes and text")
        check(Note(salt, text), self._told[index], index)
