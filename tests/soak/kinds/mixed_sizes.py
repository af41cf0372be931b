"""Owners that do all as they should: from one image to a hundred, in every datatype."""

import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from core.encoding import FP16, FP32, UINT8
from tests.soak.site import DEADLINE_S, Line, Site, line
from tests.soak.traffic import ANSWERED, Ending, Turn, ended

_IMAGES = (1, 1, 1, 1, 2, 5, 17, 32, 100)
_DATATYPES = (FP32, FP32, FP16, UINT8)


@dataclass(frozen=True, slots=True)
class MixedSizes:
    """Each caller keeps its connection."""

    name: str = "mixed sizes"
    callers: int = 12
    pause_s: float = 0.01
    within_s: float = DEADLINE_S
    expected: frozenset[str] = frozenset({ANSWERED})

    @contextmanager
    def opened(self, site: Site, caller: int) -> Iterator[Turn]:
        with line(site, site.calm[caller % len(site.calm)]) as connected:
            yield lambda: _turn(connected)


def _turn(connected: Line) -> Iterable[Ending]:
    question = connected.owner.question(
        random.choice(_IMAGES), random.choice(_DATATYPES)
    )
    return [ended(lambda: connected.ask(question))]
