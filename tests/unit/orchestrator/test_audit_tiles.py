"""Exported tiles are those the format defines, and any change to them is found."""

import json
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert

from core.checkpoint import sign_checkpoint
from core.database import Database
from core.errors import CorruptFileError, StorageError, TooLargeError
from core.merkle import EMPTY_ROOT
from core.wire import write_atomically
from orchestrator.audit import tiles as module
from orchestrator.audit.tile_check import verify_tiles
from orchestrator.audit.tiles import (
    Tile,
    decode_bundle,
    encode_bundle,
    export_tiles,
    levels,
    parse_path,
    tiles,
)
from orchestrator.errors import AuditBroken, NotInLog, OtherLogExported
from orchestrator.registry.models import Base, Checkpoint
from tests.unit.orchestrator.logs import (
    ORIGIN,
    PUBLIC_KEY,
    SIGNING_KEY,
    append,
    opened,
)
from tests.vectors.generate import FOLDER

Files = dict[str, bytes]
# The examples in the format's own text.
PUBLISHED = json.loads((FOLDER / "tiles.json").read_text())


def body(index: int, kind: str = "a") -> bytes:
    """The shortest record there is, written by hand."""
    text = f'{{"actor":"","index":{index},"kind":"{kind}"'
    return f'{text},"subject":{{}},"time_ms":0,"v":1}}'.encode()


def slow_root(leaves: Sequence[bytes]) -> bytes:
    """MTH of RFC 9162, section 2.1.1, over leaf hashes."""
    if not leaves:
        return sha256().digest()
    if len(leaves) == 1:
        return leaves[0]
    k = 1 << ((len(leaves) - 1).bit_length() - 1)
    return sha256(b"\x01" + slow_root(leaves[:k]) + slow_root(leaves[k:])).digest()


def signed(bodies: Sequence[bytes]) -> bytes:
    return sign_checkpoint(SIGNING_KEY, ORIGIN, len(bodies), slow_root(hashed(bodies)))


def hashed(bodies: Sequence[bytes]) -> list[bytes]:
    return [sha256(b"\x00" + each).digest() for each in bodies]


def defined(bodies: Sequence[bytes]) -> Files:
    """Every file by tlog-tiles' own formula: MTH(D[(256n + i) 256^l : ...])."""
    files = {"checkpoint": signed(bodies)}
    leaves = hashed(bodies)
    for level in range(8):
        span = 256**level
        whole = len(leaves) // span
        row = [slow_root(leaves[i * span : (i + 1) * span]) for i in range(whole)]
        for n in range(0, whole, 256):
            part = row[n : n + 256]
            files[f"tile/{level}/{name(n // 256, len(part))}"] = b"".join(part)
    for n in range(0, len(bodies), 256):
        group = bodies[n : n + 256]
        framed = [len(each).to_bytes(2, "big") + each for each in group]
        files[f"tile/entries/{name(n // 256, len(group))}"] = b"".join(framed)
    return files


def name(number: int, width: int) -> str:
    """As in the text's example; all these logs have fewer than 1000 tiles a level."""
    return f"{number:03}" if width == 256 else f"{number:03}.p/{width}"


def found(folder: Path) -> Files:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def write(folder: Path, files: Files) -> Path:
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    return folder


def fill(database: Database, bodies: Sequence[bytes], start: int = 0) -> None:
    """Store the records from `start` on and the tiles' nodes, and sign them all."""
    leaves = hashed(bodies)
    rows = [
        {"index": i, "body": bodies[i], "leaf_hash": leaf, "kind": "a", "time_ms": 0}
        for i, leaf in enumerate(leaves)
    ]
    with database.transaction() as session:
        connection = session.connection()
        connection.execute(insert(Base.metadata.tables["audit_leaves"]), rows[start:])
        if nodes := list(_nodes(leaves, start)):
            connection.execute(insert(Base.metadata.tables["audit_nodes"]), nodes)
        session.add(Checkpoint(size=len(bodies), note=signed(bodies)))


def _nodes(leaves: Sequence[bytes], start: int) -> Iterator[dict[str, object]]:
    for level in (8, 16):
        for at in range(start >> level, len(leaves) >> level):
            digest = slow_root(leaves[at << level : (at + 1) << level])
            yield {"level": level, "position": at, "hash": digest}


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with opened(tmp_path) as (database, _):
        yield database


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """What survives a power cut is tested where files are written atomically."""
    monkeypatch.setattr(os, "fsync", lambda _descriptor: None)


SIZES = [1, 2, 255, 256, 257, 511, 512, 513]
BODIES = [body(index) for index in range(600)]


@pytest.mark.parametrize("vector", PUBLISHED["paths"], ids=lambda v: v["path"])
def test_a_path_is_written_as_published(vector: dict[str, Any]) -> None:
    tile = Tile(vector["kind"], vector["number"], vector["width"])

    assert vector["path"] == tile.path
    assert tile == parse_path(vector["path"])


@pytest.mark.parametrize("number", [0, 7, 999, 1000, 1234067, 10**15, 2**55])
@pytest.mark.parametrize("width", [1, 112, 255, 256])
@pytest.mark.parametrize("kind", ["0", "7", "63", "entries"])
def test_a_path_is_read_back(kind: str, number: int, width: int) -> None:
    tile = Tile(kind, number, width)

    assert tile == parse_path(tile.path)


@pytest.mark.parametrize(
    "path",
    [
        "checkpoint",
        "tile/0/0",
        "tile/0/0000",
        "tile/0/1000",
        "tile/0/x000/001",
        "tile/0/x001/x234",
        "tile/0/001/234",
        "tile/00/000",
        "tile/64/000",
        "tile/-1/000",
        "tile/0/000.p",
        "tile/0/000.p/0",
        "tile/0/000.p/01",
        "tile/0/000.p/256",
        "tile/0/000.p/257",
        "tile/0/000/",
        "tile/0/000\n",
        "tile/0/\N{ARABIC-INDIC DIGIT ZERO}00",
        "tile/entry/000",
        "/tile/0/000",
        "tile/0/.000.abcd",
    ],
)
def test_another_path_is_no_tiles(path: str) -> None:
    assert parse_path(path) is None


@pytest.mark.parametrize("vector", PUBLISHED["trees"], ids=lambda v: v["size"])
def test_a_log_has_the_published_tiles(vector: dict[str, Any]) -> None:
    size = vector["size"]
    by_level = [list(tiles(str(level), size)) for level in levels(size)]
    widths = [[tile.width for tile in row] for row in by_level]
    expected = [
        [256] * each["full"] + [each["partial"]] * (each["partial"] > 0)
        for each in vector["levels"]
    ]

    assert expected == widths


@pytest.mark.parametrize("size", SIZES)
def test_an_export_is_what_the_format_defines(
    tmp_path: Path, database: Database, size: int
) -> None:
    fill(database, BODIES[:size])
    seen: list[tuple[int, int]] = []

    export_tiles(database, tmp_path / "out", lambda *now: seen.append(now))
    report = verify_tiles(tmp_path / "out", PUBLIC_KEY, origin=ORIGIN)

    assert defined(BODIES[:size]) == found(tmp_path / "out")
    assert (report.size, report.root) == (size, slow_root(hashed(BODIES[:size])))
    assert seen[-1] == (size, size)


MANY = 65_537


def test_a_log_of_three_levels_is_exported(tmp_path: Path, database: Database) -> None:
    bodies = [body(index) for index in range(MANY)]
    fill(database, bodies)

    export_tiles(database, tmp_path / "out")

    assert defined(bodies) == found(tmp_path / "out")


def test_a_log_of_three_levels_is_verified(tmp_path: Path) -> None:
    bodies = [body(index) for index in range(MANY)]
    folder = write(tmp_path, defined(bodies))

    assert verify_tiles(folder, PUBLIC_KEY).root == slow_root(hashed(bodies))


def test_an_empty_log_is_a_checkpoint_alone(tmp_path: Path, database: Database) -> None:
    fill_nothing(database)

    export_tiles(database, tmp_path / "out")

    assert ["checkpoint"] == list(found(tmp_path / "out"))
    assert verify_tiles(tmp_path / "out", PUBLIC_KEY).root == EMPTY_ROOT


def fill_nothing(database: Database) -> None:
    with database.transaction() as session:
        session.add(Checkpoint(size=0, note=signed([])))


def test_records_that_no_checkpoint_covers_stay_out(
    tmp_path: Path, database: Database
) -> None:
    with opened(tmp_path) as (_, log):
        append(database, log, 5)
        log.checkpoint()
        append(database, log, 3)

    export_tiles(database, tmp_path / "out")

    assert verify_tiles(tmp_path / "out", PUBLIC_KEY).size == 5


def test_a_log_without_a_checkpoint_is_not_exported(
    tmp_path: Path, database: Database
) -> None:
    with pytest.raises(NotInLog, match="no checkpoint"):
        export_tiles(database, tmp_path / "out")


def test_growing_exports_end_as_one_at_once(tmp_path: Path, database: Database) -> None:
    """Every partial tile of an earlier export is full by then or still there."""
    before = 0
    for size in (3, 200, 256, 300, 512):
        fill(database, BODIES[:size], before)
        export_tiles(database, tmp_path / "grown")
        verify_tiles(tmp_path / "grown", PUBLIC_KEY)
        before = size
    grown = found(tmp_path / "grown")
    earlier = grown.keys() - defined(BODIES[:512]).keys()

    assert {"tile/1/000.p/1"} == earlier
    assert defined(BODIES[:512]) == {k: grown[k] for k in grown.keys() - earlier}


def test_what_is_there_is_not_written_again(
    tmp_path: Path, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(database, BODIES[:300])
    export_tiles(database, tmp_path / "out")
    fill(database, BODIES[:513], 300)
    written: list[str] = []

    def note_and_write(path: Path, content: bytes) -> None:
        written.append(path.relative_to(tmp_path / "out").as_posix())
        path.write_bytes(content)

    monkeypatch.setattr(module, "write_atomically", note_and_write)
    exported = export_tiles(database, tmp_path / "out")
    again = export_tiles(database, tmp_path / "out")

    assert "tile/0/000" not in written
    assert (exported.written, again.written) == (5, 0)


@pytest.mark.parametrize("writes", range(11))
def test_an_interrupted_export_goes_on(
    tmp_path: Path, database: Database, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    """Cut after each write; an export of a longer log then goes on where it ended."""
    fill(database, BODIES[:300])
    left = [writes]

    def cut(path: Path, content: bytes) -> None:
        if not left[0]:
            (path.parent / f".{path.name}.x7").write_bytes(content[:5])
            raise StorageError("the disk is full")
        left[0] -= 1
        write_atomically(path, content)

    with monkeypatch.context() as patched:
        patched.setattr(module, "write_atomically", cut)
        if writes < len(defined(BODIES[:300])):
            with pytest.raises(StorageError):
                export_tiles(database, tmp_path / "out")
    fill(database, BODIES[:512], 300)
    export_tiles(database, tmp_path / "out")

    assert defined(BODIES[:512]).items() <= found(tmp_path / "out").items()
    assert verify_tiles(tmp_path / "out", PUBLIC_KEY).size == 512


def test_a_folder_of_another_log_is_left_alone(
    tmp_path: Path, database: Database
) -> None:
    fill(database, BODIES[:300])
    other = write(tmp_path / "out", defined([body(i, "b") for i in range(300)]))
    before = found(other)

    with pytest.raises(OtherLogExported, match="never signed"):
        export_tiles(database, other)
    (other / "checkpoint").unlink()
    with pytest.raises(OtherLogExported, match="tile/entries/000 is there"):
        export_tiles(database, other)

    assert found(other).items() <= before.items()


def test_a_log_that_lost_records_is_not_exported(
    tmp_path: Path, database: Database
) -> None:
    """A checkpoint over 300 records, of which 257 are there."""
    fill(database, BODIES[:257])
    with database.transaction() as session:
        session.add(Checkpoint(size=300, note=signed(BODIES[:300])))

    with pytest.raises(AuditBroken, match=r"record 257: is missing: tile/entries/001"):
        export_tiles(database, tmp_path / "out")


def test_a_record_that_is_not_stored_as_bytes_is_not_exported(
    tmp_path: Path, database: Database
) -> None:
    fill(database, BODIES[:3])
    with sqlite3.connect(tmp_path / "registry.db") as connection:
        triggers = "SELECT name FROM sqlite_master WHERE type = 'trigger'"
        for (trigger,) in connection.execute(triggers).fetchall():
            connection.execute(f"DROP TRIGGER {trigger}")
        as_text = "UPDATE audit_leaves SET body = CAST(body AS TEXT)"
        connection.execute(f'{as_text} WHERE "index" = 1')
    connection.close()

    with pytest.raises(AuditBroken, match="record 1: is not stored as bytes"):
        export_tiles(database, tmp_path / "out")


def test_a_folder_that_cannot_be_made_is_told(
    tmp_path: Path, database: Database
) -> None:
    fill(database, BODIES[:1])
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "tile").write_bytes(b"a file")

    with pytest.raises(StorageError):
        export_tiles(database, tmp_path / "out")


def test_a_bundle_holds_entries_up_to_its_limit() -> None:
    bodies = [b"", b"x", bytes(65_535)]

    assert bodies == list(decode_bundle(encode_bundle(bodies)))
    with pytest.raises(TooLargeError, match="65536 bytes, at most 65535"):
        encode_bundle([bytes(65_536)])


@pytest.mark.parametrize("cut", [b"\x00", b"\x00\x01", b"\x00\x05abcd"])
def test_a_bundle_cut_short_is_refused(cut: bytes) -> None:
    with pytest.raises(CorruptFileError, match="entry 1 is cut short"):
        list(decode_bundle(encode_bundle([b"first"]) + cut))


# A folder of 600 records: three bundles, and tiles on two levels.
WHOLE = defined(BODIES)
SMALL = defined(BODIES[:3])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("whole"), WHOLE)


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole, tmp_path / "copy")


def difference(folder: Path) -> AuditBroken:
    with pytest.raises(AuditBroken) as caught:
        verify_tiles(folder, PUBLIC_KEY, origin=ORIGIN)
    return caught.value


@pytest.mark.parametrize("at", [0, 0.37, 0.99])
@pytest.mark.parametrize("path", [path for path in WHOLE if path != "checkpoint"])
def test_a_changed_byte_is_found_in_its_file(
    folder: Path, path: str, at: float
) -> None:
    changed = bytearray(WHOLE[path])
    changed[int(at * len(changed))] ^= 1
    (folder / path).write_bytes(changed)

    assert path in str(difference(folder))


@pytest.mark.parametrize("path", SMALL)
def test_every_changed_byte_of_a_small_folder_is_found(
    tmp_path: Path, path: str
) -> None:
    folder = write(tmp_path, SMALL)
    for byte in range(len(SMALL[path])):
        changed = bytearray(SMALL[path])
        changed[byte] ^= 0x20
        (folder / path).write_bytes(changed)

        difference(folder)


@pytest.mark.parametrize("path", WHOLE)
def test_a_deleted_file_is_found(folder: Path, path: str) -> None:
    (folder / path).unlink()

    assert path in str(difference(folder))


@pytest.mark.parametrize("path", WHOLE)
@pytest.mark.parametrize("cut", [1, 32, 66])
def test_a_truncated_file_is_found(folder: Path, path: str, cut: int) -> None:
    (folder / path).write_bytes(WHOLE[path][:-cut])

    assert path in str(difference(folder))


@pytest.mark.parametrize("path", WHOLE)
def test_a_file_with_more_at_its_end_is_found(folder: Path, path: str) -> None:
    (folder / path).write_bytes(WHOLE[path] + b"\x00\x00")

    assert path in str(difference(folder))


def change_bodies(
    folder: Path, number: int, change: Callable[[list[bytes]], object]
) -> None:
    """Rewrite a bundle and the tile of its leaf hashes, so that the two agree."""
    tile = list(tiles("entries", 600))[number]
    bodies = list(decode_bundle(WHOLE[tile.path]))
    change(bodies)
    (folder / tile.path).write_bytes(encode_bundle(bodies))
    hashes = b"".join(hashed(bodies))
    (folder / tile._replace(kind="0").path).write_bytes(hashes)


def swap(bodies: list[bytes]) -> None:
    bodies[3], bodies[4] = bodies[4], bodies[3]


MUTATIONS: dict[str, tuple[Callable[[list[bytes]], object], str]] = {
    "two entries swapped": (swap, "record 259: its body in tile/entries/001"),
    "an entry deleted": (lambda all_: all_.pop(7), "expected 256 entries, got 255"),
    "an entry inserted": (
        lambda all_: all_.insert(7, all_[7]),
        "expected 256 entries, got 257",
    ),
    "an entry replayed": (
        lambda all_: all_.__setitem__(9, all_[8]),
        "record 265: its body in tile/entries/001 is that of 264",
    ),
    "an entry emptied": (
        lambda all_: all_.__setitem__(9, b""),
        "record 265: its body in tile/entries/001 is no record",
    ),
    "an entry in another form": (
        lambda all_: all_.__setitem__(9, all_[9].replace(b",", b", ", 1)),
        "record 265: its body in tile/entries/001 is no record",
    ),
    "an entry rewritten": (
        lambda all_: all_.__setitem__(9, body(265, "b")),
        "tile 0: tile/1/000.p/2: hash 1",
    ),
}


@pytest.mark.parametrize(("change", "said"), MUTATIONS.values(), ids=MUTATIONS)
def test_a_changed_bundle_is_found_though_its_hashes_were_made_to_fit(
    folder: Path, change: Callable[[list[bytes]], object], said: str
) -> None:
    change_bodies(folder, 1, change)

    assert said in str(difference(folder))


def test_an_entry_with_another_hash_is_found_where_it_is(folder: Path) -> None:
    bodies = BODIES[:256]
    bodies[9] = body(9, "b")
    (folder / "tile/entries/000").write_bytes(encode_bundle(bodies))
    broken = difference(folder)

    assert (broken.part, broken.index) == ("record", 9)
    assert "tile/entries/000" in str(broken)


def test_a_history_rewritten_throughout_is_found(folder: Path) -> None:
    """Every file fits the others; only the signature is of the old history."""
    forged = defined([*BODIES[:9], body(9, "b"), *BODIES[10:]])
    write(folder, {**forged, "checkpoint": WHOLE["checkpoint"]})

    assert "checkpoint 600: signs another root" in str(difference(folder))


@pytest.mark.parametrize("size", [0, 3, 256, 599, 601, 70_000])
def test_a_checkpoint_of_another_size_is_found(folder: Path, size: int) -> None:
    """Signed by the log itself: a shorter or longer log than the files are of."""
    note = sign_checkpoint(SIGNING_KEY, ORIGIN, size, slow_root(hashed(BODIES[:size])))
    (folder / "checkpoint").write_bytes(note)

    difference(folder)


def test_an_edited_checkpoint_is_found(folder: Path) -> None:
    edited = WHOLE["checkpoint"].replace(b"\n600\n", b"\n601\n")
    (folder / "checkpoint").write_bytes(edited)

    assert "does not verify" in str(difference(folder))


@pytest.mark.parametrize(
    "path",
    [
        "tile/0/003",
        "tile/0/002",
        "tile/0/002.p/89",
        "tile/0/002.p/87",
        "tile/0/000.p/5",
        "tile/1/000",
        "tile/1/000.p/3",
        "tile/1/000.p/1",
        "tile/1/001.p/1",
        "tile/2/000.p/1",
        "tile/entries/003.p/1",
        "tile/entries/002.p/9",
        "tile/0/.000.x7",
        "tile/9/000",
        "tile/0/x000/001",
        "more",
    ],
)
def test_a_file_too_many_is_found(folder: Path, path: str) -> None:
    write(folder, {path: b"\x00\x00"})

    assert path in str(difference(folder))


@pytest.mark.parametrize("path", ["tile/0/000", "tile/0/000.p"])
def test_a_pipe_is_no_tile(folder: Path, path: str) -> None:
    (folder / path).unlink(missing_ok=True)
    os.mkfifo(folder / path)

    assert path in str(difference(folder))


def test_a_link_to_another_folder_is_found(folder: Path, tmp_path: Path) -> None:
    (folder / "tile" / "more").symlink_to(tmp_path)

    assert "tile/more" in str(difference(folder))


def test_true_partial_tiles_of_earlier_checkpoints_may_be_there(folder: Path) -> None:
    earlier = {**defined(BODIES[:100]), **defined(BODIES[:550])}
    write(folder, {**earlier, **WHOLE})

    assert verify_tiles(folder, PUBLIC_KEY).size == 600


def test_another_key_or_origin_verifies_nothing(folder: Path) -> None:
    with pytest.raises(AuditBroken, match="checkpoint: "):
        verify_tiles(folder, bytes(32))
    with pytest.raises(AuditBroken, match="checkpoint: "):
        verify_tiles(folder, PUBLIC_KEY, origin="another.log")


def test_a_folder_that_is_not_there_cannot_be_verified(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="no folder"):
        verify_tiles(tmp_path / "nothing", PUBLIC_KEY)
