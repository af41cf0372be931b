"""Known plaintext: some blocks and what they became give the key.

Orthogonal Procrustes (Schoenemann 1966, Psychometrika 31:1): with `X` the known blocks
and `Y` what they became, `Y^T X = U S V^T`, the nearest orthogonal matrix is `U V^T`.
Fewer blocks than D leave directions unseen; what lies there is then guessed from what
lies in the others, as the conditional mean of a Gaussian of public pictures.

Assumes: pairs of plain and transformed blocks (a picture that was public, or that the
attacker had sent: its norms find it, see `gallery`), and one key for all blocks.
Costs: one singular value decomposition of D x D; nothing that grows with a secret.
"""

from dataclasses import dataclass, field
from typing import Final

import numpy as np
from jaxtyping import Float

from core.errors import NonFiniteError, ShapeError
from core.leakage.moments import BlockPrior

Pairs = Float[np.ndarray, "n d"]
Blocks = Float[np.ndarray, "n rows columns d"]
Matrix = Float[np.ndarray, "d d"]

# Singular values below this share of the largest are rounding of float64, not sight.
_FLOOR: Final = 1e-12


@dataclass(frozen=True, slots=True, eq=False)
class SeenDirections:
    """Where the key is known: `transformed^T A x = plain^T x`, both [D, seen]."""

    plain: Float[np.ndarray, "d seen"] = field(repr=False)
    transformed: Float[np.ndarray, "d seen"] = field(repr=False)


def procrustes(plain: Pairs, transformed: Pairs) -> Matrix:
    """Return the orthogonal `A` that takes the plain blocks nearest to the others.

    Directions that no pair shows are filled in arbitrarily.
    """
    _require_pairs(plain, transformed)
    u, _, vt = np.linalg.svd(transformed.T.astype(np.float64) @ plain)
    return u @ vt


def seen_directions(
    plain: Pairs, transformed: Pairs, floor: float = _FLOOR
) -> SeenDirections:
    """Return only what the pairs show; `floor` grows with how coarse numbers travel."""
    _require_pairs(plain, transformed)
    u, s, vt = np.linalg.svd(transformed.T.astype(np.float64) @ plain)
    seen = s > floor * max(float(s[0]), np.finfo(float).tiny)
    return SeenDirections(vt[seen].T, u[:, seen])


def recover(blocks: Blocks, seen: SeenDirections, prior: BlockPrior) -> Blocks:
    """Return transformed blocks as the plain ones most likely behind them.

    `x = m + S V (V^T S V)^-1 (U^T y - V^T m)`: the mean of the Gaussian (m, S) given
    the coordinates that are seen.
    """
    observed = blocks @ seen.transformed - prior.mean @ seen.plain
    spread = prior.covariance @ seen.plain
    within = seen.plain.T @ spread
    gain = np.linalg.pinv(within, rcond=1e-12, hermitian=True) @ spread.T
    return prior.mean + observed @ gain


def _require_pairs(plain: Pairs, transformed: Pairs) -> None:
    if plain.shape != transformed.shape or plain.ndim != len("nd") or not plain.size:
        raise ShapeError(
            f"expected two equal [n, D], got {plain.shape} and {transformed.shape}"
        )
    if not (np.isfinite(plain).all() and np.isfinite(transformed).all()):
        raise NonFiniteError("the blocks hold NaN or infinity")
