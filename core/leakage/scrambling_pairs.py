"""Known plaintext against block scrambling: one known picture shows where blocks went.

Every plain block, in each of its variants, is compared with what stands at each place;
the assignment of least difference (SciPy's) is the key. Blocks that are equal, or the
same when turned, leave it open which is which: more known pictures close that.

Assumes: pictures and what they became, under one key for every picture.
Costs: places^2 x variants comparisons a picture, and one linear assignment.
"""

import numpy as np
from einops import rearrange
from scipy.optimize import linear_sum_assignment

from core.errors import ShapeError
from core.leakage.moments import Blocks, require_blocks
from core.leakage.schemes.block_scrambling import ScramblingKey, variant_matrices


def recover_key(
    plain: Blocks, scrambled: Blocks, patch_size: int, channels: int
) -> ScramblingKey:
    """Return the key that fits pairs of pictures best; both as blocks less 1/2."""
    require_blocks(plain)
    if plain.shape != scrambled.shape:
        raise ShapeError(f"expected equal shapes, got {plain.shape}, {scrambled.shape}")
    variants = variant_matrices(patch_size, channels)
    known = rearrange(plain, "n rows columns d -> (rows columns) n d")
    seen = rearrange(scrambled, "n rows columns d -> (rows columns) n d")
    likeness = np.stack(
        [np.einsum("ind,jnd->ij", seen, known @ turn.T) for turn in variants]
    )
    # Norms do not change, so the least difference is the largest inner product.
    best = likeness.max(axis=0)
    lengths = (known**2).sum(axis=(1, 2)), (seen**2).sum(axis=(1, 2))
    difference = lengths[1][:, None] + lengths[0][None, :] - 2 * best
    _, places = linear_sum_assignment(difference)
    chosen = likeness[:, np.arange(len(places)), places].argmax(axis=0)
    return ScramblingKey(patch_size, channels, places, chosen)
