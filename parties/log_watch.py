"""Whether the log can take records: what the orchestrator's health says of it.

An answer that cannot be recorded is not given, so there is no use in computing one.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import Final

import grpc

from core.errors import AuditUnavailable, KeymixerError
from core.rpc.errors import details_of
from core.rpc.health import NotServingError, require_serving

log = logging.getLogger(__name__)

LOOK_EVERY_S: Final = 0.25
# A machine that stands still for seconds has not lost its log.
_LOOK_S: Final = 5.0


class LogWatch:
    """Asks several times a second; many threads may ask it meanwhile.

    Args:
        look: Returns if the log can be written, or raises what is in the way.
    """

    def __init__(self, look: Callable[[], None]) -> None:
        self._look = look
        self._why = "the orchestrator was not asked yet"

    @property
    def why_away(self) -> str:
        """Why the log takes no records; empty: it takes them."""
        return self._why

    def require(self) -> None:
        """Return if the log takes records.

        Raises:
            AuditUnavailable: it does not; the hint, which a caller sees, says why.
        """
        if why := self._why:
            error = AuditUnavailable(f"the log is away: {why}")
            error.hint = f"the log is away: {why}"
            raise error

    def look(self) -> None:
        """Ask once, and remember what is said."""
        former, self._why = self._why, self._asked()
        if self._why != former:
            log.info("the log", extra={"away": self._why or "no longer"})

    @contextmanager
    def kept(self, after_each: Callable[[], None]) -> Iterator[None]:
        """Look again and again on a thread; call `after_each` after each look."""
        closing = Event()

        def run() -> None:
            while not closing.is_set():
                self.look()
                after_each()
                closing.wait(LOOK_EVERY_S)

        thread = Thread(target=run, name="log watch", daemon=True)
        thread.start()
        try:
            yield
        finally:
            closing.set()
            thread.join()

    def _asked(self) -> str:
        try:
            self._look()
        except NotServingError as error:
            return error.why or "the orchestrator does not serve"
        except KeymixerError as error:
            return details_of(error)
        except Exception:
            # Whatever it was, to stop looking would be to stop serving for good.
            log.exception("the log")
            return "Internal: see the server's log"
        return ""


def watched(channel: grpc.Channel) -> LogWatch:
    """Watch the log of the orchestrator at the other end."""
    return LogWatch(lambda: require_serving(channel, "", "orchestrator", _LOOK_S))
