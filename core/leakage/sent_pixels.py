"""What a release has its owners send, before the key: pixels, or what a shield leaves.

`blocks` is what an attacker who has a picture can know of it: without the noise, which
is drawn for every request. `sent` has the noise.
"""

from dataclasses import dataclass

import numpy as np

from core.leakage.fidelity import Pictures
from core.leakage.moments import Blocks
from core.leakage.schemes.block_key import Pixels
from core.preprocessing import Preprocessing
from core.shield import Shield, spread


@dataclass(frozen=True, slots=True)
class SentPixels:
    """`P x` of each block of normalised pixels; without a shield P is the identity."""

    pixels: Pixels
    shield: Shield | None = None

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

    def blocks(self, pictures: Pictures) -> Blocks:
        """Cut pictures of 0 to 1 into blocks, and drop what the shield drops."""
        whole = self.pixels.blocks(pictures)
        return whole if self.shield is None else whole @ self.shield.projection().T

    def pictures(self, blocks: Blocks) -> Pictures:
        """Undo `blocks` as far as that can be done: what was dropped is the mean."""
        whole = blocks if self.shield is None else blocks @ self.shield.projection()
        return self.pixels.pictures(whole)

    def sent(self, pictures: Pictures, rng: np.random.Generator) -> Blocks:
        """Blocks with the shield's noise, if it has any."""
        left = self.blocks(pictures)
        if self.shield is None or not any(self.shield.deviations):
            return left
        sides = (*left.shape[:-1], self.pixels.dimension)
        noise = rng.standard_normal(sides) * spread(self.shield)
        return left + noise @ self.shield.projection().T
