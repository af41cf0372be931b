"""Recompute the whole log from its stored bodies and compare it with what was signed.

Nothing stored is believed: leaf hashes come from the bodies, nodes and roots from the
leaf hashes, and each checkpoint must be signed and have the recomputed root. Each
record must follow from those before it, and the registry must be what they made it;
what was typed with a record must be there, or erased on record.
What no checkpoint covers yet is as good as the database: see `LogReport.signed_size`.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Final

from sqlalchemy import Row, func, select
from sqlalchemy.orm import Session

from core.checkpoint import Checkpoint as Signed
from core.checkpoint import open_checkpoint
from core.database import Database, open_existing
from core.errors import CorruptFileError, SignatureError, StorageError
from core.merkle import EMPTY_ROOT, leaf_hash, node_hash
from orchestrator.audit.history import History
from orchestrator.audit.note_check import NoteCheck
from orchestrator.audit.records import Entry, parse_entry
from orchestrator.audit.registry_check import check_registry
from orchestrator.audit.writer import beside
from orchestrator.errors import AuditBroken, RecordMalformed
from orchestrator.registry.models import (
    AuditEventId,
    AuditLeaf,
    AuditLeafParty,
    AuditNode,
    AuditRequestId,
    Checkpoint,
)

Leaf = Row[int, bytes, bytes, str, int]

_BATCH: Final = 2048
# Asked of the connection, not as mapped classes: that takes half as long.
_LEAVES: Final = (
    select(
        AuditLeaf.index,
        AuditLeaf.body,
        AuditLeaf.leaf_hash,
        AuditLeaf.kind,
        AuditLeaf.time_ms,
    )
    .order_by(AuditLeaf.index)
    .execution_options(yield_per=_BATCH)
)
_NODES: Final = select(AuditNode.position, AuditNode.hash).order_by(AuditNode.position)


@dataclass(frozen=True, slots=True)
class LogReport:
    """A log that holds: every record, node and checkpoint was recomputed."""

    size: int
    # The root over all records, 32 bytes.
    root: bytes
    # How many of the records the newest checkpoint covers.
    signed_size: int
    # How many checkpoints were verified.
    checkpoints: int
    records_per_second: float
    # How many of the notes beside the records were erased, on record; None: there were
    # no notes to look at, as in tiles.
    erased: int | None = None


def verify_log(
    source: Database | Path,
    public_key: bytes,
    on_progress: Callable[[int, int], None] | None = None,
    *,
    origin: str | None = None,
    side_file: Path | None = None,
) -> LogReport:
    """Verify the whole log as it stands, while others may go on appending.

    Args:
        source: An open database, or the path of an SQLite file, which is only read.
        public_key: The log's Ed25519 key, 32 raw bytes.
        on_progress: Called with records done and records in all, now and then.
        origin: The log's name; None: the one its checkpoints give, which is then
            verified like the rest of them.
        side_file: Where a copy of a checkpoint is; None: beside SQLite's file.

    Raises:
        AuditBroken: at the first thing that differs: where, and what.
        StorageError: if the database cannot be read.
    """
    started = time.monotonic()
    with ExitStack() as stack:
        database = source
        if isinstance(database, Path):
            database = stack.enter_context(open_existing(database))
        session = stack.enter_context(database.reading())
        signed = _signed(session, side_file or beside(database), public_key, origin)
        total = session.scalar(select(func.count()).select_from(AuditLeaf)) or 0
        history, notes = History(), NoteCheck()
        readers = (history.add, notes.add)
        tree = _recompute(session, signed, readers, on_progress or _silent, total)
        _check_no_more(session, tree.size, signed)
        _check_indexes(session, tree.size)
        erased = notes.check(session)
        check_registry(session, history)
    seconds = max(time.monotonic() - started, 1e-9)
    newest = max(signed, default=0)
    rate = tree.size / seconds
    return LogReport(tree.size, tree.root(), newest, len(signed), rate, erased)


class _Tree:
    """The tree so far: at most one complete subtree a level, as in a binary counter."""

    def __init__(self) -> None:
        self.size = 0
        # The largest subtree first.
        self._peaks: list[bytes] = []
        self._completed: defaultdict[int, list[bytes]] = defaultdict(list)

    def add(self, digest: bytes) -> None:
        """Add a leaf hash, and the nodes that it completes."""
        level, rest = 0, self.size
        while rest & 1:
            digest = node_hash(self._peaks.pop(), digest)
            level, rest = level + 1, rest >> 1
            self._completed[level].append(digest)
        self._peaks.append(digest)
        self.size += 1

    def completed(self) -> Mapping[int, Sequence[bytes]]:
        """Return the nodes since this was asked last: by level, in their order."""
        completed, self._completed = self._completed, defaultdict(list)
        return completed

    def root(self) -> bytes:
        """Return the root: the small subtrees are folded into the large ones."""
        if not self._peaks:
            return EMPTY_ROOT
        return reduce(lambda small, large: node_hash(large, small), self._peaks[::-1])


def _recompute(
    session: Session,
    signed: Mapping[int, Signed],
    readers: Sequence[Callable[[Entry], None]],
    on_progress: Callable[[int, int], None],
    total: int,
) -> _Tree:
    tree = _Tree()
    if 0 in signed:
        _check_root(tree, signed[0])
    # Closed also where a record is broken: else its cursor stays open for a while.
    with session.connection().execute(_LEAVES) as found:
        for leaves in found.partitions(_BATCH):
            start = tree.size
            _add(tree, leaves, signed, readers)
            _check_nodes(session, tree, start)
            on_progress(tree.size, total)
    return tree


def _add(
    tree: _Tree,
    leaves: Sequence[Leaf],
    signed: Mapping[int, Signed],
    readers: Sequence[Callable[[Entry], None]],
) -> None:
    for leaf in leaves:
        entry, digest = _recomputed(leaf, tree.size)
        for read in readers:
            read(entry)
        tree.add(digest)
        if tree.size in signed:
            _check_root(tree, signed[tree.size])


def _recomputed(leaf: Leaf, index: int) -> tuple[Entry, bytes]:
    """Return a record and its leaf hash, or say how the record differs."""
    stored_index, body, stored_hash, kind, time_ms = leaf
    if stored_index != index:
        raise AuditBroken("record", index, f"is missing: {stored_index} comes next")
    if type(body) is not bytes or leaf_hash(body) != stored_hash:
        raise AuditBroken("record", index, "its body does not have its leaf hash")
    try:
        entry = parse_entry(body)
    except RecordMalformed as error:
        raise AuditBroken("record", index, f"its body is no record: {error}") from error
    if entry.index != index:
        raise AuditBroken("record", index, f"its body is that of {entry.index}")
    if (entry.kind, entry.time_ms) != (kind, time_ms):
        raise AuditBroken("record", index, "its columns do not say what its body says")
    return entry, stored_hash


def _check_nodes(session: Session, tree: _Tree, start: int) -> None:
    """Compare the stored nodes that the leaves from `start` on completed."""
    for level, hashes in tree.completed().items():
        first, end = start >> level, tree.size >> level
        query = _NODES.where(
            AuditNode.level == level,
            AuditNode.position >= first,
            AuditNode.position < end,
        )
        stored = session.connection().execute(query).all()
        if stored != (expected := list(zip(range(first, end), hashes, strict=True))):
            position = _first_that_differs(stored, expected)
            where = f"level {level}, position {position}"
            at = position << level
            raise AuditBroken("node", at, f"the hash at {where} differs")


def _first_that_differs(
    stored: Sequence[Row[int, bytes]], expected: Sequence[tuple[int, bytes]]
) -> int:
    held = {row.position: row.hash for row in stored}
    differing = (at for at, digest in expected if held.get(at) != digest)
    return next(differing, expected[0][0])


def _check_root(tree: _Tree, checkpoint: Signed) -> None:
    if checkpoint.root != tree.root():
        raise AuditBroken("checkpoint", tree.size, "signs another root")


def _check_no_more(session: Session, size: int, signed: Mapping[int, Signed]) -> None:
    """Refuse checkpoints and nodes over records that are not there."""
    newest = max(signed, default=0)
    if newest > size:
        raise AuditBroken("checkpoint", newest, f"the log holds only {size} records")
    nodes = session.scalar(select(func.count()).select_from(AuditNode)) or 0
    if nodes != sum(size >> level for level in range(1, size.bit_length())):
        raise AuditBroken("node", size, "there are nodes over records that are missing")


def _check_indexes(session: Session, size: int) -> None:
    """Refuse names and readers of records that are not there; fewer may be kept."""
    for part in (AuditLeafParty, AuditEventId, AuditRequestId):
        stray = select(func.min(part.index)).where(
            (part.index < 0) | (part.index >= size)
        )
        if (index := session.scalar(stray)) is not None:
            difference = f"is not there, but {part.__tablename__} names it"
            raise AuditBroken("record", index, difference)


def _signed(
    session: Session, side_file: Path | None, public_key: bytes, origin: str | None
) -> dict[int, Signed]:
    """Open every checkpoint, the one beside the database too; by size."""
    query = select(Checkpoint.size, Checkpoint.note).order_by(Checkpoint.size)
    notes: list[tuple[int | None, bytes]] = [
        (size, note) for size, note in session.execute(query)
    ]
    if (note := _read_side_file(side_file)) is not None:
        notes.append((None, note))
    signed: dict[int, Signed] = {}
    for size, note in notes:
        opened = _open(note, public_key, origin, size)
        origin = opened.origin
        if signed.setdefault(opened.size, opened) != opened:
            raise AuditBroken("checkpoint", opened.size, "two roots are signed")
    return signed


def _open(
    note: bytes, public_key: bytes, origin: str | None, size: int | None
) -> Signed:
    """Open the checkpoint stored as that of `size`; None: the one in the side file."""
    part = "side file" if size is None else "checkpoint"
    if type(note) is not bytes:
        raise AuditBroken(part, size, "its note is not stored as bytes")
    try:
        opened = open_checkpoint(note, public_key, origin or _origin(note))
    except (SignatureError, CorruptFileError) as error:
        raise AuditBroken(part, size, str(error)) from error
    if size is not None and opened.size != size:
        raise AuditBroken(part, size, f"its note is that of {opened.size}")
    return opened


def _read_side_file(path: Path | None) -> bytes | None:
    try:
        return None if path is None else path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StorageError(f"cannot read {path}") from error


def _origin(note: bytes) -> str:
    return note.partition(b"\n")[0].decode(errors="replace")


def _silent(_done: int, _total: int) -> None:
    pass
