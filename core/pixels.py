"""From pixels to encrypted blocks in one affine step: normalisation folded into a key.

With `x` the raw pixels of a block, `m` and `s` the mean and deviation of each of its
numbers, `A ((x / 255 - m) / s) = (A D) x + c`, where `D = diag(1 / (255 s))` and
`c = -A (m / s)`. Both are made in float64 once, and used in float32. With a shield
`P (x + n)` the key stands for `A P`, and `A P n` is added. A shield that sends
magnitudes comes between the two: `P` alone is folded, and `A` is applied to `|P x|`.
"""

import os
from dataclasses import dataclass, field
from typing import Final, NoReturn, Self

import numpy as np
from einops import rearrange, repeat
from jaxtyping import Float32, UInt8

from core.errors import DtypeError, KeyMismatchError, ShapeError
from core.keys import BlockKey
from core.normals import Entropy, normals
from core.preprocessing import Preprocessing
from core.shield import Shield, spread

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
    matrix: Float32[np.ndarray, "d r"] = field(repr=False)
    offset: Float32[np.ndarray, " r"] = field(repr=False)
    # What turns drawn numbers, in the order of a kernel, into the noise; None: none.
    drowning: Float32[np.ndarray, "d r"] | None = field(repr=False)
    # A transposed, for the magnitudes of what the others give; None: it is in them.
    turning: Float32[np.ndarray, "r r"] | None = field(repr=False)

    @classmethod
    def of(
        cls, key: BlockKey, preprocessing: Preprocessing, shield: Shield | None = None
    ) -> Self:
        """Fold normalisation and shield into a key, or raise `KeyMismatchError`."""
        p = preprocessing
        side = key.patch_size if shield is None else shield.patch_size
        _require_fit(key, p, shield)
        unsigned = shield is not None and shield.unsigned
        whole = _whole(key, shield)
        mean, std = (
            repeat(np.array(each), "c -> (c p q)", p=side, q=side)
            for each in (p.mean, p.std)
        )
        order = "r (c p q) -> (p q c) r"
        folded = rearrange(whole / (255 * std), order, c=p.channels, p=side)
        drowning = None
        if shield is not None and any(shield.deviations):
            drowning = _float32((whole * spread(shield)).T)
        offset = _float32(-whole @ (mean / std))
        turning = _float32(key.matrix.T) if unsigned else None
        return cls(side, p, _float32(folded), offset, drowning, turning)

    def encrypt(self, pixels: Pixels, entropy: Entropy = os.urandom) -> Blocks:
        """Encrypt pictures; the shield's noise, if there is any, is drawn in each call.

        Without a shield it is equal to `encrypt(normalise(pixels, preprocessing), key)`
        up to rounding, with one to that of `apply(normalise(...), shield, entropy)`.
        """
        p, side = self.preprocessing, self.patch_size
        _require_pixels(pixels, p)
        shape = (len(pixels), p.height // side, p.width // side, len(self.offset))
        blocks = np.empty((shape[0], shape[1] * shape[2], shape[3]), dtype=np.float32)
        chunk = max(1, _CHUNK_NUMBERS // (p.height * p.width * p.channels))
        at_once = min(chunk, len(pixels))
        room = np.empty((at_once, blocks.shape[1], len(self.matrix)), np.float32)
        for start in range(0, len(pixels), chunk):
            here = blocks[start : start + chunk]
            cut = _cut(pixels[start : start + chunk], side)
            plain = room[: len(here)]
            np.copyto(plain, cut.reshape(plain.shape))
            # An image at a time: one tall product would wait for BLAS's other threads.
            np.matmul(plain, self.matrix, out=here)
            here += self.offset
            if self.drowning is not None:
                drawn = normals(len(plain), plain[0].size, entropy)
                here += drawn.reshape(plain.shape) @ self.drowning
            if self.turning is not None:
                np.matmul(np.abs(here), self.turning, out=here)
        return blocks.reshape(shape)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a PixelKey is neither pickled nor copied; fold it again")


def _whole(key: BlockKey, shield: Shield | None) -> np.ndarray:
    """What a normalised block is multiplied by first: `A`, `A P`, or `P` alone."""
    if shield is None:
        return key.matrix
    left = shield.projection()
    return left if shield.unsigned else np.matmul(key.matrix, left)


def _cut(pixels: Pixels, side: int) -> UInt8[np.ndarray, "..."]:
    """Cut into blocks as bytes: a block's row of pixels is moved as one item."""
    n, height, _, channels = pixels.shape
    row = np.dtype((np.void, side * channels))
    rows = np.ascontiguousarray(pixels).reshape(n, height, -1).view(row)
    # As einops would write it: n (rows p) columns -> n rows columns p. For one image
    # einops alone would take as long as all the rest.
    items = rows.reshape(n, height // side, side, -1).swapaxes(2, 3)
    return np.ascontiguousarray(items).view(np.uint8)


def _float32(numbers: np.ndarray) -> Float32[np.ndarray, "..."]:
    return np.ascontiguousarray(numbers, dtype=np.float32)


def _require_fit(key: BlockKey, p: Preprocessing, shield: Shield | None) -> None:
    side, channels = key.patch_size, key.channels
    if shield is not None:
        if (side, channels) != (1, shield.outputs):
            raise KeyMismatchError(
                f"a key for {channels} channels and patches of {side}, a shield that "
                f"leaves {shield.outputs} numbers of a block"
            )
        side, channels = shield.patch_size, shield.channels
    if p.channels != channels or p.height % side or p.width % side:
        raise KeyMismatchError(
            f"blocks of {channels} channels and {side} pixels, pictures of "
            f"{p.height}x{p.width}x{p.channels}"
        )


def _require_pixels(pixels: Pixels, p: Preprocessing) -> None:
    if pixels.dtype != np.uint8:
        raise DtypeError(f"expected uint8 pixels, got {pixels.dtype}")
    expected = (p.height, p.width, p.channels)
    if pixels.ndim != len("nhwc") or pixels.shape[1:] != expected:
        raise ShapeError(f"expected (n, {expected}) pixels, got {pixels.shape}")
