"""An envelope opens for one recipient in one context, and nowhere else.

RFC 9180 gives vectors with fixed ephemeral keys and per-message `aad`, which the
library's single-shot interface takes neither of. So this file holds a second, short
HPKE: it is checked against the RFC's vector, and then opens what `seal` made.
"""

import pickle
from dataclasses import replace
from hashlib import sha3_256, sha256, shake_256
from hmac import digest as hmac
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import (
    X25519PrivateKey,
    X25519PublicKey,
)
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from core import sealing
from core.errors import ConfigurationError, CorruptFileError, NotFound, SignatureError
from core.sealing import (
    HYBRID,
    RECOVERY,
    X25519,
    ExpiredError,
    SealContext,
    SealingKey,
    check_public_key,
    default_kem,
    fingerprint,
    open_sealed,
    seal,
    signed_part,
)

SEED = bytes(range(32))
NOW_MS = 1_700_000_000_000
KEMS = pytest.mark.parametrize("kem_id", [HYBRID, X25519], ids=["hybrid", "x25519"])


def context_for(key: SealingKey) -> SealContext:
    return SealContext(
        federation="ward.example",
        key_holder="spiffe://ward.example/hub/key-holder",
        owner="spiffe://ward.example/north/data-owner",
        key_id="k-1",
        version=2,
        generator="keymixer-haar-v1",
        recipient_fingerprint=fingerprint(key.public_bytes()),
        expires_at_ms=NOW_MS + 60_000,
    )


def sealed_for(key: SealingKey) -> bytes:
    return seal(SEED, key.public_bytes(), context_for(key))


def hpke_open(
    *,
    kem_id: int,
    aead_id: int,
    shared_secret: bytes,
    ciphertext: bytes,
    info: bytes,
    aad: bytes = b"",
) -> bytes:
    """First message of HPKE base mode (RFC 9180, section 5.2)."""
    key, nonce = key_schedule(kem_id, aead_id, shared_secret, info)
    return AESGCM(key).decrypt(nonce, ciphertext, aad)


def key_schedule(
    kem_id: int, aead_id: int, shared_secret: bytes, info: bytes
) -> tuple[bytes, bytes]:
    """Key and first nonce of base mode (RFC 9180, section 5.1)."""
    key_bytes = {1: 16, 2: 32, 3: 32}[aead_id]
    suite = b"HPKE" + b"".join(n.to_bytes(2, "big") for n in (kem_id, 1, aead_id))
    context = b"\x00" + b"".join(
        labeled_extract(b"", suite, label, value)
        for label, value in ((b"psk_id_hash", b""), (b"info_hash", info))
    )
    secret = labeled_extract(shared_secret, suite, b"secret", b"")
    key = labeled_expand(secret, suite, b"key", context, key_bytes)
    return key, labeled_expand(secret, suite, b"base_nonce", context, 12)


def dhkem_shared_secret(private: X25519PrivateKey, encapsulated: bytes) -> bytes:
    """Decapsulate (RFC 9180, section 4.1)."""
    shared = private.exchange(X25519PublicKey.from_public_bytes(encapsulated))
    return dhkem_expanded(
        shared, encapsulated + private.public_key().public_bytes_raw()
    )


def dhkem_expanded(shared: bytes, kem_context: bytes) -> bytes:
    suite = b"KEM" + X25519.to_bytes(2, "big")
    prk = labeled_extract(b"", suite, b"eae_prk", shared)
    return labeled_expand(prk, suite, b"shared_secret", kem_context, 32)


def xwing_shared_secret(secret: bytes, encapsulated: bytes) -> bytes:
    """Decapsulate (draft-connolly-cfrg-xwing-kem, section 5.5)."""
    expanded = shake_256(secret).digest(96)
    mlkem = MLKEM768PrivateKey.from_seed_bytes(expanded[:64])
    x25519 = X25519PrivateKey.from_private_bytes(expanded[64:])
    mlkem_part, x25519_part = encapsulated[:1088], encapsulated[1088:]
    return sha3_256(
        mlkem.decapsulate(mlkem_part)
        + x25519.exchange(X25519PublicKey.from_public_bytes(x25519_part))
        + x25519_part
        + x25519.public_key().public_bytes_raw()
        + bytes.fromhex("5c2e2f2f5e5c")  # the label, a little drawing of an X-wing
    ).digest()


def labeled_extract(salt: bytes, suite: bytes, label: bytes, value: bytes) -> bytes:
    return hmac(salt or bytes(32), b"HPKE-v1" + suite + label + value, "sha256")


def labeled_expand(
    prk: bytes, suite: bytes, label: bytes, info: bytes, length: int
) -> bytes:
    labeled = length.to_bytes(2, "big") + b"HPKE-v1" + suite + label + info
    return hmac(prk, labeled + b"\x01", "sha256")[:length]


def test_the_second_hpke_opens_the_vector_of_rfc_9180() -> None:
    """Appendix A.1.1: DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-128-GCM, base."""
    recipient = X25519PrivateKey.from_private_bytes(
        bytes.fromhex(
            "4612c550263fc8ad58375df3f557aac531d26850903e55a9f23f21d8534e8ac8"
        )
    )
    encapsulated = bytes.fromhex(
        "37fda3567bdbd628e88668c3c8d7e97d1d1253b6d4ea6d44c150f741f1bf4431"
    )
    shared_secret = dhkem_shared_secret(recipient, encapsulated)

    assert shared_secret.hex() == (
        "fe0e18c9f024ce43799ae393c7e8fe8fce9d218875e8227b0187c04e7d2ea1fc"
    )
    assert (
        hpke_open(
            kem_id=X25519,
            aead_id=1,
            shared_secret=shared_secret,
            info=bytes.fromhex("4f6465206f6e2061204772656369616e2055726e"),
            aad=b"Count-0",
            ciphertext=bytes.fromhex(
                "f938558b5d72f1a23810b4be2ab4f84331acc02fc97babc53a52ae8218a355a9"
                "6d8770ac83d07bea87e13c512a"
            ),
        )
        == b"Beauty is truth, truth beauty"
    )


@pytest.mark.parametrize(
    ("aead_id", "ephemeral", "recipient", "shared_secret", "key", "nonce"),
    [
        (
            1,
            "52c4a758a802cd8b936eceea314432798d5baf2d7e9235dc084ab1b9cfa2f736",
            "3948cfe0ad1ddb695d780e59077195da6c56506b027329794ab02bca80815c4d",
            "fe0e18c9f024ce43799ae393c7e8fe8fce9d218875e8227b0187c04e7d2ea1fc",
            "4531685d41d65f03dc48f6b8302c05b0",
            "56d890e5accaaf011cff4b7d",
        ),
        (
            3,
            "f4ec9b33b792c372c1d2c2063507b684ef925b8c75a42dbcbf57d63ccd381600",
            "4310ee97d88cc1f088a5576c77ab0cf5c3ac797f3d95139c6c84b5429c59662a",
            "0bbe78490412b4bbea4812666f7916932b828bba79942424abb65244930d69a7",
            "ad2744de8e17f4ebba575b3f5f5a8fa1f69c2a07f6e7500bc60ca6e3e3ec1c91",
            "5c4d98150661b848853b547f",
        ),
    ],
    ids=["A.1.1", "A.2.1"],
)
def test_the_second_hpke_derives_the_keys_of_rfc_9180(
    *,
    aead_id: int,
    ephemeral: str,
    recipient: str,
    shared_secret: str,
    key: str,
    nonce: str,
) -> None:
    """Appendix A, DHKEM(X25519, HKDF-SHA256), from the sender's side.

    A.2.1 has a key of 32 bytes, as our suite has, whose AEAD (2) the appendix leaves
    out for this KEM.
    """
    private = X25519PrivateKey.from_private_bytes(bytes.fromhex(ephemeral))
    public = bytes.fromhex(recipient)
    shared = private.exchange(X25519PublicKey.from_public_bytes(public))
    expanded = dhkem_expanded(shared, private.public_key().public_bytes_raw() + public)
    info = bytes.fromhex("4f6465206f6e2061204772656369616e2055726e")

    assert expanded.hex() == shared_secret
    derived = key_schedule(X25519, aead_id, expanded, info)
    assert [part.hex() for part in derived] == [key, nonce]


def test_an_x25519_envelope_is_rfc_9180() -> None:
    key = SealingKey.generate(X25519)
    envelope = sealed_for(key)
    private = X25519PrivateKey.from_private_bytes(key.secret)

    assert (
        hpke_open(
            kem_id=X25519,
            aead_id=2,
            shared_secret=dhkem_shared_secret(private, envelope[:32]),
            info=context_for(key).to_bytes(),
            ciphertext=envelope[32:],
        )
        == SEED
    )


def test_a_hybrid_envelope_is_x_wing() -> None:
    key = SealingKey.generate(HYBRID)
    envelope = sealed_for(key)

    assert (
        hpke_open(
            kem_id=HYBRID,
            aead_id=2,
            shared_secret=xwing_shared_secret(key.secret, envelope[:1120]),
            info=context_for(key).to_bytes(),
            ciphertext=envelope[1120:],
        )
        == SEED
    )


@KEMS
def test_the_recipient_gets_the_seed(kem_id: int) -> None:
    key = SealingKey.generate(kem_id)

    opened = open_sealed(sealed_for(key), key, context_for(key), now_ms=NOW_MS)

    assert opened == SEED


@KEMS
def test_sizes_are_as_documented(kem_id: int) -> None:
    key = SealingKey.generate(kem_id)
    public, envelope = {HYBRID: (1218, 1168), X25519: (34, 80)}[kem_id]

    assert (len(key.public_bytes()), len(sealed_for(key))) == (public, envelope)


def test_the_default_is_the_hybrid() -> None:
    assert SealingKey.generate().kem_id == default_kem() == HYBRID


def test_sealing_twice_gives_two_envelopes() -> None:
    key = SealingKey.generate()

    assert sealed_for(key) != sealed_for(key)


@KEMS
@pytest.mark.parametrize(
    "change",
    [
        {"federation": "other.example"},
        {"key_holder": "spiffe://ward.example/other/key-holder"},
        {"owner": "spiffe://ward.example/south/data-owner"},
        {"key_id": "k-2"},
        {"version": 3},
        {"generator": "keymixer-haar-v2"},
        {"expires_at_ms": NOW_MS + 60_001},
        {"purpose": RECOVERY},
    ],
    ids=lambda change: next(iter(change)),
)
def test_an_envelope_is_useless_in_another_context(
    kem_id: int, change: dict[str, Any]
) -> None:
    """Replayed under another key id, owner, version, federation: it does not open."""
    key = SealingKey.generate(kem_id)
    expected = replace(context_for(key), **change)

    with pytest.raises(SignatureError, match="does not open"):
        open_sealed(sealed_for(key), key, expected, now_ms=NOW_MS)


@KEMS
def test_an_envelope_for_someone_else_does_not_open(kem_id: int) -> None:
    recipient, other = SealingKey.generate(kem_id), SealingKey.generate(kem_id)
    envelope = sealed_for(recipient)

    with pytest.raises(SignatureError, match="another recipient"):
        open_sealed(envelope, other, context_for(recipient), now_ms=NOW_MS)
    with pytest.raises(SignatureError, match="does not open"):
        open_sealed(envelope, other, context_for(other), now_ms=NOW_MS)


def test_an_envelope_of_the_other_suite_does_not_open() -> None:
    hybrid, x25519 = SealingKey.generate(HYBRID), SealingKey.generate(X25519)

    with pytest.raises(SignatureError):
        open_sealed(sealed_for(hybrid), x25519, context_for(x25519), now_ms=NOW_MS)


def test_sealing_to_a_key_the_context_does_not_name_is_refused() -> None:
    key, other = SealingKey.generate(), SealingKey.generate()

    with pytest.raises(SignatureError, match="another recipient"):
        seal(SEED, other.public_bytes(), context_for(key))


def test_an_envelope_opens_until_it_expires() -> None:
    key = SealingKey.generate()
    context = context_for(key)
    envelope, end = sealed_for(key), context.expires_at_ms

    assert open_sealed(envelope, key, context, now_ms=end - 1) == SEED
    with pytest.raises(ExpiredError):
        open_sealed(envelope, key, context, now_ms=end)


def test_the_clock_decides_when_no_time_is_given() -> None:
    key = SealingKey.generate()

    with pytest.raises(ExpiredError):
        open_sealed(sealed_for(key), key, context_for(key))


@KEMS
def test_no_byte_of_an_envelope_can_be_changed(kem_id: int) -> None:
    """Every byte: ML-KEM ciphertext, X25519 share, sealed seed, tag."""
    key = SealingKey.generate(kem_id)
    envelope, context = sealed_for(key), context_for(key)

    for i in range(len(envelope)):
        changed = envelope[:i] + bytes([envelope[i] ^ 1 << i % 8]) + envelope[i + 1 :]
        with pytest.raises(SignatureError):
            open_sealed(changed, key, context, now_ms=NOW_MS)


@KEMS
@pytest.mark.parametrize("cut", [slice(0), slice(31), slice(-1), slice(1, None)])
def test_an_envelope_cut_short_does_not_open(kem_id: int, cut: slice) -> None:
    key = SealingKey.generate(kem_id)

    with pytest.raises(SignatureError):
        open_sealed(sealed_for(key)[cut], key, context_for(key), now_ms=NOW_MS)


def test_an_envelope_with_more_behind_it_does_not_open() -> None:
    key = SealingKey.generate()

    with pytest.raises(SignatureError):
        open_sealed(sealed_for(key) + b"\x00", key, context_for(key), now_ms=NOW_MS)


@pytest.mark.parametrize(
    "public_key",
    [
        b"",
        b"\x00",
        bytes(32),
        b"\x00\x20" + bytes(31),
        b"\x00\x20" + bytes(33),
        b"\x64\x7a" + bytes(1215),
        b"\x64\x7a" + b"\xff" * 1216,
        b"\x12\x34" + bytes(32),
    ],
    ids=lambda key: f"{key[:2].hex()}-{len(key)}",
)
def test_what_is_no_public_key_is_refused(public_key: bytes) -> None:
    context = replace(
        context_for(SealingKey.generate()),
        recipient_fingerprint=fingerprint(public_key),
    )

    with pytest.raises(CorruptFileError):
        check_public_key(public_key)
    with pytest.raises(CorruptFileError):
        seal(SEED, public_key, context)


def test_a_public_key_of_low_order_is_refused() -> None:
    """All-zero X25519: anybody would know the shared secret."""
    public_key = b"\x00\x20" + bytes(32)
    context = replace(
        context_for(SealingKey.generate()),
        recipient_fingerprint=fingerprint(public_key),
    )

    with pytest.raises(CorruptFileError):
        seal(SEED, public_key, context)


def test_a_fingerprint_is_the_sha_256_of_the_encoded_key() -> None:
    public_key = SealingKey.generate().public_bytes()

    assert fingerprint(public_key) == sha256(public_key).hexdigest()


def test_the_signed_part_does_not_run_together() -> None:
    """Moving a byte from the context to the envelope gives other bytes to sign."""
    context = context_for(SealingKey.generate())
    info = context.to_bytes()

    assert signed_part(b"envelope", context) == (
        len(info).to_bytes(8, "big") + info + b"envelope"
    )


@KEMS
def test_a_saved_key_opens_what_was_sealed_before(kem_id: int, tmp_path: Path) -> None:
    key = SealingKey.generate(kem_id)
    envelope = sealed_for(key)
    key.save(tmp_path / "sealing.key")

    loaded = SealingKey.load(tmp_path / "sealing.key")

    assert loaded.public_bytes() == key.public_bytes()
    assert open_sealed(envelope, loaded, context_for(key), now_ms=NOW_MS) == SEED


def test_only_its_owner_may_read_a_saved_key(tmp_path: Path) -> None:
    path = tmp_path / "sealing.key"
    SealingKey.generate().save(path)

    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660, 0o601])
def test_a_key_that_others_may_touch_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "sealing.key"
    SealingKey.generate().save(path)
    path.chmod(mode)

    with pytest.raises(ConfigurationError, match="chmod 600"):
        SealingKey.load(path)


@pytest.mark.parametrize(
    "content", [b"", b"\x00\x20" + bytes(31), b"\x64\x7a" + bytes(96), bytes(34)]
)
def test_a_damaged_key_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "sealing.key"
    path.touch(mode=0o600)
    path.write_bytes(content)

    with pytest.raises(CorruptFileError):
        SealingKey.load(path)


def test_a_missing_key_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="does not exist"):
        SealingKey.load(tmp_path / "sealing.key")


def test_a_sealing_key_never_leaks_by_accident() -> None:
    """Neither a log line nor a pickle carries the secret."""
    key = SealingKey.generate()

    assert "secret" not in repr(key)
    assert key.secret.hex() not in repr(key)
    with pytest.raises(TypeError, match="never pickled"):
        pickle.dumps(key)


def test_without_ml_kem_the_default_is_x25519(monkeypatch: pytest.MonkeyPatch) -> None:
    class NoMLKEM:
        @staticmethod
        def from_seed_bytes(seed: bytes) -> None:
            raise UnsupportedAlgorithm("no ML-KEM here")

    monkeypatch.setattr(sealing, "MLKEM768PrivateKey", NoMLKEM)

    assert SealingKey.generate().kem_id == X25519
