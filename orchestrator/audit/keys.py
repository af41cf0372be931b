"""The audit log's own signing key, in the orchestrator's folder."""

from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from core.errors import CorruptFileError
from core.rpc.party import ensure_signing_key
from core.rpc.private_files import read_private

LOG_KEY_FILE: Final = "log.key"


def ensure_log_key(folder: Path) -> Ed25519PrivateKey:
    """Return the key that signs checkpoints, made at the first call."""
    return ensure_signing_key(folder, LOG_KEY_FILE)


def public_log_key(folder: Path) -> bytes:
    """Return the public key of a log that exists: 32 raw bytes; nothing is made.

    Raises:
        ConfigurationError: there is no key in the folder, or others may read it.
    """
    raw = read_private(folder / LOG_KEY_FILE)
    try:
        key = Ed25519PrivateKey.from_private_bytes(raw)
    except ValueError as error:
        raise CorruptFileError(f"{folder / LOG_KEY_FILE} is no Ed25519 key") from error
    return key.public_key().public_bytes_raw()
