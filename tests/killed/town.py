"""A running federation, and those who use it: operators, a provider, owners.

A template is made once: enrolled parties, a first release, two owners with active keys.
Every run plays in a copy of it.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from operator import not_
from pathlib import Path
from typing import Any, Final, TypeAlias

from sqlalchemy import RowMapping, text

from core.database import Database
from core.errors import Unavailable
from core.rpc.channel import wait_ready
from core.rpc.identity import (
    INFERENCE_SERVER,
    KEY_HOLDER,
    MODEL_PROVIDER,
    ORCHESTRATOR,
    load_identity,
)
from core.rpc.party import ensure_signing_key
from core.statements import MANIFEST, sign
from orchestrator.operator import Operator, operator
from parties.data_owner.client import Client, open_client
from parties.model_provider.registry import Delivery
from parties.model_provider.registry import connect as connect_provider
from parties.model_provider.release import Release
from parties.model_provider.settings import ProviderSettings
from tests.killed.points import ARMED
from tests.killed.processes import Servers
from tests.killed.site import Site, opened, read_settings

PATIENCE_S: Final = 600.0
LOOK_EVERY_S: Final = 0.05
LEASE_S: Final = 15.0
SERVICES: Final = {
    ORCHESTRATOR: "keymixer.v1.RegistryService",
    KEY_HOLDER: "keymixer.v1.KeyHolderService",
    INFERENCE_SERVER: "inference.GRPCInferenceService",
}

_OPEN_JOBS: Final = text(
    "SELECT kind, subject, step, state, why, attempts, next_at_ms, lease_until_ms "
    "FROM jobs "
    "WHERE state NOT IN ('done', 'aborted')"
)
_OWNERS_TO_CONFIRM: Final = text(
    "SELECT DISTINCT organisations.name FROM key_versions "
    "JOIN keys ON keys.id = key_pk JOIN parties ON parties.id = owner_party_id "
    "JOIN organisations ON organisations.id = organisation_id "
    "WHERE key_versions.state = 'pre_active' AND commitment IS NOT NULL "
    "AND NOT confirmed"
)


Jobs: TypeAlias = Sequence[RowMapping]


@dataclass
class Town:
    """A running federation, and all who use it."""

    site: Site
    servers: Servers
    registry: Database
    operator: Operator
    provider: Delivery
    owners: Mapping[str, Client]

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
        key = ensure_signing_key(_provider_folder(self.site))
        signature = sign(key, MANIFEST, release.manifest.to_bytes())
        self.insist(
            lambda: self.provider.register(release, signature, key), lambda: False
        )

    def settle(self, until: Callable[[Jobs], bool] = not_) -> None:
        """Let the jobs go on, and time pass for them, until all is done.

        `until` is asked of the open jobs, so that no time passes that it would not see.
        """
        end = time.monotonic() + PATIENCE_S
        while not until(jobs := self.open_jobs()):
            self.servers.check()
            self._require_progress(jobs, end)
            self._confirm_keys()
            self._pass_time(jobs)
            time.sleep(LOOK_EVERY_S)

    def open_jobs(self) -> Jobs:
        """The jobs that are not over, as the database has them."""
        with self.registry.reading() as session:
            return session.execute(_OPEN_JOBS).mappings().all()

    def ask(self, query: str, **values: object) -> list[tuple[Any, ...]]:
        """Look into the orchestrator's database."""
        with self.registry.reading() as session:
            return [tuple(row) for row in session.execute(text(query), values)]

    def _require_progress(self, jobs: Jobs, end: float) -> None:
        stuck = [dict(job) for job in jobs if job["state"] == "needs_operator"]
        assert not stuck, stuck
        assert time.monotonic() < end, [dict(job) for job in jobs]

    def _confirm_keys(self) -> None:
        for (name,) in self.ask(str(_OWNERS_TO_CONFIRM)):
            with suppress(Unavailable):
                self.owners[name].sync_keys()

    def _pass_time(self, jobs: Jobs) -> None:
        """When everybody waits for a time, let it be that time."""
        now_ms = self.site.ahead.now_ms()
        times = [job["next_at_ms"] for job in jobs if job["next_at_ms"]]
        leased = any((job["lease_until_ms"] or 0) > now_ms for job in jobs)
        if times and not leased and min(times) > now_ms:
            self.site.ahead.skip(min(times) - now_ms)


@contextmanager
def running(
    site: Site, doomed: Mapping[str, frozenset[str]] | None = None
) -> Iterator[Town]:
    """Start the servers, wait until they are healthy, and let everybody connect."""
    points = doomed or {}
    programs = {
        server: site.program(server, points.get(server, frozenset()))
        for server in site.servers()
    }

    def on_death(server: str) -> None:
        if programs[server].role == ORCHESTRATOR:
            # What it had leased is nobody's: let the leases be over.
            site.ahead.skip(round(LEASE_S * 1000))

    with ExitStack() as stack:
        servers = stack.enter_context(Servers(programs, on_death))
        _wait_until_ready(site, servers)
        yield _connected(site, servers, stack)


def _connected(site: Site, servers: Servers, stack: ExitStack) -> Town:
    registry = stack.enter_context(opened(site, ORCHESTRATOR))
    folder = _provider_folder(site)
    provider = ProviderSettings.read(folder)
    return Town(
        site,
        servers,
        registry,
        stack.enter_context(operator(site.workspace.operator_folder())),
        connect_provider(stack, provider, load_identity(folder)),
        {
            name: stack.enter_context(open_client(site.workspace.owner_folder(name)))
            for name in site.owners()
        },
    )


def _wait_until_ready(site: Site, servers: Servers) -> None:
    identity = load_identity(site.workspace.operator_folder())
    end = time.monotonic() + PATIENCE_S
    for program in servers.programs.values():
        address = read_settings(program.folder)["listen"]
        party = site.workspace.federation.only(program.role)
        while True:
            servers.check()
            # Not long, for its pauses become longer and longer.
            with suppress(Unavailable):
                wait_ready(address, identity, party, SERVICES[program.role], 1.0)
                break
            assert time.monotonic() < end, f"{program.folder.name} is not healthy"


def _provider_folder(site: Site) -> Path:
    return site.workspace.server_folder(MODEL_PROVIDER)
