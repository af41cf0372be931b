"""A public patch embedding, and the one issued for a key, give the key.

The issued embedding is `W' = V A^T`, where `V` is a public `W`, or what fine-tuning
made of it. The nearest orthogonal matrix to `W'^T W` is `A` itself if `V = W` has rank
D (orthogonal Procrustes, Schoenemann 1966, Psychometrika 31:1), and near it otherwise.

Assumes: the issued embedding, and the public weights that the model's came from. Costs:
one singular value decomposition of D x D. No ciphertext.
"""

import numpy as np
from jaxtyping import Float

from core.errors import NonFiniteError, ShapeError

Embedding = Float[np.ndarray, "hidden d"]
Matrix = Float[np.ndarray, "d d"]


def recover_key(public: Embedding, issued: Embedding) -> Matrix:
    """Return the orthogonal `A` for which `public A^T` is nearest to `issued`."""
    require_embeddings(public, issued)
    u, _, vt = np.linalg.svd(issued.T.astype(np.float64) @ public)
    return u @ vt


def require_embeddings(one: Embedding, other: Embedding) -> None:
    """Raise `ShapeError` or `NonFiniteError` unless both are alike: [hidden, D]."""
    if one.shape != other.shape or one.ndim != len("hd") or not one.size:
        raise ShapeError(
            f"expected two equal [hidden, D], got {one.shape} and {other.shape}"
        )
    if not (np.isfinite(one).all() and np.isfinite(other).all()):
        raise NonFiniteError("an embedding holds NaN or infinity")
