"""Reports of refusals: what is sent again, what is dropped, and what is counted."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import grpc
import pytest

from core.errors import (
    AuditUnavailable,
    Exhausted,
    InvalidInput,
    KeymixerError,
    NotAllowedError,
    NotFound,
)
from core.rpc.errors import RemoteError
from core.rpc.policy import Refusal
from parties import audit
from parties.audit import Reporter, event_name, record_event
from protos import audit_pb2 as pb
from tests.unit.parties.stage import FakeAuditLog


@dataclass
class MoodyLog(FakeAuditLog):
    """A log that first asks `mood` about each batch; it raises, or lets it in."""

    mood: Callable[[Sequence[str]], None] = lambda _: None
    asked: list[list[str]] = field(default_factory=list)

    def record_events(self, events: Sequence[pb.Event]) -> None:
        names = [event.subject.get("name", event.subject["kind"]) for event in events]
        self.asked.append(names)
        self.mood(names)
        super().record_events(events)

    def names(self) -> list[str]:
        """The reports it has taken, counts left out."""
        taken = self.of_kind("refused")
        return [event["name"] for event in taken if "name" in event]


def report(log: MoodyLog, *names: str, room: int = 4096) -> None:
    """Report one refusal a name; all have had their chance on return."""
    reporter = Reporter(log, room=room)
    for name in names:
        reporter.refused(caller="", method="m", kind="X", subject={"name": name})
    with reporter:
        pass


def wait_until(what: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not what():
        assert time.monotonic() < until
        time.sleep(0.01)


def lost(log: FakeAuditLog) -> list[str]:
    return [e["count"] for e in log.of_kind("refused") if e["kind"] == "ReportsLost"]


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "_RETRY_S", 0.01)


@pytest.mark.parametrize(
    "error",
    [
        AuditUnavailable("away"),
        Exhausted("busy"),
        NotFound("not yet"),
        RemoteError("Internal", "", grpc.StatusCode.INTERNAL),
        RemoteError("WrongFederation", "", grpc.StatusCode.UNAUTHENTICATED),
    ],
    ids=lambda error: error.kind,
)
def test_a_report_is_sent_again_until_the_log_takes_it(error: KeymixerError) -> None:
    troubles = [error, error]

    def mood(_: Sequence[str]) -> None:
        if troubles:
            raise troubles.pop()

    log = MoodyLog(mood=mood)
    with Reporter(log) as reporter:
        reporter.refused(caller="", method="m", kind="X", subject={"name": "a"})
        wait_until(lambda: bool(log.events))

    assert ["a"] == log.names()
    assert [] == lost(log)


@pytest.mark.parametrize(
    "error",
    [
        InvalidInput("bad"),
        NotAllowedError("no"),
        RemoteError("NotAllowed", "", grpc.StatusCode.PERMISSION_DENIED),
    ],
    ids=["InvalidInput", "NotAllowed", "remote"],
)
def test_a_report_the_log_will_never_take_is_dropped_and_counted(
    error: KeymixerError,
) -> None:
    def mood(names: Sequence[str]) -> None:
        if "bad" in names:
            raise error

    log = MoodyLog(mood=mood)
    report(log, "a", "bad", "b")

    assert ["a", "b"] == log.names()
    assert ["1"] == lost(log)


def test_after_a_split_only_the_unsent_rest_is_sent_again() -> None:
    away = [True]

    def mood(names: Sequence[str]) -> None:
        if "bad" in names:
            raise InvalidInput("bad")
        if names == ["b"] and away:
            away.pop()
            raise AuditUnavailable("away")

    log = MoodyLog(mood=mood)
    reporter = Reporter(log)
    for name in ("bad", "a", "b", "c"):
        reporter.refused(caller="", method="m", kind="X", subject={"name": name})
    with reporter:
        wait_until(lambda: ["b", "c"] in log.asked)

    assert ["a", "b", "c"] == log.names()
    assert ["1"] == lost(log)


def test_what_finds_no_room_is_counted() -> None:
    log = MoodyLog()
    report(log, "a", "b", "c", room=1)

    assert ["2"] == lost(log)


def test_a_report_sent_again_has_the_name_it_had() -> None:
    """So the log, which may have taken it the first time, records it once."""
    troubles = [AuditUnavailable("the answer was lost")]
    taken: list[str] = []

    class Forgetful(FakeAuditLog):
        def record_events(self, events: Sequence[pb.Event]) -> None:
            taken.extend(event.event_id for event in events)
            if troubles:
                raise troubles.pop()
            super().record_events(events)

    log = Forgetful()
    with Reporter(log) as reporter:
        reporter.refused(caller="", method="m", kind="X")
        wait_until(lambda: bool(log.events))

    first, second = taken
    assert first == second == log.events[0].event_id != ""


def test_every_report_has_a_name_of_its_own() -> None:
    log = MoodyLog()
    report(log, "a", "b", "c", room=2)

    names = [event.event_id for event in log.events]
    assert len(names) == len(set(names)) == 3
    assert "" not in names


def test_what_the_guard_could_not_tell_is_counted() -> None:
    log = FakeAuditLog()
    with Reporter(log) as reporter:
        reporter.tell(Refusal("", "m", "NotAllowed", missed=41))

    assert ["41"] == lost(log)


def test_what_is_done_is_recorded_under_the_name_it_is_given() -> None:
    log = FakeAuditLog()
    record_event(log, "issued.stored", caller="", subject={}, event_id="7/send/kh")
    record_event(log, "issued.stored", caller="", subject={})

    assert ["7/send/kh", ""] == [event.event_id for event in log.events]


def test_an_event_is_named_by_its_key_and_kind() -> None:
    assert "7/send/kh/issued.stored" == event_name("7/send/kh", "issued.stored")
    assert "" == event_name("", "issued.stored")


def test_a_long_name_is_hashed_to_one_that_the_log_takes() -> None:
    names = {event_name("x" * length, "issued.stored") for length in range(114, 200)}

    assert {len(name) for name in names} == {128, 64}
    assert len(names) == 86
