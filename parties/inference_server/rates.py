"""How much each owner may ask for, by the policy: images a request, images a second."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from threading import Lock

from core.errors import TooLargeError
from parties.inference_server.errors import TooFastError


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """One owner's limits; None: no such limit.

    `burst` is how many images may come at once after a pause; by default those of one
    second, and at least one.
    """

    images_per_s: float | None = None
    burst: int | None = None
    max_images: int | None = None

    @property
    def room(self) -> float:
        """The most images a full bucket holds."""
        return float(self.burst or max(1.0, self.images_per_s or 0.0))


@dataclass(slots=True)
class _Bucket:
    images: float
    at_s: float


@dataclass(slots=True)
class Rates:
    """A token bucket for each owner that has a rate; many threads may ask at once.

    A server counts for itself: with several, each gives every owner its rate.

    Args:
        default: For every owner that is not named.
        named: Limits by SPIFFE ID.
        clock: Gives seconds that never go back.
    """

    default: Limit = field(default_factory=Limit)
    named: Mapping[str, Limit] = field(default_factory=dict)
    clock: Callable[[], float] = time.monotonic
    _buckets: dict[str, _Bucket] = field(default_factory=dict, init=False, repr=False)
    _counting: Lock = field(default_factory=Lock, init=False, repr=False)

    def spend(self, owner: str, images: int) -> None:
        """Count so many images of an owner.

        Raises:
            TooLargeError: so many are never allowed in one request.
            TooFastError: not yet; nothing was counted, and it says when.
        """
        limit = self.named.get(owner, self.default)
        if limit.max_images is not None and images > limit.max_images:
            raise TooLargeError(f"at most {limit.max_images} images in a request")
        if limit.images_per_s is None:
            return
        if images > limit.room:
            raise TooLargeError(f"at most {limit.room:g} images at once")
        with self._counting:
            self._take(owner, images, limit, limit.images_per_s)

    def _take(self, owner: str, images: int, limit: Limit, rate: float) -> None:
        now_s = self.clock()
        bucket = self._buckets.setdefault(owner, _Bucket(limit.room, now_s))
        grown = bucket.images + (now_s - bucket.at_s) * rate
        bucket.images, bucket.at_s = min(limit.room, grown), now_s
        if bucket.images < images:
            pause_s = (images - bucket.images) / rate
            raise TooFastError(f"{rate:g} images a second are allowed", pause_s)
        bucket.images -= images
