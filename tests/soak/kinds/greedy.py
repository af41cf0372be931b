"""An owner that asks for more images a second than it is allowed."""

import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tests.soak.site import DEADLINE_S, IMAGES_PER_S, Line, Site, line
from tests.soak.traffic import ANSWERED, Ending, Turn, ended


@dataclass(frozen=True, slots=True)
class Greedy:
    """Answered as often as it may ask, refused as too fast or too large otherwise."""

    name: str = "greedy"
    callers: int = 1
    pause_s: float = 0.05
    within_s: float = DEADLINE_S
    expected: frozenset[str] = frozenset({ANSWERED, "TooFast", "TooLarge"})

    @contextmanager
    def opened(self, site: Site, caller: int) -> Iterator[Turn]:
        with line(site, site.greedy) as connected:
            yield lambda: _turn(connected)


def _turn(connected: Line) -> Iterable[Ending]:
    images = random.choice((1, 1, IMAGES_PER_S + 1))
    question = connected.owner.question(images)
    found = ended(lambda: connected.ask(question))
    assert (images > IMAGES_PER_S) == (found.kind == "TooLarge")
    return [found]
