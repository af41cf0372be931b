"""Keys and embeddings at rest: what the disk holds, and what opens it."""

import logging
import pickle
import stat
from pathlib import Path
from typing import Any

import pytest

from core.errors import CorruptFileError, KeyRefusedError, NotFound, StorageError
from core.keys import commitment
from core.orthogonal import GENERATOR
from parties.key_holder.at_rest import EncryptedFiles, erase
from parties.key_holder.errors import (
    EmbeddingChangedError,
    KeyDestroyedError,
    KeyEncryptionKeyError,
    KeyFormError,
    KeyIdentityError,
)
from parties.key_holder.vault import KeyIdentity, Vault
from tests.unit.parties.stage import MODEL, OTHER_OWNER_ID, OWNER_ID, Entropy

PLAIN = b"plain patch embedding " * 20


def key(**changes: Any) -> KeyIdentity:
    fields: dict[str, Any] = {
        "key_id": "ward-one-cells",
        "version": 1,
        "owner": str(OWNER_ID),
        "model": MODEL,
        "generator": GENERATOR,
        "patch_size": 4,
        "channels": 3,
    }
    return KeyIdentity(**{**fields, **changes})


@pytest.fixture
def entropy() -> Entropy:
    return Entropy()


@pytest.fixture
def vault(tmp_path: Path, entropy: Entropy) -> Vault:
    return Vault(tmp_path, entropy)


def seed_of(vault: Vault, version: int = 1) -> bytes:
    with vault.open_seed("ward-one-cells", version) as seed:
        return bytes(seed)


def files(folder: Path) -> dict[Path, bytes]:
    return {p: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def the_file(folder: Path, pattern: str) -> Path:
    (path,) = folder.glob(pattern)
    return path


def test_a_key_version_is_drawn_once(vault: Vault, entropy: Entropy) -> None:
    first = vault.create_key(key())
    drawn = len(entropy.given)

    assert first == vault.create_key(key())
    assert drawn == len(entropy.given)


def test_the_commitment_is_to_the_seed_and_a_blinding_drawn_for_it(
    vault: Vault, entropy: Entropy
) -> None:
    committed = vault.create_key(key())
    blindings = [each for each in entropy.given if len(each) == 32]

    assert committed in [commitment(seed_of(vault), each) for each in blindings]


def test_two_versions_have_two_seeds(vault: Vault) -> None:
    vault.create_key(key())
    vault.create_key(key(version=2))

    assert seed_of(vault) != seed_of(vault, 2)


def test_a_key_outlives_the_process(tmp_path: Path, vault: Vault) -> None:
    vault.create_key(key())

    assert seed_of(vault) == seed_of(Vault(tmp_path, Entropy()))


def test_no_secret_is_on_disk_in_the_open(
    tmp_path: Path, vault: Vault, entropy: Entropy
) -> None:
    """The key-encryption key is the one exception; it has a file of its own."""
    vault.create_key(key())
    vault.store_embedding(MODEL, 1, PLAIN)
    secrets = [each for each in entropy.given if len(each) == 32]
    on_disk = {path.name: content for path, content in files(tmp_path).items()}
    kek = on_disk.pop("kek.key")

    assert [kek] == [each for each in secrets if each == kek]
    assert len(secrets) == 5  # kek, seed, blinding, and two data keys
    for content in on_disk.values():
        assert PLAIN[:16] not in content
        for secret in secrets:
            assert secret not in content
            assert secret.hex().encode() not in content


def test_no_secret_is_in_a_log_or_a_repr(
    vault: Vault, entropy: Entropy, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    vault.create_key(key())
    seed = seed_of(vault)

    said = caplog.text + repr(vault) + repr(vault.identity("ward-one-cells", 1))
    assert seed.hex() not in said
    assert repr(seed) not in said
    assert repr(bytearray(seed)) not in said


def test_a_vault_is_never_pickled(vault: Vault) -> None:
    with pytest.raises(TypeError, match="never pickled"):
        pickle.dumps(vault)


def test_a_lent_seed_is_erased_when_it_comes_back(vault: Vault) -> None:
    vault.create_key(key())
    with vault.open_seed("ward-one-cells", 1) as seed:
        pass

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
    seed, blinding = entropy.given[1:3]

    assert {seed, blinding} <= set(erased)


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
        vault.open_seed("ward-one-cells", 1) as seed,
    ):
        raise ZeroDivisionError

    assert not any(content)
    assert not any(seed)


def test_every_file_is_for_its_owner_only(tmp_path: Path, vault: Vault) -> None:
    vault.create_key(key())
    vault.store_embedding(MODEL, 1, PLAIN)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in files(tmp_path)}

    assert modes == {0o600}


def test_a_destroyed_key_is_refused_for_ever(tmp_path: Path, vault: Vault) -> None:
    vault.create_key(key())
    vault.destroy_key("ward-one-cells", 1)
    vault.destroy_key("ward-one-cells", 1)

    for opened in (vault, Vault(tmp_path, Entropy())):
        with pytest.raises(KeyDestroyedError):
            seed_of(opened)
        with pytest.raises(KeyRefusedError):
            opened.create_key(key())


def test_destroying_leaves_neither_ciphertext_nor_data_key(
    tmp_path: Path, vault: Vault
) -> None:
    vault.create_key(key())
    vault.destroy_key("ward-one-cells", 1)

    assert not list(tmp_path.rglob("*.wrapped"))
    assert not list(tmp_path.rglob("*.sealed"))


def test_a_copy_of_the_ciphertext_does_not_open_once_the_data_key_is_gone(
    tmp_path: Path, vault: Vault
) -> None:
    """Crypto-shredding: a backup of the sealed file is worth nothing."""
    vault.create_key(key())
    sealed = the_file(tmp_path, "keys/*.sealed")
    copy = sealed.read_bytes()
    vault.destroy_key("ward-one-cells", 1)
    sealed.write_bytes(copy)
    the_file(tmp_path, "destroyed/*").unlink()

    with pytest.raises(NotFound):
        seed_of(vault)


def test_a_crash_while_destroying_is_finished_at_the_next_start(
    tmp_path: Path, vault: Vault
) -> None:
    """The tombstone is written first: here the crash came right after it."""
    vault.create_key(key())
    (tmp_path / "destroyed" / "ward-one-cells-1").touch()
    Vault(tmp_path, Entropy())

    assert not list(tmp_path.rglob("*.wrapped"))


def test_a_key_is_refused_before_its_files_are_gone(
    vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_self: EncryptedFiles, _name: str) -> None:
        raise StorageError("no disk")

    vault.create_key(key())
    monkeypatch.setattr(EncryptedFiles, "destroy", fail)
    with pytest.raises(StorageError):
        vault.destroy_key("ward-one-cells", 1)

    with pytest.raises(KeyDestroyedError):
        vault.identity("ward-one-cells", 1)


def test_a_crash_while_drawing_leaves_no_key(tmp_path: Path, vault: Vault) -> None:
    """The identity is written last; without it nothing was drawn."""
    first = vault.create_key(key())
    the_file(tmp_path, "keys/*.identity").unlink()

    assert first != Vault(tmp_path, entropy_of(9)).create_key(key())


def test_a_version_that_never_was_can_be_destroyed(vault: Vault) -> None:
    vault.destroy_key("ward-one-cells", 7)

    with pytest.raises(KeyDestroyedError):
        vault.create_key(key(version=7))


@pytest.mark.parametrize("part", ["sealed", "wrapped"])
def test_a_changed_file_is_corrupt(tmp_path: Path, vault: Vault, part: str) -> None:
    vault.create_key(key())
    path = the_file(tmp_path, f"keys/*.{part}")
    content = path.read_bytes()
    for damaged in (content[:-1] + bytes([content[-1] ^ 1]), content[:5], b""):
        path.write_bytes(damaged)
        with pytest.raises(CorruptFileError):
            seed_of(vault)


def test_a_key_cannot_be_given_to_another_owner_on_disk(
    tmp_path: Path, vault: Vault
) -> None:
    """The identity is in the open, but both encryptions authenticate it."""
    vault.create_key(key())
    path = the_file(tmp_path, "keys/*.identity")
    path.write_bytes(key(owner=str(OTHER_OWNER_ID)).to_bytes())

    with pytest.raises(CorruptFileError):
        seed_of(vault)


def test_a_key_cannot_pass_for_another_version_on_disk(
    tmp_path: Path, vault: Vault
) -> None:
    vault.create_key(key())
    for path in list((tmp_path / "keys").iterdir()):
        path.rename(path.with_name(path.name.replace("-1.", "-2.")))

    with pytest.raises(CorruptFileError):
        seed_of(vault, 2)


@pytest.mark.parametrize(
    "change",
    [
        {"owner": str(OTHER_OWNER_ID)},
        {"patch_size": 2},
        {"channels": 1},
        {"model": "x"},
    ],
)
def test_a_key_version_cannot_become_another(
    vault: Vault, change: dict[str, Any]
) -> None:
    vault.create_key(key())

    with pytest.raises(KeyIdentityError):
        vault.create_key(key(**change))


@pytest.mark.parametrize("change", [{"version": 0}, {"channels": -3}, {"key_id": ""}])
def test_a_key_that_cannot_be_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(KeyFormError):
        key(**change)


@pytest.mark.parametrize("key_id", ["../../etc/passwd", "a/b", "nul\x00l", "..", "é"])
def test_no_name_leaves_the_folder(tmp_path: Path, key_id: str) -> None:
    folder = tmp_path / "vault"
    Vault(folder, Entropy()).create_key(key(key_id=key_id))

    assert [folder] == list(tmp_path.iterdir())
    assert len(list((folder / "keys").iterdir())) == 3


@pytest.mark.parametrize("key_id", ["k" * 199, "\u00e9" * 34, "/" * 67])
def test_a_name_too_long_for_a_file_is_refused(vault: Vault, key_id: str) -> None:
    """As it is quoted in a file's name: a letter may take six bytes there."""
    with pytest.raises(KeyFormError):
        vault.create_key(key(key_id=key_id))
    with pytest.raises(KeyFormError):
        vault.destroy_key(key_id, 1)


def test_the_longest_name_is_a_file(vault: Vault) -> None:
    vault.create_key(key(key_id="k" * 198))

    assert vault.identity("k" * 198, 1)


def test_a_version_below_one_is_refused(vault: Vault) -> None:
    with pytest.raises(KeyFormError):
        vault.destroy_key("k", 0)
    with pytest.raises(KeyFormError):
        vault.store_embedding(MODEL, 0, PLAIN)


def test_an_unknown_key_is_not_found(vault: Vault) -> None:
    with pytest.raises(NotFound):
        seed_of(vault)


def test_an_embedding_comes_back_as_it_was(vault: Vault) -> None:
    vault.store_embedding(MODEL, 1, PLAIN)
    vault.store_embedding(MODEL, 1, PLAIN)

    with vault.open_embedding(MODEL, 1) as content:
        assert content == PLAIN


def test_a_model_version_never_changes_its_embedding(vault: Vault) -> None:
    vault.store_embedding(MODEL, 1, PLAIN)

    with pytest.raises(EmbeddingChangedError):
        vault.store_embedding(MODEL, 1, PLAIN + b"!")


def test_an_embedding_cannot_pass_for_another_version_on_disk(
    tmp_path: Path, vault: Vault
) -> None:
    vault.store_embedding(MODEL, 1, PLAIN)
    for path in list((tmp_path / "embeddings").iterdir()):
        path.rename(path.with_name(path.name.replace("-1.", "-2.")))

    with (
        pytest.raises(CorruptFileError, match="another name"),
        vault.open_embedding(MODEL, 2),
    ):
        pytest.fail("another version's embedding was lent")


def test_the_key_encryption_key_must_be_private(tmp_path: Path, vault: Vault) -> None:
    assert "Vault()" == repr(vault)
    (tmp_path / "kek.key").chmod(0o640)

    with pytest.raises(KeyEncryptionKeyError, match="0600"):
        Vault(tmp_path, Entropy())


def test_a_lost_key_encryption_key_is_not_replaced_in_silence(
    tmp_path: Path, vault: Vault
) -> None:
    vault.create_key(key())
    (tmp_path / "kek.key").unlink()

    with pytest.raises(KeyEncryptionKeyError, match=r"no kek\.key"):
        Vault(tmp_path, Entropy())


def test_another_key_encryption_key_opens_nothing(tmp_path: Path, vault: Vault) -> None:
    vault.create_key(key())
    (tmp_path / "kek.key").write_bytes(bytes(32))

    with pytest.raises(CorruptFileError):
        seed_of(Vault(tmp_path, Entropy()))


def entropy_of(skipped: int) -> Entropy:
    """Entropy further on, so that it repeats nothing given before."""
    entropy = Entropy()
    for _ in range(skipped):
        entropy(32)
    return entropy
