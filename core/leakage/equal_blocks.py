"""With no work at all: blocks that are equal stay equal, and show where.

Assumes: one transformed picture under one key for all blocks.
Costs: a comparison of every block with every other. It yields the outlines of plain
areas, not pixels.
"""

from typing import Final

import numpy as np
from jaxtyping import Float

from core.leakage.moments import Blocks, require_blocks

PerPicture = Float[np.ndarray, " n"]

# Of pixels from 0 to 1: below a step of 8 bits, above float32's rounding.
TOLERANCE: Final = 1e-4


def equal_share(blocks: Blocks, tolerance: float = TOLERANCE) -> PerPicture:
    """The share of each picture's blocks that equal another one of it."""
    require_blocks(blocks)
    rows = blocks.reshape(len(blocks), -1, blocks.shape[-1]).astype(np.float64)
    return np.array([_share(one, tolerance) for one in rows])


def _share(rows: Float[np.ndarray, "blocks d"], tolerance: float) -> float:
    squares = (rows**2).sum(axis=1)
    apart = squares[:, None] + squares - 2 * rows @ rows.T
    np.fill_diagonal(apart, np.inf)
    # The difference of two squares of this size is not exact to the last digit.
    rounding = 1e-12 * max(float(squares.max()), 1.0)
    return float((apart.min(axis=1) <= tolerance**2 + rounding).mean())
