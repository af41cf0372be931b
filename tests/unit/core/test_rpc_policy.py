"""The table refuses what it does not list; nobody calls unless the guard says so."""

import threading

import pytest

from core.errors import NotAllowedError
from core.rpc.identity import DATA_OWNER, OPERATOR, ROLES, SpiffeId
from core.rpc.policy import (
    ANYONE,
    BASE,
    Refusal,
    acting_as,
    authorise,
    current_caller,
)
from core.rpc.refusals import reporting

OWNER = SpiffeId("demo", "clinic", DATA_OWNER)
POLICY = {"/x.Y/Owners": frozenset({DATA_OWNER}), "/x.Y/Any": ANYONE}


@pytest.mark.parametrize("role", sorted(ROLES))
def test_a_role_is_let_in_exactly_where_it_is_listed(role: str) -> None:
    caller = SpiffeId("demo", "org", role)

    authorise(POLICY, "/x.Y/Any", caller)
    if role == DATA_OWNER:
        authorise(POLICY, "/x.Y/Owners", caller)
        return
    with pytest.raises(NotAllowedError, match=role):
        authorise(POLICY, "/x.Y/Owners", caller)


@pytest.mark.parametrize("method", ["", "/x.Y/owners", "x.Y/Owners", "/x.Y/Owners/"])
def test_what_is_not_listed_is_refused(method: str) -> None:
    with pytest.raises(NotAllowedError):
        authorise(POLICY, method, OWNER)


def test_a_role_nobody_has_heard_of_may_do_nothing() -> None:
    with pytest.raises(NotAllowedError):
        authorise(POLICY, "/x.Y/Any", SpiffeId("demo", "org", "janitor"))


def test_everybody_may_ask_for_health_and_operators_alone_for_reflection() -> None:
    roles = {method.split("/")[1].split(".")[1]: BASE[method] for method in BASE}

    assert {"health": ROLES, "reflection": frozenset({OPERATOR})} == roles


def test_outside_of_a_call_nobody_is_calling() -> None:
    with pytest.raises(NotAllowedError):
        current_caller()


def test_code_can_be_run_on_behalf_of_a_caller_without_grpc() -> None:
    with acting_as(OWNER):
        assert current_caller() == OWNER

    with pytest.raises(NotAllowedError):
        current_caller()


REFUSAL = Refusal(str(OWNER), "/x.Y/Z", "NotAllowed")


def test_a_report_has_usually_arrived_when_the_caller_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is waited for, though not for ever."""
    monkeypatch.setattr("core.rpc.refusals._PATIENCE_S", 60)
    heard: list[Refusal] = []
    with reporting(heard.append) as report:
        report(REFUSAL)

        assert heard == [REFUSAL]


def test_reports_that_wait_are_heard_before_the_server_ends() -> None:
    heard: list[Refusal] = []
    free = threading.Event()

    def slow(refusal: Refusal) -> None:
        free.wait(60)
        heard.append(refusal)

    with reporting(slow) as report:
        for _ in range(3):
            report(REFUSAL)
        free.set()

    assert heard == 3 * [REFUSAL]


def test_a_report_that_fails_is_in_the_log_and_the_next_one_is_heard(
    caplog: pytest.LogCaptureFixture,
) -> None:
    heard: list[Refusal] = []

    def fails_once(refusal: Refusal) -> None:
        heard.append(refusal)
        if len(heard) == 1:
            raise OSError("disk full")

    with reporting(fails_once) as report:
        report(REFUSAL)
        report(REFUSAL)

    assert heard == 2 * [REFUSAL]
    assert "not reported" in caplog.text


def test_a_hook_that_hangs_delays_one_caller_a_little_and_then_nobody(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = threading.Event()
    waits: list[float | None] = []

    class Counted(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waits.append(timeout)
            return super().wait(timeout)

    def hangs(_: Refusal) -> None:
        free.wait()

    with reporting(hangs) as report:
        monkeypatch.setattr("core.rpc.refusals.Event", Counted)
        for _ in range(1100):
            report(REFUSAL)
        free.set()

    # The second may find the queue empty still: the first was just taken from it.
    assert waits in ([0.25], [0.25, 0.25])
    assert "queue full" in caplog.text


def test_every_refusal_is_heard_of_or_counted() -> None:
    heard: list[Refusal] = []
    free = threading.Event()

    def hangs(refusal: Refusal) -> None:
        free.wait(60)
        heard.append(refusal)

    with reporting(hangs) as report:
        for _ in range(1100):
            report(REFUSAL)
        free.set()

    assert len(heard) + sum(refusal.missed for refusal in heard) == 1100
    assert len(heard) < 1100
