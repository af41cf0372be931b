"""The key holder's delivery key, as this owner first saw it and will always expect it.

The registry says which key that is, but is believed only once: a registry that names
another one later, to sign envelopes of its own, is found.
"""

from pathlib import Path
from typing import Final

from core.errors import CorruptFileError
from core.rpc.private_files import ensure_private
from parties.data_owner.errors import DeliveryKeyChangedError

FILE: Final = "key-holder.pub"
_KEY_BYTES: Final = 32


def require_pinned(folder: Path, signing_key: bytes) -> None:
    """Return if `signing_key` is the one pinned in the owner's folder; pin the first.

    Args:
        folder: The owner's.
        signing_key: Ed25519, 32 raw bytes, as the registry names it now.

    Raises:
        DeliveryKeyChangedError: another key is pinned.
        CorruptFileError: the file holds no key.
    """
    path = folder / FILE
    pinned = _parsed(path, ensure_private(path, lambda: signing_key.hex().encode()))
    if pinned != signing_key:
        raise DeliveryKeyChangedError(
            f"pinned {pinned.hex()[:16]}..., the registry names "
            f"{signing_key.hex()[:16]}..."
        )


def _parsed(path: Path, content: bytes) -> bytes:
    try:
        key = bytes.fromhex(content.decode("ascii"))
    except ValueError as error:
        raise CorruptFileError(f"{path} holds no key") from error
    if len(key) != _KEY_BYTES:
        raise CorruptFileError(f"{path}: expected {_KEY_BYTES} bytes, got {len(key)}")
    return key
