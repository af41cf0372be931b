"""The key holder's store keeps its promises on SQLite and on PostgreSQL."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Barrier

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import text

from core.database import Database, open_database
from core.errors import ConstraintConflict
from core.keys import commitment
from core.statements import DestructionReceipt
from parties.key_holder.errors import (
    CorruptRecordError,
    EmbeddingChangedError,
    KekUnlistedError,
    KeyDestroyedError,
    KeyIdentityError,
)
from parties.key_holder.opening import MIGRATIONS, Store, open_store
from parties.key_holder.rewrap import rewrap
from parties.key_holder.tables import Base
from parties.key_holder.vault import Vault
from tests.postgresql import PATIENT, PostgreSQL
from tests.unit.parties.stage import MODEL, OTHER_OWNER_ID, Entropy
from tests.unit.parties.strongroom import KEK, KEY, key, pen, seed_of

PLAIN = b"plain patch embedding " * 20_000


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The key holder's database without rows, of either kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/key-holder.db"
    server: PostgreSQL = request.getfixturevalue("postgresql")
    return server.emptied(migrate_key_holder) + PATIENT


def migrate_key_holder(url: str) -> None:
    open_database(url, MIGRATIONS).close()


@pytest.fixture
def store(url: str, tmp_path: Path) -> Iterator[Store]:
    with started(url, tmp_path) as opened:
        yield opened


@contextmanager
def started(url: str, folder: Path, entropy: Entropy | None = None) -> Iterator[Store]:
    with open_store(folder, url, entropy=entropy or os.urandom) as opened:
        yield opened


@pytest.fixture
def vault(store: Store) -> Vault:
    return store.unlocked(KEK)


def execute(database: Database, statement: str) -> None:
    with database.transaction() as session:
        session.execute(text(statement))


def test_the_tables_are_those_of_the_models(url: str) -> None:
    with open_database(url, MIGRATIONS) as database, database.reading() as session:
        context = MigrationContext.configure(session.connection())

        assert compare_metadata(context, Base.metadata) == []


def test_a_key_is_drawn_once_and_opens_after_a_restart(
    url: str, tmp_path: Path, vault: Vault
) -> None:
    first = vault.create_key(key())
    with started(url, tmp_path) as again:
        other = again.unlocked(KEK)

        assert first == other.create_key(key())
        assert seed_of(vault) == seed_of(other)


def test_two_processes_draw_one_key(url: str, tmp_path: Path) -> None:
    start, entropy = Barrier(4), Entropy()
    with (
        started(url, tmp_path, entropy) as one,
        started(url, tmp_path, entropy) as two,
        ThreadPoolExecutor(4) as pool,
    ):
        vaults = [each.unlocked(KEK) for each in (one, two, one, two)]

        def ask(asked: Vault) -> bytes:
            start.wait()
            return asked.create_key(key())

        (committed,) = set(pool.map(ask, vaults))
        drawn = [each for each in entropy.given if len(each) == 32]

        assert len(drawn) == 4  # kek, seed, blinding, data key
        assert committed == commitment(seed_of(vaults[0]), drawn[2])


def test_a_key_version_is_one_owners_for_ever(vault: Vault) -> None:
    vault.create_key(key())

    with pytest.raises(KeyIdentityError):
        vault.create_key(key(owner=str(OTHER_OWNER_ID)))


def test_a_destroyed_key_is_gone_and_receipted(
    url: str, tmp_path: Path, vault: Vault
) -> None:
    committed = vault.create_key(key())
    signed = vault.destroy_key(KEY, 1, pen)
    assert signed is not None
    assert vault.destroy_key(KEY, 2, pen) is None

    receipt = DestructionReceipt.from_bytes(signed.receipt)
    assert receipt.commitment == committed.hex()
    with started(url, tmp_path) as again:
        other = again.unlocked(KEK)
        assert signed == other.destroy_key(KEY, 1, pen)
        for version in (1, 2):
            with pytest.raises(KeyDestroyedError):
                other.create_key(key(version=version))


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM key_versions",
        "UPDATE key_versions SET version = 9 WHERE version = 1",
        "UPDATE key_versions SET owner = 'somebody' WHERE version = 1",
        "UPDATE key_versions SET receipt = NULL WHERE version = 2",
        "UPDATE key_versions SET destroyed_at_ms = NULL WHERE version = 2",
        "UPDATE key_versions SET sealed = NULL WHERE version = 1",
        "UPDATE key_versions SET kek_id = NULL WHERE version = 1",
        "INSERT INTO key_versions (key_id, version) VALUES ('k', 1)",
        "INSERT INTO key_versions (key_id, version, destroyed_at_ms) VALUES ('', 0, 1)",
    ],
)
def test_the_database_itself_keeps_the_rules(
    store: Store, vault: Vault, statement: str
) -> None:
    for version in (1, 2):
        vault.create_key(key(version=version))
    vault.destroy_key(KEY, 2, pen)

    with pytest.raises(ConstraintConflict):
        execute(store.database, statement)
    assert seed_of(vault)


def test_a_row_under_an_unlisted_key_encryption_key_does_not_open(
    store: Store, vault: Vault
) -> None:
    vault.create_key(key())
    execute(store.database, "UPDATE key_versions SET kek_id = 'unknown'")

    with pytest.raises(KekUnlistedError):
        seed_of(vault)


def test_a_changed_row_does_not_open(store: Store, vault: Vault) -> None:
    vault.create_key(key())
    vault.create_key(key(version=2))
    execute(
        store.database,
        "UPDATE key_versions SET wrapped = "
        "(SELECT wrapped FROM key_versions WHERE version = 2) WHERE version = 1",
    )

    with pytest.raises(CorruptRecordError):
        seed_of(vault, 1)
    assert seed_of(vault, 2)


def test_an_embedding_is_kept_as_it_was(vault: Vault) -> None:
    vault.store_embedding(MODEL, 1, PLAIN)
    vault.store_embedding(MODEL, 1, PLAIN)

    with vault.open_embedding(MODEL, 1) as content:
        assert content == PLAIN
    with pytest.raises(EmbeddingChangedError):
        vault.store_embedding(MODEL, 1, PLAIN + b"!")


def test_everything_moves_to_another_key_encryption_key(
    url: str, tmp_path: Path, store: Store, vault: Vault
) -> None:
    seeds = []
    for version in (1, 2, 3):
        vault.create_key(key(version=version))
        seeds.append(seed_of(vault, version))
    vault.store_embedding(MODEL, 1, PLAIN)
    with started(url, tmp_path) as other:
        done = rewrap(
            other.database,
            other.keychain,
            "file:new.key",
            entropy=os.urandom,
            now_ms=other.clock(),
            batch=2,
        )
    (tmp_path / "kek.key").unlink()

    assert (done.key_versions, done.embeddings, done.moved) == (3, 1, 4)
    with started(url, tmp_path) as again:
        other_vault = again.unlocked(KEK)
        assert seeds == [seed_of(other_vault, version) for version in (1, 2, 3)]
        with other_vault.open_embedding(MODEL, 1) as content:
            assert content == PLAIN
    assert seeds[0] == seed_of(vault)
