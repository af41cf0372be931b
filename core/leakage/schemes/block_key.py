"""A scheme that multiplies every block by one secret orthogonal matrix."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from jaxtyping import Float

from core.blocks import from_blocks, to_blocks
from core.errors import KeyMismatchError
from core.leakage.fidelity import Pictures
from core.leakage.moments import Blocks

Matrix = Float[np.ndarray, "d d"]


class Coordinates(Protocol):
    """The public way from pictures to the numbers that the key multiplies, and back."""

    @property
    def dimension(self) -> int:
        """D, the numbers of a block."""

    def blocks(self, pictures: Pictures) -> Blocks:
        """Cut pictures of 0 to 1 into blocks of D numbers."""

    def pictures(self, blocks: Blocks) -> Pictures:
        """Undo `blocks`; what is no picture is rounded to the nearest."""


@dataclass(frozen=True, slots=True)
class Pixels:
    """A block's pixels, each less `mean` and divided by `deviation`."""

    patch_size: int
    channels: int
    mean: float | tuple[float, ...] = 0.0
    deviation: float | tuple[float, ...] = 1.0

    @property
    def dimension(self) -> int:
        return self.channels * self.patch_size**2

    def blocks(self, pictures: Pictures) -> Blocks:
        mean, deviation = self._scale()
        return to_blocks(
            (pictures.astype(np.float64) - mean) / deviation, self.patch_size
        )

    def pictures(self, blocks: Blocks) -> Pictures:
        mean, deviation = self._scale()
        pixels = from_blocks(blocks.astype(np.float64), self.patch_size, self.channels)
        return pixels * deviation + mean

    def _scale(self) -> tuple[np.ndarray, np.ndarray]:
        mean, deviation = (
            np.broadcast_to(np.array(each, dtype=np.float64), self.channels)
            for each in (self.mean, self.deviation)
        )
        return mean[:, None, None], deviation[:, None, None]


@dataclass(frozen=True, slots=True, eq=False)
class BlockKey:
    """One key of a scheme: `y = A x` for every block, in the scheme's coordinates.

    `sent` makes the blocks that it is applied to, where that is not for the coordinates
    alone to say: noise is drawn anew for every picture.
    """

    scheme: str
    coordinates: Coordinates
    matrix: Matrix = field(repr=False)
    sent: Callable[[Pictures], Blocks] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        expected = (self.coordinates.dimension,) * 2
        if self.matrix.shape != expected:
            raise KeyMismatchError(
                f"expected a key of {expected}, got {self.matrix.shape}"
            )

    def encrypt(self, pictures: Pictures) -> Blocks:
        """Return the transformed blocks of pictures from 0 to 1."""
        return (self.sent or self.coordinates.blocks)(pictures) @ self.matrix.T

    def decrypt(self, blocks: Blocks) -> Pictures:
        """Undo `encrypt`."""
        return self.coordinates.pictures(blocks @ self.matrix)


def signed_permutation(order: np.ndarray, signs: np.ndarray | None = None) -> Matrix:
    """The matrix that puts number `order[i]`, times `signs[i]`, at place `i`."""
    size = len(order)
    matrix = np.zeros((size, size))
    matrix[np.arange(size), order] = 1.0 if signs is None else signs
    return matrix
