"""An owner that sends more at once than may wait of one owner."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

from tests.soak.site import DEADLINE_S, WAITING_EACH, Line, Site, line
from tests.soak.traffic import ANSWERED, Ending, Turn, ended

_AT_ONCE = 4 * WAITING_EACH
_IMAGES = 16


@dataclass(frozen=True, slots=True)
class Floods:
    """What does not find room is refused, and all others are served as ever."""

    name: str = "floods"
    callers: int = 1
    pause_s: float = 10.0
    within_s: float = 2 * DEADLINE_S
    expected: frozenset[str] = frozenset({ANSWERED, "QueueFull"})

    @contextmanager
    def opened(self, site: Site, caller: int) -> Iterator[Turn]:
        with line(site, site.flooding) as connected:
            yield lambda: _turn(connected)


def _turn(connected: Line) -> Iterable[Ending]:
    questions = [connected.owner.question(_IMAGES) for _ in range(_AT_ONCE)]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(
            pool.map(lambda each: ended(lambda: connected.ask(each)), questions)
        )
