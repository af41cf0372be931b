"""Every secret of the store, looked for in every byte that it leaves anywhere.

Files with their write-ahead log, log records, messages of errors and of all that they
came from, `repr` and `str`: while keys are drawn, lent, issued, exported, destroyed and
rewrapped, and while all of that fails.
"""

import logging
import resource
import sqlite3
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from core.database import Database
from core.errors import DatabaseBusyError, KeymixerError, StorageError
from core.keys import possession_tag
from core.rpc.errors import RemoteError
from core.sealing import SealingKey
from core.statements import IssueStatement
from core.wire import load_tensors
from parties.key_holder.delivery import Delivery
from parties.key_holder.issuing import issue
from parties.key_holder.rewrap import rewrap
from parties.key_holder.vault import Vault
from tests.unit.parties.stage import (
    KEY_HOLDER_ID,
    MODEL,
    OWNER_ID,
    Entropy,
    FakeRegistry,
    Release,
)
from tests.unit.parties.strongroom import (
    KEY,
    NOW_MS,
    SIGNING_KEY,
    files,
    forms,
    key,
    opened,
    pen,
    seed_of,
    store,
)

SEALING_KEY = SealingKey.generate()
RECOVERY_KEY = SealingKey.generate()
NEW = "file:new.key"


class Watch:
    """Knows every secret that was drawn, and where it could have gone."""

    def __init__(self, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
        self.folder = folder
        self.entropy = Entropy()
        self.release = Release()
        self._said: list[str] = []
        self._caplog = caplog

    @property
    def secrets(self) -> list[bytes]:
        """Keys of every kind: whatever has 32 bytes. Nonces have 12 and are public."""
        drawn = [each for each in self.entropy.given if len(each) == 32]
        return [*drawn, self.release.weight.tobytes()[:64]]

    def said(self, *things: object) -> None:
        """Remember what somebody could print."""
        for thing in things:
            self._said += [repr(thing), str(thing), f"{thing}"]
            if isinstance(thing, BaseException):
                self._said += traceback.format_exception(thing)

    @contextmanager
    def failing(self, *kinds: type[BaseException]) -> Iterator[None]:
        with pytest.raises(kinds) as caught:
            yield
        self.said(caught.value)

    def assert_nothing_left(self) -> None:
        logged = [str(vars(record)) for record in self._caplog.records]
        words = "\n".join([*self._said, *logged, self._caplog.text]).encode()
        on_disk = files(self.folder)
        keys = {name for name in on_disk if name.endswith(".key")}
        assert len(self.secrets) > 4
        for secret in self.secrets:
            for form in forms(secret):
                assert form not in words
                held = {name for name, content in on_disk.items() if form in content}
                # A key-encryption key lies in its own file, and nowhere else.
                assert held <= keys
                assert not held or on_disk[held.pop()] == secret


@pytest.fixture
def watch(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Watch:
    caplog.set_level(logging.DEBUG)
    return Watch(tmp_path, caplog)


def delivery_of(vault: Vault) -> Delivery:
    registry = FakeRegistry()
    registry.enrol(OWNER_ID, sealing_key=SEALING_KEY)
    return Delivery(
        vault,
        registry,
        SIGNING_KEY,
        KEY_HOLDER_ID,
        600.0,
        lambda: NOW_MS,
        RECOVERY_KEY.public_bytes(),
    )


def furnish(vault: Vault, watch: Watch) -> None:
    for version in (1, 2, 3):
        watch.said(vault.create_key(key(version=version)))
    vault.store_embedding(MODEL, 1, watch.release.embedding)


def use(vault: Vault, watch: Watch, version: int = 1) -> None:
    """Deliver, prove, issue and export a key."""
    delivery = delivery_of(vault)
    public_key = SEALING_KEY.public_bytes()
    watch.said(vault, delivery, vault.identity(KEY, version))
    watch.said(delivery.seal_for(str(OWNER_ID), KEY, version, public_key))
    tag = possession_tag(
        seed_of(vault, version), key_id=KEY, version=version, owner=str(OWNER_ID)
    )
    delivery.accept_proof(str(OWNER_ID), KEY, version, tag)
    watch.said(delivery.export(KEY, version))
    watch.said(issued(vault, version))


def issued(vault: Vault, version: int) -> IssueStatement:
    """Issue the model; what is issued may be seen by whoever runs the server."""
    done = issue(
        vault,
        SIGNING_KEY,
        key_id=KEY,
        key_version=version,
        model=MODEL,
        model_version=1,
    )
    assert load_tensors(done.embedding)["weight"].size
    return IssueStatement.from_bytes(done.statement)


def moved(watch: Watch, url: str = NEW) -> None:
    with store(watch.folder, watch.entropy) as found:
        watch.said(found, found.keychain, found.database)
        done = rewrap(
            found.database, found.keychain, url, entropy=watch.entropy, now_ms=NOW_MS
        )
        watch.said(done)


def test_nothing_is_left_by_a_whole_life(watch: Watch) -> None:
    with opened(watch.folder, watch.entropy) as vault:
        furnish(vault, watch)
        use(vault, watch)
        watch.assert_nothing_left()
        watch.said(vault.destroy_key(KEY, 1, pen))
        moved(watch)
        use(vault, watch, 2)
        watch.assert_nothing_left()
    with opened(watch.folder, watch.entropy) as vault:
        use(vault, watch, 3)

    watch.assert_nothing_left()


def test_the_watch_finds_what_was_let_out(watch: Watch) -> None:
    """Otherwise a search that finds nothing would prove nothing."""
    with opened(watch.folder, watch.entropy) as vault:
        furnish(vault, watch)
        seed = seed_of(vault)
    watch.assert_nothing_left()

    (watch.folder / "leak").write_bytes(b"..." + seed)
    with pytest.raises(AssertionError):
        watch.assert_nothing_left()
    (watch.folder / "leak").unlink()
    logging.getLogger("leak").info("the key", extra={"seed": seed})
    with pytest.raises(AssertionError):
        watch.assert_nothing_left()


def meddle(folder: Path, statement: str) -> None:
    connection = sqlite3.connect(folder / "key-holder.db")
    named = "SELECT name FROM sqlite_master WHERE type = 'trigger'"
    for (name,) in connection.execute(named).fetchall():
        connection.execute(f"DROP TRIGGER {name}")
    connection.execute(statement)
    connection.commit()
    connection.close()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE key_versions SET sealed = zeroblob(92)",
        "UPDATE key_versions SET sealed = substr(sealed, 1, 50)",
        "UPDATE key_versions SET wrapped = substr(wrapped, 1, 59)",
        "UPDATE key_versions SET owner = 'spiffe://demo/x/data-owner'",
        "UPDATE key_versions SET version = version + 10",
        "UPDATE embeddings SET digest = zeroblob(32)",
    ],
)
def test_nothing_is_told_of_a_row_that_was_changed(
    watch: Watch, statement: str
) -> None:
    with opened(watch.folder, watch.entropy) as vault:
        furnish(vault, watch)
        meddle(watch.folder, statement)
        with watch.failing(KeymixerError):
            use(vault, watch)
        with watch.failing(KeymixerError):
            issued(vault, 1)
        moved(watch)

    watch.assert_nothing_left()


def test_nothing_is_told_of_a_wrong_key_encryption_key(watch: Watch) -> None:
    with opened(watch.folder, watch.entropy) as vault:
        furnish(vault, watch)
    path = watch.folder / "kek.key"
    right = path.read_bytes()
    for wrong in (watch.entropy(32), right[:-1], right + b"\0"):
        path.write_bytes(wrong)
        with watch.failing(KeymixerError), opened(watch.folder, watch.entropy):
            pytest.fail("opened with a wrong key")
        with watch.failing(KeymixerError):
            moved(watch)
    path.write_bytes(right)

    watch.assert_nothing_left()


def test_nothing_is_told_by_a_database_that_is_locked(watch: Watch) -> None:
    with opened(watch.folder, watch.entropy, wait_s=0.05) as vault:
        furnish(vault, watch)
        other = sqlite3.connect(watch.folder / "key-holder.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        attempts: list[Callable[[], Any]] = [
            lambda: vault.create_key(key(version=9)),
            lambda: vault.destroy_key(KEY, 1, pen),
            lambda: vault.store_embedding(MODEL, 2, watch.release.embedding),
        ]
        for attempt in attempts:
            with watch.failing(DatabaseBusyError):
                attempt()
        other.close()
        use(vault, watch)

    watch.assert_nothing_left()


def test_nothing_is_told_by_a_database_that_is_full(watch: Watch) -> None:
    with opened(watch.folder, watch.entropy) as vault:
        furnish(vault, watch)
        forbid_growth(vault._database)
        with watch.failing(StorageError):
            for version in range(10, 500):
                vault.create_key(key(version=version))
        use(vault, watch)

    watch.assert_nothing_left()


def forbid_growth(database: Database) -> None:
    with database.transaction() as session:
        pages = session.scalar(text("PRAGMA page_count"))
        session.execute(text(f"PRAGMA max_page_count = {pages}"))


def test_nothing_is_told_by_a_disk_that_is_full(watch: Watch) -> None:
    """Here it is our own limit on the size of a file that is reached."""
    with opened(watch.folder, watch.entropy) as vault:
        furnish(vault, watch)
        largest = max(len(content) for content in files(watch.folder).values())
        with files_limited_to(largest), watch.failing(StorageError):
            for version in range(10, 500):
                vault.create_key(key(version=version))
        use(vault, watch)

    watch.assert_nothing_left()


@contextmanager
def files_limited_to(size: int) -> Iterator[None]:
    """No file of this process grows beyond `size` bytes; Python ignores SIGXFSZ."""
    former = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, former[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, former)


def test_nothing_is_told_by_an_owner_that_is_refused(watch: Watch) -> None:
    with opened(watch.folder, watch.entropy) as vault:
        furnish(vault, watch)
        delivery = delivery_of(vault)
        with watch.failing(KeymixerError, RemoteError):
            delivery.accept_proof(str(OWNER_ID), KEY, 1, bytes(32))
        with watch.failing(KeymixerError):
            delivery.seal_for(str(OWNER_ID), KEY, 1, b"another key")
        with watch.failing(KeymixerError):
            delivery.seal_for("spiffe://demo/x/data-owner", KEY, 1, b"")
        vault.destroy_key(KEY, 1, pen)
        with watch.failing(KeymixerError):
            vault.create_key(key())

    watch.assert_nothing_left()


def test_nothing_is_left_by_a_program_that_gives_the_key(watch: Watch) -> None:
    """Nor of the program's own complaints, which may quote it."""
    secret = watch.entropy(32)
    script = watch.folder.with_name(f"{watch.folder.name}-give-kek")
    script.write_text(f"#!/bin/sh\necho {secret.hex()}\necho {secret.hex()} >&2\n")
    script.chmod(0o700)
    with opened(watch.folder, watch.entropy, f"exec:{script}") as vault:
        furnish(vault, watch)
        use(vault, watch)
        script.write_text(f"#!/bin/sh\necho {secret.hex()} >&2\nexit 1\n")
    with (
        watch.failing(KeymixerError),
        opened(watch.folder, watch.entropy, f"exec:{script}"),
    ):
        pytest.fail("opened without a key")

    watch.assert_nothing_left()
