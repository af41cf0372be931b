"""Another key-encryption key: everything moves, nothing changes, no crash loses any."""

import os
import signal
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from parties.key_holder.errors import (
    KekMismatchError,
    KekMissingError,
    KeyDestroyedError,
    RewrapOvertakenError,
)
from parties.key_holder.keks import KekList, ListedKek
from parties.key_holder.rewrap import Rewrapped, rewrap
from parties.key_holder.vault import Vault
from tests.unit.parties.stage import MODEL
from tests.unit.parties.strongroom import (
    KEY,
    NOW_MS,
    files,
    key,
    opened,
    pen,
    seed_of,
    store,
)

NEW = "file:new.key"
VERSIONS = (1, 2, 3)
PLAIN = b"plain patch embedding " * 20
LATER_MS = NOW_MS + 1000


def furnished(folder: Path) -> list[bytes]:
    """A store with three keys, one destroyed, and two embeddings; give the seeds."""
    with opened(folder) as vault:
        for version in (*VERSIONS, 4):
            vault.create_key(key(version=version))
        vault.destroy_key(KEY, 4, pen)
        for version in (1, 2):
            vault.store_embedding(MODEL, version, PLAIN)
        return seeds(vault)


def seeds(vault: Vault) -> list[bytes]:
    return [seed_of(vault, version) for version in VERSIONS]


def embeddings(vault: Vault) -> list[bytes]:
    found = []
    for version in (1, 2):
        with vault.open_embedding(MODEL, version) as content:
            found.append(bytes(content))
    return found


def rewrapped(folder: Path, url: str = NEW, batch: int = 2) -> Rewrapped:
    with store(folder, os.urandom) as found:
        return rewrap(
            found.database,
            found.keychain,
            url,
            entropy=found.entropy,
            now_ms=LATER_MS,
            batch=batch,
        )


def table(folder: Path, name: str) -> list[dict[str, Any]]:
    """All rows of a table, in the order of their versions."""
    statements = {
        "key_versions": "SELECT * FROM key_versions ORDER BY version",
        "embeddings": "SELECT * FROM embeddings ORDER BY version",
    }
    connection = sqlite3.connect(folder / "key-holder.db")
    connection.row_factory = sqlite3.Row
    found = [dict(row) for row in connection.execute(statements[name])]
    connection.close()
    return found


def assert_moved(folder: Path, expected: list[bytes]) -> None:
    """The new key alone opens everything, and everything is what it was."""
    (folder / "kek.key").unlink()
    with opened(folder, os.urandom) as vault:
        assert expected == seeds(vault)
        assert embeddings(vault) == [PLAIN, PLAIN]
        with pytest.raises(KeyDestroyedError):
            seed_of(vault, 4)


@pytest.mark.parametrize("batch", [1, 2, 200])
def test_everything_is_under_the_new_key(tmp_path: Path, batch: int) -> None:
    expected = furnished(tmp_path)
    done = rewrapped(tmp_path, batch=batch)

    assert (done.key_versions, done.embeddings, done.moved) == (3, 2, 5)
    assert done.broken == ()
    assert_moved(tmp_path, expected)


def test_a_key_file_that_is_not_there_is_made_for_us_only(tmp_path: Path) -> None:
    furnished(tmp_path)
    rewrapped(tmp_path)

    assert (tmp_path / "new.key").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "new.key").read_bytes() != (tmp_path / "kek.key").read_bytes()


def test_sealed_contents_and_versions_are_not_touched(tmp_path: Path) -> None:
    furnished(tmp_path)
    before = {name: table(tmp_path, name) for name in ("key_versions", "embeddings")}
    rewrapped(tmp_path)

    for name, rows in before.items():
        for old, new in zip(rows, table(tmp_path, name), strict=True):
            changed = {column for column in old if old[column] != new[column]}
            destroyed = old.get("destroyed_at_ms") is not None
            assert changed == (set() if destroyed else {"kek_id", "wrapped"})


def test_rewrapping_again_moves_nothing_and_says_the_same(tmp_path: Path) -> None:
    furnished(tmp_path)
    first = rewrapped(tmp_path)
    again = rewrapped(tmp_path)

    assert (again.moved, again.kek_id, again.since_ms) == (
        0,
        first.kek_id,
        first.since_ms,
    )
    assert (again.key_versions, again.embeddings) == (3, 2)


def test_there_and_back_again(tmp_path: Path) -> None:
    expected = furnished(tmp_path)
    rewrapped(tmp_path)
    back = rewrapped(tmp_path, "file:kek.key")
    (tmp_path / "new.key").unlink()

    assert back.moved == 5
    with opened(tmp_path) as vault:
        assert expected == seeds(vault)


def test_exactly_one_key_is_in_use_and_all_are_remembered(tmp_path: Path) -> None:
    furnished(tmp_path)
    done = rewrapped(tmp_path)

    listed = KekList.read(tmp_path)
    assert [kek.url for kek in listed.keks.values()] == ["file:kek.key", NEW]
    assert listed.used() == ListedKek(done.kek_id, NEW, LATER_MS)
    assert (tmp_path / "keks.json").stat().st_mode & 0o777 == 0o600


def test_nothing_changes_if_the_old_key_is_not_to_be_had(tmp_path: Path) -> None:
    """Otherwise what is sealed from now on would be apart from what was sealed."""
    furnished(tmp_path)
    before = KekList.read(tmp_path)
    kept = (tmp_path / "kek.key").read_bytes()
    (tmp_path / "kek.key").write_bytes(bytes(range(32)))
    with pytest.raises(KekMismatchError):
        rewrapped(tmp_path)
    (tmp_path / "kek.key").unlink()
    with pytest.raises(KekMissingError):
        rewrapped(tmp_path)

    (tmp_path / "kek.key").touch(mode=0o600)
    (tmp_path / "kek.key").write_bytes(kept)
    assert before == KekList.read(tmp_path)


def test_nothing_changes_if_the_new_key_is_not_to_be_had(tmp_path: Path) -> None:
    expected = furnished(tmp_path)
    before = KekList.read(tmp_path)
    with pytest.raises(KekMissingError):
        rewrapped(tmp_path, "env:KEYMIXER_TEST_KEK")

    assert before == KekList.read(tmp_path)
    with opened(tmp_path) as vault:
        assert expected == seeds(vault)


def test_a_key_file_that_was_in_use_and_is_lost_is_not_made_anew(
    tmp_path: Path,
) -> None:
    furnished(tmp_path)
    rewrapped(tmp_path)
    (tmp_path / "kek.key").unlink()

    with pytest.raises(KekMissingError):
        rewrapped(tmp_path, "file:kek.key")


def test_a_record_that_does_not_open_keeps_no_other_from_moving(
    tmp_path: Path,
) -> None:
    """It is named, and stays as it is, for a backup to mend."""
    furnished(tmp_path)
    connection = sqlite3.connect(tmp_path / "key-holder.db")
    statement = "UPDATE key_versions SET wrapped = zeroblob(60) WHERE version = 2"
    connection.execute(statement)
    connection.commit()
    connection.close()
    done = rewrapped(tmp_path, batch=1)

    assert done.broken == (f"{KEY} version 2",)
    assert (done.key_versions, done.moved) == (2, 4)
    assert table(tmp_path, "key_versions")[1]["wrapped"] == bytes(60)


def test_a_rewrap_that_another_has_overtaken_says_so(tmp_path: Path) -> None:
    """Else the first would say that all is under its key, while it is not."""
    furnished(tmp_path)
    with store(tmp_path, os.urandom) as found:
        third = found.keychain.load("file:third.key", make=True)

        def overtaking(count: int) -> bytes:
            """Another process commits between two of our batches."""
            overtake.set()
            return found.entropy(count)

        overtake, begin = Event(), found.database.transaction

        def transaction() -> Any:
            if overtake.is_set():
                with begin() as session:
                    found.keychain.put_in_use(
                        session, third, "file:third.key", LATER_MS
                    )
            return begin()

        found.database.transaction = transaction  # type: ignore[method-assign]
        with pytest.raises(RewrapOvertakenError):
            rewrap(
                found.database,
                found.keychain,
                NEW,
                entropy=overtaking,
                now_ms=LATER_MS,
                batch=1,
            )

    with opened(tmp_path, os.urandom) as vault:
        assert len(set(seeds(vault))) == 3


def test_a_server_that_runs_goes_on_with_the_new_key(tmp_path: Path) -> None:
    """It finds the unknown key by its URL, and needs the old one no more."""
    expected = furnished(tmp_path)
    with opened(tmp_path, os.urandom) as serving:
        assert expected == seeds(serving)
        rewrapped(tmp_path)
        (tmp_path / "kek.key").unlink()

        assert expected == seeds(serving)
        serving.create_key(key(version=5))
        assert embeddings(serving) == [PLAIN, PLAIN]
    (row,) = [r for r in table(tmp_path, "key_versions") if r["version"] == 5]
    assert row["kek_id"] == KekList.read(tmp_path).in_use


def test_a_server_that_is_busy_loses_nothing_meanwhile(tmp_path: Path) -> None:
    """Keys are drawn, read and destroyed while records move one by one."""
    furnished(tmp_path)
    moved = Event()
    drawn: dict[int, bytes] = {}

    def serve(serving: Vault) -> None:
        version = 10
        while not moved.is_set() or version < 20:
            serving.create_key(key(version=version))
            drawn[version] = seed_of(serving, version)
            if version % 3 == 0:
                serving.destroy_key(KEY, version, pen)
                del drawn[version]
            version += 1

    with opened(tmp_path, os.urandom) as serving, ThreadPoolExecutor(1) as pool:
        served = pool.submit(serve, serving)
        try:
            for number in range(6):
                rewrapped(tmp_path, f"file:kek-{number}.key", batch=1)
        finally:
            moved.set()
        served.result()
        done = rewrapped(tmp_path, "file:last.key")

    for path in (tmp_path / "kek.key", *tmp_path.glob("kek-*.key")):
        path.unlink()
    assert done.key_versions == len(VERSIONS) + len(drawn)
    with opened(tmp_path, os.urandom) as vault:
        for version, seed in drawn.items():
            assert seed == seed_of(vault, version)


def test_no_old_wrapping_is_left_in_a_file_while_a_server_has_it_open(
    tmp_path: Path,
) -> None:
    """The former key, if somebody kept it, opens nothing of what is found here."""
    furnished(tmp_path)
    with opened(tmp_path, os.urandom) as serving:
        serving.create_key(key(version=5))
        rows = table(tmp_path, "key_versions") + table(tmp_path, "embeddings")
        old = [row["wrapped"].hex() for row in rows if row["wrapped"]]
        assert len(old) == 6
        assert "key-holder.db" in elsewhere(LOOK, tmp_path, *old)
        seeds(serving)
        done = elsewhere(REWRAP, tmp_path)

        assert "remains=False" in done
        assert (tmp_path / "key-holder.db-wal").exists()
        assert elsewhere(LOOK, tmp_path, *old) == ""
        assert len(seeds(serving)) == 3


def test_a_reader_in_the_way_of_emptying_the_log_is_told_of(tmp_path: Path) -> None:
    furnished(tmp_path)
    with store(tmp_path) as reader, reader.database.reading() as session:
        session.connection().exec_driver_sql("SELECT * FROM key_versions").all()
        with store(tmp_path, os.urandom, wait_s=0.1) as found:
            done = rewrap(
                found.database,
                found.keychain,
                NEW,
                entropy=found.entropy,
                now_ms=LATER_MS,
            )
    assert (done.moved, done.remains) == (5, True)
    again = rewrapped(tmp_path)
    assert (again.moved, again.remains) == (0, False)


# SQLite's locks are a process's: one that reads a file it has open would drop them.
LOOK = """
import sys
from pathlib import Path
old = [bytes.fromhex(each) for each in sys.argv[2:]]
for path in Path(sys.argv[1]).iterdir():
    if any(each in path.read_bytes() for each in old):
        print(path.name)
"""
REWRAP = """
import sys
from pathlib import Path
from tests.unit.parties.test_rewrap import rewrapped
print(rewrapped(Path(sys.argv[1])))
"""


def elsewhere(program: str, folder: Path, *arguments: str) -> str:
    """What a program says that runs in a process of its own."""
    command = [sys.executable, "-c", program, str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


COMMITS = 6  # the key in use; two batches of keys and none left; one and none left


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("number", range(1, COMMITS + 1))
def test_killed_at_a_commit_it_has_lost_nothing_and_goes_on(
    tmp_path: Path, moment: str, number: int
) -> None:
    expected = furnished(tmp_path)

    assert killed(tmp_path, moment, number) == -signal.SIGKILL
    with opened(tmp_path, os.urandom) as vault:
        assert expected == seeds(vault)
        assert embeddings(vault) == [PLAIN, PLAIN]
    done = rewrapped(tmp_path)
    assert (done.key_versions, done.embeddings) == (3, 2)
    assert_moved(tmp_path, expected)


@pytest.mark.slow
def test_there_are_no_more_commits_than_were_killed(tmp_path: Path) -> None:
    furnished(tmp_path)

    assert killed(tmp_path, "after", COMMITS + 1) == 0


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["before-list", "after-list"])
def test_killed_as_it_lists_the_key_it_has_lost_nothing_and_goes_on(
    tmp_path: Path, moment: str
) -> None:
    expected = furnished(tmp_path)

    assert killed(tmp_path, moment, 1) == -signal.SIGKILL
    listed = KekList.read(tmp_path).used()
    assert listed is not None
    assert listed.url == ("file:kek.key" if moment == "before-list" else NEW)
    with opened(tmp_path, os.urandom) as vault:
        assert expected == seeds(vault)
        vault.create_key(key(version=5))
    assert rewrapped(tmp_path).key_versions == 4
    assert_moved(tmp_path, expected)


def killed(folder: Path, moment: str, number: int) -> int:
    command = [sys.executable, "-m", "tests.unit.parties.killed_rewrap"]
    arguments = [str(folder), NEW, moment, str(number)]
    return subprocess.run([*command, *arguments], check=False).returncode


def test_a_new_store_takes_the_key_at_once(tmp_path: Path) -> None:
    """Before the key holder ever ran; its settings' key is then not even made."""
    done = rewrapped(tmp_path)

    assert (done.key_versions, done.moved) == (0, 0)
    with opened(tmp_path) as vault:
        vault.create_key(key())
    assert "kek.key" not in files(tmp_path)


def test_since_when_a_key_is_in_use_is_told(tmp_path: Path) -> None:
    furnished(tmp_path)
    listed = KekList.read(tmp_path).used()
    assert listed is not None
    assert listed.since_ms == NOW_MS

    assert rewrapped(tmp_path).since_ms == LATER_MS
