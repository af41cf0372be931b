"""In which directions the blocks of images differ most: their principal components."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
from einops import rearrange, repeat
from jaxtyping import Float32, Float64, UInt8

from core.errors import ShapeError
from core.preprocessing import Preprocessing

Pixels = UInt8[np.ndarray, "n h w c"]

_AT_ONCE: Final = 500


@dataclass(frozen=True, slots=True, eq=False)
class BlockMoments:
    """Of raw blocks, numbers 0..255 in the order of a kernel: how many, and their sums.

    `sums` [D] and `products` [D, D] are integers that float64 holds exactly, for up to
    10^11 blocks; so those of several parts can be added up, in any order.
    """

    blocks: int
    sums: Float64[np.ndarray, " d"]
    products: Float64[np.ndarray, "d d"]


def moments_of(images: Pixels, patch_size: int) -> BlockMoments:
    """Add up the blocks of uint8 images, and their products."""
    height, width, channels = images.shape[1:]
    if height % patch_size or width % patch_size:
        raise ShapeError(f"{height}x{width} does not split into blocks of {patch_size}")
    dimension = channels * patch_size**2
    sums, products = np.zeros(dimension), np.zeros((dimension, dimension))
    cut = "n (rows p) (columns q) c -> (n rows columns) (c p q)"
    count = 0
    for start in range(0, len(images), _AT_ONCE):
        part = images[start : start + _AT_ONCE].astype(np.float64)
        blocks = rearrange(part, cut, p=patch_size, q=patch_size)
        count += len(blocks)
        sums += blocks.sum(axis=0)
        products += blocks.T @ blocks
    return BlockMoments(count, sums, products)


def added(parts: Iterable[BlockMoments]) -> BlockMoments:
    """The moments of several parts together."""
    first, *others = parts
    blocks, sums, products = first.blocks, first.sums.copy(), first.products.copy()
    for part in others:
        blocks += part.blocks
        sums += part.sums
        products += part.products
    return BlockMoments(blocks, sums, products)


def strongest(
    moments: BlockMoments, preprocessing: Preprocessing, count: int
) -> Float32[np.ndarray, "count d"]:
    """The directions of largest variance of normalised blocks, strongest first.

    Eigenvectors of the covariance, mean taken off. Each has its largest number
    positive: an eigenvector has no sign of its own.
    """
    mean = moments.sums / moments.blocks
    covariance = moments.products / moments.blocks - np.outer(mean, mean)
    std = np.array(preprocessing.std) * 255
    scale = repeat(std, "c -> (c k)", k=len(mean) // len(std))
    _, vectors = np.linalg.eigh(covariance / np.outer(scale, scale))
    found = vectors[:, ::-1][:, :count].T
    largest = np.take_along_axis(found, np.abs(found).argmax(1)[:, None], axis=1)
    signed: Float32[np.ndarray, "count d"] = (found * np.sign(largest)).astype("f4")
    return signed
