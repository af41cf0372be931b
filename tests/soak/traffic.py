"""A kind of traffic: turns that are taken over and over, each ending as it must."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Final, Protocol

from core.errors import KeymixerError
from parties.data_owner.answers import Receipt
from tests.soak.site import Site

# How a request ends that is answered: without an error.
ANSWERED: Final = ""
# How any request may end, now and then, while others fill the queue.
NO_ROOM: Final = "QueueFull"


@dataclass(frozen=True, slots=True)
class Ending:
    """How a request ended: with a receipt, or with an error of a kind."""

    kind: str = ANSWERED
    receipt: Receipt | None = None


Turn = Callable[[], Iterable[Ending]]


class Traffic(Protocol):
    """What some callers do at the same time, each over and over."""

    @property
    def name(self) -> str:
        """As the report calls it."""
        ...

    @property
    def callers(self) -> int:
        """How many do it at a time."""
        ...

    @property
    def pause_s(self) -> float:
        """How long each rests between two turns."""
        ...

    @property
    def within_s(self) -> float:
        """How long a turn may take."""
        ...

    @property
    def expected(self) -> frozenset[str]:
        """The kinds of endings there may be; any other is a fault of the server."""
        ...

    def opened(self, site: Site, caller: int) -> AbstractContextManager[Turn]:
        """Give what one caller does in a turn."""
        ...


def ended(ask: Callable[[], Receipt | None]) -> Ending:
    """Ask, and say how it ended. What is no error of ours goes on."""
    try:
        return Ending(receipt=ask())
    except KeymixerError as error:
        return Ending(error.kind)


@contextmanager
def always(turn: Turn) -> Iterator[Turn]:
    """For a caller that holds nothing between its turns."""
    yield turn
