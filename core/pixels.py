"""From pixels to encrypted blocks in one affine step: normalisation folded into a key.

With `x` the raw pixels of a block, `m` and `s` the mean and deviation of each of its
numbers, `A ((x / 255 - m) / s) = (A D) x + c`, where `D = diag(1 / (255 s))` and
`c = -A (m / s)`. Both are made in float64 once, and used in float32.
"""

from dataclasses import dataclass, field
from typing import Final, NoReturn, Self

import numpy as np
from einops import rearrange, repeat
from jaxtyping import Float32, UInt8

from core.errors import DtypeError, KeyMismatchError, ShapeError
from core.keys import BlockKey
from core.preprocessing import Preprocessing

Pixels = UInt8[np.ndarray, "n h w c"]
Blocks = Float32[np.ndarray, "n rows columns d"]

# So few images at a time that what is between two steps stays in the cache, and that
# the C library does not fetch its memory from the system, page by page, in every call.
_CHUNK_NUMBERS: Final = 1 << 15


@dataclass(frozen=True, slots=True, eq=False)
class PixelKey:
    """A key with a model's normalisation in it; as secret as the key.

    `matrix` is (A D) transposed, its rows in the order in which pixels lie in memory:
    (row, column, channel).
    """

    patch_size: int
    preprocessing: Preprocessing
    matrix: Float32[np.ndarray, "d d"] = field(repr=False)
    offset: Float32[np.ndarray, " d"] = field(repr=False)

    @classmethod
    def of(cls, key: BlockKey, preprocessing: Preprocessing) -> Self:
        """Fold the normalisation into a key, or raise `KeyMismatchError`."""
        p, channels, side = preprocessing, key.channels, key.patch_size
        if p.channels != channels or p.height % side or p.width % side:
            raise KeyMismatchError(
                f"a key for {channels} channels and patches of {side}, pictures of "
                f"{p.height}x{p.width}x{p.channels}"
            )
        mean, std = (
            repeat(np.array(each), "c -> (c p q)", p=side, q=side)
            for each in (p.mean, p.std)
        )
        order = "d (c p q) -> (p q c) d"
        folded = rearrange(key.matrix / (255 * std), order, c=channels, p=side)
        offset = -key.matrix @ (mean / std)
        return cls(
            side,
            p,
            np.ascontiguousarray(folded, dtype=np.float32),
            offset.astype(np.float32),
        )

    def encrypt(self, pixels: Pixels) -> Blocks:
        """Equal to `encrypt(normalise(pixels, preprocessing), key)` up to rounding."""
        p, side = self.preprocessing, self.patch_size
        _require_pixels(pixels, p)
        shape = (len(pixels), p.height // side, p.width // side, len(self.offset))
        blocks = np.empty((shape[0], shape[1] * shape[2], shape[3]), dtype=np.float32)
        chunk = max(1, _CHUNK_NUMBERS // (p.height * p.width * p.channels))
        plain = np.empty((min(chunk, len(pixels)), *blocks.shape[1:]), np.float32)
        for start in range(0, len(pixels), chunk):
            here = blocks[start : start + chunk]
            cut = _cut(pixels[start : start + chunk], side)
            np.copyto(plain[: len(here)], cut.reshape(here.shape))
            # An image at a time: one tall product would wait for BLAS's other threads.
            np.matmul(plain[: len(here)], self.matrix, out=here)
            here += self.offset
        return blocks.reshape(shape)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a PixelKey is neither pickled nor copied; fold it again")


def _cut(pixels: Pixels, side: int) -> UInt8[np.ndarray, "..."]:
    """Cut into blocks as bytes: a block's row of pixels is moved as one item."""
    n, height, _, channels = pixels.shape
    row = np.dtype((np.void, side * channels))
    rows = np.ascontiguousarray(pixels).reshape(n, height, -1).view(row)
    # As einops would write it: n (rows p) columns -> n rows columns p. For one image
    # einops alone would take as long as all the rest.
    items = rows.reshape(n, height // side, side, -1).swapaxes(2, 3)
    return np.ascontiguousarray(items).view(np.uint8)


def _require_pixels(pixels: Pixels, p: Preprocessing) -> None:
    if pixels.dtype != np.uint8:
        raise DtypeError(f"expected uint8 pixels, got {pixels.dtype}")
    expected = (p.height, p.width, p.channels)
    if pixels.ndim != len("nhwc") or pixels.shape[1:] != expected:
        raise ShapeError(f"expected (n, {expected}) pixels, got {pixels.shape}")
