"""Any picture a person has, as the pixels a model expects."""

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from core.errors import ConfigurationError, NotAnImageError
from core.preprocessing import Preprocessing

_MODES = {1: "L", 3: "RGB"}


def fit(image: Image.Image, p: Preprocessing) -> UInt8[np.ndarray, "h w c"]:
    """Turn upright, make grey or colour, scale (bicubic) and crop to the model's size.

    The centre is kept. A picture that has the size already keeps its pixels.
    """
    if p.channels not in _MODES:
        raise ConfigurationError(
            f"channels: pictures have 1 or 3, the model has {p.channels}"
        )
    try:
        upright = ImageOps.exif_transpose(image)
        converted = _to_8_bit(upright).convert(_MODES[p.channels])
    except (OSError, ValueError, SyntaxError) as error:
        raise NotAnImageError(
            "the picture cannot be decoded; it may be cut short"
        ) from error
    fitted = ImageOps.fit(converted, (p.width, p.height), Image.Resampling.BICUBIC)
    return np.asarray(fitted, dtype=np.uint8).reshape(p.height, p.width, p.channels)


def _to_8_bit(image: Image.Image) -> Image.Image:
    """Scale 16-bit grey, as scanners write it; Pillow itself would clip it to white."""
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in {"I", "F"}:
        raise NotAnImageError(f"pictures of mode {image.mode} have no known white")
    return image
