"""Cut images into blocks, hide each block behind a key, put them back.

A block is one patch of the model's patch embedding: `x` in R^D, D = C p^2, its numbers
in the order (channel, row, column) of a convolution's kernel.
"""

from typing import Final

import numpy as np
from einops import rearrange
from jaxtyping import Float

from core.errors import DtypeError, KeyMismatchError, NonFiniteError, ShapeError
from core.keys import BlockKey

Images = Float[np.ndarray, "n c h w"]
Blocks = Float[np.ndarray, "n rows columns d"]

_AXES: Final = 4


def to_blocks(images: Images, patch_size: int) -> Blocks:
    """Cut images into patches that do not overlap."""
    _require_numbers(images)
    height, width = images.shape[2:]
    if patch_size < 1 or height % patch_size or width % patch_size:
        raise ShapeError(
            f"{height}x{width} does not split into {patch_size}x{patch_size} blocks"
        )
    cut = "n c (rows p) (columns q) -> n rows columns (c p q)"
    return rearrange(images, cut, p=patch_size, q=patch_size)


def from_blocks(blocks: Blocks, patch_size: int, channels: int) -> Images:
    """Undo `to_blocks`."""
    _require_numbers(blocks)
    if blocks.shape[-1] != channels * patch_size**2:
        raise ShapeError(
            f"blocks of {blocks.shape[-1]} are not {channels}x{patch_size}x{patch_size}"
        )
    join = "n rows columns (c p q) -> n c (rows p) (columns q)"
    return rearrange(blocks, join, c=channels, p=patch_size, q=patch_size)


def encrypt(images: Images, key: BlockKey) -> Blocks:
    """Replace every block `x` of every image by `A x`, in the images' own precision.

    This hides pictures from the eye; it is not encryption in the cryptographer's sense
    (Aso, Chuman & Kiya, arXiv 2301.03843; see `docs/threat-model.md`).
    """
    blocks = to_blocks(images, key.patch_size)
    if images.shape[1] != key.channels:
        raise ShapeError(f"expected {key.channels} channels, got {images.shape[1]}")
    return blocks @ key.matrix.T.astype(images.dtype)


def decrypt(blocks: Blocks, key: BlockKey) -> Images:
    """Undo `encrypt`: the inverse of an orthogonal matrix is its transpose."""
    _require_numbers(blocks)
    if blocks.shape[-1] != key.dimension:
        raise KeyMismatchError(
            f"blocks of {blocks.shape[-1]}, a key for {key.dimension}"
        )
    plain = blocks @ key.matrix.astype(blocks.dtype)
    return from_blocks(plain, key.patch_size, key.channels)


def _require_numbers(array: np.ndarray) -> None:
    if array.dtype not in (np.float32, np.float64):
        raise DtypeError(f"expected float32 or float64, got {array.dtype}")
    if array.ndim != _AXES:
        raise ShapeError(f"expected {_AXES} axes, got {array.ndim}")
    if not np.isfinite(array).all():
        raise NonFiniteError("the images hold NaN or infinity")
