"""Records at rest, opened here by hand, and the key that wraps them and stays put."""

import copy
import hmac
import pickle
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from core.errors import CorruptFileError
from parties.key_holder.at_rest import (
    KeyEncryptionKey,
    SealedRecord,
    erase,
    open_record,
    rewrap_record,
    seal_record,
)
from parties.key_holder.errors import KekFormatError
from tests.unit.parties.stage import Entropy
from tests.unit.parties.strongroom import forms

SECRET = bytes(range(32))
OTHER = bytes(range(32, 64))
IDENTITY = b'{"key_id":"k","version":1}'
CONTENT = b"sixty-four bytes of seed and blinding".ljust(64, b".")


def sealed(entropy: Entropy | None = None) -> SealedRecord:
    kek = KeyEncryptionKey(SECRET)
    return seal_record(kek, IDENTITY, CONTENT, entropy or Entropy())


def by_hand(record: SealedRecord, secret: bytes) -> bytes:
    """Open a record as the format says, with nothing of ours."""

    def derive(purpose: bytes) -> bytes:
        return hmac.digest(secret, b"keymixer.v1/at-rest/" + purpose, "sha256")

    def joined(*parts: bytes) -> bytes:
        sized = (len(part).to_bytes(4, "big") + part for part in parts)
        return b"keymixer.v1/at-rest/" + b"".join(sized)

    kek_id = derive(b"kek-id")[:16].hex().encode()
    nonce, wrapped = record.wrapped[:12], record.wrapped[12:]
    bound = joined(b"data-key", kek_id, IDENTITY)
    data_key = AESGCM(derive(b"kek-wraps")).decrypt(nonce, wrapped, bound)
    nonce, ciphertext = record.sealed[:12], record.sealed[12:]
    return AESGCM(data_key).decrypt(nonce, ciphertext, joined(b"content", IDENTITY))


def test_a_record_is_what_the_format_says() -> None:
    assert by_hand(sealed(), SECRET) == CONTENT


def test_a_record_opens_again() -> None:
    opened = open_record(KeyEncryptionKey(SECRET), IDENTITY, sealed())

    assert opened == CONTENT
    erase(opened)
    assert not any(opened)


def test_no_two_records_share_a_data_key_or_a_nonce() -> None:
    entropy = Entropy()
    first, second = sealed(entropy), sealed(entropy)
    parts = [p for r in (first, second) for p in (r.wrapped[:12], r.sealed[:12])]

    assert len(set(parts)) == 4
    assert len(set(entropy.given)) == len(entropy.given)


@pytest.mark.parametrize("part", ["wrapped", "sealed"])
def test_no_bit_of_a_record_can_be_changed(part: str) -> None:
    record, kek = sealed(), KeyEncryptionKey(SECRET)
    content = getattr(record, part)
    for bit in range(8 * len(content)):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        fields: dict[str, Any] = {
            "kek_id": record.kek_id,
            "wrapped": record.wrapped,
            "sealed": record.sealed,
            part: bytes(changed),
        }
        with pytest.raises(CorruptFileError):
            open_record(kek, IDENTITY, SealedRecord(**fields))


def test_a_record_opens_for_its_identity_and_under_its_key_only() -> None:
    record = sealed()

    with pytest.raises(CorruptFileError):
        open_record(KeyEncryptionKey(SECRET), IDENTITY + b" ", record)
    with pytest.raises(CorruptFileError):
        open_record(KeyEncryptionKey(OTHER), IDENTITY, record)


def test_rewrapped_it_opens_under_the_new_key_only() -> None:
    record, old, new = sealed(), KeyEncryptionKey(SECRET), KeyEncryptionKey(OTHER)
    wrapped = rewrap_record(old, new, IDENTITY, record.wrapped, Entropy())
    again = SealedRecord(new.id, wrapped, record.sealed)

    assert by_hand(again, OTHER) == CONTENT
    with pytest.raises(CorruptFileError):
        open_record(old, IDENTITY, again)


def test_a_key_is_named_by_itself_and_the_name_tells_nothing_of_it() -> None:
    kek = KeyEncryptionKey(SECRET)

    assert kek.id == KeyEncryptionKey(bytearray(SECRET)).id
    assert kek.id != KeyEncryptionKey(OTHER).id
    assert len(kek.id) == 32
    # The name is not a part of the key that wraps, nor of the secret itself.
    assert kek.id not in SECRET.hex()


@pytest.mark.parametrize("length", [0, 16, 31, 33])
def test_a_key_has_32_bytes(length: int) -> None:
    with pytest.raises(KekFormatError):
        KeyEncryptionKey(bytes(length))


@pytest.mark.parametrize("copied", [pickle.dumps, copy.copy, copy.deepcopy])
def test_a_key_is_neither_pickled_nor_copied(copied: Any) -> None:
    with pytest.raises(TypeError, match="neither pickled nor copied"):
        copied(KeyEncryptionKey(SECRET))


def test_a_key_is_not_printed() -> None:
    kek = KeyEncryptionKey(SECRET)

    said = (repr(kek) + str(kek) + f"{kek}").encode()
    for form in forms(SECRET):
        assert form not in said
    assert not hasattr(kek, "__dict__")


def test_a_record_is_printed_without_its_bytes() -> None:
    assert "wrapped" not in repr(sealed())
