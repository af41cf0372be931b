"""The owner's keys at rest: each seed under AES-256-GCM, in a file of its own.

`kek.key` (mode 0600) encrypts all of them. Whoever can read the owner's folder as the
owner has the keys; this keeps them out of backups that leave `kek.key` behind, and
binds each file to the key version it is for.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from core.canonical import canonical, parse, take_fields
from core.errors import CorruptFileError, NotFound
from core.keys import BlockKey, derive_key, possession_tag
from core.rpc.private_files import ensure_private
from core.wire import read_file, write_atomically

_KEY_ID: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")
_NONCE_BYTES: Final = 12
_KEK_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class KeyFacts:
    """What is known of a key version beside its seed; none of it is secret."""

    key_id: str
    version: int
    model: str
    generator: str
    patch_size: int
    channels: int

    def __post_init__(self) -> None:
        # Both name a file, and both come from another machine.
        if not _KEY_ID.fullmatch(self.key_id) or self.version < 1:
            raise CorruptFileError(
                f"{self.key_id!r:.80} version {self.version} is no key version"
            )


class Keyring:
    """The keys in one owner's folder. Neither printed nor pickled."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.home = folder
        self._folder = folder / "keys"
        self._kek_path = folder / "kek.key"
        self._derived: dict[tuple[str, int], BlockKey] = {}

    def __repr__(self) -> str:
        return f"Keyring({str(self._folder)!r})"

    def __contains__(self, name: object) -> bool:
        match name:
            case (str(key_id), int(version)):
                return self._path(key_id, version).is_file()
        return False

    def names(self) -> list[tuple[str, int]]:
        """The id and version of every key that is here, oldest version first."""
        found = (path for path in self._folder.glob("*/*.key") if path.stem.isdigit())
        return sorted((path.parent.name, int(path.stem)) for path in found)

    def add(self, facts: KeyFacts, seed: bytes) -> None:
        """Keep a seed; it is on disk when this returns."""
        nonce = os.urandom(_NONCE_BYTES)
        sealed = self._cipher().encrypt(nonce, seed, _bound(facts))
        content = {**asdict(facts), "nonce": nonce.hex(), "sealed": sealed.hex()}
        path = self._path(facts.key_id, facts.version)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomically(path, canonical(content), mode=0o600)

    def facts(self, key_id: str, version: int) -> KeyFacts:
        """What is known of a key version, or `NotFound`."""
        return self._read(key_id, version)[0]

    def key(self, key_id: str, version: int) -> BlockKey:
        """The matrix, derived at the first call; `NotFound` if there is no such key."""
        name = (key_id, version)
        if name not in self._derived:
            facts, seed = self._open(key_id, version)
            self._derived[name] = derive_key(
                seed,
                key_id=key_id,
                version=version,
                patch_size=facts.patch_size,
                channels=facts.channels,
            )
        return self._derived[name]

    def possession_tag(self, key_id: str, version: int, owner: str) -> bytes:
        """Proof for the key holder that the envelope was opened."""
        _, seed = self._open(key_id, version)
        return possession_tag(seed, key_id=key_id, version=version, owner=owner)

    def _open(self, key_id: str, version: int) -> tuple[KeyFacts, bytes]:
        facts, content = self._read(key_id, version)
        try:
            nonce, sealed = (bytes.fromhex(content[n]) for n in ("nonce", "sealed"))
            return facts, self._cipher().decrypt(nonce, sealed, _bound(facts))
        except (ValueError, InvalidTag) as error:
            path = self._path(key_id, version)
            raise CorruptFileError(
                f"{path} was changed, or kek.key is another; delete it to have the key"
                " fetched again"
            ) from error

    def _read(self, key_id: str, version: int) -> tuple[KeyFacts, Mapping[str, Any]]:
        if (key_id, version) not in self:
            raise NotFound(f"no key {key_id} version {version} in {self._folder}")
        path = self._path(key_id, version)
        names = {**KeyFacts.__annotations__, "nonce": str, "sealed": str}
        content = take_fields(parse(read_file(path)), names)
        facts = KeyFacts(**{name: content[name] for name in KeyFacts.__annotations__})
        if (facts.key_id, facts.version) != (key_id, version):
            raise CorruptFileError(f"{path} holds another key")
        return facts, content

    def _path(self, key_id: str, version: int) -> Path:
        return self._folder / key_id / f"{version}.key"

    def _cipher(self) -> AESGCM:
        kek = ensure_private(self._kek_path, lambda: os.urandom(_KEK_BYTES))
        if len(kek) != _KEK_BYTES:
            raise CorruptFileError(
                f"{self._kek_path} is not a key of {_KEK_BYTES} bytes"
            )
        return AESGCM(kek)


def _bound(facts: KeyFacts) -> bytes:
    return canonical({"label": "keymixer.v1/keyring", **asdict(facts)})
