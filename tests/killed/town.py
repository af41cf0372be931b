"""A federation of real processes on this machine, and those who use it.

A template is made once: enrolled parties, a first release, two owners with active keys.
Every run plays in a copy of it. The orchestrator's clock is ahead by as much as a file
says, so that hours of waiting are over at once, and exactly when the run wants it.
"""

import json
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any, Final

from sqlalchemy import RowMapping, make_url, text

from core.database import Database
from core.database.connections import connect
from core.errors import Unavailable
from core.rpc.channel import wait_ready
from core.rpc.identity import (
    DATA_OWNER,
    INFERENCE_SERVER,
    KEY_HOLDER,
    MODEL_PROVIDER,
    ORCHESTRATOR,
    load_identity,
)
from core.rpc.party import ensure_signing_key
from core.statements import MANIFEST, sign
from core.wire import write_atomically
from orchestrator.operator import Operator, operator
from orchestrator.simulation.workspace import (
    SERVERS,
    Workspace,
    create_workspace,
    open_workspace,
)
from parties.data_owner.client import Client, open_client
from parties.model_provider.registry import Delivery
from parties.model_provider.registry import connect as connect_provider
from parties.model_provider.release import Release
from parties.model_provider.settings import ProviderSettings
from tests.killed.launcher import Program
from tests.killed.points import ARMED, Ledger
from tests.killed.processes import Servers

PATIENCE_S: Final = 250.0
LOOK_EVERY_S: Final = 0.02
LEASE_S: Final = 15.0
WAIT_S: Final = 10.0
SERVICES: Final = {
    ORCHESTRATOR: "keymixer.v1.RegistryService",
    KEY_HOLDER: "keymixer.v1.KeyHolderService",
    INFERENCE_SERVER: "inference.GRPCInferenceService",
}
DATABASES: Final = {ORCHESTRATOR: "registry.db", KEY_HOLDER: "key-holder.db"}
SCENARIO: Final = Path(__file__).with_name("federation.yaml")
# Below the ports that the kernel gives to whoever connects: nobody else takes the port
# of a server while it is dead.
_PORTS: Final = count(15_000 + os.getpid() % 8_000)

_OPEN_JOBS: Final = text(
    "SELECT kind, subject, step, state, why, next_at_ms, lease_until_ms FROM jobs "
    "WHERE state NOT IN ('done', 'aborted')"
)
_OWNERS_TO_CONFIRM: Final = text(
    "SELECT DISTINCT organisations.name FROM key_versions "
    "JOIN keys ON keys.id = key_pk JOIN parties ON parties.id = owner_party_id "
    "JOIN organisations ON organisations.id = organisation_id "
    "WHERE key_versions.state = 'pre_active' AND commitment IS NOT NULL "
    "AND NOT confirmed"
)


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
    """Where a federation lives: its folder, and the URLs of databases on a server."""

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

    def ledger(self, role: str) -> Ledger:
        return Ledger(self.points, role)

    def url(self, role: str) -> str:
        """The database of a server."""
        file = self.workspace.server_folder(role) / DATABASES[role]
        return self.urls.get(role, f"sqlite:///{file}")

    def configure(self) -> None:
        """Give the servers ports of their own, and tell everybody."""
        addresses = {role: f"127.0.0.1:{_free_port()}" for role in SERVERS}
        for party in self.workspace.federation.parties():
            path = self.workspace.folder(party) / "settings.json"
            settings: dict[str, Any] = json.loads(path.read_text())
            for role in SERVERS:
                settings[role.replace("-", "_")]["address"] = addresses[role]
            if party.role in SERVERS:
                settings["listen"] = addresses[party.role]
            if party.role in DATABASES:
                settings["database"] = self.url(party.role)
            path.write_text(json.dumps(settings))

    def program(self, role: str, doomed: frozenset[str] = frozenset()) -> Program:
        folder = self.workspace.server_folder(role)
        ahead = self.ahead.path if role == ORCHESTRATOR else None
        return Program(role, folder, self.ledger(role), doomed, ahead)


def new_site(runs: Path, urls: Mapping[str, str]) -> Site:
    """Make the folders and identities of a federation."""
    site = Site(create_workspace(runs, SCENARIO).root, urls)
    site.points.mkdir()
    site.ahead.skip(0)
    site.configure()
    return site


def copied_site(template: Site, root: Path, urls: Mapping[str, str]) -> Site:
    """Copy a federation that is not running; its databases on a server are copied."""
    shutil.copytree(template.root, root)
    site = Site(root, urls)
    site.configure()
    return site


def opened(site: Site, role: str) -> Database:
    """The database of a server, to look into it from outside."""
    return Database(connect(make_url(site.url(role)), WAIT_S))


@dataclass
class Town:
    """A running federation, and all who use it."""

    site: Site
    servers: Servers
    registry: Database
    operator: Operator
    provider: Delivery
    owners: Mapping[str, Client]
    stack: ExitStack = field(default_factory=ExitStack)

    @property
    def model(self) -> str:
        return self.site.workspace.federation.models[0].name

    def owner(self, name: str) -> str:
        """The SPIFFE ID of an owner."""
        return str(self.site.workspace.owner(name))

    def arm(self) -> None:
        """From now on points are passed, and died at."""
        (self.site.points / ARMED).touch()

    def insist(self, act: Callable[[], object], done: Callable[[], bool]) -> None:
        """Act; if the answer does not come, look before acting again."""
        end = time.monotonic() + PATIENCE_S
        while not done():
            try:
                act()
            except Unavailable:
                self.servers.check()
                assert time.monotonic() < end, "it could not be done"
                time.sleep(LOOK_EVERY_S)
            else:
                return

    def release(self, release: Release) -> None:
        """Register and deliver a release; it becomes the champion."""
        key = ensure_signing_key(self._folder(MODEL_PROVIDER))
        signature = sign(key, MANIFEST, release.manifest.to_bytes())
        self.insist(
            lambda: self.provider.register(release, signature, key), lambda: False
        )

    def settle(self, until: Callable[[], bool] | None = None) -> None:
        """Let the jobs go on, and time pass for them, until all is done."""
        over = until or (lambda: not self.open_jobs())
        end = time.monotonic() + PATIENCE_S
        while not over():
            self.servers.check()
            jobs = self.open_jobs()
            self._require_progress(jobs, end)
            self._confirm_keys()
            self._pass_time(jobs)
            time.sleep(LOOK_EVERY_S)

    def open_jobs(self) -> Sequence[RowMapping]:
        """The jobs that are not over, as the database has them."""
        with self.registry.reading() as session:
            return session.execute(_OPEN_JOBS).mappings().all()

    def ask(self, query: str, **values: object) -> list[tuple[Any, ...]]:
        """Look into the orchestrator's database."""
        with self.registry.reading() as session:
            return [tuple(row) for row in session.execute(text(query), values)]

    def _require_progress(self, jobs: Sequence[RowMapping], end: float) -> None:
        stuck = [dict(job) for job in jobs if job["state"] == "needs_operator"]
        assert not stuck, stuck
        assert time.monotonic() < end, [dict(job) for job in jobs]

    def _confirm_keys(self) -> None:
        for (name,) in self.ask(str(_OWNERS_TO_CONFIRM)):
            with suppress(Unavailable):
                self.owners[name].sync_keys()

    def _pass_time(self, jobs: Sequence[RowMapping]) -> None:
        """When everybody waits for a time, let it be that time."""
        now_ms = self.site.ahead.now_ms()
        times = [job["next_at_ms"] for job in jobs if job["next_at_ms"]]
        leased = any((job["lease_until_ms"] or 0) > now_ms for job in jobs)
        if times and not leased and min(times) > now_ms:
            self.site.ahead.skip(min(times) - now_ms)

    def _folder(self, role: str) -> Path:
        return _folder(self.site, role)


@contextmanager
def running(
    site: Site, doomed: Mapping[str, frozenset[str]] | None = None
) -> Iterator[Town]:
    """Start the servers, wait until they are healthy, and let everybody connect."""
    programs = {
        role: site.program(role, (doomed or {}).get(role, frozenset()))
        for role in SERVERS
    }

    def on_death(role: str) -> None:
        if role == ORCHESTRATOR:
            # What it had leased was its own: nobody need wait for the leases to end.
            site.ahead.skip(round(LEASE_S * 1000))

    with ExitStack() as stack:
        servers = stack.enter_context(Servers(programs, on_death))
        _wait_until_ready(site, servers)
        yield _connected(site, servers, stack)


def _connected(site: Site, servers: Servers, stack: ExitStack) -> Town:
    registry = stack.enter_context(opened(site, ORCHESTRATOR))
    provider = _folder(site, MODEL_PROVIDER)
    owners = site.workspace.federation.organisations_with(DATA_OWNER)
    return Town(
        site,
        servers,
        registry,
        stack.enter_context(operator(site.workspace.operator_folder())),
        connect_provider(
            stack, ProviderSettings.read(provider), load_identity(provider)
        ),
        {
            name: stack.enter_context(open_client(site.workspace.owner_folder(name)))
            for name in owners
        },
    )


def _wait_until_ready(site: Site, servers: Servers) -> None:
    identity = load_identity(site.workspace.operator_folder())
    end = time.monotonic() + PATIENCE_S
    for role, service in SERVICES.items():
        address = site.workspace.address(role)
        party = site.workspace.federation.only(role)
        while True:
            servers.check()
            # Short, for its pauses become longer and longer.
            with suppress(Unavailable):
                wait_ready(address, identity, party, service, 0.2)
                break
            assert time.monotonic() < end, f"{role} is not healthy"


def _folder(site: Site, role: str) -> Path:
    return site.workspace.server_folder(role)


def _free_port() -> int:
    for port in _PORTS:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                return port
    raise AssertionError("there is always another port")
