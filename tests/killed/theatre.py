"""Plays workflows in copies of one federation, several at a time, each once."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from threading import Lock
from typing import Final, TypeAlias

from core.rpc.identity import KEY_HOLDER, ORCHESTRATOR
from orchestrator.audit.keys import public_log_key
from orchestrator.audit.verify import LogReport, verify_log
from orchestrator.audit.writer import SIDE_FILE
from orchestrator.simulation.workspace import SERVERS
from tests.killed.outcome import Outcome, outcome
from tests.killed.points import EVERY_POINT
from tests.killed.site import Site, copied_site, new_site, opened
from tests.killed.town import Town, running
from tests.killed.workflows import WORKFLOWS, prepare
from tests.postgresql import PostgreSQL

SQLITE: Final = "sqlite"
POSTGRESQL: Final = "postgresql"
DATABASES: Final = (SQLITE, POSTGRESQL)
# They wait for each other more than they compute.
AT_ONCE: Final = 4


@dataclass(frozen=True)
class Deaths:
    """Who dies at which points; nobody: the undisturbed run."""

    victim: str = ""
    points: frozenset[str] = frozenset()


NOBODY: Final = Deaths()


@dataclass(frozen=True)
class Play:
    """One run of a workflow, and what became of it."""

    outcome: Outcome
    # Of every server: the points it passed, and those it died at.
    passed: Mapping[str, Sequence[str]]
    died: Mapping[str, Sequence[str]]
    deaths: Mapping[str, int]
    log: LogReport


Case: TypeAlias = tuple[str, str, Deaths]


@dataclass
class Theatre:
    """Runs of workflows, by workflow, database and deaths."""

    folder: Path
    postgresql: PostgreSQL
    _pool: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(AT_ONCE)
    )
    _booked: dict[Case, Future[Play]] = field(default_factory=dict)
    _templates: dict[str, Site] = field(default_factory=dict)
    _numbers: Iterator[int] = field(default_factory=count)
    _on_stage: list[Town] = field(default_factory=list)
    _one: Lock = field(default_factory=Lock)

    def book(self, workflow: str, database: str, deaths: Deaths = NOBODY) -> None:
        """Have it played as soon as there is room."""
        case = (workflow, database, deaths)
        if case not in self._booked:
            self._booked[case] = self._pool.submit(self._play, *case)

    def play(self, workflow: str, database: str, deaths: Deaths = NOBODY) -> Play:
        """Have it played, unless it was, and wait for its end."""
        self.book(workflow, database, deaths)
        return self._booked[workflow, database, deaths].result()

    def close(self) -> None:
        """Play nothing more, and end what is played."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        for town in self._on_stage:
            town.servers.failure = "the theatre closes"
        self._pool.shutdown()

    def site(self, name: str, database: str) -> Site:
        """A federation of one's own, like all others."""
        template = self._template(database)
        urls = {role: self.postgresql.copy(url) for role, url in template.urls.items()}
        return copied_site(template, self.folder / name, urls)

    def leave(self, site: Site) -> None:
        """Delete a federation that is not running."""
        shutil.rmtree(site.root)
        for url in site.urls.values():
            self.postgresql.drop(url)

    def _play(self, workflow: str, database: str, deaths: Deaths) -> Play:
        site = self.site(f"{workflow}-{next(self._numbers)}", database)
        with running(site, {deaths.victim: deaths.points}) as town:
            self._on_stage.append(town)
            WORKFLOWS[workflow](town)
            self._on_stage.remove(town)
        played = Play(
            outcome(site),
            {role: site.ledger(role).passed() for role in SERVERS},
            {role: site.ledger(role).died() for role in SERVERS},
            dict(town.servers.deaths),
            verified(site),
        )
        self.leave(site)
        return played

    def _template(self, database: str) -> Site:
        with self._one:
            if database not in self._templates:
                self._templates[database] = self._new_template(database)
            return self._templates[database]

    def _new_template(self, database: str) -> Site:
        urls = {}
        if database == POSTGRESQL:
            for role in (ORCHESTRATOR, KEY_HOLDER):
                urls[role] = self.postgresql.empty()
        site = new_site(self.folder / database, urls)
        with running(site) as town:
            prepare(town)
        return site


def storm(victim: str) -> Deaths:
    """The victim dies once at each point that it comes to."""
    return Deaths(victim, frozenset({EVERY_POINT}))


def verified(site: Site) -> LogReport:
    """Verify the whole log of a federation that is not running."""
    folder = site.workspace.server_folder(ORCHESTRATOR)
    with opened(site, ORCHESTRATOR) as database:
        return verify_log(
            database, public_log_key(folder), side_file=folder / SIDE_FILE
        )
