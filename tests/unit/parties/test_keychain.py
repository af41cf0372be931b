"""Which key-encryption key is in use, and where it is looked for."""

import copy
import logging
import pickle
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from core.errors import ConfigurationError
from parties.key_holder.at_rest import KeyEncryptionKey
from parties.key_holder.errors import (
    CorruptRecordError,
    KekListError,
    KekMismatchError,
    KekMissingError,
    KekPrivacyError,
    KekProgramError,
    KekUnlistedError,
    KekUrlError,
)
from parties.key_holder.keks import KekList, ListedKek
from parties.key_holder.keychain import Keychain
from tests.unit.parties.stage import Entropy
from tests.unit.parties.strongroom import key, opened, seed_of, store

VARIABLE = "KEYMIXER_TEST_KEK"
OTHER = bytes(range(32))


def used(folder: Path) -> tuple[str, str]:
    """The id and the URL of the key in use."""
    listed = KekList.read(folder).used()
    assert listed is not None
    return listed.id, listed.url


def with_a_key(folder: Path) -> bytes:
    with opened(folder) as vault:
        vault.create_key(key())
        return seed_of(vault)


def test_a_new_store_makes_its_key_file(tmp_path: Path) -> None:
    with_a_key(tmp_path)

    assert len((tmp_path / "kek.key").read_bytes()) == 32
    assert used(tmp_path)[1] == "file:kek.key"


def test_a_key_file_that_is_there_is_taken(tmp_path: Path) -> None:
    (tmp_path / "kek.key").touch(mode=0o600)
    (tmp_path / "kek.key").write_bytes(OTHER)
    with_a_key(tmp_path)

    assert (tmp_path / "kek.key").read_bytes() == OTHER


def test_a_new_store_without_a_key_is_not_opened(tmp_path: Path) -> None:
    with pytest.raises(KekMissingError), opened(tmp_path, kek=f"env:{VARIABLE}"):
        pytest.fail("a store without a key was opened")


def test_a_lost_key_is_not_replaced_in_silence(tmp_path: Path) -> None:
    with_a_key(tmp_path)
    (tmp_path / "kek.key").unlink()

    with pytest.raises(KekMissingError, match=r"kek\.key"), opened(tmp_path):
        pytest.fail("a store without its key was opened")
    assert not (tmp_path / "kek.key").exists()


def test_another_key_in_its_place_is_found(tmp_path: Path) -> None:
    with_a_key(tmp_path)
    (tmp_path / "kek.key").write_bytes(OTHER)

    with pytest.raises(KekMismatchError, match=r"file:kek\.key"), opened(tmp_path):
        pytest.fail("a store was opened with another key")


def test_a_key_that_others_may_read_opens_nothing(tmp_path: Path) -> None:
    with_a_key(tmp_path)
    (tmp_path / "kek.key").chmod(0o640)

    with pytest.raises(KekPrivacyError), opened(tmp_path):
        pytest.fail("a store was opened with a key that others may read")


def test_a_key_that_moved_is_found_where_the_settings_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed = with_a_key(tmp_path)
    kek_id, _ = used(tmp_path)
    monkeypatch.setenv(VARIABLE, (tmp_path / "kek.key").read_bytes().hex())
    (tmp_path / "kek.key").unlink()

    with opened(tmp_path, kek=f"env:{VARIABLE}") as vault:
        assert seed_of(vault) == seed
    assert used(tmp_path) == (kek_id, f"env:{VARIABLE}")


def test_settings_that_name_another_key_change_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """To change the key is what rewrap is for; afterwards settings may be behind."""
    seed = with_a_key(tmp_path)
    before = used(tmp_path)
    monkeypatch.setenv(VARIABLE, OTHER.hex())
    caplog.set_level(logging.WARNING)
    with opened(tmp_path, kek=f"env:{VARIABLE}") as vault:
        assert seed_of(vault) == seed

    assert used(tmp_path) == before
    assert "settings.json names another" in caplog.text


@pytest.mark.parametrize("elsewhere", [f"env:{VARIABLE}", "nonsense", "file:no.key"])
def test_the_first_failure_is_told_if_the_settings_do_not_help(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, elsewhere: str
) -> None:
    with_a_key(tmp_path)
    (tmp_path / "kek.key").unlink()
    monkeypatch.setenv(VARIABLE, OTHER.hex())

    with (
        pytest.raises(KekMissingError, match=r"kek\.key"),
        opened(tmp_path, kek=elsewhere),
    ):
        pytest.fail("a store without its key was opened")


def test_a_url_that_is_none_is_told_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(KekUrlError), opened(tmp_path, kek="kek.key"):
        pytest.fail("a store without a key was opened")


def test_a_store_that_was_never_opened_has_no_key_in_use(tmp_path: Path) -> None:
    with (
        store(tmp_path) as found,
        found.database.reading() as session,
        pytest.raises(CorruptRecordError),
    ):
        found.keychain.in_use(session)


@pytest.mark.parametrize("sealed_before", [True, False])
def test_who_writes_the_database_has_no_program_run(
    tmp_path: Path, sealed_before: bool
) -> None:
    """Nor a new seed sealed under a key of his own: the database names keys only."""
    own = KeyEncryptionKey(OTHER)
    script = f"exec:/bin/sh -c 'touch {tmp_path}/ran; echo {OTHER.hex()}'"
    with opened(tmp_path) as vault:
        if sealed_before:
            vault.create_key(key())
        plant(tmp_path, own.id, script)
        vault.create_key(key(version=2))
        if sealed_before:
            with pytest.raises(KekUnlistedError):
                seed_of(vault)
    with opened(tmp_path) as vault:
        assert len(seed_of(vault, 2)) == 32

    assert not (tmp_path / "ran").exists()
    assert own.id not in KekList.read(tmp_path).keks
    (kek_id,) = change(tmp_path, "SELECT kek_id FROM key_versions WHERE version = 2")
    assert kek_id == (KekList.read(tmp_path).in_use,)


def plant(folder: Path, kek_id: str, url: str) -> None:
    """What somebody could do who can write the database: even make a table."""
    change(folder, "CREATE TABLE key_encryption_keys (id, url, in_use, since_ms)")
    insert = "INSERT INTO key_encryption_keys VALUES (?, ?, TRUE, 1)"
    change(folder, insert, kek_id, url)
    change(folder, "UPDATE key_versions SET kek_id = ?", kek_id)


def change(folder: Path, statement: str, *values: str) -> list[Any]:
    """Write to the database as another program; give the rows."""
    connection = sqlite3.connect(folder / "key-holder.db")
    found = connection.execute(statement, values).fetchall()
    connection.commit()
    connection.close()
    return found


def test_a_lost_list_is_made_anew_if_the_settings_name_the_records_key(
    tmp_path: Path,
) -> None:
    seed = with_a_key(tmp_path)
    before = used(tmp_path)
    (tmp_path / "keks.json").unlink()

    with opened(tmp_path) as vault:
        assert seed_of(vault) == seed
    assert used(tmp_path) == before


def test_a_lost_list_is_not_replaced_by_another_key(tmp_path: Path) -> None:
    with_a_key(tmp_path)
    (tmp_path / "keks.json").unlink()
    (tmp_path / "kek.key").write_bytes(OTHER)

    with pytest.raises(KekMismatchError, match=r"keks\.json is missing"):
        with_a_key(tmp_path)
    (tmp_path / "kek.key").unlink()
    with pytest.raises(KekMissingError):
        with_a_key(tmp_path)
    assert not (tmp_path / "keks.json").exists()


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"in_use": "x", "keks": []}',
        '{"in_use": "x", "keks": [{"id": "x"}]}',
    ],
)
def test_a_list_that_cannot_be_read_is_told_and_kept(
    tmp_path: Path, content: str
) -> None:
    with_a_key(tmp_path)
    (tmp_path / "keks.json").write_text(content)

    with pytest.raises(KekListError, match=r"keks\.json"):
        with_a_key(tmp_path)
    assert (tmp_path / "keks.json").read_text() == content


def test_a_list_that_others_may_change_is_not_read(tmp_path: Path) -> None:
    with_a_key(tmp_path)
    (tmp_path / "keks.json").chmod(0o620)

    with pytest.raises(ConfigurationError, match="chmod 600"):
        with_a_key(tmp_path)


def test_a_program_is_asked_once(tmp_path: Path) -> None:
    """Not at each record: it may take seconds."""
    script = tmp_path / "give-kek"
    asked = tmp_path / "asked"
    script.write_text(f"#!/bin/sh\necho >> '{asked}'\necho {OTHER.hex()}\n")
    script.chmod(0o700)
    with opened(tmp_path, kek=f"exec:{script}") as vault:
        for version in range(1, 5):
            vault.create_key(key(version=version))
            seed_of(vault, version)

    assert asked.read_text() == "\n"


def test_a_program_that_failed_is_not_asked_again_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else every call would wait for it in turn, and no worker would be left."""
    script = tmp_path / "give-kek"
    asked = tmp_path / "asked"
    script.write_text(f"#!/bin/sh\necho >> '{asked}'\nexit 1\n")
    script.chmod(0o700)
    listed = ListedKek("00" * 16, f"exec:{script}", 0)
    keychain = Keychain(tmp_path, Entropy())
    for _ in range(3):
        with pytest.raises(KekProgramError, match="exit code 1"):
            keychain.key(listed)
    assert asked.read_text() == "\n"

    monkeypatch.setattr("parties.key_holder.keychain._RETRY_S", 0.0)
    with pytest.raises(KekProgramError):
        keychain.key(listed)
    assert asked.read_text() == "\n\n"


@pytest.mark.parametrize("copied", [pickle.dumps, copy.copy, copy.deepcopy])
def test_keychain_and_vault_are_neither_pickled_nor_copied(
    tmp_path: Path, copied: Any
) -> None:
    with opened(tmp_path) as vault:
        for each in (vault, Keychain(tmp_path, Entropy())):
            with pytest.raises(TypeError, match="neither pickled nor copied"):
                copied(each)


def test_every_failure_of_a_key_keeps_the_server_from_starting() -> None:
    """They are the operator's to mend, and no matter of trying again."""
    for error in (KekMissingError, KekMismatchError, KekPrivacyError, KekUrlError):
        assert issubclass(error, ConfigurationError)
