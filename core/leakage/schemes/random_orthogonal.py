"""Ours: a random orthogonal matrix (Aso, Chuman & Kiya, arXiv 2301.03843).

The keys are Haar-distributed, as the key holder's are (`core.orthogonal`), but drawn
from NumPy's generator: thousands are needed, and none is a secret.
"""

import numpy as np

from core.leakage.schemes.block_key import BlockKey, Coordinates, Matrix

NAME = "random orthogonal"


def draw(coordinates: Coordinates, rng: np.random.Generator) -> BlockKey:
    """Draw a key."""
    return BlockKey(NAME, coordinates, haar(coordinates.dimension, rng))


def haar(dimension: int, rng: np.random.Generator) -> Matrix:
    """Q of a Gaussian matrix, with the signs that make it Haar (Mezzadri 2007)."""
    q, r = np.linalg.qr(rng.standard_normal((dimension, dimension)))
    return q * np.where(np.diag(r) < 0, -1.0, 1.0)
