"""Keys at rest: bound to their names, unreadable to others, never printed."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from core.errors import ConfigurationError, CorruptFileError, NotFound
from core.keys import derive_key, verify_possession
from core.orthogonal import GENERATOR
from parties.data_owner.keyring import KeyFacts, Keyring

SEED = bytes(range(32))
CHANGED = {
    "model": "other",
    "patch_size": 4,
    "sealed": "00" * 48,
    "nonce": "00" * 12,
}


def facts(key_id: str = "k1", version: int = 1) -> KeyFacts:
    return KeyFacts(key_id, version, "digits", GENERATOR, 2, 1)


@pytest.fixture
def keyring(tmp_path: Path) -> Keyring:
    keyring = Keyring(tmp_path)
    keyring.add(facts(), SEED)
    return keyring


def test_a_kept_key_is_the_one_its_seed_gives(keyring: Keyring, tmp_path: Path) -> None:
    expected = derive_key(SEED, key_id="k1", version=1, patch_size=2, channels=1)

    assert np.array_equal(expected.matrix, Keyring(tmp_path).key("k1", 1).matrix)
    assert keyring.facts("k1", 1) == facts()


def test_the_proof_is_the_seeds(keyring: Keyring) -> None:
    tag = keyring.possession_tag("k1", 1, "spiffe://f/o/data-owner")

    verify_possession(
        tag, SEED, key_id="k1", version=1, owner="spiffe://f/o/data-owner"
    )


def test_a_keyring_says_what_it_holds(keyring: Keyring) -> None:
    assert ("k1", 1) in keyring
    assert ("k1", 2) not in keyring
    assert "k1" not in keyring
    with pytest.raises(NotFound):
        keyring.key("k1", 2)


def test_no_file_holds_the_seed_and_none_is_for_others(
    keyring: Keyring, tmp_path: Path
) -> None:
    files = [path for path in tmp_path.rglob("*") if path.is_file()]

    assert len(files) == 2
    for path in files:
        assert path.stat().st_mode & 0o077 == 0
        assert SEED not in path.read_bytes()
        assert SEED.hex().encode() not in path.read_bytes()
    assert SEED.hex() not in repr(keyring)


def test_a_key_is_not_pickled(keyring: Keyring) -> None:
    with pytest.raises(TypeError):
        pickle.dumps(keyring.key("k1", 1))


@pytest.mark.parametrize("field", CHANGED)
def test_a_changed_file_is_refused(
    keyring: Keyring, tmp_path: Path, field: str
) -> None:
    path = tmp_path / "keys" / "k1" / "1.key"
    content = json.loads(path.read_text())
    changed = {
        "model": "other",
        "patch_size": 4,
        "sealed": "00" * 48,
        "nonce": "00" * 12,
    }
    content[field] = changed[field]
    path.write_text(json.dumps(content, separators=(",", ":"), sort_keys=True))

    with pytest.raises(CorruptFileError, match="was changed"):
        keyring.key("k1", 1)


def test_one_key_cannot_stand_for_another(keyring: Keyring, tmp_path: Path) -> None:
    keyring.add(facts(version=2), bytes(32))
    folder = tmp_path / "keys" / "k1"
    (folder / "2.key").write_bytes((folder / "1.key").read_bytes())

    with pytest.raises(CorruptFileError, match="holds another key"):
        keyring.key("k1", 2)


def test_without_its_key_encryption_key_nothing_opens(
    keyring: Keyring, tmp_path: Path
) -> None:
    (tmp_path / "kek.key").unlink()

    with pytest.raises(CorruptFileError, match="delete it to have the key fetched"):
        keyring.key("k1", 1)


def test_a_key_encryption_key_that_others_may_read_is_refused(
    keyring: Keyring, tmp_path: Path
) -> None:
    (tmp_path / "kek.key").chmod(0o644)

    with pytest.raises(ConfigurationError, match="chmod 600"):
        keyring.key("k1", 1)


@pytest.mark.parametrize("key_id", ["", "../out", "a/b", ".hidden", "x" * 200, "a\0b"])
def test_a_name_that_leaves_the_folder_is_refused(key_id: str) -> None:
    with pytest.raises(CorruptFileError, match="is no key version"):
        facts(key_id)


def test_a_version_counts_from_one() -> None:
    with pytest.raises(CorruptFileError):
        facts(version=0)
