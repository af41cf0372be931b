"""What one linear estimate recovers from all blocks of a shielded picture at once.

The estimate of least squared error among linear ones, `E[x] + C_xs C_ss^-1 (s - E[s])`
(Wiener 1949), with the moments of public pictures and a ridge (Hoerl & Kennard 1970,
Technometrics 12:55) chosen on public pictures that no moment is made of. A pixel is
estimated from the numbers of *every* block: an estimate of one block alone understates
an attacker by far, since neighbouring blocks tell what was dropped of it.

Assumes: the key and the shield, and public pictures. Costs: one Cholesky factor of a
matrix with as many rows as a shielded picture has numbers, 3,072 for CIFAR-10: some
seconds.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Self

import numpy as np
from jaxtyping import Float, Float32
from scipy.linalg import cho_factor, cho_solve

from core.errors import DataError, ShapeError
from core.leakage.fidelity import Pictures

Seen = Float[np.ndarray, "n r rows columns"]

# Shares of the mean variance of a number.
_RIDGES: Final = (1e-6, 1e-4, 1e-3, 1e-2, 1e-1)
_HELD_OUT: Final = 0.1


@dataclass(frozen=True, slots=True, eq=False)
class LinearEstimate:
    """`pictures = matrix^T seen + offset`, flattened."""

    matrix: Float32[np.ndarray, "numbers pixels"] = field(repr=False)
    offset: Float32[np.ndarray, " pixels"] = field(repr=False)
    shape: tuple[int, int, int]

    @classmethod
    def of(cls, seen: Seen, pictures: Pictures) -> Self:
        """Fit it to public pictures [n, c, h, w] and what a shield leaves of them.

        Raises:
            DataError: fewer than 20 pictures.
            ShapeError: not one of each for every picture.
        """
        if len(seen) != len(pictures):
            raise ShapeError(f"{len(seen)} seen, but {len(pictures)} pictures")
        if len(seen) < 2 / _HELD_OUT:
            raise DataError(f"expected at least 20 public pictures, got {len(seen)}")
        held_out = max(1, int(_HELD_OUT * len(seen)))
        numbers, pixels = (
            each.reshape(len(each), -1).astype(np.float32) for each in (seen, pictures)
        )
        fitted = _fits(numbers[held_out:], pixels[held_out:], _RIDGES)
        errors = [
            np.square(numbers[:held_out] @ m + b - pixels[:held_out]).mean()
            for m, b in fitted
        ]
        matrix, offset = fitted[int(np.argmin(errors))]
        _, channels, height, width = pictures.shape
        return cls(matrix, offset, (channels, height, width))

    def __call__(self, seen: Seen) -> Pictures:
        """Estimate pictures [n, c, h, w], float32; not clipped."""
        numbers = seen.reshape(len(seen), -1).astype(np.float32)
        return (numbers @ self.matrix + self.offset).reshape(-1, *self.shape)


def _fits(
    numbers: Float32[np.ndarray, "n numbers"],
    pixels: Float32[np.ndarray, "n pixels"],
    ridges: Sequence[float],
) -> list[tuple[Float32[np.ndarray, "numbers pixels"], Float32[np.ndarray, " pixels"]]]:
    """A matrix and an offset for each ridge that is large enough, from one gram."""
    mean, middle = numbers.mean(axis=0), pixels.mean(axis=0)
    centred = numbers - mean
    gram = (centred.T @ centred).astype(np.float64)
    across = (centred.T @ (pixels - middle)).astype(np.float64)
    found = []
    for ridge in ridges:
        added = ridge * np.trace(gram) / len(gram)
        try:
            factor = cho_factor(gram + added * np.eye(len(gram)), check_finite=False)
        except np.linalg.LinAlgError:
            # Of fewer pictures than numbers float32 leaves more than so small a ridge.
            continue
        matrix = cho_solve(factor, across, check_finite=False).astype(np.float32)
        found.append((matrix, middle - mean @ matrix))
    return found
