"""Ours: a random orthogonal matrix (Aso, Chuman & Kiya, arXiv 2301.03843).

The keys are Haar-distributed, as the key holder's are (`core.orthogonal`), but drawn
from NumPy's generator: thousands are needed, and none is a secret.
"""

from functools import partial

import numpy as np

from core.leakage.schemes.block_key import BlockKey, Coordinates, Matrix
from core.leakage.sent_pixels import SentPixels

NAME = "random orthogonal"


def draw(coordinates: Coordinates, rng: np.random.Generator) -> BlockKey:
    """Draw a key; under a shield with noise it draws that for every picture, too."""
    matrix = haar(coordinates.dimension, rng)
    if isinstance(coordinates, SentPixels) and coordinates.noisy:
        (noise,) = rng.spawn(1)
        return BlockKey(NAME, coordinates, matrix, partial(coordinates.sent, rng=noise))
    return BlockKey(NAME, coordinates, matrix)


def haar(dimension: int, rng: np.random.Generator) -> Matrix:
    """Q of a Gaussian matrix, with the signs that make it Haar (Mezzadri 2007)."""
    q, r = np.linalg.qr(rng.standard_normal((dimension, dimension)))
    return q * np.where(np.diag(r) < 0, -1.0, 1.0)
