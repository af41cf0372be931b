"""Two embeddings issued from one model: how their keys lie to one another is open.

`W_1 = W A_1^T` and `W_2 = W A_2^T` give `A_2 A_1^T = W_2^+ W_1`: one pseudoinverse
turns every ciphertext of one key into one of the other. A server holds both, so a
rotated key is no new secret to it, and one leaked key opens every other of that model.

Assumes: two issued embeddings of one model of rank D; to get a key, the other one.
Costs: one pseudoinverse of hidden x D. No ciphertext. Source: our own; it is linear
algebra.
"""

import numpy as np
from jaxtyping import Float

from core.leakage.public_embedding import require_embeddings

Embedding = Float[np.ndarray, "hidden d"]
Matrix = Float[np.ndarray, "d d"]


def relation(first: Embedding, second: Embedding) -> Matrix:
    """Return `A_2 A_1^T`, which takes blocks of the first key to the second's."""
    require_embeddings(first, second)
    return np.linalg.pinv(second.astype(np.float64)) @ first


def other_key(first: Embedding, leaked: Matrix, second: Embedding) -> Matrix:
    """Return the second key from the first: `A_2 = (A_2 A_1^T) A_1`."""
    return relation(first, second) @ leaked
