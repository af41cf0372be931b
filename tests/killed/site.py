"""Where a federation lives: folders, settings, databases, and what time it is there.

The orchestrator's clock is ahead by as much as a file says, so that hours of waiting
are over at once, and exactly when a run wants it.
"""

import json
import os
import shutil
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any, Final

from sqlalchemy import make_url

from core.database import Database
from core.database.connections import connect
from core.rpc.identity import DATA_OWNER, KEY_HOLDER, OPERATOR, ORCHESTRATOR
from core.wire import write_atomically
from orchestrator.simulation.workspace import (
    SERVERS,
    Workspace,
    create_workspace,
    open_workspace,
)
from tests.killed.launcher import Program
from tests.killed.points import Ledger

WAIT_S: Final = 10.0
# A second orchestrator process on the database of the first.
TWIN: Final = "orchestrator-2"
DATABASES: Final = {ORCHESTRATOR: "registry.db", KEY_HOLDER: "key-holder.db"}
SCENARIO: Final = Path(__file__).with_name("federation.yaml")
# Below the ports that the kernel gives to whoever connects, and for each worker of
# pytest others: nobody else takes the port of a server while it is dead.
_WORKER: Final = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_PORTS: Final = count(12_000 + _WORKER % 4 * 4_000 + os.getpid() % 2_000)


@dataclass(frozen=True)
class Ahead:
    """How far a clock is ahead of this machine's: a file with milliseconds."""

    path: Path

    def read(self) -> int:
        return int(self.path.read_text()) if self.path.exists() else 0

    def now_ms(self) -> int:
        """What time it is by that clock."""
        return time.time_ns() // 1_000_000 + self.read()

    def skip(self, duration_ms: int) -> None:
        """Let it be later."""
        write_atomically(self.path, str(self.read() + duration_ms).encode())


@dataclass(frozen=True)
class Site:
    """One federation's folder, and the URLs of its databases on a server."""

    root: Path
    urls: Mapping[str, str]

    @cached_property
    def workspace(self) -> Workspace:
        return open_workspace(self.root)

    @property
    def ahead(self) -> Ahead:
        return Ahead(self.root / "ahead")

    @property
    def points(self) -> Path:
        """Where the ledgers of the processes are."""
        return self.root / "points"

    def ledger(self, server: str) -> Ledger:
        return Ledger(self.points, server)

    def url(self, role: str) -> str:
        """The database of a server."""
        file = self.workspace.server_folder(role) / DATABASES[role]
        return self.urls.get(role, f"sqlite:///{file}")

    def configure(self) -> None:
        """Give the servers ports of their own, and tell everybody."""
        addresses = {role: f"127.0.0.1:{free_port()}" for role in SERVERS}
        for party in self.workspace.federation.parties():
            settings = read_settings(folder := self.workspace.folder(party))
            for role in SERVERS:
                settings[role.replace("-", "_")]["address"] = addresses[role]
            if party.role in SERVERS:
                settings["listen"] = addresses[party.role]
            if party.role in DATABASES:
                settings["database"] = self.url(party.role)
            write_settings(folder, settings)

    def add_twin(self) -> None:
        """Put another orchestrator beside the first; only operators ask the first."""
        folder = self.workspace.server_folder(ORCHESTRATOR)
        twin = shutil.copytree(folder, self.root / TWIN)
        address = f"127.0.0.1:{free_port()}"
        write_settings(twin, read_settings(twin) | {"listen": address})
        for party in self.workspace.federation.parties():
            if party.role not in (ORCHESTRATOR, OPERATOR):
                settings = read_settings(folder := self.workspace.folder(party))
                settings["orchestrator"]["address"] = address
                write_settings(folder, settings)

    def servers(self) -> list[str]:
        """The servers there are."""
        return [*SERVERS, *([TWIN] if (self.root / TWIN).exists() else [])]

    def program(self, server: str, doomed: frozenset[str] = frozenset()) -> Program:
        role = ORCHESTRATOR if server == TWIN else server
        ahead = self.ahead.path if role == ORCHESTRATOR else None
        return Program(role, self.root / server, self.ledger(server), doomed, ahead)

    def owners(self) -> list[str]:
        """The organisations that own keys."""
        return self.workspace.federation.organisations_with(DATA_OWNER)


def new_site(runs: Path, urls: Mapping[str, str]) -> Site:
    """Make the folders and identities of a federation."""
    site = Site(create_workspace(runs, SCENARIO).root, urls)
    site.points.mkdir()
    site.ahead.skip(0)
    site.configure()
    return site


def copied_site(template: Site, root: Path, urls: Mapping[str, str]) -> Site:
    """Copy a federation that is not running, but for its databases on a server."""
    shutil.copytree(template.root, root)
    site = Site(root, urls)
    site.configure()
    return site


def opened(site: Site, role: str) -> Database:
    """The database of a server, to look into it from outside."""
    return Database(connect(make_url(site.url(role)), WAIT_S))


def read_settings(folder: Path) -> dict[str, Any]:
    """A party's settings, as they are on disk."""
    settings: dict[str, Any] = json.loads((folder / "settings.json").read_text())
    return settings


def write_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    (folder / "settings.json").write_text(json.dumps(settings))


def free_port() -> int:
    """A port that nobody else is given while its server is dead."""
    for port in _PORTS:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                return port
    raise AssertionError("there is always another port")
