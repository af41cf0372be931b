"""The key holder's settings, read once from its folder's `settings.json`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from core.rpc.settings import Peer, read_settings, take_address, take_text


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Where the key holder listens, and whom it talks to."""

    federation: str
    listen: str
    orchestrator: Peer
    inference_server: Peer
    # How long an owner may take to open an envelope.
    envelope_lifetime_s: float = 600.0

    @classmethod
    def read(cls, folder: Path) -> Self:
        found = read_settings(folder)
        return cls(
            federation=take_text(found, "federation"),
            listen=take_address(found, "listen"),
            orchestrator=Peer.read(found, "orchestrator"),
            inference_server=Peer.read(found, "inference_server"),
        )
