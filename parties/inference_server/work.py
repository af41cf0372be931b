"""One request on its way through the batcher, computed whole or piece by piece."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Final, Protocol

import numpy as np

from parties.inference_server.engine import Backbone, Logits, Question
from parties.inference_server.errors import WaitedTooLongError

# Of the time that is left, what the answer's way back to its caller may take.
_WAY_BACK: Final = 0.1
_WAY_BACK_AT_MOST_S: Final = 0.5


class Call(Protocol):
    """What of `grpc.ServicerContext` says whether an answer is still wanted."""

    def is_active(self) -> bool:
        """Whether the caller is still there."""
        ...

    def time_remaining(self) -> float | None:
        """Seconds until the caller's deadline; None: it set none."""
        ...


def without_way_back(left_s: float) -> float:
    """What is left of this time if an answer is still to reach its caller."""
    return left_s - min(left_s * _WAY_BACK, _WAY_BACK_AT_MOST_S)


def require_wanted(call: Call) -> None:
    """Raise `WaitedTooLongError` if nobody waits for the answer any more."""
    if not call.is_active() or call.time_remaining() == 0:
        raise WaitedTooLongError("nobody waits for the answer any more")


@dataclass(slots=True, eq=False)
class Work:
    """A request that waits, and what becomes of it."""

    owner: str
    backbone: Backbone
    question: Question = field(repr=False)
    call: Call
    # What must still hold when it is computed; raises what is in the way.
    check: Callable[[], None]
    # What whoever computed it does with it next, before its caller is woken; that
    # sees to it that it is ended.
    afterwards: Callable[["Work"], None] | None = field(default=None, repr=False)
    # Told when it ended, and when it is to compute the next batch. Python's semaphores
    # and events cost several times this.
    _told: "SimpleQueue[None]" = field(default_factory=SimpleQueue, repr=False)
    leads: bool = False
    # Whether it is computed, and what comes afterwards has begun.
    finishing: bool = False
    ended: bool = False
    error: BaseException | None = None
    # Of each piece, by its first image: the last piece may be ready first.
    logits: dict[int, Logits] = field(default_factory=dict, repr=False)
    compute_s: float = 0.0
    # Images in the largest batch that it had a part in.
    batch: int = 0
    # How many of its images were taken, and how many were computed.
    _taken: int = 0
    _computed: int = 0

    @property
    def images(self) -> int:
        return len(self.question.blocks)

    @property
    def left(self) -> int:
        """How many images were not taken yet."""
        return self.images - self._taken

    def tell(self) -> None:
        """Wake its caller."""
        self._told.put(None)

    def wait(self, timeout_s: float | None) -> bool:
        """Sleep until it is told something; False: nothing, in this time."""
        with suppress(Empty):
            self._told.get(timeout=timeout_s)
            return True
        return False

    def cut(self, room: int) -> "Piece":
        """Take its next images, at most so many."""
        start, self._taken = self._taken, min(self.images, self._taken + room)
        whole = self.question
        blocks = whole.blocks[start : self._taken]
        return Piece(self, Question(blocks, whole.weight), start)

    def settle(
        self, logits: Logits, *, start: int, compute_s: float, batch: int
    ) -> bool:
        """Take the logits of a piece; returns if it was the last. For one at a time."""
        self.logits[start] = logits
        self._computed += len(logits)
        self.compute_s += compute_s
        self.batch = max(self.batch, batch)
        return self._computed == self.images

    def end(self, error: BaseException | None = None) -> None:
        """Let its caller go on; the first end counts."""
        if not self.ended:
            # In this order: its caller reads both without a lock.
            self.error = error
            self.ended = True
            self.tell()

    def result(self) -> Logits:
        """Return all logits, in order, or raise what ended it; an error only once."""
        if self.error is not None:
            error, self.error = self.error, None
            try:
                raise error
            finally:
                # Its traceback holds this frame, and frames hold what is computed: as
                # a cycle a whole request would stay until Python looks for cycles.
                del error
        parts = [self.logits[start] for start in sorted(self.logits)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """Some images of one request, which are computed in one batch."""

    work: Work
    question: Question = field(repr=False)
    # Which of the request's images is its first.
    start: int = 0

    @property
    def images(self) -> int:
        return len(self.question.blocks)
