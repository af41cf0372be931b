"""The bulk streams that are open: how many, whose, and their end when a server stops.

A stream holds a worker of the server for as long as its owner likes. So there are few
of them, an owner has only some of those, and uploads keep a share of their own.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock
from typing import Any, Final

from core.errors import Unavailable
from core.rpc.policy import TooManyStreamsError
from parties.inference_server.ahead import A, Ahead, Q, Window

# Streams of one owner; one is enough to keep a server busy.
EACH: Final = 4
# Requests of a stream that are read, and not answered.
REQUESTS: Final = 8
_PAUSE_S: Final = 0.5


class StreamEndedError(Unavailable):
    """The server stops; what it read of the stream is answered."""

    hint = "what has no answer was not begun: ask again, if possible another server"
    # As with `Exhausted`: to try again is safe.
    retry_after_s = _PAUSE_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Berths:
    """How many streams may be open, of all owners and of each."""

    total: int
    each: int = EACH


@dataclass(slots=True, eq=False)
class Streams:
    """Runs each stream within its bounds; many threads may do so at once."""

    berths: Berths
    window: Window
    _open: dict[int, Ahead[Any, Any]] = field(default_factory=dict)
    _owners: Counter[str] = field(default_factory=Counter)
    _stopped: bool = False
    _changing: Lock = field(default_factory=Lock)

    def answers(
        self,
        owner: str,
        requests: Iterator[Q],
        answer: Callable[[Q], A],
        size: Callable[[Q], int],
    ) -> Iterator[A]:
        """Give the answers to one stream, in order; see `Ahead`.

        Raises:
            TooManyStreamsError: no further stream may be open, or none of this owner's.
            StreamEndedError: the server stops; all that was read is answered.
        """
        stream = Ahead(requests, answer, size, self.window)
        with self._berth(owner, stream):
            yield from stream.answers()
            if self._stopped:
                raise StreamEndedError("the server stops")

    @contextmanager
    def open(self) -> Iterator[None]:
        """Until the block ends; then every stream is ended, without being cut off."""
        try:
            yield
        finally:
            with self._changing:
                self._stopped = True
                for stream in self._open.values():
                    stream.stop()

    def count(self) -> int:
        """How many streams are open."""
        with self._changing:
            return len(self._open)

    @contextmanager
    def _berth(self, owner: str, stream: Ahead[Any, Any]) -> Iterator[None]:
        with self._changing:
            self._enter(owner, stream)
        try:
            yield
        finally:
            with self._changing:
                del self._open[id(stream)]
                self._owners -= Counter([owner])

    def _enter(self, owner: str, stream: Ahead[Any, Any]) -> None:
        if self._stopped:
            raise StreamEndedError("the server stops")
        if len(self._open) >= self.berths.total:
            raise TooManyStreamsError("as many as may be are open", _PAUSE_S)
        if self._owners[owner] >= self.berths.each:
            raise TooManyStreamsError(f"{owner} has {self.berths.each} open", _PAUSE_S)
        self._open[id(stream)] = stream
        self._owners[owner] += 1
