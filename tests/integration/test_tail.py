"""Who watches the log sees each record once, however often the orchestrator dies."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import pytest

from core.errors import KeymixerError
from core.rpc.errors import remote_errors
from orchestrator.cli.audit_tail import Tail
from orchestrator.operator import Operator, operator
from protos import audit_pb2 as pb
from protos import audit_pb2_grpc
from tests.integration.apart import Apart, orchestrator_apart
from tests.integration.hub import Hub, open_hub
from tests.integration.outage import wait_until
from tests.unit.orchestrator.ledger import HUB_ID, OPERATOR_ID, VAULT_ID

T = TypeVar("T")

DEADLINE_S = 5.0
RESTARTS = 3
AT_ONCE = 20


class EnoughError(Exception):
    """Nobody watches any more."""


@dataclass
class Reporter:
    """A key holder that reports without pause; what fails it reports again."""

    indices: list[int] = field(default_factory=list)
    failed: int = 0
    _stop: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def reporting(self, hub: Hub) -> Iterator[None]:
        with running(self._report, hub, self._stop):
            yield

    def _report(self, hub: Hub) -> None:
        with hub.cast.channel(VAULT_ID, HUB_ID) as channel:
            log = audit_pb2_grpc.AuditServiceStub(channel)
            while not self._stop.wait(0.005):
                name = f"event {len(self.indices)}"
                event = pb.Event(kind="key_holder.started", event_id=name)
                asked = pb.RecordEventsRequest(events=[event])
                try:
                    with remote_errors("hub"):
                        answer = log.RecordEvents(asked, timeout=DEADLINE_S)
                    self.indices += answer.indices
                except KeymixerError:
                    self.failed += 1


@dataclass
class Watcher:
    """`keymixer audit tail` from the first record on."""

    seen: list[int] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def watching(self, calls: Operator) -> Iterator[None]:
        with running(self._watch, calls, self._stop):
            yield

    def _watch(self, calls: Operator) -> None:
        tail = Tail(calls.entries_page, self.said.append, self._pause)
        try:
            for entry in tail.follow(pb.ListEntriesRequest(limit=7), 0):
                self.seen.append(entry.index)
        except EnoughError:
            pass

    def _pause(self, _seconds: float) -> None:
        if self._stop.wait(0.02):
            raise EnoughError


@contextmanager
def running(
    work: Callable[[T], None], given: T, stop: threading.Event
) -> Iterator[None]:
    thread = threading.Thread(target=work, args=(given,))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@contextmanager
def watched(hub: Hub, watcher: Watcher) -> Iterator[Apart]:
    """The orchestrator in a process, whose log is watched by an operator."""
    hub.cast.identity(HUB_ID)
    url = f"sqlite:///{hub.cast.folder / 'ledger' / 'registry.db'}"
    with orchestrator_apart(hub.cast.home(HUB_ID), url) as apart:
        hub.cast.addresses[HUB_ID] = apart.address
        folder = hub.cast.settle(OPERATOR_ID, HUB_ID)
        with operator(folder) as calls, watcher.watching(calls):
            yield apart


def die(apart: Apart, reporter: Reporter, watcher: Watcher, said: int) -> None:
    """Kill it amid reports, and start it again when the watcher has noticed."""
    reported = len(reporter.indices)
    wait_until(lambda: len(reporter.indices) > reported + AT_ONCE)
    apart.kill()
    wait_until(lambda: len(watcher.said) > said)
    apart.start()
    wait_until(lambda: len(watcher.said) > said + 1)


@pytest.mark.slow
def test_a_tail_goes_on_across_restarts_and_shows_each_record_once(
    tmp_path: Path,
) -> None:
    """The process is killed under way, and comes back at the address it had."""
    reporter, watcher = Reporter(), Watcher()
    with open_hub(tmp_path) as hub, watched(hub, watcher) as apart:
        with reporter.reporting(hub):
            for restart in range(RESTARTS):
                die(apart, reporter, watcher, 2 * restart)
        size = hub.ledger.registry.log.size()
        wait_until(lambda: len(watcher.seen) >= size)

    assert list(range(len(watcher.seen))) == watcher.seen
    assert reporter.failed
    assert sorted(set(reporter.indices)) == reporter.indices
    assert set(reporter.indices) <= set(watcher.seen)
    away, back = watcher.said[::2], watcher.said[1::2]
    assert all("is away" in each for each in away)
    assert all("is back" in each for each in back)
