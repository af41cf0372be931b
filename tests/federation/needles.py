"""What to search for: a secret in every form in which it could travel."""

import base64
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

# Long enough never to match by chance in what a federation writes, short enough to
# survive a change of layout.
VALUES = 8
BYTES = 16


@dataclass(frozen=True)
class Needle:
    """Bytes that must not be somewhere, and what they are."""

    what: str
    form: str
    data: bytes


def of_bytes(what: str, secret: bytes) -> list[Needle]:
    """A secret of bytes: raw, in hex, in base64."""
    return [
        Needle(what, "raw", secret),
        Needle(what, "hex", secret.hex().encode()),
        Needle(what, "hex", secret.hex().upper().encode()),
        Needle(what, "base64", base64.b64encode(secret).rstrip(b"=")[:-1]),
    ]


def of_array(what: str, array: np.ndarray, *, rows: int = 16) -> Iterator[Needle]:
    """An array in float64, float32, float16 and uint8, from several places in it.

    Runs of `VALUES` numbers are taken along the last axis and along the first, so that
    a transposed copy is found as well.
    """
    matrix = array.reshape(-1, array.shape[-1])
    for name, laid in (("rows", matrix), ("columns", matrix.T)):
        for run in _runs(np.ascontiguousarray(laid), rows):
            for form, data in _forms(run, array):
                yield Needle(what, f"{form}, {name}", data)


def _runs(matrix: np.ndarray, rows: int) -> Iterator[np.ndarray]:
    for row in matrix[:: max(1, len(matrix) // rows)]:
        if len(row) >= VALUES:
            yield row[:VALUES]


def _forms(run: np.ndarray, whole: np.ndarray) -> Iterator[tuple[str, bytes]]:
    for dtype in ("<f8", "<f4", "<f2"):
        yield dtype, run.astype(dtype).tobytes()
    low, high = float(whole.min()), float(whole.max())
    scaled = np.round((run.astype(np.float64) - low) / (high - low) * 255)
    yield "uint8", scaled.astype(np.uint8).tobytes()


def of_images(what: str, pixels: np.ndarray, normalised: np.ndarray) -> list[Needle]:
    """Pictures (uint8 NHWC) and what the model reads (float NCHW), in every layout."""
    needles = [Needle(what, "pixels", _head(image)) for image in pixels]
    channels_first = pixels.transpose(0, 3, 1, 2)
    needles += [Needle(what, "pixels, CHW", _head(image)) for image in channels_first]
    unit = channels_first / 255.0
    for image_unit, image_normal in zip(unit, normalised, strict=True):
        for laid in (image_unit, image_normal):
            needles += of_array(what, laid, rows=2)
            needles += of_array(what, laid.transpose(1, 2, 0), rows=2)
    # A run of equal values (a black margin) says nothing about a picture.
    return [n for n in needles if len(set(n.data)) > 4]


def _head(image: np.ndarray) -> bytes:
    return np.ascontiguousarray(image).tobytes()[: 4 * BYTES]


@dataclass(frozen=True)
class Found:
    """A needle that lies where it must not."""

    needle: Needle
    file: Path


def search(files: Iterable[Path], needles: Iterable[Needle]) -> list[Found]:
    """Look for every needle in every file."""
    needles = list(needles)
    found = []
    for file in files:
        content = file.read_bytes()
        found += [Found(needle, file) for needle in needles if needle.data in content]
    return found
