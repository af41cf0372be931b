"""Encrypted blocks as a picture that a person can look at."""

import io
from typing import Final

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image

from core.blocks import from_blocks

Picture = UInt8[np.ndarray, "height width channels"]

# Small images are enlarged to at least this many pixels a side.
_SIDE: Final = 256


def as_picture(
    blocks: Float32[np.ndarray, "rows columns d"], patch_size: int, channels: int
) -> Picture:
    """Lay encrypted blocks out as an image, and stretch its contrast to 0..255.

    What the server holds has no pixel range: each image is scaled by its own least and
    greatest number. So this is a view, and nothing can be decrypted from it. Where a
    shield left fewer numbers of a block than it has pixels, the last pixels are grey.
    """
    missing = max(0, channels * patch_size**2 - blocks.shape[-1])
    whole = np.pad(blocks, [(0, 0), (0, 0), (0, missing)])
    image = from_blocks(whole[np.newaxis], patch_size, channels)[0]
    low, high = float(image.min()), float(image.max())
    scaled = (image - low) * (255 / (high - low) if high > low else 0.0)
    picture: Picture = np.rint(scaled).astype(np.uint8).transpose(1, 2, 0)
    return picture


def png(picture: Picture) -> bytes:
    """Write a picture as PNG, every pixel enlarged by the same whole number."""
    factor = max(1, -(-_SIDE // min(picture.shape[:2])))
    large = picture.repeat(factor, axis=0).repeat(factor, axis=1)
    grey = large.shape[2] == 1
    file = io.BytesIO()
    Image.fromarray(large[..., 0] if grey else large).save(file, "PNG")
    return file.getvalue()
