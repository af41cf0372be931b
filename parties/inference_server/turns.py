"""Whose turn it is to compute: one at a time, and nobody waits longer than is asked."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Semaphore
from typing import Protocol

from parties.inference_server.errors import WaitedTooLongError


class Call(Protocol):
    """What of `grpc.ServicerContext` says whether an answer is still wanted."""

    def is_active(self) -> bool:
        """Whether the caller is still there."""
        ...

    def time_remaining(self) -> float | None:
        """Seconds until the caller's deadline; None: it set none."""
        ...


class Turns:
    """Lets one call compute; two at once would only take the threads from each other.

    What was checked before the wait is to be checked again when the turn comes.
    """

    def __init__(self) -> None:
        self._free = Semaphore()

    @contextmanager
    def taken(self, call: Call) -> Iterator[None]:
        """Wait for a turn and have it.

        Raises:
            WaitedTooLongError: the caller's deadline passed, or the caller went away.
        """
        if not self._free.acquire(timeout=call.time_remaining()):
            raise WaitedTooLongError("the deadline passed in the queue")
        try:
            require_wanted(call)
            yield
        finally:
            self._free.release()


def require_wanted(call: Call) -> None:
    """Raise `WaitedTooLongError` if nobody waits for the answer any more."""
    if not call.is_active() or call.time_remaining() == 0:
        raise WaitedTooLongError("nobody waits for the answer any more")
