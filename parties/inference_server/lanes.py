"""Who is next: a bounded queue with a lane for each owner, emptied fairly.

Fair by images, as start-time fair queueing does it (Goyal, Vin & Cheng 1996): the
owner that was given least goes first, and who comes anew starts level with it. So
nobody's wait grows with what another owner sends.
"""

from collections import deque
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Final

from parties.inference_server.errors import QueueFullError
from parties.inference_server.work import Piece, Work

_WAIT_A_LITTLE_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class Room:
    """How much may wait."""

    requests: int = 256
    # Of one owner: so that no single one fills the queue.
    requests_each: int = 128
    bytes: int = 256 << 20


@dataclass(slots=True)
class _Lane:
    waiting: deque[Work] = field(default_factory=deque)
    images: int = 0


class Lanes:
    """The requests that wait. Not for use by several threads at once."""

    def __init__(self, room: Room | None = None) -> None:
        self._room = room or Room()
        self._lanes: dict[str, _Lane] = {}
        # Owners with a lane, and how many images each was given: the least comes first.
        self._order: list[tuple[int, int, str]] = []
        self._level = 0
        self._arrivals = count()
        self._requests = 0
        self._bytes = 0

    def __len__(self) -> int:
        return self._requests

    def add(self, work: Work) -> None:
        """Let a request wait. Raises `QueueFullError`."""
        self._require_room(work)
        lane = self._lanes.get(work.owner)
        if lane is None:
            lane = self._lanes[work.owner] = _Lane()
            self._enter(self._level, work.owner)
        lane.waiting.append(work)
        lane.images += work.left
        self._requests += 1
        self._bytes += work.question.blocks.nbytes

    def take(self, room: int) -> list[Piece]:
        """Take up to so many images for one model version, from several owners."""
        pieces: list[Piece] = []
        others: list[tuple[int, int, str]] = []
        while room and self._order:
            given, number, owner = heappop(self._order)
            work = self._lanes[owner].waiting[0]
            if pieces and work.backbone is not pieces[0].work.backbone:
                others.append((given, number, owner))
                continue
            self._level = given
            piece = self._cut(work, room)
            pieces.append(piece)
            room -= piece.images
            if owner in self._lanes:
                self._enter(given + piece.images, owner)
        for other in others:
            heappush(self._order, other)
        return pieces

    def drop(self, work: Work) -> None:
        """Forget a request; one that is not here any more is no error."""
        lane = self._lanes.get(work.owner)
        if lane is not None and work in lane.waiting:
            lane.waiting.remove(work)
            lane.images -= work.left
            self._left(work)

    @property
    def images(self) -> int:
        """How many images wait."""
        return sum(lane.images for lane in self._lanes.values())

    def first(self) -> Work | None:
        """Whose request is next, of those not told to compute; None: nobody's."""
        for _, _, owner in sorted(self._order):
            for work in self._lanes[owner].waiting:
                if not work.leads:
                    return work
        return None

    def ahead(self, owner: str, images: int) -> int:
        """How many images are computed until so many more of an owner's are.

        Of each other owner no more than of this one, for they take turns.
        """
        lane = self._lanes.get(owner)
        own = images + (lane.images if lane else 0)
        others = (each for name, each in self._lanes.items() if name != owner)
        return own + sum(min(own, each.images) for each in others)

    def _require_room(self, work: Work) -> None:
        lane = self._lanes.get(work.owner)
        if lane is not None and len(lane.waiting) >= self._room.requests_each:
            raise QueueFullError("too many of this owner wait", _WAIT_A_LITTLE_S)
        if (
            self._requests >= self._room.requests
            or self._bytes + work.question.blocks.nbytes > self._room.bytes
        ):
            raise QueueFullError("too many wait", _WAIT_A_LITTLE_S)

    def _enter(self, given: int, owner: str) -> None:
        heappush(self._order, (given, next(self._arrivals), owner))

    def _cut(self, work: Work, room: int) -> Piece:
        piece = work.cut(room)
        lane = self._lanes[work.owner]
        lane.images -= piece.images
        if not work.left:
            lane.waiting.popleft()
            self._left(work)
        return piece

    def _left(self, work: Work) -> None:
        self._requests -= 1
        self._bytes -= work.question.blocks.nbytes
        if not self._lanes[work.owner].waiting:
            del self._lanes[work.owner]
            # Taken from the top already, or dropped from anywhere.
            self._order = [entry for entry in self._order if entry[2] != work.owner]
            heapify(self._order)
