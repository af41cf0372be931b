"""What a data owner needs to know: the three parties it talks to, and its limits."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self
from zlib import crc32

from core.encoding import DATATYPES, FP32
from core.errors import ConfigurationError
from core.rpc.identity import SpiffeId
from core.rpc.settings import Peer, read_replicas, read_settings, take_text

LOG_KEY: Final = "log_public_key"
DATATYPE: Final = "datatype"
CANDIDATE_SHARE: Final = "candidate_share"


@dataclass(frozen=True, slots=True)
class OwnerSettings:
    """Read once from the `settings.json` of the owner's folder.

    `refresh_s`: how long the client asks with what it knows of its keys before it looks
    again; shorter than the overlap of a rotation, or requests are refused.
    `witness_s`: how often it looks at the audit log, besides before it uses a model for
    the first time; 0: whenever it looks at its keys.
    `datatype`: what encrypted images travel as, by the protocol's name.
    `inference_servers`: replicas, asked in turn when one is away; empty: there is one.
    `in_flight`: how many requests about many files are on their way at a time.
    `resend_unsure`: ask again also when a connection broke under a request. It may have
    been answered: then both answers are on record, and the images counted once.
    `candidate_share`: of all requests, how many ask the version that is tried beside
    the champion, if there is one; 0 to 1.
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
    datatype: str = FP32
    inference_servers: tuple[Peer, ...] = ()
    in_flight: int = 4
    resend_unsure: bool = True
    candidate_share: float = 0.1

    def servers_for(self, owner: SpiffeId) -> tuple[Peer, ...]:
        """Every inference server that may be asked, in the order in which to try.

        Each owner begins with another one, and always with the same: there its
        embedding is in memory.
        """
        servers = self.inference_servers or (self.inference_server,)
        first = crc32(str(owner).encode()) % len(servers)
        return servers[first:] + servers[:first]

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
            datatype=read_datatype(str(settings.get(DATATYPE, "float32"))),
            inference_servers=read_replicas(settings),
            resend_unsure=_resend_unsure(settings),
            candidate_share=_candidate_share(settings),
        )


def read_datatype(name: str) -> str:
    """The protocol's name of `float32`, `float16` or `uint8`."""
    if name not in DATATYPES:
        raise ConfigurationError(
            f"{DATATYPE}: expected {', '.join(DATATYPES)}, got {name[:16]!r}"
        )
    return DATATYPES[name]


def _resend_unsure(settings: Mapping[str, Any]) -> bool:
    found = settings.get("resend_unsure", True)
    if not isinstance(found, bool):
        raise ConfigurationError(
            f"resend_unsure: expected true or false, got {found!r:.16}"
        )
    return found


def _candidate_share(settings: Mapping[str, Any]) -> float:
    found = settings.get(CANDIDATE_SHARE, 0.1)
    if type(found) not in (int, float) or not 0 <= found <= 1:
        raise ConfigurationError(
            f"{CANDIDATE_SHARE}: expected a share from 0 to 1, got {found!r:.16}"
        )
    return float(found)


def _log_key(settings: Mapping[str, Any]) -> bytes:
    if LOG_KEY not in settings:
        return b""
    try:
        return bytes.fromhex(take_text(settings, LOG_KEY))
    except ValueError as error:
        raise ConfigurationError(f"{LOG_KEY}: expected a key in hex") from error
