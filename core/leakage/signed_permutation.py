"""A key that only moves and negates numbers rounds to itself.

An attack that searches among orthogonal matrices comes near the key; if it is known to
be a permutation with signs, the nearest such matrix is the key itself, exactly, once
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
Pairs = Float[np.ndarray, "n d"]


def nearest(matrix: Matrix) -> Matrix:
    """Return the permutation with signs that is nearest to a square matrix."""
    if matrix.ndim != len("dd") or matrix.shape[0] != matrix.shape[1]:
        raise ShapeError(f"expected a square matrix, got {matrix.shape}")
    rows, columns = linear_sum_assignment(np.abs(matrix), maximize=True)
    rounded = np.zeros_like(matrix, dtype=np.float64)
    rounded[rows, columns] = np.where(matrix[rows, columns] < 0, -1.0, 1.0)
    return rounded


def from_pairs(plain: Pairs, transformed: Pairs) -> Matrix:
    """Return the permutation with signs that takes plain blocks nearest to the others.

    Place `i` shows number `j` where its values over all pairs are those of `j`, or
    their negatives; two blocks of many grey levels leave little doubt.
    """
    if plain.shape != transformed.shape or plain.ndim != len("nd") or not plain.size:
        raise ShapeError(
            f"expected two equal [n, D], got {plain.shape} and {transformed.shape}"
        )
    seen, known = transformed.T[:, None], plain.T[None]
    straight = ((seen - known) ** 2).sum(axis=-1)
    negated = ((seen + known) ** 2).sum(axis=-1)
    rows, columns = linear_sum_assignment(np.minimum(straight, negated))
    matrix = np.zeros(straight.shape)
    reversed_ = negated[rows, columns] < straight[rows, columns]
    matrix[rows, columns] = np.where(reversed_, -1.0, 1.0)
    return matrix
