"""The log as a folder of static files, C2SP tlog-tiles, for any web server or auditor.

    checkpoint                     the newest signed checkpoint
    tile/<L>/<N>[.p/<W>]           256 hashes of 32 bytes, or W of them
    tile/entries/<N>[.p/<W>]       the records: big-endian uint16 length and body each

Hash i of tile N at level L is over the 256**L records from (256 N + i) 256**L on; level
0 is the leaf hashes. <N> is written in groups of three digits, such as `x001/234`. A
tile never changes: one that grows gets another name, until it is full.

See https://c2sp.org/tlog-tiles.
"""

import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from sqlalchemy import Row, Select, select
from sqlalchemy.orm import Session

from core.database import Database
from core.errors import CorruptFileError, StorageError, TooLargeError
from core.merkle import leaf_hash
from core.wire import write_atomically
from orchestrator.errors import AuditBroken, NotInLog, OtherLogExported
from orchestrator.registry.models import AuditLeaf, AuditNode, Checkpoint

WIDTH: Final = 256
ENTRIES: Final = "entries"
CHECKPOINT: Final = "checkpoint"
MAX_ENTRY_BYTES: Final = 0xFFFF
MAX_BUNDLE_BYTES: Final = WIDTH * (2 + MAX_ENTRY_BYTES)

_BITS: Final = 8  # a tile is a subtree of height 8
_GROUP: Final = 3
_PATH = re.compile(
    r"tile/(?P<kind>entries|[1-5]?[0-9]|6[0-3])/"
    r"(?P<number>(x[0-9]{3}/){0,5}[0-9]{3})(\.p/(?P<width>[1-9][0-9]{0,2}))?"
)


class Tile(NamedTuple):
    """One file: `width` hashes of a level, or as many records."""

    # A level in decimal, or `entries`.
    kind: str
    number: int
    # 1 to 256.
    width: int

    @property
    def path(self) -> str:
        """Where it is within the folder, with slashes."""
        digits = str(self.number)
        digits = digits.zfill(-(-len(digits) // _GROUP) * _GROUP)
        groups = [digits[at : at + _GROUP] for at in range(0, len(digits), _GROUP)]
        folders = "".join(f"x{group}/" for group in groups[:-1])
        partial = "" if self.width == WIDTH else f".p/{self.width}"
        return f"tile/{self.kind}/{folders}{groups[-1]}{partial}"

    @property
    def level(self) -> int:
        """Its level; records are at level 0, as their leaf hashes are."""
        return 0 if self.kind == ENTRIES else int(self.kind)

    @property
    def first_record(self) -> int:
        """The index of the first record under it."""
        return self.number << _BITS * (self.level + 1)


def parse_path(path: str) -> Tile | None:
    """Read a path that is written the one right way; None: it is no tile's."""
    found = _PATH.fullmatch(path)
    if found is None:
        return None
    number = int(re.sub("[x/]", "", found["number"]))
    tile = Tile(found["kind"], number, int(found["width"] or WIDTH))
    return tile if tile.path == path and tile.width <= WIDTH else None


def levels(size: int) -> range:
    """Return the levels of the tiles of a log with `size` records."""
    return range(-(-size.bit_length() // _BITS))


def tiles(kind: str, size: int, covered: int = 0) -> Iterator[Tile]:
    """Yield the tiles of one kind for `size` records.

    Args:
        kind: A level in decimal, or `entries`.
        size: How many records the log has.
        covered: Leave out the tiles that a log of this size had full.
    """
    shift = _BITS * Tile(kind, 0, 1).level
    hashes = size >> shift
    for number in range((covered >> shift) // WIDTH, -(-hashes // WIDTH)):
        yield Tile(kind, number, min(WIDTH, hashes - number * WIDTH))


def encode_bundle(bodies: Iterable[bytes]) -> bytes:
    """Write records one after the other, each after its length.

    Raises:
        TooLargeError: if a record is longer than 65,535 bytes.
    """
    return b"".join(_sized(body) + body for body in bodies)


def decode_bundle(bundle: bytes) -> Iterator[bytes]:
    """Read the records back, or raise `CorruptFileError`."""
    at, number = 0, 0
    while at < len(bundle):
        start = at + 2
        at = start + int.from_bytes(bundle[at:start], "big")
        if at > len(bundle):
            raise CorruptFileError(f"entry {number} is cut short")
        yield bundle[start:at]
        number += 1


@dataclass(frozen=True, slots=True)
class Exported:
    """A folder that holds the log up to a checkpoint."""

    size: int
    # How many tiles and bundles were not there yet.
    written: int


def export_tiles(
    database: Database,
    folder: Path,
    on_progress: Callable[[int, int], None] | None = None,
) -> Exported:
    """Write the log, up to its newest checkpoint, into a folder.

    A folder that holds an earlier export of this log is brought up to date, and an
    export that was interrupted is gone on with: what is there is not written again.
    The checkpoint comes last, so that a reader finds all that it covers. Partial tiles
    of earlier checkpoints stay until their full tile is there, as the format asks.

    Args:
        database: Holds the log; it is only read.
        folder: Made if it is not there.
        on_progress: Called with records done and records in all.

    Raises:
        NotInLog: if no checkpoint is signed yet.
        OtherLogExported: if the folder holds another log, or another history.
        AuditBroken: if records or nodes under the checkpoint are missing.
        TooLargeError: if a record does not fit into a bundle.
        StorageError: if the folder cannot be written.
    """
    with database.reading() as session:
        size, note = _newest(session)
        covered = _covered(session, folder / CHECKPOINT)
    written = 0
    for tile, content in _contents(database, size, covered):
        written += _put(folder, tile, content)
        if on_progress is not None and tile.kind == ENTRIES:
            on_progress(tile.first_record + tile.width, size)
    _write(folder / CHECKPOINT, note)
    _remove_superseded(folder)
    return Exported(size, written)


def _sized(body: bytes) -> bytes:
    if len(body) > MAX_ENTRY_BYTES:
        raise TooLargeError(
            f"a record has {len(body)} bytes, at most {MAX_ENTRY_BYTES} fit a bundle"
        )
    return len(body).to_bytes(2, "big")


def _newest(session: Session) -> tuple[int, bytes]:
    query = select(Checkpoint.size, Checkpoint.note).order_by(Checkpoint.size.desc())
    row = session.execute(query.limit(1)).first()
    if row is None:
        raise NotInLog("no checkpoint is signed yet")
    return row.size, row.note


def _covered(session: Session, path: Path) -> int:
    """Return how many records an earlier export covers, by its checkpoint."""
    note = _read_if_there(path)
    if note is None:
        return 0
    size = session.scalar(select(Checkpoint.size).where(Checkpoint.note == note))
    if size is None:
        raise OtherLogExported(f"this log never signed the checkpoint {path}")
    return size


def _contents(
    database: Database, size: int, covered: int
) -> Iterator[tuple[Tile, bytes]]:
    for bundle in tiles(ENTRIES, size, covered):
        bodies = _bodies(database, bundle)
        yield bundle, encode_bundle(bodies)
        yield bundle._replace(kind="0"), b"".join(map(leaf_hash, bodies))
    for level in levels(size)[1:]:
        for tile in tiles(str(level), size, covered):
            yield tile, b"".join(_nodes(database, tile))


def _bodies(database: Database, bundle: Tile) -> list[bytes]:
    start, end = _span(bundle)
    query = (
        select(AuditLeaf.index, AuditLeaf.body)
        .where(AuditLeaf.index >= start, AuditLeaf.index < end)
        .order_by(AuditLeaf.index)
    )
    return _all_of(database, query, bundle, "record")


def _nodes(database: Database, tile: Tile) -> list[bytes]:
    start, end = _span(tile)
    query = (
        select(AuditNode.position, AuditNode.hash)
        .where(AuditNode.level == _BITS * tile.level)
        .where(AuditNode.position >= start, AuditNode.position < end)
        .order_by(AuditNode.position)
    )
    return _all_of(database, query, tile, "node")


def _span(tile: Tile) -> tuple[int, int]:
    start = tile.number * WIDTH
    return start, start + tile.width


def _all_of(
    database: Database, query: Select[int, bytes], tile: Tile, part: str
) -> list[bytes]:
    """Return the values of consecutive rows, or say which one is missing.

    What is signed never changes, so each tile is read by itself: a snapshot kept for
    the whole export would keep SQLite's write-ahead log from being emptied.
    """
    with database.reading() as session:
        rows: list[Row[int, bytes]] = list(session.execute(query))
    for number, expected in enumerate(range(*_span(tile))):
        first = expected << _BITS * tile.level
        if number >= len(rows) or rows[number][0] != expected:
            raise AuditBroken(part, first, f"is missing: {tile.path} needs it")
        if type(rows[number][1]) is not bytes:
            raise AuditBroken(part, first, "is not stored as bytes")
    return [value for _, value in rows]


def _put(folder: Path, tile: Tile, content: bytes) -> bool:
    """Write a tile that is not there; return whether it was not."""
    path = folder / tile.path
    there = _read_if_there(path)
    if there is None:
        _write(path, content)
    elif there != content:
        raise OtherLogExported(f"{path} is there and says something else")
    return there is None


def _write(path: Path, content: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot make {path.parent}: {error.strerror}") from error
    write_atomically(path, content)


def _read_if_there(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}") from error


def _remove_superseded(folder: Path) -> None:
    """Remove partial tiles that are full by now, and what a crash left half written."""
    try:
        for partial in list(folder.glob("tile/**/*.p")):
            if partial.with_suffix("").is_file():
                shutil.rmtree(partial)
        for aside in [*folder.glob(".checkpoint.*"), *folder.glob("tile/**/.*")]:
            aside.unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(f"cannot tidy {folder}: {error.strerror}") from error
