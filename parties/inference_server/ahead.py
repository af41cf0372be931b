"""Requests of one stream: read a few ahead, answered at once, handed out in order.

One thread reads, some answer, and whoever takes the answers sends them. A request is
read only when there is room for it, and makes room when its answer was taken: so a
sender that takes no answers is soon read no further, however much it has to send.
"""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Condition, Thread
from typing import Generic, TypeVar

Q = TypeVar("Q")
A = TypeVar("A")


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """How much of a stream is held: no more is read while it holds so much."""

    requests: int
    content_bytes: int


@dataclass(frozen=True, slots=True)
class _Place(Generic[A]):
    """One request that was read, and its size."""

    answer: Future[A]
    size: int


@dataclass(slots=True, eq=False)
class Ahead(Generic[Q, A]):
    """One stream; `answers` is to be called once.

    Args:
        requests: Blocks until there is one, and raises if the sender is gone.
        answer: Called by several threads at once.
        size: Of a request, in bytes.
        window: What is held at most, beside the last request that was read.
    """

    requests: Iterator[Q]
    answer: Callable[[Q], A]
    size: Callable[[Q], int]
    window: Window
    _places: deque[_Place[A]] = field(default_factory=deque)
    _changed: Condition = field(default_factory=Condition)
    _stopped: bool = False
    _read: bool = False
    _error: BaseException | None = None

    def answers(self) -> Iterator[A]:
        """Give the answers in the order of the requests.

        After `stop`, it gives those to what was read before, and no more. If it is left
        early it waits for those that are in work: nothing of it goes on unseen.

        Raises:
            Exception: what reading raised, once all that was read is answered.
        """
        with self._answering() as pool:
            Thread(
                target=self._read_on, args=(pool,), name="ahead", daemon=True
            ).start()
            while (place := self._next()) is not None:
                yield place.answer.result()
                self._leave()
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """Take no more requests, not even one that is being read."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    @contextmanager
    def _answering(self) -> Iterator[ThreadPoolExecutor]:
        with ThreadPoolExecutor(self.window.requests, "ahead") as pool:
            try:
                yield pool
            finally:
                # Its reader may wait for the sender: it ends when the stream does.
                self.stop()

    def _next(self) -> _Place[A] | None:
        """Wait for the next request; None: there will be none."""
        with self._changed:
            self._changed.wait_for(lambda: self._places or self._stopped or self._read)
            return self._places[0] if self._places else None

    def _leave(self) -> None:
        with self._changed:
            self._places.popleft()
            self._changed.notify_all()

    def _read_on(self, pool: ThreadPoolExecutor) -> None:
        try:
            while self._wait_for_room():
                request = next(self.requests, None)
                if request is None:
                    return
                self._take(request, pool)
        except Exception as error:  # noqa: BLE001 - it is raised where answers are taken
            self._error = error
        finally:
            with self._changed:
                self._read = True
                self._changed.notify_all()

    def _wait_for_room(self) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or self._has_room())
            return not self._stopped

    def _has_room(self) -> bool:
        held = sum(place.size for place in self._places)
        few = len(self._places) < self.window.requests
        return few and held < self.window.content_bytes

    def _take(self, request: Q, pool: ThreadPoolExecutor) -> None:
        with self._changed:
            if self._stopped:
                return
            answer = pool.submit(self.answer, request)
            self._places.append(_Place(answer, self.size(request)))
            self._changed.notify_all()
