"""What is known of pictures in general: moments of blocks and of neighbouring blocks.

A window is 2x2 blocks, 4 D numbers. Its second moments hold how neighbours continue one
another, which one block alone does not tell.
"""

from dataclasses import dataclass, field
from typing import Final, Self, TypeAlias

import numpy as np
from einops import rearrange
from jaxtyping import Float

from core.errors import NonFiniteError, ShapeError

Blocks = Float[np.ndarray, "n rows columns d"]
Vector = Float[np.ndarray, " d"]
Square = Float[np.ndarray, "d d"]
# One matrix for each pair of blocks of a window.
Cells: TypeAlias = Float[np.ndarray, "pairs d d"]

# Pairs of the blocks of a window (0 1 / 2 3), a block with itself first.
PAIRS: Final = (
    (0, 0),
    (1, 1),
    (2, 2),
    (3, 3),
    (0, 1),
    (2, 3),
    (0, 2),
    (1, 3),
    (0, 3),
    (1, 2),
)
_IN_WINDOW: Final = 4


@dataclass(frozen=True, slots=True, eq=False)
class BlockPrior:
    """Blocks as a Gaussian: mean [D] and covariance [D, D] of public pictures."""

    mean: Vector = field(repr=False)
    covariance: Square = field(repr=False)

    @classmethod
    def of(cls, blocks: Blocks) -> Self:
        """Estimate both from every block of public pictures."""
        rows = flat(blocks)
        centred = rows - rows.mean(axis=0)
        return cls(rows.mean(axis=0), centred.T @ centred / len(rows))


@dataclass(frozen=True, slots=True, eq=False)
class WindowMoments:
    """Mean [4 D] and raw second moments [4 D, 4 D] of windows of 2x2 blocks."""

    dimension: int
    mean: Float[np.ndarray, " window"] = field(repr=False)
    second: Float[np.ndarray, "window window"] = field(repr=False)

    @classmethod
    def of(cls, blocks: Blocks) -> Self:
        """Take every window, overlapping ones too."""
        require_blocks(blocks)
        if min(blocks.shape[1:3]) < 2:  # noqa: PLR2004 -- a window's side
            raise ShapeError(
                f"a window has 2x2 blocks, the pictures {blocks.shape[1:3]}"
            )
        corners = (
            blocks[:, :-1, :-1],
            blocks[:, :-1, 1:],
            blocks[:, 1:, :-1],
            blocks[:, 1:, 1:],
        )
        windows = np.concatenate([flat(corner) for corner in corners], axis=1)
        second = windows.T @ windows / len(windows)
        return cls(blocks.shape[-1], windows.mean(axis=0), second)

    @property
    def covariance(self) -> Float[np.ndarray, "window window"]:
        return self.second - np.outer(self.mean, self.mean)

    def means(self) -> Float[np.ndarray, "four d"]:
        """The mean block at each of the four places of a window."""
        return self.mean.reshape(_IN_WINDOW, -1)

    def prior(self) -> BlockPrior:
        """Single blocks, over the four places."""
        mean = self.means().mean(axis=0)
        second = cells(self.second)[:_IN_WINDOW].mean(axis=0)
        return BlockPrior(mean, second - np.outer(mean, mean))


def cells(window: Float[np.ndarray, "window window"]) -> Cells:
    """Take a window's matrix apart into one for each of `PAIRS`."""
    parts = rearrange(window, "(i a) (j b) -> i j a b", i=_IN_WINDOW, j=_IN_WINDOW)
    return np.stack([parts[pair] for pair in PAIRS])


def effective_rank(blocks: Blocks, share: float = 0.99) -> int:
    """How many principal components hold this share of the blocks' variance."""
    variances = np.linalg.eigvalsh(BlockPrior.of(blocks).covariance)[::-1]
    held = np.cumsum(variances) / max(variances.sum(), np.finfo(float).tiny)
    return int(np.searchsorted(held, share) + 1)


def flat(blocks: Blocks) -> Float[np.ndarray, "blocks d"]:
    """Every block as a row, in float64."""
    require_blocks(blocks)
    return blocks.reshape(-1, blocks.shape[-1]).astype(np.float64)


def require_blocks(blocks: Blocks) -> None:
    """Raise `ShapeError` or `NonFiniteError` unless these are blocks, at least one."""
    if blocks.ndim != len("nrcd") or not blocks.size:
        raise ShapeError(f"expected blocks [n, rows, columns, D], got {blocks.shape}")
    if not np.isfinite(blocks).all():
        raise NonFiniteError("the blocks hold NaN or infinity")
