"""The inference server's settings, read once from its folder's `settings.json`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from core.errors import ConfigurationError
from core.processors import processors
from core.rpc.settings import (
    Peer,
    read_replicas,
    read_settings,
    take_address,
    take_text,
)
from parties.inference_server.embeddings import BUDGET_BYTES
from parties.inference_server.engines import choice
from parties.inference_server.rates import Limit
from parties.standing import MAX_STALENESS_S, take_staleness


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Where the inference server listens, whom it talks to, and its bounds."""

    federation: str
    listen: str
    orchestrator: Peer
    # Whoever may send issued models; if it is left out, any key holder may.
    key_holder: Peer | None = None
    # Every replica, this one perhaps among them; empty: it is alone.
    replicas: tuple[Peer, ...] = ()
    # What computes: a name of `choice.NAMES`.
    engine: str = choice.DEFAULT
    # How many batches are computed at once, and the threads of each; 0 batches: as many
    # as there are processors.
    batches_at_once: int = 0
    engine_threads: int = 1
    max_images: int = 16_384
    max_message_bytes: int = 16 << 20
    max_backbone_bytes: int = 512 << 20
    # Memory for issued embeddings; more of them wait on disk until they are asked for.
    max_embedding_bytes: int = BUDGET_BYTES
    # Requests that may wait for a batch, of all owners and of each.
    max_waiting: int = 256
    max_waiting_each: int = 128
    # After so long without the orchestrator's word on keys, nobody is answered.
    max_staleness_s: float = MAX_STALENESS_S
    # Where metrics may be fetched, `host:port` on the loopback; empty: nowhere.
    metrics: str = ""
    # Where traces are sent by OTLP over HTTP, a URL without its path; empty: see
    # `tracing`.
    tracing: str = ""
    # How much an owner may ask for: anyone's, and those by SPIFFE ID.
    limit: Limit = field(default_factory=Limit)
    limits: Mapping[str, Limit] = field(default_factory=dict)

    @property
    def at_once(self) -> int:
        """How many batches are computed at once."""
        return self.batches_at_once or processors()

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read the file; the key holder, the engine and the numbers may be left out."""
        found = read_settings(folder)
        numbers = (
            "batches_at_once",
            "engine_threads",
            "max_images",
            "max_message_bytes",
            "max_backbone_bytes",
            "max_embedding_bytes",
            "max_waiting",
            "max_waiting_each",
        )
        return cls(
            federation=take_text(found, "federation"),
            listen=take_address(found, "listen"),
            orchestrator=Peer.read(found, "orchestrator"),
            key_holder=Peer.read(found, "key_holder")
            if "key_holder" in found
            else None,
            replicas=read_replicas(found),
            max_staleness_s=take_staleness(found),
            engine=_engine(found),
            metrics=take_address(found, "metrics") if found.get("metrics") else "",
            tracing=take_text(found, "tracing") if found.get("tracing") else "",
            limit=_limit(found.get("limit", {})),
            limits=_limits(found.get("limits", {})),
            **{name: _count(found, name) for name in numbers if name in found},
        )


def _engine(settings: Mapping[str, Any]) -> str:
    found = settings.get("engine", choice.DEFAULT)
    if found not in choice.NAMES:
        names = ", ".join(choice.NAMES)
        raise ConfigurationError(f"engine: expected one of {names}, got {found!r:.40}")
    return str(found)


def _count(settings: Mapping[str, Any], name: str) -> int:
    found = settings[name]
    if type(found) is not int or found < 1:
        raise ConfigurationError(f"{name}: expected a number from 1, got {found!r}")
    return found


def _limits(found: Any) -> dict[str, Limit]:
    if not isinstance(found, dict):
        raise ConfigurationError("limits: expected an object, owners' limits by name")
    return {owner: _limit(named) for owner, named in found.items()}


def _limit(found: Mapping[str, Any]) -> Limit:
    try:
        limit = Limit(**found)
    except TypeError as error:
        raise ConfigurationError(f"limits: {error}") from error
    for name, value in found.items():
        if value is not None and (type(value) not in (int, float) or value <= 0):
            raise ConfigurationError(f"limits.{name}: expected a number above 0")
    return limit
