"""An orchestrator's hold on the registry, through a network of its own."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from core.checkpoint import open_checkpoint
from core.database import Database, before_commit, open_database
from core.errors import Unavailable
from core.merkle import consistency_path, leaf_hash, root, verify_consistency
from core.rpc.identity import KEY_HOLDER, SpiffeId
from orchestrator.audit.events import PartyEvent, record_events
from orchestrator.audit.records import parse_entry
from orchestrator.audit.verify import verify_log
from orchestrator.audit.writer import AuditLog
from orchestrator.registry.database import MIGRATIONS
from orchestrator.registry.store import Change, Registry, enrol_all
from tests.partitioned.proxy import Network, network
from tests.unit.orchestrator.ledger import VAULT_ID
from tests.unit.orchestrator.logs import ORIGIN, PUBLIC_KEY, new_log

HUB_ID: Final = SpiffeId.parse("spiffe://test/hub/orchestrator")
# Far below what is usual, but enough for a slow machine to be heard in.
SHORT: Final = "connect_timeout=3&answer_s=3&idle_s=1"
WAIT_S: Final = 2.0
# Longer than any of the above: who is not cut off must not fail.
PATIENT: Final = "connect_timeout=30&answer_s=60&idle_s=60"
PATIENCE_S: Final = 30.0


@dataclass(frozen=True)
class Desk:
    """One orchestrator's registry, and the network to its database."""

    registry: Registry
    network: Network

    @property
    def log(self) -> AuditLog:
        return self.registry.log

    @property
    def database(self) -> Database:
        return self.registry.database

    def report(self, name: str, last: Callable[[], None] | None = None) -> int:
        """Record an event of the key holder; `last` is done just before the commit."""
        event = PartyEvent("key_holder.started", "", {"key": name}, name)

        def record(change: Change) -> int:
            (index,) = record_events(change, KEY_HOLDER, [event])
            if last is not None:
                before_commit(change.session, last)
            return index

        return self.registry.change_together(VAULT_ID, record)

    def insist(self, name: str) -> int:
        """Report until it is known to be in the log."""
        end = time.monotonic() + PATIENCE_S
        while True:
            try:
                return self.report(name)
            except Unavailable:
                assert time.monotonic() < end, "it does not come back"

    def verified(self) -> list[str]:
        """What was reported, of a log that is whole."""
        assert verify_log(self.database, PUBLIC_KEY).size == self.log.size()
        return self.reported()

    def reported(self) -> list[str]:
        """What was recorded by `report`, in the log's order."""
        entries = [parse_entry(each.body) for each in self.log.entries(0, 1_000_000)]
        return [
            str(entry.subject["key"])
            for entry in entries
            if entry.kind == "key_holder.started"
        ]


def check_checkpoints(desk: Desk, notes: Iterable[bytes]) -> None:
    """Every root that anybody has signed and shown is one of the last log's."""
    leaves = [leaf_hash(each.body) for each in desk.log.entries(0, 1_000_000)]
    assert len(leaves) == desk.log.size()
    last = root(leaves)
    for note in notes:
        signed = open_checkpoint(note, PUBLIC_KEY, ORIGIN)
        verify_consistency(
            first_size=signed.size,
            second_size=len(leaves),
            first_root=signed.root,
            second_root=last,
            path=consistency_path(leaves, signed.size),
        )


@contextmanager
def desk(
    url: str, folder: Path, silence: str = SHORT, wait_s: float = WAIT_S
) -> Iterator[Desk]:
    """Open the registry of a URL as an orchestrator of its own does."""
    folder.mkdir()
    with (
        network(url) as between,
        open_database(
            f"{between.url(url)}&{silence}", MIGRATIONS, wait_s=wait_s
        ) as database,
    ):
        log = new_log(database, folder / "checkpoint.txt")
        registry = Registry(database, log, lambda: 1_750_000_000_000, HUB_ID)
        with registry.own_change() as change:
            enrol_all(change, (HUB_ID, VAULT_ID))
        try:
            yield Desk(registry, between)
        finally:
            between.heal()
