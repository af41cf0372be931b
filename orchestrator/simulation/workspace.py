"""A federation's folder on one machine: an identity and settings for each party.

runs/<id>/
    federation.yaml      the scenario, as it was run
    ca/                  the development authority
    orchestrator/  key-holder/  inference-server/
    operators/<organisation>/
    providers/<organisation>/
    owners/<organisation>/
    logs/<process>.log
    processes.json       who runs where
"""

import json
import secrets
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from core.errors import ConfigurationError, NotFound
from core.rpc.identity import (
    DATA_OWNER,
    INFERENCE_SERVER,
    KEY_HOLDER,
    MODEL_PROVIDER,
    OPERATOR,
    ORCHESTRATOR,
    SpiffeId,
    create_identity,
    install_certificate,
)
from core.wire import write_atomically
from orchestrator.audit.keys import ensure_log_key
from orchestrator.certificates import DevelopmentCA
from orchestrator.federation import Federation, read_federation

SERVERS = (ORCHESTRATOR, KEY_HOLDER, INFERENCE_SERVER)
_MANY = {MODEL_PROVIDER: "providers", DATA_OWNER: "owners", OPERATOR: "operators"}


@dataclass(frozen=True)
class Workspace:
    """The folder of one run, and the federation it belongs to."""

    root: Path
    federation: Federation

    def folder(self, party: SpiffeId) -> Path:
        """Where a party keeps what is its own."""
        if party.role in _MANY:
            return self.root / _MANY[party.role] / party.organisation
        return self.root / party.role

    def server_folder(self, role: str) -> Path:
        """The folder of the one party that plays `role`."""
        return self.folder(self.federation.only(role))

    def owner(self, organisation: str) -> SpiffeId:
        """The identity of a data owner."""
        return self.federation.spiffe(organisation, DATA_OWNER)

    def owner_folder(self, organisation: str) -> Path:
        """The folder of a data owner."""
        return self.folder(self.owner(organisation))

    def operator_folder(self, organisation: str = "") -> Path:
        """The folder of an operator; if none is named, of the file's first.

        Raises:
            NotFound: the organisation is no operator here.
        """
        operators = self.federation.organisations_with(OPERATOR)
        named = organisation or operators[0]
        if named not in operators:
            raise NotFound(
                f"{named} is no operator here; there are {', '.join(operators)}"
            )
        return self.folder(self.federation.spiffe(named, OPERATOR))

    @property
    def logs(self) -> Path:
        """Where the processes' logs are."""
        return self.root / "logs"

    def address(self, role: str) -> str:
        """Where the server that plays `role` listens."""
        settings = json.loads((self.server_folder(role) / "settings.json").read_text())
        return str(settings["listen"])


def create_workspace(runs: Path, scenario: Path) -> Workspace:
    """Make a new run's folder with identities and settings for every party."""
    federation = read_federation(scenario)
    root = runs.resolve() / _run_id()
    workspace = Workspace(root, federation)
    workspace.logs.mkdir(parents=True)
    (root / "federation.yaml").write_bytes(scenario.read_bytes())
    authority = DevelopmentCA.create(root / "ca")
    certify(workspace, authority)
    assign_ports(workspace)
    return workspace


def open_workspace(root: Path) -> Workspace:
    """Open the folder of an earlier run.

    Raises:
        ConfigurationError: there is no run in this folder.
    """
    if not (root / "federation.yaml").is_file():
        raise ConfigurationError(
            f"{root} holds no run: start one with `keymixer up` or `keymixer simulate`"
        )
    root = root.resolve()
    return Workspace(root, read_federation(root / "federation.yaml"))


def reopen_workspace(root: Path) -> Workspace:
    """Open a stopped run to start it again, with fresh certificates."""
    workspace = open_workspace(root)
    certify(workspace, DevelopmentCA.load(workspace.root / "ca"))
    return workspace


def assign_ports(workspace: Workspace) -> None:
    """Find free ports for the servers and tell every party.

    To be called just before the servers start: while a model is trained, somebody else
    may take a port that was free before.
    """
    _write_settings(workspace, _free_addresses())


def certify(workspace: Workspace, authority: DevelopmentCA) -> None:
    """Give every party a certificate; private keys stay in the party's folder."""
    for party in workspace.federation.parties():
        folder = workspace.folder(party)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        request = create_identity(folder, party)
        install_certificate(folder, authority.sign(request, party), authority.ca_pem)


def point_latest(workspace: Workspace) -> None:
    """Let `runs/latest` point to this run."""
    link = workspace.root.parent / "latest"
    fresh = workspace.root.parent / f".latest-{secrets.token_hex(4)}"
    fresh.symlink_to(workspace.root.name)
    fresh.replace(link)


def _run_id() -> str:
    stamp = datetime.now(tz=UTC).strftime("%Y%m%d-%H%M%S")
    return f"{stamp}-{secrets.token_hex(2)}"


def _free_addresses() -> Mapping[str, str]:
    """A free port for each server, held open together so that none is given twice."""
    sockets = [socket.socket() for _ in SERVERS]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return {
            role: f"127.0.0.1:{each.getsockname()[1]}"
            for role, each in zip(SERVERS, sockets, strict=True)
        }
    finally:
        for each in sockets:
            each.close()


def _write_settings(workspace: Workspace, addresses: Mapping[str, str]) -> None:
    federation = workspace.federation
    peers = {
        role.replace("-", "_"): {
            "address": addresses[role],
            "spiffe_id": str(federation.only(role)),
        }
        for role in SERVERS
    }
    common = {"federation": federation.federation, **peers}
    log_key = ensure_log_key(workspace.server_folder(ORCHESTRATOR)).public_key()
    for party in federation.parties():
        own = _own_settings(federation, party.role)
        if party.role in SERVERS:
            own["listen"] = addresses[party.role]
        if party.role == DATA_OWNER:
            own["log_public_key"] = log_key.public_bytes_raw().hex()
        path = workspace.folder(party) / "settings.json"
        # What a person added, such as a recovery key, stays when a run is resumed.
        added = json.loads(path.read_text()) if path.is_file() else {}
        content = json.dumps({**added, **common, **own}, indent=2).encode()
        write_atomically(path, content)


def _own_settings(federation: Federation, role: str) -> dict[str, Any]:
    policies = federation.policies
    if role == ORCHESTRATOR:
        database = federation.database
        return {
            "parties": [{"spiffe_id": str(p)} for p in federation.parties()],
            "policies": policies.model_dump(mode="json"),
            **({"database": database} if database else {}),
        }
    if role == KEY_HOLDER:
        return {"max_staleness_s": policies.max_staleness_s}
    if role == INFERENCE_SERVER:
        staleness = {"max_staleness_s": policies.max_staleness_s}
        return {**staleness, **_limits(federation), **federation.serving.model_dump()}
    if role == DATA_OWNER and policies.datatype:
        return {"datatype": policies.datatype}
    return {}


def _limits(federation: Federation) -> dict[str, Any]:
    """How much each owner may ask for, by SPIFFE ID."""
    limits: dict[str, Any] = {"limit": {}, "limits": {}}
    for policy in federation.policies.limits:
        limit = policy.model_dump(mode="json", exclude={"owner"}, exclude_none=True)
        if policy.owner is None:
            limits["limit"] = limit
        else:
            owner = str(federation.spiffe(policy.owner, DATA_OWNER))
            limits["limits"][owner] = limit
    return limits
