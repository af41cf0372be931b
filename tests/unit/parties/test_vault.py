"""Keys and embeddings at rest: drawn once, opened as what they are, gone for ever."""

import sqlite3
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest

from core.errors import (
    ConstraintConflict,
    CorruptFileError,
    DatabaseBusyError,
    KeyRefusedError,
    NotFound,
)
from core.keys import commitment
from core.statements import DESTRUCTION, DestructionReceipt, verify
from parties.key_holder.at_rest import erase
from parties.key_holder.errors import (
    CorruptRecordError,
    EmbeddingChangedError,
    KeyDestroyedError,
    KeyFormError,
    KeyIdentityError,
)
from parties.key_holder.vault import Vault
from tests.unit.parties.stage import MODEL, OTHER_OWNER_ID, Entropy, public
from tests.unit.parties.strongroom import (
    KEY,
    NOW_MS,
    SIGNING_KEY,
    files,
    key,
    opened,
    pen,
    seed_of,
)

PLAIN = b"plain patch embedding " * 20
CHANGES = {
    "owner": "UPDATE key_versions SET owner = ?",
    "model": "UPDATE key_versions SET model = ?",
    "generator": "UPDATE key_versions SET generator = ?",
    "patch_size": "UPDATE key_versions SET patch_size = ?",
    "channels": "UPDATE key_versions SET channels = ?",
    "commitment": "UPDATE key_versions SET commitment = ?",
    "wrapped": "UPDATE key_versions SET wrapped = ?",
    "sealed": "UPDATE key_versions SET sealed = ?",
}


@pytest.fixture
def entropy() -> Entropy:
    return Entropy()


@pytest.fixture
def vault(tmp_path: Path, entropy: Entropy) -> Iterator[Vault]:
    with opened(tmp_path, entropy) as vault:
        yield vault


def change(folder: Path, statement: str, *values: object) -> None:
    """Change the database behind the key holder's back, its guards taken down."""
    with sqlite3.connect(folder / "key-holder.db") as connection:
        named = "SELECT name FROM sqlite_master WHERE type = 'trigger'"
        for (name,) in connection.execute(named).fetchall():
            connection.execute(f"DROP TRIGGER {name}")
        connection.execute(statement, values)
    connection.close()


def rows(folder: Path) -> dict[int, dict[str, Any]]:
    """The rows of all key versions, by version."""
    connection = sqlite3.connect(folder / "key-holder.db")
    connection.row_factory = sqlite3.Row
    found = [dict(row) for row in connection.execute("SELECT * FROM key_versions")]
    connection.close()
    return {row["version"]: row for row in found}


def swap(folder: Path, column: str) -> None:
    """Give versions 1 and 2 what the other one has in a column."""
    statement = CHANGES[column] + " WHERE version = ?"
    found = rows(folder)
    for version in (1, 2):
        change(folder, statement, found[3 - version][column], version)


def test_a_key_version_is_drawn_once(vault: Vault, entropy: Entropy) -> None:
    first = vault.create_key(key())
    drawn = len(entropy.given)

    assert first == vault.create_key(key())
    assert drawn == len(entropy.given)


def test_many_who_ask_for_one_key_version_at_once_get_one(
    tmp_path: Path, vault: Vault, entropy: Entropy
) -> None:
    """Two of them through another process's connection to the same database."""
    start = Barrier(8)
    with opened(tmp_path, entropy) as other, ThreadPoolExecutor(8) as pool:

        def ask(asked: Vault) -> bytes:
            start.wait()
            return asked.create_key(key())

        answers = set(pool.map(ask, [vault, other] * 4))

    (committed,) = answers
    drawn = [each for each in entropy.given if len(each) == 32]
    assert committed == commitment(seed_of(vault), drawn[2])
    assert len(drawn) == 4  # kek, seed, blinding, data key: nothing was drawn twice


def test_the_commitment_is_to_the_seed_and_a_blinding_drawn_for_it(
    vault: Vault, entropy: Entropy
) -> None:
    committed = vault.create_key(key())
    _, seed, blinding, *_ = [each for each in entropy.given if len(each) == 32]

    assert seed == seed_of(vault)
    assert committed == commitment(seed, blinding)


def test_the_commitment_is_told_without_decrypting(
    tmp_path: Path, vault: Vault
) -> None:
    committed = vault.create_key(key())
    change(tmp_path, "UPDATE key_versions SET sealed = x'00'")

    assert committed == vault.create_key(key())


def test_two_versions_have_two_seeds(vault: Vault) -> None:
    vault.create_key(key())
    vault.create_key(key(version=2))

    assert seed_of(vault) != seed_of(vault, 2)


def test_a_key_outlives_the_process(tmp_path: Path) -> None:
    with opened(tmp_path) as vault:
        vault.create_key(key())
        before = seed_of(vault)
    with opened(tmp_path, Entropy()) as vault:
        assert before == seed_of(vault)


def test_a_lent_seed_is_erased_when_it_comes_back(vault: Vault) -> None:
    vault.create_key(key())
    with vault.open_seed(KEY, 1) as seed:
        assert any(seed)

    assert bytes(32) == bytes(seed)


def test_seed_and_blinding_are_erased_after_the_commitment(
    vault: Vault, entropy: Entropy, monkeypatch: pytest.MonkeyPatch
) -> None:
    erased: list[bytes] = []

    def spy(secret: bytearray) -> None:
        erased.append(bytes(secret))
        erase(secret)

    monkeypatch.setattr("parties.key_holder.vault.erase", spy)
    vault.create_key(key())
    _, seed, blinding, *_ = [each for each in entropy.given if len(each) == 32]

    assert {seed, blinding, seed + blinding} <= set(erased)


def test_a_lent_embedding_is_erased_when_it_comes_back(vault: Vault) -> None:
    vault.store_embedding(MODEL, 1, PLAIN)
    with vault.open_embedding(MODEL, 1) as content:
        assert content == PLAIN

    assert bytes(len(PLAIN)) == bytes(content)


def test_what_is_lent_is_erased_even_if_its_use_fails(vault: Vault) -> None:
    vault.create_key(key())
    vault.store_embedding(MODEL, 1, PLAIN)
    with (
        pytest.raises(ZeroDivisionError),
        vault.open_embedding(MODEL, 1) as content,
        vault.open_seed(KEY, 1) as seed,
    ):
        raise ZeroDivisionError

    assert not any(content)
    assert not any(seed)


def test_every_file_is_for_its_owner_only(tmp_path: Path, vault: Vault) -> None:
    vault.create_key(key())
    vault.store_embedding(MODEL, 1, PLAIN)
    found = {path.name: path.stat().st_mode for path in tmp_path.iterdir()}

    assert {
        "key-holder.db",
        "key-holder.db-wal",
        "kek.key",
        "keks.json",
    } <= found.keys()
    assert {0o600} == {stat.S_IMODE(mode) for mode in found.values()}


def test_a_destroyed_key_is_refused_for_ever(tmp_path: Path) -> None:
    with opened(tmp_path) as vault:
        vault.create_key(key())
        vault.destroy_key(KEY, 1, pen)
    with opened(tmp_path, Entropy()) as vault:
        with pytest.raises(KeyDestroyedError):
            seed_of(vault)
        with pytest.raises(KeyDestroyedError):
            vault.identity(KEY, 1)
        with pytest.raises(KeyRefusedError):
            vault.create_key(key())


def test_a_receipt_says_what_was_destroyed_and_when(vault: Vault) -> None:
    committed = vault.create_key(key())
    signed = vault.destroy_key(KEY, 1, pen)

    assert signed is not None
    verify(public(SIGNING_KEY), DESTRUCTION, signed.receipt, signed.signature)
    receipt = DestructionReceipt.from_bytes(signed.receipt)
    assert (receipt.key_id, receipt.key_version) == (KEY, 1)
    assert bytes.fromhex(receipt.commitment) == committed
    assert receipt.destroyed_at_ms == NOW_MS
    assert "backups" in receipt.excludes


def test_destroying_again_gives_the_same_receipt(tmp_path: Path) -> None:
    with opened(tmp_path) as vault:
        vault.create_key(key())
        first = vault.destroy_key(KEY, 1, pen)
        assert first == vault.destroy_key(KEY, 1, pen)
    with opened(tmp_path, Entropy()) as vault:
        assert first == vault.destroy_key(KEY, 1, lambda _: b"another signature")


def test_a_version_that_never_was_is_refused_ever_after(vault: Vault) -> None:
    """And there is nothing to give a receipt for, however often one asks."""
    for _ in range(2):
        assert vault.destroy_key(KEY, 7, pen) is None

    with pytest.raises(KeyDestroyedError):
        vault.create_key(key(version=7))


def test_destroying_leaves_no_byte_of_wrapped_key_or_sealed_seed(
    tmp_path: Path, vault: Vault
) -> None:
    """Among many others, so that pages split and rows move within them."""
    for version in range(1, 120):
        vault.create_key(key(version=version))
    before = _sealed_parts(tmp_path)
    assert any(before[0] in content for content in files(tmp_path).values())
    for version in range(1, 120, 2):
        vault.destroy_key(KEY, version, pen)
    gone = set(before) - set(_sealed_parts(tmp_path))

    assert len(gone) == 2 * 60
    for content in files(tmp_path).values():
        # Nor a piece of one, from the middle: neither nonce nor tag.
        assert not [part for part in gone if part[12:28] in content]
    assert seed_of(vault, 2) != seed_of(vault, 4)


def _sealed_parts(folder: Path) -> list[bytes]:
    """The wrapped data keys and sealed seeds that are not destroyed."""
    live = [row for row in rows(folder).values() if row["sealed"]]
    return [row[column] for row in live for column in ("wrapped", "sealed")]


def test_no_receipt_while_a_reader_keeps_the_log_from_being_emptied(
    tmp_path: Path, vault: Vault
) -> None:
    """The seed is gone all the same, and the receipt comes when the reader has left."""
    vault.create_key(key())
    reader = sqlite3.connect(tmp_path / "key-holder.db", isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM key_versions").fetchone()
    with opened(tmp_path, wait_s=0.05) as hurried:
        with pytest.raises(DatabaseBusyError, match="log"):
            hurried.destroy_key(KEY, 1, pen)
        reader.close()

    with pytest.raises(KeyDestroyedError):
        seed_of(vault)
    assert vault.destroy_key(KEY, 1, pen) is not None


def test_a_copy_of_the_ciphertext_does_not_open_once_the_data_key_is_gone(
    tmp_path: Path, vault: Vault
) -> None:
    """Crypto-shredding: a backup of the sealed seed is worth nothing without it."""
    vault.create_key(key())
    copy = rows(tmp_path)[1]
    vault.destroy_key(KEY, 1, pen)
    change(
        tmp_path,
        "UPDATE key_versions SET sealed = ?, wrapped = ?, kek_id = ?, "
        "destroyed_at_ms = NULL, receipt = NULL, receipt_signature = NULL",
        copy["sealed"],
        bytes(60),
        copy["kek_id"],
    )

    with pytest.raises(CorruptRecordError):
        seed_of(vault)


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM key_versions",
        "UPDATE key_versions SET version = 2",
        "UPDATE key_versions SET owner = 'somebody'",
        "UPDATE key_versions SET commitment = zeroblob(32)",
        "INSERT OR REPLACE INTO key_versions SELECT * FROM key_versions",
    ],
)
def test_the_database_keeps_key_versions_as_they_are(
    tmp_path: Path, vault: Vault, statement: str
) -> None:
    vault.create_key(key())
    connection = sqlite3.connect(tmp_path / "key-holder.db")

    with pytest.raises(sqlite3.IntegrityError, match="kept as they are"):
        connection.execute(statement)
    connection.close()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE key_versions SET wrapped = x'00', sealed = x'00', destroyed_at_ms = 0",
        "UPDATE key_versions SET destroyed_at_ms = NULL",
        "UPDATE key_versions SET receipt = x'00'",
    ],
)
def test_the_database_brings_no_destroyed_key_back(
    tmp_path: Path, vault: Vault, statement: str
) -> None:
    vault.create_key(key())
    vault.destroy_key(KEY, 1, pen)
    connection = sqlite3.connect(tmp_path / "key-holder.db")

    with pytest.raises(sqlite3.IntegrityError, match="kept as they are"):
        connection.execute(statement)
    connection.close()


@pytest.mark.parametrize("column", ["sealed", "wrapped"])
@pytest.mark.parametrize("damage", ["flipped", "cut", "empty", "longer"])
def test_a_changed_record_is_corrupt(
    tmp_path: Path, vault: Vault, column: str, damage: str
) -> None:
    vault.create_key(key())
    content = rows(tmp_path)[1][column]
    damaged = {
        "flipped": content[:-1] + bytes([content[-1] ^ 1]),
        "cut": content[:-1],
        "empty": b"",
        "longer": content + b"\x00",
    }[damage]
    change(tmp_path, CHANGES[column], damaged)

    with pytest.raises(CorruptRecordError):
        seed_of(vault)


@pytest.mark.parametrize(
    ("column", "changed"),
    [
        ("owner", str(OTHER_OWNER_ID)),
        ("model", "another"),
        ("generator", "keymixer-haar-v9"),
        ("patch_size", 2),
        ("channels", 1),
        ("commitment", bytes(32)),
        ("owner", ""),
        ("patch_size", -1),
    ],
)
def test_a_key_cannot_become_another_on_disk(
    tmp_path: Path, vault: Vault, column: str, changed: object
) -> None:
    """What it is stands in the open, and both encryptions authenticate it."""
    vault.create_key(key())
    change(tmp_path, CHANGES[column], changed)

    with pytest.raises(CorruptFileError):
        seed_of(vault)


def test_a_row_cannot_pass_for_another_version(tmp_path: Path, vault: Vault) -> None:
    vault.create_key(key())
    change(tmp_path, "UPDATE key_versions SET version = 2")

    with pytest.raises(CorruptRecordError):
        seed_of(vault, 2)


def test_two_rows_cannot_swap_their_wrapped_keys(tmp_path: Path, vault: Vault) -> None:
    vault.create_key(key())
    vault.create_key(key(version=2))
    swap(tmp_path, "wrapped")

    for version in (1, 2):
        with pytest.raises(CorruptRecordError):
            seed_of(vault, version)


def test_two_rows_cannot_swap_all_that_is_encrypted(
    tmp_path: Path, vault: Vault
) -> None:
    vault.create_key(key())
    vault.create_key(key(version=2))
    for column in ("wrapped", "sealed"):
        swap(tmp_path, column)

    for version in (1, 2):
        with pytest.raises(CorruptRecordError):
            seed_of(vault, version)


@pytest.mark.parametrize(
    "change_of",
    [
        {"owner": str(OTHER_OWNER_ID)},
        {"patch_size": 2},
        {"channels": 1},
        {"model": "x"},
        {"generator": "keymixer-haar-v9"},
    ],
)
def test_a_key_version_cannot_be_asked_for_as_another(
    vault: Vault, change_of: dict[str, Any]
) -> None:
    vault.create_key(key())

    with pytest.raises(KeyIdentityError):
        vault.create_key(key(**change_of))


@pytest.mark.parametrize(
    "change_of",
    [
        {"version": 0},
        {"version": 2**53},
        {"channels": -3},
        {"patch_size": 0},
        {"patch_size": 19},
        {"key_id": ""},
        {"key_id": "k" * 256},
        {"key_id": "nul\0l"},
        {"owner": "o" * 513},
        {"model": "two\nlines"},
    ],
)
def test_a_key_that_cannot_be_is_refused(change_of: dict[str, Any]) -> None:
    with pytest.raises(KeyFormError):
        key(**change_of)


@pytest.mark.parametrize("key_id", ["../../etc/passwd", "a/b", "..", "é", "k" * 255])
def test_any_other_name_is_only_a_name(tmp_path: Path, key_id: str) -> None:
    with opened(tmp_path) as vault:
        vault.create_key(key(key_id=key_id))

        assert key_id == vault.identity(key_id, 1).key_id
    assert {"kek.key", "keks.json", "key-holder.db"} == {
        path.name for path in tmp_path.iterdir()
    }


def test_a_version_below_one_is_refused(vault: Vault) -> None:
    for version in (0, -1):
        with pytest.raises(KeyFormError):
            vault.destroy_key("k", version, pen)
        with pytest.raises(KeyFormError):
            vault.identity("k", version)
        with pytest.raises(KeyFormError):
            vault.store_embedding(MODEL, version, PLAIN)


def test_what_is_not_there_is_not_found(vault: Vault) -> None:
    with pytest.raises(NotFound):
        seed_of(vault)
    with pytest.raises(NotFound), vault.open_embedding(MODEL, 1):
        pytest.fail("an embedding that nobody stored was lent")


def test_an_embedding_comes_back_as_it_was(tmp_path: Path, vault: Vault) -> None:
    vault.store_embedding(MODEL, 1, PLAIN)
    vault.store_embedding(MODEL, 1, PLAIN)

    with opened(tmp_path, Entropy()) as other, other.open_embedding(MODEL, 1) as it:
        assert it == PLAIN


def test_a_model_version_never_changes_its_embedding(vault: Vault) -> None:
    vault.store_embedding(MODEL, 1, PLAIN)

    with pytest.raises(EmbeddingChangedError):
        vault.store_embedding(MODEL, 1, PLAIN + b"!")
    with vault.open_embedding(MODEL, 1) as content:
        assert content == PLAIN


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE embeddings SET version = 2",
        "UPDATE embeddings SET version = 2, digest = zeroblob(32)",
        "UPDATE embeddings SET version = 2, sealed = zeroblob(100)",
    ],
)
def test_an_embedding_cannot_pass_for_another_version(
    tmp_path: Path, vault: Vault, statement: str
) -> None:
    vault.store_embedding(MODEL, 1, PLAIN)
    change(tmp_path, statement)

    with pytest.raises(CorruptRecordError), vault.open_embedding(MODEL, 2):
        pytest.fail("another version's embedding was lent")


def test_a_key_and_an_embedding_of_one_name_are_two_things(
    tmp_path: Path, vault: Vault
) -> None:
    """Not even with the row of the one in the table of the other."""
    vault.create_key(key(key_id="same"))
    vault.store_embedding("same", 1, bytes(64))
    change(
        tmp_path,
        "UPDATE embeddings SET (wrapped, sealed) = "
        "(SELECT wrapped, sealed FROM key_versions)",
    )

    with pytest.raises(CorruptRecordError), vault.open_embedding("same", 1):
        pytest.fail("a seed was lent as an embedding")


def test_a_conflict_of_the_database_is_typed(tmp_path: Path, vault: Vault) -> None:
    """Two processes that both believe to be the only writer end in one row."""
    vault.create_key(key())

    with pytest.raises(ConstraintConflict), vault._database.transaction() as session:
        session.connection().exec_driver_sql(
            "INSERT INTO key_versions SELECT * FROM key_versions"
        )
