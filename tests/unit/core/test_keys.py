"""A key says only what it should, and proves only what it was asked to prove."""

import copy
import hashlib
import hmac
import pickle
from dataclasses import FrozenInstanceError, fields

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from core.errors import DtypeError, SeedError, ShapeError, SignatureError
from core.keys import (
    BlockKey,
    commitment,
    derive_key,
    possession_tag,
    verify_possession,
)
from core.orthogonal import haar

SEED = bytes(range(32))
BLINDING = bytes(range(32, 64))
OWNER = "spiffe://here/clinic-a/data-owner"


@pytest.fixture
def key() -> BlockKey:
    return derive_key(SEED, key_id="clinic-a", version=2, patch_size=2, channels=3)


def test_the_matrix_is_the_seeds(key: BlockKey) -> None:
    assert key.dimension == 12
    assert_array_equal(key.matrix, haar(SEED, 12))


def test_a_key_does_not_print_its_matrix(key: BlockKey) -> None:
    shown = f"{key} {key!r} {[key]}"

    assert "matrix" not in shown
    assert "clinic-a" in shown


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_key_is_never_pickled(key: BlockKey, protocol: int) -> None:
    with pytest.raises(TypeError, match="neither pickled nor copied"):
        pickle.dumps({"a": [key]}, protocol)


def test_a_key_is_never_copied(key: BlockKey) -> None:
    with pytest.raises(TypeError, match="neither pickled nor copied"):
        copy.copy(key)
    with pytest.raises(TypeError, match="neither pickled nor copied"):
        copy.deepcopy([key])


def test_a_key_cannot_be_changed(key: BlockKey) -> None:
    with pytest.raises(ValueError, match="read-only"):
        key.matrix[0, 0] = 0
    for field in fields(key):
        with pytest.raises(FrozenInstanceError):
            setattr(key, field.name, None)


def test_keys_are_compared_by_identity(key: BlockKey) -> None:
    """Comparing two matrices element by element would raise, and hashing would leak."""
    twin = derive_key(SEED, key_id="clinic-a", version=2, patch_size=2, channels=3)

    assert key == key  # noqa: PLR0124  the claim itself
    assert key != twin


@pytest.mark.parametrize(("patch_size", "channels"), [(0, 3), (2, 0), (-1, 3)])
def test_blocks_of_no_size_are_refused(patch_size: int, channels: int) -> None:
    with pytest.raises(ShapeError):
        derive_key(
            SEED, key_id="k", version=1, patch_size=patch_size, channels=channels
        )


def test_a_matrix_that_does_not_fit_the_blocks_is_refused() -> None:
    with pytest.raises(ShapeError):
        BlockKey("k", 1, 2, 3, np.eye(11))
    with pytest.raises(DtypeError):
        BlockKey("k", 1, 2, 3, np.eye(12, dtype=np.float32))


def test_the_commitment_is_the_documented_hash() -> None:
    """Written out by hand: each part behind its length in four bytes."""
    label = b"\x00\x00\x00\x1akeymixer.v1/key-commitment"
    generator = b"\x00\x00\x00\x10keymixer-haar-v1"
    parts = b"\x00\x00\x00\x20" + BLINDING + b"\x00\x00\x00\x20" + SEED
    expected = hashlib.sha256(label + generator + parts).digest()

    assert commitment(SEED, BLINDING) == expected
    assert commitment(bytearray(SEED), BLINDING) == expected


def test_everything_committed_to_changes_the_commitment() -> None:
    values = {
        commitment(SEED, BLINDING),
        commitment(BLINDING, SEED),
        commitment(SEED, SEED),
        commitment(SEED, BLINDING, generator="keymixer-haar-v2"),
    }

    assert len(values) == 4


@pytest.mark.parametrize("wrong", [b"", bytes(31), bytes(33)])
def test_secrets_of_another_length_are_refused(wrong: bytes) -> None:
    with pytest.raises(SeedError, match="blinding"):
        commitment(SEED, wrong)
    with pytest.raises(SeedError, match="seed"):
        commitment(wrong, BLINDING)
    with pytest.raises(SeedError, match="seed"):
        possession_tag(wrong, key_id="k", version=1, owner=OWNER)


def test_the_possession_tag_is_the_documented_hmac() -> None:
    extracted = hmac.digest(bytes(32), SEED, "sha256")
    mac_key = hmac.digest(extracted, b"keymixer.v1/possession\x01", "sha256")
    parts = (b"keymixer.v1/possession", b"clinic-a", b"2", OWNER.encode())
    message = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
    expected = hmac.digest(mac_key, message, "sha256")

    assert possession_tag(SEED, key_id="clinic-a", version=2, owner=OWNER) == expected


def test_a_tag_proves_possession() -> None:
    tag = possession_tag(SEED, key_id="clinic-a", version=2, owner=OWNER)

    verify_possession(tag, SEED, key_id="clinic-a", version=2, owner=OWNER)


@pytest.mark.parametrize(
    ("seed", "key_id", "version", "owner"),
    [
        (BLINDING, "clinic-a", 2, OWNER),
        (SEED, "clinic-b", 2, OWNER),
        (SEED, "clinic-a", 1, OWNER),
        (SEED, "clinic-a", 2, OWNER + "s"),
        # The same letters, cut elsewhere.
        (SEED, "clinic-a2", 2, OWNER),
        (SEED, "clinic-", 22, OWNER),
    ],
)
def test_a_tag_proves_nothing_about_another_seed_key_version_or_owner(
    seed: bytes, key_id: str, version: int, owner: str
) -> None:
    tag = possession_tag(SEED, key_id="clinic-a", version=2, owner=OWNER)

    with pytest.raises(SignatureError):
        verify_possession(tag, seed, key_id=key_id, version=version, owner=owner)


@pytest.mark.parametrize("tag", [b"", bytes(31), bytes(32), bytes(33)])
def test_a_made_up_tag_is_refused(tag: bytes) -> None:
    with pytest.raises(SignatureError):
        verify_possession(tag, SEED, key_id="clinic-a", version=2, owner=OWNER)


def test_errors_never_quote_the_secret() -> None:
    secret = b"correct horse battery staple!!!"

    with pytest.raises(SeedError) as caught:
        commitment(secret, BLINDING)

    assert "horse" not in str(caught.value)
