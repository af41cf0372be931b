"""Owners whose deadlines are so short that few can be met."""

import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tests.soak.site import Line, Site, line
from tests.soak.traffic import ANSWERED, Ending, Turn, ended

_LONGEST_S = 0.03


@dataclass(frozen=True, slots=True)
class Hurried:
    """Answered, refused before anything is computed, or over by gRPC's own clock."""

    name: str = "hurried"
    callers: int = 3
    pause_s: float = 0.02
    within_s: float = _LONGEST_S
    expected: frozenset[str] = frozenset(
        {
            ANSWERED,
            "AuditUnavailable",
            "DeadlineTooShort",
            "PeerUnavailable",
            "WaitedTooLong",
        }
    )

    @contextmanager
    def opened(self, site: Site, caller: int) -> Iterator[Turn]:
        with line(site, site.calm[caller % len(site.calm)]) as connected:
            yield lambda: _turn(connected)


def _turn(connected: Line) -> Iterable[Ending]:
    question = connected.owner.question(random.choice((1, 32)))
    deadline_s = random.uniform(0.001, _LONGEST_S)
    return [ended(lambda: connected.ask(question, deadline_s))]
