"""A person's image files, as the pixels a model expects."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from core.datasets.files import read_image
from core.errors import NotAnImageError
from core.preprocessing import Preprocessing


def read_images(
    paths: Sequence[Path], preprocessing: Preprocessing
) -> UInt8[np.ndarray, "n h w c"]:
    """Read PNG and JPEG files: turned upright, resized and cropped to the model's size.

    Raises:
        NotAnImageError: a file is missing, damaged, of another kind, or so large that
            it was made to exhaust memory.
    """
    if not paths:
        raise NotAnImageError("no image file was named")
    return np.stack([read_image(path, preprocessing) for path in paths])
