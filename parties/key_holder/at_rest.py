"""Files encrypted at rest, each under its own data key.

A record is three files: `<name>.wrapped` is its AES-256 data key, wrapped by the
key-encryption key; `<name>.sealed` is the content under the data key; and
`<name>.identity` says, in the open, what the record is. Both encryptions authenticate
the identity, so a file moved to another name or relabelled does not open. A record
exists when its identity does: that file is written last.

Whoever deletes the wrapped data key has destroyed the content: no copy of the sealed
file, wherever it may be, opens any more (crypto-shredding).
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from core.errors import CorruptFileError, StorageError
from core.wire import read_file, write_atomically
from parties.key_holder.errors import KeyEncryptionKeyError

Entropy: TypeAlias = Callable[[int], bytes]

KEY_BYTES = 32
_NONCE_BYTES = 12
_TAG_BYTES = 16
_LABEL = b"keymixer.v1/at-rest/"


def open_key_encryption_key(path: Path, entropy: Entropy) -> bytes:
    """Read the key-encryption key; make it while nothing is sealed yet."""
    if not path.exists():
        if any(path.parent.glob("*/*.wrapped")):
            raise KeyEncryptionKeyError("there are sealed files, but no kek.key")
        write_atomically(path, entropy(KEY_BYTES), mode=0o600)
    if path.stat().st_mode & 0o077:
        raise KeyEncryptionKeyError("kek.key must have mode 0600")
    kek = path.read_bytes()
    if len(kek) != KEY_BYTES:
        raise KeyEncryptionKeyError(f"kek.key must hold {KEY_BYTES} bytes")
    return kek


class EncryptedFiles:
    """A folder of encrypted records, by name."""

    def __init__(self, folder: Path, kek: bytes, entropy: Entropy) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = folder
        self._kek = AESGCM(kek)
        self._entropy = entropy

    def __contains__(self, name: str) -> bool:
        return self._path(name, "identity").exists()

    def write(self, name: str, identity: bytes, content: bytes | bytearray) -> None:
        """Encrypt `content` (any size) under a fresh data key; durable on return."""
        data_key = self._entropy(KEY_BYTES)
        wrapped = self._seal(self._kek, data_key, b"data-key", identity)
        sealed = self._seal(AESGCM(data_key), content, b"content", identity)
        write_atomically(self._path(name, "wrapped"), wrapped, mode=0o600)
        write_atomically(self._path(name, "sealed"), sealed, mode=0o600)
        write_atomically(self._path(name, "identity"), identity, mode=0o600)

    def identity(self, name: str) -> bytes:
        """What the record says it is; only `read` proves it. Raises `NotFound`."""
        return self._read(name, "identity")

    def read(self, name: str) -> tuple[bytes, bytearray]:
        """The authenticated identity, and the content for the caller to erase."""
        identity = self.identity(name)
        data_key = _open(self._kek, self._read(name, "wrapped"), b"data-key", identity)
        try:
            content = AESGCM(data_key)
            return identity, _open(
                content, self._read(name, "sealed"), b"content", identity
            )
        finally:
            erase(data_key)

    def destroy(self, name: str) -> None:
        """Drop the wrapped data key, then the content; the identity stays.

        The wrapped key is overwritten first: best-effort erased, for a file system may
        keep old blocks. Doing it twice is not an error.
        """
        try:
            _overwrite(self._path(name, "wrapped"))
            for part in ("wrapped", "sealed"):
                self._path(name, part).unlink(missing_ok=True)
                _sync_folder(self._folder)
        except OSError as error:
            raise StorageError("cannot delete a sealed file") from error

    def _seal(
        self, key: AESGCM, plain: bytes | bytearray, purpose: bytes, identity: bytes
    ) -> bytes:
        nonce = self._entropy(_NONCE_BYTES)
        return nonce + key.encrypt(nonce, plain, _associated(purpose, identity))

    def _read(self, name: str, part: str) -> bytes:
        return read_file(self._path(name, part))

    def _path(self, name: str, part: str) -> Path:
        return self._folder / f"{name}.{part}"


def erase(secret: bytearray) -> None:
    """Overwrite a secret: best-effort erased, for Python may have copied it."""
    secret[:] = bytes(len(secret))


def _open(key: AESGCM, sealed: bytes, purpose: bytes, identity: bytes) -> bytearray:
    if len(sealed) < _NONCE_BYTES + _TAG_BYTES:
        raise CorruptFileError("a sealed file is too short")
    nonce, ciphertext = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
    plain = bytearray(len(ciphertext) - _TAG_BYTES)
    try:
        key.decrypt_into(nonce, ciphertext, _associated(purpose, identity), plain)
    except InvalidTag as error:
        raise CorruptFileError("a sealed file, or its identity, was changed") from error
    return plain


def _associated(purpose: bytes, identity: bytes) -> bytes:
    return _LABEL + purpose + b"\x00" + identity


def _overwrite(path: Path) -> None:
    if path.exists():
        with path.open("r+b") as file:
            file.write(bytes(path.stat().st_size))
            file.flush()
            os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
