"""Owners that change their mind: calls that are cancelled at any moment."""

import random
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import grpc

from tests.soak.site import DEADLINE_S, Line, Site, line
from tests.soak.traffic import ANSWERED, Ending, Turn

_SOON_S = 0.05


@dataclass(frozen=True, slots=True)
class Cancelled:
    """Some of them are answered before."""

    name: str = "cancelled"
    callers: int = 3
    pause_s: float = 0.02
    within_s: float = DEADLINE_S
    expected: frozenset[str] = frozenset({ANSWERED, "Cancelled"})

    @contextmanager
    def opened(self, site: Site, caller: int) -> Iterator[Turn]:
        with line(site, site.calm[caller % len(site.calm)]) as connected:
            yield lambda: _turn(connected)


def _turn(connected: Line) -> Iterable[Ending]:
    question = connected.owner.question(random.choice((1, 8, 64)))
    asked = connected.stub.ModelInfer.future(question.request, timeout=DEADLINE_S)
    time.sleep(random.uniform(0, _SOON_S))
    asked.cancel()
    try:
        return [Ending(receipt=connected.read(question, asked.result()))]
    except grpc.FutureCancelledError:
        return [Ending("Cancelled")]
