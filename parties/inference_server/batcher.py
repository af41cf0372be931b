"""Requests of different owners, computed in one batch: their keys change nothing here.

There is no thread of its own, and no pause to let a batch fill. Who comes while fewer
compute than may does so at once, for all who wait; then the next one in turn does. What
comes meanwhile gathers, so batches grow by themselves under load.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import TIMEOUT_MAX, Lock
from typing import Final

from core.errors import KeymixerError
from parties.inference_server.engine import Logits
from parties.inference_server.errors import DeadlineTooShortError, WaitedTooLongError
from parties.inference_server.lanes import Lanes, Room
from parties.inference_server.meter import Meter, NoMeter
from parties.inference_server.work import Piece, Work, require_wanted, without_way_back

log = logging.getLogger(__name__)

# Images in a batch. More are no faster on a processor, and keep others waiting.
LARGEST: Final = 32
# So few are not shared out among those who compute.
_LEAST: Final = 8
# How much the newest batch counts in the average time an image takes.
_NEWEST: Final = 0.2


@dataclass(frozen=True, slots=True)
class Pace:
    """How long an image took of late; zero before the first."""

    image_s: float = 0.0

    def after(self, images: int, seconds: float) -> "Pace":
        """Take one more batch into the average."""
        newest = seconds / images
        if not self.image_s:
            return Pace(newest)
        return Pace((1 - _NEWEST) * self.image_s + _NEWEST * newest)


class Batcher:
    """Computes for many threads, a few batches at a time, each within its own deadline.

    Args:
        room: How much may wait.
        largest: Images in a batch.
        at_once: How many batches are computed at the same time. On a processor two
            batches of one thread each take less than one batch of two threads: those
            would wait for each other in every layer.
        meter: Is told of batches.
        clock: Seconds.
    """

    def __init__(
        self,
        room: Room | None = None,
        *,
        largest: int = LARGEST,
        at_once: int = 1,
        meter: Meter | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._lanes = Lanes(room)
        self._largest = largest
        self._meter = meter or NoMeter()
        self._clock = clock
        self._pace = Pace()
        self._at_once = at_once
        # How many compute, or were told to.
        self._computing = 0
        # Held for as long as it takes to change who waits, never while one computes.
        self._changing = Lock()

    def compute(self, work: Work) -> Logits:
        """Wait for the logits of one request, and for what it has done afterwards.

        The latter is not waited for longer than its caller is likely to.

        Raises:
            QueueFullError: too many wait already.
            DeadlineTooShortError: it could not be computed in the time that is left.
            WaitedTooLongError: its deadline passed, or its caller went away.
            KeymixerError: what its check found when its turn came.
        """
        patience = _Patience(work.call.time_remaining(), time.monotonic())
        self._enter(work)
        while not work.ended:
            if work.leads:
                work.leads = False
                self._lead()
            elif not work.wait(patience.left_s()):
                if work.finishing:
                    break
                if not patience.left_s():
                    self._give_up(work)
        return work.result()

    def waiting(self) -> int:
        """How many requests wait for a batch."""
        with self._changing:
            return len(self._lanes)

    def _enter(self, work: Work) -> None:
        with self._changing:
            self._require_time(work)
            self._lanes.add(work)
            if self._computing < self._at_once:
                self._computing += 1
                work.leads = True

    def _require_time(self, work: Work) -> None:
        left_s = work.call.time_remaining()
        if left_s is None:
            return
        ahead = self._lanes.ahead(work.owner, work.images)
        needed_s = ahead * self._pace.image_s / self._at_once
        if needed_s > left_s:
            raise DeadlineTooShortError("it would wait too long", needed_s - left_s)

    def _lead(self) -> None:
        """Compute one batch, have the next one in turn compute, and finish this one."""
        with self._changing:
            pieces = self._lanes.take(self._share())
        done: list[Work] = []
        try:
            wanted = [piece for piece in pieces if self._is_wanted(piece.work)]
            done = self._compute(wanted)
        except Exception as error:
            # Whatever it was, nobody may wait for ever for a batch that is not coming.
            log.exception("a batch was lost")
            for piece in pieces:
                self._end(piece.work, error)
        finally:
            self._pass_on()
        for work in done:
            self._finish(work)

    def _finish(self, work: Work) -> None:
        """Do what is to be done with what is computed, unless its caller gave it up."""
        with self._changing:
            if work.ended:
                return
            work.finishing = True
        if work.afterwards is None:
            work.end()
            return
        try:
            work.afterwards(work)
        except Exception as error:  # noqa: BLE001 - it is raised to its caller
            work.end(error)

    def _share(self) -> int:
        """How many images to take: what waits is shared out, unless it is little."""
        even = -(-self._lanes.images // self._at_once)
        return min(self._largest, max(_LEAST, even))

    def _pass_on(self) -> None:
        with self._changing:
            successor = self._lanes.first()
            if successor is None:
                self._computing -= 1
            else:
                successor.leads = True
                successor.tell()

    def _give_up(self, work: Work) -> None:
        with self._changing:
            if not work.ended:
                self._lanes.drop(work)
                work.end(WaitedTooLongError("the deadline passed in the queue"))
        if work.leads:
            work.leads = False
            self._pass_on()

    def _is_wanted(self, work: Work) -> bool:
        """Say if it is still to be computed; what is in the way ends it."""
        try:
            require_wanted(work.call)
            work.check()
        except KeymixerError as error:
            self._end(work, error)
        return not work.ended

    def _compute(self, pieces: Sequence[Piece]) -> list[Work]:
        """Compute a batch; returns those whose last piece was in it."""
        if not pieces:
            return []
        started_s = self._clock()
        try:
            logits = pieces[0].work.backbone.answer([each.question for each in pieces])
        except Exception as error:
            log.exception("a batch failed", extra={"requests": len(pieces)})
            return self._compute_each(pieces, error)
        return self._settle(pieces, logits, self._clock() - started_s)

    def _compute_each(self, pieces: Sequence[Piece], error: Exception) -> list[Work]:
        """One question must not take the others with it."""
        if len(pieces) == 1:
            self._end(pieces[0].work, error)
            return []
        return [work for piece in pieces for work in self._compute([piece])]

    def _settle(
        self, pieces: Sequence[Piece], logits: Sequence[Logits], seconds: float
    ) -> list[Work]:
        images = sum(piece.images for piece in pieces)
        with self._changing:
            self._pace = self._pace.after(images, seconds)
            done = [
                piece.work
                for piece, part in zip(pieces, logits, strict=True)
                if piece.work.settle(
                    part, start=piece.start, compute_s=seconds, batch=images
                )
            ]
        owners = len({piece.work.owner for piece in pieces})
        self._meter.batched(
            images=images, requests=len(pieces), owners=owners, compute_s=seconds
        )
        return done

    def _end(self, work: Work, error: BaseException) -> None:
        with self._changing:
            self._lanes.drop(work)
            work.end(error)


class _Patience:
    """How long a caller sleeps: nearly until its deadline, and then until it.

    When it wakes for the first time, there is still time to tell it why it has no
    answer. What grpc.aio sends for no deadline is beyond any clock.
    """

    def __init__(self, left_s: float | None, now_s: float) -> None:
        self._ends = left_s is not None
        left_s = left_s or 0.0
        self._until_s = (now_s + without_way_back(left_s), now_s + left_s)

    def left_s(self) -> float | None:
        """Seconds to the next waking; 0: none is left. None: it has no deadline."""
        if not self._ends:
            return None
        now_s = time.monotonic()
        nearly, last = (until_s - now_s for until_s in self._until_s)
        return min(nearly if nearly > 0 else max(0.0, last), TIMEOUT_MAX)
