"""Learnable image encryption: halves of bytes are reversed and shuffled in a block.

Every 8-bit number is split into its upper and lower four bits; some of the 2 D halves,
always the same places of a block, are replaced by 15 less themselves; all of them
change places, the same way in every block; two and two make bytes again. Tanaka,
"Learnable image encryption", ICCE-TW 2018, arXiv 1804.00490 (there with patches of
4x4).

In halves, each scaled to -1/2..1/2, the key is a permutation with signs of size 2 D.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from core.blocks import from_blocks, to_blocks
from core.leakage.fidelity import Pictures
from core.leakage.moments import Blocks
from core.leakage.schemes.block_key import BlockKey, signed_permutation

NAME = "learnable encryption"

_LARGEST: Final = 15


@dataclass(frozen=True, slots=True)
class Halves:
    """Upper halves of a block's bytes, then the lower ones, each from -1/2 to 1/2."""

    patch_size: int
    channels: int

    @property
    def dimension(self) -> int:
        return 2 * self.channels * self.patch_size**2

    def blocks(self, pictures: Pictures) -> Blocks:
        steps = np.rint(np.clip(pictures, 0, 1) * 255)
        plain = to_blocks(steps.astype(np.float64), self.patch_size)
        upper, lower = np.divmod(plain, _LARGEST + 1)
        return np.concatenate([upper, lower], axis=-1) / _LARGEST - 0.5

    def pictures(self, blocks: Blocks) -> Pictures:
        halves = np.rint(np.clip(blocks + 0.5, 0, 1) * _LARGEST)
        upper, lower = np.split(halves, 2, axis=-1)
        plain = (upper * (_LARGEST + 1) + lower) / 255
        return from_blocks(plain, self.patch_size, self.channels)


def draw(patch_size: int, channels: int, rng: np.random.Generator) -> BlockKey:
    """Draw a permutation of halves, half of them reversed on average."""
    coordinates = Halves(patch_size, channels)
    order = rng.permutation(coordinates.dimension)
    signs = rng.choice((-1.0, 1.0), size=coordinates.dimension)
    return BlockKey(NAME, coordinates, signed_permutation(order, signs))
