"""What a data owner needs to know: the three parties it talks to, and its limits."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from core.rpc.settings import Peer, read_settings, take_text


@dataclass(frozen=True, slots=True)
class OwnerSettings:
    """Read once from the `settings.json` of the owner's folder.

    `refresh_s`: how long the client asks with what it knows of its keys before it looks
    again; shorter than the overlap of a rotation, or requests are refused.
    """

    federation: str
    orchestrator: Peer
    key_holder: Peer
    inference_server: Peer
    deadline_s: float = 30.0
    max_message_bytes: int = 16 << 20
    refresh_s: float = 0.4

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read the settings, or raise `ConfigurationError`."""
        settings = read_settings(folder)
        return cls(
            federation=take_text(settings, "federation"),
            orchestrator=Peer.read(settings, "orchestrator"),
            key_holder=Peer.read(settings, "key_holder"),
            inference_server=Peer.read(settings, "inference_server"),
        )
