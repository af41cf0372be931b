"""Any picture a person has, as the pixels a model expects."""

from typing import Final

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from core.errors import ConfigurationError, NotAnImageError
from core.preprocessing import Preprocessing

# A camera makes 24 to 60 million; far more is a file made to exhaust memory.
MAX_PIXELS: Final = 80_000_000

_MODES: Final = {1: "L", 3: "RGB"}
_CUT_SHORT: Final = "the picture cannot be decoded; it may be cut short"


def fit(image: Image.Image, p: Preprocessing) -> UInt8[np.ndarray, "h w c"]:
    """Turn upright, make grey or colour, scale (bicubic) and crop to the model's size.

    The centre is kept. Without `resize` a picture that has the size already keeps its
    pixels; with it every picture is scaled first, as torchvision's `Resize` does, and
    then cut as its `CenterCrop` does.
    """
    if p.channels not in _MODES:
        raise ConfigurationError(
            f"channels: pictures have 1 or 3, the model has {p.channels}"
        )
    try:
        converted = _to_8_bit(upright(image)).convert(_MODES[p.channels])
    except (OSError, ValueError, SyntaxError) as error:
        raise NotAnImageError(_CUT_SHORT) from error
    fitted = _scaled(converted, p)
    return np.asarray(fitted, dtype=np.uint8).reshape(p.height, p.width, p.channels)


def upright(image: Image.Image) -> Image.Image:
    """Turn a picture as the camera was held that took it."""
    try:
        return ImageOps.exif_transpose(image)
    except (OSError, ValueError, SyntaxError) as error:
        raise NotAnImageError(_CUT_SHORT) from error


def _scaled(image: Image.Image, p: Preprocessing) -> Image.Image:
    if p.resize is None:
        return ImageOps.fit(image, (p.width, p.height), Image.Resampling.BICUBIC)
    width, height = _resized(image.width, image.height, p.resize)
    if width * height > MAX_PIXELS:
        raise NotAnImageError("too long for its width")
    left, top = round((width - p.width) / 2), round((height - p.height) / 2)
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    return resized.crop((left, top, left + p.width, top + p.height))


def _resized(width: int, height: int, shorter: int) -> tuple[int, int]:
    """The shorter side as asked for, the longer one in proportion, rounded down."""
    if width <= height:
        return shorter, shorter * height // width
    return shorter * width // height, shorter


def _to_8_bit(image: Image.Image) -> Image.Image:
    """Scale 16-bit grey, as scanners write it; Pillow itself would clip it to white."""
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in {"I", "F"}:
        raise NotAnImageError(f"pictures of mode {image.mode} have no known white")
    return image
