"""What every party's `settings.json` holds: federation, address, peers."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from core.errors import ConfigurationError
from core.rpc.identity import SpiffeId

SETTINGS_FILE: Final = "settings.json"
# Replicas of one party, which have one name.
REPLICAS: Final = "inference_servers"
_LAST_PORT: Final = 65535
# More of them may be no number at all for Python.
_DIGITS: Final = 10


@dataclass(frozen=True, slots=True)
class Peer:
    """Where another party listens, and who it must prove to be."""

    address: str
    spiffe_id: SpiffeId

    @classmethod
    def read(cls, settings: Mapping[str, Any], name: str) -> Self:
        """Read `"<name>": {"address": "host:port", "spiffe_id": "spiffe://..."}`."""
        found = settings.get(name)
        if not isinstance(found, dict):
            raise ConfigurationError(f"{name}: expected an address and a spiffe_id")
        address = take_address(found, "address", where=f"{name}.")
        spiffe_id = take_text(found, "spiffe_id", where=f"{name}.")
        return cls(address, SpiffeId.parse(spiffe_id))


def read_replicas(settings: Mapping[str, Any]) -> tuple[Peer, ...]:
    """Read `"inference_servers": [...]`; empty if there is none."""
    listed = settings.get(REPLICAS, [])
    if not isinstance(listed, list):
        raise ConfigurationError(f"{REPLICAS}: expected a list")
    return tuple(
        Peer.read({f"{REPLICAS}[{at}]": one}, f"{REPLICAS}[{at}]")
        for at, one in enumerate(listed)
    )


def read_servers(settings: Mapping[str, Any]) -> tuple[Peer, ...]:
    """Every replica of the inference server, or the one that there is.

    Raises:
        ConfigurationError: they are not one party.
    """
    first = Peer.read(settings, "inference_server")
    replicas = read_replicas(settings) or (first,)
    if any(each.spiffe_id != first.spiffe_id for each in replicas):
        raise ConfigurationError(f"{REPLICAS}: expected {first.spiffe_id} of each")
    return replicas


@dataclass(frozen=True, slots=True)
class CommonSettings:
    """What every long-lived party needs to know."""

    federation: str
    listen: str
    orchestrator: Peer | None

    @classmethod
    def read(cls, settings: Mapping[str, Any]) -> Self:
        return cls(
            federation=take_text(settings, "federation"),
            listen=take_address(settings, "listen"),
            orchestrator=Peer.read(settings, "orchestrator")
            if "orchestrator" in settings
            else None,
        )


def read_settings(folder: Path) -> dict[str, Any]:
    """Read a party's `settings.json`.

    Raises:
        ConfigurationError: it is missing, or not a JSON object.
    """
    path = folder / SETTINGS_FILE
    try:
        settings = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise ConfigurationError(f"{path} is missing") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigurationError(f"{path} is not JSON: {error}") from error
    if not isinstance(settings, dict):
        raise ConfigurationError(f"{path}: expected a JSON object")
    return settings


def take_text(settings: Mapping[str, Any], name: str, *, where: str = "") -> str:
    """Return a string that is there and not empty."""
    found = settings.get(name)
    if not isinstance(found, str) or not found:
        raise ConfigurationError(f"{where}{name}: expected a text, got {found!r}")
    return found


def take_address(settings: Mapping[str, Any], name: str, *, where: str = "") -> str:
    """Return a `host:port`."""
    found = take_text(settings, name, where=where)
    host, _, port = found.rpartition(":")
    if not host or not _is_port(port):
        raise ConfigurationError(f"{where}{name}: expected host:port, got {found!r}")
    return found


def _is_port(text: str) -> bool:
    return text.isdecimal() and len(text) < _DIGITS and int(text) <= _LAST_PORT
