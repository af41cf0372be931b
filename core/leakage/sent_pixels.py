"""What a release has its owners send, before the key: pixels, or what a shield leaves.

`blocks` is what an attacker who has a picture can know of it: without the noise, which
is drawn for every request. `sent` has the noise.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from einops import rearrange
from jaxtyping import Float

from core.leakage.fidelity import Pictures
from core.leakage.moments import Blocks
from core.leakage.schemes.block_key import Coordinates, Pixels
from core.preprocessing import Preprocessing
from core.shield import Shield, spread

# From all that is left of a picture, [n, r, rows, columns], to the picture.
Estimate = Callable[[np.ndarray], Pictures]


@dataclass(frozen=True, slots=True)
class SentPixels:
    """`P x` of each block of normalised pixels, or `|P x|`; without a shield, `x`.

    With an `estimate` what was taken is told from all of a picture's blocks; without
    one it is the mean, and a plus, which understates an attacker.
    """

    pixels: Pixels
    shield: Shield | None = None
    estimate: Estimate | None = field(default=None, repr=False)

    @classmethod
    def of(
        cls, preprocessing: Preprocessing, patch_size: int, shield: Shield | None
    ) -> "SentPixels":
        """As a manifest says: `patch_size` is that of the pictures' blocks."""
        p = preprocessing
        return cls(Pixels(patch_size, p.channels, p.mean, p.std), shield)

    @property
    def dimension(self) -> int:
        """D, or the r numbers that the shield leaves of it."""
        return self.pixels.dimension if self.shield is None else self.shield.outputs

    @property
    def patch_size(self) -> int:
        """The side of a picture's block, in pixels."""
        return self.pixels.patch_size

    @property
    def channels(self) -> int:
        """Of the pictures."""
        return self.pixels.channels

    @property
    def noisy(self) -> bool:
        """Whether two requests about one picture differ."""
        return self.shield is not None and any(self.shield.deviations)

    def blocks(self, pictures: Pictures) -> Blocks:
        """Cut pictures of 0 to 1 into blocks, and drop what the shield drops."""
        return self._left(self.pixels.blocks(pictures))

    def pictures(self, blocks: Blocks) -> Pictures:
        """Undo `blocks` as far as that can be done."""
        if self.estimate is None:
            return self.shown(blocks)
        return self.estimate(as_channels(blocks)).astype(np.float64)

    def shown(self, blocks: Blocks) -> Pictures:
        """Undo `blocks` one by one, `P^T P x`: what was dropped is the mean."""
        whole = blocks if self.shield is None else blocks @ self.shield.projection()
        return self.pixels.pictures(whole)

    def sent(self, pictures: Pictures, rng: np.random.Generator) -> Blocks:
        """Blocks with the shield's noise, if it has any."""
        whole = self.pixels.blocks(pictures)
        if self.shield is not None and self.noisy:
            whole = whole + rng.standard_normal(whole.shape) * spread(self.shield)
        return self._left(whole)

    def _left(self, whole: Blocks) -> Blocks:
        """What a shield without noise leaves of blocks of D numbers."""
        if self.shield is None:
            return whole
        left = whole @ self.shield.projection().T
        return np.abs(left) if self.shield.unsigned else left


def sent_blocks(
    coordinates: Coordinates, pictures: Pictures, rng: np.random.Generator
) -> Blocks:
    """What the key is applied to: blocks, with the noise if a shield adds any."""
    if isinstance(coordinates, SentPixels):
        return coordinates.sent(pictures, rng)
    return coordinates.blocks(pictures)


def lift_of(coordinates: Coordinates) -> Float[np.ndarray, "d r"] | None:
    """`P^T`, from what a shield leaves back to D numbers; None without a shield."""
    if isinstance(coordinates, SentPixels) and coordinates.shield is not None:
        return coordinates.shield.projection().T
    return None


def shown(coordinates: Coordinates, blocks: Blocks) -> Pictures:
    """Blocks to be looked at, with nothing estimated."""
    if isinstance(coordinates, SentPixels):
        return coordinates.shown(blocks)
    return coordinates.pictures(blocks)


def as_channels(blocks: Blocks) -> Float[np.ndarray, "n r rows columns"]:
    """Blocks as the smaller image that they are once a shield was applied."""
    return rearrange(blocks, "n rows columns r -> n r rows columns")
