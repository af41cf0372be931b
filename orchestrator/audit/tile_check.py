"""Verify a log from its exported tiles alone: a folder, a public key, no database.

Nothing in the folder is believed: leaf hashes come from the records, every other hash
from the leaf hashes, and the root must be the one that the checkpoint signs. A file
that no checkpoint asks for is an error, as one that is missing is.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Final

from core import merkle
from core.checkpoint import Checkpoint, open_checkpoint, stated_origin
from core.errors import CorruptFileError, SignatureError, StorageError
from core.merkle import EMPTY_ROOT, HASH_BYTES, leaf_hash
from orchestrator.audit.history import History
from orchestrator.audit.records import Entry, parse_entry
from orchestrator.audit.tiles import (
    CHECKPOINT,
    ENTRIES,
    MAX_BUNDLE_BYTES,
    WIDTH,
    Tile,
    decode_bundle,
    encode_bundle,
    levels,
    parse_path,
    tiles,
)
from orchestrator.audit.verify import LogReport
from orchestrator.errors import AuditBroken, RecordMalformed

_MAX_CHECKPOINT_BYTES: Final = 1_000_000

Progress = Callable[[int, int], None]


def verify_tiles(
    folder: Path,
    public_key: bytes,
    on_progress: Progress | None = None,
    *,
    origin: str | None = None,
) -> LogReport:
    """Verify a folder that `export_tiles`, or another log's tool, has written.

    Narrower partial tiles, of earlier checkpoints, may be there if the wider one starts
    with what they say.

    Args:
        folder: With `checkpoint` and `tile/` in it.
        public_key: The log's Ed25519 key, 32 raw bytes.
        on_progress: Called with records done and records in all, bundle by bundle.
        origin: The log's name; None: the one its checkpoint gives.

    Raises:
        AuditBroken: at the first thing that differs: where, and what.
        StorageError: if the folder cannot be read.
    """
    started = time.monotonic()
    signed = _signed(folder, public_key, origin)
    size = signed.size
    if _recomputed_root(folder, size, on_progress or _silent) != signed.root:
        raise AuditBroken("checkpoint", size, "signs another root")
    _check_no_more(folder, size)
    seconds = max(time.monotonic() - started, 1e-9)
    return LogReport(size, signed.root, size, 1, size / seconds)


def _signed(folder: Path, public_key: bytes, origin: str | None) -> Checkpoint:
    if not folder.is_dir():
        raise StorageError(f"no folder at {folder}")
    note = _read(folder / CHECKPOINT, _MAX_CHECKPOINT_BYTES)
    if note is None:
        raise AuditBroken("checkpoint", None, "is missing")
    try:
        return open_checkpoint(note, public_key, origin or stated_origin(note))
    except (SignatureError, CorruptFileError) as error:
        raise AuditBroken("checkpoint", None, str(error)) from error


def _recomputed_root(folder: Path, size: int, on_progress: Progress) -> bytes:
    """Check bundles and tiles, level upon level, and return the root above them."""
    rests: list[list[bytes]] = [[] for _ in levels(size)]
    hashes = _leaf_hashes(folder, size, on_progress)
    for level in levels(size):
        hashes = _checked(folder, level, size, hashes, rests[level])
    _exhaust(hashes)
    below: list[bytes] = []
    for rest in rests:
        row = rest + below
        below = [merkle.root(row)] if row else []
    return below[0] if below else EMPTY_ROOT


def _leaf_hashes(folder: Path, size: int, on_progress: Progress) -> Iterator[bytes]:
    history = History()
    for bundle in tiles(ENTRIES, size):
        for index, body in enumerate(_bodies(folder, bundle), bundle.first_record):
            history.add(_record(bundle, index, body))
            yield leaf_hash(body)
        on_progress(bundle.first_record + bundle.width, size)


def _checked(
    folder: Path, level: int, size: int, hashes: Iterator[bytes], rest: list[bytes]
) -> Iterator[bytes]:
    """Compare a level's tiles; yield the full ones' roots, put the others in `rest`."""
    for tile in tiles(str(level), size):
        row = list(islice(hashes, tile.width))
        _check_hashes(tile, row, _content(folder, tile, WIDTH * HASH_BYTES))
        if tile.width == WIDTH:
            yield merkle.root(row)
        else:
            rest += row
    _exhaust(hashes)  # below this level's last tile there may be a partial one


def _exhaust(hashes: Iterator[bytes]) -> None:
    deque(hashes, maxlen=0)


def _check_hashes(tile: Tile, row: Sequence[bytes], content: bytes) -> None:
    expected = b"".join(row)
    if len(content) != len(expected):
        raise _broken(tile, f"expected {len(expected)} bytes, got {len(content)}")
    if content == expected:
        return
    at = next(
        i for i, (a, b) in enumerate(zip(content, expected, strict=True)) if a != b
    )
    number = at // HASH_BYTES
    if tile.level == 0:
        index = tile.first_record + number
        bundle = tile._replace(kind=ENTRIES).path
        raise AuditBroken(
            "record", index, f"its body in {bundle} has not its hash in {tile.path}"
        )
    raise _broken(tile, f"hash {number} is not that of the tile below")


def _bodies(folder: Path, bundle: Tile) -> list[bytes]:
    try:
        bodies = list(decode_bundle(_content(folder, bundle, MAX_BUNDLE_BYTES)))
    except CorruptFileError as error:
        raise _broken(bundle, str(error)) from error
    if len(bodies) != bundle.width:
        raise _broken(bundle, f"expected {bundle.width} entries, got {len(bodies)}")
    return bodies


def _record(bundle: Tile, index: int, body: bytes) -> Entry:
    try:
        entry = parse_entry(body)
    except RecordMalformed as error:
        difference = f"its body in {bundle.path} is no record: {error}"
        raise AuditBroken("record", index, difference) from error
    if entry.index != index:
        difference = f"its body in {bundle.path} is that of {entry.index}"
        raise AuditBroken("record", index, difference)
    return entry


def _check_no_more(folder: Path, size: int) -> None:
    """Refuse what the checkpoint does not ask for, but for true earlier partials."""
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if name == CHECKPOINT or (path.is_dir() and not path.is_symlink()):
            continue
        tile = parse_path(name)
        whole = None if tile is None else _as_it_is_now(tile, size)
        if tile is None or whole is None or tile.width > whole.width:
            raise AuditBroken(
                "tile", None, f"{name}: the checkpoint asks for no such file"
            )
        if tile.width < whole.width:
            _check_earlier(folder, tile, whole)


def _as_it_is_now(tile: Tile, size: int) -> Tile | None:
    """Return the tile of that number in a log of `size` records."""
    width = (size >> 8 * tile.level) - tile.number * WIDTH
    return tile._replace(width=min(width, WIDTH)) if width > 0 else None


def _check_earlier(folder: Path, tile: Tile, whole: Tile) -> None:
    """Compare a narrower partial tile with the start of the one that was verified."""
    if tile.kind == ENTRIES:
        expected = encode_bundle(_bodies(folder, whole)[: tile.width])
    else:
        limit = WIDTH * HASH_BYTES
        expected = _content(folder, whole, limit)[: tile.width * HASH_BYTES]
    if _content(folder, tile, MAX_BUNDLE_BYTES) != expected:
        raise _broken(tile, f"{whole.path} does not start with it")


def _content(folder: Path, tile: Tile, limit: int) -> bytes:
    content = _read(folder / tile.path, limit)
    if content is None:
        raise _broken(tile, "is missing")
    return content


def _read(path: Path, limit: int) -> bytes | None:
    """Read a file, and one byte more than `limit` if it has it; None: no such file."""
    try:
        if not path.is_file():  # a pipe would never end
            return None
        with path.open("rb") as file:
            return file.read(limit + 1)
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}") from error


def _broken(tile: Tile, difference: str) -> AuditBroken:
    return AuditBroken("tile", tile.first_record, f"{tile.path}: {difference}")


def _silent(_done: int, _total: int) -> None:
    pass
