"""Read one image file without trusting it."""

import warnings
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from core.datasets.images import MAX_PIXELS, fit
from core.errors import NotAnImageError
from core.preprocessing import Preprocessing

SUFFIXES: Final = frozenset({".png", ".jpg", ".jpeg"})


def read_image(path: Path, p: Preprocessing) -> UInt8[np.ndarray, "h w c"]:
    """Read a PNG or JPEG file, upright, as the pixels a model expects.

    Raises `NotAnImageError` for a missing file, another format, a damaged file, and one
    that would unpack to more than `MAX_PIXELS`.
    """
    try:
        return fit(_opened(path), p)
    except NotAnImageError as error:
        raise NotAnImageError(f"{path}: {error}") from error


def open_image(path: Path) -> Image.Image:
    """Decode a PNG or JPEG file, in its own size; errors are those of `read_image`."""
    try:
        return _opened(path)
    except NotAnImageError as error:
        raise NotAnImageError(f"{path}: {error}") from error


def _opened(path: Path) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=("PNG", "JPEG")) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise NotAnImageError(f"more than {MAX_PIXELS} pixels")
                image.load()
                return image
    except FileNotFoundError as error:
        raise NotAnImageError("no such file") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise NotAnImageError(f"more than {MAX_PIXELS} pixels") from error
    except (OSError, SyntaxError, ValueError) as error:  # what Pillow's readers raise
        raise NotAnImageError("not a readable PNG or JPEG file") from error
