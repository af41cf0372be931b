"""The orchestrator's settings, read once from its folder."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from pydantic import ValidationError

from core.errors import ConfigurationError
from core.rpc.identity import SpiffeId
from core.rpc.settings import (
    CommonSettings,
    Peer,
    read_servers,
    read_settings,
    take_text,
)
from orchestrator.database_url import filled_in
from orchestrator.federation import Policies, readable

DEFAULT_LEASE_S: Final = 15.0
MIN_LEASE_S: Final = 0.1
MAX_LEASE_S: Final = 600.0
DEFAULT_WORKERS: Final = 4
MAX_WORKERS: Final = 64


@dataclass(frozen=True, slots=True)
class Settings:
    """What one orchestrator process needs to know."""

    folder: Path
    federation: str
    listen: str
    # The name of the audit log, bound into every checkpoint.
    origin: str
    key_holder: Peer
    # Every replica of the inference server.
    inference_servers: tuple[Peer, ...]
    # Enrolled at every start; who is enrolled already is left as it is.
    parties: tuple[SpiffeId, ...]
    # An SQLAlchemy URL: the registry and the audit log. It may hold a password.
    database: str = field(repr=False)
    policies: Policies = field(default_factory=Policies)
    # How long a job is ours; a process that dies holds it up for so long.
    lease_s: float = DEFAULT_LEASE_S
    # How many jobs are worked on at the same time.
    workers: int = DEFAULT_WORKERS

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
            inference_servers=read_servers(fields),
            parties=_parties(fields, common.federation),
            database=filled_in(
                take_text(_default_database(folder) | fields, "database")
            ),
            policies=_policies(fields),
            lease_s=_lease_s(fields),
            workers=_workers(fields),
        )


def _origin(fields: Mapping[str, Any], federation: str) -> str:
    """The log's name; a checkpoint's first line, so no spaces and no plus sign."""
    origin = take_text({"origin": f"{federation}/audit", **fields}, "origin")
    if "+" in origin or any(c.isspace() for c in origin):
        raise ConfigurationError("origin: expected no spaces and no plus signs")
    return origin


def _default_database(folder: Path) -> dict[str, str]:
    return {"database": f"sqlite:///{folder / 'registry.db'}"}


def _policies(fields: Mapping[str, Any]) -> Policies:
    try:
        return Policies.model_validate(fields.get("policies", {}))
    except ValidationError as error:
        raise ConfigurationError(f"policies: {readable(error)}") from error


def _lease_s(fields: Mapping[str, Any]) -> float:
    value = fields.get("lease_s", DEFAULT_LEASE_S)
    if type(value) not in (int, float) or not MIN_LEASE_S <= value <= MAX_LEASE_S:
        raise ConfigurationError(
            f"lease_s: expected {MIN_LEASE_S:g} to {MAX_LEASE_S:g} seconds"
        )
    return float(value)


def _workers(fields: Mapping[str, Any]) -> int:
    value = fields.get("workers", DEFAULT_WORKERS)
    if type(value) is not int or not 1 <= value <= MAX_WORKERS:
        raise ConfigurationError(f"workers: expected 1 to {MAX_WORKERS}")
    return value


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
