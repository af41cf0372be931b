"""The key holder's settings, read once from its folder's `settings.json`."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from core.errors import ConfigurationError, CorruptFileError
from core.rpc.settings import Peer, read_servers, read_settings, take_address, take_text
from core.sealing import check_public_key
from parties.standing import MAX_STALENESS_S, take_staleness

DATABASE_FILE: Final = "key-holder.db"
KEK_URL: Final = "file:kek.key"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Where the key holder listens, whom it talks to, and what keeps its keys."""

    federation: str
    listen: str
    orchestrator: Peer
    # Every replica of the inference server.
    inference_servers: tuple[Peer, ...]
    # How long an owner may take to open an envelope.
    envelope_lifetime_s: float = 600.0
    # SQLAlchemy's URL.
    database: str
    # Where a new store's key-encryption key is; see `parties.key_holder.providers`.
    kek: str = KEK_URL
    # An HPKE public key as `core.sealing` writes it; empty: nothing is ever exported.
    recovery_key: bytes = b""
    # Older news of who and what stands than this is not acted upon.
    max_staleness_s: float = MAX_STALENESS_S

    @classmethod
    def read(cls, folder: Path) -> Self:
        found = read_settings(folder)
        return cls(
            federation=take_text(found, "federation"),
            listen=take_address(found, "listen"),
            orchestrator=Peer.read(found, "orchestrator"),
            inference_servers=read_servers(found),
            database=_database(found, folder),
            kek=take_text({"kek": KEK_URL} | found, "kek"),
            recovery_key=_recovery_key(found),
            max_staleness_s=take_staleness(found),
        )


def _database(found: Mapping[str, Any], folder: Path) -> str:
    path = (folder / DATABASE_FILE).absolute()
    return take_text({"database": f"sqlite:///{path}"} | dict(found), "database")


def _recovery_key(found: Mapping[str, Any]) -> bytes:
    if "recovery_key" not in found:
        return b""
    try:
        key = bytes.fromhex(take_text(found, "recovery_key"))
        check_public_key(key)
    except (ValueError, CorruptFileError) as error:
        raise ConfigurationError("recovery_key: expected a sealing key, hex") from error
    return key
