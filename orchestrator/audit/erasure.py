"""The notes beside the log: found for who may read a record, and erased for good.

The registry holds a text too, of a key, a job or a request, for those who look at it.
With the last note that says it, it is erased there as well.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from core.canonical import canonical, parse
from core.errors import Conflict
from orchestrator.audit.notes import DIGEST, ERASED, REASON, Note, check_reason
from orchestrator.audit.records import Fact, parse_entry
from orchestrator.errors import NothingToErase
from orchestrator.registry.lifecycle import ApprovalState
from orchestrator.registry.models import (
    Approval,
    AuditLeaf,
    AuditLeafParty,
    AuditNote,
    Job,
    Key,
    KeyVersion,
)
from orchestrator.registry.store import Change

ERASURE: Final = "note.erased"
# The fact that names the record whose note was erased.
RECORD: Final = "record"
_OPEN: Final = (ApprovalState.PENDING, ApprovalState.APPROVED)


def notes_of(session: Session, indices: Iterable[int]) -> dict[int, Note]:
    """The notes that are kept with these records, by index."""
    query = select(AuditNote).where(AuditNote.index.in_(list(indices)))
    return {row.index: Note(row.salt, row.text) for row in session.scalars(query)}


def erase(change: Change, index: int, reason: str) -> Sequence[int]:
    """Erase what was typed with a record; the record and the tree stay as they are.

    What is erased already stays so, and nothing is recorded again.

    Returns:
        The other records that the same text is kept with, by index.

    Raises:
        NothingToErase: no text was ever kept with that record.
        Conflict: a request that says the same still waits to be decided.
    """
    check_reason(reason)
    note = change.session.get(AuditNote, index)
    if note is None:
        _require_noted(change.session, index)
        return []
    text = note.text
    change.session.delete(note)
    change.session.flush()
    others = _kept_with(change.session, text)
    if not others:
        _erase_from_registry(change.session, text)
    facts: dict[str, Fact] = {RECORD: index, REASON: reason}
    change.record(ERASURE, facts, _readers(change.session, index))
    return others


def _require_noted(session: Session, index: int) -> None:
    leaf = session.get(AuditLeaf, index)
    if leaf is None or DIGEST not in parse_entry(leaf.body).subject:
        raise NothingToErase(f"no text was ever kept with record {index}")


def _kept_with(session: Session, text: str) -> Sequence[int]:
    query = select(AuditNote.index).where(AuditNote.text == text)
    return session.scalars(query.order_by(AuditNote.index)).all()


def _readers(session: Session, index: int) -> Sequence[str]:
    query = select(AuditLeafParty.spiffe_id).where(AuditLeafParty.index == index)
    return session.scalars(query).all()


def _erase_from_registry(session: Session, text: str) -> None:
    _erase_from_requests(session, text)
    for column in (KeyVersion.reason, Key.held_for, Job.why):
        row = column.parent.class_
        session.execute(
            update(row).where(column == text).values({column.key: ERASED}),
            execution_options={"synchronize_session": False},
        )


def _erase_from_requests(session: Session, text: str) -> None:
    for approval in session.scalars(select(Approval)).all():
        asked = parse(approval.arguments)
        if asked.get(REASON) != text:
            continue
        if approval.state in _OPEN:
            raise Conflict(f"approval {approval.id} says the same: decide on it first")
        approval.arguments = canonical({**asked, REASON: ERASED})
