"""A bound on deriving keys: the largest takes seconds, and calls wait behind it."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import BoundedSemaphore
from typing import Final

from parties.key_holder.errors import DerivationsBusyError

# Of a server's 16 workers, at most six derive or wait: ten are left for short calls.
RUNNING: Final = 2
WAITING: Final = 4
WAIT_S: Final = 4.0


class Derivations:
    """Lets few derivations run, and few more wait for a while; refuses the others."""

    def __init__(
        self, running: int = RUNNING, waiting: int = WAITING, wait_s: float = WAIT_S
    ) -> None:
        self._places = BoundedSemaphore(running + waiting)
        self._running = BoundedSemaphore(running)
        self._wait_s = wait_s

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Enter the block when it is our turn.

        Raises:
            DerivationsBusyError: too many wait already, or it took too long.
        """
        if not self._places.acquire(blocking=False):
            raise DerivationsBusyError("too many wait for a derivation")
        try:
            if not self._running.acquire(timeout=self._wait_s):
                raise DerivationsBusyError(f"no turn within {self._wait_s:g} s")
            try:
                yield
            finally:
                self._running.release()
        finally:
            self._places.release()
