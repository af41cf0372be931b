"""Sample pictures as data URIs, so that the page needs no other file."""

import base64
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

ROWS = {
    "plain": "What the owner has",
    "encrypted": "What the server sees",
    "decrypted": "Decrypted with the right key",
    "wrong": "Decrypted with a wrong key",
}


@dataclass(frozen=True)
class PictureRow:
    """One row of pictures with its caption."""

    caption: str
    pictures: tuple[str, ...]


def picture_rows(samples: Path) -> list[PictureRow]:
    """Read an owner's samples: uint8 images, NHWC, under the names of `ROWS`."""
    with np.load(samples, allow_pickle=False) as file:
        return [
            PictureRow(caption, tuple(data_uri(image) for image in file[name]))
            for name, caption in ROWS.items()
        ]


def data_uri(image: np.ndarray) -> str:
    """One uint8 image, HWC with one or three channels, as a PNG data URI."""
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
