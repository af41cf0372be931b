"""An orchestrator whose log goes away under traffic, and what became of each request.

Everything is real but the engine: an inference server, owners that ask without pause,
and an orchestrator in a process of its own whose log is taken away and given back.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from core.errors import KeymixerError
from core.rpc.errors import remote_errors
from core.rpc.health import NotServingError, require_serving
from core.rpc.identity import SpiffeId
from tests.integration.apart import Apart, orchestrator_apart
from tests.integration.hub import Hub, open_hub, question
from tests.unit.orchestrator.ledger import ALDER_ID, CLOUD_ID, HUB_ID

# The server gives up on the log long before, so that no stall makes it late.
DEADLINE_S = 30.0
PATIENCE_S = 90.0
STALENESS_S = 5.0
# What an owner may be told while the log is away.
TYPED = {"AuditUnavailable", "StandingUnknown"}


@dataclass
class Place:
    """An inference server between its owners and an orchestrator in a process."""

    hub: Hub
    apart: Apart
    # Where its SQLite file is; a server's database has none.
    file: Path

    def why_not(self, who: SpiffeId) -> str:
        """What a server's health gives as its reason; empty: it serves."""
        try:
            with self.hub.cast.channel(HUB_ID, who) as channel:
                require_serving(channel, "", "the server", PATIENCE_S / 4)
        except NotServingError as error:
            return error.why or "no reason"
        except KeymixerError as error:
            return error.kind
        return ""


@dataclass
class Traffic:
    """Owners that ask without pause, and what became of each request."""

    answers: list[int] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    late: list[float] = field(default_factory=list)
    hints: set[str] = field(default_factory=set)
    _stop: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def flowing(self, hub: Hub, owners: int = 4) -> Iterator[None]:
        threads = [
            threading.Thread(target=self._ask, args=(hub,)) for _ in range(owners)
        ]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()

    def _ask(self, hub: Hub) -> None:
        with hub.asking(ALDER_ID) as stub:
            while not self._stop.wait(0.02):
                began = time.monotonic()
                try:
                    with remote_errors("cloud"):
                        request = question(ALDER_ID)
                        answer = stub.ModelInfer(request, timeout=DEADLINE_S)
                    self.answers.append(answer.parameters["audit_index"].int64_param)
                except KeymixerError as error:
                    self.errors.append(error.kind)
                    self.hints.add(error.hint)
                if (took_s := time.monotonic() - began) > DEADLINE_S:
                    self.late.append(took_s)


@contextmanager
def place(folder: Path, url: str = "") -> Iterator[Place]:
    with open_hub(folder, url) as hub, ExitStack() as stack:
        hub.engine.let_go_on(100_000)
        hub.cast.identity(HUB_ID)
        file = folder / "ledger" / "registry.db"
        where = url or f"sqlite:///{file}"
        apart = stack.enter_context(orchestrator_apart(hub.cast.home(HUB_ID), where))
        hub.cast.addresses[HUB_ID] = apart.address
        stack.enter_context(
            hub.inference_server(time.monotonic, max_staleness_s=STALENESS_S)
        )
        yield Place(hub, apart, file)


def wait_until(what: Callable[[], object]) -> None:
    until = time.monotonic() + PATIENCE_S
    while not what():
        assert time.monotonic() < until
        time.sleep(0.05)


def outlast(place: Place, take_away: Callable[[Place], Callable[[], None]]) -> Traffic:
    """Take the log away under traffic and give it back; check all but the reasons."""
    traffic = Traffic()
    with traffic.flowing(place.hub):
        wait_until(lambda: len(traffic.answers) >= 8)
        give_back = take_away(place)
        wait_until(lambda: place.why_not(CLOUD_ID))
        failed = len(traffic.errors)
        wait_until(lambda: len(traffic.errors) >= failed + 8)
        answered = len(traffic.answers)
        give_back()
        wait_until(lambda: not place.why_not(CLOUD_ID))
        wait_until(lambda: len(traffic.answers) >= answered + 8)
    check(place.hub, traffic)
    return traffic


def check(hub: Hub, traffic: Traffic) -> None:
    """Each answer has its record, each failure is one, and each was told in time."""
    assert set(traffic.errors) <= TYPED
    assert traffic.late == []
    released = [entry.index for entry in hub.ledger.entries("inference")]
    assert set(traffic.answers) <= set(released)
    assert len(set(traffic.answers)) == len(traffic.answers)
    assert hub.ledger.images_used() == len(released)
    missed = traffic.errors.count("AuditUnavailable")
    wait_until(lambda: failures(hub) >= missed)
    assert failures(hub) == missed


def failures(hub: Hub) -> int:
    """How many requests the log knows of that the log itself failed."""
    failed = [entry.subject["kind"] for entry in hub.ledger.entries("failed")]
    return failed.count("AuditUnavailable")


def outlast_with_reason(
    found: Place, take_away: Callable[[Place], Callable[[], None]], why: str
) -> None:
    """As `outlast`, where both servers' health and a caller are told the reason."""

    def taken(place: Place) -> Callable[[], None]:
        give_back = take_away(place)
        wait_until(lambda: why in place.why_not(HUB_ID))
        wait_until(lambda: why in place.why_not(CLOUD_ID))
        return give_back

    traffic = outlast(found, taken)
    assert any(why in hint for hint in traffic.hints), f"no caller was told of {why}"
