"""A key holder's store in a folder, and a look at every byte that it leaves there."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from core.database import WAIT_S
from core.orthogonal import GENERATOR
from core.statements import DESTRUCTION, sign
from parties.key_holder.at_rest import Entropy
from parties.key_holder.identities import KeyIdentity
from parties.key_holder.opening import Store, open_store
from parties.key_holder.vault import Vault
from tests.unit.parties.stage import MODEL, OWNER_ID
from tests.unit.parties.stage import Entropy as Drawn

KEK = "file:kek.key"
KEY = "ward-one-cells"
SIGNING_KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
NOW_MS = 1_750_000_000_000


def pen(receipt: bytes) -> bytes:
    return sign(SIGNING_KEY, DESTRUCTION, receipt)


def key(**changes: Any) -> KeyIdentity:
    fields: dict[str, Any] = {
        "key_id": KEY,
        "version": 1,
        "owner": str(OWNER_ID),
        "model": MODEL,
        "generator": GENERATOR,
        "patch_size": 4,
        "channels": 3,
    }
    return KeyIdentity(**{**fields, **changes})


def database_url(folder: Path) -> str:
    return f"sqlite:///{folder / 'key-holder.db'}"


@contextmanager
def opened(
    folder: Path,
    entropy: Entropy | None = None,
    kek: str = KEK,
    *,
    wait_s: float = WAIT_S,
) -> Iterator[Vault]:
    """The vault of a folder, as a key holder that starts there has it."""
    with store(folder, entropy, wait_s=wait_s) as opened_store:
        yield opened_store.unlocked(kek)


@contextmanager
def store(
    folder: Path, entropy: Entropy | None = None, *, wait_s: float = WAIT_S
) -> Iterator[Store]:
    """The store of a folder, as the rewrap command has it."""
    with open_store(
        folder,
        database_url(folder),
        entropy=entropy or Drawn(),
        clock=lambda: NOW_MS,
        wait_s=wait_s,
    ) as opened_store:
        yield opened_store


def seed_of(vault: Vault, version: int = 1, key_id: str = KEY) -> bytes:
    with vault.open_seed(key_id, version) as seed:
        return bytes(seed)


def files(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def forms(secret: bytes) -> list[bytes]:
    """A secret as it could stand in a file, a log or a message."""
    return [
        secret,
        secret.hex().encode(),
        secret.hex().upper().encode(),
        repr(secret).encode(),
        repr(bytearray(secret)).encode(),
    ]
