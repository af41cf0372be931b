"""A key that only moves and negates numbers rounds to itself.

An attack that searches among orthogonal matrices comes near the key; if the key is known
to be a permutation with signs, the nearest such matrix is the key itself, exactly, once
the error is below a half. It is the assignment that collects the largest entries
(Kuhn 1955; here SciPy's).

Assumes: a guess at the key, from any attack, and that the scheme is a conventional one.
Costs: one linear assignment of size D.
"""

import numpy as np
from jaxtyping import Float
from scipy.optimize import linear_sum_assignment

from core.errors import ShapeError

Matrix = Float[np.ndarray, "d d"]


def nearest(matrix: Matrix) -> Matrix:
    """Return the permutation with signs that is nearest to a square matrix."""
    if matrix.ndim != len("dd") or matrix.shape[0] != matrix.shape[1]:
        raise ShapeError(f"expected a square matrix, got {matrix.shape}")
    rows, columns = linear_sum_assignment(np.abs(matrix), maximize=True)
    rounded = np.zeros_like(matrix, dtype=np.float64)
    rounded[rows, columns] = np.where(matrix[rows, columns] < 0, -1.0, 1.0)
    return rounded
