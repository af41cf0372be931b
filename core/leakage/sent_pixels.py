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
    """`P x` of each block of normalised pixels, or `|P x|`; without a shield, `x`."""

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
        return self._left(self.pixels.blocks(pictures))

    def pictures(self, blocks: Blocks) -> Pictures:
        """Undo `blocks` as far as that can be done: what was dropped is the mean."""
        whole = blocks if self.shield is None else blocks @ self.shield.projection()
        return self.pixels.pictures(whole)

    def sent(self, pictures: Pictures, rng: np.random.Generator) -> Blocks:
        """Blocks with the shield's noise, if it has any."""
        whole = self.pixels.blocks(pictures)
        if self.shield is not None and any(self.shield.deviations):
            whole = whole + rng.standard_normal(whole.shape) * spread(self.shield)
        return self._left(whole)

    def _left(self, whole: Blocks) -> Blocks:
        """What a shield without noise leaves of blocks of D numbers."""
        if self.shield is None:
            return whole
        left = whole @ self.shield.projection().T
        return np.abs(left) if self.shield.unsigned else left
