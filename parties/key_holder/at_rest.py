"""Contents encrypted at rest, each under a data key of its own, which is wrapped.

A content is sealed with AES-256-GCM under a data key drawn for it, and the data key
with AES-256-GCM under the key-encryption key (KEK). Both authenticate what the record
is (its identity), the wrapping also under which KEK it is. So a record that is
relabelled, moved, or given another's wrapped data key does not open.

Whoever removes the wrapped data key has destroyed the content: no copy of the sealed
bytes, wherever it may be, opens any more (crypto-shredding). Whoever wraps the data key
anew under another KEK has touched no sealed byte.
"""

import hmac
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, NoReturn, TypeAlias

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from parties.key_holder.errors import CorruptRecordError, KekFormatError

Entropy: TypeAlias = Callable[[int], bytes]

KEY_BYTES: Final = 32
_NONCE_BYTES: Final = 12
_TAG_BYTES: Final = 16
_ID_BYTES: Final = 16
_LABEL: Final = b"keymixer.v1/at-rest/"


class KeyEncryptionKey:
    """A key that wraps data keys. It is never printed, pickled or copied.

    `id` names it: an HMAC under the key, so that equal keys have equal names and a name
    says nothing about its key.
    """

    __slots__ = ("_wrapping", "id")

    def __init__(self, secret: bytes | bytearray) -> None:
        """Take 32 bytes; the caller erases its own copy."""
        if len(secret) != KEY_BYTES:
            raise KekFormatError(f"expected {KEY_BYTES} bytes, got {len(secret)}")
        self.id = _derived(secret, b"kek-id")[:_ID_BYTES].hex()
        self._wrapping = AESGCM(_derived(secret, b"kek-wraps"))

    def __repr__(self) -> str:
        return f"KeyEncryptionKey(id={self.id!r})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a key-encryption key is neither pickled nor copied")

    def wrap(self, data_key: bytes | bytearray, identity: bytes, nonce: bytes) -> bytes:
        """Encrypt a data key for a record: nonce, ciphertext, tag."""
        return nonce + self._wrapping.encrypt(nonce, data_key, self._bound(identity))

    def unwrap(self, wrapped: bytes, identity: bytes) -> bytearray:
        """Decrypt what `wrap` gave, for the caller to erase."""
        return _decrypt(self._wrapping, wrapped, self._bound(identity))

    def _bound(self, identity: bytes) -> bytes:
        return _associated(b"data-key", self.id.encode(), identity)


@dataclass(frozen=True, slots=True)
class SealedRecord:
    """A content that only the named KEK opens."""

    kek_id: str
    wrapped: bytes = field(repr=False)
    sealed: bytes = field(repr=False)


def seal_record(
    kek: KeyEncryptionKey,
    identity: bytes,
    content: bytes | bytearray,
    entropy: Entropy,
) -> SealedRecord:
    """Encrypt `content` (any size) under a fresh data key, bound to `identity`."""
    data_key = bytearray(entropy(KEY_BYTES))
    try:
        nonce = entropy(_NONCE_BYTES)
        associated = _associated(b"content", identity)
        sealed = nonce + AESGCM(data_key).encrypt(nonce, content, associated)
        wrapped = kek.wrap(data_key, identity, entropy(_NONCE_BYTES))
    finally:
        erase(data_key)
    return SealedRecord(kek.id, wrapped, sealed)


def open_record(
    kek: KeyEncryptionKey, identity: bytes, record: SealedRecord
) -> bytearray:
    """Decrypt a record, for the caller to erase.

    Raises:
        CorruptRecordError: it was changed, or is not the record of this identity.
    """
    data_key = kek.unwrap(record.wrapped, identity)
    try:
        opened = AESGCM(data_key)
    finally:
        erase(data_key)
    return _decrypt(opened, record.sealed, _associated(b"content", identity))


def rewrap_record(
    old: KeyEncryptionKey,
    new: KeyEncryptionKey,
    identity: bytes,
    wrapped: bytes,
    entropy: Entropy,
) -> bytes:
    """Wrap a record's data key anew; its content stays as it is."""
    data_key = old.unwrap(wrapped, identity)
    try:
        return new.wrap(data_key, identity, entropy(_NONCE_BYTES))
    finally:
        erase(data_key)


def erase(secret: bytearray) -> None:
    """Overwrite a secret: best-effort erased, for Python may have copied it."""
    secret[:] = bytes(len(secret))


def _decrypt(key: AESGCM, sealed: bytes, associated: bytes) -> bytearray:
    if len(sealed) < _NONCE_BYTES + _TAG_BYTES:
        raise CorruptRecordError("a sealed record is too short")
    nonce, ciphertext = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
    plain = bytearray(len(ciphertext) - _TAG_BYTES)
    try:
        key.decrypt_into(nonce, ciphertext, associated, plain)
    except InvalidTag:
        raise CorruptRecordError(
            "a sealed record, or what it says it is, was changed"
        ) from None
    return plain


def _associated(purpose: bytes, *parts: bytes) -> bytes:
    """Join so that no two lists of parts give the same bytes."""
    return _LABEL + b"".join(
        len(part).to_bytes(4, "big") + part for part in (purpose, *parts)
    )


def _derived(secret: bytes | bytearray, purpose: bytes) -> bytes:
    """One key for each purpose: HMAC-SHA256 of its label under the secret."""
    return hmac.digest(secret, _LABEL + purpose, "sha256")
