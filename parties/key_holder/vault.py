"""Keys and plain embeddings at rest: one encrypted record for each version."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Lock
from typing import NoReturn, Self
from urllib.parse import quote

from core.canonical import canonical, parse, take_fields
from core.errors import CorruptFileError, NotFound
from core.keys import commitment
from core.orthogonal import SEED_BYTES
from core.wire import write_atomically
from parties.key_holder.at_rest import (
    EncryptedFiles,
    Entropy,
    erase,
    open_key_encryption_key,
)
from parties.key_holder.errors import (
    EmbeddingChangedError,
    KeyDestroyedError,
    KeyFormError,
    KeyIdentityError,
)

BLINDING_BYTES = 32
# File systems take 255 bytes; suffixes and drafts need some of them.
_LONGEST_NAME = 200


@dataclass(frozen=True, slots=True)
class KeyIdentity:
    """What a key version is, without the key: public, and authenticated at rest."""

    key_id: str
    version: int
    owner: str
    model: str
    generator: str
    patch_size: int
    channels: int

    def __post_init__(self) -> None:
        if min(self.version, self.patch_size, self.channels) < 1:
            raise KeyFormError("version, patch size and channels start at 1")
        if not (self.key_id and self.owner and self.model):
            raise KeyFormError("a key has an id, an owner and a model")

    def to_bytes(self) -> bytes:
        return canonical(asdict(self))

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        return cls(**take_fields(parse(data), cls.__annotations__))


class Vault:
    """The key holder's store. It refuses to be printed or pickled."""

    def __init__(self, folder: Path, entropy: Entropy) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        kek = open_key_encryption_key(folder / "kek.key", entropy)
        self._tombstones = folder / "destroyed"
        self._tombstones.mkdir(mode=0o700, exist_ok=True)
        self._keys = EncryptedFiles(folder / "keys", kek, entropy)
        self._embeddings = EncryptedFiles(folder / "embeddings", kek, entropy)
        self._entropy = entropy
        self._writing = Lock()
        self._finish_destruction()

    def __repr__(self) -> str:
        return "Vault()"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a vault is never pickled")

    def create_key(self, identity: KeyIdentity) -> bytes:
        """Draw seed and blinding once; return the commitment (32 bytes) every time."""
        name = _name(identity.key_id, identity.version)
        with self._writing:
            self._refuse_destroyed(name)
            if name not in self._keys:
                self._draw(name, identity)
        if self.identity(identity.key_id, identity.version) != identity:
            raise KeyIdentityError("a key version of this name exists")
        return self._commitment(name, identity.generator)

    def identity(self, key_id: str, version: int) -> KeyIdentity:
        """The public facts of a key version. Raises `NotFound`, `KeyDestroyedError`."""
        name = _name(key_id, version)
        self._refuse_destroyed(name)
        if name not in self._keys:
            raise NotFound("no such key version")
        identity = KeyIdentity.from_bytes(self._keys.identity(name))
        if (identity.key_id, identity.version) != (key_id, version):
            raise CorruptFileError("a key's files were moved to another name")
        return identity

    @contextmanager
    def open_seed(self, key_id: str, version: int) -> Iterator[bytearray]:
        """Lend the 32-byte seed for the block; best-effort erased afterwards."""
        self.identity(key_id, version)
        with self._secret(_name(key_id, version)) as secret:
            seed = secret[:SEED_BYTES]
            try:
                yield seed
            finally:
                erase(seed)

    def destroy_key(self, key_id: str, version: int) -> None:
        """Make the seed unrecoverable from here; the version is never used again.

        The tombstone comes first, so a crash leaves a key that is refused and that the
        next call finishes destroying. A version that never was is buried as well.
        """
        name = _name(key_id, version)
        with self._writing:
            write_atomically(self._tombstones / name, b"", mode=0o600)
            self._keys.destroy(name)

    def store_embedding(self, model: str, version: int, content: bytes) -> None:
        """Keep a release's plain `embedding.safetensors`; twice the same is fine."""
        name = _name(model, version)
        identity = _embedding_identity(model, version)
        with self._writing:
            if name not in self._embeddings:
                self._embeddings.write(name, identity, content)
        with self.open_embedding(model, version) as stored:
            if stored != content:
                raise EmbeddingChangedError("another embedding is stored")

    @contextmanager
    def open_embedding(self, model: str, version: int) -> Iterator[bytearray]:
        """Lend the plain safetensors file; best-effort erased afterwards."""
        identity, content = self._embeddings.read(_name(model, version))
        try:
            if identity != _embedding_identity(model, version):
                raise CorruptFileError("an embedding was moved to another name")
            yield content
        finally:
            erase(content)

    def _draw(self, name: str, identity: KeyIdentity) -> None:
        secret = bytearray(self._entropy(SEED_BYTES) + self._entropy(BLINDING_BYTES))
        try:
            self._keys.write(name, identity.to_bytes(), secret)
        finally:
            erase(secret)

    def _commitment(self, name: str, generator: str) -> bytes:
        with self._secret(name) as secret:
            seed, blinding = secret[:SEED_BYTES], secret[SEED_BYTES:]
            try:
                return commitment(seed, bytes(blinding), generator=generator)
            finally:
                erase(seed)
                erase(blinding)

    @contextmanager
    def _secret(self, name: str) -> Iterator[bytearray]:
        _, secret = self._keys.read(name)
        try:
            if len(secret) != SEED_BYTES + BLINDING_BYTES:
                raise CorruptFileError("a sealed key has the wrong length")
            yield secret
        finally:
            erase(secret)

    def _finish_destruction(self) -> None:
        for tombstone in self._tombstones.iterdir():
            self._keys.destroy(tombstone.name)

    def _refuse_destroyed(self, name: str) -> None:
        if (self._tombstones / name).exists():
            raise KeyDestroyedError("this key version was destroyed")


def _embedding_identity(model: str, version: int) -> bytes:
    return canonical({"model": model, "model_version": version})


def _name(identifier: str, version: int) -> str:
    """A file name that no identifier can escape from: `key-7` -> `key-7-1`."""
    if version < 1:
        raise KeyFormError("versions start at 1")
    name = f"{quote(identifier, safe='')}-{version}"
    if len(name) > _LONGEST_NAME:
        raise KeyFormError(f"quoted, a name has at most {_LONGEST_NAME} characters")
    return name
