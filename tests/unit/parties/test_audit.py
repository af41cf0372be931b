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
from parties import audit
from parties.audit import Reporter
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
    until = time.monotonic() + 10
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
