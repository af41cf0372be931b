"""What a model provider needs to know: the three parties it delivers to."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from core.rpc.settings import Peer, read_servers, read_settings, take_text


@dataclass(frozen=True, slots=True)
class ProviderSettings:
    """Read once from the `settings.json` of the provider's folder."""

    federation: str
    orchestrator: Peer
    key_holder: Peer
    # Every replica of the inference server.
    inference_servers: tuple[Peer, ...]
    deadline_s: float = 60.0
    chunk_bytes: int = 1 << 20

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read the settings, or raise `ConfigurationError`."""
        settings = read_settings(folder)
        return cls(
            federation=take_text(settings, "federation"),
            orchestrator=Peer.read(settings, "orchestrator"),
            key_holder=Peer.read(settings, "key_holder"),
            inference_servers=read_servers(settings),
        )
