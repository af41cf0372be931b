"""The secret: one orthogonal matrix, its seed, and what may be said of it in public."""

import hashlib
import hmac
from dataclasses import dataclass, field
from typing import Final, NoReturn

import numpy as np
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from core.errors import DtypeError, SeedError, ShapeError, SignatureError
from core.orthogonal import GENERATOR, SEED_BYTES, Matrix, haar

_COMMITMENT_LABEL: Final = b"keymixer.v1/key-commitment"
_POSSESSION_LABEL: Final = b"keymixer.v1/possession"

Seed = bytes | bytearray


@dataclass(frozen=True, slots=True, eq=False)
class BlockKey:
    """One version of an owner's key: `matrix` is applied to every block of an image.

    It refuses to be printed, pickled or copied. `dataclasses.asdict` would still copy
    the matrix: do not call it on a key.
    """

    key_id: str
    version: int
    patch_size: int
    channels: int
    matrix: Matrix = field(repr=False)

    def __post_init__(self) -> None:
        if self.matrix.dtype != np.float64:
            raise DtypeError(f"a key is float64, not {self.matrix.dtype}")
        expected = (self.dimension, self.dimension)
        if self.matrix.shape != expected:
            raise ShapeError(
                f"expected a matrix of {expected}, got {self.matrix.shape}"
            )
        self.matrix.flags.writeable = False

    @property
    def dimension(self) -> int:
        """D, the numbers in one block: channels x patch_size x patch_size."""
        return self.channels * self.patch_size**2

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a BlockKey is neither pickled nor copied; derive it from its seed"
        )


def derive_key(
    seed: Seed, *, key_id: str, version: int, patch_size: int, channels: int
) -> BlockKey:
    """Derive the key for blocks of `channels` x `patch_size` x `patch_size`."""
    if patch_size < 1 or channels < 1:
        raise ShapeError(f"no blocks of {patch_size}x{patch_size}x{channels}")
    matrix = haar(seed, channels * patch_size**2)
    return BlockKey(key_id, version, patch_size, channels, matrix)


def commitment(seed: Seed, blinding: bytes, *, generator: str = GENERATOR) -> bytes:
    """Return the key's public identity: SHA-256 of label, generator, blinding and seed.

    The blinding, 32 random bytes kept with the seed, hides even a seed that could be
    guessed; the seed, not the matrix, is committed to, so no float is ever hashed.
    """
    _require_length("blinding", blinding)
    _require_length("seed", seed)
    return hashlib.sha256(
        _join(_COMMITMENT_LABEL, generator.encode(), blinding, seed)
    ).digest()


def possession_tag(seed: Seed, *, key_id: str, version: int, owner: str) -> bytes:
    """Prove that one holds the seed: HMAC-SHA256 under a key derived from it.

    The tag binds key, version and owner, so that it proves nothing about another.
    """
    _require_length("seed", seed)
    mac_key = HKDF(
        algorithm=SHA256(), length=32, salt=None, info=_POSSESSION_LABEL
    ).derive(seed)
    message = _join(
        _POSSESSION_LABEL, key_id.encode(), str(version).encode(), owner.encode()
    )
    return hmac.digest(mac_key, message, "sha256")


def verify_possession(
    tag: bytes, seed: Seed, *, key_id: str, version: int, owner: str
) -> None:
    """Raise `SignatureError` unless `tag` is the seed's for key, version and owner."""
    expected = possession_tag(seed, key_id=key_id, version=version, owner=owner)
    if not hmac.compare_digest(expected, tag):
        raise SignatureError(
            f"the tag does not prove possession of {key_id} version {version}"
        )


def _join(*parts: Seed) -> bytes:
    """Join parts so that no two lists of parts give the same bytes."""
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def _require_length(name: str, value: Seed) -> None:
    if len(value) != SEED_BYTES:
        raise SeedError(f"expected a {name} of {SEED_BYTES} bytes, got {len(value)}")
