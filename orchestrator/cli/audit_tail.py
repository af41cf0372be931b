"""New audit records as they come, for as long as somebody watches."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from core.errors import Refused, Unavailable
from orchestrator.operator import from_index
from protos import audit_pb2 as pb

POLL_S: Final = 0.5
# Beyond every index: what is asked for from here on is only how long the log is.
_BEYOND: Final = 2**62

Ask = Callable[[pb.ListEntriesRequest], pb.ListEntriesResponse]


class LogShrunk(Refused):
    """The log holds fewer records than it held a moment ago."""

    hint = "an old backup was restored, or another log answers: keymixer audit verify"


@dataclass
class Tail:
    """Follows the log; an orchestrator that is away is asked again until it is back.

    Args:
        ask: One page of records.
        say: Tells a person, in a sentence.
        pause: Waits so many seconds.
    """

    ask: Ask
    say: Callable[[str], None]
    pause: Callable[[float], None]
    _size: int = 0
    _away: bool = False

    def follow(
        self, wanted: pb.ListEntriesRequest, start: int | None
    ) -> Iterator[pb.AuditEntry]:
        """Yield the records that fit, from `start` or the log's end on.

        Raises:
            LogShrunk: records that were seen are gone.
        """
        at = self._end(wanted) if start is None else start
        while True:
            page = self._page(from_index(wanted, at))
            if page is not None:
                yield from page.entries
                at = page.next_start or max(at, page.size)
            if page is None or not page.next_start:
                self.pause(POLL_S)

    def _end(self, wanted: pb.ListEntriesRequest) -> int:
        """Where the log ends now; who is away at the start is an error."""
        self._size = self.ask(from_index(wanted, _BEYOND)).size
        return self._size

    def _page(self, request: pb.ListEntriesRequest) -> pb.ListEntriesResponse | None:
        """The next page, or None while the orchestrator is away."""
        try:
            page = self.ask(request)
        except Unavailable as error:
            self._lost(error)
            return None
        if self._away:
            self.say("the orchestrator is back")
            self._away = False
        if page.size < self._size:
            raise LogShrunk(f"it held {self._size} records, and holds {page.size}")
        self._size = page.size
        return page

    def _lost(self, error: Unavailable) -> None:
        if not self._away:
            self.say(f"the orchestrator is away, asking again: {error.kind}")
            self._away = True
