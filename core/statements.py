"""What a party says and signs: Ed25519 over a label and canonical bytes."""

import re
from dataclasses import asdict, dataclass
from typing import Final, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)

from core.canonical import canonical, parse, take_fields
from core.errors import CorruptFileError, SignatureError

MANIFEST: Final = "manifest"
ISSUE: Final = "issued-model"
ENVELOPE: Final = "sealed-key"
EXPORT: Final = "exported-key"
DESTRUCTION: Final = "destroyed-key"

_SHA256_HEX = re.compile(r"[0-9a-f]{64}")


def sign(private_key: Ed25519PrivateKey, label: str, payload: bytes) -> bytes:
    """Sign a payload for one purpose; 64 bytes.

    The label keeps a signature made for one purpose from counting for another.
    """
    return private_key.sign(_labelled(label, payload))


def verify(public_key: bytes, label: str, payload: bytes, signature: bytes) -> None:
    """Return if `signature` is over this label and payload, else raise.

    Args:
        public_key: Ed25519, 32 raw bytes.
        label: What the signer signed it as.
        payload: The signed bytes.
        signature: 64 bytes.

    Raises:
        SignatureError: also for a key or a signature of the wrong length.
    """
    try:
        key = Ed25519PublicKey.from_public_bytes(public_key)
        key.verify(signature, _labelled(label, payload))
    except (InvalidSignature, ValueError) as error:
        raise SignatureError(
            f"the signature of this {label} does not verify"
        ) from error


@dataclass(frozen=True, slots=True)
class IssueStatement:
    """The key holder's word that one embedding was transformed for one owner's key.

    `digest` is the SHA-256, in hex, of the transformed embedding
    (`core.transform.embedding_digest`), an array of shape `[hidden, channels * p * p]`.
    """

    key_id: str
    key_version: int
    owner: str
    model: str
    model_version: int
    digest: str
    patch_size: int
    channels: int
    hidden: int

    def __post_init__(self) -> None:
        if not _SHA256_HEX.fullmatch(self.digest):
            raise CorruptFileError("digest: expected 64 hex digits")
        numbers = (self.key_version, self.model_version)
        sizes = (self.patch_size, self.channels, self.hidden)
        if min(*numbers, *sizes) < 1:
            raise CorruptFileError("versions and sizes: expected at least 1")

    def to_bytes(self) -> bytes:
        """Write it as canonical JSON, the bytes that are signed."""
        return canonical(asdict(self))

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read what `to_bytes` wrote. Verify the signature over `data` first."""
        return cls(**take_fields(parse(data), cls.__annotations__))


@dataclass(frozen=True, slots=True)
class DestructionReceipt:
    """The key holder's word that it destroyed a key version, and what that means.

    `commitment` is the version's public identity, 64 hex digits; `covers` and
    `excludes` say in plain words what is gone, and what of the key may still exist.
    """

    key_id: str
    key_version: int
    commitment: str
    destroyed_at_ms: int
    covers: str
    excludes: str

    def __post_init__(self) -> None:
        if not _SHA256_HEX.fullmatch(self.commitment):
            raise CorruptFileError("commitment: expected 64 hex digits")
        if min(self.key_version, self.destroyed_at_ms) < 1:
            raise CorruptFileError("version and time: expected at least 1")
        if not (self.key_id and self.covers and self.excludes):
            raise CorruptFileError("key_id, covers and excludes: expected a text")

    def to_bytes(self) -> bytes:
        """Write it as canonical JSON, the bytes that are signed."""
        return canonical(asdict(self))

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read what `to_bytes` wrote. Verify the signature over `data` first."""
        return cls(**take_fields(parse(data), cls.__annotations__))


def _labelled(label: str, payload: bytes) -> bytes:
    return b"keymixer.v1/" + label.encode("ascii") + b"\x00" + payload
