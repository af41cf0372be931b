"""What an attacker who knows a shield learns of it: the way back to whole pictures.

The key is orthogonal and known, so that it is undone exactly. What the shield dropped
or drowned is then estimated from *every* block of a picture (`linear_estimate`), never
from one block alone. The other attacks use the same estimate for what they find.

A picture of more than 4,096 numbers is cut into tiles of no more, and each is estimated
from all of its own blocks, several of them: less than an attacker could do.

Assumes: the shield, and public pictures of the same kind. Costs: `linear_estimate`'s.
"""

import math
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
from einops import rearrange
from jaxtyping import Float32

from core.errors import DataError
from core.leakage.fidelity import Pictures
from core.leakage.linear_estimate import LinearEstimate
from core.leakage.sent_pixels import SentPixels, as_channels

LARGEST: Final = 4_096
FEWEST: Final = 20
_AT_ONCE: Final = 500

Seen = Float32[np.ndarray, "n r rows columns"]


@dataclass(frozen=True, slots=True, eq=False)
class TiledEstimate:
    """A linear estimate of tiles of `side` x `side` blocks, put together again."""

    side: int
    linear: LinearEstimate = field(repr=False)

    def __call__(self, seen: Seen) -> Pictures:
        """Estimate pictures [n, c, h, w], float32; not clipped."""
        rows, columns = (each // self.side for each in seen.shape[2:])
        tiles = self.linear(_tiles(seen, self.side, self.side))
        join = "(n a b) c h w -> n c (a h) (b w)"
        return rearrange(tiles, join, a=rows, b=columns)


def hindrance(sent: SentPixels, public: Pictures) -> str:
    """Why nothing can be learned of these public pictures; empty if it can."""
    if len(public) < FEWEST:
        return f"{len(public)} public pictures; a linear estimate needs {FEWEST}"
    if public[0].size > LARGEST and tile_side(sent, public) < 2:  # noqa: PLR2004
        height, width = public.shape[2:]
        return (
            f"{height}x{width} pixels do not split into tiles of several blocks and at "
            f"most {LARGEST} numbers"
        )
    return ""


def learned(sent: SentPixels, public: Pictures, rng: np.random.Generator) -> SentPixels:
    """The same, with the linear estimate that these pictures give.

    Raises:
        DataError: `hindrance` says why not.
    """
    if why := hindrance(sent, public):
        raise DataError(why)
    seen = left_of(sent, public, rng)
    if public[0].size <= LARGEST:
        return replace(sent, estimate=LinearEstimate.of(seen, public))
    side = tile_side(sent, public)
    pixels = side * sent.patch_size
    tiles = _tiles(seen, side, side), _tiles(public, pixels, pixels)
    return replace(sent, estimate=TiledEstimate(side, LinearEstimate.of(*tiles)))


def tile_side(sent: SentPixels, pictures: Pictures) -> int:
    """How many blocks a tile has on a side: the most that fit and split a picture."""
    _, channels, height, width = pictures.shape
    grid = math.gcd(height // sent.patch_size, width // sent.patch_size)
    fitting = math.isqrt(LARGEST // channels) // sent.patch_size
    return max(n for n in range(1, max(fitting, 1) + 1) if grid % n == 0)


def left_of(sent: SentPixels, pictures: Pictures, rng: np.random.Generator) -> Seen:
    """What whoever has the key sees of these pictures."""
    parts = [
        as_channels(sent.sent(pictures[at : at + _AT_ONCE], rng)).astype(np.float32)
        for at in range(0, len(pictures), _AT_ONCE)
    ]
    return np.concatenate(parts)


def _tiles(images: np.ndarray, height: int, width: int) -> np.ndarray:
    cut = "n c (a h) (b w) -> (n a b) c h w"
    return rearrange(images, cut, h=height, w=width)
