"""With no key: what an orthogonal matrix keeps links pictures to one another.

Norms of blocks, and distances between neighbours, are the same under every key. So a
picture that is sent again, under the same key or a fresh one, is found among others;
and a plain picture that the attacker has finds its ciphertext (a gallery match), which
makes a known-plaintext pair of it.

Assumes: transformed pictures, or plain ones, on both sides; no key.
Costs: a comparison of every picture with every other.
"""

from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from core.errors import ShapeError
from core.leakage.moments import Blocks, require_blocks
from core.leakage.norm_map import norm_map

Features = Float[np.ndarray, "n features"]
Kept = Literal["norms", "distances"]


def features(blocks: Blocks, kept: Kept = "norms") -> Features:
    """What every key keeps: norms of blocks, or distances to the right and below.

    Distances survive an offset that is added to every block, norms do not.
    """
    require_blocks(blocks)
    if kept == "norms":
        return norm_map(blocks).reshape(len(blocks), -1)
    right = np.linalg.norm(np.diff(blocks, axis=2), axis=-1)
    below = np.linalg.norm(np.diff(blocks, axis=1), axis=-1)
    return np.concatenate(
        [right.reshape(len(blocks), -1), below.reshape(len(blocks), -1)], axis=1
    )


def match(sought: Features, gallery: Features) -> Int[np.ndarray, " n"]:
    """For each picture sought, the index of the nearest one of the gallery."""
    if sought.shape[1] != gallery.shape[1] or not sought.shape[1] or not len(gallery):
        raise ShapeError(
            f"expected as many features on both sides, got {sought.shape} and "
            f"{gallery.shape}"
        )
    squares = (gallery**2).sum(axis=1)
    return np.argmin(squares - 2 * sought @ gallery.T, axis=1)
