"""What a transaction has appended to the log: inserted at once before its commit.

A record costs its share of six statements, whatever they insert, and nothing is read
from the database again: not the log's size, nor the tree.
"""

from collections.abc import Iterable
from typing import Any, Final

from sqlalchemy import insert
from sqlalchemy.orm import Session

from core.database.fixed import Fixed
from core.merkle import leaf_hash
from orchestrator.audit.notes import Note
from orchestrator.audit.records import Entry
from orchestrator.audit.tree import Frontier
from orchestrator.registry.models import (
    AuditEventId,
    AuditLeaf,
    AuditLeafParty,
    AuditNode,
    AuditNote,
    AuditRequestId,
)

Row = dict[str, Any]

# What a record consists of, in the order in which it is written: what refers to a
# record comes after the record. All columns are given, always.
_INSERT: Final = {
    table: Fixed(insert(table), list(table.__table__.columns.keys()))
    for table in (
        AuditLeaf,
        AuditNode,
        AuditLeafParty,
        AuditRequestId,
        AuditNote,
        AuditEventId,
    )
}
# The fact that names a request.
REQUEST: Final = "request_id"
# In a session: what its transaction has appended.
_PENDING: Final = "keymixer_audit_pending"


class Pending:
    """The records of one transaction, on top of the log that it found.

    Args:
        frontier: The log's when the transaction began; it grows with each record.
    """

    def __init__(self, frontier: Frontier) -> None:
        self.frontier = frontier
        # The leaf hash of the newest record, if there is one.
        self.newest = b""
        self._leaves: list[Row] = []
        self._nodes: list[Row] = []
        self._parties: list[Row] = []
        self._requests: list[Row] = []
        self._notes: list[Row] = []
        self._names: dict[tuple[str, str], Row] = {}

    def add(self, entry: Entry, body: bytes, parties: Iterable[str]) -> None:
        """Append a record, whose index is the log's size, with who may read it."""
        self.newest = leaf_hash(body)
        self._leaves.append(
            {
                "index": entry.index,
                "body": body,
                "leaf_hash": self.newest,
                "kind": entry.kind,
                "time_ms": entry.time_ms,
            }
        )
        nodes = self.frontier.append(self.newest)
        self._nodes += [node._asdict() for node in nodes]
        self._parties += [
            {"index": entry.index, "spiffe_id": party} for party in sorted(parties)
        ]
        if (request := entry.subject.get(REQUEST)) and isinstance(request, str):
            self._requests.append({"request_id": request, "index": entry.index})

    def keep(self, index: int, note: Note) -> None:
        """Keep what was typed with one of these records beside it."""
        self._notes.append({"index": index, "salt": note.salt, "text": note.text})

    def name(self, actor: str, event_id: str, index: int) -> None:
        """Note what the actor called one of these records."""
        row = {"actor": actor, "event_id": event_id, "index": index}
        self._names[actor, event_id] = row

    def named(self, actor: str, event_id: str) -> bytes | None:
        """Return the body of the one of them that the actor called so."""
        if (row := self._names.get((actor, event_id))) is None:
            return None
        body: bytes = self._leaves[row["index"] - self._leaves[0]["index"]]["body"]
        return body

    def insert(self, session: Session) -> None:
        """Write all of it; what refers to a record comes after the record."""
        for table, rows in (
            (AuditLeaf, self._leaves),
            (AuditNode, self._nodes),
            (AuditLeafParty, self._parties),
            (AuditRequestId, self._requests),
            (AuditNote, self._notes),
            (AuditEventId, list(self._names.values())),
        ):
            if rows:
                _INSERT[table].run(session, rows)


def pending(session: Session) -> Pending | None:
    """Return what this transaction has appended; None: nothing."""
    found: Pending | None = session.info.get(_PENDING)
    return found


def begin_pending(session: Session, frontier: Frontier) -> Pending:
    """Start to append in this transaction."""
    begun = session.info[_PENDING] = Pending(frontier)
    return begun
