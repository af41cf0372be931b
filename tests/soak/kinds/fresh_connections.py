"""Owners that connect anew for each request, and hang up."""

from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from tests.soak.site import DEADLINE_S, Owner, Site, line
from tests.soak.traffic import ANSWERED, Ending, Turn, always, ended


@dataclass(frozen=True, slots=True)
class FreshConnections:
    """Nothing may be left of a connection that ended."""

    name: str = "fresh connections"
    callers: int = 2
    pause_s: float = 0.1
    within_s: float = DEADLINE_S
    expected: frozenset[str] = frozenset({ANSWERED})

    def opened(self, site: Site, caller: int) -> AbstractContextManager[Turn]:
        owner = site.calm[caller % len(site.calm)]
        return always(lambda: _turn(site, owner))


def _turn(site: Site, owner: Owner) -> Iterable[Ending]:
    with line(site, owner) as connected:
        return [ended(lambda: connected.ask(owner.question(1)))]
