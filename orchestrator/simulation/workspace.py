"""A federation's folder on one machine: an identity and settings for each party.

runs/<id>/
    federation.yaml      the scenario, as it was run
    ca/                  the development authority
    orchestrator/  key-holder/  inference-server/  inference-server-2/ ...
    operators/<organisation>/
    providers/<organisation>/
    owners/<organisation>/
    logs/<process>.log
    processes.json       who runs where
"""

import json
import secrets
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from core.errors import ConfigurationError, NotFound
from core.processors import processors
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
from core.rpc.settings import REPLICAS
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

    @property
    def servers(self) -> Mapping[str, str]:
        """The role of each server by its name; replicas of one party are numbered."""
        count = self.federation.serving.replicas
        replicas = (f"{INFERENCE_SERVER}-{number}" for number in range(2, count + 1))
        return {
            **{role: role for role in SERVERS},
            **dict.fromkeys(replicas, INFERENCE_SERVER),
        }

    @property
    def folders(self) -> Sequence[tuple[SpiffeId, Path]]:
        """Every party with its folder; one that has replicas has several."""
        alone = [(party, self.folder(party)) for party in self.federation.parties()]
        replicas = [
            (self.federation.only(role), self.root / name)
            for name, role in self.servers.items()
            if name != role
        ]
        return [*alone, *replicas]

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

    def address(self, server: str) -> str:
        """Where a server listens."""
        settings = json.loads((self.root / server / "settings.json").read_text())
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
    _write_settings(workspace, _free_addresses(list(workspace.servers)))


def certify(workspace: Workspace, authority: DevelopmentCA) -> None:
    """Give every party a certificate; private keys stay in the party's folder."""
    for party, folder in workspace.folders:
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


def _free_addresses(servers: Sequence[str]) -> Mapping[str, str]:
    """A free port for each server, held open together so that none is given twice."""
    sockets = [socket.socket() for _ in servers]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return {
            server: f"127.0.0.1:{each.getsockname()[1]}"
            for server, each in zip(servers, sockets, strict=True)
        }
    finally:
        for each in sockets:
            each.close()


def _write_settings(workspace: Workspace, addresses: Mapping[str, str]) -> None:
    federation = workspace.federation
    common = {
        "federation": federation.federation,
        **_peers(workspace, addresses),
    }
    log_key = ensure_log_key(workspace.server_folder(ORCHESTRATOR)).public_key()
    for party, folder in workspace.folders:
        own = _own_settings(federation, party.role)
        if party.role in SERVERS:
            own["listen"] = addresses[folder.name]
        if own.get("metrics"):
            own["metrics"] = _next_port(own["metrics"], _number(folder.name))
        if party.role == DATA_OWNER:
            own["log_public_key"] = log_key.public_bytes_raw().hex()
        path = folder / "settings.json"
        # What a person added, such as a recovery key, stays when a run is resumed.
        added = json.loads(path.read_text()) if path.is_file() else {}
        content = json.dumps({**added, **common, **own}, indent=2).encode()
        write_atomically(path, content)


def _peers(workspace: Workspace, addresses: Mapping[str, str]) -> dict[str, Any]:
    """Where each server is, and all replicas of the inference server if it has some."""
    peers = {
        name: {
            "address": addresses[name],
            "spiffe_id": str(workspace.federation.only(role)),
        }
        for name, role in workspace.servers.items()
    }
    named: dict[str, Any] = {role.replace("-", "_"): peers[role] for role in SERVERS}
    replicas = [peers[name] for name in peers if name not in SERVERS]
    if replicas:
        named[REPLICAS] = [peers[INFERENCE_SERVER], *replicas]
    return named


def _number(server: str) -> int:
    """Which replica it is, from 0."""
    _, _, number = server.removeprefix(INFERENCE_SERVER).rpartition("-")
    return int(number) - 1 if number else 0


def _next_port(address: str, number: int) -> str:
    host, _, port = address.rpartition(":")
    return f"{host}:{int(port) + number}" if int(port) else address


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
        serving = federation.serving.model_dump(exclude={"replicas"})
        staleness = {"max_staleness_s": policies.max_staleness_s}
        return {**staleness, **_limits(federation), **serving, **_share(federation)}
    if role == DATA_OWNER:
        datatype = {"datatype": policies.datatype} if policies.datatype else {}
        return {"candidate_share": policies.candidate_share, **datatype}
    return {}


def _share(federation: Federation) -> dict[str, int]:
    """Replicas on one machine share its processors; alone, a server takes them all."""
    count = federation.serving.replicas
    if count == 1:
        return {}
    return {"batches_at_once": max(1, processors() // count)}


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
