"""Seal a key's seed to its owner with HPKE (RFC 9180, base mode).

Base mode hides and binds, but says nothing of the sender: the key holder also signs the
envelope (`signed_part`). Everything that is agreed about the key is in HPKE's `info`,
which is never sent: the recipient rebuilds it from what it expects, so an envelope made
for another owner, key, version or federation does not open.

Two suites, both with HKDF-SHA256 and AES-256-GCM, named by HPKE's number of their KEM:

* 0x647a  MLKEM768-X25519 (X-Wing): safe if either part is safe; the default
* 0x0020  DHKEM(X25519, HKDF-SHA256): where the library has no ML-KEM

An encoded public key is this number, two bytes big-endian, and the KEM's own encoding.
A private key is the number and 32 random bytes; X-Wing expands them with SHAKE256
(draft-connolly-cfrg-xwing-kem, section 5.2).
"""

import os
import time
from dataclasses import asdict, dataclass, field
from hashlib import sha256, shake_256
from pathlib import Path
from typing import Final, NoReturn, Self, TypeAlias

from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.mlkem import (
    MLKEM768PrivateKey,
    MLKEM768PublicKey,
)
from cryptography.hazmat.primitives.asymmetric.x25519 import (
    X25519PrivateKey,
    X25519PublicKey,
)
from cryptography.hazmat.primitives.hpke import (
    AEAD,
    KDF,
    KEM,
    MLKEM768X25519PrivateKey,
    MLKEM768X25519PublicKey,
    Suite,
)

from core.canonical import canonical
from core.errors import ConfigurationError, CorruptFileError, SignatureError
from core.wire import read_file, write_atomically

# What a key is sealed for: its owner's use, or to be kept for recovery. An envelope for
# the one does not open as the other.
DELIVERY: Final = "sealed-key"
RECOVERY: Final = "exported-key"

HYBRID: Final = 0x647A
X25519: Final = 0x0020

_SECRET_BYTES: Final = 32
_MLKEM_PUBLIC_BYTES: Final = 1184
_MLKEM_SEED_BYTES: Final = 64

_KEMS: Final = {HYBRID: KEM.MLKEM768_X25519, X25519: KEM.X25519}

PrivateKey: TypeAlias = MLKEM768X25519PrivateKey | X25519PrivateKey
PublicKey: TypeAlias = MLKEM768X25519PublicKey | X25519PublicKey


class ExpiredError(SignatureError):
    """An envelope was opened after its time."""

    hint = "fetch the key again, and check this machine's clock"


@dataclass(frozen=True, slots=True)
class SealContext:
    """What key holder and owner both know of a sealed key.

    `federation`, `key_holder` and `owner` are a trust domain and two SPIFFE IDs;
    `recipient_fingerprint` is `fingerprint` of the owner's registered public key, or of
    the key holder's pinned recovery key; times are milliseconds since the epoch.
    """

    federation: str
    key_holder: str
    owner: str
    key_id: str
    version: int
    generator: str
    recipient_fingerprint: str
    expires_at_ms: int
    purpose: str = DELIVERY

    def to_bytes(self) -> bytes:
        """Write it as canonical JSON: HPKE's `info`."""
        facts = asdict(self)
        label = f"keymixer.v1/{facts.pop('purpose')}"
        return canonical({"label": label, **facts})


@dataclass(frozen=True, slots=True, eq=False)
class SealingKey:
    """The private key that opens envelopes; `save` and `to_bytes` alone let it out."""

    kem_id: int
    secret: bytes = field(repr=False)

    @classmethod
    def generate(cls, kem_id: int | None = None) -> Self:
        """Draw a key from the operating system, for the default suite or the given."""
        return cls(kem_id or default_kem(), os.urandom(_SECRET_BYTES))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a key that `save` wrote; refuse a file that others may read."""
        content = read_file(path)
        if path.stat().st_mode & 0o077:
            raise ConfigurationError(f"{path.name}: others may read it; chmod 600")
        kem_id, secret = _split_encoded(content)
        if len(secret) != _SECRET_BYTES:
            raise CorruptFileError(f"{path.name}: not a sealing key")
        return cls(kem_id, secret)

    def save(self, path: Path) -> None:
        """Write the key to a file that only its owner may read (mode 0600)."""
        write_atomically(path, self.to_bytes(), mode=0o600)

    def to_bytes(self) -> bytes:
        """Return what `load` reads from a file: secret, for a private file only."""
        return _encode(self.kem_id, self.secret)

    def public_bytes(self) -> bytes:
        """Return the encoded public key: 1218 bytes, or 34 for X25519."""
        if self.kem_id == X25519:
            x25519 = X25519PrivateKey.from_private_bytes(self.secret)
            return _encode(X25519, x25519.public_key().public_bytes_raw())
        mlkem, x25519 = _expand(self.secret)
        parts = mlkem.public_key(), x25519.public_key()
        return _encode(HYBRID, b"".join(part.public_bytes_raw() for part in parts))

    def __reduce__(self) -> NoReturn:
        raise TypeError("a SealingKey is never pickled; use save")


def seal(seed: bytes | bytearray, public_key: bytes, context: SealContext) -> bytes:
    """Encrypt a seed to an encoded public key; 1168 bytes for 32, or 80 for X25519.

    Raises:
        SignatureError: if the context names another recipient key.
        CorruptFileError: if `public_key` is not an encoded public key.
    """
    _check_recipient(public_key, context)
    kem_id, _ = _split_encoded(public_key)
    try:
        key = _load_public(public_key)
        return _suite(kem_id).encrypt(seed, key, context.to_bytes())
    except ValueError as error:
        raise CorruptFileError("expected an HPKE public key") from error


def open_sealed(
    envelope: bytes, key: SealingKey, context: SealContext, *, now_ms: int | None = None
) -> bytes:
    """Decrypt a seed that was sealed to `key` in exactly this context.

    Verify the key holder's signature over `signed_part` first.

    Raises:
        ExpiredError: if the context's time is over (`now_ms`: by default, the clock).
        SignatureError: if the envelope was changed or made for any other context.
    """
    _check_recipient(key.public_bytes(), context)
    now_ms = time.time_ns() // 1_000_000 if now_ms is None else now_ms
    if now_ms >= context.expires_at_ms:
        raise ExpiredError("the sealed key has expired")
    try:
        private = _load_private(key)
        return _suite(key.kem_id).decrypt(envelope, private, context.to_bytes())
    except (InvalidTag, ValueError) as error:
        raise SignatureError("the envelope does not open in this context") from error


def signed_part(envelope: bytes, context: SealContext) -> bytes:
    """Join both unambiguously: what the key holder signs, labelled `ENVELOPE`."""
    info = context.to_bytes()
    return len(info).to_bytes(8, "big") + info + envelope


def fingerprint(public_key: bytes) -> str:
    """Name an encoded public key: its SHA-256, in hex."""
    return sha256(public_key).hexdigest()


def check_public_key(public_key: bytes) -> None:
    """Return if this is an encoded public key, else raise `CorruptFileError`."""
    _load_public(public_key)


def default_kem() -> int:
    """Return the hybrid suite where the library has ML-KEM, else X25519."""
    try:
        MLKEM768PrivateKey.from_seed_bytes(bytes(_MLKEM_SEED_BYTES))
    except UnsupportedAlgorithm:
        return X25519
    return HYBRID


def _suite(kem_id: int) -> Suite:
    return Suite(_KEMS[kem_id], KDF.HKDF_SHA256, AEAD.AES_256_GCM)


def _check_recipient(public_key: bytes, context: SealContext) -> None:
    if fingerprint(public_key) != context.recipient_fingerprint:
        raise SignatureError("the context names another recipient key")


def _load_private(key: SealingKey) -> PrivateKey:
    if key.kem_id == X25519:
        return X25519PrivateKey.from_private_bytes(key.secret)
    return MLKEM768X25519PrivateKey(*_expand(key.secret))


def _load_public(public_key: bytes) -> PublicKey:
    kem_id, encoded = _split_encoded(public_key)
    try:
        if kem_id == X25519:
            return X25519PublicKey.from_public_bytes(encoded)
        mlkem, x25519 = encoded[:_MLKEM_PUBLIC_BYTES], encoded[_MLKEM_PUBLIC_BYTES:]
        return MLKEM768X25519PublicKey(
            MLKEM768PublicKey.from_public_bytes(mlkem),
            X25519PublicKey.from_public_bytes(x25519),
        )
    except ValueError as error:
        raise CorruptFileError("expected an HPKE public key") from error


def _expand(secret: bytes) -> tuple[MLKEM768PrivateKey, X25519PrivateKey]:
    """Expand an X-Wing private key into its two parts."""
    expanded = shake_256(secret).digest(_MLKEM_SEED_BYTES + _SECRET_BYTES)
    mlkem, x25519 = expanded[:_MLKEM_SEED_BYTES], expanded[_MLKEM_SEED_BYTES:]
    return (
        MLKEM768PrivateKey.from_seed_bytes(mlkem),
        X25519PrivateKey.from_private_bytes(x25519),
    )


def _encode(kem_id: int, key: bytes) -> bytes:
    return kem_id.to_bytes(2, "big") + key


def _split_encoded(encoded: bytes) -> tuple[int, bytes]:
    kem_id = int.from_bytes(encoded[:2], "big")
    if kem_id not in _KEMS:
        raise CorruptFileError(f"unknown HPKE suite {kem_id:#06x}")
    return kem_id, encoded[2:]
