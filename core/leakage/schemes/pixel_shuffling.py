"""Block-wise pixel shuffling, with or without the negative/positive transform.

The numbers of a block change places, the same way in every block; with the negative/
positive transform some of them, always the same places, are also replaced by 255 less
themselves. AprilPyone & Kiya, "Block-wise image transformation with secret key for
adversarially robust defense", IEEE TIFS 2021, arXiv 2010.00801; used for keyed models
by Kiya, AprilPyone, Kinoshita, Imaizumi & Shiota, arXiv 2201.11006.

Less 1/2, a negative is a change of sign: the key is a permutation with signs.
"""

import numpy as np

from core.leakage.schemes.block_key import BlockKey, Pixels, signed_permutation

SHUFFLED = "pixel shuffling"
NEGATED = "pixel shuffling, negative/positive"


def draw_shuffled(patch_size: int, channels: int, rng: np.random.Generator) -> BlockKey:
    """Draw a permutation only."""
    coordinates = Pixels(patch_size, channels, mean=0.5)
    order = rng.permutation(coordinates.dimension)
    return BlockKey(SHUFFLED, coordinates, signed_permutation(order))


def draw_negated(patch_size: int, channels: int, rng: np.random.Generator) -> BlockKey:
    """Draw a permutation and, for half of the places on average, a negative."""
    coordinates = Pixels(patch_size, channels, mean=0.5)
    order = rng.permutation(coordinates.dimension)
    signs = rng.choice((-1.0, 1.0), size=coordinates.dimension)
    return BlockKey(NEGATED, coordinates, signed_permutation(order, signs))
