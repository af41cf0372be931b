"""A party's own signing key, kept in its folder."""

from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from core.errors import CorruptFileError
from core.rpc.private_files import ensure_private

SIGNING_KEY_FILE: Final = "signing.key"


def ensure_signing_key(folder: Path, name: str = SIGNING_KEY_FILE) -> Ed25519PrivateKey:
    """Return the folder's Ed25519 key, made at the first call: 32 raw bytes, 0600."""
    raw = ensure_private(
        folder / name, lambda: Ed25519PrivateKey.generate().private_bytes_raw()
    )
    try:
        return Ed25519PrivateKey.from_private_bytes(raw)
    except ValueError as error:
        raise CorruptFileError(f"{folder / name} is not an Ed25519 key") from error
