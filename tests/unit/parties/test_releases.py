"""Records that wait together go in one call, and each keeps its own deadline."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from queue import Empty, SimpleQueue

import pytest

from core.errors import AuditUnavailable
from parties.audit import RecordsRefused
from parties.inference_server import releases
from parties.inference_server.records import Awaited
from parties.inference_server.releases import PATIENCE_S, Releases
from parties.inference_server.work import without_way_back
from protos import audit_pb2 as pb

LONG_S = 60.0


@dataclass
class Gate:
    """A log that a test lets answer, call by call; `bad` records spoil a call."""

    calls: list[list[str]] = field(default_factory=list)
    begun: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    go_on: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    away: bool = False
    given: list[float | None] = field(default_factory=list)

    def record_events(self, events: Sequence[pb.Event]) -> None:
        raise NotImplementedError

    def record_inferences(
        self, records: Sequence[pb.InferenceRecord], *, timeout_s: float | None = None
    ) -> list[pb.InferenceVerdict]:
        names = [record.event_id for record in records]
        self.calls.append(names)
        self.given.append(timeout_s)
        self.begun.release()
        assert self.go_on.acquire(timeout=LONG_S)
        if self.away:
            raise AuditUnavailable("away")
        if "broken" in names:
            raise ZeroDivisionError
        if "bad" in names:
            raise RecordsRefused("one of them")
        return [pb.InferenceVerdict(index=int(name)) for name in names]

    def wait_begun(self) -> None:
        assert self.begun.acquire(timeout=LONG_S)

    def time_given(self) -> float:
        """How long the newest call may take."""
        newest = self.given[-1]
        assert newest is not None
        return newest

    def let_go_on(self, calls: int = 1) -> None:
        self.go_on.release(calls)


@dataclass
class Desk:
    gate: Gate
    releases: Releases
    pool: ThreadPoolExecutor
    # Ends the sending; done twice it is done once.
    stop: Callable[[], None]

    def hand_in(
        self, name: str, timeout_s: float = LONG_S
    ) -> "Future[pb.InferenceVerdict]":
        record = pb.InferenceRecord(event_id=name)
        return self.pool.submit(self._verdict, record, timeout_s)

    def gathered(self, *names: str) -> "list[Future[pb.InferenceVerdict]]":
        """Hand in behind a call that is on its way; they wait for the next one."""
        found = []
        for count, name in enumerate(names, 1):
            found.append(self.hand_in(name))
            wait_until(partial(self._waits, count))
        return found

    def _verdict(
        self, record: pb.InferenceRecord, timeout_s: float
    ) -> pb.InferenceVerdict:
        """Wait for it as long as a caller does."""
        told: SimpleQueue[Awaited] = SimpleQueue()
        self.releases.ask(record, told.put, timeout_s=timeout_s)
        try:
            return told.get(timeout=without_way_back(timeout_s)).verdict()
        except Empty:
            raise AuditUnavailable("no verdict in time") from None

    def _waits(self, count: int) -> bool:
        return self.releases.waiting() == count


@pytest.fixture
def desk() -> Iterator[Desk]:
    with opened() as desk:
        yield desk


@contextmanager
def opened(largest: int = 256) -> Iterator[Desk]:
    gate = Gate()
    made = Releases(gate, largest)
    with ThreadPoolExecutor(64) as pool, ExitStack() as sending:
        sending.enter_context(made.sending())
        try:
            yield Desk(gate, made, pool, sending.close)
        finally:
            gate.let_go_on(1000)


def wait_until(what: Callable[[], bool]) -> None:
    until = time.monotonic() + LONG_S
    while not what():
        assert time.monotonic() < until
        time.sleep(0.002)


def test_what_comes_while_a_call_is_on_its_way_shares_the_next(desk: Desk) -> None:
    first = desk.hand_in("0")
    desk.gate.wait_begun()
    others = desk.gathered(*map(str, range(1, 32)))
    desk.gate.let_go_on(2)

    assert [each.result(LONG_S).index for each in (first, *others)] == [*range(32)]
    assert desk.gate.calls == [["0"], [*map(str, range(1, 32))]]


def test_a_call_has_its_bounds() -> None:
    with opened(largest=2) as desk:
        desk.hand_in("0")
        desk.gate.wait_begun()
        others = desk.gathered("1", "2", "3")
        desk.gate.let_go_on(3)

        assert [each.result(LONG_S).index for each in others] == [1, 2, 3]
    assert desk.gate.calls == [["0"], ["1", "2"], ["3"]]


def test_who_has_less_time_waits_no_longer_and_is_not_sent(desk: Desk) -> None:
    desk.hand_in("0")
    desk.gate.wait_begun()
    hurried = desk.hand_in("1", timeout_s=0.05)
    patient = desk.hand_in("2")
    with pytest.raises(AuditUnavailable, match="in time"):
        hurried.result(LONG_S)
    desk.gate.let_go_on(2)

    assert patient.result(LONG_S).index == 2
    assert desk.gate.calls == [["0"], ["2"]]


def test_one_bad_record_spoils_nobody_elses_verdict(desk: Desk) -> None:
    desk.hand_in("0")
    desk.gate.wait_begun()
    good, bad, other = desk.gathered("1", "bad", "3")
    desk.gate.let_go_on(5)

    assert (good.result(LONG_S).index, other.result(LONG_S).index) == (1, 3)
    with pytest.raises(AuditUnavailable):
        bad.result(LONG_S)


def test_a_log_that_is_away_is_asked_once_for_all_who_wait(desk: Desk) -> None:
    desk.hand_in("0")
    desk.gate.wait_begun()
    waiting = desk.gathered("1", "2")
    desk.gate.away = True
    desk.gate.let_go_on(2)
    for each in waiting:
        with pytest.raises(AuditUnavailable, match="away"):
            each.result(LONG_S)

    assert len(desk.gate.calls) == 2


def test_whatever_goes_wrong_the_next_are_sent(desk: Desk) -> None:
    desk.gate.let_go_on(2)
    with pytest.raises(AuditUnavailable, match="ZeroDivision"):
        desk.hand_in("broken").result(LONG_S)

    assert desk.hand_in("7").result(LONG_S).index == 7


def test_what_waits_when_the_server_stops_is_given_up_at_once() -> None:
    """What is on its way then still comes home, and nothing more is taken in."""
    with opened() as desk:
        on_its_way = desk.hand_in("0")
        desk.gate.wait_begun()
        (waiting,) = desk.gathered("1")
        stopped = desk.pool.submit(desk.stop)
        with pytest.raises(AuditUnavailable, match="the server stops"):
            waiting.result(LONG_S)
        with pytest.raises(AuditUnavailable, match="the server stops"):
            desk.hand_in("2").result(LONG_S)
        desk.gate.let_go_on()
        stopped.result(LONG_S)

        assert on_its_way.result(LONG_S).index == 0
    assert desk.gate.calls == [["0"]]


def test_a_call_may_take_as_long_as_anybody_waits(desk: Desk) -> None:
    """Else who is in a hurry would cut short the verdict of all the others."""
    desk.hand_in("0")
    desk.gate.wait_begun()
    desk.hand_in("1", timeout_s=2.0)
    desk.hand_in("2")
    wait_until(lambda: desk.releases.waiting() == 2)
    desk.gate.let_go_on()
    desk.gate.wait_begun()

    assert 2.0 < desk.gate.time_given() <= PATIENCE_S


def test_who_has_all_day_waits_as_long_as_the_log_is_worth(desk: Desk) -> None:
    desk.hand_in("0", timeout_s=86_400)
    desk.gate.wait_begun()

    assert desk.gate.time_given() <= PATIENCE_S


@pytest.mark.parametrize(("left_s", "least", "most"), [(2, 0, 1.8), (100, 91, 99.5)])
def test_the_answer_has_time_for_its_way_back(
    monkeypatch: pytest.MonkeyPatch, desk: Desk, left_s: int, least: int, most: float
) -> None:
    """A tenth of what is left, and at most half a second."""
    monkeypatch.setattr(releases, "PATIENCE_S", 1000.0)
    monkeypatch.setattr(releases, "monotonic", lambda: 0.0)
    desk.hand_in("0", timeout_s=left_s)
    desk.gate.wait_begun()

    assert least < desk.gate.time_given() <= most


def test_after_a_shared_call_the_next_is_held_back_for_as_many(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(releases, "_GATHER_S", LONG_S)
    held = 0.3
    desk.hand_in("0")
    desk.gate.wait_begun()
    shared = desk.gathered("1", "2", "3")
    desk.gate.let_go_on()
    desk.gate.wait_begun()
    time.sleep(held)
    desk.gate.let_go_on()
    for each in shared:
        each.result(LONG_S)

    # One alone would go at once; after three, three are waited for, but no longer than
    # the call of the three took.
    later = [desk.hand_in(name) for name in "456"]
    desk.gate.let_go_on(3)
    assert [each.result(LONG_S).index for each in later] == [4, 5, 6]
    assert sorted(name for call in desk.gate.calls[2:] for name in call) == [
        "4",
        "5",
        "6",
    ]


def test_one_that_comes_alone_after_a_crowd_is_not_held_for_long(desk: Desk) -> None:
    desk.hand_in("0")
    desk.gate.wait_begun()
    shared = desk.gathered("1", "2", "3")
    desk.gate.let_go_on(2)
    for each in shared:
        each.result(LONG_S)
    desk.gate.let_go_on()

    assert desk.hand_in("4").result(LONG_S).index == 4
