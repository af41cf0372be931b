"""Whether the log takes records is what the orchestrator's health says, and no more."""

import threading
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from core.errors import AuditUnavailable, PeerUnavailable
from core.rpc.health import NotServingError
from parties.log_watch import LogWatch

LONG_S = 20.0


@dataclass
class Health:
    """What the next look finds; None: the log can be written."""

    error: Exception | None = None

    def look(self) -> None:
        if self.error is not None:
            raise self.error


def test_a_log_that_was_not_asked_yet_takes_nothing() -> None:
    """Else a server that starts computes what it cannot release."""
    watch = LogWatch(Health().look)

    with pytest.raises(AuditUnavailable, match="not asked yet"):
        watch.require()


NOT_SERVING = "the orchestrator does not serve"


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (NotServingError("no", "Storage: free space"), "Storage: free space"),
        (NotServingError("no", ""), NOT_SERVING),
        (PeerUnavailable("gone"), f"PeerUnavailable: {PeerUnavailable.hint}"),
        (ZeroDivisionError("a bug"), "Internal: see the server's log"),
    ],
)
def test_whatever_is_in_the_way_is_a_reason_until_it_is_gone(
    error: Exception, why: str
) -> None:
    health = Health(error)
    watch = LogWatch(health.look)
    watch.look()

    assert why == watch.why_away
    with pytest.raises(AuditUnavailable) as caught:
        watch.require()
    assert caught.value.hint == f"the log is away: {why}"

    health.error = None
    watch.look()
    watch.require()

    assert watch.why_away == ""


def test_it_looks_again_and_again_and_tells_after_each_look() -> None:
    """A look that breaks is no reason to stop."""
    health, told = Health(ZeroDivisionError()), Told()
    watch = LogWatch(health.look)
    with watch.kept(lambda: told.tell(watch.why_away)):
        told.wait(lambda: len(told.reasons) >= 2)
        health.error = None
        told.wait(lambda: told.reasons[-1] == "")

    assert "Internal" in told.reasons[0]


def test_when_the_block_ends_nothing_is_told_any_more() -> None:
    """What is told, such as health, may be gone by then."""
    begun, go_on, ended = (threading.Event() for _ in range(3))

    def tell() -> None:
        begun.set()
        assert go_on.wait(LONG_S)
        ended.set()

    with LogWatch(Health().look).kept(tell):
        assert begun.wait(LONG_S)
        threading.Timer(0.05, go_on.set).start()

    assert ended.is_set()


class Told:
    """What was told, newest last."""

    def __init__(self) -> None:
        self.reasons: list[str] = []
        self._changed = threading.Condition()

    def tell(self, why: str) -> None:
        with self._changed:
            self.reasons.append(why)
            self._changed.notify_all()

    def wait(self, until: Callable[[], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(until, LONG_S)
