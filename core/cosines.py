"""The cosine basis of blocks, from what is even over a block to what is finest.

The discrete cosine transform of type II over channels, rows and columns, orthonormal
(Ahmed, Natarajan & Rao 1974). For natural pictures it is close to their blocks'
principal components, and it needs no pictures: everybody has it.
"""

from itertools import product
from typing import Final

import numpy as np
from jaxtyping import Float64

# Libraries' cosines differ in their last bits: here they all give the same ones.
_GRID: Final = 2.0**40


def cosines(patch_size: int, channels: int) -> Float64[np.ndarray, "d d"]:
    """Return D rows, orthonormal, in a kernel's order: (channel, row, column).

    First come the channels' means, then ever finer rows, by `u^2 + v^2`; of equally
    fine ones, those of all channels together come before their differences.
    """
    hues, lines = _of(channels), _of(patch_size)
    sides = range(patch_size)
    finest_last = sorted(
        product(sides, sides, range(channels)),
        key=lambda each: (each[0] ** 2 + each[1] ** 2, each[2], each),
    )
    rows = [np.kron(hues[h], np.kron(lines[u], lines[v])) for u, v, h in finest_last]
    return np.rint(np.array(rows) * _GRID) / _GRID


def _of(length: int) -> Float64[np.ndarray, "n n"]:
    """Row k: `sqrt(2 / n) cos(pi (2 m + 1) k / (2 n))`, and `sqrt(1 / n)` for k = 0."""
    at = np.arange(length)
    rows = np.cos(np.pi * np.outer(at, 2 * at + 1) / (2 * length))
    scale = np.where(at == 0, 1.0, 2.0) / length
    scaled: np.ndarray = rows * np.sqrt(scale)[:, None]
    return scaled
