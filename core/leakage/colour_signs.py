"""Ciphertext only, the last choice: which of the colour axes came out as its negative.

Second moments do not tell a picture from one whose colour axes (light, and two of hue)
are mirrored, wherever their mean is near zero. How often colours occur in public
pictures does: the likeliest of the eight (of the two, if grey) is taken.

Assumes: a guess that decrypts up to those signs, and public pictures.
Costs: eight histograms. Source: `second_order`, whose answer it completes.
"""

from collections.abc import Callable
from itertools import product
from typing import Final

import numpy as np
from jaxtyping import Float

from core.leakage.fidelity import Pictures
from core.leakage.moments import Blocks

Matrix = Float[np.ndarray, "d d"]
ToPictures = Callable[[Blocks], Pictures]

# Steps of each channel, and one on either side for what is no colour at all.
_BINS: Final = 12
_MARGIN: Final = 0.05
_UNKNOWN: Final = 0.01


class Colours:
    """How often each colour occurs in public pictures, and their three main axes."""

    def __init__(self, pictures: Pictures, lift: Matrix | None = None) -> None:
        """Count; `lift` [D, r] leads back to D numbers where a shield left r."""
        self._lift = lift
        self._channels = pictures.shape[1]
        pixels = pictures.transpose(0, 2, 3, 1).reshape(-1, self._channels)
        _, self._axes = np.linalg.eigh(np.cov(pixels.T).reshape(self._channels, -1))
        sides = (_BINS + 2,) * self._channels
        places = np.ravel_multi_index(_places(pixels), sides)
        counts = np.bincount(places, minlength=int(np.prod(sides))).reshape(sides)
        share = (1 - _UNKNOWN) * counts / counts.sum() + _UNKNOWN / counts.size
        self._log_share = np.log(share)

    def choose(self, matrix: Matrix, blocks: Blocks, to_pictures: ToPictures) -> Matrix:
        """Return `matrix`, its colour axes mirrored as makes the pictures likeliest."""
        return max(
            self.mirrored(matrix),
            key=lambda each: self.likelihood(to_pictures(blocks @ each.T)),
        )

    def mirrored(self, matrix: Matrix) -> list[Matrix]:
        """Return the eight (two, if grey) that `choose` chooses from.

        Under a shield they are near orthogonal only: what it drops is no longer there
        to be mirrored.
        """
        lift = self._lift
        pixels = len(matrix if lift is None else lift) // self._channels
        found = []
        for signs in product((1.0, -1.0), repeat=self._channels):
            mirror = self._axes * np.array(signs) @ self._axes.T
            turn = np.kron(mirror, np.eye(pixels))
            found.append((turn if lift is None else lift.T @ turn @ lift) @ matrix)
        return found

    def likelihood(self, pictures: Pictures) -> float:
        """Mean log share of the pictures' colours among those of public pictures."""
        pixels = pictures.transpose(0, 2, 3, 1).reshape(-1, self._channels)
        return float(self._log_share[_places(pixels)].mean())


def _places(pixels: Float[np.ndarray, "m c"]) -> tuple[np.ndarray, ...]:
    inside = np.clip(np.floor(pixels * _BINS), 0, _BINS - 1) + 1
    below, above = pixels < -_MARGIN, pixels > 1 + _MARGIN
    places = np.where(below, 0, np.where(above, _BINS + 1, inside))
    return tuple(places.astype(np.int64).T)
