"""The one writer of the audit log: records in, signed checkpoints and proofs out.

A record is appended inside the transaction of the change it records, so that both are
durable or neither is. A root is signed only over durable records, and its checkpoint is
on disk twice, in the database and in a file beside it, before anyone sees it: so a
database that was put back to an older state is found at the next start.
"""

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import bindparam, func, select
from sqlalchemy.orm import Session

from core.checkpoint import open_checkpoint, sign_checkpoint
from core.database import Database, before_commit
from core.database.fixed import Fixed
from core.errors import CorruptFileError, SignatureError, StorageError
from core.wire import write_atomically
from orchestrator.audit import tree
from orchestrator.audit.notes import set_apart
from orchestrator.audit.pending import Pending, begin_pending, pending
from orchestrator.audit.records import Entry, Fact
from orchestrator.audit.tree import Frontier
from orchestrator.errors import LogRewound, NotInLog
from orchestrator.registry.models import (
    AuditLeaf,
    AuditLeafParty,
    AuditNode,
    Checkpoint,
)

SIDE_FILE: Final = "checkpoint.txt"

_NEWEST: Final = Fixed(
    select(AuditLeaf.index, AuditLeaf.leaf_hash)
    .order_by(AuditLeaf.index.desc())
    .limit(1)
)
_LAST_INDEX: Final = Fixed(select(func.max(AuditLeaf.index)))
_LEAF: Final = Fixed(
    select(AuditLeaf.leaf_hash).where(AuditLeaf.index == bindparam("at"))
)
_NODE: Final = Fixed(
    select(AuditNode.hash).where(
        AuditNode.level == bindparam("at_level"), AuditNode.position == bindparam("at")
    )
)


class _Known(NamedTuple):
    """A frontier, and the newest leaf hash of the log that it is of."""

    size: int = 0
    newest: bytes = b""
    peaks: tuple[bytes, ...] = ()


class InclusionProof(NamedTuple):
    """A record's leaf hash and its path to the root, lowest first; 32 bytes each."""

    leaf_hash: bytes
    path: list[bytes]


@dataclass(frozen=True, slots=True)
class StoredEntry:
    """A record as stored: exactly the bytes that were hashed."""

    index: int
    body: bytes


class AuditLog:
    """The log on one database. `origin` names it in every checkpoint.

    Args:
        database: Holds the log, and the registry that it speaks of.
        origin: The log's name, without spaces or plus signs.
        signing_key: The log's own key, which no party has.
        clock: Milliseconds since the epoch.
        side_file: A second place for the newest checkpoint; default: beside SQLite's
            file. On a server's database there is none unless you name one; each
            process that signs keeps its own.
    """

    def __init__(
        self,
        database: Database,
        origin: str,
        signing_key: Ed25519PrivateKey,
        clock: Callable[[], int],
        *,
        side_file: Path | None = None,
    ) -> None:
        self._database = database
        self._origin = origin
        self._signing_key = signing_key
        self._clock = clock
        self._side_file = side_file or beside(database)
        self._one_signer = threading.Lock()
        self._known = _Known()

    @property
    def origin(self) -> str:
        """The log's name."""
        return self._origin

    @property
    def public_key(self) -> bytes:
        """The Ed25519 key that checkpoints verify with, 32 raw bytes."""
        return self._signing_key.public_key().public_bytes_raw()

    def append(
        self,
        session: Session,
        kind: str,
        actor: str,
        subject: Mapping[str, Fact],
        parties: Iterable[str] = (),
    ) -> int:
        """Append a record in the caller's transaction and return its index.

        Args:
            session: From `Database.transaction`; the record is durable when that ends.
            kind: What happened, such as `key.created`.
            actor: Who did it, a SPIFFE ID; empty if the caller proved no identity.
            subject: Short facts: names, versions, digests in hex. Never content. What
                people typed, `reason`, is kept beside the record.
            parties: SPIFFE IDs, beside the actor, that may read the record.

        Raises:
            RecordMalformed: if kind or subject breaks the layout.
        """
        mine = pending(session) or self._begin(session)
        facts, note = set_apart(subject)
        entry = Entry(mine.frontier.size, self._clock(), kind, actor, facts)
        mine.add(entry, entry.to_bytes(), {actor, *parties} - {""})
        if note is not None:
            mine.keep(entry.index, note)
        return entry.index

    def size(self) -> int:
        """Return how many durable records the log holds."""
        with self._database.reading() as session:
            return log_size(session)

    def entries(
        self, start: int, limit: int, *, kind: str = "", party: str = ""
    ) -> list[StoredEntry]:
        """Return at most `limit` records from index `start` on.

        Args:
            start: The first index.
            limit: The most records.
            kind: Only this kind; empty: every kind.
            party: Only records that name this SPIFFE ID; empty: all.
        """
        query = select(AuditLeaf.index, AuditLeaf.body).where(AuditLeaf.index >= start)
        if kind:
            query = query.where(AuditLeaf.kind == kind)
        if party:
            query = query.join(
                AuditLeafParty, AuditLeafParty.index == AuditLeaf.index
            ).where(AuditLeafParty.spiffe_id == party)
        with self._database.reading() as session:
            rows = session.execute(query.order_by(AuditLeaf.index).limit(limit))
            return [StoredEntry(index, body) for index, body in rows]

    def checkpoint(self, covering: int | None = None) -> bytes:
        """Sign the newest root, or return the note already signed for it.

        The note is durable, in the side file and then in the table, when it returns.

        Args:
            covering: The newest note that is signed already will do if it covers so
                many records; None: it has to cover all.
        """
        if covering is not None:
            size, note = self._newest_note()
            if note is not None and size >= covering:
                return note
        with self._one_signer:
            with self._database.reading() as session:
                size = log_size(session)
                known = session.get(Checkpoint, size)
                root = tree.root(size, node_reader(session))
            if known is not None:
                return known.note
            note = sign_checkpoint(self._signing_key, self._origin, size, root)
            if self._side_file is not None:
                write_atomically(self._side_file, note)
            return self._keep(size, note)

    def check_against_last_checkpoint(self) -> None:
        """Return if the log still extends everything it signed; call it at start.

        Raises:
            LogRewound: if it is shorter, another log, or the side file is missing. On
                a server's database that is no sign of it: a new process has none.
        """
        _, newest = self._newest_note()
        with self._database.reading() as session:
            expected = newest is not None and self._side_file == beside(self._database)
            for note in (newest, self._side_note(expected=expected)):
                if note is not None:
                    self._check_extends(session, note)

    def inclusion_proof(self, index: int, size: int) -> InclusionProof:
        """Prove that record `index` is in the tree of the first `size` records.

        Raises:
            NotInLog: if the log has not `size` records, or the tree not this one.
        """
        with self._database.reading() as session:
            _check_size(session, size)
            read = node_reader(session)
            path = tree.inclusion_path(index, size, read)
            return InclusionProof(read(0, index), path)

    def consistency_proof(self, first: int, second: int) -> list[bytes]:
        """Prove that the tree of `second` records extends that of `first`.

        Raises:
            NotInLog: unless 0 < first <= second <= the log's size.
        """
        with self._database.reading() as session:
            _check_size(session, second)
            return tree.consistency_path(first, second, node_reader(session))

    def _begin(self, session: Session) -> Pending:
        begun = begin_pending(session, self._read_frontier(session))
        before_commit(session, lambda: self._end(session, begun))
        return begun

    def _end(self, session: Session, ended: Pending) -> None:
        ended.insert(session)
        # Perhaps it is never committed: the next transaction compares.
        frontier = ended.frontier
        self._known = _Known(frontier.size, ended.newest, frontier.peaks)

    def _read_frontier(self, session: Session) -> Frontier:
        """Return what the next record is appended to; one query, most times."""
        last = _NEWEST.rows(session, {})
        if not last:
            return Frontier()
        index, newest = last[0]
        known = self._known
        if (known.size, known.newest) == (index + 1, newest):
            return Frontier(index + 1, known.peaks)
        return Frontier.read(index + 1, node_reader(session))

    def _newest_note(self) -> tuple[int, bytes | None]:
        """Return the newest note that is signed, and how many records it covers."""
        query = select(Checkpoint.size, Checkpoint.note)
        newest = query.order_by(Checkpoint.size.desc()).limit(1)
        with self._database.reading() as session:
            found = session.execute(newest).one_or_none()
        return (0, None) if found is None else (found.size, found.note)

    def _keep(self, size: int, note: bytes) -> bytes:
        """Store the note, or return the one that another process stored meanwhile."""
        with self._database.transaction() as session:
            if (kept := session.get(Checkpoint, size)) is not None:
                return kept.note
            session.add(Checkpoint(size=size, note=note))
        return note

    def _side_note(self, *, expected: bool) -> bytes | None:
        if self._side_file is None:
            return None
        try:
            return self._side_file.read_bytes()
        except FileNotFoundError:
            if expected:
                raise LogRewound(f"{self._side_file} is missing") from None
            return None
        except OSError as error:
            raise StorageError(f"cannot read {self._side_file}") from error

    def _check_extends(self, session: Session, note: bytes) -> None:
        try:
            signed = open_checkpoint(note, self.public_key, self._origin)
        except (SignatureError, CorruptFileError) as error:
            raise LogRewound("the last checkpoint is not this log's") from error
        size = log_size(session)
        if size < signed.size:
            raise LogRewound(f"signed {signed.size} records, the log holds {size}")
        if tree.root(signed.size, node_reader(session)) != signed.root:
            raise LogRewound(f"the first {signed.size} records are not those signed")


def beside(database: Database) -> Path | None:
    """Return where the side file of an SQLite database is; None on a server's."""
    return None if database.folder is None else database.folder / SIDE_FILE


def log_size(session: Session) -> int:
    """Return how many records the log holds, as this transaction sees it."""
    if (mine := pending(session)) is not None:
        return mine.frontier.size
    last: int | None = _LAST_INDEX.rows(session, {})[0][0]
    return 0 if last is None else last + 1


def node_reader(session: Session) -> tree.ReadNode:
    """Return a reader of the tree's stored nodes, for `orchestrator.audit.tree`."""

    def read(level: int, position: int) -> bytes:
        query = _NODE if level else _LEAF
        found = query.rows(session, {"at_level": level, "at": position})
        if not found:
            raise LogRewound(f"tree node ({level}, {position}) is missing")
        digest: bytes = found[0][0]
        return digest

    return read


def _check_size(session: Session, size: int) -> None:
    held = log_size(session)
    if not 0 <= size <= held:
        raise NotInLog(f"no tree of {size} records: the log holds {held}")
