"""The orchestrator's settings, read once from its folder."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from core.errors import ConfigurationError
from core.rpc.identity import SpiffeId
from core.rpc.settings import (
    CommonSettings,
    Peer,
    read_settings,
    take_text,
)


@dataclass(frozen=True, slots=True)
class Settings:
    """What one orchestrator process needs to know."""

    folder: Path
    federation: str
    listen: str
    # The name of the audit log, bound into every checkpoint.
    origin: str
    key_holder: Peer
    inference_server: Peer
    # Enrolled at every start; who is enrolled already is left as it is.
    parties: tuple[SpiffeId, ...]

    @property
    def database(self) -> Path:
        """The registry and the audit log."""
        return self.folder / "registry.db"

    @property
    def address(self) -> Path:
        """Where the bound address is written for whoever started the process."""
        return self.folder / "address"

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read `settings.json`.

        Raises:
            ConfigurationError: a field is missing or wrong; the message names it.
        """
        fields = read_settings(folder)
        common = CommonSettings.read(fields)
        return cls(
            folder=folder,
            federation=common.federation,
            listen=common.listen,
            origin=_origin(fields, common.federation),
            key_holder=Peer.read(fields, "key_holder"),
            inference_server=Peer.read(fields, "inference_server"),
            parties=_parties(fields, common.federation),
        )


def _origin(fields: Mapping[str, Any], federation: str) -> str:
    """The log's name; a checkpoint's first line, so no spaces and no plus sign."""
    origin = take_text({"origin": f"{federation}/audit", **fields}, "origin")
    if "+" in origin or any(c.isspace() for c in origin):
        raise ConfigurationError("origin: expected no spaces and no plus signs")
    return origin


def _parties(fields: Mapping[str, Any], federation: str) -> tuple[SpiffeId, ...]:
    listed = fields.get("parties", [])
    if not isinstance(listed, list):
        raise ConfigurationError("parties: expected a list")
    found = tuple(_party(each, f"parties[{i}]") for i, each in enumerate(listed))
    for index, spiffe in enumerate(found):
        if spiffe.federation != federation:
            raise ConfigurationError(
                f"parties[{index}]: expected federation {federation}, got {spiffe}"
            )
    return found


def _party(entry: Any, where: str) -> SpiffeId:
    if not isinstance(entry, dict):
        raise ConfigurationError(f"{where}: expected an object with a spiffe_id")
    return SpiffeId.parse(take_text(entry, "spiffe_id", where=f"{where}."))
