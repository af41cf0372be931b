"""A process that dies at any point we choose, and another one that takes over.

A point is passed before and after every commit and every remote effect. `Crash` is a
`BaseException`, so nothing of ours catches it: what follows is a fresh engine, on the
same database and with the same peers, once the dead one's leases have run out.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import pytest
from sqlalchemy.orm import Session

from orchestrator.workflows.engine import Engine
from orchestrator.workflows.peers import (
    DrawnKey,
    IssueId,
    KeyToDraw,
    PreparedIssue,
    SealedExport,
    SignedReceipt,
)
from tests.fakes import FakeKeyHolder
from tests.unit.orchestrator.office import Office, copied_office

Answer = TypeVar("Answer")


class Crash(BaseException):
    """The process dies here."""


@dataclass
class Fuse:
    """Counts the points where a process could die, and blows at one of them."""

    blows_at: int | None = None
    passed: int = 0
    labels: list[str] = field(default_factory=list)

    def point(self, label: str) -> None:
        self.passed += 1
        self.labels.append(label)
        if self.passed - 1 == self.blows_at:
            raise Crash(label)


@dataclass
class CrashingPeers:
    """Both peers; the caller may die before it asks and before it hears the answer."""

    office: Office
    fuse: Fuse

    def draw(self, key: KeyToDraw, idempotency_key: str) -> DrawnKey:
        return self._ask("draw", lambda: self._holder.draw(key, idempotency_key))

    def prepare(self, issue: IssueId, idempotency_key: str) -> PreparedIssue:
        return self._ask(
            "prepare", lambda: self._holder.prepare(issue, idempotency_key)
        )

    def send(self, issue: IssueId, idempotency_key: str) -> None:
        self._ask("send", lambda: self._holder.send(issue, idempotency_key))

    def destroy(self, key_id: str, version: int, idempotency_key: str) -> SignedReceipt:
        return self._ask(
            "destroy", lambda: self._holder.destroy(key_id, version, idempotency_key)
        )

    def export(self, key_id: str, version: int) -> SealedExport:
        return self._ask("export", lambda: self._holder.export(key_id, version))

    def delete(self, issue: IssueId, idempotency_key: str) -> None:
        self._ask("delete", lambda: self.office.server.delete(issue, idempotency_key))

    @property
    def _holder(self) -> FakeKeyHolder:
        return self.office.key_holder

    def _ask(self, what: str, call: Callable[[], Answer]) -> Answer:
        self.fuse.point(f"before {what}")
        answer = call()
        self.fuse.point(f"after {what}")
        return answer


def settle_despite_crashes(
    office: Office, fuse: Fuse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Work until nothing is due; a crash is followed by a fresh start."""
    transaction = office.database.transaction

    @contextmanager
    def dying() -> Iterator[Session]:
        with transaction() as session:
            yield session
            session.flush()
            fuse.point("before a commit")
        fuse.point("after a commit")

    peers = CrashingPeers(office, fuse)
    with monkeypatch.context() as patch:
        patch.setattr(office.database, "transaction", dying)
        while not _settles(office, office.engine(peers, peers)):
            pass


def _settles(office: Office, engine: Engine) -> bool:
    try:
        office.settle(engine)
    except Crash:
        office.clock.pass_seconds(engine.lease_s)
        return False
    return True


@contextmanager
def copy_of(office: Office, folder: Path) -> Iterator[Office]:
    """The same three parties once more, on a database of their own."""
    with copied_office(office.folder, folder) as other:
        other.clock.now_ms = office.clock.now_ms
        other.policies = office.policies
        other.key_holder = deepcopy(office.key_holder)
        other.server = other.key_holder.server
        yield other


def outcome(office: Office) -> dict[str, object]:
    """Everything that all three parties hold, but for the times of it."""
    return {
        "states": office.states(),
        "primaries": office.primaries(),
        "issued": office.issued(),
        "jobs": office.jobs(),
        "records": sorted(_records(office)),
        "stored": set(office.server.stored),
        "drawn": dict(office.key_holder.keys),
        "destroyed": set(office.key_holder.destroyed),
        "effects": _effects(office),
    }


def _records(office: Office) -> Iterator[tuple[str, ...]]:
    """Jobs of several keys may take turns in another order after a crash."""
    for entry in office.entries():
        facts = {
            name: fact
            for name, fact in entry.subject.items()
            if not name.endswith("_at_ms")
        }
        yield (entry.kind, entry.actor, repr(sorted(facts.items())))


def _effects(office: Office) -> dict[str, object]:
    return {**office.key_holder.effects.done, **office.server.effects.done}
