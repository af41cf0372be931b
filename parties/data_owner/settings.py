"""What a data owner needs to know: the three parties it talks to, and its limits."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from core.errors import ConfigurationError
from core.rpc.settings import Peer, read_settings, take_text

LOG_KEY: Final = "log_public_key"


@dataclass(frozen=True, slots=True)
class OwnerSettings:
    """Read once from the `settings.json` of the owner's folder.

    `refresh_s`: how long the client asks with what it knows of its keys before it looks
    again; shorter than the overlap of a rotation, or requests are refused.
    `witness_s`: how often it looks at the audit log, besides before it uses a model for
    the first time; 0: whenever it looks at its keys.
    `log_key`: the audit log's public key; empty: the first one seen is pinned.
    """

    federation: str
    orchestrator: Peer
    key_holder: Peer
    inference_server: Peer
    deadline_s: float = 30.0
    max_message_bytes: int = 16 << 20
    refresh_s: float = 0.4
    witness_s: float = 5.0
    log_key: bytes = b""

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read the settings, or raise `ConfigurationError`."""
        settings = read_settings(folder)
        return cls(
            federation=take_text(settings, "federation"),
            orchestrator=Peer.read(settings, "orchestrator"),
            key_holder=Peer.read(settings, "key_holder"),
            inference_server=Peer.read(settings, "inference_server"),
            log_key=_log_key(settings),
        )


def _log_key(settings: Mapping[str, Any]) -> bytes:
    if LOG_KEY not in settings:
        return b""
    try:
        return bytes.fromhex(take_text(settings, LOG_KEY))
    except ValueError as error:
        raise ConfigurationError(f"{LOG_KEY}: expected a key in hex") from error
