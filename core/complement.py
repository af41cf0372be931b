"""What is orthogonal to some given directions: a basis, the same bits everywhere.

Householder (1958) reflections, with the operations and the order of sums that
`core.orthogonal` allows itself, so that who trains and who encrypts have one matrix.
"""

import numpy as np
from jaxtyping import Float64

from core.errors import ShapeError
from core.orthogonal import sum_in_order

Directions = Float64[np.ndarray, "k d"]


def complement(directions: Directions) -> Float64[np.ndarray, "r d"]:
    """Return r = D - K orthonormal rows, each orthogonal to each of the K directions.

    Reflections `H` that turn the directions into a triangle, `H V^T = R`, turn what is
    orthogonal to them into the last r axes: it is spanned by the last r rows of `H`.
    """
    if directions.ndim != len("kd") or not 0 < len(directions) < directions.shape[1]:
        raise ShapeError(f"expected fewer directions than D, got {directions.shape}")
    count, dimension = directions.shape
    columns, turned = directions.T.copy(), np.eye(dimension)
    for k in range(count):
        reflector = _reflector(columns[k:, k])
        _reflect(columns[k:], reflector)
        _reflect(turned[k:], reflector)
    return turned[count:].copy()


def _reflector(column: Float64[np.ndarray, " m"]) -> Float64[np.ndarray, " m"]:
    """`v = x + s |x| e_1`, with `s` the sign of `x_1` so that nothing cancels."""
    reflector = column.copy()
    length = np.sqrt(sum_in_order(column * column))
    reflector[0] += np.copysign(length, column[0])
    return reflector


def _reflect(
    rows: Float64[np.ndarray, "m d"], reflector: Float64[np.ndarray, " m"]
) -> None:
    """Replace `x` by `x - 2 v (v^T x) / (v^T v)`, in place."""
    projection = sum_in_order(reflector[:, None] * rows)
    projection *= 2 / sum_in_order(reflector * reflector)
    rows -= reflector[:, None] * projection
